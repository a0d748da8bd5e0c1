"""Rows that share their past where it lies are read as rows with a copy of it each."""

import dataclasses

import pytest
import tiny
import torch
from engines import DECODING, assert_same, prompts_of_a_conversation, runtime, tokens
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lm import shared_past
from lm.engine import PlainEngine
from lm.prompts import Request
from lm.proof import choose_engine
from lm.tree_engine import TreeEngine
from lm.verdicts import Verdict

EAGER = {"gemma2", "gptj", "bloom", "falcon", "mpt", "gpt_oss", "stablelm", "mamba"}
WINDOWED = ("mistral", "gemma3_text", "cohere2")  # windows of tiny.WINDOW tokens
PLAIN = [f for f in tiny.FAMILIES if f not in EAGER and f not in WINDOWED and f != "gemma3"]


def wants_with_deep_branches():
    """Branches off branches at unequal depths, some with one past, of unequal lengths."""
    trunk, wants = tokens(50), {}
    for depth in (7, 30, 30, 49):
        for seed in (1, 2):
            branch = (*trunk[:depth], *tokens(9 + seed + depth // 10, seed))
            for prefix in (branch, (*branch[:-4], *tokens(6, 3)), (*branch[:-4], *tokens(3, 4))):
                wants[prefix] = Request({3, 5, 7}, is_prompt=True, states=True)
    return wants | {trunk: Request({4}, is_prompt=True, states=True)}


@pytest.fixture
def calls(monkeypatch):
    """Counts of layers that attended over shared pasts, and of those that gathered theirs."""
    found = {"attention": 0, "gathered": 0}

    def counted(name, work):
        def call(*arguments):
            found[name] += 1
            return work(*arguments)

        return call

    attend, gather = shared_past.attention, shared_past.SharedLayer.gathered
    monkeypatch.setattr(shared_past, "attention", counted("attention", attend))
    monkeypatch.setattr(shared_past.SharedLayer, "gathered", counted("gathered", gather))
    return found


@pytest.mark.parametrize("family", PLAIN)
def test_shared_pasts_are_read_as_copies_are(family, calls):
    wants = wants_with_deep_branches()
    copied = TreeEngine(runtime(family, shares=False, forward_cost=1000.0)).read(wants)
    assert calls == {"attention": 0, "gathered": 0}
    subject = runtime(family, forward_cost=1000.0)
    assert subject.shares
    assert_same(TreeEngine(subject).read(wants), copied)
    assert calls["attention"] >= 2 * 3 and not calls["gathered"]  # two generations, three blocks


@pytest.mark.parametrize("family", [*PLAIN, *WINDOWED])
def test_answers_over_shared_pasts_are_those_over_copies(family):
    """Answers off a trunk and off branches, some with nothing of their own, that end at different
    times and are decoded together.
    """
    wants = wants_with_deep_branches()
    for k, request in enumerate(wants.values()):
        request.answer = 1 + 5 * k % 7
    endless = dataclasses.replace(DECODING, eos_ids=())
    copied = TreeEngine(runtime(family, shares=False, decoding=endless)).read(wants)
    subject = runtime(family, decoding=endless)
    assert_same(TreeEngine(subject).read(wants), copied)
    assert subject.shares


def test_what_answers_share_takes_no_place_in_their_batch():
    """The budget holds three copies of the trunk, and all that the answers have of their own."""
    trunk = tokens(200)
    wants = {(*trunk[:n], *tokens(5, n)): Request(is_prompt=True, answer=2) for n in (90, 150, 199)}
    wants |= {(*trunk[: n + 1], *tokens(5, n)): each for n, each in zip((91, 151), wants.values())}
    endless = dataclasses.replace(DECODING, eos_ids=())
    rows = {shares: rows_of_decoding(wants, shares, endless) for shares in (True, False)}
    assert rows == {True: [5], False: [3, 2]}


@pytest.mark.parametrize("family", WINDOWED)
def test_beyond_a_window_answers_have_copies_which_take_their_place(family, calls):
    """Their layers would gather the whole past of every row anew for each token."""
    endless = dataclasses.replace(DECODING, eos_ids=())
    wants = {tokens(200 + n): Request(is_prompt=True, answer=5) for n in (0, 1, 2)}
    assert rows_of_decoding(wants, True, endless, family) == [3]
    assert not calls["gathered"]
    within = {tokens(tiny.WINDOW - n): Request(is_prompt=True, answer=2) for n in (2, 3)}
    rows_of_decoding(within, True, endless, family, budget=10)
    assert calls["attention"]


def rows_of_decoding(wants, shares, decoding, family="llama", budget=630):
    subject = runtime(family, token_budget=budget, shares=shares, decoding=decoding)
    engine, rows = TreeEngine(subject), []
    decode = engine._decode
    engine._decode = lambda cache, prefixes, *rest: (
        rows.append(len(prefixes)) or decode(cache, prefixes, *rest)
    )
    engine.read(wants)
    return rows


@pytest.mark.parametrize("family", sorted(EAGER))
def test_models_whose_attention_is_their_own_keep_copies(family):
    assert not runtime(family, layers=False).shares


@pytest.mark.parametrize("family", WINDOWED)
def test_beyond_a_window_a_layer_gathers_its_past(family, calls):
    subject, wants = runtime(family), prompts_of_a_conversation()
    assert_same(TreeEngine(subject).read(wants), PlainEngine(runtime(family)).read(wants))
    assert subject.shares and calls["gathered"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_they_lie_within_its_rounding(dtype):
    wants = wants_with_deep_branches()
    shared = TreeEngine(runtime(dtype=dtype)).read(wants)
    copied = TreeEngine(runtime(dtype=dtype, shares=False)).read(wants)
    slack = 100 * torch.finfo(dtype).eps
    for prefix, reading in shared.items():
        assert reading.logprobs == pytest.approx(copied[prefix].logprobs, abs=slack)


def test_attention_over_shared_pasts_is_that_over_whole_rows():
    """Against the formula: softmax over all keys of a row, those of the past and its own."""
    torch.manual_seed(0)
    tables = torch.randn(2, 40, 2, 8).double()
    pasts = shared_past.Pasts([((3, 20),), (), ((0, 5), (20, 31)), ((3, 20),)])
    none = torch.zeros(4, 0, dtype=torch.long)
    layer = shared_past.SharedLayer(tuple(tables), pasts, none, room=5)
    query = torch.randn(4, 6, 5, 8).double()
    layer.update(*torch.randn(2, 4, 2, 5, 8).double())
    found = shared_past.attention(query, layer, 0.3)
    for row, spans in enumerate(pasts.of_rows):
        keys, values = (
            torch.cat([*(table[a:b] for a, b in spans), new[row].transpose(0, 1)])
            for table, new in zip(tables, (layer.keys, layer.values))
        )
        before = len(keys) - 5
        for head in range(6):
            scores = 0.3 * query[row, head] @ keys[:, head // 3].T
            scores[torch.ones(5, len(keys)).triu(before + 1).bool()] = -torch.inf
            expected = scores.softmax(-1) @ values[:, head // 3]
            torch.testing.assert_close(found[row, head], expected)


def test_one_token_of_each_answer_attends_to_what_is_shared_and_to_its_own():
    """Spans of one place and unequal length, some read in one call under a mask, and gaps."""
    torch.manual_seed(0)
    tables = torch.randn(2, 60, 2, 8).double()
    own = [[40, 41, 42], [0, 0, 43], [0, 0, 0], [0, 44, 45]]  # rows of the tables, gaps first
    pasts = shared_past.Pasts(
        [((3, 20),), ((3, 30), (50, 52)), ((3, 28),), ((3, 5),)], gaps=[0, 2, 3, 1]
    )
    layer = shared_past.SharedLayer(tuple(tables), pasts, torch.tensor(own), room=2)
    assert len(pasts.stretches) == 3
    texts = [
        [*(k for a, b in spans for k in range(a, b)), *row[gap:]]
        for spans, row, gap in zip(pasts.of_rows, own, pasts.gaps)
    ]
    assert layer.get_seq_length() == max(map(len, texts)) == 30
    kept = [0, 1, 2, 3]
    new = torch.randn(2, 2, 4, 2, 1, 8).double()  # two steps of keys and values
    for step in (0, 1):
        if step:
            layer.batch_select_indices(torch.tensor([1, 3]))
            kept = [1, 3]
        layer.update(*new[step][:, kept])
        query = torch.randn(len(kept), 6, 1, 8).double()
        found, gathered = shared_past.attention(query, layer, 0.3), layer.gathered()
        for place, row in enumerate(kept):
            keys, values = (
                torch.cat([table[texts[row]], *states[: step + 1, row].transpose(1, 2)])
                for table, states in zip(tables, new.transpose(0, 1))
            )
            torch.testing.assert_close(gathered[0][place, :, -len(keys) :].transpose(0, 1), keys)
            assert not gathered[0][place, :, : -len(keys)].any()
            for head in range(6):
                weights = (0.3 * query[place, head] @ keys[:, head // 3].T).softmax(-1)
                torch.testing.assert_close(found[place, head], weights @ values[:, head // 3])


def test_a_mask_is_plain_only_where_it_hides_nothing_else():
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 1, 0]])
    plain = shared_past.PlainMask(mask, past_length=3)
    causal = torch.ones(2, 5).tril(3).bool() & mask[:, None, None].bool()
    assert plain.is_equal(causal)
    windowed = causal.clone()
    windowed[0, 0, 1, 0] = False
    assert not plain.is_equal(windowed)
    assert not plain.is_equal(None) and not plain.is_equal(causal.float())
    assert not shared_past.PlainMask(mask, past_length=4).is_equal(None)
    assert shared_past.PlainMask(mask[:1], past_length=4).is_equal(None)  # one token sees all


@pytest.mark.parametrize("comes_by", [True, False])
def test_a_model_that_attends_elsewhere_is_found_out_and_keeps_copies(
    monkeypatch, capsys, comes_by
):
    def elsewhere(module, query, key, value, mask, **settings):
        attend = ALL_ATTENTION_FUNCTIONS["sdpa"] if comes_by else own
        return attend(module, query, key.clone(), value, mask, **settings)

    own = ALL_ATTENTION_FUNCTIONS["sdpa"]
    monkeypatch.setattr(
        "transformers.models.llama.modeling_llama.ALL_ATTENTION_FUNCTIONS",
        type("Other", (), {"get_interface": lambda *a: elsewhere})(),
    )
    subject = runtime()
    engine, proof = choose_engine("auto", subject)
    assert (engine.name, proof.refusal, proof.shares) == ("tree", None, False)
    wants = prompts_of_a_conversation()
    assert_same(engine.read(wants), PlainEngine(runtime()).read(wants))
    assert not subject.shares
    assert capsys.readouterr().err == ""


def test_a_model_that_reads_otherwise_with_shared_pasts_keeps_copies(monkeypatch, tmp_path):
    monkeypatch.setattr(shared_past, "attention", lambda query, layer, scale: 0 * query)
    subject, verdict = runtime(), Verdict({"model": "tiny"})
    monkeypatch.setattr("lm.verdicts.folder", lambda: tmp_path)
    engine, proof = choose_engine("auto", subject, verdict)
    assert (engine.name, proof.refusal, proof.shares, subject.shares) == (
        "tree",
        None,
        False,
        False,
    )
    again = runtime()
    assert again.shares and choose_engine("auto", again, verdict)[1] == proof
    assert not again.shares  # kept with the verdict
    monkeypatch.undo()
    assert choose_engine("auto", runtime())[1].shares


def test_the_proof_has_rows_with_one_past_and_rows_with_several(monkeypatch):
    seen = set()

    def attention(query, layer, scale):
        seen.update((len(query), spans) for spans in layer.pasts.of_rows)
        pasts = layer.pasts.of_rows
        wrong = len(pasts) > len(set(pasts))  # only where rows have one past
        return own(query, layer, scale) * (0 if wrong else 1)

    own = shared_past.attention
    monkeypatch.setattr(shared_past, "attention", attention)
    engine, proof = choose_engine("auto", runtime())
    assert (engine.name, proof.shares) == ("tree", False)
    assert max(len(spans) for _, spans in seen) > 1 and max(rows for rows, _ in seen) > 2


def test_the_proof_has_answers_that_stop_early_in_what_they_share(monkeypatch):
    monkeypatch.setattr(shared_past.Stretch, "hidden", lambda *arguments: None)
    assert not choose_engine("auto", runtime())[1].shares


@pytest.mark.parametrize("which", [0, 1, 2])
def test_states_that_lie_otherwise_are_read_as_copies_are(monkeypatch, which, calls):
    """The kernel takes the numbers of a token to lie side by side, and does not look."""

    def turned(self, *states, **named):
        return update(self, *(sideways(each, k + 1) for k, each in enumerate(states)), **named)

    def sideways(states, number):
        if number != which or not torch.is_tensor(states):
            return states
        return states.transpose(2, 3).contiguous().transpose(2, 3)

    def attend(module, query, *states, **settings):
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, sideways(query, 0), *states, **settings)

    update = shared_past.SharedLayer.update
    monkeypatch.setattr(shared_past.SharedLayer, "update", turned)
    monkeypatch.setattr(
        "transformers.models.llama.modeling_llama.ALL_ATTENTION_FUNCTIONS",
        type("Other", (), {"get_interface": lambda *a: attend})(),
    )
    wants = wants_with_deep_branches()
    found = TreeEngine(runtime()).read(wants)
    assert bool(calls["gathered"]) == (which == 0)
    assert_same(found, TreeEngine(runtime(shares=False)).read(wants))


def test_transformers_has_its_own_attention_back_after_a_forward_that_fails(monkeypatch):
    own = ALL_ATTENTION_FUNCTIONS["sdpa"]
    monkeypatch.setattr(shared_past, "attention", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        TreeEngine(runtime()).read(prompts_of_a_conversation())
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is own
