"""Claims about `viz.py verify`: whatever was changed in a result or its log is a mismatch."""

from functools import partial
from pathlib import Path

import pytest
from small_results import (
    complains,
    edit,
    f1_example,
    label_example,
    mismatches,
    number_example,
    text_example,
    verify,
    without,
    write_pair,
)

import viz
from core import provenance, records, schema
from reports.verify import BY_LEN, IDENTITY
from reports.verify import verify as rows_of


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
    assert len(lines) == len(rows_of(log)) + 2  # what differs among all that is compared
    assert verify(log, more=["--brief"]) == 1
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines]
    (row,) = [row for row in rows if row[:2] == ["metric_by_len", "1"]]
    assert row[2:] == ["1", "0.125", "0.666666667", "5e-01", "MISMATCH", "(1)"]
    assert "MISMATCH in 2 of" in lines[-1]  # the digest is the other
    assert len(lines) == 4 and max(map(len, lines[:-1])) <= 120


def test_in_brief_a_log_that_verifies_is_one_line(tmp_path, capsys):
    log = write_pair(tmp_path)
    values = sum(int(row[2]) for row in rows_of(log))
    assert verify(log, more=["--brief"]) == 0
    assert capsys.readouterr().out == f"{log}: ok, {values:,} values compared\n"


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


def test_a_mismatch_with_files_of_another_state_of_the_toolkit_names_both(tmp_path, capsys):
    log = write_pair(tmp_path)
    path = records.result_of_debug(log)
    result = records.read_json(path)
    result["metric_by_len"]["1"] = 0.125
    for made, said in ((provenance.toolkit(), False), ({"git_commit": "0123abcdef"}, True)):
        result["environment"] = made
        records.write_json(path, {k: v for k, v in result.items() if k != records.DIGEST})
        assert verify(log) == 1
        text = capsys.readouterr().out
        assert (
            "(version unknown, commit 0123abc)" in text and "may compute this otherwise" in text
        ) == said
    edit(path, "metric_by_len", "1", value=0.25)  # not as it was written
    assert verify(log) == 1
    without(log, "debug_examples", 8)
    assert verify(log) == 1
    assert "another state" not in capsys.readouterr().out


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


def test_a_folder_is_refused_with_what_names_its_logs(tmp_path, capsys):
    assert verify(tmp_path) == 2
    assert complains(capsys, f"{tmp_path} is a folder.", f"{tmp_path}/*/*_debug.json")


def test_a_damaged_file_does_not_hide_the_others(tmp_path, capsys):
    bad, wrong, good = (write_pair(tmp_path, distractor=f"{name}/test") for name in "abc")
    damage_json(bad)
    edit(wrong, "debug_examples", 0, "score", value=0.5)
    assert verify(bad, wrong, good) == 2
    text = capsys.readouterr().out
    assert f"{wrong}: MISMATCH" in text
    assert f"{good}: ok" in text
