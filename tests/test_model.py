"""Identities of prompts, label scores and the lens on tiny random models."""

import pytest
import tiny
import torch

from core.errors import UserError
from data import Turn, conversation
from lm.engine import PlainEngine
from model import LanguageModel

SHAPES = ("llama", "gpt2", "gpt_neox", "gemma2")
MESSAGES = conversation(Turn("the question", ()), [Turn("is it", ("positive",))])
# One to four tokens for the tiny tokenizer, two of which begin alike
LABELS = ("A", "positive", "no!", "nope")


def language_model(family="llama", **settings):
    return LanguageModel(tiny.model(family), tiny.tokenizer(), **settings)


def logprob(lm, ids):
    """log P of a whole sequence after its first token, by one forward of the bare model."""
    with torch.no_grad():
        logprobs = lm.model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(logprobs[k - 1, ids[k]].item() for k in range(1, len(ids)))


@pytest.mark.parametrize("engine", ["tree", "plain"])
@pytest.mark.parametrize("family", SHAPES)
@pytest.mark.parametrize("form", ["chat", "plain"])
def test_a_label_score_is_the_difference_of_two_sequence_logprobs(family, form, engine):
    lm = language_model(family, prompt_form=form, engine=engine)
    prompt = lm.encode(MESSAGES, LABELS)
    [outcome] = lm.run([prompt])
    for label, ids in prompt.labels:
        expected = logprob(lm, ids) - logprob(lm, ids[: prompt.start])
        assert outcome.label_logprobs[label] == pytest.approx(expected, abs=1e-4)


def test_labels_of_one_to_several_tokens_are_covered():
    prompt = language_model().encode(MESSAGES, LABELS)
    assert {len(ids) - prompt.start for _, ids in prompt.labels} == {1, 2, 3, 4}


@pytest.mark.parametrize("form", ["chat", "plain"])
def test_the_scored_continuation_is_what_a_history_shows(form):
    lm = language_model(prompt_form=form)
    turn = Turn("is it", ("positive",))
    alone = lm.render(conversation(turn))
    later = lm.render(conversation(Turn("the question", ()), [turn]))
    assert later.startswith(alone + lm.continuation("positive"))


@pytest.mark.parametrize("form", ["chat", "plain"])
def test_the_prompt_text_gives_the_ids_that_the_model_read(form):
    lm = language_model(prompt_form=form)
    prompt = lm.encode(MESSAGES)
    assert prompt.ids == tuple(lm.tokenizer(prompt.text, add_special_tokens=False).input_ids)


def test_a_template_that_puts_a_space_before_answers_has_it_scored():
    tokenizer = tiny.tokenizer(chat=False)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '[I]' if m['role'] == 'user' else ' ' }}{{ m['content'] }}"
        "{{ '[/I]' if m['role'] == 'user' else '<|end|>' }}{% endfor %}"
    )
    try:
        lm = LanguageModel(tiny.model("llama"), tokenizer)
        assert lm.continuation("A") == " A"
    finally:
        tokenizer.chat_template = None


def test_chat_without_a_template_is_refused_and_auto_falls_back():
    with pytest.raises(UserError, match="no chat template"):
        LanguageModel(tiny.model("llama"), tiny.tokenizer(chat=False), "chat")
    assert LanguageModel(tiny.model("llama"), tiny.tokenizer(chat=False)).renderer.form == "plain"


def test_labels_with_the_same_tokens_are_refused():
    lm = language_model()
    lm.continuations = lambda labels: dict.fromkeys(labels, "same")
    with pytest.raises(UserError, match="told apart"):
        lm.encode(MESSAGES, ("A", "B"))


def test_label_and_generation_prompts_run_together():
    lm = language_model()
    prompts = [lm.encode(MESSAGES, ("A", "B")), lm.encode(MESSAGES)]
    label, text = lm.run(prompts)
    assert label.text is None and set(label.label_logprobs) == {"A", "B"}
    assert text.label_logprobs is None and isinstance(text.text, str)
    assert label.layers.cosines == text.layers.cosines


@pytest.mark.parametrize("engine", ["tree", "plain"])
def test_equal_prompts_with_other_limits_are_answered_to_their_own_limit(engine):
    lm = language_model(engine=engine)
    prompts = [lm.encode(MESSAGES, max_new_tokens=most) for most in (2, 7, 3)]
    assert [prompt.longest - len(prompt.ids) for prompt in prompts] == [2, 7, 3]
    together = [outcome.text for outcome in lm.run(prompts)]
    assert together == [lm.run([prompt])[0].text for prompt in prompts]
    assert together[1].startswith(together[0]) and together[0] != together[1]


def test_penalties_of_a_checkpoint_do_not_reach_greedy_decoding():
    lm = tiny.model("llama")
    lm.generation_config.repetition_penalty = 9.0
    lm.generation_config.do_sample = True
    subject = LanguageModel(lm, tiny.tokenizer(), engine="plain")
    [by_generate] = subject.run([subject.encode(MESSAGES)])
    subject = LanguageModel(lm, tiny.tokenizer(), engine="tree")
    assert by_generate == subject.run([subject.encode(MESSAGES)])[0]
    assert lm.generation_config.repetition_penalty is None


def test_without_a_lens_no_layers_are_read():
    lm = language_model(lens=None)
    [outcome] = lm.run([lm.encode(MESSAGES, ("A", "B"))])
    assert outcome.layers is None and not lm.runtime.blocks


@pytest.mark.parametrize("form", ["chat", "plain"])
def test_label_scores_equal_lm_evaluation_harness(form):
    pytest.importorskip("lm_eval")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    lm = language_model(prompt_form=form)
    prompt = lm.encode(MESSAGES, LABELS)
    harness = HFLM(pretrained=lm.model, tokenizer=lm.tokenizer, device="cpu", backend="causal")
    requests = [
        Instance("loglikelihood", {}, (prompt.text, lm.continuation(label)), k)
        for k, label in enumerate(LABELS)
    ]
    expected = [score for score, _ in harness.loglikelihood(requests, disable_tqdm=True)]
    [outcome] = lm.run([prompt])
    assert list(outcome.label_logprobs.values()) == pytest.approx(expected, abs=1e-4)


def test_the_plain_engine_is_there_when_asked_for():
    assert isinstance(language_model(engine="plain").engine, PlainEngine)
