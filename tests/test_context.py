"""Claims about prompts that are longer than the context of the model."""

import pytest
import tiny
from drawn import rows
from runs import MAX_LEN, examples_of
from studies import CUE, made_up, run_study

import data
from core.errors import UserError
from data import Pair, TaskRows, Turn
from model import LanguageModel
from run import planning
from run.config import RunConfig
from tasks.kinds import parse_kind


def case_and_needed(lm, target, **settings):
    """A case of two turns, and the tokens of what it asks at each h, worked out here."""
    config = RunConfig(max_len=MAX_LEN, **settings)
    [kind] = map(parse_kind, config.history)
    pair = Pair(rows(target), rows("reviews"), kind)
    [[case]] = data.plan_cases([pair], MAX_LEN, [0], 1)
    needed = []
    for h in range(MAX_LEN + 1):
        messages = case.messages(h, config.switch_cue if h else None)
        if "model" in config.history:  # of which no answer is known yet
            messages = [
                m | ({"content": "?"} if m["role"] == "assistant" else {}) for m in messages
            ]
        text = lm.render(messages)
        behind = [
            len(lm.renderer.tokens(text + label))
            for label in (*case.labels, *case.distractor_labels)
        ]
        if not case.labels or config.scoring != "likelihood":
            behind.append(len(lm.renderer.tokens(text)) + case.task.max_new_tokens)
        if not case.labels and config.sensitivity:
            behind.append(len(lm.renderer.tokens(text + case.target.references[0])))
        own = case.pair.distractor.spec.task.max_new_tokens - 1 if "model" in config.history else 0
        needed.append(max(behind) + h * own)
    return case, config, needed


OVERFLOWS = [
    ("quiz", {}),
    ("posts", {}),
    ("quiz", {"history": ("model",)}),
    ("posts", {"history": ("model",)}),
    ("quiz", {"scoring": "generate"}),
    ("quiz", {"scoring": "both", "history": ("model",)}),
    ("quiz", {"switch_cue": CUE}),
    ("posts", {"switch_cue": CUE, "history": ("model",)}),
    ("posts", {"sensitivity": True}),
]


@pytest.mark.parametrize(("target", "settings"), OVERFLOWS)
def test_the_context_must_hold_the_longest_that_can_be_asked(monkeypatch, lm, target, settings):
    case, config, needed = case_and_needed(lm, target, **settings)
    for context, dropped in ((needed[-1], []), (needed[-1] - 1, [case])):
        monkeypatch.setattr(LanguageModel, "context", context)
        skipping = RunConfig(**(vars(config) | {"on_overflow": "skip"}))
        kept = [[] if dropped else [case]]
        assert planning.drop_overflowing([[case]], lm, skipping) == (kept, dropped)
    with pytest.raises(UserError, match=f"h = 2: {needed[-1]} tokens"):
        planning.drop_overflowing([[case]], lm, config)


def test_a_reference_that_sensitivity_reads_counts(monkeypatch, lm):
    long = made_up("long", ["a question"], most=2)
    pair = Pair(TaskRows(long.spec, (Turn("a question", ("answer " * 20,)),)), rows("reviews"))
    [[case]] = data.plan_cases([pair], 1, [0])
    reference = lm.render(case.messages(1)) + case.target.references[0]
    monkeypatch.setattr(LanguageModel, "context", len(lm.renderer.tokens(reference)) - 1)
    for sensitivity, dropped in ((False, []), (True, [case])):
        config = RunConfig(max_len=1, sensitivity=sensitivity, on_overflow="skip")
        assert planning.drop_overflowing([[case]], lm, config)[1] == dropped


def test_no_prompt_is_sure_to_fit_that_does_not(monkeypatch, lm):
    for target, settings in OVERFLOWS:
        case, config, needed = case_and_needed(lm, target, **settings)
        for h in range(MAX_LEN + 1):
            asked = planning._longest(case, h, config)
            assert lm.tokens_needed(asked) == needed[h]
            monkeypatch.setattr(LanguageModel, "context", needed[h] - 1)
            assert not lm.surely_fits(asked)


def test_replies_of_its_own_may_overflow_where_references_fit(tmp_path, model, study, lm, capsys):
    texts = [e["prompt_text"] for e in examples_of(study(), "posts", "reviews")]
    context = max(len(lm.renderer.tokens(text)) for text in texts) + 4
    fitting = tiny.save_model(tmp_path / "tiny-llama", max_position_embeddings=context)
    flags = "--target posts"
    assert run_study(tmp_path / "teacher", fitting, flags) == 0
    assert run_study(tmp_path / "own", fitting, f"{flags} --history model") == 2
    assert "context is" in capsys.readouterr().err
