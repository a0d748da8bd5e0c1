"""Claims about --history filler: a neutral text with as many tokens as the teacher history."""

import contextlib
import re
from functools import cache

import numpy as np
import pytest
import tiny
from chat_templates import FIT, subject
from drawn import POSTS, QUIZ, REVIEWS, plan, shown
from runs import examples_in, run
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import experiment
import viz
from core import records
from core.errors import UserError
from lm.filler import neutral_text, neutral_turns
from model import LanguageModel
from run.histories import with_neutral_text

H = 4
WORDS = " ".join(neutral_text().split())


def lm_of(tokenizer, form="auto"):
    return LanguageModel(tiny.model("llama"), tokenizer, form, lens=None)


@cache
def pieces_tokenizer():
    """A tokenizer of sentence pieces, which know nothing of words."""
    special = ["<unk>", "<pad>", "<s>", "<|end|>", "<|user|>", "<|assistant|>"]
    raw = Tokenizer(models.Unigram())
    raw.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    raw.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    asked = [turn.prompt for rows in (QUIZ, REVIEWS, POSTS) for turn in rows.turns]
    raw.train_from_iterator([*asked[::4], *WORDS.split(". ")], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", bos_token="<s>", eos_token="<|end|>",
        unk_token="<unk>", chat_template=tiny.CHAT_TEMPLATE,
    )  # fmt: skip


def tokens(lm, case):
    """Tokens of the prompts at h = 0, 1, ..., by the tokenizer alone."""
    texts = [lm.render(case.messages(h)) for h in range(len(case.history) + 1)]
    return [len(lm.tokenizer(text, add_special_tokens=False).input_ids) for text in texts]


def said(case):
    return [message["content"] for message in case.conversation[:-1]]


TEMPLATES = ("ChatML", "Vicuna without an end", "Llama 2", "Gemma", "Alpaca", "Harmony")
SUBJECTS = {name: lambda name=name: subject(FIT[name][0]) for name in TEMPLATES}
SUBJECTS |= {
    "plain": lambda: lm_of(tiny.tokenizer(chat=False)),
    "pieces": lambda: lm_of(pieces_tokenizer()),
    "pieces, plain": lambda: lm_of(pieces_tokenizer(), "plain"),
}


@pytest.mark.parametrize("name", SUBJECTS)
@pytest.mark.parametrize("distractor", [QUIZ, POSTS])
def test_a_turn_has_as_many_tokens_as_the_teachers_to_within_one_and_so_have_all(distractor, name):
    lm, cases = SUBJECTS[name](), plan(REVIEWS, distractor, "filler", H, limit=4)
    for case, filled in zip(cases, with_neutral_text(cases, lm)):
        gaps = np.diff(tokens(lm, filled)) - np.diff(tokens(lm, case))
        assert abs(gaps).max() <= 1
        assert abs(np.cumsum(gaps)).max() <= 1


def test_no_blank_line_takes_tokens_that_an_answer_has_no_room_for():
    def count(user, answer):  # every line break is a token
        return len(re.findall(r"\n|\w+|[^\w\s]", f"{user} {answer}"))

    said = [("one two three four five six seven eight nine", "ten eleven twelve thirteen")] * 4
    for key in range(100):
        gaps = [count(*turn) - count(*said[0]) for turn in neutral_turns(said, count, str(key))]
        assert max(map(abs, gaps)) <= 1, key


def test_the_rows_are_the_teachers_and_target_and_cue_are_untouched():
    teacher, lm = plan(REVIEWS, QUIZ, "teacher", H, limit=4), lm_of(tiny.tokenizer())
    filled = with_neutral_text(plan(REVIEWS, QUIZ, "filler", H, limit=4), lm)
    for one, other in zip(teacher, filled):
        assert one.history_idx == other.history_idx
        assert one.messages(H, "Now this.")[-1] == other.messages(H, "Now this.")[-1]
        assert one.messages(0) == other.messages(0)


def test_it_is_the_text_in_order_and_shows_no_label_and_no_letter():
    lm = lm_of(tiny.tokenizer())
    for case in with_neutral_text(plan(REVIEWS, QUIZ, "filler", H, limit=4), lm):
        place = 0
        for piece in said(case):
            words = " ".join(piece.split())
            place = (WORDS + " " + WORDS).index(words, place) + len(words)
        assert all(len(answer) > 1 for answer in shown(case))


def test_a_label_is_passed_over():
    lm = lm_of(pieces_tokenizer())
    once = with_neutral_text(plan(REVIEWS, QUIZ, "filler", H, limit=1), lm)[0]
    labels = tuple({answer.upper(): None for answer in shown(once)})
    [case] = plan(REVIEWS, QUIZ, "filler", H, limit=1)
    with labelled(case.pair.distractor.spec.task, labels):
        [again] = with_neutral_text([case], lm)
    assert not {answer.upper() for answer in shown(again)} & set(labels)
    assert abs(np.subtract(tokens(lm, again), tokens(lm, once))).max() <= 2


@contextlib.contextmanager
def labelled(task, labels):
    """A task with other labels for a while."""
    before = task.labels
    object.__setattr__(task, "labels", labels)
    try:
        yield
    finally:
        object.__setattr__(task, "labels", before)


@pytest.mark.parametrize("side", ["target", "distractor"])
def test_no_label_of_either_task_stands_in_it_as_a_word(side):
    lm, labels = lm_of(pieces_tokenizer()), ("White", "one", "deep", "lan", "in")
    cases = plan(REVIEWS, POSTS, "filler", 6, limit=8)
    with labelled(getattr(cases[0].pair, side).spec.task, labels):
        filled = with_neutral_text(cases, lm)
    text = " ".join(piece for case in filled for piece in said(case)).lower()
    assert not {label.lower() for label in labels} & set(re.findall(r"\w+", text))
    gaps = [np.subtract(tokens(lm, one), tokens(lm, two)) for one, two in zip(filled, cases)]
    assert np.abs(gaps).max() <= 1
    words = " ".join(piece for case in with_neutral_text(cases, lm) for piece in said(case))
    assert "white" in words.split()  # without that label it is there


def test_labels_that_no_sentence_is_without_are_refused():
    [case] = plan(REVIEWS, QUIZ, "filler", 1, limit=1)
    labels = ("the", "and", "in", "is", "of")
    with labelled(case.task, labels), pytest.raises(UserError, match="nearly every sentence"):
        with_neutral_text([case], lm_of(tiny.tokenizer()))


def test_a_shorter_history_is_the_beginning_of_a_longer_one():
    lm = lm_of(tiny.tokenizer())
    long, short = (with_neutral_text(plan(POSTS, QUIZ, "filler", h), lm) for h in (H, 2))
    assert [said(case)[:4] for case in long] == [said(case) for case in short]


def test_histories_begin_at_sentences_of_their_own_and_the_same_at_every_call():
    lm = lm_of(tiny.tokenizer())
    cases = plan(REVIEWS, QUIZ, "filler", 1, limit=20)
    begin = [said(case)[0][:20] for case in with_neutral_text(cases, lm)]
    assert len(set(begin)) > 10
    assert begin == [said(case)[0][:20] for case in with_neutral_text(cases, lm)]
    assert all(f". {first}" in f". {WORDS}" for first in (" ".join(b.split()) for b in begin))


def test_the_text_asks_nothing_and_names_no_letter_and_no_number():
    assert not re.search(r"[?0-9]|\b[A-Z]\b|[^\x00-\x7f]", neutral_text())
    assert not re.search(
        r"\b(positive|negative|true|false|yes|no)\b", neutral_text(), re.IGNORECASE
    )


def test_text_longer_than_the_whole_begins_again():
    lm = lm_of(tiny.tokenizer())
    [case, *_] = with_neutral_text(plan(REVIEWS, POSTS, "filler", 30, limit=1), lm)
    assert sum(map(len, said(case))) > len(neutral_text())


@pytest.mark.parametrize("key", "abc")
def test_a_turn_may_be_longer_than_the_whole_many_times_over(key):
    def count(user, answer):
        return len(user) // 4 + len(answer) // 4

    said = [("x" * 30_000, "y" * 9), ("x" * 80, "y" * 9)]
    found = neutral_turns(said, count, key)
    assert [count(*turn) for turn in found] == [count(*turn) for turn in said]
    assert all(" ".join(piece.split()) in " ".join(6 * [WORDS]) for turn in found for piece in turn)


def test_a_tokenizer_of_letters_is_refused():
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=10, special_tokens=["<s>", "<|end|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    raw.train_from_iterator(["x"], trainer)
    letters = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="<|end|>")
    with pytest.raises(UserError, match="reads letter by letter"):
        with_neutral_text(plan(REVIEWS, QUIZ, "filler", 1, limit=1), lm_of(letters))


def test_tokens_that_depend_on_what_stands_around_a_turn_are_refused(monkeypatch):
    lm = lm_of(tiny.tokenizer())
    encode = type(lm).encode

    def longer(self, messages, *rest, **named):
        prompt = encode(self, messages, *rest, **named)
        more = 2 * len(messages) if len(messages) > 3 and "?" not in messages[0]["content"] else 0
        object.__setattr__(prompt, "ids", (*prompt.ids, *[0] * more))
        return prompt

    monkeypatch.setattr(type(lm), "encode", longer)
    with pytest.raises(UserError, match="depend on the text around them"):
        with_neutral_text(plan(REVIEWS, QUIZ, "filler", 2, limit=1), lm)


def test_a_run_writes_it_down_as_read_and_verifies(tmp_path, model, capsys):
    kinds = ["--history", "teacher", "filler", "--switch_cue", "Now this."]
    assert run(tmp_path, model, "reviews", "quiz", *kinds, "--effects", "position") == 0
    examples = {kind: examples_in(tmp_path / kind) for kind in ("teacher", "filler")}
    for one, other in zip(examples["teacher"], examples["filler"]):
        assert one["config"] | {"history_kind": "filler"} == other["config"]
        if not one["config"]["history_len"]:
            assert one["label_logprobs"] == other["label_logprobs"]
    [path] = (tmp_path / "filler").rglob("*_debug.json")
    log = records.read_debug(path)
    for example in log["debug_examples"]:
        h, talk = example["config"]["history_len"], log["conversations"][example["conversation"]]
        assert all(m["content"] in example["prompt_text"] for m in (*talk[: 2 * h], talk[-1]))
        assert not any(example.get("labels_shown", {}).values())
    assert viz.main(["verify", "--debug_file", str(path)]) == 0
    assert "MISMATCH" not in capsys.readouterr().out


def test_behind_a_server_it_is_refused_in_a_line(capsys):
    flags = "--server http://localhost:1/v1 --model x --history filler"
    assert experiment.main(flags.split()) == 2
    error = capsys.readouterr().err
    assert error == "error: --history filler needs a model that runs in this process.\n"
