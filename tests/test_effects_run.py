"""Effects from flags to files: what is stored, what it adds up to, and what is refused."""

import json

import numpy as np
import pytest
from runs import path_of, run

import viz
from core import records
from measures import effects, stats
from measures.table import Group
from reports import effects as drawn_effects
from reports import style
from reports.groups import load_groups
from run.config import RunConfig, parse_args

PARTS = {
    "position": {"filler"},
    "block": {"windows", "hidden_by_window", "seen_by_window"},
    "turn": {"hidden_by_turn", "hidden_by_user", "hidden_by_answer"},
    "route": {"routes"},
    "patch": {"windows", "patched_last", "patched_target", "reverse_last", "reverse_target"},
    "attention": {"attention", "attention_by_head", "attention_if_uniform"},
}
SLOW = {"seen_by_window", "hidden_by_user", "hidden_by_answer", "patched_last", "patched_target"}
SLOW |= {"reverse_last", "reverse_target"}  # at the longest history
ALWAYS = {"none", "hidden", "full"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model):
    """Results of a label task and of a generation task, with every effect."""
    out_dir = tmp_path_factory.mktemp("effects")
    assert run(out_dir, model, ("quiz", "posts"), "reviews", "--effects") == 0
    return out_dir


def result_and_log(folder, target):
    path = path_of(folder, target, "reviews")
    return records.read_result(path), records.read_debug(records.debug_path(path))


@pytest.mark.parametrize("target", ["quiz", "posts"])
def test_every_effect_is_in_the_log_and_its_aggregates_in_the_result(folder, target):
    result, log = result_and_log(folder, target)
    for example in log["debug_examples"]:
        h = example["config"]["history_len"]
        assert ("effects" in example) == ("spans" in example) == (h > 0)
        if h:
            wanted = ALWAYS | set().union(*PARTS.values())
            assert set(example["effects"]) == (wanted if h == 2 else wanted - SLOW)
            assert len(example["spans"]["turns"]) == len(example["effects"]["hidden_by_turn"]) == h
    assert set(result["effects_by_len"]) == {"0", "1", "2"}
    by_len = result["effects_by_len"]
    assert {"n", "means", "contrasts", "attention"} < set(by_len["1"])
    assert set(by_len["2"]) - set(by_len["1"]) == SLOW - set(effects.PATCHED) | {"restored"}


def test_all_lengths_have_every_number_and_the_others_stay(folder, tmp_path, model):
    flags = ("--effects", "--effect_lengths", "all")
    assert run(tmp_path, model, ("quiz", "posts"), "reviews", *flags) == 0
    for target in ("quiz", "posts"):
        few, many = (result_and_log(each, target)[1] for each in (folder, tmp_path))
        for one, other in zip(few["debug_examples"], many["debug_examples"]):
            if one["config"]["history_len"]:
                assert set(other["effects"]) == ALWAYS | set().union(*PARTS.values())
                assert other["effects"] | one["effects"] == other["effects"]


def test_without_and_with_history_are_the_margins_of_the_labels(folder):
    _, log = result_and_log(folder, "quiz")
    zero = {e["config"]["target_idx"]: e for e in log["debug_examples"] if "effects" not in e}
    for example in log["debug_examples"]:
        if "effects" in example:
            numbers = example["effects"]
            assert numbers["full"] == pytest.approx(margin(example), abs=1e-3)
            without = zero[example["config"]["target_idx"]]
            assert numbers["none"] == pytest.approx(margin(without), abs=1e-3)


def margin(example):
    scores = dict(example["label_logprobs"])
    return scores.pop(example["expected_answer"]) - max(scores.values())


def test_one_turn_hidden_of_one_is_the_history_hidden(folder):
    _, log = result_and_log(folder, "quiz")
    for example in log["debug_examples"]:
        if example["config"]["history_len"] == 1:
            found = example["effects"]
            assert found["hidden_by_turn"] == pytest.approx([found["hidden"]], abs=1e-4)
            assert found["routes"]["both"] == found["hidden"]


@pytest.mark.parametrize("parts", [["block"], ["patch", "position"]])
def test_parts_are_chosen_by_name(tmp_path, model, parts):
    assert run(tmp_path, model, "quiz", "reviews", "--effects", *parts, "--limit", "2") == 0
    result, log = result_and_log(tmp_path, "quiz")
    wanted = set().union(*(PARTS[part] for part in parts))
    assert set(log["debug_examples"][-1]["effects"]) == ALWAYS | wanted
    assert set(result["config"]["effects"]) == set(parts)


def test_a_run_without_them_has_none(tmp_path, model):
    assert run(tmp_path, model, "quiz", "reviews", "--limit", "2") == 0
    result, log = result_and_log(tmp_path, "quiz")
    assert result["effects_by_len"] == {} and "spans" not in log["debug_examples"][-1]


def test_turns_without_answers_have_no_numbers_of_answers(tmp_path, model):
    flags = ("--effects", "--history", "user_only", "--limit", "8")
    assert run(tmp_path, model, "quiz", "reviews", *flags) == 0
    result, log = result_and_log(tmp_path, "quiz")
    found = log["debug_examples"][-1]
    assert found["spans"]["answers"] == [] and len(found["effects"]["hidden_by_user"]) == 2
    for place in (found["effects"], result["effects_by_len"]["2"]):
        assert "hidden_by_answer" not in place and "answer_1" not in place["attention"]
    debug = str(records.debug_path(path_of(tmp_path, "quiz", "reviews")))
    assert viz.main(["verify", "--debug_file", debug]) == 0
    assert len(figures_of(tmp_path, "quiz")["turns"].figure.axes) == 3  # two maps and their scale


def test_verify_recomputes_them_and_sees_one_changed_number(folder, tmp_path, capsys):
    path = path_of(folder, "quiz", "reviews")
    assert viz.main(["verify", "--debug_file", str(records.debug_path(path))]) == 0
    assert "effects" in capsys.readouterr().out.replace("effects_by_len", "")
    copy = tmp_path / path.name
    copy.write_bytes(path.read_bytes())
    log = json.loads(records.debug_path(path).read_text())
    log["debug_examples"][-1]["effects"]["hidden_by_window"][0] += 0.01
    records.debug_path(copy).write_text(json.dumps(log))
    assert viz.main(["verify", "--debug_file", str(records.debug_path(copy))]) == 1
    assert "effects_by_len" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["none", "full"])
def test_verify_sees_a_margin_that_is_not_that_of_the_label_scores(folder, name):
    _, log = result_and_log(folder, "quiz")
    margins = effects.Margins()
    for example in log["debug_examples"]:
        found = margins.of(example)
        assert all(stored == other for stored, other in found.values())
        assert set(found) == ({"none", "full"} if "effects" in example else set())
    last = log["debug_examples"][-1]
    last["effects"][name] += 0.02
    differ = [which for which, (stored, other) in margins.of(last).items() if stored != other]
    assert differ == [name]


def test_a_history_is_needed(tmp_path, model, capsys):
    assert run(tmp_path, model, "quiz", "reviews", "--effects", "--max_len", "0") == 2
    assert "--effects" in capsys.readouterr().err


def test_no_value_means_all_parts():
    assert parse_args([]).effects is None
    assert set(parse_args(["--effects"]).effects) == set(PARTS)
    assert parse_args(["--effects", "turn"]).effects == ("turn",)
    assert RunConfig().effects is None


# --- figures

KINDS = ("parts", "hidden_by_window", "seen_by_window", "routes", "turns", "attention")


def figures_of(folder, target):
    groups = load_groups([path_of(folder, target, "reviews").parent])
    with style.sheet():
        drawn = list(drawn_effects.effect_figures(groups))
    return {each.stem.split("__effect_")[1].removesuffix("_reviews_test"): each for each in drawn}


def test_every_effect_is_drawn_from_the_stored_numbers(folder):
    drawn = figures_of(folder, "quiz")
    assert set(KINDS) <= set(drawn) <= {*KINDS, "restored"}
    stored = result_and_log(folder, "quiz")[0]["effects_by_len"]
    bars = drawn["parts"].figure.axes[0].containers
    for of_part, part in zip(bars, ("position", "length", "content")):
        heights = [bar.get_height() for bar in of_part]
        assert heights == pytest.approx([stored[h]["contrasts"][part]["mean"] for h in "12"])
    lines = drawn["hidden_by_window"].figure.axes[0].get_lines()
    for line, h in zip(lines, "12"):
        assert list(line.get_ydata()) == stored[h]["hidden_by_window"]["mean"]
    turns = drawn["turns"].figure.axes[0].images[0].get_array()
    assert turns[1].tolist() == stored["2"]["hidden_by_turn"]["mean"]


def test_a_caption_begins_with_words_and_keeps_the_letter_h_small():
    row = {"share": [0.2, 0.9], "low": [0.1, 0.8], "high": [0.3, 1.0]}
    entry = {"windows": [[1, 1], [2, 2]], "restored": dict.fromkeys(drawn_effects.PATCHED, row)}
    names = {"model": "org/name", "target": "quiz/test", "distractor": "posts/test"}
    result = {"names": names, "distractor": "posts/test", "n": 9}
    with style.sheet():
        drawn = drawn_effects.draw_restored(result, 1, {1: entry, 2: entry}, style.PLAIN)
    assert "No share at h > 1: the change is not" in drawn.caption and "H >" not in drawn.caption


@pytest.mark.parametrize("low", [None, 0.1])
def test_whiskers_are_explained_where_there_are_any(low):
    part = {"mean": 0.2, "low": low, "high": None if low is None else 0.3}
    contrasts = dict.fromkeys(("position", "length", "content", "total"), part)
    entry = {"contrasts": contrasts, "routes": dict.fromkeys(drawn_effects.ROUTES, part)}
    names = {"model": "org/name", "target": "quiz/test", "distractor": "posts/test"}
    result = {"names": names, "distractor": "posts/test", "n": 9, "metric_name": "rouge"}
    for draw in (drawn_effects.draw_parts, drawn_effects.draw_routes):
        with style.sheet():
            drawn = draw(result, {1: entry}, style.PLAIN)
        assert ("Whiskers: 95% interval" in drawn.caption) == (low is not None)


def test_the_command_writes_them_and_says_where_there_are_none(folder, tmp_path, model, capsys):
    flags = ["--out_dir", str(tmp_path / "plots"), "--format", "png", "--width", "single"]
    assert viz.main(["effects", "--result_dir", str(folder), *flags]) == 0
    assert len(list((tmp_path / "plots").iterdir())) >= 2 * len(KINDS)
    assert run(tmp_path / "none", model, "quiz", "reviews", "--limit", "2") == 0
    assert viz.main(["effects", "--result_dir", str(tmp_path / "none"), *flags]) == 2
    assert "--effects" in capsys.readouterr().err


# --- aggregates, by hand


def clusters(count):
    return stats.find_clusters(range(count), range(count))


def example(**numbers):
    return {"effects": numbers}


def aggregated(by_len, count):
    groups = {h: Group.of(group, effects.columns) for h, group in by_len.items()}
    return effects.effects_by_len(groups, clusters(count))


def test_position_length_and_content_add_up_to_the_total():
    group = [
        example(none=0.1 * k, hidden=k % 3, filler=k**0.5, full=0.2 * k - 1) for k in range(12)
    ]
    found = aggregated({"0": [{}] * 12, "1": group}, 12)["1"]["contrasts"]
    parts = [found[name]["mean"] for name in ("position", "length", "content")]
    assert sum(parts) == pytest.approx(found["total"]["mean"], abs=1e-6)
    assert found["seen"]["mean"] == pytest.approx(
        np.mean([e["effects"]["full"] - e["effects"]["hidden"] for e in group]), abs=1e-6
    )


def test_p_values_are_corrected_over_the_lengths():
    rng = np.random.default_rng(0)
    by_len = {"0": [{}] * 9}
    for h, shift in (("1", 0.3), ("2", 0.5)):
        by_len[h] = [example(none=0.0, hidden=float(rng.normal(shift)), full=1.0) for _ in range(9)]
    found = aggregated(by_len, 9)
    entries = [found[h]["contrasts"]["position"] for h in "12"]
    assert [e["p_holm"] for e in entries] == stats.holm([e["p_value"] for e in entries])


def test_a_restored_share_is_a_ratio_of_means():
    part, whole = np.array([1.0, 2.0, 0.0, 1.0]), np.array([2.0, 3.0, 1.0, 2.5])
    found = effects.ratio_of_means(part, whole, clusters(4))
    assert found["share"] == pytest.approx(4 / 8.5)
    assert found["low"] < found["share"] < found["high"]


def test_its_interval_is_that_of_fieller():
    """At either end the mean of part - r whole is just not away from 0."""
    rng = np.random.default_rng(1)
    whole = rng.normal(3, 1, 30)
    part = 0.5 * whole + rng.normal(0, 1, 30)
    found = effects.ratio_of_means(part, whole, clusters(30))
    for end in ("low", "high"):
        rest = (part - found[end] * whole)[:, None]
        _, around = stats.mean_and_interval(rest, clusters(30))
        assert min(abs(around["low"][0]), abs(around["high"][0])) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("whole", [[1.0, -1.0, 0.5, -0.6], [0.0, 0.0, 0.0, 0.0]])
def test_no_share_of_a_change_that_is_not_clearly_there(whole):
    found = effects.ratio_of_means(np.array([1.0, 2.0, 0.0, 1.0]), np.array(whole), clusters(4))
    assert found == {"share": None, "low": None, "high": None}


def test_what_is_not_finite_is_left_out_of_all_parts_alike_and_counted():
    rng = np.random.default_rng(3)
    states = {name: rng.normal(size=24) for name in effects.STATES}
    states["patched_last"] = rng.normal(size=(24, 2))
    states["none"] += 9  # a change of which a share can be restored
    kept = np.arange(24) != 5
    states["hidden"][5] = states["patched_last"][5, 1] = np.nan

    def found(rows):
        examples = [
            {"effects": {name: np.array(values)[row].tolist() for name, values in states.items()}}
            for row in rows
        ]
        group = Group.of(examples, effects.columns)
        return effects.effects_by_len({"0": group, "1": group}, clusters(len(rows)))["1"]

    some, all_kept = found(range(24)), found(np.flatnonzero(kept))
    for name, entry in some["contrasts"].items():
        assert entry == all_kept["contrasts"][name] | {"excluded": 1}
    parts = [some["contrasts"][name]["mean"] for name in ("position", "length", "content")]
    assert sum(parts) == pytest.approx(some["contrasts"]["total"]["mean"], abs=1e-6)
    shares = [each["restored"]["patched_last"]["share"] for each in (some, all_kept)]
    assert shares[0][1] == shares[1][1] is not None


def test_contrasts_of_which_nothing_is_finite_are_null():
    group = Group.of([{"effects": dict.fromkeys(effects.STATES)}] * 9, effects.columns)
    [_, found] = effects.effects_by_len({"0": group, "1": group}, clusters(9)).values()
    entry = found["contrasts"]["total"]
    assert (entry["mean"], entry["p_value"], entry["excluded"]) == (None, None, 9)
