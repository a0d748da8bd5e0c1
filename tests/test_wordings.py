"""Claims about wordings of a prompt: other words, the same targets after the same rows."""

import json
import re

import pytest
from runs import assert_same_examples, path_of, run, without_times

import viz
from core import records
from core.errors import UserError
from core.keys import Key
from data import Pair, plan_cases
from measures import contrasts, wordings
from reports import contrasts as contrast_report
from reports import page
from reports import wordings as shown_wordings
from run.config import RunConfig
from run.pairs import load_pairs
from tasks.cells import template_parts
from tasks.spec import builtin_tasks

TASKS = builtin_tasks()


# --- the tasks


@pytest.mark.parametrize("name", TASKS)
def test_a_built_in_task_has_three_wordings_that_end_where_the_answer_begins(name):
    every = TASKS[name].wordings
    assert len(every) >= 3 and len(set(every)) == len(every)
    for text in every:
        fields = [str(field) for _, field in template_parts(text) if field]
        shown = [str(field) for _, field in TASKS[name].parts if field]
        assert sorted(fields) == sorted(shown)
        assert text.endswith(":") and "{" not in text.splitlines()[-1]


def test_a_task_in_another_wording_is_described_by_that_one_alone():
    task = TASKS["quiz"]
    assert "prompts" not in task.describe() and task.worded(1) is task
    second = task.worded(2)
    assert second.wordings == (task.prompts[0],)
    assert second.describe() == task.describe() | {"prompt": task.prompts[0]}


OWN = """
first: &first
  source: rows.jsonl
  prompt: "Say: {q}"
  prompts: ["Tell: {q}"]
  reference: a
second:
  source: rows.jsonl
  prompt: "Say: {q}"
  prompts: ["Write: {q}"]
  reference: a
"""


def own_file(folder):
    rows = [json.dumps({"q": f"question {k}", "a": f"answer {k}"}) for k in range(8)]
    (folder / "rows.jsonl").write_text("\n".join(rows))
    (folder / "own.yaml").write_text(OWN)
    return str(folder / "own.yaml")


def test_more_wordings_than_a_task_has_are_refused_in_one_line(tmp_path):
    config = RunConfig(
        target=("first",), distractor=("quiz",), task_file=own_file(tmp_path), wording=3
    )
    with pytest.raises(UserError) as refused:
        load_pairs(config)
    assert str(refused.value) == (
        "--wording 3: task 'first' has 2 wordings of its prompt (keys prompt and prompts)."
    )


# --- the plan


def plans(pairs, max_len=4):
    """The cases of each wording."""
    found = {}
    for place in plan_cases(pairs, max_len, [0, 1], 6):
        for case in place:
            found.setdefault(case.pair.wording, []).append(case)
    return found


def test_every_wording_has_the_same_targets_after_the_same_rows():
    pairs = load_pairs(RunConfig(target=("reviews",), distractor=("quiz",), wording=3))
    assert [pair.wording for pair in pairs] == [1, 2, 3]
    first, *others = plans(pairs).values()
    for number, cases in enumerate(others, 1):
        for case, other in zip(cases, first, strict=True):
            assert (case.key, case.history_idx) == (other.key, other.history_idx)
            texts = TASKS["reviews"].wordings[number], TASKS["quiz"].wordings[number]
            for turn, text in zip((case.target, case.history[0].turn), texts):
                assert turn.prompt.startswith(text.partition("{")[0].splitlines()[0])
                assert turn.prompt.splitlines()[-1] == text.splitlines()[-1]


def test_a_row_is_one_question_in_whatever_words(tmp_path):
    """Two tasks that ask the same in the first wording, and in other words in the second."""
    config = RunConfig(
        target=("first",), distractor=("second",), task_file=own_file(tmp_path), wording=2
    )
    pairs = load_pairs(config)
    assert isinstance(pairs[1], Pair) and pairs[1].target.turns[0].prompt == "Tell: question 0"
    first, second = plans(pairs, max_len=6).values()
    for case, other in zip(second, first, strict=True):
        assert case.history_idx == other.history_idx
        assert case.target_idx not in case.history_idx


# --- runs


@pytest.fixture(scope="module")
def worded(tmp_path_factory, model):
    """Results of two wordings, after another task and the own one."""
    out_dir = tmp_path_factory.mktemp("worded")
    assert run(out_dir, model, "reviews", ["quiz", "reviews"], "--wording", "2") == 0
    return out_dir


def result_in(folder, distractor="quiz"):
    return records.read_result(path_of(folder, "reviews", distractor))


def examples_in(folder):
    path = records.debug_path(path_of(folder, "reviews", "quiz"))
    return records.read_debug(path)["debug_examples"]


def test_one_wording_gives_the_files_of_a_run_without_the_flag(tmp_path, model):
    assert run(tmp_path / "plain", model, "reviews", "quiz") == 0
    assert run(tmp_path / "one", model, "reviews", "quiz", "--wording", "1") == 0
    files = without_times(tmp_path / "plain")
    assert without_times(tmp_path / "one") == files
    config = result_in(tmp_path / "plain")["config"]
    assert "wording" not in config and "prompts" not in config["tasks"]["target"]


def test_the_first_of_several_wordings_is_the_run_of_one(worded, tmp_path, model):
    assert run(tmp_path, model, "reviews", ["quiz", "reviews"]) == 0
    assert_same_examples(examples_in(worded), examples_in(tmp_path))
    first, alone = result_in(worded)["config"], result_in(tmp_path)["config"]
    assert first == alone


def test_a_result_says_its_wording(worded):
    first, second = result_in(worded)["config"], result_in(worded / "wording_2")["config"]
    assert "wording" not in first and second["wording"] == 2
    assert second["tasks"]["target"]["prompt"] == TASKS["reviews"].prompts[0]
    assert second["tasks"]["distractor"]["prompt"] == TASKS["quiz"].prompts[0]
    for one, two in zip(examples_in(worded), examples_in(worded / "wording_2"), strict=True):
        assert one["config"] == two["config"]
        assert one["prompt_text"] != two["prompt_text"]


def test_more_wordings_can_be_added_to_finished_ones(worded, model, capsys):
    before = path_of(worded, "reviews", "quiz").read_bytes()
    assert run(worded, model, "reviews", ["quiz", "reviews"], "--wording", "3") == 0
    assert path_of(worded, "reviews", "quiz").read_bytes() == before
    assert result_in(worded / "wording_3")["config"]["wording"] == 3
    assert "over 3 wordings" in capsys.readouterr().out


def test_verify_recomputes_the_results_of_each_wording(worded):
    files = sorted(worded.rglob("*_debug.json"))
    assert viz.main(["verify", "--debug_file", *map(str, files)]) == 0


# --- the spread


def test_the_spread_is_that_of_the_stored_metrics_and_of_the_paired_contrasts(worded):
    results = records.load_results([worded])
    metric, own, contrast = wordings.spreads(results)
    folders = [worded, *sorted(worded.glob("wording_*"))]
    for spread, distractor in ((metric, "quiz"), (own, "reviews")):
        assert spread.key.fields["distractor"] == f"{distractor}/test"
        for h in (0, 1, 2):
            values = [result_in(each, distractor)["metric_by_len"][str(h)] for each in folders]
            assert spread.by_len[h] == values
            mean, low, high = spread.at(h)
            assert (low, high) == (min(values), max(values))
            assert mean == pytest.approx(sum(values) / len(values))
    assert contrast.against == "reviews/test" and contrast.wordings == len(folders)
    rows = contrasts.contrasts(results)
    for h in (1, 2):
        paired = [row["difference_points"] for row in rows if row["h"] == h]
        assert sorted(contrast.by_len[h]) == pytest.approx(sorted(paired))


def test_means_over_other_targets_are_not_subtracted(worded):
    results = records.load_results([worded])
    for key, result in results.items():
        if key.fields["distractor"] == "reviews/test":
            result["skipped_target_idx"] = [1]
    assert [spread.against for spread in wordings.spreads(results)] == [None, None]


@pytest.mark.parametrize("setting", ["prompt", "dtype", "revision", "target_rows"])
def test_means_of_runs_under_other_settings_are_not_subtracted(worded, setting):
    results = records.load_results([worded])
    for result in results.values():
        result["config"][setting] = result["distractor"]
    assert [spread.against for spread in wordings.spreads(results)] == [None, None]


def test_means_after_histories_of_another_making_are_not_subtracted(worded):
    results = records.load_results([worded])
    for result in results.values():
        result["config"] |= {"history": "shuffled", "max_len": len(result["distractor"])}
    assert [spread.against for spread in wordings.spreads(results)] == [None, None]


def test_table_and_report_show_the_spread(worded, tmp_path, capsys):
    for form, words in (("markdown", "| Lowest"), ("latex", "Lowest")):
        assert viz.main(["table", "--result_dir", str(worded), "--format", form]) == 0
        said = capsys.readouterr().out
        assert words in said and "points less after reviews/test" in said
    assert viz.main(["table", "--result_dir", str(worded), "--format", "csv"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert "wording" in head.split(",") and all(line.startswith("tiny-llama") for line in lines)
    text, _ = page.make_page(records.load_results([worded]))
    assert "Over wordings of the prompts" in text


def test_spreads_of_several_models_are_told_apart(worded):
    results = records.load_results([worded])
    other = {Key(key.fields | {"model": "other"}): each for key, each in results.items()}
    [table] = shown_wordings.page_tables(results | other)
    rows = [(row["name"], row["h"]) for row in table["rows"]]
    assert len(set(rows)) == len(rows)
    assert any("model other" in name for name, _ in rows)


def test_wordings_can_be_contrasted(worded, capsys):
    command = ["contrast", "--result_dir", str(worded), "--by", "wording", "--against", "1"]
    assert viz.main([*command, "--format", "csv"]) == 0
    _, *rows = capsys.readouterr().out.splitlines()
    assert rows and all(re.search(r"wording [23] against 1", row) for row in rows)


def test_contrasts_of_several_wordings_are_told_apart(worded, tmp_path, capsys):
    where = ["--result_dir", str(worded)]
    assert viz.main(["contrast", *where]) == 0
    head, _, *rows = capsys.readouterr().out.partition("\n\n")[0].splitlines()
    place = [cell.strip() for cell in head.split("|")].index("Wording")
    shown = [row.split("|")[place].strip() for row in rows]
    assert set(shown) >= {"1", "2"} and len(set(rows)) == len(rows)
    labels = [
        contrast_report.label_of(row, "distractor")
        for row in contrasts.contrasts(records.load_results([worded]))
    ]
    assert len(set(labels)) == len(labels) and "(wording 2)" in labels[2]
    drawn = ["--out_dir", str(tmp_path), "--format", "png"]
    assert viz.main(["grid", *where, "--contrast", *drawn]) == 0
    assert len(list(tmp_path.iterdir())) == len(set(shown))  # a map for each


def test_one_wording_has_no_spread(worded, capsys):
    folder = str(worded / "wording_2")
    assert wordings.spreads(records.load_results([folder])) == []
    assert viz.main(["table", "--result_dir", folder]) == 0
    assert "Lowest" not in capsys.readouterr().out
