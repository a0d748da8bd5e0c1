"""Claims about histories: what is drawn, which role a turn has, and the plan of a run."""

import json

import hub
import pytest
from test_data import SAMPLES, rows, run_python

import data
import histories
from data import Turn
from histories import Pair


def drawn_histories(distractor, max_len=6, seed=0):
    target = Turn("another", ("x",))
    return [histories.draw_history(rows(distractor), target, max_len, seed, i) for i in range(20)]


def plan(*pairs, max_len=3, seed=0, **settings):
    pairs = [Pair(rows(target), rows(distractor)) for target, distractor in pairs]
    return histories.plan_cases(pairs, max_len, [seed], **settings)


# --- histories


@pytest.mark.parametrize("h", range(6))
def test_histories_are_nested(h):
    assert drawn_histories("quiz", max_len=h) == [
        longest[:h] for longest in drawn_histories("quiz")
    ]


def test_histories_follow_the_seed():
    assert drawn_histories("quiz", seed=1) == drawn_histories("quiz", seed=1)
    assert drawn_histories("quiz", seed=1) != drawn_histories("quiz", seed=2)


def test_histories_differ_from_number_to_number():
    assert len(set(drawn_histories("quiz"))) == 20


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_histories_and_targets_are_the_same_in_another_process(hash_seed):
    code = (
        "import data, histories, json\n"
        "rows = data.load_rows(data.parse_spec('quiz'))\n"
        "plan = histories.plan_cases([histories.Pair(rows, rows)], 3, [7], 20)\n"
        "print(json.dumps([[case.target_idx, case.history_idx] for [case] in plan]))\n"
    )
    found = run_python(code, PYTHONHASHSEED=hash_seed)
    here = plan(("quiz", "quiz"), seed=7, limit=20)
    assert json.loads(found) == [[case.target_idx, list(case.history_idx)] for [case] in here]


@pytest.mark.parametrize("name", SAMPLES)
def test_a_history_never_asks_what_the_target_asks_and_never_repeats_a_row(name):
    for [case] in plan((name, name), max_len=12):
        drawn = [case.pair.distractor.turns[i].prompt for i in case.history_idx]
        assert len({case.target.prompt, *drawn}) == 13


@pytest.mark.parametrize("subject", hub.SUBJECTS)
def test_a_target_is_known_under_another_index_of_another_spec(tmp_path, subject):
    hub.write_all(tmp_path)
    part = rows(f"mmlu.{subject}", tmp_path)
    for target in rows("mmlu", tmp_path).turns:
        others = {i for i, turn in enumerate(part.turns) if turn.prompt != target.prompt}
        assert set(histories.draw_history(part, target, 3, 0, 0)) <= others
        assert len(others) == (3 if target in part.turns else 4)


def test_equal_prompts_at_several_indices_are_one_row():
    twice = data.TaskRows(data.parse_spec("posts"), tuple(Turn(p, ("x",)) for p in "aabbc"))
    assert twice.distinct == 3
    for number in range(20):
        drawn = histories.draw_history(twice, Turn("a", ("x",)), 2, 0, number)
        assert {twice.turns[i].prompt for i in drawn} == {"b", "c"}


def test_a_history_is_the_same_for_every_target_task():
    for first, second in plan(("reviews", "quiz"), ("posts", "quiz")):
        assert first.history_idx == second.history_idx
        assert first.messages(3)[:6] == second.messages(3)[:6]


@pytest.mark.parametrize("target", SAMPLES)
def test_zero_turns_are_one_prompt_whatever_the_distractor(target):
    for cases in plan(*((target, distractor) for distractor in SAMPLES)):
        assert len({case.target_idx for case in cases}) == 1
        assert [case.messages(0) for case in cases] == [cases[0].messages(0)] * 3
        assert len(cases[0].messages(0)) == 1


def test_a_limit_takes_the_beginning_of_the_whole_plan():
    whole, part = plan(("quiz", "posts")), plan(("quiz", "posts"), limit=9)
    assert [(c.target_idx, c.history_idx) for [c] in part] == [
        (c.target_idx, c.history_idx) for [c] in whole[:9]
    ]


def test_targets_of_different_number_are_all_planned():
    pairs = [Pair(rows(name), rows("quiz")) for name in SAMPLES]
    cases = [case for place in histories.plan_cases(pairs, 1, [0]) for case in place]
    for pair in pairs:
        planned = sorted(case.target_idx for case in cases if case.pair is pair)
        assert planned == list(range(len(pair.target.turns)))


def test_num_histories_bounds_the_histories_and_keeps_every_target():
    few = plan(("reviews", "quiz"), limit=20, num_histories=3)
    assert len({case.history_idx for [case] in few}) == 3
    targets = {case.target_idx for [case] in plan(("reviews", "quiz"), limit=20)}
    assert {case.target_idx for [case] in few} == targets


# --- targets


def test_target_order_is_a_seeded_shuffle():
    order = histories.target_order(50, 3, None)
    assert sorted(order) == list(range(50)) != order
    assert histories.target_order(50, 3, None) == order != histories.target_order(50, 4, None)
    assert histories.target_order(50, 3, 8) == order[:8]
