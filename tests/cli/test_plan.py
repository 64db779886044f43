"""The plan of a pipeline: its steps, what they read and write, and when a step has to run again."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from cherimoya.errors import SettingsError
from cherimoya.io import _files
from cherimoya_cli import plan
from cherimoya_cli.settings import STEPS, load_settings

BASE = {
	"name": "run/x",
	"sequences": "g.fa",
	"signals": ["x.bam"],
	"fit_parameters": {"training_chroms": ["chr1"], "validation_chroms": ["chr2"], "test_chroms": ["chr3"]},
}
BIGWIGS = {"signals": [["p.+.bw", "p.-.bw"]], "loci": ["peaks.bed"]}


def steps_of(**changes):
	return plan.make_plan(load_settings("pipeline", {**BASE, **changes}))


def step_of(name, **changes):
	return next(step for step in steps_of(**changes) if step.name == name)


MODEL = "fit evaluate predict attribute"
FOUND = "seqlets motifs modisco_report"
KNOWN_MOTIFS = "seqlets annotation motifs modisco_report marginalize"


@pytest.mark.parametrize(
	("changes", "names"),
	[
		({}, f"peaks signals negatives {MODEL} {FOUND} report"),
		({"loci": "p.bed"}, f"signals negatives {MODEL} {FOUND} report"),
		(
			{"fit_parameters": {**BASE["fit_parameters"], "loci": "p.bed"}},
			f"signals negatives {MODEL} {FOUND} report",
		),
		({**BIGWIGS}, f"negatives {MODEL} {FOUND} report"),
		({**BIGWIGS, "negatives": "n.bed"}, f"{MODEL} {FOUND} report"),
		({**BIGWIGS, "negatives": "n.bed", "model": "m.torch"}, f"evaluate predict attribute {FOUND} report"),
		({**BIGWIGS, "controls": ["c.bam"]}, f"signals negatives {MODEL} {FOUND} report"),
		({**BIGWIGS, "motifs": "m.meme"}, f"negatives {MODEL} {KNOWN_MOTIFS} report"),
		(
			{**BIGWIGS, "motifs": "m.meme", "annotation_parameters": {"motifs": None}},
			f"negatives {MODEL} {KNOWN_MOTIFS} report",
		),
		(
			{**BIGWIGS, "marginalize_parameters": {"motifs": "m.meme"}},
			f"negatives {MODEL} {FOUND} marginalize report",
		),
		(
			{**BIGWIGS, "variants_parameters": {"variants": "v.vcf"}},
			f"negatives {MODEL} {FOUND} variants report",
		),
		({"motifs": "m.meme", "variants": "v.vcf"}, " ".join(STEPS)),
		(
			{"motifs": "m.meme", "skip_steps": ["seqlets", "annotation", "motifs", "modisco_report", "marginalize"]},
			f"peaks signals negatives {MODEL} report",
		),
		(
			{**BIGWIGS, "skip_steps": ["negatives", *FOUND.split()], "fit_parameters": {"negative_ratio": 0}},
			f"{MODEL} report",
		),
	],
	ids=[
		"reads",
		"peaks given",
		"peaks of fit given",
		"bigWigs",
		"negatives given",
		"model given",
		"controls as reads",
		"motifs given",
		"null of a section inherits",
		"motifs of one section",
		"variants given",
		"everything",
		"steps left out",
		"no background",
	],
)
def test_which_steps(changes, names):
	assert " ".join(step.name for step in steps_of(**changes)) == names


def test_later_steps_get_what_earlier_ones_make():
	fit = step_of("fit", controls=["c.bam"])
	assert fit.settings["signals"] == [["run/x.+.bw", "run/x.-.bw"]]
	assert fit.settings["controls"] == [["run/x.control.+.bw", "run/x.control.-.bw"]]
	assert (fit.settings["loci"], fit.settings["negatives"]) == (["run/x_peaks.narrowPeak"], ["run/x.negatives.bed"])
	assert fit.settings["evaluate"] is False
	for name in ("evaluate", "predict", "attribute"):
		step = step_of(name, controls=["c.bam"])
		assert {key: step.settings[key] for key in ("signals", "controls", "loci")} == {
			key: fit.settings[key] for key in ("signals", "controls", "loci")
		}
		assert step.settings["model"] == "run/x.torch"


@pytest.mark.parametrize(
	("signals", "unstranded", "bigwigs"),
	[
		(["a.bam", "b.bam"], True, [["run/x.bw"]]),
		(["a.bam", "b.bam"], False, [["run/x.+.bw", "run/x.-.bw"]]),
		([["a.bam"], ["b.bam", "c.bam"]], True, [["run/x.0.bw"], ["run/x.1.bw"]]),
		([["a.bam"], "b.bam"], False, [["run/x.0.+.bw", "run/x.0.-.bw"], ["run/x.1.+.bw", "run/x.1.-.bw"]]),
	],
	ids=["replicates", "replicates, stranded", "two experiments", "two experiments, stranded"],
)
def test_names_of_bigwigs(signals, unstranded, bigwigs):
	steps = steps_of(signals=signals, preprocessing_parameters={"unstranded": unstranded})
	made = next(step for step in steps if step.name == "signals")
	fit = next(step for step in steps if step.name == "fit")
	assert fit.settings["signals"] == bigwigs
	assert made.outputs == (*(path for group in bigwigs for path in group), "run/x.signals.record.json")


LEFT = {
	"peaks": "x_peaks.narrowPeak",
	"signals": "x.+.bw x.-.bw x.signals.record.json",
	"negatives": "x.negatives.bed x.negatives.record.json x.negatives.accounting.tsv",
	"fit": "x.torch x.final.torch x.log x.detailed.log x.fit.record.json x.fit.accounting.tsv",
	"evaluate": " ".join(
		[f"x{part}.{end}" for part in ("", ".test") for end in "performance.tsv performance.json".split()]
		+ [f"x{part}.{end}" for part in ("", ".test") for end in "evaluation.npz baselines.tsv".split()]
		+ ["x.evaluate.accounting.tsv"]
	),
	"predict": ("x.predictions.+.bw x.predictions.-.bw x.predictions.tsv x.predict.accounting.tsv x.predictions.npz"),
	"attribute": (
		"x.attributions.ohe.npz x.attributions.attr.npz x.attributions.idxs.npy x.attributions.bed x.attributions.bw "
		"x.attribute.accounting.tsv"
	),
	"seqlets": "x.seqlets.bed",
	"annotation": "x.seqlets_annotated.bed x.motif_seqlet_count.tsv",
	"motifs": "x_modisco_results.h5",
	"modisco_report": "x_modisco/motifs.html x_modisco/motifs.tsv",
	"marginalize": "x_marginalize/marginalize.tsv x_marginalize/index.html x.marginalize.accounting.tsv",
	"variants": "x.variants.tsv x.variants.accounting.tsv",
	"report": "x.report.html",
}


@pytest.mark.parametrize("name", STEPS)
def test_files_that_a_step_leaves(name):
	step = step_of(name, motifs="m.meme", variants="v.vcf")
	assert set(step.outputs) == {f"run/{path}" for path in LEFT[name].split()}
	assert len(step.outputs) == len(set(step.outputs))


@pytest.mark.parametrize(
	("name", "changes", "changed"),
	[
		("negatives", {"output_filename": "n.tsv"}, "n.tsv n.tsv.record.json n.tsv.accounting.tsv"),
		("attribute", {"ohe_filename": "a.npz"}, "a.npz"),
		("variants", {"tsv_filename": "t.tsv", "vcf_filename": "v.vcf.gz"}, "t.tsv v.vcf.gz"),
		("fit", {"evaluate": True}, "run/x.test.performance.json run/x.baselines.tsv run/x.test.evaluation.npz"),
		("evaluate", {"chroms": ["chr9"], "baselines": False}, ""),
	],
	ids=["negatives", "attribute", "variants", "fit that evaluates", "evaluate on its own chromosomes"],
)
def test_files_that_a_step_leaves_follow_its_settings(name, changes, changed):
	step = step_of(name, motifs="m.meme", variants="v.vcf")
	found = set(plan.step_outputs(name, {**step.settings, **changes}))
	assert set(changed.split()) <= found
	if name == "evaluate":
		measures = {f"run/x.{end}" for end in ("performance.tsv", "performance.json", "evaluation.npz")}
		assert found == {*measures, "run/x.evaluate.accounting.tsv"}
	if name == "fit":
		assert set(step.outputs) < found and "run/x.evaluate.accounting.tsv" not in found


def test_dependencies():
	assert plan.dependencies(steps_of(motifs="m.meme", variants="v.vcf")) == {
		"peaks": [],
		"signals": [],
		"negatives": ["peaks", "signals"],
		"fit": ["peaks", "negatives", "signals"],
		"evaluate": ["peaks", "negatives", "signals", "fit"],
		"predict": ["peaks", "signals", "fit"],
		"attribute": ["peaks", "signals", "fit"],
		"seqlets": ["attribute"],
		"annotation": ["seqlets"],
		"motifs": ["attribute"],
		"modisco_report": ["motifs"],
		"marginalize": ["negatives", "fit"],
		"variants": ["fit"],
		"report": ["fit", "evaluate"],
	}


def test_steps_on_motifs_get_what_earlier_ones_make():
	changes = {"attribute_parameters": {"ohe_filename": "a.npz"}, "motifs": "m.meme", "variants": "v.vcf"}
	changes |= {"modisco_motifs_parameters": {"output_filename": "found.h5"}, "seqlet_parameters": {"threshold": 0.1}}
	steps = {step.name: step for step in steps_of(**changes)}
	files = {"ohe_filename": "a.npz", "attr_filename": "run/x.attributions.attr.npz"}
	for name in ("seqlets", "motifs"):
		assert files.items() <= steps[name].settings.items() and set(files.values()) <= set(steps[name].inputs)
	assert steps["seqlets"].settings["bed_filename"] == "run/x.attributions.bed"
	assert steps["seqlets"].settings["threshold"] == 0.1 and steps["seqlets"].settings["motifs"] is None
	assert steps["annotation"].settings["seqlet_filename"] == steps["seqlets"].outputs[0] == "run/x.seqlets.bed"
	assert steps["motifs"].settings["report"] is False and steps["motifs"].outputs[0] == "found.h5"
	assert steps["modisco_report"].settings["output_filename"] == "found.h5"
	assert steps["marginalize"].settings["loci"] == ["run/x.negatives.bed"]
	for name in ("marginalize", "variants"):
		assert steps[name].settings["model"] == "run/x.torch"
	for name in ("annotation", "modisco_report", "marginalize"):
		assert "m.meme" in steps[name].inputs  # its content is part of the fingerprint
	assert all("m.meme" not in steps[name].inputs for name in ("seqlets", "motifs", "attribute"))
	given = {"variants_parameters": {"variants": "v.vcf", "models": ["a.torch", "b.torch"]}}
	variants = step_of("variants", **given)
	assert "run/x.torch" not in variants.inputs and {"a.torch", "b.torch"} <= set(variants.inputs)


@pytest.mark.parametrize(
	("changes", "fragments"),
	[
		(
			{"skip_steps": ["attribute"], "motifs": "m.meme"},
			(
				"skip_steps leaves out 'attribute', but seqlets, annotation, motifs and modisco_report would need",
				"run/x.attributions.ohe.npz from it, which is not there",
				'skip_steps: ["attribute", "seqlets", "annotation", "motifs", "modisco_report"]',
			),
		),
		({"skip_steps": ["fit"]}, ("'fit', but evaluate, predict", "run/x.torch")),
		({"skip_steps": list(STEPS)}, ("skip_steps leaves no step to run",)),
		(
			{"skip_steps": ["negatives"], "motifs": "m.meme", "fit_parameters": {"negative_ratio": 0}},
			("marginalize puts motifs into background loci, and there are none",),
		),
		(
			{"seqlet_parameters": {"output_filename": "x.bed"}, "negatives_parameters": {"output_filename": "x.bed"}},
			("x.bed: written by the steps negatives and seqlets",),
		),
		({"model": "m.torch", **BIGWIGS, "skip_steps": ["evaluate"]}, ("'evaluate', but report would need",)),
	],
	ids=[
		"arrays needed",
		"model needed",
		"nothing left",
		"no background",
		"two outputs of one name",
		"nothing to report",
	],
)
def test_choices_that_make_no_plan(changes, fragments):
	with pytest.raises(SettingsError) as caught:
		steps_of(**changes)
	for fragment in fragments:
		assert fragment in str(caught.value)


@pytest.mark.parametrize(
	("changes", "shown"),
	[
		({"skip_steps": ["motifs", "modisco_report"], "rerun_steps": ["fit"]}, []),
		({"skip_steps": ["marginalize"]}, ["skip_steps names 'marginalize'", "because motifs is null"]),
		({"rerun_steps": ["annotation"]}, ["rerun_steps names 'annotation'", "because motifs is null"]),
		({"rerun_steps": ["peaks"], **BIGWIGS}, ["rerun_steps names 'peaks'", "because loci are given"]),
		({"skip_steps": ["variants"]}, ["skip_steps names 'variants'", "variants_parameters.variants is null"]),
		({"skip_steps": ["negatives"], "negatives": "n.bed"}, ["skip_steps names 'negatives'", "negatives are given"]),
		({"skip_steps": ["negatives", *FOUND.split()], "fit_parameters": {"negative_ratio": 0}}, []),
		({"model": "m.torch", **BIGWIGS, "rerun_steps": ["fit"]}, ["rerun_steps names 'fit'", "model is given"]),
		({"skip_steps": ["marginalize"], "motifs": "m.meme"}, []),
	],
	ids=[
		"steps that are there",
		"skip without motifs",
		"rerun without motifs",
		"rerun with loci",
		"skip without variants",
		"skip with negatives",
		"skip for no background",
		"rerun with a model",
		"skip with motifs",
	],
)
def test_names_of_steps_that_a_run_does_not_have_are_noted(changes, shown):
	changes = {**changes, "fit_parameters": {**BASE["fit_parameters"], **changes.get("fit_parameters", {})}}
	steps = steps_of(**changes)
	notes = plan.names_without_step(load_settings("pipeline", {**BASE, **changes}))
	assert len(notes) == bool(shown) and all(word in note for note in notes for word in shown)
	assert [step.name for step in steps if step.rerun] == [n for n in changes.get("rerun_steps", ()) if not shown]


@pytest.mark.parametrize("release", ["0.1", "0.2", "0.3"])
def test_a_published_file_makes_every_step(release):
	settings = load_settings("pipeline", Path(__file__).parent / "configs" / f"published_{release}_good.json")
	steps = plan.make_plan(settings)
	made = [name for name in STEPS if name not in ("peaks", "variants")]  # loci are given
	assert [step.name for step in steps] == made
	values = {step.name: step.settings for step in steps}
	assert values["motifs"]["n_seqlets"] == 100_000 and values["annotation"]["n_jobs"] is None
	assert values["marginalize"]["n_loci"] == 100 and values["modisco_report"]["motifs"] == "motifs.meme"


def test_what_a_step_left_earlier_can_be_used(tmp_path, monkeypatch):
	monkeypatch.chdir(tmp_path)
	Path("run").mkdir()
	for path in step_of("attribute").outputs:
		Path(path).touch()
	names = [step.name for step in steps_of(skip_steps=["attribute", "predict"])]
	assert names == "peaks signals negatives fit evaluate seqlets motifs modisco_report report".split()


@pytest.mark.parametrize(("path", "dependents"), [("run/x.torch", True), ("run/x_modisco_results.h5", False)])
def test_a_report_needs_the_model_alone(path, dependents):
	report = step_of("report")
	assert (path in report.inputs) is dependents and (path in report.optional) is not dependents


def test_peaks_and_bigwigs_depend_on_their_own_settings_alone():
	peaks, signals = step_of("peaks"), step_of("signals")
	assert "callpeaks_q" in peaks.settings and "callpeaks_q" not in signals.settings
	assert "scale_factor" in signals.settings and "scale_factor" not in peaks.settings
	assert step_of("peaks", fit_parameters={**BASE["fit_parameters"], "summits": True}).settings["summits"] is True


@pytest.mark.parametrize("name", STEPS)
def test_the_settings_of_a_step_load_as_they_are(name, tmp_path):
	step = step_of(name, motifs="m.meme", variants="v.vcf")
	path = tmp_path / "step.json"
	path.write_text(json.dumps(step.settings))
	loaded = load_settings(name, path)
	assert json.loads(loaded.model_dump_json()) == step.settings


# Up to date or not.


@pytest.fixture
def done(tmp_path, monkeypatch):
	"""A step that has been done, in a folder of its own."""
	monkeypatch.chdir(tmp_path)
	for name, text in (("in.txt", "input"), ("maybe.txt", "more"), ("out.txt", "output")):
		Path(name).write_text(text)
	step = plan.Step(
		name="fit",
		title="train",
		section="fit_parameters",
		settings={"max_epochs": 10, "in_window": 100, "verbose": True, "loci": ["in.txt"]},
		argv=("true",),
		inputs=("in.txt", "http://host/x.bw"),
		outputs=("out.txt",),
		prefix="x",
		optional=("maybe.txt", "never.txt"),
	)
	write_record(step)
	return step


def write_record(step):
	record = plan.completion_record(step, plan.identify_inputs(step), 1.5)
	step.record_path.write_text(json.dumps(record))


def test_up_to_date(done):
	assert plan.examine(done) == (False, "up to date")


def touch(done):
	os.utime("in.txt", ns=(1, 1))
	os.utime("out.txt", ns=(2, 2))
	return done


def with_settings(**changes):
	return lambda done: replace(done, settings={**done.settings, **changes})


def writing(name, text):
	def write(done):
		Path(name).write_text(text)
		return done

	return write


def without(name):
	def remove(done):
		Path(name).unlink()
		return done

	return remove


def old_version(done):
	record = json.loads(done.record_path.read_text())
	done.record_path.write_text(json.dumps({**record, "version": "0.0.1"}))
	return done


CHANGES = {
	"touched files": (touch, None),
	"verbose": (with_settings(verbose=False), None),
	"max_epochs": (with_settings(max_epochs=20), "fit_parameters.max_epochs changed from 10 to 20"),
	"a shared key": (with_settings(in_window=200), "in_window changed from 100 to 200"),
	"a new key": (with_settings(extra=1), "fit_parameters.extra is new (1)"),
	"input, same size": (writing("in.txt", "INPUT"), "input in.txt changed"),
	"input gone": (without("in.txt"), "input in.txt changed"),
	"optional input": (writing("maybe.txt", "less"), "input maybe.txt changed"),
	"optional input appears": (writing("never.txt", "now"), "input never.txt was not there before"),
	"output gone": (without("out.txt"), "output missing: out.txt"),
	"output cut": (writing("out.txt", "out"), "output out.txt was changed since"),
	"no record": (without("x.fit.done.json"), "its outputs are there, but no record says that they are complete"),
	"broken record": (writing("x.fit.done.json", '{"version"'), "its outputs are there, but no record"),
	"older version": (old_version, "made by version 0.0.1"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_what_is_redone_and_why(done, case):
	change, why = CHANGES[case]
	status = plan.examine(change(done))
	assert status.run == (why is not None)
	assert (why or "up to date") in status.why


@pytest.mark.parametrize("case", ["max_epochs", "input, same size", "no record", "older version", "output cut"])
def test_skip_trusts_outputs_that_exist(done, case):
	assert plan.examine(CHANGES[case][0](done), trust=True).run is False


def test_a_step_to_run_again_runs(done):
	again = replace(done, rerun=True)
	for trust in (False, True):
		assert plan.examine(again, trust=trust) == (True, "rerun_steps names it")


def test_skip_does_not_invent_outputs(done):
	assert plan.examine(without("out.txt")(done), trust=True) == (True, "output missing: out.txt")


@pytest.mark.parametrize(
	("changes", "name"),
	[
		({"batch_size": 8}, "batch_size"),
		({"fit_parameters": {**BASE["fit_parameters"], "batch_size": 8}}, "fit_parameters.batch_size"),
		({}, "batch_size"),
	],
	ids=["top level", "section", "default"],
)
def test_keys_are_named_where_they_are_written(changes, name):
	assert step_of("fit", **changes).key_name("batch_size") == name


def test_many_reasons_are_cut(done):
	changed = with_settings(max_epochs=1, in_window=1, loci=[], extra=1)(done)
	assert plan.examine(changed).why.endswith("; and 1 more")


@pytest.mark.parametrize("offset", [0, "middle", -1], ids=["start", "middle", "end"])
def test_large_files_are_sampled(tmp_path, monkeypatch, offset):
	monkeypatch.setattr(_files, "HASHED_WHOLE", 1000)
	monkeypatch.setattr(_files, "SAMPLE", 100)
	path = tmp_path / "large"
	content = bytearray(5000)
	path.write_bytes(content)
	known = plan.identify(path)
	os.utime(path, ns=(1, 1))
	assert plan.unchanged(path, known)
	content[2500 if offset == "middle" else offset] = 1
	path.write_bytes(content)
	assert not plan.unchanged(path, known)


def test_fingerprint_follows_content_settings_and_version():
	base = plan.fingerprint({"a": 1}, {"x": {"sha256": "s", "mtime_ns": 1}}, "1")
	assert base == plan.fingerprint({"a": 1}, {"x": {"sha256": "s", "mtime_ns": 2}}, "1")
	others = [
		plan.fingerprint({"a": 2}, {"x": {"sha256": "s"}}, "1"),
		plan.fingerprint({"a": 1}, {"x": {"sha256": "t"}}, "1"),
		plan.fingerprint({"a": 1}, {"x": None}, "1"),
		plan.fingerprint({"a": 1}, {"x": {"sha256": "s"}}, "2"),
	]
	assert len({base, *others}) == 5


def test_forecast_follows_what_is_made(done):
	after = plan.Step("next", "n", "s", {}, ("true",), ("out.txt",), ("end.txt",), "x")
	Path("end.txt").write_text("end")
	write_record(after)
	assert [status.run for status in plan.forecast([done, after]).values()] == [False, False]
	changed = with_settings(max_epochs=20)(done)
	statuses = plan.forecast([changed, after])
	assert statuses["next"] == (True, "after fit, unless that leaves its inputs as they are")
	assert [status.run for status in plan.forecast([changed, after], trust=True).values()] == [False, False]
