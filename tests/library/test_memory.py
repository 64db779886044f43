"""Free memory is the machine's or the container's, whichever is less, and None where nobody tells."""

import sys
from pathlib import Path

import pytest

from cherimoya.memory import available_memory

GB = 10**9
MEMINFO = "MemTotal:       24000000 kB\nMemFree:         1000000 kB\nMemAvailable:    8000000 kB\n"
STATISTICS = f"anon 5\nactive_file {GB}\ninactive_file {2 * GB}\nshmem 0\n"

CASES = {
	"a machine": ({"meminfo": MEMINFO}, 8_000_000 * 1024),
	"a container with less": ({"meminfo": MEMINFO, "memory.max": "6000000000", "memory.current": "4000000000"}, 2 * GB),
	"a container whose files are in memory": (
		{"meminfo": MEMINFO, "memory.max": "6000000000", "memory.current": "5000000000", "memory.stat": STATISTICS},
		4 * GB,
	),
	"a container with more": (
		{"meminfo": MEMINFO, "memory.max": "96000000000", "memory.current": "4000000000"},
		8_000_000 * 1024,
	),
	"a container without a limit": (
		{"meminfo": MEMINFO, "memory.max": "max\n", "memory.current": "4000000000"},
		8_000_000 * 1024,
	),
	"an older container": (
		{"memory/memory.limit_in_bytes": "6000000000", "memory/memory.usage_in_bytes": "1000000000"},
		5 * GB,
	),
	"a container over its limit": ({"memory.max": "6000000000", "memory.current": "7000000000"}, 0),
	"neither": ({}, None),
	"another format": ({"meminfo": "MemAvailable: much"}, None),
}


@pytest.mark.parametrize("case", CASES)
def test_free_memory(case: str, tmp_path: Path) -> None:
	files, expected = CASES[case]
	for name, text in files.items():
		(tmp_path / name).parent.mkdir(exist_ok=True)
		(tmp_path / name).write_text(text)
	assert available_memory(proc=tmp_path, cgroup=tmp_path) == expected


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_this_machine_has_some() -> None:
	assert available_memory() > 2**20
