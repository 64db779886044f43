"""``cherimoya cache``: what the cache of windows holds, and clearing it."""

import json
import os
import time

import numpy as np
import pytest

from cherimoya.io import cache, extract_windows
from cherimoya_cli.__main__ import main


@pytest.fixture
def filled(tiny_genome, tmp_path):
	"""A cache of two entries, the second one last used ten days ago, that no process has open; their keys."""
	folder = tmp_path / "cache"
	for in_window in (300, 200):
		extract_windows(
			tiny_genome.peaks,
			tiny_genome.fasta,
			[str(tiny_genome.signal)],
			in_window=in_window,
			out_window=100,
			cache=folder,
		)
	for lock, _ in cache._HELD.values():
		os.close(lock)
	cache._HELD.clear()
	found = {entry.about["in_window"]: entry for entry in cache.entries(folder)}
	long_ago = time.time() - 10 * 86_400
	for name in ("used", "manifest.json"):
		os.utime(found[200].path / name, (long_ago, long_ago))
	return folder, found[300].key, found[200].key


def test_list(filled, capsys):
	folder, new, old = filled
	assert main(["cache", "list", "--cache", str(folder)]) == 0
	head, first, second, total = capsys.readouterr().out.splitlines()
	assert head.split() == ["key", "size", "age", "last", "used", "loci", "of", "what"]
	assert first.startswith(new[:12]) and second.startswith(old[:12]) and "10 d ago" in second
	assert "tiny.fa, signal.bw; 300 and 100 bp, jitter 0" in first and " 83 " in first
	assert total.startswith(f"2 in {folder}, ")


@pytest.mark.parametrize(
	"flags, left",
	[
		(["--yes"], []),
		(["--older-than", "9", "-y"], ["new"]),
		(["--older-than", "11", "-y"], ["new", "old"]),
		(["NEW", "--yes"], ["old"]),
		(["NEW", "OLD", "--older-than", "1", "-y"], ["new"]),
	],
	ids=" ".join,
)
def test_clear(filled, capsys, flags, left):
	folder, *keys = filled
	names = dict(zip(("new", "old"), keys, strict=True))
	flags = [names[flag.lower()][:8] if flag.lower() in names else flag for flag in flags]
	assert main(["cache", "clear", *flags, "--cache", str(folder)]) == 0
	out = capsys.readouterr().out
	assert f"Removed {2 - len(left)}, " in out if len(left) < 2 else "nothing to clear" in out
	assert {path.name for path in folder.iterdir()} == {names[name] for name in left}


def test_clear_keeps_what_is_in_use(filled, capsys):
	folder, new, _ = filled
	arrays = cache.open_entries(folder, [new], pytest.fail)[new]
	assert main(["cache", "clear", "--yes", "--cache", str(folder)]) == 0
	assert f"Kept 1 that a process is using: {new[:12]}" in capsys.readouterr().out
	assert main(["cache", "list", "--cache", str(folder)]) == 0
	assert " now " in capsys.readouterr().out
	assert np.asarray(arrays["codes"]).max() <= 4


@pytest.mark.parametrize(
	"argv, code, words",
	[
		(["clear"], 2, "add --yes"),
		(["clear", "--older-than", "-1", "-y"], 2, "--older-than must be a number of days"),
		(["clear", "0123456789", "-y"], 3, "has no entry 0123456789; 'cherimoya cache list'"),
		([], 2, "ACTION"),
		(["shrink"], 2, "shrink"),
	],
	ids=lambda v: " ".join(v) if isinstance(v, list) else None,
)
def test_bad_calls(filled, capsys, argv, code, words):
	folder, *_ = filled
	flags = ["--cache", str(folder)] if argv[:1] == ["clear"] else []
	assert main(["cache", *argv, *flags]) == code
	assert words in capsys.readouterr().err
	assert len(cache.entries(folder)) == 2


def test_the_default_folder_and_an_empty_one(tmp_path, monkeypatch, capsys):
	monkeypatch.setenv("CHERIMOYA_CACHE", str(tmp_path / "here"))
	assert main(["cache", "list"]) == 0 and main(["cache", "clear"]) == 0
	windows = tmp_path / "here" / "windows"
	assert capsys.readouterr().out == f"{windows}: the cache is empty\n{windows}: there is nothing to clear\n"


def test_every_command_makes_the_same_of_cached_windows(tiny_genome, tmp_path, capsys):
	shared = {
		"sequences": str(tiny_genome.fasta),
		"loci": str(tiny_genome.peaks),
		"signals": [str(tiny_genome.signal), [str(tiny_genome.plus), str(tiny_genome.minus)]],
		"controls": [str(tiny_genome.control)],
		"in_window": 300,
		"out_window": 100,
		"device": "cpu",
	}
	splits = {"training_chroms": ["chr1"], "validation_chroms": ["chr2"], "test_chroms": ["chr3"]}
	observed = {**splits, "negatives": str(tiny_genome.negatives), "batch_size": 16}
	fit = {"n_filters": 4, "n_layers": 2, "max_epochs": 1, "num_workers": 0, "max_jitter": 10, "negative_ratio": 0.5}
	steps = {
		"fit": {**observed, **fit},
		"evaluate": observed,
		"predict": {"chroms": ["chr3"]},
		"attribute": {"chroms": ["chr3"], "attr_window": 20, "max_loci": 2},
	}
	for run, where in (("plain", None), ("made", str(tmp_path / "cache")), ("found", str(tmp_path / "cache"))):
		(tmp_path / run).mkdir()
		for command, settings in steps.items():
			path = tmp_path / run / f"{command}.json"
			path.write_text(json.dumps({"name": str(tmp_path / run / "x"), "cache": where, **shared, **settings}))
			assert main([command, "-p", str(path)]) == 0, capsys.readouterr().err
		assert ("of disk in" in capsys.readouterr().out) == (run == "made")
	assert len(cache.entries(tmp_path / "cache")) >= 5
	names = sorted(path.name for path in (tmp_path / "plain").iterdir())
	compared = 0
	for name in names:
		plain, *others = ((tmp_path / run / name) for run in ("plain", "made", "found"))
		for other in others:
			if name.endswith((".torch", ".npy", ".bw", ".bed", "accounting.tsv", "performance.tsv")):
				assert plain.read_bytes() == other.read_bytes(), name
				compared += 1
			elif name.endswith(".npz"):
				a, b = np.load(plain), np.load(other)
				assert all(np.array_equal(a[key], b[key]) for key in a.files), name
				compared += 1
	assert compared > 20
