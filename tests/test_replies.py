"""Claims about histories of the model's own words: its replies, and turns sampled from it."""

from types import SimpleNamespace

import pytest
from drawn import rows
from runs import LIMIT, MAX_LEN, examples_of, path_of
from studies import assert_same_numbers, assert_verified, history_of, made_up, of_h

import experiment
from core import records
from core.errors import UserError
from data import Case, HistoryTurn, Pair, Turn, conversation
from run.histories import random_rows, with_model_replies

# --- replies of the model's own


@pytest.mark.parametrize("flags", ["--history model", "--history model --mix interleaved"])
@pytest.mark.parametrize("target", ["quiz", "posts"])
def test_every_reply_in_a_prompt_is_what_the_model_says_to_that_conversation(
    study, lm, target, flags
):
    tables = {"target": rows(target), "distractor": rows("reviews")}
    shown = set()
    for example in examples_of(study(flags), target, "reviews"):
        past = []
        for turn in history_of(example, tables):
            [said] = lm.run([lm.encode(conversation(turn, past), max_new_tokens=4)])
            past.append(Turn(turn.prompt, (said.text,)))
            shown.add(said.text)
        asked = tables["target"].turns[example["config"]["target_idx"]]
        assert example["prompt_text"] == lm.render(conversation(asked, past))
    assert len(shown) > LIMIT
    assert_verified(path_of(study(flags), target, "reviews"))


def test_replies_of_its_own_change_nothing_without_a_history_and_no_row(study):
    for target in ("quiz", "posts"):
        found, expected = (
            examples_of(study(flags), target, "reviews") for flags in ("--history model", "")
        )
        for example in (*found, *expected):
            del example["config"]["history_kind"]
        assert_same_numbers(of_h(found, 0), of_h(expected, 0))
        rows_of = [[e["config"]["history_idx"] for e in each] for each in (found, expected)]
        assert rows_of[0] == rows_of[1]
        texts = [[e["prompt_text"] for e in of_h(each, 1, 2)] for each in (found, expected)]
        assert not set(texts[0]) & set(texts[1])


def test_longer_conversations_with_own_replies_begin_as_the_shorter_ones(study):
    examples = examples_of(study("--history model"), "quiz", "reviews")
    for index in {e["config"]["target_idx"] for e in examples}:
        zero, one, two = [e["prompt_text"] for e in examples if e["config"]["target_idx"] == index]
        assert one.endswith(zero) and two.endswith(zero)
        assert two.startswith(one.removesuffix(zero))


class Parrot:
    """Stands for a model: keeps what it was asked, and says how often it was."""

    def __init__(self):
        self.asked = []

    def encode(self, messages, max_new_tokens):
        return tuple(message["content"] for message in messages), max_new_tokens

    def run(self, prompts):
        self.asked += prompts
        number = len(self.asked) - len(prompts)
        return [SimpleNamespace(text=f"reply {number + k}") for k in range(len(prompts))]


def case_of(target, distractor, *indices):
    past = tuple(HistoryTurn("distractor", i, distractor.turns[i]) for i in indices)
    return Case(Pair(target, distractor), 0, 0, 0, past)


def test_equal_beginnings_are_answered_once():
    target, other = made_up("target", ["t"]), made_up("other", "abc")
    cases = [case_of(target, other, *place) for place in ((0, 1), (0, 1), (0, 2), (1, 0))]
    parrot = Parrot()
    replied = with_model_replies(cases, parrot)
    assert [texts for texts, _ in parrot.asked] == [
        ("a",), ("b",),
        ("a", "reply 0", "b"), ("a", "reply 0", "c"), ("b", "reply 1", "a"),
    ]  # fmt: skip
    contents = [[m["content"] for m in case.messages(2)] for case in replied]
    assert contents == [
        ["a", "reply 0", "b", "reply 2", "t"], ["a", "reply 0", "b", "reply 2", "t"],
        ["a", "reply 0", "c", "reply 3", "t"], ["b", "reply 1", "a", "reply 4", "t"],
    ]  # fmt: skip
    assert [case.history_idx for case in replied] == [case.history_idx for case in cases]


def test_a_reply_may_be_as_long_as_the_task_of_its_turn_allows():
    target = made_up("target", ["t"])
    tables = [made_up("short", "ab", 3), made_up("long", "ab", 7)]
    parrot = Parrot()
    replied = with_model_replies([case_of(target, table, 0, 1) for table in tables], parrot)
    assert [most for _, most in parrot.asked] == [3, 7, 3, 7]
    assert [case.messages(1)[1]["content"] for case in replied] == ["reply 0", "reply 1"]


def test_no_cases_and_no_turns_ask_nothing():
    parrot, table = Parrot(), made_up("target", ["t"])
    assert with_model_replies([], parrot) == []
    [alone] = with_model_replies([case_of(table, table)], parrot)
    assert (alone.history, parrot.asked) == ((), [])


# --- sampled turns

RANDOM = "--history random"


@pytest.fixture(scope="module")
def pool(lm):
    """The turns that a run with the first seed 0 draws from."""
    return random_rows(lm, MAX_LEN, 0, 4)


def test_sampled_turns_stand_in_the_history_and_come_from_the_pool(study, lm, pool):
    for target in ("quiz", "posts"):
        path = study(RANDOM) / f"tiny-llama__{target}" / "test_vs_random_model.json"
        result, log = records.read_result(path), records.read_debug(records.debug_path(path))
        assert (result["distractor"], result["config"]["distractor"]) == ("random/model",) * 2
        assert result["config"]["distractor_rows"] == pool.fingerprint
        tables = {"target": rows(target), "distractor": pool}
        for example in log["debug_examples"]:
            asked = tables["target"].turns[example["config"]["target_idx"]]
            history = history_of(example, tables)
            assert example["prompt_text"] == lm.render(conversation(asked, history))
        assert_verified(path)


def test_a_pool_follows_its_seed(lm, pool):
    assert random_rows(lm, MAX_LEN, 0, 4) == pool
    other = random_rows(lm, MAX_LEN, 1, 4)
    assert not {turn.prompt for turn in pool.turns} & {turn.prompt for turn in other.turns}


def test_sampled_turns_are_different_and_answered_by_the_model(lm, pool):
    assert pool.distinct == len(pool.turns) == 20
    for turn in pool.turns[:4]:
        [said] = lm.run([lm.encode(conversation(turn), max_new_tokens=4)])
        assert turn.references == (said.text,)


def test_a_pool_has_more_turns_than_the_longest_history(monkeypatch, lm):
    monkeypatch.setattr(lm, "sample", lambda count, most, seed: [f"t{k}" for k in range(count)])
    assert [random_rows(lm, h, 0, 1).distinct for h in (0, 19, 20, 30)] == [20, 20, 21, 31]
    monkeypatch.setattr(lm, "sample", lambda count, most, seed: ["a", "", "b", "a"])
    assert [turn.prompt for turn in random_rows(lm, 1, 0, 1).turns] == ["a", "b"]
    with pytest.raises(UserError, match="too few different texts"):
        random_rows(lm, 2, 0, 1)


def test_a_distractor_beside_sampled_turns_is_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        experiment.main(["--history", "random", "--distractor", "reviews"])
    assert stopped.value.code == 2
    assert "leave out --distractor" in capsys.readouterr().err
