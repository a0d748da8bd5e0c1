"""Claims about tasks of one's own and about texts, end to end: from a task file to figures."""

import re

import hub
import pandas
import pytest
from runs import assert_same_examples, examples_of, listed, path_of, result_of, run

import data
import experiment
import viz
from core import records, schema
from tasks import spec

OWN = """
moods:
  source: rows.{ending}
  prompt: "Mood of: {{text}}"
  reference: mood
  labels: [low, high]
sums:
  source: rows.{ending}
  prompt: "Sum of: {{text}}"
  reference: sum
  extract: number
  max_new_tokens: 3
echo:
  source: rows.{ending}
  prompt: "Echo: {{text}}"
  reference: text
  metric: exact_match
"""
OWN_ROWS = [{"text": f"t{i}", "mood": i % 2, "sum": f"#### {i}"} for i in range(6)]
WRITE = {
    "csv": lambda path: pandas.DataFrame(OWN_ROWS).to_csv(path, index=False),
    "jsonl": lambda path: pandas.DataFrame(OWN_ROWS).to_json(path, orient="records", lines=True),
    "parquet": lambda path: pandas.DataFrame(OWN_ROWS).to_parquet(path),
}


def write_own(folder, ending="jsonl"):
    """A task file with its rows beside it."""
    WRITE[ending](folder / f"rows.{ending}")
    (folder / "own.yaml").write_text(OWN.format(ending=ending))
    return folder / "own.yaml"


def run_own(folder, model, target, distractor, *flags):
    pair = ["--target", *listed(target), "--distractor", *listed(distractor)]
    where = ["--model", model, "--out_dir", folder / "out", "--task_file", folder / "own.yaml"]
    small = ["--max_len", 1, "--device", "cpu", *flags]
    return experiment.main([str(flag) for flag in [*where, *pair, *small]])


@pytest.mark.parametrize("ending", WRITE)
def test_tasks_of_a_file_run_as_target_and_distractor_and_verify(tmp_path, model, ending):
    write_own(tmp_path, ending)
    assert run_own(tmp_path, model, ["moods", "sums", "echo"], ["sums", "quiz"]) == 0
    logs = []
    for target in ("moods", "sums", "echo"):
        for distractor in ("sums", "quiz"):
            result = result_of(tmp_path / "out", target, distractor)
            assert (result["n"], list(result["metric_by_len"])) == (6, ["0", "1"])
            logs.append(str(records.debug_path(path_of(tmp_path / "out", target, distractor))))
    assert viz.main(["verify", "--debug_file", *logs]) == 0
    assert viz.main(["table", "--result_dir", str(tmp_path / "out")]) == 0


def test_what_a_file_says_of_a_task_is_in_the_result_and_reaches_the_model(tmp_path, model):
    write_own(tmp_path)
    assert run_own(tmp_path, model, ["sums", "echo"], "moods") == 0
    sums, echo = (result_of(tmp_path / "out", name, "moods") for name in ("sums", "echo"))
    assert (sums["metric_name"], echo["metric_name"]) == ("accuracy", "exact_match")
    assert sums["config"]["task_file"] == str(tmp_path / "own.yaml")
    described = sums["config"]["tasks"]
    assert described["target"]["prompt"] == "Sum of: {text}"
    assert described["target"]["source"] == "rows.jsonl"
    assert described["distractor"]["labels"] == ["low", "high"]
    assert [r["config"]["max_new_tokens"] for r in (sums, echo)] == [3, 32]
    longest = [
        max(len(example["model_prediction"]) for example in examples_of(tmp_path / "out", *pair))
        for pair in (("sums", "moods"), ("echo", "moods"))
    ]
    assert longest[0] < longest[1] / 3  # characters


def test_format_failures_are_counted_apart_from_wrong_numbers(tmp_path, model):
    write_own(tmp_path)
    assert run_own(tmp_path, model, ["sums", "echo", "moods"], "moods", "--no_cosine") == 0
    result, examples = (of(tmp_path / "out", "sums", "moods") for of in (result_of, examples_of))
    for h, count in result["format_failures_by_len"].items():
        failed = [e["format_failure"] for e in examples if str(e["config"]["history_len"]) == h]
        assert count == sum(failed)
    assert all(
        example["format_failure"] == (not re.search("[0-9]", example["model_prediction"]))
        for example in examples
    )
    for name in ("echo", "moods"):
        assert result_of(tmp_path / "out", name, "moods")["format_failures_by_len"] == {}


def test_every_text_has_every_score_and_the_metric_picks_the_headline(tmp_path, model):
    write_own(tmp_path)
    assert run_own(tmp_path, model, "echo", "moods") == 0
    result, examples = (of(tmp_path / "out", "echo", "moods") for of in (result_of, examples_of))
    for h, scores in result["scores_by_len"].items():
        assert list(scores) == list(schema.TEXT_SCORES)
        assert scores["exact_match"] == result["metric_by_len"][h]
    assert all(example["score"] == example["scores"]["exact_match"] for example in examples)
    assert "Wilson" in result["stats_by_len"]["0"]["interval"]


def test_other_labels_of_the_distractor_are_changed_settings(tmp_path, model, capsys):
    path = write_own(tmp_path)
    assert run_own(tmp_path, model, "echo", "moods") == 0
    written = path.read_text()
    path.write_text(re.sub(r"(?m)^(  labels: \[.*)\]", r"\1, another]", written))
    assert path.read_text() != written
    assert run_own(tmp_path, model, "echo", "moods") == 2
    assert "other settings: distractor_labels [" in capsys.readouterr().err


def test_a_changed_task_file_is_seen_as_changed_settings(tmp_path, model, capsys):
    path = write_own(tmp_path)
    assert run_own(tmp_path, model, "echo", "moods") == 0
    written = path.read_text()
    for old, new, setting in (
        ("Echo:", "Say:", "target_rows"),
        ("exact_match", "f1", "target_metric"),
        ("Mood of", "The mood of", "distractor_rows"),
    ):
        path.write_text(written.replace(old, new))
        assert run_own(tmp_path, model, "echo", "moods") == 2
        assert f"other settings: {setting}" in capsys.readouterr().err
    path.write_text("# the same tasks, one line further down\n" + written)
    assert run_own(tmp_path, model, "echo", "moods") == 0
    assert "All results exist already" in capsys.readouterr().out


@pytest.mark.parametrize("engine", ["tree", "plain"])
def test_a_task_has_the_same_answers_alone_and_beside_tasks_of_other_limits(
    tmp_path, model, engine
):
    for name, targets in (("one", ["sums"]), ("two", ["sums", "echo"])):
        (tmp_path / name).mkdir()
        write_own(tmp_path / name)
        assert run_own(tmp_path / name, model, targets, "moods", "--engine", engine) == 0
    alone, beside = (
        examples_of(tmp_path / name / "out", "sums", "moods") for name in ("one", "two")
    )
    assert_same_examples(alone, beside)


@pytest.mark.parametrize("name", ["gigaword", "cnn_dailymail", "gsm8k"])
def test_the_text_tasks_run_from_a_data_root(tmp_path, model, name):
    flags = ["--data_root", hub.write_all(tmp_path / "data")]
    assert run(tmp_path, model, name, "tweetqa", *flags) == 0
    [path] = (tmp_path / f"tiny-llama__{name}").glob("*_debug.json")
    assert viz.main(["verify", "--debug_file", str(path)]) == 0
    [example, *_] = records.read_debug(path)["debug_examples"]
    assert ("extracted" in example) == (name == "gsm8k")


def test_the_example_of_the_docs_is_a_task_file(tmp_path):
    page = (spec.EMBEDDED_ROWS.parent / "docs" / "own_tasks.md").read_text(encoding="utf-8")
    text = page.partition("```yaml\n")[2].partition("```")[0]
    (tmp_path / "tickets.csv").write_text("title,body,team\nBill,Too high,billing\n")
    (tmp_path / "my_tasks.yaml").write_text(text, encoding="utf-8")
    [task] = spec.read_tasks(tmp_path / "my_tasks.yaml", taken=spec.builtin_tasks()).values()
    [turn] = data.load_rows(spec.parse_spec("tickets", {"tickets": task})).turns
    assert (turn.prompt.splitlines()[1], turn.references) == (
        "Ticket: Bill. Too high",
        ("billing",),
    )
