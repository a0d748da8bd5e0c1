"""Claims about the verdict of a report: what hurts most, what is significant, what n can show."""

import re
from pathlib import Path

import pytest
from pages import embedded, examples_of, make_report, no_image, page_of, words_of, write_pair

from core import records
from reports import page as report_page
from reports import tables, verdict


@pytest.fixture(autouse=True)
def without_figures(monkeypatch):
    """Figures take most of the time."""
    monkeypatch.setattr(report_page, "image", no_image)


def verdict_of(folder: Path) -> dict:
    results = records.load_results([folder])
    return verdict.make_verdict(tables.make_frame(results), list(results.values()))


def scored(right_at: list[list[bool]]) -> list[dict]:
    """A log of label examples that are right where these rows, one for each h, say so."""
    examples = examples_of("quiz/test", "posts/test", count=len(right_at[0]))
    for example in examples:
        place = example["config"]
        at = right_at[place["history_len"]][place["target_idx"]]
        reference = example["expected_answer"]
        example["label_logprobs"] = {label: -float((label == reference) != at) for label in "AB"}
        example |= {"score": float(at)}
    return examples


def test_the_verdict_names_the_switch_that_hurts_most_and_counts_what_is_significant(tmp_path):
    worse, much_worse = [True] * 20 + [False] * 20, [True] * 5 + [False] * 35
    write_pair(tmp_path, examples=scored([[True] * 40, worse, much_worse]))
    write_pair(tmp_path, distractor="reviews/test", examples=scored([[True] * 40, worse, worse]))
    write_pair(
        tmp_path, distractor="quiz/dev", examples=scored([[True] * 40, [True] * 40, [False] * 40])
    )
    verdict = verdict_of(tmp_path)
    assert verdict["sentence"].startswith("5 of 6 comparisons with h = 0 are significant")
    assert verdict["sentence"].endswith("5 falls and no rises.")
    assert [(row["name"], row["h"]) for row in verdict["hurt"]] == [
        ("quiz/test after posts/test", 2),
        ("quiz/test after reviews/test", 1),
    ]
    assert verdict["hurt"][0]["change"].startswith("-87.5 [")
    assert (verdict["hurt"][0]["before"], verdict["hurt"][0]["after"]) == ("1.000", "0.125")
    assert [row["name"] for row in verdict["control"]] == ["quiz/test after quiz/dev"]


def test_where_nothing_is_significant_the_verdict_says_so_and_what_n_can_show(tmp_path):
    slightly = [True] * 19 + [False] * 21
    write_pair(tmp_path, examples=scored([[True] * 20 + [False] * 20, slightly, slightly[::-1]]))
    verdict = verdict_of(tmp_path)
    assert verdict["sentence"].startswith("None of the 2 comparisons with h = 0 is significant")
    assert not verdict["significant"]
    points = tables.make_frame(records.load_results([tmp_path]))["detectable_points"].dropna()
    assert verdict["power"]["range"].split(" to ")[0] == f"{points.min():.1f}"
    assert verdict["power"]["known"] + sum(e["count"] for e in verdict["power"]["unknown"]) == 2


def test_why_no_change_can_be_detected_is_said(tmp_path):
    write_pair(tmp_path, examples=scored([[True] * 8] * 3))
    [reason] = verdict_of(tmp_path)["power"]["unknown"]
    assert reason == {"reason": "no score differs", "count": 2}


def test_how_many_comparisons_can_show_a_change_is_said_for_some_all_and_none(tmp_path):
    right_at = {"some": [0, 0, 9], "all": [0, 8, 9], "none": [0, 0, 0]}  # of 20
    expected = {
        "some": r"at least [\d.]+ points to be found in 80% of runs with n = 20\. A smaller one is "
        r"often missed\. 1 of 2 has no such number: no score differs \(1\)\. These",
        "all": r"at least [\d.]+ to [\d.]+ points \(it depends on the pair and h\) to be found in",
        "none": r"No change against h = 0 can be found reliably with n = 20: no score differs",
    }
    for name, counts in right_at.items():
        folder = tmp_path / name
        examples = scored([[i < count for i in range(20)] for count in counts])
        write_pair(folder, examples=examples)
        assert re.search(expected[name], words_of(page_of(folder, folder)))


def test_a_rise_after_the_targets_own_task_is_named_and_that_nothing_is_switched(tmp_path):
    rows = [[False] * 40, [False] * 39 + [True], [True] * 40]
    write_pair(tmp_path, distractor="quiz/dev", examples=scored(rows))
    [rise] = verdict_of(tmp_path)["control"]
    assert (rise["name"], rise["h"]) == ("quiz/test after quiz/dev", 2)
    assert rise["change"].startswith("100.0 [")
    page = page_of(tmp_path, tmp_path)
    assert "There is no switch here: every history is of the target's own task." in words_of(page)
    assert "No switch lowered" not in page


def test_results_of_two_seeds_are_told_apart(tmp_path):
    for seed in (0, 1):
        examples = examples_of("quiz/test", "posts/test", seeds=[seed])
        write_pair(tmp_path, examples=examples)
    assert make_report(tmp_path, tmp_path / "r.html") == 0
    names = [pair["name"] for pair in embedded((tmp_path / "r.html").read_text())["pairs"]]
    assert names == [f"quiz/test after posts/test (seed {seed})" for seed in (0, 1)]
