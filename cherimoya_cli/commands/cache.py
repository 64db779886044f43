"""``cherimoya cache``: list and clear the windows that earlier runs have extracted."""

import argparse
import sys
import time
from typing import TYPE_CHECKING

from cherimoya.errors import SettingsError
from cherimoya_cli.utils import say

if TYPE_CHECKING:
	from cherimoya.io.cache import Entry

READS_SETTINGS = False

_DAY = 86_400
_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_AGES = ((_DAY, "d"), (3600, "h"), (60, "min"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
	"""The actions ``list`` and ``clear``, and their flags."""
	folder = argparse.ArgumentParser(add_help=False)
	folder.add_argument(
		"--cache", metavar="FOLDER", help="the folder of the key cache; default: windows in the user's cache folder"
	)
	actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
	actions.add_parser("list", parents=[folder], help="show what the cache holds, the last used first")
	clear = actions.add_parser("clear", parents=[folder], help="remove entries that no process uses")
	clear.add_argument("keys", nargs="*", metavar="KEY", help="keys, or how they begin; default: all entries")
	clear.add_argument("--older-than", type=float, metavar="DAYS", help="only entries not used for so many days")
	clear.add_argument("-y", "--yes", action="store_true", help="do not ask")


def run(args: argparse.Namespace) -> int:
	"""List or clear; returns the exit code."""
	from cherimoya.io.cache import entries, windows_folder

	folder = args.cache or windows_folder()
	if args.action == "list":
		say(table(entries(folder), str(folder)))
	else:
		clear(args, str(folder))
	return 0


def clear(args: argparse.Namespace, folder: str) -> None:
	"""Remove the entries chosen, once the user has agreed, and say what became of them."""
	from cherimoya.io import cache

	if args.older_than is not None and not args.older_than >= 0:
		raise SettingsError(f"--older-than must be a number of days of at least 0, got {args.older_than:g}")
	unused_for = _DAY * (args.older_than or 0)
	chosen = cache.select(folder, args.keys or None, unused_for=unused_for)
	if not chosen:
		say(f"{folder}: there is nothing to clear")
		return
	if not args.yes and not _agreed(f"Remove {len(chosen)} of {folder}, {_size(sum(e.size for e in chosen))}? [y/N] "):
		say("Nothing was removed")
		return
	removed, kept = cache.clear(folder, args.keys or None, unused_for=unused_for)
	say(f"Removed {len(removed)}, {_size(sum(entry.size for entry in removed))}, from {folder}")
	if kept:
		say(f"Kept {len(kept)} that a process is using: {', '.join(entry.key[:12] for entry in kept)}")


def table(found: "list[Entry]", folder: str) -> str:
	"""The entries as aligned text."""
	if not found:
		return f"{folder}: the cache is empty"
	rows = [("key", "size", "age", "last used", "loci", "of what")]
	now = time.time()
	for entry in found:
		used = "now" if entry.in_use else f"{_age(now - entry.used)} ago"
		loci = f"{entry.about['n_loci']:,}" if "n_loci" in entry.about else "?"
		rows.append((entry.key[:12], _size(entry.size), _age(now - entry.created), used, loci, _what(entry)))
	widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
	aligned = "  ".join(f"{{:{side}{width}}}" for side, width in zip("<>>>><", widths, strict=True))
	lines = [aligned.format(*row) for row in rows]
	total = f"{len(found)} in {folder}, {_size(sum(entry.size for entry in found))}"
	return "\n".join([*(line.rstrip() for line in lines), total])


def _what(entry: "Entry") -> str:
	"""The inputs of an entry, by the names of their files."""
	about = entry.about
	if not about:
		return "broken; it will be made again"
	files = [about["sequences"], *(about["signals"] or ()), *(about["controls"] or ())]
	names = [str(path).replace("\\", "/").rsplit("/", 1)[-1] for path in files]
	shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
	return f"{shown}; {about['in_window']} and {about['out_window']} bp, jitter {about['max_jitter']}"


def _agreed(question: str) -> bool:
	"""Whether the user says yes; SettingsError where there is nobody to ask."""
	if not sys.stdin.isatty():
		raise SettingsError("cache clear asks before it removes anything, and there is no terminal; add --yes")
	return input(question).strip().lower() in ("y", "yes")


def _size(n_bytes: int) -> str:
	"""Bytes in words."""
	return next((f"{n_bytes / unit:.1f} {name}" for unit, name in _UNITS if n_bytes >= unit), f"{n_bytes} B")


def _age(seconds: float) -> str:
	"""A time in words."""
	return next((f"{seconds / unit:.0f} {name}" for unit, name in _AGES if seconds >= unit), f"{seconds:.0f} s")
