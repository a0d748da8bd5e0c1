"""Claims about viz.py, on small synthetic results made with the same code that a run uses."""

import contextlib
import io
import json
import subprocess
import sys
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import stored
from matplotlib.collections import FillBetweenPolyCollection, LineCollection, PathCollection
from PIL import Image

import viz
from core import records, schema
from core.debug_log import messages_at
from measures import metrics, scoring
from reports import curves, style
from reports.verify import BY_LEN, IDENTITY

BLOCKS = 4
LENS = range(3)
TARGETS = 6
CONVERSATIONS = [
    [
        *({"role": ("user", "assistant")[k % 2], "content": f"said {k}"} for k in range(4)),
        {"role": "user", "content": f"question {target}"},
    ]
    for target in range(TARGETS)
]
ROOT = Path(viz.__file__).parent


def label_example(h: int, target: int) -> dict:
    logprobs = {"A": -1.0, "B": -0.5 if (target + h) % 3 == 0 else -1.5}
    best = scoring.best_label(logprobs)
    return {
        "model_prediction": best,
        "expected_answer": "A",
        "label_logprobs": logprobs,
        "score": scoring.label_score(logprobs, "A"),
    }


def text_example(h: int, target: int, metric_name: str = "rouge") -> dict:
    prediction = "a red car by the old house"[: 24 - 3 * h - target]
    references = ["a red car by the house", "the car"]
    return judged_text(prediction, references, metric_name)


def f1_example(h: int, target: int) -> dict:
    return text_example(h, target, "f1")


def number_example(h: int, target: int) -> dict:
    prediction = ("so 18", "#### 18", "no idea", "17")[(h + target) % 4]
    return judged_text(prediction, ["9 * 2 = 18\n#### 18"], "accuracy")


def judged_text(prediction: str, references: list[str], metric_name: str) -> dict:
    scores = scoring.text_scores(prediction, references)
    return {
        "model_prediction": prediction,
        "expected_answer": references[0],
        "references": references,
        **scoring.judge_text(prediction, references, metric_name, scores),
    }


def prompt_of(h: int, target: int) -> str:
    messages = messages_at(CONVERSATIONS[target], h)
    return "".join(f"<{each['role']}>{each['content']}" for each in messages)


@cache
def content_of(make, cosines: bool) -> tuple[list[dict], dict]:
    """Examples and their aggregates; made once, since a bootstrap takes its time."""
    examples = []
    for h in LENS:
        for target in range(TARGETS):
            example = make(h, target) | {
                "prompt_text": prompt_of(h, target),
                "conversation": target,
                "rewritten_messages": 0,
                "intruded": None,
                "config": {"history_len": h, "target_idx": target, "history_idx": list(range(h))},
                "top5": [" A", " B", f" {target % 2}"],
            }
            if cosines:
                line = np.linspace(0.1 * h + 0.01 * target, 1, BLOCKS)
                example |= {"cosines": line.tolist(), "cosines_centred": (line / 2).tolist()}
                example["drift"] = (1 - h * line / 9).tolist()
                example |= {"agree": [0, 0, int(target > h), 1], "decision_layer": 3 + target % 2}
                if make is label_example:
                    example["margin"] = [*np.sin(line[:-1] + target).tolist(), None]
            examples.append(example)
    return examples, metrics.aggregate(examples, metric_of(make))


def metric_of(make) -> str:
    return {text_example: "rouge", f1_example: "f1"}.get(make, "accuracy")


def write_pair(
    out_dir: Path,
    model: str = "org/name",
    target: str = "quiz/test",
    distractor: str = "posts/test",
    *,
    make=label_example,
    cosines: bool = True,
) -> Path:
    """Write a result and its debug log; returns the path of the log."""
    examples, aggregates = content_of(make, cosines)
    identity = {"model": model, "target": target, "distractor": distractor}
    identity["metric_name"] = metric_of(make)
    task = {"name": "quiz", "labels": []}
    config = {"tasks": {"target": task, "distractor": task}}
    rest = {"schema_version": schema.SCHEMA_VERSION, "config": config, "environment": {}}
    path = records.result_path(out_dir, model, target, distractor)
    log = identity | {"conversations": CONVERSATIONS, "debug_examples": examples}
    log |= {"schema_version": schema.SCHEMA_VERSION}
    stored.write_pair(path, identity | aggregates | rest, log)
    return records.debug_path(path)


def edit(path: Path, *keys, value) -> None:
    """Replace one value inside a JSON file."""
    content = json.loads(path.read_text())
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(content))


def without(path: Path, *keys) -> None:
    """Delete one value inside a JSON file."""
    content = json.loads(path.read_text())
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    del inner[keys[-1]]
    path.write_text(json.dumps(content))


def seal(path: Path) -> None:
    """Give an edited file the digest of what it holds now."""
    records.write_json(path, records.read_json(path))


def verify(*logs: Path) -> int:
    return viz.main(["verify", "--debug_file", *map(str, logs)])


def mismatches(capsys) -> list[str]:
    """Lines of quantities that do not verify, but for the digests, which any edit changes."""
    lines = [line for line in capsys.readouterr().out.splitlines() if "MISMATCH (" in line]
    return [line for line in lines if "_sha256" not in line]


def draw(results: Path, plots: Path) -> int:
    return viz.main(["metric", "--result_dir", str(results), "--out_dir", str(plots)])


def complains(capsys, *words: str) -> bool:
    """True where stderr is one or two plain lines with these words in them."""
    text = capsys.readouterr().err
    assert "Traceback" not in text
    assert text.startswith("error: ")
    assert len(text.splitlines()) <= 2
    return all(word in text for word in words)


# --- verify


@pytest.mark.parametrize("cosines", [True, False])
@pytest.mark.parametrize("make", [label_example, text_example, f1_example, number_example])
def test_verify_passes_on_what_a_run_writes(tmp_path, capsys, make, cosines):
    log = write_pair(tmp_path, make=make, cosines=cosines)
    assert verify(log) == 0
    text = capsys.readouterr().out
    assert "MISMATCH" not in text
    quantities = {line.split()[0] for line in text.splitlines()[1:-1]}
    expected = {*IDENTITY, *BY_LEN, "score"} - set(schema.SOMETIMES)
    expected |= {"intruded", "rewritten_messages"}
    expected |= {records.DIGEST, records.DIGEST_OF_LOG}
    if make is label_example:
        expected |= {"model_prediction", "ties_by_len"}
    else:
        expected |= {"scores", "scores_by_len"}
    if make is number_example:
        expected |= {"extracted", "format_failure", "format_failures_by_len"}
    if cosines:
        expected |= set(schema.LAYER_KEYS) - (set() if make is label_example else {"margin_by_len"})
    assert quantities == expected


def test_verify_prints_stored_and_recomputed_side_by_side(tmp_path, capsys):
    log = write_pair(tmp_path)
    edit(records.result_of_debug(log), "metric_by_len", "1", value=0.125)
    assert verify(log) == 1
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines]
    (row,) = [row for row in rows if row[:2] == ["metric_by_len", "1"]]
    assert row[2:] == ["1", "0.125", "0.666666667", "5e-01", "MISMATCH", "(1)"]
    assert "MISMATCH in 2 of" in lines[-1]  # the digest is the other


EDITS_OF_RESULT = {
    "metric": ("metric_by_len", "2", 0.1),
    "metric by 2e-6": ("metric_by_len", "0", 2 / 3 + 2e-6),
    "cosine": ("cos_by_len", "1", 2, 0.5),
    "cosines of one length gone": ("cos_by_len", {}),
    "top-5 count": ("debug_top5_by_len", "0", 0, 1, 5),
    "top-5 token": ("debug_top5_by_len", "0", 0, 0, " C"),
    "top-5 of one length gone": ("debug_top5_by_len", {}),
    "interval": ("stats_by_len", "1", "low", 0.0),
    "change in points": ("stats_by_len", "2", "change_points", 1.0),
    "percent change nulled": ("stats_by_len", "2", "percent_change", None),
    "percent interval": ("stats_by_len", "1", "percent_change_high", 1.0),
    "test": ("stats_by_len", "1", "test", "guess"),
    "p-value": ("stats_by_len", "1", "p_value", 0.04),
    "corrected p-value": ("stats_by_len", "1", "p_holm", 0.04),
    "detectable change": ("stats_by_len", "1", "detectable_points", 1.0),
    "clusters": ("stats_by_len", "1", "clusters", {"unit": "targets", "count": 5}),
    "targets": ("stats_by_len", "1", "n_targets", 5),
    "n": ("n", 7),
    "model": ("model", "org/other"),
    "target": ("target", "quiz/dev"),
    "distractor": ("distractor", "posts/dev"),
    "metric name": ("metric_name", "rouge"),
}


@pytest.mark.parametrize("where", EDITS_OF_RESULT.values(), ids=EDITS_OF_RESULT)
def test_one_edited_number_of_the_result_is_a_mismatch(tmp_path, capsys, where):
    log = write_pair(tmp_path)
    *keys, value = where
    edit(records.result_of_debug(log), *keys, value=value)
    assert verify(log) == 1
    rows = mismatches(capsys)
    assert rows and all(line.startswith(keys[0]) for line in rows)


EDITS_OF_TEXT_RESULT = {
    "mean of a score": (text_example, "scores_by_len", "1", "rouge2", 0.5),
    "one score gone": (text_example, "scores_by_len", {}),
    "metric of both": (f1_example, "metric_name", "rouge"),
    "format failures": (number_example, "format_failures_by_len", "2", 0),
    "no format failures": (number_example, "format_failures_by_len", {}),
}


@pytest.mark.parametrize("edited", EDITS_OF_TEXT_RESULT.values(), ids=EDITS_OF_TEXT_RESULT)
def test_one_edited_number_about_texts_is_a_mismatch(tmp_path, capsys, edited):
    make, *keys, value = edited
    log = write_pair(tmp_path, make=make)
    edit(records.result_of_debug(log), *keys, value=value)
    assert verify(log) == 1
    assert all(line.startswith(keys[0]) for line in mismatches(capsys))


@pytest.mark.parametrize(
    ("make", "name"), [(label_example, "f1"), (text_example, "f1"), (number_example, "rouge")]
)
def test_another_metric_in_both_files_is_a_mismatch(tmp_path, make, name):
    log = write_pair(tmp_path, make=make)
    for path in (log, records.result_of_debug(log)):
        edit(path, "metric_name", value=name)
    assert verify(log) == 1


def test_an_unknown_metric_is_two_plain_lines_and_status_2(tmp_path, capsys):
    log = write_pair(tmp_path, make=text_example)
    edit(log, "metric_name", value="bleu")
    assert verify(log) == 2
    assert complains(capsys, "is damaged", "bleu")


@pytest.mark.parametrize("value", [[], {"f1": 1}, {"0": {}, "1": {}}, {"0": [10**400]}])
def test_scores_that_are_no_numbers_by_length_are_not_verified(tmp_path, value):
    log = write_pair(tmp_path, make=text_example)
    edit(records.result_of_debug(log), "scores_by_len", value=value)
    assert verify(log) in (1, 2)


def test_a_mismatch_of_statistics_names_the_field(tmp_path, capsys):
    log = write_pair(tmp_path)
    edit(records.result_of_debug(log), "stats_by_len", "1", "change_points_high", value=99.0)
    assert verify(log) == 1
    assert "stats_by_len change_points_high" in capsys.readouterr().out


def test_a_message_that_is_not_in_the_prompt_is_a_mismatch(tmp_path, capsys):
    log = write_pair(tmp_path)
    edit(log, "conversations", 1, 2, "content", value="something else")  # read from h = 2 on
    assert verify(log) == 1
    rows = [line.split() for line in mismatches(capsys)]
    assert [(row[0], row[4]) for row in rows] == [("rewritten_messages", "2")]


EDITS_OF_LOG = {
    "score": (label_example, "score", 0.25, "score"),
    "label prediction": (label_example, "model_prediction", "C", "model_prediction"),
    "log-probabilities": (label_example, "label_logprobs", {"A": -9, "B": -1}, "model_prediction"),
    "expected answer": (label_example, "expected_answer", "B", "score"),
    "top 5": (label_example, "top5", [" x", " y"], "debug_top5_by_len"),
    "cosines": (label_example, "cosines", [0.0, 0.0, 0.0, 1.0], "cos_by_len"),
    "rouge score": (text_example, "score", 0.25, "score"),
    "text": (text_example, "model_prediction", "something else", "score"),
    "references": (text_example, "references", ["something else"], "score"),
    "one of the scores": (text_example, "scores", {"f1": 0.25}, "scores"),
    "f1": (f1_example, "score", 0.25, "score"),
    "prompt": (label_example, "prompt_text", "<user>question 1", "rewritten_messages"),
    "conversation": (label_example, "conversation", 2, "rewritten_messages"),
    "number": (number_example, "extracted", "3", "extracted"),
    "format failure": (number_example, "format_failure", False, "format_failure"),
    "text of a number": (number_example, "model_prediction", "19", "extracted"),
}


@pytest.mark.parametrize("make, key, value, quantity", EDITS_OF_LOG.values(), ids=EDITS_OF_LOG)
def test_one_edited_value_of_an_example_is_a_mismatch(tmp_path, capsys, make, key, value, quantity):
    log = write_pair(tmp_path, make=make)
    edit(log, "debug_examples", 7, key, value=value)
    assert verify(log) == 1
    rows = [line for line in capsys.readouterr().out.splitlines() if "MISMATCH" in line]
    assert any(line.startswith(quantity) for line in rows)
    if quantity in ("score", "model_prediction"):
        assert any("of example 7 " in line for line in rows)


def test_aggregates_follow_from_the_recomputed_scores_not_from_the_logged_ones(tmp_path, capsys):
    log = write_pair(tmp_path)
    edit(log, "debug_examples", 7, "score", value=0.25)
    assert verify(log) == 1
    assert [row.split()[0] for row in mismatches(capsys)] == ["score"]


def test_an_example_that_was_taken_out_is_a_mismatch(tmp_path, capsys):
    log = write_pair(tmp_path)
    without(log, "debug_examples", 8)
    assert verify(log) == 1
    assert "not the same targets at every history length" in capsys.readouterr().out


def test_ragged_cosines_are_a_mismatch(tmp_path):
    log = write_pair(tmp_path)
    edit(log, "debug_examples", 8, "cosines", value=[0.0, 1.0])
    assert verify(log) == 1


READERS = ("metric", "layers", "table", "grid", "report", "verify")


@pytest.mark.parametrize("command", READERS)
def test_an_older_result_is_one_line_that_says_how_to_make_it_again(tmp_path, capsys, command):
    log = write_pair(tmp_path)
    without(log, "conversations")
    for path in (log, records.result_of_debug(log)):
        edit(path, "schema_version", value=2)
    place = ["--debug_file", log] if command == "verify" else ["--result_dir", tmp_path]
    assert viz.main([str(word) for word in (command, *place)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "has schema version 2, and 3 is needed" in line and "--overwrite" in line


def damage_json(log: Path) -> None:
    log.write_text(log.read_text()[:-40])


def damage_result(log: Path) -> None:
    records.result_of_debug(log).write_text("[]")


def put_nan(log: Path) -> None:
    edit(records.result_of_debug(log), "metric_by_len", "1", value=float("nan"))


def drop_result(log: Path) -> None:
    records.result_of_debug(log).unlink()


def drop_log(log: Path) -> None:
    log.unlink()


def drop_key_of_result(log: Path) -> None:
    without(records.result_of_debug(log), "stats_by_len")


def drop_label_logprobs(log: Path) -> None:
    without(log, "debug_examples", 3, "label_logprobs")


def drop_what_scores(log: Path) -> None:
    without(log, "debug_examples", 0, "label_logprobs")


def null_logprob(log: Path) -> None:
    edit(log, "debug_examples", 3, "label_logprobs", "A", value=None)


def odd_history_len(log: Path) -> None:
    edit(log, "debug_examples", 3, "config", "history_len", value="one")


DAMAGES = [
    damage_json, damage_result, put_nan, drop_result, drop_log, drop_key_of_result,
    drop_label_logprobs, drop_what_scores, null_logprob, odd_history_len,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_or_missing_file_is_two_plain_lines_and_status_2(tmp_path, capsys, damage):
    log = write_pair(tmp_path)
    damage(log)
    assert verify(log) == 2
    assert complains(capsys, str(log.parent))


def test_a_text_without_a_reference_is_two_plain_lines_and_status_2(tmp_path, capsys):
    log = write_pair(tmp_path, make=text_example)
    for damage in (without, partial(edit, value=None), partial(edit, value=[None])):
        damage(log, "debug_examples", 3, "references")
        assert verify(log) == 2
        assert complains(capsys, str(log))


def test_a_result_given_for_a_log_is_refused(tmp_path, capsys):
    log = write_pair(tmp_path)
    assert verify(records.result_of_debug(log)) == 2
    assert complains(capsys, "is not a debug log")


def test_a_log_that_is_not_there_is_named_as_it_was_given(tmp_path, capsys):
    assert verify(tmp_path / "no_debug.json") == 2
    assert complains(capsys, f"there is no debug log {tmp_path}/no_debug.json.")


def test_a_damaged_file_does_not_hide_the_others(tmp_path, capsys):
    bad, wrong, good = (write_pair(tmp_path, distractor=f"{name}/test") for name in "abc")
    damage_json(bad)
    edit(wrong, "debug_examples", 0, "score", value=0.5)
    assert verify(bad, wrong, good) == 2
    text = capsys.readouterr().out
    assert f"{wrong}: MISMATCH" in text
    assert f"{good}: ok" in text


# --- metric


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Folder of figures, and what was printed: two distractors, layers read under one of them."""
    folder = tmp_path_factory.mktemp("drawn")
    write_pair(folder / "results", distractor="posts/test")
    write_pair(folder / "results", distractor="quiz/test", cosines=False)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert draw(folder / "results", folder / "deep" / "plots") == 0
    return folder / "deep" / "plots", printed.getvalue()


def test_metric_writes_each_figure_thrice_and_no_cosines_where_none_were_read(drawn):
    kinds = ("metric", "change", "cosine_posts_test")
    expected = {f"org@name__quiz_test__{k}.{end}" for k in kinds for end in ("pdf", "svg", "png")}
    assert {path.name for path in drawn[0].iterdir()} == expected


def test_every_written_path_is_printed(drawn):
    plots, printed = drawn
    assert sorted(map(Path, printed.splitlines())) == sorted(plots.iterdir())


def test_png_has_150_dpi_or_more_and_pdf_embeds_truetype_fonts(drawn):
    for png in drawn[0].glob("*.png"):
        assert round(Image.open(png).info["dpi"][0]) >= 150
        pdf = png.with_suffix(".pdf").read_bytes()
        assert b"/FontFile2" in pdf
        assert b"/Type3" not in pdf


def test_models_and_targets_are_never_mixed(tmp_path):
    for model, target in (("org/a", "quiz/test"), ("org/b", "quiz/test"), ("org/a", "mmlu/test")):
        write_pair(tmp_path, model, target)
    groups = curves.load_groups([tmp_path])
    assert [tuple(group.names.values()) for group in groups] == [
        ("org/a", "mmlu/test"),
        ("org/a", "quiz/test"),
        ("org/b", "quiz/test"),
    ]
    for group in groups:
        for result in group.lines.values():
            assert {field: result[field] for field in group.names} == group.names
    stems = [drawn.stem for drawn in curves.metric_figures(groups)]
    assert len(set(stems)) == len(stems) == 6


def test_the_folder_is_named_by_nobody_but_the_result(tmp_path):
    log = write_pair(tmp_path)
    moved = tmp_path / "elsewhere" / "x.json"
    moved.parent.mkdir()
    records.result_of_debug(log).rename(moved)
    log.rename(records.debug_path(moved))
    [group] = curves.load_groups([tmp_path])
    assert group.names == {"model": "org/name", "target": "quiz/test"}


def test_two_results_of_one_pair_are_refused_and_both_named(tmp_path, capsys):
    logs = [write_pair(tmp_path / name) for name in ("fp32", "fp16")]
    assert draw(tmp_path, tmp_path / "plots") == 2
    assert complains(capsys, *(str(records.result_of_debug(log)) for log in logs))


def test_two_figures_of_one_name_are_refused(tmp_path, capsys):
    write_pair(tmp_path, "org/name", cosines=False)
    write_pair(tmp_path / "other", "org@name", cosines=False)
    assert draw(tmp_path, tmp_path / "plots") == 2
    assert complains(capsys, "same name")


@pytest.mark.parametrize("folder", ["empty", "missing"])
def test_a_folder_without_results_is_refused(tmp_path, capsys, folder):
    (tmp_path / "empty").mkdir()
    assert draw(tmp_path / folder, tmp_path / "plots") == 2
    assert complains(capsys, folder)
    assert not (tmp_path / "plots").exists()


@pytest.mark.parametrize(
    "part", ["measures.metrics.aggregate_examples", "reports.curves.draw_line"]
)
def test_a_fault_of_our_own_is_not_blamed_on_a_file(tmp_path, monkeypatch, part):
    def faulty(*arguments, **settings):
        raise KeyError("of ours")

    log = write_pair(tmp_path)
    monkeypatch.setattr(part, faulty)
    with pytest.raises(KeyError, match="of ours"):
        draw(tmp_path, tmp_path / "plots") if "draw" in part else verify(log)


def test_an_out_dir_that_is_a_file_is_refused(tmp_path, capsys):
    write_pair(tmp_path / "results")
    (tmp_path / "plots").write_text("")
    assert draw(tmp_path / "results", tmp_path / "plots") == 2
    assert complains(capsys, "plots")


# --- what the figures show


@pytest.fixture(autouse=True)
def settings():
    """Figures are made under the settings that they are saved with."""
    with style.sheet():
        yield


def figures_of(folder: Path) -> dict:
    """Figures by the last part of their stem; for a folder of one model and target."""
    drawn = curves.metric_figures(curves.load_groups([folder]))
    return {stem.split("__")[-1]: figure for stem, figure, *_ in drawn}


def test_metric_figure_shows_the_stored_values_and_intervals(tmp_path):
    log = write_pair(tmp_path)
    result = records.read_result(records.result_of_debug(log))
    (axes,) = figures_of(tmp_path)["metric"].axes
    (line,) = axes.lines
    assert list(line.get_ydata()) == list(result["metric_by_len"].values())
    ends = [(of_len["low"], of_len["high"]) for of_len in result["stats_by_len"].values()]
    assert bands_of(axes) == [ends]


def bands_of(axes) -> list[list[tuple[float, float]]]:
    """Lower and upper end at each history length of the bands on these axes."""
    bands = [band for band in axes.collections if isinstance(band, FillBetweenPolyCollection)]
    shapes = [band.get_paths()[0].vertices for band in bands]
    lengths = [sorted(set(shape[:, 0].tolist())) for shape in shapes]
    return [
        [tuple(np.sort(shape[shape[:, 0] == h, 1])[[0, -1]].tolist()) for h in row]
        for shape, row in zip(shapes, lengths)
    ]


def test_many_lines_have_bars_for_bands(tmp_path):
    for name in "abcd":
        log = write_pair(tmp_path, distractor=f"{name}/test")
    (axes,) = figures_of(tmp_path)["metric"].axes
    assert not bands_of(axes)
    bars = [found for found in axes.collections if isinstance(found, LineCollection)]
    stats = records.read_result(records.result_of_debug(log))["stats_by_len"].values()
    for found in bars:
        ends = [segment[:, 1].tolist() for segment in found.get_segments()]
        assert ends == [[of_len["low"], of_len["high"]] for of_len in stats]
    assert len(bars) == 4


def test_change_figure_has_the_stored_interval(tmp_path):
    log = write_pair(tmp_path)
    stats = records.read_result(records.result_of_debug(log))["stats_by_len"].values()
    (axes,) = figures_of(tmp_path)["change"].axes
    names = ("percent_change_low", "percent_change_high")
    assert bands_of(axes) == [[tuple(of_len[name] for name in names) for of_len in stats]]


def test_points_that_survive_the_correction_are_filled_and_the_legend_says_so(tmp_path):
    result = records.result_of_debug(write_pair(tmp_path))
    for h, p in (("1", 0.049), ("2", 0.05)):
        edit(result, "stats_by_len", h, "p_value", value=0.0001)
        edit(result, "stats_by_len", h, "p_holm", value=p)
    seal(result)
    for name in ("metric", "change"):
        figure = figures_of(tmp_path)[name]
        (axes,) = figure.axes
        filled = [dots for dots in axes.collections if isinstance(dots, PathCollection)]
        (points,) = [dots.get_offsets().tolist() for dots in filled]
        assert points == [[1, axes.lines[0].get_ydata()[1]]]
        assert axes.lines[0].get_markerfacecolor() == "white"
        assert "filled: p < 0.05" in figure.legends[0].get_title().get_text()


def test_lines_of_distractors_stay_near_their_history_length_and_apart(tmp_path):
    for name in "abcd":
        write_pair(tmp_path, distractor=f"{name}/test")
    (axes,) = figures_of(tmp_path)["metric"].axes
    x = np.array([line.get_xdata() for line in axes.lines])
    assert np.abs(x - np.arange(3)).max() < 0.5
    assert np.diff(x, axis=0).min() > 0.05
    assert len({line.get_color() for line in axes.lines}) == 4
    assert len({line.get_marker() for line in axes.lines}) == 4


def test_a_distractor_looks_the_same_in_every_figure(tmp_path):
    write_pair(tmp_path, "org/a", distractor="b/test")
    for distractor in ("a/test", "b/test"):
        write_pair(tmp_path, "org/b", distractor=distractor)
    groups = curves.load_groups([tmp_path])
    drawn = {stem: figure for stem, figure, *_ in curves.metric_figures(groups)}
    alone = drawn["org@a__quiz_test__metric"].axes[0].lines[0]
    second = drawn["org@b__quiz_test__change"].axes[0].lines[1]
    assert alone.get_color() == second.get_color()
    assert alone.get_marker() == second.get_marker()


def test_a_percentage_change_of_null_is_a_gap_with_its_reason_and_never_zero(tmp_path):
    write_pair(tmp_path, distractor="posts/test")
    result = records.result_of_debug(write_pair(tmp_path, distractor="quiz/test"))
    edit(result, "stats_by_len", "1", "percent_change", value=None)
    edit(result, "stats_by_len", "1", "percent_change_reason", value="the metric is 0 at h = 0")
    seal(result)
    (axes,) = figures_of(tmp_path)["change"].axes
    whole, broken, zero = axes.lines
    assert np.isfinite(whole.get_ydata()).all()
    assert np.isnan(broken.get_ydata()).tolist() == [False, True, False]
    assert list(zero.get_ydata()) == [0, 0]
    assert "gaps because the metric is 0 at h = 0: quiz/test" in note_of(axes.figure)


def test_an_interval_of_null_is_left_out_with_its_reason(tmp_path):
    result = records.result_of_debug(write_pair(tmp_path))
    for end in ("low", "high"):
        edit(result, "stats_by_len", "2", f"percent_change_{end}", value=None)
        edit(result, "stats_by_len", "2", f"percent_change_{end}_reason", value="of rain")
    seal(result)
    (axes,) = figures_of(tmp_path)["change"].axes
    assert np.isfinite(axes.lines[0].get_ydata()).all()
    assert "no interval because of rain: posts/test (h = 2)" in note_of(axes.figure)


def test_an_interval_between_two_of_null_is_a_bar(tmp_path):
    result = records.result_of_debug(write_pair(tmp_path))
    for h in "02":
        for end in ("low", "high"):
            edit(result, "stats_by_len", h, end, value=None)
    seal(result)
    (axes,) = figures_of(tmp_path)["metric"].axes
    (bar,) = [found for found in axes.collections if isinstance(found, LineCollection)]
    of_len = records.read_result(result)["stats_by_len"]["1"]
    assert [s.tolist() for s in bar.get_segments()] == [[[1, of_len["low"]], [1, of_len["high"]]]]


def note_of(figure) -> str:
    """What is written about the lines, in one line."""
    return " ".join(figure.legends[0].get_title().get_text().split())


def test_no_note_where_nothing_is_missing(tmp_path):
    write_pair(tmp_path)
    note = note_of(figures_of(tmp_path)["change"])
    assert "because" not in note


def test_units_and_n_are_written_on_every_figure(tmp_path):
    write_pair(tmp_path, make=text_example)
    drawn = figures_of(tmp_path)
    assert "ROUGE-L F1" in drawn["metric"].axes[0].get_ylabel()
    assert "(%)" in drawn["change"].axes[0].get_ylabel()
    for name, figure in drawn.items():
        legend = " ".join(text.get_text() for text in figure.legends[0].get_texts())
        assert f"n = {TARGETS}" in legend.replace("\N{NO-BREAK SPACE}", " "), name


@pytest.mark.parametrize("distractors", [1, 3, 9])
def test_the_legend_never_covers_the_axes(tmp_path, distractors):
    for number in range(distractors):
        write_pair(tmp_path, distractor=f"mmlu.subject_{number}/validation")
    for figure in figures_of(tmp_path).values():
        figure.draw_without_rendering()
        legend = figure.legends[0].get_window_extent()
        assert not legend.overlaps(figure.axes[0].get_window_extent())
        assert figure.bbox.x0 <= legend.x0 and legend.x1 <= figure.bbox.x1


# --- the program


@pytest.mark.parametrize("make", [label_example, text_example])
def test_verify_loads_neither_torch_nor_transformers(tmp_path, make):
    log = write_pair(tmp_path, make=make, cosines=False)
    assert not {"torch", "transformers"} & loaded_by("verify", "--debug_file", str(log))


def test_metric_loads_neither_torch_nor_scipy_nor_what_scores(tmp_path):
    write_pair(tmp_path, cosines=False)
    loaded = loaded_by("metric", "--result_dir", str(tmp_path), "--out_dir", str(tmp_path))
    assert "matplotlib" in loaded
    assert not {"torch", "transformers", "scipy", "evaluate"} & loaded


def test_help_loads_nothing_heavy():
    assert not {"torch", "transformers", "scipy", "evaluate", "matplotlib"} & loaded_by("--help")


def loaded_by(*argv: str) -> set[str]:
    """Names of the modules that a run of viz.py has loaded when it ends."""
    code = (
        "import atexit, sys, viz\n"
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
        f"assert viz.main({list(argv)!r}) == 0\n"
    )
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stderr.splitlines()[-1].split())


def test_an_unknown_flag_or_no_command_ends_with_status_2():
    for argv in ([], ["metric"], ["verify", "--debug_file", "x", "--no_such_flag"]):
        with pytest.raises(SystemExit) as stopped:
            viz.main(argv)
        assert stopped.value.code == 2
