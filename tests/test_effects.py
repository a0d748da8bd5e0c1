"""Effects: what is hidden, seen, patched and looked at is what plain transformers make of it."""

from dataclasses import replace

import oracle_interventions as oracle
import pytest
import tiny
import torch
from transformers import AutoTokenizer

from core.schema import EFFECT_PARTS
from data import Turn, conversation
from lm import interventions
from lm.attention import parts_of
from lm.effects import Histories, filled
from lm.identities import exact_parts
from lm.interventions import Interventions, Row
from lm.lens import find_parts
from lm.spans import find_spans
from lm.targets import Asked, Target
from model import LanguageModel
from reports.verify import leaves

LABELS = ("A", "positive", "negative")  # of one, and of several tokens
HISTORY = (Turn("the question is", ("no!",)), Turn("or negative", ("positive",)))
TARGET = Turn("is it", ("positive",))
FAMILIES = [family for family in tiny.FAMILIES if family != "mamba"]
WITH_SINKS = "gpt_oss"  # its attention to tokens does not sum to 1
FILLER = tuple(range(40, 60))
SLACK = 1e-3  # nats


def language_model(family, **settings):
    return LanguageModel(tiny.model(family), tiny.tokenizer(), lens=None, **settings)


def conversation_of(lm, labels=LABELS, width=1):
    messages = [conversation(TARGET, HISTORY[:h]) for h in range(3)]
    prompts = [lm.encode(each, labels) for each in messages]
    spans = [find_spans(lm.renderer, m, p.ids) for m, p in zip(messages[1:], prompts[1:])]
    asked = [Asked.of(prompt, "positive") for prompt in prompts]
    return Histories(tool_of(lm), asked, spans, width)


def tool_of(lm):
    return Interventions(lm.runtime, find_parts(lm.model).blocks)


def hidden(queries, keys, blocks=(0, 99)):
    return range(*queries), range(*keys), range(*blocks)


def expected(lm, held, h):
    """The same numbers by the oracle."""
    asked, none, spans = held.asked[h], held.asked[0], held.spans[h - 1]
    ids, answers = list(asked.ids), dict(asked.answers)
    begin, depth = spans.target[0], held.tool.depth
    end = len(ids) + 9  # the answers' tokens are among the queries
    queries, history = (begin, end), spans.history

    def number(*rules, of=asked, patches=()):
        rules = [hidden(*rule) for rule in rules]
        return oracle.number(lm.model, list(of.ids), answers, "positive", rules, patches)

    found = {"none": number(of=none), "full": number(), "hidden": number((queries, history))}
    found["filler"] = number(of=Asked(filled(asked.ids, spans, FILLER), asked.answers, "positive"))
    found["hidden_by_window"] = [number((queries, history, window)) for window in held.windows]
    found["seen_by_window"] = [
        number((queries, history, (0, first)), (queries, history, (last, depth)))
        for first, last in held.windows
    ]
    for name in ("turns", "users", "answers"):
        rows = [number((queries, keys)) for keys in getattr(spans, name)]
        found[f"hidden_by_{name[:-1]}"] = rows
    last = len(ids) - 1
    found["routes"] = {
        "direct": number(((last, end), history)),
        "through_target": number(((begin, last), history)),
        "both": found["hidden"],
    }
    without, within = oracle.states(lm.model, list(none.ids)), oracle.states(lm.model, ids)
    size = len(ids) - begin

    def patched(of, donor, block, count):
        patch = (block, len(of.ids), donor[block][-count:])
        return number(of=of, patches=[patch])

    found["patched_last"] = [patched(asked, without, block, 1) for block in range(depth)]
    found["reverse_last"] = [patched(none, within, block, 1) for block in range(depth)]
    ends = [last - 1 for _, last in held.windows]
    found["patched_target"] = [patched(asked, without, block, size) for block in ends]
    found["reverse_target"] = [patched(none, within, block, size) for block in ends]
    return found


def differences(found, wanted):
    """The numbers that differ by more than SLACK, by name: what was found, what was wanted."""
    return {
        name: (found.get(name), value)
        for name, value in wanted.items()
        if found.get(name) != approx(value)
    }


def approx(value):
    return pytest.approx(value, abs=SLACK)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_number_is_that_of_plain_transformers(family):
    lm = language_model(family)
    held = conversation_of(lm)
    parts = {"position", "block", "turn", "route", "patch"}
    found = held.measure(parts, FILLER, all_lengths=True)
    for h in (1, 2):
        assert not differences(found[h - 1], expected(lm, held, h))


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_by_part_is_that_of_eager_attention_over_the_whole_prompt(family):
    lm = language_model(family)
    held = conversation_of(lm)
    found = held.measure({"attention"}, FILLER)[1]
    weights = oracle.attentions(lm.model, list(held.asked[2].ids))
    parts = parts_of(held.spans[1])
    ranges = sorted(each for of_part in parts.values() for each in of_part if each[0] < each[1])
    assert [k for each in ranges for k in range(*each)] == list(range(len(held.asked[2].ids)))
    for name, of_part in parts.items():
        wanted = [
            sum(w[:, slice(*each)].sum(-1) for each in of_part).mean().item() for w in weights
        ]
        assert found["attention"][name] == pytest.approx(wanted, abs=1e-4)
    assert sum(map(sum, found["attention"].values())) == pytest.approx(held.tool.depth, abs=1e-4)
    assert ("sink" in found["attention"]) == (family == WITH_SINKS)
    assert sum(found["attention_if_uniform"].values()) == pytest.approx(1)
    heads = list(zip(*found["attention_by_head"].values()))
    assert [sum(map(sum, zip(*block))) for block in heads] == pytest.approx([4] * 3, abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_keys_of_the_run_itself_give_the_same_numbers_for_fewer_tokens(family):
    lm = language_model(family)
    messages = [conversation(TARGET, HISTORY[:h]) for h in range(3)]
    prompts = [lm.encode(each, LABELS) for each in messages]
    prompts[-1] = replace(prompts[-1], keep=True)

    def measured():
        before = lm.tokens_read
        found = lm.effects(messages, prompts, "positive", EFFECT_PARTS, all_lengths=True)
        return dict(leaves([each["effects"] for each in found])), lm.tokens_read - before

    assert lm.exact_effects
    wanted, many = measured()
    lm.run(prompts)
    found, few = measured()
    shared = find_spans(lm.renderer, messages[-1], prompts[-1].ids).target[0]
    assert many - few == (shared if lm.engine.name == "tree" else 0)
    assert not differences(found, wanted)
    assert measured() == (wanted, many)  # they are given back


# --- what is checked when a model is loaded


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_model_is_refused_by_part(family):
    lm = language_model(family, engine="plain")
    before = {name: value.clone() for name, value in lm.model.state_dict().items()}
    assert exact_parts(tool_of(lm)) == (() if family == "mamba" else EFFECT_PARTS)
    after = lm.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize(
    ("broken", "left"),
    [
        ("cut_mask", ()),
        ("putting_in", ("position", "block", "turn", "route", "attention")),
        ("resuming", ("position", "turn", "route", "attention")),
    ],
)
def test_what_is_not_exact_is_left_out_by_name(broken, left, monkeypatch):
    tool = tool_of(language_model("llama"))
    if broken == "cut_mask":
        monkeypatch.setattr(interventions, "cut_mask", lambda own, hidden: own)
    if broken == "putting_in":
        monkeypatch.setattr(interventions, "_putting_in", lambda patches: lambda *output: None)
    if broken == "resuming":
        monkeypatch.setattr(Interventions, "_resuming", shifted(Interventions._resuming))
    assert exact_parts(tool) == left


def test_what_is_raised_where_a_part_cannot_be_run_is_shown(monkeypatch, capsys):
    def fails(*arguments):
        raise TypeError("no such mask")

    tool = tool_of(language_model("llama"))
    monkeypatch.setattr(interventions, "cut_mask", fails)
    assert exact_parts(tool) == ()
    said = capsys.readouterr().err
    assert said == "--effects: hiding cannot be run (TypeError: no such mask)\n"


def shifted(resuming):
    """Resumes with the states of another token."""
    return lambda tool, at: resuming(tool, replace(at, states=at.states.roll(1, dims=1)))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_a_pair_of_equal_length_is_patched_as_by_transformer_lens(family, tmp_path):
    from transformer_lens.model_bridge import TransformerBridge

    lm = language_model(family)
    lm.model.save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    bridge = TransformerBridge.boot_transformers(
        str(tmp_path), tokenizer=AutoTokenizer.from_pretrained(tmp_path)
    )
    first, second = (
        lm.encode(conversation(Turn(text, ("A",))), ("A", "B"))
        for text in ("the question", "the negative")
    )
    assert len(first.ids) == len(second.ids)
    tool, answers = tool_of(lm), {label: ids[-1] for label, ids in first.labels}
    into, donor = (Target(tool, Asked.of(each, "A"), tool.past_of(())) for each in (first, second))
    ([own], _), ([other], _) = into.parents([Row()]), donor.parents([Row()])
    _, cache = bridge.run_with_cache(torch.tensor([donor.asked.ids]))

    def patched(block):
        def put_in(state, hook):
            state[:, -1] = cache[hook.name][:, -1]
            return state

        hooks = [(f"blocks.{block}.hook_out", put_in)]
        logits = bridge.run_with_hooks(torch.tensor([into.asked.ids]), fwd_hooks=hooks)[0, -1]
        return (logits[answers["A"]] - logits[answers["B"]]).item()

    with torch.no_grad():
        wanted = [patched(block) for block in range(tool.depth)]
    assert into.patched_last(own, other) == pytest.approx(wanted, abs=SLACK)
