"""Claims about a cue at the switch: what it adds to a prompt, and what it changes."""

import numpy as np
import pytest
from drawn import rows
from runs import LIMIT, examples_of, path_of, result_of
from studies import CUE, LENGTHS, assert_same_numbers, assert_verified, mismatches, of_h, run_study

from measures import metrics, stats

CUED = f"|{CUE}"
OF_CUE = ("prompt_text", "model_prediction", "score")


@pytest.mark.parametrize("target", ["quiz", "posts"])
def test_a_cue_stands_before_the_target_prompt_and_nowhere_else(study, target):
    for example in examples_of(study(CUED), target, "reviews"):
        assert ("cued" in example) == (example["config"]["history_len"] > 0)
        assert CUE not in example["prompt_text"]
        if "cued" in example:
            asked = rows(target).turns[example["config"]["target_idx"]].prompt
            before, _, behind = example["prompt_text"].rpartition(asked)
            assert example["cued"]["prompt_text"] == f"{before}{CUE}\n{asked}{behind}"
            assert set(OF_CUE) < set(example["cued"])


@pytest.mark.parametrize("target", ["quiz", "posts"])
def test_a_cue_changes_nothing_of_the_run_without_it(study, target):
    found, expected = (examples_of(study(flags), target, "reviews") for flags in (CUED, ""))
    bare = [{k: v for k, v in e.items() if k != "cued"} for e in found]
    assert_same_numbers(bare, expected)
    assert list(map(list, bare)) == list(map(list, expected))
    results = [result_of(study(flags), target, "reviews") for flags in (CUED, "")]
    assert results[0]["stats_by_len"] == results[1]["stats_by_len"]
    assert results[1]["cue_by_len"] == {}


@pytest.mark.parametrize("target", ["quiz", "posts"])
def test_what_a_cue_changes_is_what_a_hand_gets(study, target):
    examples, result = (read(study(CUED), target, "reviews") for read in (examples_of, result_of))
    found = result["cue_by_len"]
    assert list(found) == LENGTHS and found["0"] == {}
    for h in (1, 2):
        group = sorted(of_h(examples, h), key=lambda e: e["config"]["target_idx"])
        without, with_cue = ([e["score"] for e in each] for each in (group, cued_of(group)))
        entry = found[str(h)]
        assert entry["metric"] == pytest.approx(np.mean(with_cue))
        change = np.subtract(with_cue, without)
        assert entry["change_points"] == pytest.approx(100 * change.mean())
        assert (entry["n"], entry["clusters"]["count"]) == (LIMIT, LIMIT)
    p_values = [found[h]["p_value"] for h in ("1", "2")]
    assert [found[h]["p_holm"] for h in ("1", "2")] == stats.holm(p_values)
    assert_verified(path_of(study(CUED), target, "reviews"))


def cued_of(group):
    return [example["cued"] for example in group]


def test_the_change_by_a_cue_is_paired_with_the_same_history():
    scores = {1: [(1, 0), (1, 0), (0, 0), (1, 1)], 2: [(0, 1), (0, 0), (0, 0), (0, 0)]}
    examples = []
    for h in (0, 1, 2):
        for index in range(4):
            config = {"history_len": h, "target_idx": index}
            before, behind = scores[h][index] if h else (1, None)
            example = {"config": config, "score": before, "top5": []}
            examples.append(example | ({"cued": {"score": behind}} if h else {}))
    found = metrics.aggregate(examples[::-1], "accuracy")["cue_by_len"]
    assert [found[h]["metric"] for h in "12"] == [0.25, 0.25]
    assert [found[h]["change_points"] for h in "12"] == [-50, 25]
    mid_p = [0.25, 0.5]  # 2 of 2 lost; 1 of 1 gained
    assert [found[h]["p_value"] for h in "12"] == pytest.approx(mid_p)
    assert [found[h]["p_holm"] for h in "12"] == pytest.approx([0.5, 0.5])
    assert found["1"]["percent_change"] == pytest.approx(100 * -2 / 3)


def test_an_edited_cued_score_does_not_verify(study, tmp_path):
    def edit(examples):
        cued = of_h(examples, 2)[1]["cued"]
        cued["score"] = 1 - cued["score"]

    assert "cued" in mismatches(study(CUED), tmp_path, edit)


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("cue", ["", "  "])
def test_an_empty_cue_is_refused(tmp_path, model, capsys, cue):
    assert run_study(tmp_path, model, f"|{cue}") == 2
    assert "--switch_cue: the sentence is empty" in capsys.readouterr().err
