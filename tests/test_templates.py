"""Claims about chat templates and tokenizers: each is proved fit for measuring when a model is
loaded, or refused in two lines; then prompts, labels and ends of answers are those of a history.
"""

import json
import random
from datetime import datetime

import pytest
import tiny
import torch
from chat_templates import (
    CHANGED,
    CHATML,
    EXAONE,
    FIT,
    HISTORY,
    MARKS,
    PROMPT,
    QWEN,
    QWEN_THINKING,
    QWQ,
    R1,
    UNFIT,
    content,
    form,
    subject,
    tokenizer_with,
)
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

import experiment
from core import records
from core.errors import UserError
from data import Turn, conversation
from lm.text import Renderer
from model import LanguageModel, load_model


@pytest.fixture
def folder(tmp_path):
    """Makes the folder of a model with a tokenizer."""

    def make(tokenizer, lm=None):
        place = tmp_path / "model"
        (lm or tiny.model("llama")).save_pretrained(place)
        tokenizer.save_pretrained(place)
        return place

    return make


def run(place, *flags, out="out"):
    """A small run of a model's folder -> its status, result and log."""
    out_dir = place.parent / out
    small = ("--limit", 2, "--max_len", 1, "--max_new_tokens", 4, "--device", "cpu", "--no_cosine")
    pair = () if "--target" in flags else ("--target", "quiz", "--distractor", "reviews")
    command = ("--model", place, *small, *pair, *flags, "--out_dir", out_dir, "--quiet")
    status = experiment.main([str(each) for each in command])
    paths = [path for path in out_dir.rglob("*.json") if not path.name.endswith("_debug.json")]
    if status:
        assert not paths
        return status, None, None
    [path] = paths
    log = records.read_debug(records.debug_path(path))["debug_examples"]
    return status, records.read_result(path), log


def refusal(capsys):
    """The message of a run that was refused."""
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ") and len(said.splitlines()) <= 2
    assert "Traceback" not in said
    return said


def bare_logprob(lm, text, behind):
    """log P of a text behind another, by one forward of the bare model."""
    tokenizer = lm.tokenizer
    ids, prompt = (
        tokenizer(each, add_special_tokens=False).input_ids for each in (text + behind, text)
    )
    assert ids[: len(prompt)] == prompt
    with torch.no_grad():
        logprobs = lm.model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(logprobs[k - 1, ids[k]].item() for k in range(len(prompt), len(ids)))


# -- templates that are fit


@pytest.mark.parametrize("name", FIT)
def test_a_prompt_and_what_is_scored_behind_it_are_what_a_history_shows(name):
    template, lead, opening, _ = FIT[name]
    lm = subject(template)
    assert lm.renderer.describe()["lead"] == lead
    first, later = Turn("is it", ("positive",)), Turn("the question", ())
    assert lm.continuation("positive") == opening + "positive"
    history = lm.render(conversation(later, [first]))
    assert history.startswith(lm.render(conversation(first)) + lm.continuation("positive"))


@pytest.mark.parametrize("name", FIT)
def test_an_answer_ends_where_the_template_ends_a_turn(name):
    template, *_, end = FIT[name]
    lm = subject(template)
    if end in (*MARKS, "<|end|>", "<|user|>"):
        assert lm.tokenizer.convert_tokens_to_ids(end) in lm.decoding.eos_ids
        assert lm.decoding.stop_text is None
    else:
        assert lm.decoding.stop_text == end


@pytest.mark.parametrize("name", ["ChatML, always the same", "Vicuna, always the same", "Harmony"])
def test_labels_are_scored_behind_the_template_s_own_words(folder, name):
    template, lead, opening, _ = FIT[name]
    place = folder(tokenizer_with(template))
    _, result, log = run(place)
    behind = result["config"]["label_continuations"]
    assert behind == {label: opening + label for label in "ABCD"}
    lm = load_model(str(place), engine="plain", lens=None)
    for example in log:
        assert example["prompt_text"].endswith(lead)
        for label, score in example["label_logprobs"].items():
            expected = bare_logprob(lm, example["prompt_text"], behind[label])
            assert score == pytest.approx(expected, abs=1e-4)


# -- templates that are not


@pytest.mark.parametrize("name", UNFIT)
def test_a_template_that_cannot_be_measured_with_is_refused(folder, capsys, name):
    template, reason = UNFIT[name]
    place = folder(tokenizer_with(template))
    assert run(place)[0] == 2
    said = refusal(capsys)
    assert reason in said and "--prompt plain" in said
    assert run(place, "--prompt", "plain")[0] == 0


FORGETS = {
    "all": HISTORY.replace("messages", "messages[-7:]") + PROMPT,
    "answers": HISTORY.replace(
        "m.content", "m.content if m.role == 'user' or loop.revindex < 8 else '...'"
    ) + PROMPT,
}  # fmt: skip


@pytest.mark.parametrize("what", FORGETS)
def test_a_template_that_forgets_the_first_of_many_turns_is_refused(folder, capsys, what):
    place = folder(tokenizer_with(FORGETS[what]))
    assert run(place, "--max_len", 3)[0] == 0
    assert run(place, "--max_len", 4, out="longer")[0] == 2
    assert CHANGED in refusal(capsys)


WHOLE = "<|assistant|>{{ m.content }}<|end|>"
DEPENDS = {  # on what an answer says
    "none of an empty one": "{% if m.content %}" + WHOLE + "{% endif %}",
    "the end of a long one": WHOLE.replace("m.content", "m.content[-60:]"),
    "a note on a long one": "{% if m.content | length > 60 %}(long){% endif %}" + WHOLE,
}


@pytest.mark.parametrize("what", DEPENDS)
def test_a_template_that_shows_an_answer_by_what_it_says_is_refused(what):
    lm = subject(form("<|user|>{{ m.content }}", DEPENDS[what], "<|assistant|>"))
    right = subject(form("<|user|>{{ m.content }}", WHOLE, "<|assistant|>"))
    refused = 0
    for answer in ("", "the answer to the question is positive " * 2):
        messages = conversation(Turn("is it", ()), [Turn("is it", (answer,))])
        assert answer in right.render(messages)
        try:
            lm.render(messages)
        except UserError as error:
            assert CHANGED in str(error)
            refused += 1
    assert refused == 1


@pytest.mark.parametrize("change", ["", " | trim", ".lstrip()", ".rstrip()"])
def test_spaces_around_a_message_may_go(change):
    lm = subject(content(change))
    for text in (" is it\n", "\n\nis it ", "is it", " ", ""):
        shown = lm.render(conversation(Turn("?", ()), [Turn(text, (text,))]))
        assert shown.count(text.strip()) >= 2


def test_an_answer_with_a_thought_may_be_shown_without_it():
    answer = "<think>is it\n</think>\n\npositive"
    messages = conversation(Turn("is it", ()), [Turn("the question", (answer,))])
    lm = subject(R1, marks=[], open_thought="close")
    assert "<|assistant|>positive<|end|>" in "".join(lm.render(messages).split())


def test_a_label_that_the_template_shows_otherwise_is_refused():
    lm = subject(content(".replace('yes', 'oui')"))
    assert lm.continuation("no") == "no"
    with pytest.raises(UserError, match="'yes'"):
        lm.continuation("yes")


# -- thoughts


@pytest.mark.parametrize("template", [QWEN, QWEN_THINKING])
def test_a_thought_is_closed_where_the_template_closes_it(folder, template):
    place = folder(tokenizer_with(template))
    _, result, log = run(place)
    assert result["config"]["label_continuations"] == {label: label for label in "ABCD"}
    assert result["config"]["template"]["thought"].startswith("closed")
    for example in log:
        assert example["prompt_text"].endswith("assistant\n<think>\n\n</think>\n\n")
        assert example["prompt_text"].count("<think>") == 1  # the history has none


@pytest.mark.parametrize(
    ("said", "lead"),
    [("", ""), ("</think>", ""), ("<|message|>", "<|message|>"), ("<think></think>\n", "")],
)
def test_a_thought_that_the_prompt_closes_may_be_missing_in_a_history(said, lead):
    whole = f"<|assistant|>{said}{{{{ m.content }}}}<|end|>"
    lm = subject(form("<|user|>{{ m.content }}", whole, "<|assistant|><think>\n</think>"))
    prompt = lm.render(conversation(Turn("is it", ()), [Turn("is it", ("positive",))]))
    assert prompt.endswith("<|assistant|><think>\n</think>" + lead)
    assert lm.continuation("positive") == "positive"
    assert f"<|assistant|>{said}positive<|end|>" in prompt


@pytest.mark.parametrize("template", [R1, QWQ, EXAONE])
def test_a_thought_that_no_history_shows_is_refused_but_for_a_flag(folder, capsys, template):
    place = folder(tokenizer_with(template))
    assert run(place)[0] == 2
    assert "--open_thought close" in refusal(capsys)
    for choice, end in (("close", ">\n\n</th"), ("keep", "<th")):
        _, result, log = run(place, "--open_thought", choice, out=choice)
        assert result["config"]["open_thought"] == choice
        assert choice in result["config"]["template"]["thought"]
        for example in log:
            assert end in example["prompt_text"][-22:]
            assert ("</th" in example["prompt_text"]) == (choice == "close")


# -- the day


@pytest.mark.parametrize("ask", ["strftime_now('%d %B %Y')", "date_string"])
def test_a_run_on_another_day_reads_the_same(folder, monkeypatch, ask):
    place = folder(tokenizer_with("{{ " + ask + " }}" + HISTORY + PROMPT))
    prompts = []
    for year in (2024, 2031):

        class Clock(datetime):
            @classmethod
            def now(cls, tz=None, year=year):
                return datetime(year, 6, 1)

        monkeypatch.setattr(chat_template_utils, "datetime", Clock)
        _, _, log = run(place, out=str(year))
        prompts.append([example["prompt_text"] for example in log])
        assert chat_template_utils.datetime is Clock
    assert prompts[0] == prompts[1]
    assert "2025" in prompts[0][0]


# -- labels of which one begins another


RATINGS = [{"text": f"r{i} is it", "stars": str(i % 10 + 1)} for i in range(20)]


@pytest.mark.parametrize(
    "form, end", [("plain", "\n"), ("chat", "<|im_end|>")], ids=["plain", "chat"]
)
def test_where_labels_nest_the_end_of_an_answer_is_scored_too(folder, tmp_path, form, end):
    place = folder(tokenizer_with(CHATML))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in RATINGS))
    stars = [str(i) for i in range(1, 11)]
    (tmp_path / "own.yaml").write_text(
        "stars:\n  source: rows.jsonl\n  prompt: '{text}'\n  reference: stars\n"
        f"  labels: {json.dumps(stars)}\n"
    )
    flags = ("--task_file", tmp_path / "own.yaml", "--target", "stars", "--distractor", "stars")
    _, result, log = run(place, *flags, "--prompt", form)
    behind = result["config"]["label_continuations"]
    opening = " " if form == "plain" else ""
    assert behind == {label: f"{opening}{label}{end}" for label in stars}
    lm = load_model(str(place), engine="plain", lens=None, prompt_form=form)
    for example in log:
        if example["config"]["history_len"]:
            shown = [text in example["prompt_text"] for text in behind.values()]
            assert any(shown)
        for label, score in example["label_logprobs"].items():
            expected = bare_logprob(lm, example["prompt_text"], behind[label])
            assert score == pytest.approx(expected, abs=1e-4)
        for read in example["reply_logprobs"].values():
            assert read["tokens"] >= 2


@pytest.mark.parametrize("labels", [("yes", "no"), ("A", "B", "C"), ("likely", "unlikely")])
@pytest.mark.parametrize("form", ["plain", "chat"])
def test_labels_that_do_not_nest_are_scored_alone(form, labels):
    lm = subject(CHATML, prompt_form=form)
    assert lm.continuations(labels) == {label: lm.continuation(label) for label in labels}


@pytest.mark.parametrize(
    "labels", [("1", "10"), ("no", "no, never"), ("likely", "likely not", "never")]
)
@pytest.mark.parametrize("name", FIT)
def test_no_label_s_tokens_begin_another_s(name, labels):
    lm = subject(FIT[name][0])
    prompt = lm.encode(conversation(Turn("is it", ())), labels)
    for label, ids in prompt.labels:
        for other, longer in prompt.labels:
            assert label == other or longer[: len(ids)] != ids
    history = lm.render(conversation(Turn("it", ()), [Turn("is it", (labels[1],))]))
    assert history.startswith(prompt.text + lm.continuations(labels)[labels[1]])


# -- answers


def test_a_token_that_the_files_do_not_call_an_end_ends_an_answer(folder):
    """The likeliest third token of an answer gives its place to the end mark."""
    lm = tiny.fresh_model("llama")
    before = LanguageModel(lm, tokenizer_with(CHATML), engine="plain", lens=None)
    mark = before.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert before.tokenizer.eos_token_id != mark
    asked = conversation(Turn("is it", ()))
    [outcome] = before.run([before.encode(asked, max_new_tokens=8)])
    third = outcome.reply[2]
    with torch.no_grad():
        lm.lm_head.weight[mark] = 1.001 * lm.lm_head.weight[third]
    after = load_model(str(folder(tokenizer_with(CHATML), lm)), engine="plain", lens=None)
    [cut] = after.run([after.encode(asked, max_new_tokens=8)])
    assert cut.reply == outcome.reply[: outcome.reply.index(third)]
    assert "<|im_end|>" not in cut.text


# -- tokenizers


def test_tokens_beyond_the_embeddings_are_refused(folder, capsys):
    place = folder(tokenizer_with(CHATML, [*(f"<|m{i}|>" for i in range(30)), *MARKS]))
    assert run(place)[0] == 2
    said = refusal(capsys)
    assert "<|im_start|>" in said and "320 embeddings" in said
    assert run(place, "--prompt", "plain")[0] == 0


def test_a_tokenizer_without_any_mark_has_the_text_that_ends_an_answer():
    raw = tokenizer_with(marks=[]).backend_tokenizer
    bare = json.loads(raw.to_str()) | {"added_tokens": []}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw.from_str(json.dumps(bare)))
    tokenizer.chat_template = CHATML
    assert not tokenizer.added_tokens_decoder
    assert Renderer(tokenizer).answers.stop_text == "<|im_end|>"


def test_a_beginning_that_cannot_be_written_is_refused():
    class Odd(PreTrainedTokenizerFast):
        def __call__(self, text, add_special_tokens=True, **settings):
            found = super().__call__(text, add_special_tokens=False, **settings)
            if add_special_tokens:
                found["input_ids"] = [7, 8]
            return found

    with pytest.raises(UserError, match="cannot be written"):
        Renderer(Odd(tokenizer_object=tokenizer_with().backend_tokenizer), "plain")


@pytest.mark.parametrize("before", [["[gMASK]", "<sop>"], ["<|im_start|>"], ["<s>"], []])
def test_what_a_tokenizer_puts_before_a_text_begins_the_plain_form(folder, before):
    tokenizer = tokenizer_with()
    tokenizer.bos_token = "<s>" if before == ["<s>"] else None
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=[*before, "$A", "<|end|>"],
        special_tokens=[
            (text, tokenizer.convert_tokens_to_ids(text)) for text in [*before, "<|end|>"]
        ],
    )
    _, _, log = run(folder(tokenizer))
    for example in log:
        assert example["prompt_text"].startswith("".join(before) + "User:")
        own = tokenizer(example["prompt_text"].removeprefix("".join(before))).input_ids
        written = tokenizer(example["prompt_text"], add_special_tokens=False).input_ids
        assert written == own[:-1]


def test_dropout_and_split_marks_change_nothing(folder):
    place = folder(tokenizer_with(CHATML))
    expected = run(place)[2]
    file = place / "tokenizer.json"
    raw = json.loads(file.read_text())
    raw["model"]["dropout"] = 0.5
    file.write_text(json.dumps(raw))
    settings = place / "tokenizer_config.json"
    settings.write_text(
        json.dumps(json.loads(settings.read_text()) | {"split_special_tokens": True})
    )
    assert run(place, out="again")[2] == expected


def test_a_tokenizer_that_draws_its_tokens_is_refused():
    class Drawn(PreTrainedTokenizerFast):
        def __call__(self, text, **settings):
            found = super().__call__(text, **settings)
            if random.random() < 0.5:
                found["input_ids"] = found["input_ids"][::-1]
            return found

    tokenizer = Drawn(tokenizer_object=tokenizer_with(HISTORY).backend_tokenizer)
    with pytest.raises(UserError, match="at random"):
        for _ in range(10):
            Renderer(tokenizer, "plain")
