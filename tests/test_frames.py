"""Claims about results and prompts as tables: every number of the files, under its own name."""

import json
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
from runs import result_of, run

import viz
from core import log_files, records
from reports import tables

FIELDS = ["model", "target", "distractor", "history", "seed"]


@pytest.fixture(scope="module")
def out(tmp_path_factory, model):
    folder = tmp_path_factory.mktemp("frames")
    flags = ["--effects", "--effect_lengths", "all", "--scoring", "both", "--switch_cue", "Now:"]
    assert run(folder, model, ["reviews", "posts"], ["reviews", "quiz"], *flags) == 0
    return folder


@pytest.fixture(scope="module")
def frame(out):
    return records.load_frame(out)


def rows(frame, target, distractor, h, measure):
    held = (frame.target == f"{target}/test") & (frame.distractor == f"{distractor}/test")
    return frame[held & (frame.h == h) & (frame.measure == measure)]


def numbers_in(value):
    """How many numbers and nulls stand in a result, the ends of intervals apart."""
    if isinstance(value, dict):
        return sum(map(numbers_in, value.values()))
    if isinstance(value, list):
        return sum(map(numbers_in, value))
    return isinstance(value, bool | int | float)


def test_the_frame_agrees_with_the_table_of_results(out, frame):
    table = tables.make_frame(records.load_results([out]))
    metric = frame[frame.measure == "metric"].reset_index(drop=True)
    same = ["model", "target", "distractor", "h", "metric", "value", "low", "high"]
    pandas.testing.assert_frame_equal(metric[same], table[same])
    change = frame[frame.measure == "change_points"].reset_index(drop=True)
    assert change.value.tolist() == pytest.approx(table.change_points.tolist(), nan_ok=True)
    assert change.low.tolist() == pytest.approx(table.change_points_low.tolist(), nan_ok=True)


def test_layers_have_a_row_per_block_with_its_interval(out, frame):
    result = result_of(out, "reviews", "quiz")
    found = rows(frame, "reviews", "quiz", 1, "cos")
    assert found.place.tolist() == [1, 2, 3]
    assert found.value.tolist() == result["cos_by_len"]["1"]
    assert found.low.tolist() == result["layer_stats_by_len"]["1"]["cos"]["low"]
    counts = rows(frame, "reviews", "quiz", 1, "decision_layer.count")
    assert counts.value.tolist() == result["decision_layer_by_len"]["1"]


def test_what_is_nested_has_a_name_of_its_path(out, frame):
    intrusion = result_of(out, "posts", "reviews")["intrusion_by_len"]["1"]
    [rate] = rows(frame, "posts", "reviews", 1, "intrusion.rate").itertuples()
    assert (rate.value, rate.low, rate.high) == tuple(intrusion[k] for k in ("rate", "low", "high"))
    effects = result_of(out, "reviews", "quiz")["effects_by_len"]["1"]
    windows = rows(frame, "reviews", "quiz", 1, "effects.hidden_by_window")
    assert windows.value.tolist() == effects["hidden_by_window"]["mean"]
    last = rows(frame, "reviews", "quiz", 1, "effects.windows.2")
    assert last.value.tolist() == [last for _, last in effects["windows"]]


def test_no_number_of_a_result_is_left_out(out, frame):
    for target in ("reviews", "posts"):
        result = result_of(out, target, "quiz")
        held = frame[(frame.target == f"{target}/test") & (frame.distractor == "quiz/test")]
        given = sum(
            numbers_in(value)
            for name, value in result.items()
            if name.endswith("_by_len") and name != "debug_top5_by_len"
        )
        shown = held[["value", "low", "high"]].notna().sum().sum()
        assert given == shown
        assert not held.duplicated(["h", "measure", "place"]).any()


def test_prompts_are_those_of_the_logs(out):
    frame = log_files.load_examples(out)
    results = records.load_results([out])
    logs = [records.read_debug(records.debug_path(Path(r["path"]))) for r in results.values()]
    examples = [example for log in logs for example in log["debug_examples"]]
    assert frame.prompt_text.tolist() == [each["prompt_text"] for each in examples]
    assert frame.score.tolist() == [each["score"] for each in examples]
    assert frame.history_seed.tolist() == [each["config"]["seed"] for each in examples]
    means = frame.groupby(["target", "distractor", "h"]).score.mean()
    for result in results.values():
        for h, value in result["metric_by_len"].items():
            assert means[result["target"], result["distractor"], int(h)] == pytest.approx(value)


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_export_writes_a_row_per_prompt(out, tmp_path, capsys, form):
    file = tmp_path / f"rows.{form}"
    flags = ["--result_dir", out, "--format", form, "--out", file]
    assert viz.main(["export", *map(str, flags)]) == 0
    assert capsys.readouterr().out == f"{file}\n"
    read = pandas.read_parquet(file) if form == "parquet" else pandas.read_csv(file)
    whole = log_files.load_examples(out)
    assert list(read.columns) == list(whole.columns)
    assert read.prompt_text.tolist() == whole.prompt_text.tolist()
    labels = [text for text in read.label_logprobs if isinstance(text, str)]
    assert list(map(json.loads, labels)) == [v for v in whole.label_logprobs if isinstance(v, dict)]
    cosines = read.cosines if form == "parquet" else read.cosines.map(json.loads)
    assert list(cosines[0]) == whole.cosines[0]


def test_a_result_folder_without_results_is_refused(tmp_path, capsys):
    assert viz.main(["export", "--result_dir", str(tmp_path)]) == 2
    assert "no results below" in capsys.readouterr().err


def test_pandas_is_loaded_when_it_is_asked_for():
    code = "import sys; from core import records; print(*sys.modules)"
    root = Path(viz.__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert "pandas" not in done.stdout.split()
