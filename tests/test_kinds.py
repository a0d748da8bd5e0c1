"""Claims about the kinds of history: each changes one thing of what a teacher shows."""

import dataclasses
from collections import Counter

import pytest
from drawn import POSTS, QUIZ, REVIEWS, plan, shown
from runs import examples_in, result_of, run

import data
import viz
from core import records
from core.errors import UserError
from data import Turn
from measures.intrusion import shown_replies
from run.config import RunConfig
from run.pairs import require_rows
from tasks.kinds import TEACHER, parse_kind
from tasks.task import Task, TaskSpec


def right(case):
    return [case.pair.distractor.turns[past.idx].references for past in case.history]


@pytest.mark.parametrize("kind", ["wrong:0", "wrong:0.5", "wrong:1", "shuffled", "user_only"])
@pytest.mark.parametrize("distractor", [REVIEWS, POSTS])
def test_kinds_that_choose_no_rows_show_those_of_the_teacher(distractor, kind):
    teacher = plan(REVIEWS, distractor, "teacher")
    other = plan(REVIEWS, distractor, kind)
    assert [case.history_idx for case in other] == [case.history_idx for case in teacher]


@pytest.mark.parametrize("distractor", [REVIEWS, POSTS])
def test_wrong_0_is_the_teacher_and_wrong_1_shows_no_right_answer(distractor):
    none = plan(REVIEWS, distractor, "wrong:0")
    teacher = plan(REVIEWS, distractor, "teacher")
    assert [case.conversation for case in none] == [case.conversation for case in teacher]
    for case in plan(REVIEWS, distractor, "wrong:1"):
        assert not any(answer in known for answer, known in zip(shown(case), right(case)))


def test_half_of_the_answers_are_wrong_under_one_half():
    cases = plan(QUIZ, QUIZ, "wrong:0.5", max_len=8, limit=100)
    wrong = [a not in known for case in cases for a, known in zip(shown(case), right(case))]
    assert 0.45 < sum(wrong) / len(wrong) < 0.55


@pytest.mark.parametrize("kind", ["wrong:0.5", "shuffled", "balanced", "one_label:positive"])
def test_a_shorter_history_is_the_beginning_of_a_longer_one(kind):
    for long, short in zip(plan(REVIEWS, REVIEWS, kind, 6), plan(REVIEWS, REVIEWS, kind, 4)):
        assert long.history_idx[:4] == short.history_idx
        assert shown(long)[:4] == shown(short)


@pytest.mark.parametrize("max_len", [2, 3, 6, 7])
def test_shuffled_answers_are_those_of_other_turns_with_the_same_counts(max_len):
    teacher = plan(POSTS, POSTS, "teacher", max_len)
    for case, other in zip(teacher, plan(POSTS, POSTS, "shuffled", max_len)):
        assert Counter(shown(other)) == Counter(shown(case))
        assert all(a != b for a, b in zip(shown(other), shown(case)))


def test_one_label_without_the_targets_and_balanced_choose_rows_with_right_answers():
    for kind in ("one_label:negative", "without_target_label", "balanced"):
        for case in plan(REVIEWS, REVIEWS, kind):
            assert all(answer in known for answer, known in zip(shown(case), right(case)))
            counts = Counter(shown(case))
            if kind == "balanced":
                assert counts == {"positive": 3, "negative": 3}
            elif kind == "without_target_label":
                assert case.target.references[0] not in counts
            else:
                assert set(counts) == {"negative"}


def test_user_only_leaves_out_the_answers():
    [case, *_] = plan(POSTS, REVIEWS, "user_only")
    assert [message["role"] for message in case.messages(3)] == ["user"] * 4
    teacher = plan(POSTS, REVIEWS, "teacher")[0]
    assert case.messages(3) == [m for m in teacher.messages(3) if m["role"] == "user"]


@pytest.mark.parametrize(
    "text", ["wrong", "wrong:2", "wrong:x", "one_label", "teachers", "shuffled:1", "balanced:2"]
)
def test_an_unknown_kind_is_refused_with_those_there_are(text):
    with pytest.raises(UserError, match=r"wrong:P, one_label:NAME"):
        parse_kind(text)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--history one_label:fine", "has no such labels. It has negative, positive"),
        ("--history balanced --distractor posts", "It has none"),
        ("--history wrong:1 --mix interleaved", "leave out --mix"),
        ("--history teacher teacher", "only once"),
        ("--history wrong:0.5 wrong:0.50", "only once"),
        ("--history shuffled --max_len 1", "one turn"),
        ("--history one_label:positive --max_len 80", "for --history one_label:positive"),
    ],
)
def test_kinds_that_cannot_be_made_are_refused(tmp_path, model, capsys, flags, words):
    assert run(tmp_path, model, "reviews", "reviews", *flags.split()) == 2
    assert words in capsys.readouterr().err


def made_up(labels, answers):
    task = Task("made", source="made", prompt="{q}", reference="a", labels=labels)
    turns = tuple(Turn(f"question {k}", (answer,)) for k, answer in enumerate(answers))
    return data.TaskRows(TaskSpec(task, None, "test"), turns)


@pytest.mark.parametrize(
    ("kind", "labels", "answers"),
    [
        ("balanced", ("a", "b", "c"), "abcabc"),  # 4 turns may show a twice, and the target be one
        ("wrong:1", (), ["Same", "same"] * 4),
        ("wrong:0.5", ("Yes", "yes"), ["Yes", "yes"] * 4),
    ],
)
def test_a_kind_that_would_never_find_a_row_or_an_answer_is_refused(kind, labels, answers):
    table = made_up(labels, answers)
    pair = data.Pair(table, table, parse_kind(kind))
    with pytest.raises(UserError, match=f"--history {kind}"):
        require_rows(pair, RunConfig(max_len=4))


def test_balanced_is_refused_where_one_question_has_several_labels_and_few_have_one():
    table = made_up(("a", "b"), "abababab")
    once, twice = table.turns, [data.Turn(f"both {k // 2}", ("ab"[k % 2],)) for k in range(40)]
    pair = data.Pair(data.TaskRows(table.spec, (*once, *twice)), table)
    pair = dataclasses.replace(pair, distractor=pair.target, kind=parse_kind("balanced"))
    require_rows(pair, RunConfig(max_len=6))
    assert len(data.plan_cases([pair], 6, range(20))) == len(pair.target.turns)
    with pytest.raises(UserError, match="has only 7 different rows for --history balanced"):
        require_rows(pair, RunConfig(max_len=7))
    only_both = data.TaskRows(table.spec, tuple(twice))
    pair = dataclasses.replace(pair, target=only_both, distractor=only_both)
    with pytest.raises(UserError, match="has only 0 different rows"):
        require_rows(pair, RunConfig(max_len=1))


@pytest.mark.parametrize("text", ["wrong:0.50", "wrong:.5", "wrong:5e-1"])
def test_one_share_is_one_kind_however_it_is_written(text):
    assert parse_kind(text) == parse_kind("wrong:0.5")
    assert str(parse_kind(text)) == "wrong:0.5"


def test_whole_shares_are_named_as_whole_numbers():
    assert [str(parse_kind(f"wrong:{p}")) for p in ("0", "-0", "0.0", "1.0")] == [
        *("wrong:0", "wrong:0", "wrong:0", "wrong:1")
    ]


def test_balanced_needs_no_more_rows_than_it_may_show():
    table = made_up(("a", "b", "c"), "abcabcabc")
    pair = data.Pair(table, table, parse_kind("balanced"))
    require_rows(pair, RunConfig(max_len=6))
    for [case] in data.plan_cases([pair], 6, [0]):
        assert Counter(shown(case)) == {"a": 2, "b": 2, "c": 2}


def test_answers_that_are_not_shown_are_not_copied_either():
    [case, *_] = plan(POSTS, REVIEWS, "user_only")
    example = {"config": {"history_role": ["distractor"] * 6}}
    assert shown_replies(example, case.conversation) == []


@pytest.fixture(scope="module")
def several(tmp_path_factory, model):
    """Results of four kinds, made by one run."""
    out_dir = tmp_path_factory.mktemp("kinds")
    kinds = ["teacher", "wrong:0", "wrong:1", "model"]
    assert run(out_dir, model, "reviews", "reviews", "--history", *kinds) == 0
    return out_dir


def test_one_run_makes_a_folder_for_each_kind(several):
    folders = {path.name for path in several.iterdir()}
    assert folders == {"teacher", "wrong:0", "wrong:1", "model"}
    for kind in folders:
        assert result_of(several / kind, "reviews", "reviews")["config"]["history"] == kind


def test_wrong_0_gives_the_numbers_of_the_teacher_to_the_last_digit(several):
    def numbers(kind):
        found = examples_in(several / kind)
        return [{k: v for k, v in example.items() if k != "config"} for example in found]

    assert numbers("wrong:0") == numbers("teacher")
    assert numbers("wrong:1") != numbers("teacher")


def test_a_kind_in_a_run_of_several_is_the_kind_alone(several, tmp_path, model):
    assert run(tmp_path, model, "reviews", "reviews", "--history", "wrong:1") == 0
    for alone, together in zip(examples_in(tmp_path), examples_in(several / "wrong:1")):
        assert alone["prompt_text"] == together["prompt_text"]
        assert alone["label_logprobs"] == pytest.approx(together["label_logprobs"], abs=1e-4)


def test_labels_shown_are_counted_and_verified(several, tmp_path, capsys):
    files = sorted(several.rglob("*_debug.json"))
    assert viz.main(["verify", "--debug_file", *map(str, files)]) == 0
    assert "labels_shown" in capsys.readouterr().out
    for path in files:
        examples = records.read_debug(path)["debug_examples"]
        for example in (each for each in examples if each["config"]["history_len"]):
            total = sum(example["labels_shown"].values())
            assert total <= example["config"]["history_len"]
            if "model" not in example["config"]["history_kind"]:
                assert total == example["config"]["history_len"]


def test_teacher_is_the_kind_without_a_word():
    assert (
        parse_kind("teacher") == TEACHER
        and str(data.Pair(QUIZ, POSTS)) == "quiz/test after posts/test"
    )
