"""Every turn's tokens are found exactly, in every prompt form, and with them the target's."""

from itertools import pairwise

import pytest
import tiny

from core.errors import UserError
from lm.spans import find_spans
from lm.text import Renderer

SYSTEM = "{{ '<|user|>be kind<|end|>\n' }}"
TEMPLATES = {
    "tiny": (tiny.CHAT_TEMPLATE, "", "<|user|>"),
    "system": (
        SYSTEM + "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
        "<|user|>be kind<|end|>\n",
        "<|user|>\n",
    ),
    "begins again": (
        "{% for m in messages %}{% if m.role == 'user' %}<s>[INST] {{ m.content }} [/INST]"
        "{% else %} {{ m.content }}<|end|>{% endif %}{% endfor %}",
        "",
        "<s>[INST] ",
    ),
    "trims and thinks": (
        "<s>{% for m in messages %}<|{{ m.role }}|>\n"
        "{{ '<think></think>' if m.role == 'assistant' and loop.last }}"
        "{{ m.content | trim }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n<think></think>\n{% endif %}",
        "<s>",
        "<|user|>\n",
    ),
    "ends without a newline": (
        "{% for m in messages %}{{ '\n' if not loop.first }}<|{{ m.role }}|>{{ m.content }}"
        "<|end|>{% endfor %}{{ '\n<|assistant|>' if add_generation_prompt }}",
        "",
        "<|user|>",
    ),
    "plain": (None, "", "User: "),
}


def renderer(template=None, fast=True):
    tokenizer = tiny.fresh_tokenizer(template)
    if not fast:
        tokenizer.__class__ = type("Slow", (type(tokenizer),), {"is_fast": False})
    return Renderer(tokenizer)


def messages_of(*texts):
    roles = ("user", "assistant")
    return [{"role": roles[k % 2], "content": text} for k, text in enumerate(texts)]


def pieces(made, messages):
    """Spans of a conversation, and the text of a token range."""
    ids = made.tokens(made.render(messages))
    return find_spans(made, messages, ids), lambda span: made.tokenizer.decode(ids[slice(*span)])


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("form", TEMPLATES)
@pytest.mark.parametrize("texts", [("is it", "no!", " the question ", "A", "user", "user", "A")])
def test_a_turn_begins_with_its_mark_and_ends_before_the_next_ones(form, texts, fast):
    template, system, opening = TEMPLATES[form]
    made = renderer(template, fast)
    spans, text_of = pieces(made, messages_of(*texts))
    assert text_of(spans.system) == system
    for span in (*spans.turns, spans.target):
        assert text_of(span).startswith(opening)
    assert [text_of(span).strip() for span in spans.users] == [t.strip() for t in texts[:-1:2]]
    assert [text_of(span).strip() for span in spans.answers] == [t.strip() for t in texts[1::2]]
    assert text_of(spans.question).strip() == texts[-1].strip()
    ends = [spans.system, *spans.turns, spans.target]
    assert ends[0][0] == 0 and all(one[1] == two[0] for one, two in pairwise(ends))


@pytest.mark.parametrize("form", ["tiny", "system", "ends without a newline"])
def test_turns_may_have_no_answers(form):
    template, system, opening = TEMPLATES[form]
    texts = ("is it", "no!", "user", "A")
    messages = [{"role": "user", "content": text} for text in texts]
    spans, text_of = pieces(renderer(template), messages)
    assert text_of(spans.system) == system and spans.answers == ()
    assert [text_of(span).strip() for span in spans.users] == list(texts[:-1])
    assert all(text_of(span).startswith(opening) for span in (*spans.turns, spans.target))
    assert [one[1] for one in spans.turns] == [two[0] for two in (*spans.turns[1:], spans.target)]


@pytest.mark.parametrize("form", TEMPLATES)
def test_the_targets_tokens_are_those_of_the_prompt_without_history(form):
    made = renderer(TEMPLATES[form][0])
    messages = messages_of("is it", "no!", "the question")
    zero, ids = (made.tokens(made.render(m)) for m in (messages[-1:], messages))
    spans, _ = pieces(made, messages)
    assert ids[: spans.system[1]] + ids[spans.target[0] :] == zero


@pytest.mark.parametrize("fast", [True, False])
def test_a_token_across_a_seam_belongs_to_the_part_behind_it_and_is_counted(fast):
    end = "{% if m.role == 'assistant' %}<|end|>{% endif %}"
    made = renderer("{% for m in messages %}{{ m.content }}" + end + "{% endfor %}", fast)
    messages = messages_of("is", "the", "answer po", "sitive or", "negative")
    spans, text_of = pieces(made, messages)
    assert spans.across == 1
    assert text_of(spans.turns[1]) == "answer positive or<|end|>"
    assert (text_of(spans.users[1]), text_of(spans.answers[1])) == ("answer", " positive or")


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("<|user|>{{ m.content | upper }}", "changes a message"),
        ("{{ 'one' if loop.first else 'two' }}{{ m.content }}", "first turn is opened otherwise"),
        (
            "<|user|>{{ 'x' if loop.index == 3 }}{{ m.content }}",
            "first turn is opened otherwise",
        ),
    ],
)
def test_a_template_that_hides_where_turns_begin_is_refused(template, why):
    with pytest.raises(UserError, match=why):
        made = renderer("{% for m in messages %}" + template + "{% endfor %}")
        pieces(made, messages_of("is it", "no!", "the question"))
