"""Claims about turns.py: prompts are told apart into turns, and every one is rebuilt exactly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports import turns


def chatml(messages):
    text = "".join(f"<|im_start|>{who}\n{said}<|im_end|>\n" for who, said in messages)
    return f"{text}<|im_start|>assistant\n"


def llama_3(messages):
    head = "<|start_header_id|>{}<|end_header_id|>\n\n"
    text = "".join(f"{head.format(who)}{said}<|eot_id|>" for who, said in messages)
    return f"<|begin_of_text|>{text}{head.format('assistant')}"


def gemma(messages):
    names = {"assistant": "model"}
    text = "".join(
        f"<start_of_turn>{names.get(who, who)}\n{said}<end_of_turn>\n" for who, said in messages
    )
    return f"<bos>{text}<start_of_turn>model\n"


def mistral(messages):
    parts = {"user": "[INST] {} [/INST]", "assistant": " {}</s>"}
    return "<s>" + "".join(parts[who].format(said) for who, said in messages)


def llama_2(messages):
    text = mistral(messages)
    return text.replace("[INST] ", "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n", 1)


def plain(messages):
    return "\n".join([*(f"{who.title()}: {said}" for who, said in messages), "Assistant:"])


def unknown(messages):
    return "".join(f"~~{who}~~{said}~~" for who, said in messages) + "~~assistant~~"


FORMS = [chatml, llama_3, gemma, mistral, llama_2, plain, unknown]


def prompts_of(form, history, target):
    prompts = []
    for h in range(len(history) + 1):
        said = [each for turn in history[:h] for each in zip(("user", "assistant"), turn)]
        prompts.append(form([*said, ("user", target)]))
    return prompts


HISTORY = [("2 + 2?", "4"), ("Is it red?\nAnswer:", "yes"), ("3 + 3?", "6")]


def kind(form):
    return "plain" if form is plain else "chat"


@pytest.mark.parametrize("form", FORMS)
def test_every_prompt_is_rebuilt_and_the_history_is_kept_once(form):
    prompts = prompts_of(form, HISTORY, "Which one?\nAnswer:")
    pieces = turns.split_prompts(prompts, kind(form))
    assert [pieces.prompt(h) for h in range(len(prompts))] == prompts
    kept = "".join(pieces.history + pieces.tail)
    assert len(kept) == len(prompts[-1])


@pytest.mark.parametrize("form", FORMS[:-1])
def test_speakers_alternate_and_their_words_stand_between_the_marks(form):
    pieces = turns.split_prompts(prompts_of(form, HISTORY, "Which one?"), kind(form))
    said, who = [], None
    for piece in pieces.history + pieces.tail:
        found = turns.speaker(piece, kind(form))
        if found is None:
            said.append((who, piece.strip()))
        else:
            who = found or who
    expected = [each for turn in HISTORY for each in zip(("user", "assistant"), turn)]
    system = [("system", "Be brief.")] if form is llama_2 else []
    assert said == [*system, *expected, ("user", "Which one?")]


def test_prompts_that_are_not_nested_have_no_pieces():
    assert turns.split_prompts(["a", "bca", "bxxa"], "chat") is None


texts = st.text(max_size=12) | st.sampled_from(["<|im_end|>\n", "[INST] ", "User: ", "</s>"])


@given(st.lists(st.tuples(texts, texts), max_size=3), texts, st.sampled_from(FORMS))
def test_pieces_give_the_prompts_back_or_there_are_none(history, target, form):
    prompts = prompts_of(form, history, target)
    pieces = turns.split_prompts(prompts, kind(form))
    if pieces:
        assert [pieces.prompt(h) for h in range(len(prompts))] == prompts
