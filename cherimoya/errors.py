"""The errors that users meet, each with the exit code that the command line gives for it.

A message says where, what was found and what to do:
``peaks.bed: 3 intervals have start >= end (first: line 17, chr1:900-900); fix or remove them``.
"""

from collections.abc import Iterable


class CherimoyaError(Exception):
	"""Base of every error that is the user's to mend; shown without a traceback."""

	exit_code = 1


class SettingsError(CherimoyaError, ValueError):
	"""A setting is unknown, of the wrong type, out of range, or contradicts another (exit code 2)."""

	exit_code = 2


class InputError(CherimoyaError, ValueError):
	"""An input file or array cannot be used as it is (exit code 3)."""

	exit_code = 3


class MissingFileError(InputError, FileNotFoundError):
	"""A file that was named does not exist (exit code 3)."""

	def __str__(self) -> str:
		return str(self.args[0]) if self.args else ""


class MissingExtraError(CherimoyaError, ImportError):
	"""An optional package that a step needs is not installed (exit code 3)."""

	exit_code = 3


class ToolError(CherimoyaError, RuntimeError):
	"""An external tool, or a step of a pipeline, failed (exit code 4)."""

	exit_code = 4


class LostRanksError(ToolError):
	"""Another process of a run on several devices ended, or does not answer (exit code 4)."""


class Interrupted(CherimoyaError, RuntimeError):
	"""Work was asked to stop, and did so in a way that it can be gone on with (exit code 130 or 143)."""

	exit_code = 130


def join_problems(problems: Iterable[str]) -> str:
	"""One message out of several: a single problem as it is, more of them as a numbered list."""
	problems = list(problems)
	if len(problems) == 1:
		return problems[0]
	lines = [f"{len(problems)} problems:"]
	lines += [f"  {i}. {problem}" for i, problem in enumerate(problems, start=1)]
	return "\n".join(lines)


def split_problems(message: str) -> list[str]:
	"""The problems of a message that `join_problems` made; a message of another kind is one problem."""
	head, *lines = message.split("\n")
	if head.endswith(" problems:") and all(line.startswith("  ") for line in lines):
		return [line.strip().split(". ", 1)[-1] for line in lines]
	return [message]


def missing_extra(package: str, *, extra: str, needed_for: str) -> MissingExtraError:
	"""The error for an optional package that is not installed, with the command that adds it.

	Parameters
	----------
	package: str
		The package that could not be imported, such as ``"matplotlib"``.
	extra: str
		The optional extra of this project that brings it, such as ``"report"``.
	needed_for: str
		The step that needs it, such as ``"the HTML report"``.
	"""
	return MissingExtraError(
		f"{needed_for} needs the package '{package}', which is not installed; "
		f"add it with: pip install 'cherimoya[{extra}]'"
	)
