"""How much memory is free."""

from pathlib import Path

_CGROUPS = (
	("memory.max", "memory.current", "memory.stat"),
	("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)


def available_memory(*, proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int | None:
	"""Bytes of memory that are free: the machine's, or its container's if that is less; None if unknown.

	Parameters
	----------
	proc, cgroup: Path
		Where the kernel tells.

	Returns
	-------
	int or None
		Never negative. Files that the kernel keeps in memory count as free, since it gives that memory back.
	"""
	found = []
	try:
		lines = (proc / "meminfo").read_text().splitlines()
		found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
	except (OSError, ValueError, IndexError):
		pass
	for limit, used, statistics in _CGROUPS:
		try:
			free = int((cgroup / limit).read_text()) - int((cgroup / used).read_text())
		except (OSError, ValueError):  # not a container, or one without a limit ("max")
			continue
		found.append(free + _cached_files(cgroup / statistics))
	return max(min(found), 0) if found else None


def _cached_files(path: Path) -> int:
	"""Bytes of a container's memory that hold files, by its memory.stat; 0 if it does not tell."""
	try:
		fields = dict(line.split() for line in path.read_text().splitlines())
		return sum(int(fields.get(name, 0)) for name in ("active_file", "inactive_file"))
	except (OSError, ValueError):
		return 0
