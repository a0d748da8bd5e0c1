"""Claims about aptitude and unreliability over the histories of a target."""

import json
from collections import defaultdict

import numpy as np
import pytest

import experiment
import viz
from core import records
from measures import metrics
from reports import others

# Two targets under three seeds at h = 0 and h = 1
SCORES = {"0": [[1, 1, 1], [0, 0, 0]], "1": [[0.5, 0, 1], [0, 1, 0]]}


def reliability(scores):
    """`reliability_by_len` of scores by history length, target and seed."""
    examples = [
        {
            "config": {"history_len": int(h), "target_idx": target, "seed": seed},
            "score": float(score),
            "top5": [],
        }
        for h, of_len in scores.items()
        for target, row in enumerate(of_len)
        for seed, score in enumerate(row)
    ]
    return metrics.aggregate(examples[::-1], "rouge")["reliability_by_len"]


def test_aptitude_and_unreliability_are_those_worked_out_by_hand():
    # Ranks 0.2 and 1.8 of three: 0.1 and 0.9 of (0, 0.5, 1), 0 and 0.8 of (0, 0, 1)
    found = reliability(SCORES)["1"]
    expected = {"histories": 3, "mean": 2.5 / 6, "aptitude": 0.85, "unreliability": 0.8}
    expected |= {"aptitude_change": 35, "unreliability_change": 80}  # 0.5 and 0 at h = 0
    assert {key: found[key] for key in expected} == pytest.approx(expected)


def test_a_change_has_an_interval_over_targets_or_a_reason():
    few = reliability(SCORES)["1"]
    assert few["aptitude_change_low"] is None and "2 do" in few["aptitude_change_low_reason"]
    many = reliability({h: rows * 6 for h, rows in SCORES.items()})["1"]
    for name in ("aptitude_change", "unreliability_change"):
        assert many[f"{name}_low"] <= many[name] <= many[f"{name}_high"]
    assert many["aptitude_change_low"] < 35 < many["aptitude_change_high"]


def test_equal_scores_of_a_target_are_no_unreliability():
    found = reliability({"0": [[1, 1], [0.3, 0.3]], "1": [[0, 0], [0.7, 0.7]]})
    for entry in found.values():
        assert entry["unreliability"] == entry["unreliability_change"] == 0
        assert entry["aptitude"] == pytest.approx(entry["mean"])


def test_one_seed_has_none():
    assert reliability({"0": [[1], [0]], "1": [[0], [1]]}) == {}


def test_targets_of_unequal_histories_are_refused():
    with pytest.raises(ValueError, match="different numbers of histories"):
        reliability({"0": [[1, 1], [0]], "1": [[0, 1], [1]]})


# --- a run


@pytest.fixture(scope="module")
def written(tmp_path_factory, model):
    """Path of the result of a run with three seeds."""
    folder = tmp_path_factory.mktemp("seeds")
    flags = "--target quiz --distractor reviews --seed 0 1 2 --limit 6 --max_len 2 --device cpu"
    flags += f" --no_cosine --model {model} --out_dir {folder}"
    assert experiment.main(flags.split()) == 0
    (path,) = [path for path, _ in records.find_results(folder)]
    return path


def test_a_run_stores_what_its_log_says(written):
    examples = records.read_debug(records.debug_path(written))["debug_examples"]
    result = records.read_result(written)
    found = result["reliability_by_len"]
    assert list(found) == ["0", "1", "2"]
    for h, entry in found.items():
        scores = defaultdict(list)
        for example in examples:
            if example["config"]["history_len"] == int(h):
                scores[example["config"]["target_idx"]].append(example["score"])
        ranges = [max(of_target) - min(of_target) for of_target in scores.values()]
        assert entry["unreliability"] == pytest.approx(0.8 * np.mean(ranges))  # of three scores
        assert entry["mean"] == pytest.approx(result["metric_by_len"][h])
    assert found["0"]["unreliability"] == 0 < found["2"]["unreliability"]


@pytest.mark.parametrize("name", ["aptitude", "unreliability", "aptitude_change", "histories"])
def test_verify_computes_it_again(written, tmp_path, capsys, name):
    result = json.loads(written.read_text())
    result["reliability_by_len"]["1"][name] += 1
    path = tmp_path / written.name
    path.write_text(json.dumps(result))
    log = records.debug_path(path)
    log.write_text(records.debug_path(written).read_text())
    assert viz.main(["verify", "--debug_file", str(log)]) == 1
    lines = capsys.readouterr().out.splitlines()
    wrong = [line.split() for line in lines if "MISMATCH (" in line and "_sha256" not in line]
    assert [row[:3] for row in wrong] == [["reliability_by_len", name, "1"]]
    assert viz.main(["verify", "--debug_file", str(records.debug_path(written))]) == 0


def test_the_report_shows_it(written):
    *_, table = others.other_scores([records.read_result(written)], ["a pair"])
    assert [text for text, _ in table["columns"]][:3] == ["histories", "mean", "aptitude"]
    assert [row["h"] for row in table["rows"]] == ["0", "1", "2"]
    assert table["rows"][0]["values"][-2:] == ["0.0 [0.0, 0.0]"] * 2
