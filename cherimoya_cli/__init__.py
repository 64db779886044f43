"""The command line of Cherimoya: settings, commands, the plan of a pipeline, and its report."""
