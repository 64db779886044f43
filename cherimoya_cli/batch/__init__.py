"""Many pipelines: a sheet of samples, jobs with records on disk, executors that run them, and what came out of all."""
