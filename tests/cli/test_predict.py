"""``predict``: regions in tiles, what was observed beside what is predicted, the files, and what bigWigs hold."""

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cherimoya import Cherimoya
from cherimoya.interpret.predict import expected_counts, predict_regions
from cherimoya.io import extract_windows, tile_windows
from cherimoya.io.tiling import tile_weights
from cherimoya_cli import chunks
from cherimoya_cli.__main__ import main
from cherimoya_cli.commands.predict import outputs, prediction_paths

pyBigWig = pytest.importorskip("pyBigWig")

IN, OUT = 160, 100
GROUPS = (2, 1)


@pytest.fixture(autouse=True)
def one_thread():
	before = torch.get_num_threads()
	torch.set_num_threads(1)
	yield
	torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
	path = tmp_path_factory.mktemp("model") / "model.torch"
	model = Cherimoya(n_filters=8, n_layers=3, trimming=30, signal_groups=GROUPS, n_control_tracks=1, random_state=0)
	with torch.no_grad():  # predictions that differ from place to place
		model.linear.weight.normal_(generator=torch.Generator().manual_seed(0))
		model.fconv.weight.normal_(generator=torch.Generator().manual_seed(1))
	model.save(path)
	return path


@pytest.fixture
def run(tmp_path: Path, tiny_genome: Any, model_path: Path) -> Callable[..., int]:
	"""`run(*flags, **settings)` runs the command in the test's folder, as the name "run"; the exit code."""

	def call(*flags: str, **changes: Any) -> int:
		settings = {
			"name": str(tmp_path / "run"),
			"sequences": str(tiny_genome.fasta),
			"controls": [str(tiny_genome.control)],
			"model": str(model_path),
			"in_window": IN,
			"out_window": OUT,
			"batch_size": 8,
			"device": "cpu",
			"verbose": False,
			**changes,
		}
		(tmp_path / "predict.json").write_text(json.dumps(settings))
		return main(["predict", "-p", str(tmp_path / "predict.json"), *flags])

	return call


@pytest.fixture
def signals(tiny_genome: Any) -> list:
	return [[str(tiny_genome.plus), str(tiny_genome.minus)], str(tiny_genome.signal)]


def read_bigwigs(folder: Path, groups: tuple[int, ...] = GROUPS) -> dict[str, np.ndarray]:
	"""The values of each chromosome, shape (T, size), NaN where there are none."""
	found: dict[str, list] = {}
	for path in prediction_paths(str(folder / "run"), groups):
		with pyBigWig.open(path) as file:
			for chrom, size in file.chroms().items():
				values = file.values(chrom, 0, size, numpy=True)
				found.setdefault(chrom, []).append(values if len(values) else np.full(size, np.nan))
	return {chrom: np.stack(values) for chrom, values in found.items()}


def table(folder: Path) -> list[dict[str, str]]:
	names, *rows = (folder / "run.predictions.tsv").read_text().splitlines()
	return [dict(zip(names.split("\t"), row.split("\t"), strict=True)) for row in rows]


def files(folder: Path) -> set[str]:
	return {path.name.removeprefix("run.") for path in folder.iterdir() if path.name.startswith("run.")}


# Regions.


@pytest.mark.parametrize("overlap", [None, 0, 30, 80])
def test_regions_are_what_the_library_predicts(
	run: Callable, tmp_path: Path, tiny_genome: Any, model_path: Path, overlap: int | None
) -> None:
	regions = ["chr3:9,000-", "chr1:1,000-2,000", "chr1:1,500-2,531", "chr2:50-60"]
	assert run(regions=regions, overlap=overlap) == 0
	track = read_bigwigs(tmp_path)
	assert {chrom: values.shape[1] for chrom, values in track.items()} == tiny_genome.sizes
	expected = {chrom: np.full((3, size), np.nan, dtype=np.float32) for chrom, size in tiny_genome.sizes.items()}
	model = Cherimoya.load(model_path)
	options = {"in_window": IN, "overlap": overlap, "controls": [str(tiny_genome.control)], "batch_size": 8}
	for chrom, start, values in predict_regions(model, tiny_genome.fasta, regions, **options):
		expected[chrom][:, start : start + values.shape[1]] = values
	for chrom, values in expected.items():
		np.testing.assert_array_equal(track[chrom], values)
	covered = {chrom: np.flatnonzero(~np.isnan(values[0])) for chrom, values in track.items()}
	assert covered["chr1"].tolist() == list(range(1_000, 2_531))
	assert covered["chr2"].tolist() == list(range(30, 130))  # widened to a window, and off the edge
	assert covered["chr3"].tolist() == list(range(9_000, tiny_genome.sizes["chr3"] - 30))
	assert files(tmp_path) == {
		*("predictions.0.+.bw", "predictions.0.-.bw", "predictions.1.bw"),
		*("predictions.tsv", "predict.accounting.tsv"),
	}


def test_what_a_count_means_in_tiles(run: Callable, tmp_path: Path) -> None:
	"""A tile's bases sum to its counts without overlap; with it, they are weighted means of what the tiles expect."""
	assert run(regions=["chr2"], overlap=0, output_format="npz") == 0
	track, rows = read_bigwigs(tmp_path)["chr2"].astype(float), table(tmp_path)
	log_counts = np.load(tmp_path / "run.predictions.npz")["log_counts"]
	for row, values in list(zip(rows, np.expm1(log_counts), strict=True))[
		:-2
	]:  # the last is moved inside, over another
		bases = track[:, int(row["start"]) : int(row["end"])].sum(axis=1)
		np.testing.assert_allclose([bases[0] + bases[1], bases[2]], values, rtol=1e-4)
		np.testing.assert_allclose(
			[float(row["predicted_counts.0"]), float(row["predicted_counts.1"])], values, rtol=1e-5
		)
	assert run(regions=["chr2"], overlap=40, output_format="npz") == 0
	track, arrays = read_bigwigs(tmp_path)["chr2"], np.load(tmp_path / "run.predictions.npz")
	found = torch.from_numpy(arrays["logits"]), torch.from_numpy(arrays["log_counts"])
	tiles, weights = expected_counts(*found, GROUPS).numpy().astype(float), tile_weights(OUT, 40)
	assert (np.diff(arrays["start"])[:-1] == OUT - 40).all()
	base = int(arrays["start"][1]) + 10  # within two tiles
	places = [base - int(arrays["start"][i]) for i in range(2)]
	mean = sum(weights[p] * tiles[i, :, p] for i, p in enumerate(places)) / sum(weights[p] for p in places)
	np.testing.assert_allclose(track[:, base], mean, rtol=1e-5)
	np.testing.assert_allclose(weights[places].sum(), 1)


def bits(folder: Path) -> dict[str, bytes]:
	"""The bytes of the results."""
	return {path.name: path.read_bytes() for path in folder.glob("run.*") if path.is_file()}


def test_tiles_do_not_depend_on_chunks_or_shards(
	run: Callable, tmp_path: Path, signals: list, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
	options = {"regions": ["chr3:0-3,000", "chr2:0-3,000"], "signals": signals}
	assert run(**options) == 0
	expected = bits(tmp_path)
	assert run(chunk_size=8, **options) == 0
	assert bits(tmp_path) == expected
	for name in expected:
		(tmp_path / name).unlink()
	for shard in ("2/3", "1/3"):
		assert run("--shard", shard, chunk_size=16, **options) == 0
	assert run("--merge", **options) == 3
	err = capsys.readouterr().err
	assert "3/3 (0 of " in err and "tiles are done" in err
	assert run("--shard", "3/3", **options) == 0
	assert "tiles are predicted; once all are, run with --merge" in capsys.readouterr().out
	assert run("--merge", **options) == 0
	assert bits(tmp_path) == expected

	real, calls = chunks.Parts.save, []

	def save(parts: Any, rows: range, arrays: Any) -> None:
		calls.append(rows)
		if len(calls) == 3:
			raise KeyboardInterrupt
		real(parts, rows, arrays)

	for name in expected:
		(tmp_path / name).unlink()
	with monkeypatch.context() as patch:
		patch.setattr(chunks.Parts, "save", save)
		assert run(chunk_size=16, **options) == 130
	assert files(tmp_path) == {"predictions.parts"}
	assert run(chunk_size=16, **options) == 0
	assert "2 of " in capsys.readouterr().out
	assert bits(tmp_path) == expected


def test_another_overlap_is_another_run(run: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
	assert run("--shard", "1/2", regions=["chr1"], chunk_size=8) == 0
	capsys.readouterr()
	assert run(regions=["chr1"], overlap=10) == 0
	assert "of another run: overlap was null, is 10" in capsys.readouterr().out


def test_tiles_that_are_left_out_are_counted(
	run: Callable, tmp_path: Path, make_fasta: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
	sequence = np.array(list("ACGT" * 500))
	sequence[900:1100] = "N"
	fasta = make_fasta(tmp_path / "genome.fa", {"chrA": "".join(sequence), "scaffold": "ACGT" * 10})
	exclusion = tmp_path / "exclusion.bed"
	exclusion.write_text("chrA\t1990\t2000\n")
	options = {"sequences": str(fasta), "controls": None, "regions": ["*"], "exclusion_lists": [str(exclusion)]}
	assert run(**options) == 0
	out = capsys.readouterr().out
	account = dict(line.split("\t")[2:] for line in (tmp_path / "run.predict.accounting.tsv").read_text().splitlines())
	assert account["off the edge"] == "1" and account["excluded"] == "1"
	starts = [*range(30, 2000 - 130, 50), 2000 - 130]
	unknown = [s for s in starts if (sequence[s - 30 : s + 130] == "N").mean() > 0.1]
	assert int(account["unknown bases"]) == len(unknown) > 0
	assert int(account["given"]) == len(starts) + 1 and int(account["kept"]) == len(starts) - len(unknown) - 1
	assert "Tiles to predict" in out and "dropped: unknown bases" in out
	covered = ~np.isnan(read_bigwigs(tmp_path)["chrA"][0])
	expected = np.zeros(2000, dtype=bool)
	for start in sorted(set(starts) - set(unknown))[:-1]:
		expected[start : start + OUT] = True
	assert np.array_equal(covered, expected)
	assert f"{expected.sum():,} bases have a prediction" in out


@pytest.mark.parametrize(
	("settings", "code", "words"),
	[
		pytest.param({"regions": ["chr9"]}, 3, ["no chromosome chr9", "chr1, chr2, chr3"], id="unknown chromosome"),
		pytest.param({"regions": ["chr1:5-3"]}, 2, ["'chr1:5-3' is an empty region"], id="empty region"),
		pytest.param({"regions": ["chr1:0-9,999,999"]}, 3, ["chr1:0-9,999,999 leaves the chromosome"], id="too long"),
		pytest.param({"regions": []}, 2, ["regions must be"], id="none"),
		pytest.param({"regions": ["chr1"], "chroms": ["chr1"]}, 2, ["regions and chroms both say where"], id="chroms"),
		pytest.param(
			{"regions": ["chr1"], "overlap": 100}, 2, ["overlap (100 bp) must be below out_window"], id="overlap"
		),
		pytest.param({"regions": ["chr1"], "overlap": -1}, 2, ["overlap must be"], id="negative overlap"),
		pytest.param({"regions": ["chr1"], "output_format": "csv"}, 2, ["output_format", "csv", "hdf5"], id="format"),
		pytest.param({}, 2, ["loci is not given"], id="neither loci nor regions"),
	],
)
def test_bad_settings(
	run: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: dict, code: int, words: list[str]
) -> None:
	assert run(**settings) == code
	err = capsys.readouterr().err
	for word in words:
		assert word in err
	assert "Traceback" not in err and not files(tmp_path)


def test_a_disk_without_room_is_told_before_any_work(
	run: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
	monkeypatch.setattr(chunks.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10_000}))
	assert run(regions=["chr1"]) == 3
	err = capsys.readouterr().err
	for words in ("run.predictions.parts", "tiles take about", "0.00 GB are free", "make room"):
		assert words in err
	assert not files(tmp_path)


def test_h5py_missing_is_told_before_any_work(
	run: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
	from cherimoya_cli.commands import predict

	monkeypatch.setattr(predict, "find_spec", lambda name: None)
	monkeypatch.setattr(predict, "load", lambda *_: pytest.fail("work was begun"))
	assert run(regions=["chr1"], output_format="hdf5") == 3
	assert "pip install 'cherimoya[hdf5]'" in capsys.readouterr().err


# Files.


@pytest.mark.parametrize("where", ["loci", "regions"])
def test_arrays_in_both_formats(run: Callable, tmp_path: Path, tiny_genome: Any, signals: list, where: str) -> None:
	h5py = pytest.importorskip("h5py")
	place = {"loci": [str(tiny_genome.peaks)]} if where == "loci" else {"regions": ["chr1:0-4,000", "chr3:0-3,000"]}
	for output_format in ("npz", "hdf5"):
		assert run(**place, signals=signals, output_format=output_format, chunk_size=16) == 0
	arrays = np.load(tmp_path / "run.predictions.npz")
	with h5py.File(tmp_path / "run.predictions.h5") as file:
		assert set(file) == set(arrays.files) == {"logits", "log_counts", "observed", "chrom", "start", "end"}
		for name in ("logits", "log_counts", "observed", "start", "end"):
			assert file[name].dtype == arrays[name].dtype
			np.testing.assert_array_equal(file[name][:], arrays[name])
		assert file["chrom"].asstr()[:].tolist() == arrays["chrom"].tolist()
		assert file["logits"].chunks[1:] == arrays["logits"].shape[1:]
		assert (file.attrs["in_window"], file.attrs["out_window"]) == (IN, OUT)
		assert file.attrs["signal_groups"].tolist() == list(GROUPS)
	windows = (
		extract_windows(place["loci"], tiny_genome.fasta, signals, in_window=IN, out_window=OUT)
		if where == "loci"
		else tile_windows(place["regions"], tiny_genome.fasta, signals, in_window=IN, out_window=OUT)
	)
	np.testing.assert_array_equal(arrays["observed"], windows.signals[:])
	assert arrays["start"].tolist() == (windows.midpoints - OUT // 2).tolist()


@pytest.mark.parametrize(
	("settings", "arrays"),
	[
		({"regions": None, "output_format": "auto"}, ".npz"),
		({"regions": ["chr1"], "output_format": "auto"}, None),
		({"regions": ["chr1"], "output_format": "npz"}, ".npz"),
		({"regions": None, "output_format": "hdf5"}, ".h5"),
		({"regions": None, "output_format": None}, None),
	],
	ids=str,
)
def test_the_files_that_are_left(run: Callable, tmp_path: Path, tiny_genome: Any, settings: dict, arrays: str) -> None:
	loci = {"loci": [str(tiny_genome.peaks)]} if settings["regions"] is None else {}
	assert run(**settings, **loci) == 0
	values = {"name": str(tmp_path / "run"), "signals": [["a", "b"], "c"], **settings}
	assert {Path(path).name.removeprefix("run.") for path in outputs(values)} == files(tmp_path)
	assert {name for name in files(tmp_path) if name.endswith((".npz", ".h5"))} == (
		{f"predictions{arrays}"} if arrays else set()
	)


def test_what_was_observed_beside_what_is_predicted(
	run: Callable, tmp_path: Path, tiny_genome: Any, signals: list
) -> None:
	assert run(loci=[str(tiny_genome.peaks)]) == 0
	plain = table(tmp_path)
	assert list(plain[0]) == ["chrom", "start", "end", "predicted_counts.0", "predicted_counts.1"]
	assert "observed" not in np.load(tmp_path / "run.predictions.npz").files
	assert run(loci=[str(tiny_genome.peaks)], signals=signals) == 0
	rows, arrays = table(tmp_path), np.load(tmp_path / "run.predictions.npz")
	assert [{key: row[key] for key in plain[0]} for row in rows] == plain
	measures = ("predicted_counts", "observed_counts", "profile_pearson", "profile_jsd")
	assert list(rows[0])[3:] == [f"{name}.{group}" for group in range(2) for name in measures]
	shares = torch.from_numpy(arrays["logits"]).double().softmax(dim=-1).numpy()
	for i, row in enumerate(rows):
		observed = arrays["observed"][i].astype(float)
		window = slice(int(row["start"]), int(row["end"]))
		assert observed[2].tolist() == tiny_genome.tracks["signal"][row["chrom"]][window].tolist()
		for group, channels in enumerate((slice(0, 2), slice(2, 3))):
			assert float(row[f"observed_counts.{group}"]) == pytest.approx(observed[channels].sum(), rel=1e-5)
			counts = np.expm1(arrays["log_counts"][i, group].astype(float))
			assert float(row[f"predicted_counts.{group}"]) == pytest.approx(counts, rel=1e-5)
			known = [c for c in range(channels.start, channels.stop) if observed[c].any()]
			if not known:
				assert row[f"profile_pearson.{group}"] == row[f"profile_jsd.{group}"] == ""
				continue
			pearson = np.mean([np.corrcoef(shares[i, c], observed[c])[0, 1] for c in known])
			assert float(row[f"profile_pearson.{group}"]) == pytest.approx(pearson, abs=1e-4)
			jsd = np.mean([by_formula(shares[i, c], observed[c] / observed[c].sum()) for c in known])
			assert float(row[f"profile_jsd.{group}"]) == pytest.approx(jsd, abs=1e-4)


def by_formula(p: np.ndarray, q: np.ndarray) -> float:
	"""The Jensen-Shannon divergence in nats."""
	m = (p + q) / 2
	return 0.5 * sum(float((a[a > 0] * np.log(a[a > 0] / m[a > 0])).sum()) for a in (p, q))


def test_reads_are_not_observed_values(
	run: Callable, tmp_path: Path, tiny_genome: Any, capsys: pytest.CaptureFixture[str]
) -> None:
	reads = tmp_path / "reads.bam"
	reads.write_bytes(b"reads")
	assert run(loci=[str(tiny_genome.peaks)], signals=[str(reads)]) == 0
	assert "reads.bam: not bigWig files, so nothing observed" in capsys.readouterr().out
	assert "observed" not in np.load(tmp_path / "run.predictions.npz").files


# What bigWigs hold.


def apart(path: Path, folder: Path) -> Path:
	"""A BED of those loci whose output windows do not overlap the one before."""
	kept, last = [], ("", 0)
	for line in sorted(path.read_text().splitlines(), key=lambda line: (line.split()[0], int(line.split()[1]))):
		chrom, start, end = line.split()[:3]
		middle = (int(start) + int(end)) // 2
		if chrom != last[0] or middle - OUT >= last[1]:
			kept.append(line)
			last = (chrom, middle)
	(folder / "apart.bed").write_text("\n".join(kept) + "\n")
	return folder / "apart.bed"


def test_bigwigs_sum_to_the_counts_of_loci_that_lie_apart(run: Callable, tmp_path: Path, tiny_genome: Any) -> None:
	assert run(loci=[str(apart(tiny_genome.peaks, tmp_path))]) == 0
	track, rows = read_bigwigs(tmp_path), table(tmp_path)
	arrays = np.load(tmp_path / "run.predictions.npz")
	expected = expected_counts(*(torch.from_numpy(arrays[name]) for name in ("logits", "log_counts")), GROUPS).numpy()
	assert len(rows) > 20
	for row, values in zip(rows, expected, strict=True):
		bases = track[row["chrom"]][:, int(row["start"]) : int(row["end"])]
		assert bases.tobytes() == values.tobytes()  # through the file and back, bit by bit
		sums = bases.astype(float).sum(axis=1)
		assert sums[0] + sums[1] == pytest.approx(float(row["predicted_counts.0"]), rel=1e-4)
		assert sums[2] == pytest.approx(float(row["predicted_counts.1"]), rel=1e-4)
	covered = sum(int((~np.isnan(values[0])).sum()) for values in track.values())
	assert covered == len(rows) * OUT


def test_loci_that_overlap_are_averaged(run: Callable, tmp_path: Path) -> None:
	bed = tmp_path / "two.bed"
	bed.write_text("chr1\t1000\t1001\nchr1\t1040\t1041\n")
	assert run(loci=[str(bed)]) == 0
	track, arrays = read_bigwigs(tmp_path)["chr1"], np.load(tmp_path / "run.predictions.npz")
	expected = expected_counts(*(torch.from_numpy(arrays[name]) for name in ("logits", "log_counts")), GROUPS).numpy()
	np.testing.assert_array_equal(track[:, 950:990], expected[0][:, :40])
	np.testing.assert_allclose(track[:, 990:1050], (expected[0][:, 40:] + expected[1][:, :60]) / 2, rtol=1e-6)
	np.testing.assert_array_equal(track[:, 1050:1090], expected[1][:, 60:])


def chromosomes_of(data: bytes) -> dict[str, tuple[int, int]]:
	"""The names of a bigWig's chromosomes with their numbers and sizes, read from the bytes of its tree."""
	(at,) = struct.unpack_from("<Q", data, 8)
	magic, _, key_size, value_size, n_items = struct.unpack_from("<IIIIQ", data, at)
	assert magic == 0x78CA8C91 and value_size == 8
	found: dict[str, tuple[int, int]] = {}

	def walk(node: int) -> None:
		is_leaf, _, count = struct.unpack_from("<BBH", data, node)
		for i in range(count):
			item = node + 4 + i * (key_size + 8)
			if is_leaf:
				name = data[item : item + key_size].rstrip(b"\0").decode()
				found[name] = struct.unpack_from("<II", data, item + key_size)
			else:
				walk(struct.unpack_from("<Q", data, item + key_size)[0])

	walk(at + 32)
	assert len(found) == n_items
	return found


def check_bigwig(path: Path, sizes: dict[str, int]) -> None:
	"""What viewers rely on: the header, all chromosomes, sorted data, a summary that is true, and zoom levels."""
	data = path.read_bytes()
	magic, version, n_zooms, _, data_at, index_at, fields, defined = struct.unpack_from("<IHHQQQHH", data)
	_, summary_at, buffer = struct.unpack_from("<QQI", data, 36)
	assert (magic, version, fields, defined) == (0x888FFC26, 4, 0, 0) and struct.unpack("<I", data[-4:]) == (magic,)
	chroms = chromosomes_of(data)
	assert {name: size for name, (_, size) in chroms.items()} == sizes
	numbers = {number: name for name, (number, _) in chroms.items()}

	with pyBigWig.open(str(path)) as file:
		assert file.isBigWig() and file.chroms() == sizes
		values = {c: v for c in sizes if len(v := file.values(c, 0, sizes[c], numpy=True))}
		header = file.header()
	known = {chrom: ~np.isnan(v) for chrom, v in values.items()}
	everything = np.concatenate([v[known[c]] for c, v in values.items()]).astype(float)
	covered, low, high, total, squares = struct.unpack_from("<Q4d", data, summary_at)
	assert covered == len(everything) == header["nBasesCovered"]
	np.testing.assert_allclose([low, high], [everything.min(), everything.max()], rtol=1e-6)
	np.testing.assert_allclose([total, squares], [everything.sum(), (everything**2).sum()], rtol=1e-6)

	(n_blocks,) = struct.unpack_from("<Q", data, data_at)
	last, seen = (-1, 0), 0
	for number, start, end_number, end, offset, size in leaves(data, index_at):
		block = zlib.decompress(data[offset : offset + size])
		assert 0 < len(block) <= buffer
		assert struct.unpack_from("<III", block) == (number, start, end)
		assert number == end_number and (number, start) >= last and start < end <= sizes[numbers[number]]
		last, seen = (number, end), seen + 1
	assert seen == n_blocks

	reductions = []
	for i in range(n_zooms):
		reduction, _, _, zoom_index = struct.unpack_from("<IIQQ", data, 64 + 24 * i)
		reductions.append(reduction)
		counted = 0
		for *_, offset, size in leaves(data, zoom_index):
			block = zlib.decompress(data[offset : offset + size])
			assert len(block) % 32 == 0
			for number, start, end, valid, low, high, total, squares in struct.iter_unpack("<IIIIffff", block):
				mine = values[numbers[number]][start:end]
				mine = mine[~np.isnan(mine)].astype(float)
				assert valid == len(mine) and end - start <= reduction
				np.testing.assert_allclose([low, high], [mine.min(), mine.max()], rtol=1e-6)
				np.testing.assert_allclose(total, mine.sum(), rtol=1e-4, atol=1e-6)
				np.testing.assert_allclose(squares, (mine**2).sum(), rtol=1e-4, atol=1e-6)
				counted += valid
		assert counted == covered
	assert n_zooms > 0 and reductions == sorted(set(reductions))


def leaves(data: bytes, index_at: int) -> list[tuple[int, ...]]:
	"""The blocks that an index names, in its order: first chromosome and base, last, and where they lie."""
	assert struct.unpack_from("<I", data, index_at) == (0x2468ACE0,)
	found = []

	def walk(node: int) -> None:
		is_leaf, _, count = struct.unpack_from("<BBH", data, node)
		for i in range(count):
			if is_leaf:
				chrom, start, end_chrom, end, offset, size = struct.unpack_from("<IIIIQQ", data, node + 4 + 32 * i)
				found.append((chrom, start, end_chrom, end, offset, size))
			else:
				walk(struct.unpack_from("<IIIIQ", data, node + 4 + 24 * i)[4])

	walk(index_at + 48)
	return found


@pytest.mark.parametrize("what", ["loci", "regions", "contributions"])
def test_bigwigs_are_what_viewers_load(
	run: Callable, tmp_path: Path, tiny_genome: Any, capsys: pytest.CaptureFixture[str], what: str
) -> None:
	"""Headers byte by byte, all chromosomes of the genome, data in order, true summaries and zoom levels."""
	if what == "contributions":
		assert run(loci=[str(tiny_genome.peaks)], attr_window=8) == 0
		settings = str(tmp_path / "predict.json")
		assert main(["attribute", "-p", settings]) == 0
		paths = [tmp_path / "run.attributions.bw"]
	else:
		assert run(**({"loci": [str(tiny_genome.peaks)]} if what == "loci" else {"regions": ["chr1", "chr3"]})) == 0
		paths = [Path(path) for path in prediction_paths(str(tmp_path / "run"), GROUPS)]
	for path in paths:
		check_bigwig(path, tiny_genome.sizes)


def test_check_counts_tiles(run: Callable, tmp_path: Path, signals: list, capsys: pytest.CaptureFixture[str]) -> None:
	assert run(regions=["chr1"], signals=signals) == 0
	kept = len(table(tmp_path))
	capsys.readouterr()
	code = main(["check", "--command", "predict", "-p", str(tmp_path / "predict.json")])
	captured = capsys.readouterr()
	assert code == 0, captured.err
	assert captured.out.split("Tiles\n")[1].split()[:4] == ["given", str(kept), "kept", str(kept)]
