"""Claims about histories: what is drawn, which role a turn has, and the plan of a run."""

import json
from itertools import islice

import hub
import pytest
from drawn import rows
from test_data import SAMPLES, run_python

import data
from data import Pair, Turn
from run.config import MIXES
from tasks import spec
from tasks.kinds import TEACHER, roles


def draw_history(rows, target, max_len, seed, number):
    """Indices of the rows of one task that a history before this target takes."""
    drawn = data.draw_rows(rows, seed, number, {target.question}, TEACHER.fitting((), "", ""))
    return tuple(islice(drawn, max_len))


def drawn_histories(distractor, max_len=6, seed=0):
    target = Turn("another", ("x",))
    return [draw_history(rows(distractor), target, max_len, seed, i) for i in range(20)]


def plan(*pairs, max_len=3, seed=0, **settings):
    pairs = [Pair(rows(target), rows(distractor)) for target, distractor in pairs]
    return data.plan_cases(pairs, max_len, [seed], **settings)


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
        "import data, json; from tasks.spec import parse_spec\n"
        "rows = data.load_rows(parse_spec('quiz'))\n"
        "plan = data.plan_cases([data.Pair(rows, rows)], 3, [7], 20)\n"
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
        assert set(draw_history(part, target, 3, 0, 0)) <= others
        assert len(others) == (3 if target in part.turns else 4)


def test_equal_prompts_at_several_indices_are_one_row():
    twice = data.TaskRows(spec.parse_spec("posts"), tuple(Turn(p, ("x",)) for p in "aabbc"))
    assert twice.distinct == 3
    for number in range(20):
        drawn = draw_history(twice, Turn("a", ("x",)), 2, 0, number)
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
    cases = [case for place in data.plan_cases(pairs, 1, [0]) for case in place]
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
    order = data.target_order(50, 3, None)
    assert sorted(order) == list(range(50)) != order
    assert data.target_order(50, 3, None) == order != data.target_order(50, 4, None)
    assert data.target_order(50, 3, 8) == order[:8]


# --- mixes

ROLES = {  # max_len -> a letter for each turn of target_first, target_last and interleaved
    0: ("", "", ""),
    1: ("d", "d", "d"),
    2: ("td", "dt", "dt"),
    3: ("tdd", "ddt", "dtd"),
    4: ("ttdd", "ddtt", "dtdt"),
    5: ("ttddd", "dddtt", "dtdtd"),
}
MIXED = ("target_first", "target_last", "interleaved")


def mixed(mix, target, distractor, max_len=5, **settings):
    """The cases of a pair, both roles in one table where they are one task."""
    table = rows(target)
    pair = Pair(table, table if target == distractor else rows(distractor))
    return [case for [case] in data.plan_cases([pair], max_len, [0], mix=mix, **settings)]


@pytest.mark.parametrize("max_len", ROLES)
def test_roles_by_hand(max_len):
    names = {"d": "distractor", "t": "target"}
    for mix, letters in zip(MIXED, ROLES[max_len]):
        assert roles(mix, max_len) == tuple(names[letter] for letter in letters)
    assert roles("distractor", max_len) == ("distractor",) * max_len


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("pair", [("quiz", "reviews"), ("quiz", "quiz")])
def test_a_turn_is_a_row_of_the_task_of_its_role(mix, pair):
    for case in mixed(mix, *pair, limit=20):
        tables = {"target": case.pair.target, "distractor": case.pair.distractor}
        assert tuple(past.role for past in case.history) == roles(mix, 5)
        assert all(past.turn == tables[past.role].turns[past.idx] for past in case.history)


@pytest.mark.parametrize("mix", MIXED)
@pytest.mark.parametrize("distractor", ["quiz", "reviews"])
def test_under_a_mix_no_row_occurs_twice_and_none_is_the_target(mix, distractor):
    for case in mixed(mix, "quiz", distractor, max_len=12):
        asked = [case.target.prompt, *(past.turn.prompt for past in case.history)]
        assert len(set(asked)) == 13


@pytest.mark.parametrize("mix", MIXES)
def test_the_conversation_of_h_turns_is_the_beginning_of_the_longer_ones(mix):
    for case in mixed(mix, "quiz", "posts", limit=8):
        longest = case.messages(5)
        for h in range(6):
            assert case.messages(h) == [*longest[: 2 * h], longest[-1]]


def test_interleaved_histories_of_a_smaller_max_len_are_beginnings():
    for mix in ("interleaved", "distractor"):
        longest = mixed(mix, "quiz", "reviews", limit=8)
        for max_len in range(5):
            shorter = mixed(mix, "quiz", "reviews", max_len, limit=8)
            for one, other in zip(longest, shorter, strict=True):
                assert one.history[:max_len] == other.history


def test_a_mix_keeps_the_distractors_that_it_has_room_for():
    plain = mixed("distractor", "quiz", "reviews", limit=8)
    for mix in MIXED:
        for one, other in zip(mixed(mix, "quiz", "reviews", limit=8), plain, strict=True):
            kept = [past for past in one.history if past.role == "distractor"]
            assert tuple(kept) == other.history[: len(kept)]


# --- seeds


def planned(seeds, limit=5):
    pairs = [Pair(rows("quiz"), rows("reviews"))]
    return [c for place in data.plan_cases(pairs, 3, seeds, limit) for c in place]


def test_the_first_seed_chooses_the_targets_and_each_draws_histories():
    cases = planned([4, 7, 9])
    chosen = data.target_order(len(rows("quiz").turns), 4, 5)
    for seed in (4, 7, 9):
        assert [case.target_idx for case in cases if case.seed == seed] == chosen
    assert len({case.history_idx for case in cases}) == len(cases) == 15
    assert len({(case.target_idx, *map(str, case.messages(0))) for case in cases}) == 5


def test_the_history_of_a_place_under_a_seed_is_that_of_the_seed_alone():
    together = {s: [c.history_idx for c in planned([0, 1, 2]) if c.seed == s] for s in range(3)}
    for seed, histories_idx in together.items():
        alone = {case.history_number: case.history_idx for case in planned([seed], limit=None)}
        assert histories_idx == [alone[place] for place in range(5)]
