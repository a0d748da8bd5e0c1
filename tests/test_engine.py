"""The tree reads what the plain loop reads, and the plain loop what the bare model says."""

import dataclasses
from contextlib import contextmanager

import pytest
import tiny
import torch
from engines import DECODING, MOST, assert_same, prompts_of_a_conversation, runtime, tokens
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import OutOfMemory, UserError
from lm.engine import PlainEngine
from lm.memory import is_out_of_memory
from lm.prompts import Request
from lm.proof import choose_engine
from lm.tree_engine import TreeEngine

SHAPES = ("llama", "gpt2", "gpt_neox", "gemma2")
NO_TREE = {"mamba"}  # no key-value cache to continue from


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_each_family_takes_its_road(family):
    engine, _ = choose_engine("auto", runtime(family, layers=False))
    assert engine.name == ("plain" if family in NO_TREE else "tree")


@pytest.mark.parametrize("family", [f for f in tiny.FAMILIES if f not in NO_TREE])
def test_tree_reads_what_the_plain_loop_reads(family):
    wants = prompts_of_a_conversation()
    assert_same(TreeEngine(runtime(family)).read(wants), PlainEngine(runtime(family)).read(wants))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.lists(st.integers(3, 5), min_size=1, max_size=9).map(tuple), min_size=1, max_size=9
    ),
    st.integers(1, 60),
    st.sampled_from([0.0, 8.0, 1e6]),
)
def test_tree_is_exact_for_any_prefixes_and_any_batching(prefixes, budget, forward_cost):
    even = {prefix: len(prefix) % 2 == 0 for prefix in prefixes}
    wants = {
        prefix: Request({3, 9}, is_prompt=even[prefix], states=even[prefix]) for prefix in even
    }
    batched = runtime(token_budget=budget, forward_cost=forward_cost)
    assert_same(TreeEngine(batched).read(wants), PlainEngine(runtime()).read(wants))


@pytest.mark.parametrize("family", SHAPES)
@pytest.mark.parametrize("engine", [PlainEngine, TreeEngine])
def test_a_batch_of_eight_equals_a_batch_of_one(family, engine):
    wants = prompts_of_a_conversation()
    one = engine(runtime(family, token_budget=1)).read(wants)
    assert_same(engine(runtime(family, token_budget=10_000)).read(wants), one)


@pytest.mark.parametrize("family", SHAPES)
def test_the_plain_loop_reads_what_the_bare_model_says(family):
    prompt = tokens(20)
    want = Request({4, 8}, is_prompt=True, states=True)
    [reading] = PlainEngine(runtime(family)).read({prompt: want}).values()
    with torch.no_grad():
        out = tiny.model(family)(torch.tensor([prompt]), output_hidden_states=True)
    logprobs = out.logits[0, -1].log_softmax(-1)
    assert reading.logprobs == pytest.approx(
        {4: logprobs[4].item(), 8: logprobs[8].item()}, abs=1e-5
    )
    assert list(reading.top_tokens) == logprobs.topk(5).indices.tolist()
    own = [states[0, -1] for states in out.hidden_states[1:-1]]  # the last one is normed already
    torch.testing.assert_close(list(reading.states[:-1]), own, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", SHAPES)
@pytest.mark.parametrize("engine", [PlainEngine, TreeEngine])
def test_answers_are_plain_argmax(family, engine):
    prompts = [tokens(n, seed=n) for n in (3, 11, 30)]
    wants = {prompt: Request(is_prompt=True, answer=MOST) for prompt in prompts}
    readings = engine(runtime(family)).read(wants)
    for prompt in prompts:
        sequence = list(prompt)
        for _ in range(MOST):
            with torch.no_grad():
                logits = tiny.model(family)(torch.tensor([sequence])).logits[0, -1]
            if (token := logits.argmax().item()) in DECODING.eos_ids:
                break
            sequence.append(token)
        assert readings[prompt].answer == tuple(sequence[len(prompt) :])


@pytest.mark.parametrize("engine", [PlainEngine, TreeEngine])
def test_an_answer_whose_logits_overflow_behind_its_first_token_stops_the_run(engine):
    endless = dataclasses.replace(DECODING, eos_ids=())
    subject, forwards = runtime(decoding=endless), []

    def overflow(module, args, output):
        forwards.append(output)
        return output * float("inf") if len(forwards) > 3 else output

    handle = subject.model.get_output_embeddings().register_forward_hook(overflow)
    wants = {tokens(n): Request(is_prompt=True, answer=MOST) for n in (3, 9)}
    with pytest.raises(UserError, match="non-finite logits in float32"):
        engine(subject).read(wants)
    handle.remove()
    assert len(forwards) == 4


@pytest.mark.parametrize("engine", [PlainEngine, TreeEngine])
def test_each_answer_of_a_batch_has_its_own_most_tokens(engine):
    prompts = [tokens(n, seed=n) for n in (4, 9, 11)]
    whole = engine(runtime()).read({p: Request(is_prompt=True, answer=MOST) for p in prompts})
    limits = dict(zip(prompts, (1, 4, 2 * MOST)))
    found = engine(runtime()).read(
        {p: Request(is_prompt=True, answer=most) for p, most in limits.items()}
    )
    for prompt, most in limits.items():
        assert found[prompt].answer[:MOST] == whole[prompt].answer[:most]
        assert len(found[prompt].answer) <= most


@pytest.mark.parametrize("engine", [PlainEngine, TreeEngine])
def test_an_answer_ends_where_its_own_stop_text_is_however_long_its_neighbours_are(engine):
    prompts = [tokens(n, seed=n) for n in (4, 9)]
    wants = {prompt: Request(is_prompt=True, answer=MOST) for prompt in prompts}
    whole = engine(runtime()).read(wants)
    second = whole[prompts[0]].answer[1]
    stops = dataclasses.replace(DECODING, stop_text="!", decode=lambda t: "!" * (second in t))
    stopped = engine(runtime(decoding=stops)).read(wants)
    assert stopped[prompts[0]].answer == whole[prompts[0]].answer[:2]
    if second not in whole[prompts[1]].answer:
        assert stopped[prompts[1]].answer == whole[prompts[1]].answer


def test_an_answer_that_has_ended_stands_still_within_the_context():
    """The longest prompt and its answer fill the context; it waits while two others go on."""
    limits = {tokens(510, 1): 2, tokens(4, 2): 2 * MOST, tokens(7, 3): 2 * MOST}
    wants = {p: Request(is_prompt=True, answer=most) for p, most in limits.items()}
    endless = dataclasses.replace(DECODING, eos_ids=())
    settings = {"decoding": endless, "forward_cost": 1e6, "token_budget": 10_000}
    expected = PlainEngine(
        runtime(
            "gpt2",
            **settings,
        ),
        "alone",
    ).read(wants)
    assert_same(TreeEngine(runtime("gpt2", **settings)).read(wants), expected)


def test_answers_that_have_ended_leave_the_batch_once_they_are_half_of_it():
    prompts = [tokens(n, seed=n) for n in (4, 9, 11, 14)]
    limits = dict(zip(prompts, (2, 9, 3, 2 * MOST)))
    wants = {p: Request(is_prompt=True, answer=most) for p, most in limits.items()}
    endless = dataclasses.replace(DECODING, eos_ids=())
    expected = {p: PlainEngine(runtime(decoding=endless)).read({p: wants[p]})[p] for p in prompts}
    subject, rows = runtime(decoding=endless, forward_cost=1e6), []
    handle = subject.model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    found = TreeEngine(subject).read(wants)
    handle.remove()
    assert [found[p].answer for p in prompts] == [expected[p].answer for p in prompts]
    assert rows[1:] == [4, 4, *[2] * 6, *[1] * 3]


def test_every_distinct_token_runs_once():
    ran = []
    subject = runtime()
    handle = subject.model.register_forward_pre_hook(
        lambda module, args, kwargs: ran.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    wants = prompts_of_a_conversation()
    for want in wants.values():
        want.answer = 0
    subject.token_budget = 1  # one row a forward, so that nothing is padding
    TreeEngine(subject).read(wants)
    handle.remove()
    assert sum(ran) == len({prefix[:k] for prefix in wants for k in range(1, len(prefix) + 1)})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_model_that_the_tree_misreads_runs_plain_and_says_so(monkeypatch, capsys, dtype):
    monkeypatch.setattr("lm.tree_engine.TreeEngine._inputs", _shifted_positions)
    subject = runtime(dtype=dtype)
    engine, proof = choose_engine("auto", subject)
    assert engine.name == "plain"
    assert "LlamaForCausalLM: the tree engine is not exact" in capsys.readouterr().err
    assert "not exact" in proof.refusal and proof.tree_gap > proof.batch_gap
    with pytest.raises(UserError, match="--engine"):
        choose_engine("tree", subject)


def _shifted_positions(self, ids, mask, spans):
    positions = [list(range(len(ids[0]))) for _ in spans]
    return {"input_ids": torch.tensor(ids), "position_ids": torch.tensor(positions)}


def test_an_error_of_the_tree_is_shown_by_its_name_and_kept(monkeypatch, capsys):
    def fail(*arguments, **settings):
        raise TypeError("no such\nargument")

    monkeypatch.setattr("lm.tree_engine.KeyValueStore.keep", fail)
    engine, proof = choose_engine("auto", runtime())
    reason = "the tree engine fails on it (TypeError: no such argument)"
    assert (engine.name, proof.refusal, proof.tree_gap) == ("plain", reason, None)
    said = capsys.readouterr().err
    assert said == f"LlamaForCausalLM: {reason}. The plain engine runs instead (slower).\n"


def test_short_memory_is_no_reason_to_run_plain(monkeypatch):
    def fail(*arguments, **settings):
        raise torch.OutOfMemoryError("no memory left")

    monkeypatch.setattr("lm.tree_engine.KeyValueStore.keep", fail)
    with pytest.raises(OutOfMemory):
        choose_engine("auto", runtime())


def test_a_model_without_keys_and_values_runs_plain_for_that_reason():
    proof = choose_engine("auto", runtime("mamba", layers=False))[1]
    assert proof.refusal == "it keeps no keys and values for the tree engine"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", SHAPES)
def test_half_precision_takes_the_tree(family, dtype):
    engine, proof = choose_engine("auto", runtime(family, dtype))
    assert engine.name == "tree"
    assert proof.tree_gap < 20 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tree_that_writes_other_answers_is_refused(monkeypatch, dtype):
    decode = TreeEngine._decode
    monkeypatch.setattr(
        TreeEngine, "_decode", lambda *a: [(*tokens[:-1], 9) for tokens in decode(*a)]
    )
    assert choose_engine("auto", runtime(dtype=dtype))[0].name == "plain"


class WithoutGenerate(PlainEngine):
    """A plain loop whose `generate` fails, as on a model of Mamba layers only."""

    def _generate(self, asked):
        raise ValueError("`get_seq_length` can only be called on Attention layers")


class WithPadding(PlainEngine):
    """A plain loop whose padded answers are wrong."""

    def _generate(self, asked):
        answers = super()._generate(asked)
        return answers if len(asked) == 1 else [answer[::-1] for answer in answers]


@pytest.mark.parametrize(("plain", "way"), [(WithoutGenerate, "reread"), (WithPadding, "alone"),
                                            (PlainEngine, "batched")])  # fmt: skip
def test_answers_are_made_in_the_fastest_way_that_is_plain_argmax(monkeypatch, plain, way):
    monkeypatch.setattr("lm.proof.PlainEngine", plain)
    engine, _ = choose_engine("plain", runtime())
    assert engine.answering == way
    wants = {tokens(n, seed=n): Request(is_prompt=True, answer=MOST) for n in (3, 11, 30)}
    assert_same(engine.read(wants), PlainEngine(runtime(), "reread").read(wants))


@pytest.mark.parametrize("engine", [PlainEngine, TreeEngine])
def test_out_of_memory_halves_the_budget_says_so_and_changes_no_number(engine, capsys):
    wants = prompts_of_a_conversation()
    expected = engine(runtime()).read(wants)
    short = runtime(token_budget=10_000, forward_cost=1e6)
    with memory_for(short.model, rows=2):
        assert_same(engine(short).read(wants), expected)
    assert short.token_budget < 10_000
    assert "out of memory" in capsys.readouterr().err


@pytest.mark.parametrize("engine", [PlainEngine, TreeEngine])
@pytest.mark.parametrize("answer", [0, MOST])
def test_a_budget_that_memory_cannot_hold_costs_few_forwards_and_ends_near_what_it_can(
    engine, answer
):
    """Memory for 300 tokens, and a budget of 1200."""
    wants = {tokens(30, seed): Request({5}, is_prompt=True, answer=answer) for seed in range(60)}
    expected = engine(runtime(layers=False)).read(wants)
    short = runtime(layers=False, token_budget=1200, forward_cost=1e6)
    with memory_for(short.model, tokens=300) as failed:
        assert_same(engine(short).read(wants), expected)
    assert len(failed) <= 3
    assert 150 <= short.token_budget <= 300


@pytest.mark.parametrize("engine", [PlainEngine, TreeEngine])
def test_where_one_prompt_does_not_fit_the_budget_stays(engine):
    """The batches before it failed because of it, which says nothing of their size."""
    wants = {tokens(30, seed): Request({5}, is_prompt=True) for seed in range(8)}
    wants[tokens(400, 9)] = Request({5}, is_prompt=True)
    short = runtime(layers=False, token_budget=4000, forward_cost=1e6)
    with memory_for(short.model, tokens=300), pytest.raises(OutOfMemory):
        engine(short).read(wants)
    assert short.token_budget == 4000


@pytest.mark.parametrize("engine", [PlainEngine, TreeEngine])
def test_a_prompt_that_can_never_fit_is_named_in_plain_words(engine):
    subject = runtime()
    with memory_for(subject.model, rows=0), pytest.raises(UserError, match="single prompt"):
        engine(subject).read(prompts_of_a_conversation())


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
            True,
        ),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), False),
    ],
)
def test_every_form_in_which_memory_runs_out_is_known(error, expected):
    assert is_out_of_memory(error) == expected


@contextmanager
def memory_for(lm, rows=10**6, tokens=10**6):
    """A model that runs out of memory on more rows, or tokens with the past, than these; yields the
    sizes of forwards that failed.
    """
    failed = []

    def check(module, args, kwargs):
        count, width = kwargs["input_ids"].shape
        cache = kwargs.get("past_key_values")
        size = count * (width + (cache.get_seq_length() if cache else 0))
        if count > rows or size > tokens:
            failed.append(size)
            raise torch.OutOfMemoryError("no memory left")

    handle = lm.register_forward_pre_hook(check, with_kwargs=True)
    try:
        yield failed
    finally:
        handle.remove()
