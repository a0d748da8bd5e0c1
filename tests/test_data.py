"""Claims about tasks and their rows."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import hub
import pytest
from drawn import rows

import data
from core.errors import UserError
from run.pairs import require_references
from tasks import spec
from tasks.task import Task, TaskSpec

SAMPLES = ("quiz", "reviews", "posts")
ROOT = Path(data.__file__).parent


# --- turns


@pytest.mark.parametrize("name", spec.builtin_tasks())
def test_one_template_renders_history_and_target(tmp_path, name):
    data_root = None if spec.builtin_tasks()[name].embedded else hub.write_all(tmp_path)
    turn, other = rows(name, data_root).turns[:2]
    [asked] = data.conversation(turn)
    history = data.conversation(other, [turn])
    assert history[0] == asked
    assert history[1] == {"role": "assistant", "content": turn.references[0]}
    assert [message["role"] for message in history] == ["user", "assistant", "user"]


def test_a_prompt_holds_what_its_row_holds(tmp_path):
    hub.write_all(tmp_path)
    question, review = rows("mmlu", tmp_path).turns[1], rows("rotten_tomatoes", tmp_path).turns[1]
    tweet = rows("tweetqa", tmp_path).turns[1]
    assert "Question: q1?\nA. w\nB. x\nC. y\nD. z\n" in question.prompt
    assert "Review: t1\n" in review.prompt
    assert "Post: t1\nQuestion: q1?\n" in tweet.prompt
    assert [turn.references for turn in (question, review, tweet)] == [
        ("B",),
        ("positive",),
        ("a", "b"),
    ]


def test_the_text_tasks_hold_what_their_rows_hold(tmp_path):
    hub.write_all(tmp_path)
    headline, news, problem = (
        rows(name, tmp_path).turns[1] for name in ("gigaword", "cnn_dailymail", "gsm8k")
    )
    assert headline.prompt.endswith("\nSentence: s1 .\nHeadline:")
    assert news.prompt.endswith("\nArticle: n1\nSummary:")
    assert problem.prompt.endswith("\nProblem: p1?\nSolution:")
    assert headline.references == ("h1",)
    assert news.references == ("a1 .\nb .",)
    [whole] = problem.references  # a history shows all of it, the number is taken out when scored
    assert whole.startswith("1 + 1000 = ") and whole.endswith("\n#### 1,001")


# --- samples


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_have_120_different_rows_with_references(name):
    sample = rows(name)
    assert sample.distinct == len(sample.turns) >= 120
    require_references(sample)


@pytest.mark.parametrize("name", ["quiz", "reviews"])
def test_labels_of_samples_are_balanced(name):
    counts = Counter(turn.references[0] for turn in rows(name).turns)
    assert set(counts) == set(spec.builtin_tasks()[name].labels)
    assert max(counts.values()) == min(counts.values())


def test_the_quiz_has_10_subjects():
    lines = (spec.EMBEDDED_ROWS / "quiz.jsonl").read_text(encoding="utf-8").splitlines()
    assert len({json.loads(line)["subject"] for line in lines}) >= 10


def test_posts_have_two_references():
    assert {len(turn.references) for turn in rows("posts").turns} == {2}


# --- loading


@pytest.mark.parametrize(
    ("text", "dataset", "whole"),
    [
        ("mmlu", "mmlu", "mmlu/test"),
        ("mmlu/validation", "mmlu", "mmlu/validation"),
        ("mmlu.anatomy", "mmlu.anatomy", "mmlu.anatomy/test"),
        ("mmlu.anatomy/validation", "mmlu.anatomy", "mmlu.anatomy/validation"),
        ("tweetqa", "tweetqa", "tweetqa/validation"),
        ("quiz/test", "quiz", "quiz/test"),
        ("gsm8k", "gsm8k", "gsm8k/test"),
        ("cnn_dailymail/train", "cnn_dailymail", "cnn_dailymail/train"),
    ],
)
def test_a_spec_is_name_subject_and_split(text, dataset, whole):
    parsed = spec.parse_spec(text)
    assert (parsed.dataset, str(parsed)) == (dataset, whole)
    assert spec.parse_spec(str(parsed)) == parsed


@pytest.mark.parametrize("text", ["", "imdb", "MMLU", "quiz/test/more", "reviews.film", "/test"])
def test_what_is_no_spec_is_refused(text):
    with pytest.raises(UserError):
        spec.parse_spec(text)


@pytest.mark.parametrize("name", spec.builtin_tasks())
def test_a_default_split_has_references(tmp_path, name):
    require_references(rows(name, hub.write_all(tmp_path)))


def test_a_split_without_answers_is_refused(tmp_path):
    hub.write_all(tmp_path)
    with pytest.raises(UserError, match=r"no reference answer in 5 of 5.*tweetqa/validation"):
        require_references(rows("tweetqa/test", tmp_path))


@pytest.mark.parametrize(("split", "count"), [("test", 8), ("validation", 4)])
def test_the_rows_of_a_subject_keep_their_order(tmp_path, split, count):
    hub.write_all(tmp_path)
    whole = rows(f"mmlu/{split}", tmp_path).turns
    assert len(whole) == count
    for start, subject in enumerate(hub.SUBJECTS):
        assert rows(f"mmlu.{subject}/{split}", tmp_path).turns == whole[start::2]


@pytest.mark.parametrize(
    ("name", "splits", "count"),
    [
        ("rotten_tomatoes", ["train", "validation", "test"], 6),
        ("gigaword", ["train", "validation", "test"], 5),
        ("cnn_dailymail", ["train", "validation", "test"], 5),
        ("gsm8k", ["train", "test"], 5),
    ],
)
def test_every_split_of_a_folder_can_be_read(tmp_path, name, splits, count):
    hub.write_all(tmp_path)
    for split in splits:
        assert len(rows(f"{name}/{split}", tmp_path).turns) == count


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("mmlu/none", ["test", "validation"]),
        ("rotten_tomatoes/none", ["train", "validation", "test"]),
        ("quiz/none", ["test"]),
        ("mmlu.none", hub.SUBJECTS),
        ("quiz.none", ["astronomy", "sports"]),
    ],
)
def test_an_unknown_split_or_subject_lists_the_known_ones(tmp_path, text, known):
    with pytest.raises(UserError) as refused:
        rows(text, hub.write_all(tmp_path))
    assert "none" in str(refused.value)
    assert all(name in str(refused.value) for name in known)


def test_a_task_names_configuration_and_revision_of_its_hub_source(monkeypatch):
    asked = []
    monkeypatch.setattr("datasets.load_dataset", lambda *a, **k: asked.append((a, k)) or [{}])
    task = Task("one", "org/name", "{x}", "y", config="part", revision="v2", split="dev")
    with pytest.raises(UserError, match="no column 'x'"):
        data.load_rows(TaskSpec(task, None, "train"))
    settings = {"split": "train", "streaming": False, "revision": "v2"}
    assert asked == [(("org/name", "part"), settings)]


def test_files_are_read_as_they_are_now(tmp_path):
    for name, count in (("first", 5), ("second", 7), ("first", 6)):
        hub.write_split(tmp_path / name, hub.MMLU, "test", hub.questions(count, name))
        turns = rows("mmlu", tmp_path / name).turns
        assert len(turns) == count
        assert f"Question: {name}0?" in turns[0].prompt


@pytest.mark.parametrize("damage", ["truncated", "missing", "other columns", "no card"])
def test_a_damaged_folder_is_refused(tmp_path, damage):
    path = hub.write_split(tmp_path, hub.MMLU, "test", hub.questions(4))
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:50])
    elif damage == "missing":
        path.unlink()
    elif damage == "other columns":
        hub.write_split(tmp_path, hub.MMLU, "test", hub.tweets(3, ["a"]))
    else:
        (tmp_path / hub.MMLU / "README.md").unlink()
    with pytest.raises(UserError, match="mmlu"):
        rows("mmlu", tmp_path)


def test_samples_need_neither_torch_nor_datasets():
    code = (
        "import data, sys; from tasks.spec import parse_spec\n"
        "data.load_rows(parse_spec('quiz')); print(*sys.modules)"
    )
    assert not {"torch", "transformers", "datasets"} & set(run_python(code).split())


def run_python(code: str, **environment: str) -> str:
    """What another Python process prints."""
    command = [sys.executable, "-c", code]
    settings = {"env": os.environ | environment, "cwd": ROOT, "check": True}
    return subprocess.run(command, capture_output=True, text=True, **settings).stdout
