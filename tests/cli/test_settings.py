"""The settings: declared once, loaded with every problem at once, explained, and the same as the library's defaults."""

import inspect
import json
from pathlib import Path

import pytest

from cherimoya.errors import InputError, MissingFileError, SettingsError
from cherimoya_cli import defaults as plain
from cherimoya_cli.loading import explain, parse_json, read_json
from cherimoya_cli.settings import (
	HELP_FILE,
	KNOWN,
	SECTIONS,
	SETTINGS,
	TOP_LEVEL,
	UNUSED,
	FitSettings,
	accepts_null,
	defaults,
	describe,
	help_tables,
	load_settings,
	required_keys,
	schema,
)
from cherimoya_cli.utils import merge_parameters

CONFIGS = Path(__file__).parent / "configs"
MODELS = {**SETTINGS, **{f"section {key}": model for key, (_, model) in SECTIONS.items()}}
FIT = {"sequences": "g.fa", "loci": "p.bed", "negatives": "n.bed", "signals": "s.bw"}
PIPELINE = {"sequences": "g.fa", "signals": ["r.bam"]}


def fit(**changes):
	return load_settings("fit", {**FIT, **changes})


def complaint(command, content, *overrides):
	with pytest.raises(SettingsError) as caught:
		load_settings(command, content, overrides)
	return str(caught.value)


# Declarations.


@pytest.mark.parametrize("key", sorted(KNOWN - SECTIONS.keys()))
def test_a_key_has_one_declaration(key):
	declared = [model.model_fields[key] for model in MODELS.values() if key in model.model_fields]
	first = declared[0]
	for other in declared:
		assert (other.description, other.default, other.annotation) == (
			first.description,
			first.default,
			first.annotation,
		)
		assert other.metadata == first.metadata


@pytest.mark.parametrize("name", MODELS)
def test_every_key_is_explained(name):
	for row in describe(MODELS[name]):
		assert row.help.endswith("."), row.key
		assert row.expects and "section" not in row.expects, row.key
		if "null" in row.expects and not row.required:
			pairs = {"sequences", "signals"}  # required wherever they are read, but for attribute's optional signals
			assert "null" in row.help or row.key in pairs, f"{row.key}: what null means is not said"


@pytest.mark.parametrize("name", MODELS)
def test_defaults_pass_their_own_checks(name):
	model = MODELS[name]
	values = {row.key: row.default for row in describe(model)}
	assert model.model_validate_json(json.dumps(values)).model_dump() == model().model_dump()


def test_no_key_is_both_used_and_passed_over():
	assert not KNOWN & UNUSED.keys()


def test_the_tables_of_help_are_up_to_date():
	written = json.loads(HELP_FILE.read_text(encoding="utf-8"))
	assert written == json.loads(json.dumps(help_tables())), "run python -m cherimoya_cli.settings --write-help"


def _signature(path):
	module, name = path.rsplit(".", 1)
	target = getattr(pytest.importorskip(module), name)
	return {key: p.default for key, p in inspect.signature(target).parameters.items()}


@pytest.mark.parametrize(
	("path", "command", "names"),
	[
		(
			"cherimoya.io.windows.extract_windows",
			"fit",
			{"absolute": "absolute_signals", "chroms": None, "max_jitter": None, "verbose": None, "cache": None},
		),
		(
			"cherimoya.io.peaks.PeakGenerator",
			"fit",
			{"chroms": None, "verbose": None, "random_state": None, "cache": None},
		),
		("cherimoya.io.negatives.gc_matched_negatives", "negatives", {"verbose": None}),
		("cherimoya.Cherimoya", "fit", {"name": None, "verbose": None, "random_state": None}),
		(
			"cherimoya.interpret.attribution.saturation_mutagenesis",
			"attribute",
			{"verbose": None, "dtype": None, "device": None, "batch_size": None},
		),
		*(
			(
				f"cherimoya.interpret.{name}.{name}",
				"attribute",
				{"verbose": None, "dtype": None, "device": None, "batch_size": None, "references": None},
			)
			for name in ("deep_lift_shap", "integrated_gradients")
		),
		("cherimoya.training.evaluation.evaluate", "evaluate", {"device": None, "negatives": None}),
	],
	ids=lambda value: value.rsplit(".", 1)[-1] if isinstance(value, str) else "",
)
def test_the_library_has_the_same_defaults(path, command, names):
	fields, compared = SETTINGS[command].model_fields, 0
	for name, default in _signature(path).items():
		key = names.get(name, name)
		if key in fields and default is not inspect.Parameter.empty:
			assert fields[key].get_default(call_default_factory=True) == default, name
			compared += 1
	assert compared >= 1


@pytest.mark.parametrize("command", ["predict", "attribute"])
def test_commands_take_the_largest_batches_that_the_library_would_choose_on_a_cpu(command):
	batches = pytest.importorskip("cherimoya.interpret._batches")
	assert SETTINGS[command].model_fields["batch_size"].default == batches.LARGEST_BATCH["cpu"]


# Reading.


@pytest.mark.parametrize(
	("text", "fragments"),
	[
		("", ("line 1, column 1", "the file is empty")),
		('{"a": 1,}', ("line 1", "not valid JSON")),
		('{\n\t"name": "x"\n\t"loci": null\n}', ("line 3, column 2", "not valid JSON", '\\"loci\\": null')),
		("{'name': 'x'}", ("line 1, column 2", "not valid JSON", "quotes")),
		('{"a": 1, "a": 2}', ("'a' appears twice", "keep one")),
		('{"fit_parameters": {"n_filters": 1, "n_filters": 2}}', ("'n_filters' appears twice",)),
		("[1, 2]", ("must be an object", "[1, 2]")),
		('"text"', ("must be an object",)),
		('{"muon_lr": NaN}', ("NaN",)),
		('{"muon_lr": -Infinity}', ("-Infinity",)),
		("[" * 100_000, ("nested too deeply",)),
	],
	ids=[
		"empty",
		"comma at the end",
		"comma missing",
		"single quotes",
		"duplicate",
		"duplicate in a section",
		"list",
		"text",
		"NaN",
		"infinity",
		"deep",
	],
)
def test_broken_json(text, fragments):
	with pytest.raises(SettingsError) as caught:
		parse_json(text, "x.json")
	message = str(caught.value)
	assert message.startswith("x.json: ")
	for fragment in fragments:
		assert fragment in message


def test_a_missing_json(tmp_path):
	with pytest.raises(MissingFileError, match="no such file"):
		read_json(tmp_path / "absent.json")


def test_a_json_that_is_a_folder(tmp_path):
	with pytest.raises(InputError, match="cannot be read"):
		read_json(tmp_path)


def test_a_json_that_is_no_text(tmp_path):
	path = tmp_path / "x.json"
	path.write_bytes(b"\x89PNG\xff\xfe")
	with pytest.raises(SettingsError, match="not a JSON file"):
		read_json(path)


def test_a_json_with_a_byte_order_mark(tmp_path):
	path = tmp_path / "x.json"
	path.write_bytes(b"\xef\xbb\xbf" + json.dumps(FIT).encode())
	assert load_settings("fit", path).sequences == "g.fa"


# Good files.


@pytest.mark.parametrize(
	("release", "unused"),
	[
		("0.1", {"count_loss_weight", "performance_filename"}),
		("0.2", {"lw_lr", "lw_wd", "lw_momentum", "count_loss_weight", "performance_filename"}),
		(
			"0.3",
			{
				*("compile", "compile_mode", "lw_lr", "lw_wd", "lw_momentum", "num_threads", "progress_bar"),
				"fast",
			},
		),
	],
)
def test_files_of_the_published_package_load(release, unused):
	settings = load_settings("pipeline", CONFIGS / f"published_{release}_good.json")
	assert settings.fit_parameters.max_epochs == 7
	assert settings.fit_parameters.sequences == "genome.fa"
	assert settings.preprocessing_parameters.pos_shift == 4
	assert settings.attribute_parameters.output in ("counts", "logcounts")
	said = " ".join(settings.notices)
	for key in unused:
		assert f"{key}" in said
	assert settings.seqlet_parameters.threshold == 0.01
	assert settings.annotation_parameters.n_jobs is None  # written as -1, for all cores
	assert "annotation_parameters.reverse_complement has no effect" in said  # both strands are always compared
	# Every notice is a line, names its keys, and says what happens instead.
	assert all(": " in notice and "\n" not in notice for notice in settings.notices)


@pytest.mark.parametrize("release", ["0.1", "0.2", "0.3"])
def test_every_key_of_a_published_file_is_read_or_explained(release):
	path = CONFIGS / f"published_{release}_good.json"
	settings = load_settings("pipeline", path)
	said = " ".join(settings.notices)
	content = json.loads(path.read_text())
	for section, values in {"": content, **{key: content[key] for key in SECTIONS if key in content}}.items():
		model = SECTIONS[section][1] if section else SETTINGS["pipeline"]
		for key, value in values.items():
			dotted = f"{section}.{key}" if section else key
			if dotted == "fit_parameters.reverse_complement_average":  # of the measures
				assert settings.evaluate_parameters.origins[key].key == dotted
			elif value is not None and (key not in model.model_fields or key in model.forced):
				assert dotted in said, dotted
			elif value is not None and key not in SECTIONS and key != "n_jobs":
				part = getattr(settings, section) if section else settings
				assert part.origins[key].key == dotted


def test_a_section_beats_the_top_level_which_beats_the_default():
	settings = load_settings("pipeline", CONFIGS / "pipeline_good.json")
	assert settings.fit_parameters.batch_size == 32  # null inherits
	assert settings.evaluate_parameters.batch_size == 8
	assert settings.predict_parameters.batch_size == 32
	assert settings.fit_parameters.max_jitter == 10  # any key may stand at the top level
	assert settings.fit_parameters.n_layers == 9
	assert settings.fit_parameters.name == settings.attribute_parameters.name == "out/sample"


@pytest.mark.parametrize(
	("content", "overrides", "notices"),
	[
		(
			{"fit_parameters": {"max_epochs": 5}},
			["max_epochs=3"],
			["max_epochs has no effect: fit_parameters.max_"],
		),
		({"fit_parameters": {"max_epochs": 5}, "max_epochs": 3}, [], ["max_epochs has no effect: fit_parameters.max_"]),
		({"fit_parameters": {"max_epochs": 3}}, ["max_epochs=3"], []),
		({"fit_parameters": {"max_epochs": None}}, ["max_epochs=3"], []),
		({"fit_parameters": {}}, ["max_epochs=3"], []),
		({"fit_parameters": {"batch_size": 5}}, ["batch_size=3"], []),  # of the other steps
		({"predict_parameters": {"chunk_size": 5}}, ["chunk_size=3"], []),
	],
	ids=["by --set", "in the file", "the same", "null", "not given", "of all steps", "of other steps"],
)
def test_a_value_that_no_step_takes_is_told(content, overrides, notices):
	settings = load_settings("pipeline", {**PIPELINE, **content}, overrides)
	assert len(settings.notices) == len(notices)
	for notice, words in zip(settings.notices, notices, strict=True):
		assert words in notice


@pytest.mark.parametrize(
	("signals", "twice"),
	[
		([["a.bw", "a.bw"]], "a.bw"),
		(["a.bw", ["+.bw", "+.bw"]], "+.bw"),
		(["a.bw", "a.bw"], None),
		([["+", "-"]], None),
	],
	ids=["a pair", "one of two groups", "two groups", "a good pair"],
)
def test_a_file_that_stands_for_both_strands_is_told(signals, twice):
	for settings in (
		fit(signals=signals),
		load_settings("pipeline", {**PIPELINE, "signals": signals, "loci": "p.bed"}),
	):
		told = [notice for notice in settings.notices if "twice" in notice]
		assert [notice.split(";")[0] for notice in told] == [f"signals names {twice} twice in one group"] * bool(twice)


def test_steps_after_fit_take_what_describes_the_data_from_fit():
	settings = load_settings("pipeline", CONFIGS / "pipeline_good.json")
	assert settings.evaluate_parameters.validation_chroms == ["chrII"]
	assert settings.evaluate_parameters.test_chroms is None
	assert settings.predict_parameters.summits is True
	assert settings.attribute_parameters.summits is False


def test_steps_that_use_the_model_read_its_windows_and_no_more():
	content = {**PIPELINE, "loci": "p.bed", "negatives": "n.bed", "motifs": "m.meme", "chroms": ["chr1"]}
	content |= {"fit_parameters": {"in_window": 500, "out_window": 100, "loci": "other.bed", "summits": True}}
	settings = load_settings("pipeline", content)
	for part in (settings.marginalize_parameters, settings.variants_parameters):
		assert (part.in_window, part.out_window) == (500, 100)
	assert settings.marginalize_parameters.summits is False
	assert settings.marginalize_parameters.loci == ["n.bed"]
	assert load_settings("marginalize", content).loci == ["n.bed"]
	assert load_settings("marginalize", {**FIT, "motifs": "m.meme", "loci": "b.bed"}).loci == ["b.bed"]


def test_sections_by_other_names_than_their_steps_are_read():
	content = {**PIPELINE, "motifs": "m.meme", "seqlet_parameters": {"threshold": 0.5}}
	content |= {"modisco_motifs_parameters": {"n_seqlets": 700}}
	settings = load_settings("pipeline", content)
	assert settings.seqlet_parameters.threshold == 0.5 and settings.modisco_motifs_parameters.n_seqlets == 700
	assert load_settings("seqlets", content).threshold == 0.5 and load_settings("motifs", content).n_seqlets == 700
	# Known motifs are for the steps that compare with them.
	assert settings.seqlet_parameters.motifs is None and settings.modisco_motifs_parameters.motifs is None
	assert settings.annotation_parameters.motifs == settings.modisco_report_parameters.motifs == "m.meme"


@pytest.mark.parametrize(
	("content", "fragments"),
	[
		({"skip_steps": ["atribute"]}, ("skip_steps: there is no step 'atribute'; did you mean 'attribute'?",)),
		({"rerun_steps": "zzz"}, ("rerun_steps: there is no step 'zzz'; the steps are peaks, signals",)),
		({"skip_steps": ["fit"], "rerun_steps": ["fit"]}, ("both name 'fit'",)),
		({"skip_steps": 3}, ("skip_steps must be a list of names of steps, or null, not 3",)),
	],
	ids=["misspelt", "unknown", "both", "number"],
)
def test_names_of_steps(content, fragments):
	message = complaint("pipeline", {**PIPELINE, **content})
	for fragment in fragments:
		assert fragment in message


def test_a_pipeline_leaves_the_evaluation_to_its_own_step():
	content = {**PIPELINE, "fit_parameters": {"evaluate": True}}
	settings = load_settings("pipeline", content)
	assert settings.fit_parameters.evaluate is False
	assert "fit_parameters.evaluate has no effect" in settings.notices[0]
	assert fit().evaluate is True


def test_a_command_reads_its_section_of_a_pipeline_file():
	settings = load_settings(
		"fit", {**PIPELINE, "loci": "p.bed", "fit_parameters": {"negative_ratio": 0, "n_layers": 3}}
	)
	assert (settings.n_layers, settings.loci) == (3, ["p.bed"])


def test_normal_forms():
	settings = load_settings("fit", CONFIGS / "fit_good.json")
	assert settings.loci == ["peaks.bed"]
	assert settings.signals == ["a.bw", ["b.+.bw", "b.-.bw"]]
	assert settings.validation_chroms == ["chr8"]
	assert settings.muon_lr == 1.0 and isinstance(settings.muon_lr, float)
	assert settings.loss_weights == (1.0, 0.5)
	assert settings.early_stopping is None and settings.random_state is None
	assert settings.training_options().loss_weights == (1.0, 0.5)


def test_a_default_attr_window_is_never_longer_than_the_window():
	settings = load_settings("attribute", {**FIT, "in_window": 300, "out_window": 100})
	assert settings.attr_window == 300


def test_every_key_of_every_command_is_accepted_in_any_file():
	content = {row.key: row.default for model in SETTINGS.values() for row in describe(model)} | FIT
	content |= {"negative_ratio": 0.0, "variants": "variants.vcf", "motifs": "motifs.meme", "samples": "samples.tsv"}
	for command in SETTINGS:
		load_settings(command, content)


def test_folds(tmp_path):
	path = tmp_path / "fold.json"
	path.write_text('{"train": ["chrA"], "valid": ["chrB:0-10"], "test": ["chrB:10-20"]}')
	settings = fit(folds=str(path))
	assert (settings.training_chroms, settings.validation_chroms, settings.test_chroms) == (
		["chrA"],
		["chrB:0-10"],
		["chrB:10-20"],
	)
	assert str(path) in settings.origins["training_chroms"].kind
	over = load_settings("fit", {**FIT, "training_chroms": ["x"]}, [f"folds={path}"])
	assert over.training_chroms == ["chrA"]


@pytest.mark.parametrize(
	("folds", "fragments"),
	[
		('{"train": ["a"]}', ("must hold", "'train'")),
		('{"train": ["a"], "valid": ["b"], "tset": []}', ("must hold", "'tset'")),
		('{"train": ["a"], "valid": ["a"]}', ("share 'a'",)),
		('{"train": ["a"], "valid": [3]}', ("must be a list of chromosomes", "[3]")),
		("{", ("line 1", "not valid JSON")),
	],
	ids=["no valid", "unknown part", "overlap", "number", "broken"],
)
def test_bad_folds(tmp_path, folds, fragments):
	path = tmp_path / "fold.json"
	path.write_text(folds)
	message = complaint("fit", {**FIT, "folds": str(path)})
	for fragment in (*fragments, "fold.json"):
		assert fragment in message


def test_folds_and_splits_contradict_each_other(tmp_path):
	assert "both choose the splits" in complaint("fit", {**FIT, "folds": "f.json", "training_chroms": ["chr2"]})


# Overrides.


@pytest.mark.parametrize(
	("override", "section", "key", "value"),
	[
		("batch_size=8", "fit_parameters", "batch_size", 8),
		("fit_parameters.batch_size=8", "fit_parameters", "batch_size", 8),
		("fit_parameters.n_filters=12", "fit_parameters", "n_filters", 12),
		('fit_parameters.training_chroms=["a", "b:1-2"]', "fit_parameters", "training_chroms", ["a", "b:1-2"]),
		("loci=null", "fit_parameters", "loci", None),
		("name=a=b", "fit_parameters", "name", "a=b"),
		("attribute_parameters.output=profile", "attribute_parameters", "output", "profile"),
		("summits=true", "attribute_parameters", "summits", True),
	],
	ids=lambda value: value if isinstance(value, str) else "",
)
def test_set(override, section, key, value):
	content = {**PIPELINE, "fit_parameters": {"batch_size": None, "n_filters": 3}}
	part = getattr(load_settings("pipeline", content, [override]), section)
	assert getattr(part, key) == value
	assert part.origins[key].kind == "--set"
	assert content["fit_parameters"]["n_filters"] == 3  # the given dict is left alone


@pytest.mark.parametrize("override", ["batch_size", "=3", "fit_parameters.=3", ".x=1"])
def test_a_malformed_set(override):
	message = complaint("pipeline", PIPELINE, override)
	assert f"--set {override}" in message and "must be key=value" in message


def test_set_of_an_unknown_key_or_a_wrong_type():
	message = complaint("fit", FIT, "max_epoch=3", "n_layers=three")
	assert "did you mean 'max_epochs'" in message and "n_layers must be a whole number of at least 0" in message


# Bad files.


def test_all_problems_are_said_at_once():
	message = complaint("fit", CONFIGS / "values_bad.json")
	expected = [
		"sequences must be the path of a FASTA file, not 3",
		"loci must be a file, or a list of at least one file, not []",
		"signals must be a list of files",
		"negative_ratio must be a number of at least 0, not -0.5 (default 0.1)",
		'n_filters must be a whole number of at least 1, not "96" (default 96)',
		"reverse_complement must be true or false, not 1 (default true)",
		"max_epochs must be a whole number of at least 1, not 2.5 (default 50)",
		"muon_lr must be a number above 0, not 0",
		'select_on must be one of "count_pearson"',
		"loss_weights must be a list of 2 numbers, or null, not [1]",
		'device must be one of "auto", "cpu", "cuda"',
		"in_window must be a whole number of at least 1, but is null, which means nothing here",
		'verbose must be true or false, not "yes"',
		"unknown key 'max_epoch'; did you mean 'max_epochs'?",
		"unknown key 'batchsize'; did you mean 'batch_size'?",
	]
	for text in expected:
		assert text in message
	assert message.startswith(f"{len(expected)} problems:")
	assert "pydantic" not in message.lower()


@pytest.mark.parametrize(
	("command", "content", "fragments"),
	[
		("fit", {**FIT, "sequences": None}, ("sequences is null; name the path of a FASTA file",)),
		("fit", {}, ("sequences is not given", "loci is not given", "signals is not given")),
		("fit", {**FIT, "negatives": None}, ("negatives is null", "negative_ratio is 0.1", "set negative_ratio to 0")),
		("pipeline", {"sequences": "g.fa"}, ("signals is not given",)),
		("pipeline", {**PIPELINE, "fit_parameters": {"n_filters": None}}, ("fit_parameters.n_filters", "null")),
		("pipeline", {**PIPELINE, "fit_parameters": 3}, ("fit_parameters must be a section",)),
		("pipeline", {**PIPELINE, "fit_parameter": {}}, ("did you mean 'fit_parameters'",)),
		("pipeline", {**PIPELINE, "fit_parameters": {"n_filter": 3}}, ("'fit_parameters.n_filter'", "'n_filters'")),
		("pipeline", {**PIPELINE, "fit_parameters": {"fit_parameters": {}}}, ("a section cannot hold a section",)),
		("pipeline", {**PIPELINE, "in_window": 1000.0}, ("in_window must be a whole number",)),
		("pipeline", {**PIPELINE, "skip": None}, ("skip must be true or false, but is null",)),
		("fit", {**FIT, "training_chroms": []}, ("training_chroms must be a list of chromosomes", "[]")),
		("fit", {**FIT, "training_chroms": [2, 3]}, ("training_chroms must be", "[2, 3]")),
		("fit", {**FIT, "validation_chroms": ["chr2"]}, ("share 'chr2'", "training_chroms (its default, for hg38)")),
		(
			"fit",
			{**FIT, "training_chroms": ["a:0-10"], "validation_chroms": ["a:9-20"], "test_chroms": None},
			("training_chroms and validation_chroms share 'a:0-10' and 'a:9-20'",),
		),
		("fit", {**FIT, "training_chroms": ["a"], "test_chroms": ["a:5-6"]}, ("share 'a' and 'a:5-6'",)),
		("fit", {**FIT, "test_chroms": ["a:9-5"]}, ("'a:9-5' is an empty region",)),
		("predict", {**FIT, "chroms": [" "]}, ("names no chromosome",)),
		("fit", {**FIT, "in_window": 500}, ("out_window (1000 bp) is longer than in_window (500 bp)",)),
		("fit", {**FIT, "out_window": 999}, ("not an even number of bp shorter",)),
		("fit", {**FIT, "min_counts": 5, "max_counts": 2}, ("min_counts (5) is above max_counts (2)",)),
		("fit", {**FIT, "profile_kernel_size": 4}, ("must be an odd number, not 4; take 5",)),
		("attribute", {**FIT, "attr_window": 3000}, ("attr_window (3000 bp) is longer than in_window (2114 bp)",)),
		("attribute", {**FIT, "output": "count"}, ('output must be one of "counts", "logcounts", "profile"',)),
		("fit", {**FIT, "muon_lr": 1e999}, ("muon_lr must be a number above 0",)),
		("fit", {**FIT, "max_epochs": True}, ("max_epochs must be a whole number", "true")),
		("fit", {**FIT, "name": ""}, ("name must be a text that is not empty",)),
		("fit", {**FIT, "device": "cuda:x"}, ('device must be one of "auto"',)),
	],
	ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_settings(command, content, fragments):
	message = complaint(command, content)
	for fragment in fragments:
		assert fragment in message


def test_a_fault_at_the_top_level_is_said_once():
	message = complaint("pipeline", {**PIPELINE, "in_window": "2114"})
	assert message.count("in_window") == 1


def test_missing_files_are_all_named(tmp_path):
	(tmp_path / "g.fa").write_text(">a\nA\n")
	(tmp_path / "empty.bed").touch()
	content = {
		"name": str(tmp_path / "out" / "m"),
		"sequences": str(tmp_path / "g.fa"),
		"loci": [str(tmp_path / "empty.bed"), str(tmp_path / "absent.bed")],
		"negatives": str(tmp_path),
		"signals": ["https://example.org/x.bw", str(tmp_path / "absent.bw")],
	}
	with pytest.raises(InputError) as caught:
		load_settings("fit", content, check_files=True)
	message = str(caught.value)
	assert message.startswith("4 problems:")
	for text in ("empty.bed: is empty", "absent.bed: no such file", "is a folder", "absent.bw: no such file"):
		assert text in message
	assert "loci in settings" in message and "g.fa" not in message
	assert not (tmp_path / "out").exists()


def test_only_missing_files_are_a_missing_file_error(tmp_path):
	content = {key: str(tmp_path / value) for key, value in FIT.items()} | {"name": str(tmp_path / "m")}
	with pytest.raises(FileNotFoundError):
		load_settings("fit", content, check_files=True)


@pytest.mark.parametrize("name", ["a.txt/m", "a.txt/b/m", "folder/"])
def test_a_folder_that_cannot_be_written(tmp_path, name, monkeypatch):
	monkeypatch.chdir(tmp_path)
	Path("a.txt").touch()
	Path("g.fa").write_text(">a\nA\n")
	content = {"sequences": "g.fa", "loci": "g.fa", "signals": "g.fa", "negatives": "g.fa", "name": name}
	with pytest.raises(InputError, match="choose another folder in name"):
		load_settings("fit", content, check_files=True)
	assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "g.fa"]


# Explaining, defaults, schema.


def test_explain_names_the_origin_of_each_value():
	settings = load_settings(
		"pipeline", CONFIGS / "pipeline_good.json", ["fit_parameters.n_layers=3", "dtype=bfloat16"]
	)
	rows = {line.split()[0]: line for line in explain(settings).splitlines()}
	for key, kind in {
		"name": "top level",
		"dtype": "--set",
		"out_window": "default",
		"fit_parameters.n_filters": "fit_parameters",
		"fit_parameters.n_layers": "--set",
		"fit_parameters.batch_size": "top level",
		"fit_parameters.expansion": "default",
		"evaluate_parameters.validation_chroms": "fit_parameters",
		"fit_parameters.evaluate": "pipeline",
	}.items():
		assert rows[key].endswith(f"  {kind}"), rows[key]
	keys = {f"{section}.{key}" for section, (_, model) in SECTIONS.items() for key in model.model_fields}
	assert rows.keys() == keys | TOP_LEVEL


@pytest.mark.parametrize("command", SETTINGS)
def test_defaults_load_once_what_is_required_is_given(command):
	content = defaults(command)
	assert json.loads(json.dumps(content)) == content
	given = {key: "file" for key in SETTINGS[command].required}
	if command == "fit":
		given["negatives"] = "n.bed"
	settings = load_settings(command, {**content, **given})
	assert settings.notices == []
	bare = load_settings(command, given)
	assert settings.model_dump() == bare.model_dump()


@pytest.mark.parametrize("name", ["fit", "evaluate", "attribute", "predict", "negatives", "preprocessing", "pipeline"])
def test_plain_dicts_of_defaults(name):
	assert getattr(plain, f"default_{name}_parameters") == defaults(name)


def test_merge_parameters(tmp_path):
	path = tmp_path / "x.json"
	path.write_text(json.dumps({**FIT, "n_filters": 3, "mine": 1}))
	merged = merge_parameters(path, plain.default_fit_parameters)
	assert merged["n_filters"] == 3 and merged["mine"] == 1 and merged["n_layers"] == 9
	merged["training_chroms"].clear()
	assert plain.default_fit_parameters["training_chroms"]
	assert merge_parameters(FIT, plain.default_fit_parameters)["loci"] == "p.bed"


def test_merge_parameters_names_what_is_missing(tmp_path):
	with pytest.raises(ValueError, match="'loci'"):
		merge_parameters({"sequences": "g.fa", "signals": ["a.bw"]}, plain.default_fit_parameters)
	with pytest.raises(FileNotFoundError):
		merge_parameters(tmp_path / "absent.json", plain.default_fit_parameters)
	assert required_keys({"mine": None, "motifs": None, "n": 3}) == ["mine"]
	assert required_keys(plain.default_pipeline_parameters) == ["sequences", "signals"]


@pytest.mark.parametrize("command", SETTINGS)
def test_the_schema_follows_the_declarations(command):
	model, result = SETTINGS[command], schema(command)
	assert result["title"] == f"cherimoya {command}"
	assert result["properties"].keys() == model.model_fields.keys()
	assert set(result["propertyNames"]["enum"]) >= KNOWN
	assert not {"files", "expects", "split"} & json.loads(json.dumps(result["properties"])).get("loci", {}).keys()
	for row in describe(model):
		declared = result["properties"][row.key]
		assert declared["description"] == row.help
		assert declared.get("default", None) == row.default or row.default is None


def test_a_section_of_the_schema_may_inherit():
	definitions = schema("pipeline")["$defs"]
	options = definitions["FitSettings"]["properties"]["in_window"]["anyOf"]
	assert {"type": "null"} in options and options[0]["minimum"] == 1
	assert "anyOf" not in definitions["FitSettings"]["properties"]["n_filters"]
	assert not accepts_null(FitSettings.model_fields["in_window"])
