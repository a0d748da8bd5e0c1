"""The lens gives the model's own logits, and its layers are those of plain transformers."""

import dataclasses

import pytest
import tiny
import torch
from accelerate import cpu_offload, disk_offload
from accelerate.hooks import remove_hook_from_submodules
from transformers import AutoTokenizer

from core.errors import UserError
from data import Turn, conversation
from lm.forward import block_output
from lm.layers import LayerReader, prove_lens
from lm.lens import Lens, find_parts, proved_lens
from lm.prompts import Request
from model import LanguageModel

IDS = tuple(range(3, 40))
LABELS = ("A", "B", "positive")
TURN = Turn("is it", ("positive",))
SHAPES = ("llama", "gpt2", "gemma2", "cohere", "phi", "granite")
BRIDGED = ("llama", "qwen2", "gpt2", "gpt_neox", "gemma2", "phi", "cohere", "falcon")
HALVES = (torch.float16, torch.bfloat16)


def states_and_logits(lm, ids=IDS):
    """Outputs of all blocks [1, L, D] and logits [V] at the last token, by hooks of its own."""
    states = []
    hooks = [
        block.register_forward_hook(lambda m, a, out: states.append(block_output(out)[:, -1]))
        for block in find_parts(lm).blocks
    ]
    with torch.no_grad():
        logits = lm(torch.tensor([ids])).logits[0, -1]
    for hook in hooks:
        hook.remove()
    return torch.stack(states, dim=1), logits


def own_logits(lm, state):
    """Logits of a normed state by the model's own modules."""
    logits = lm.get_output_embeddings()(state)
    scale = getattr(lm.config, "logit_scale", None) or 1
    logits = logits * scale / getattr(lm.config, "logits_scaling", 1)
    cap = getattr(lm.config, "final_logit_softcapping", None)
    return cap * torch.tanh(logits / cap) if cap else logits


def logits_by_transformers(lm, lens, ids=IDS):
    """Lens logits of each block [L, V] from output_hidden_states, whose last one is normed."""
    with torch.no_grad():
        out = lm(torch.tensor([ids]), output_hidden_states=True)
        read = [lens.norm(state[0, -1].float()) for state in out.hidden_states[1:-1]]
        return torch.stack([own_logits(lm, s) for s in (*read, out.hidden_states[-1][0, -1])])


def language_model(family, dtype=torch.float32, **settings):
    return LanguageModel(tiny.model(family, dtype), tiny.tokenizer(), **settings)


def two_lengths(lm, labels=LABELS):
    """Outcomes of one target without and with a turn of history."""
    zero = lm.encode(conversation(TURN), labels)
    one = lm.encode(conversation(TURN, [Turn("the question", ("no!",))]), labels, baseline=zero)
    return lm.run([zero, one])


# --- the identity


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_last_block_through_the_lens_gives_the_models_logits(family):
    lm = tiny.model(family)
    lens = prove_lens(lm)
    states, logits = states_and_logits(lm)
    with torch.no_grad():
        view = lens.view(states)
        torch.testing.assert_close(lens.logits(view.final)[0], logits, rtol=1e-4, atol=1e-4)
        tokens = (5, 9, 300)
        read = lens.token_logits(view, tokens)[0, -1]
    torch.testing.assert_close(read, logits[list(tokens)], rtol=1e-4, atol=1e-4)
    assert lens.cosines(view)[0, -1].item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("family", "part"),
    [("gemma2", "softcap"), ("phi", "output_bias"), ("gptj", "output_bias")],
)
def test_what_bends_the_logits_is_found_and_matters(family, part):
    lm = tiny.model(family)
    lens = prove_lens(lm)
    assert lens.describe()[part]
    states, logits = states_and_logits(lm)
    bare = torch.nn.functional.linear(lens.view(states).final[0], lens.parts.head.weight)
    assert (bare - logits).abs().max() > 0.1


@pytest.mark.parametrize(
    ("family", "scale"), [("cohere", 0.25), ("cohere2", 0.25), ("granite", 0.25)]
)
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_a_logit_scale_is_found(family, scale, dtype):
    assert prove_lens(tiny.model(family, dtype)).scale == scale


def test_a_logit_scale_that_no_setting_names_is_measured():
    parts = find_parts(tiny.model("llama"))
    states, logits = states_and_logits(tiny.model("llama"))
    assert proved_lens(parts, states[:, -1], 0.3 * logits[None], "X").scale == pytest.approx(0.3)


@pytest.mark.parametrize("wrong", ["logits", "shape", "negative"])
def test_a_lens_that_does_not_give_the_own_logits_is_refused_by_name(wrong):
    parts = find_parts(tiny.model("llama"))
    states, logits = states_and_logits(tiny.model("llama"))
    bad = {"logits": logits.flip(0), "shape": logits[:9], "negative": -logits}[wrong]
    with pytest.raises(UserError, match=r"LlamaForCausalLM.*\n.*--no_cosine"):
        proved_lens(parts, states[:, -1], bad[None], "LlamaForCausalLM")


# --- layers, by two routes


# Mamba's hidden_states hold its blocks' inputs, so they say nothing about the outputs.
@pytest.mark.parametrize("family", [family for family in tiny.FAMILIES if family != "mamba"])
def test_layers_equal_those_of_plain_transformers(family):
    lm = tiny.model(family)
    lens = prove_lens(lm)
    expected = logits_by_transformers(lm, lens)  # [L, V]
    states, final = states_and_logits(lm)
    with torch.no_grad():
        view = lens.view(states)
        got = lens.cosines(view)[0]
        torch.testing.assert_close(
            got, torch.cosine_similarity(expected, final[None], dim=-1), rtol=0, atol=1e-4
        )
        less = expected - expected.mean(-1, keepdim=True)
        torch.testing.assert_close(
            lens.cosines(view, centred=True)[0],
            torch.cosine_similarity(less, (final - final.mean())[None], dim=-1),
            rtol=0, atol=1e-4,
        )  # fmt: skip
        tokens = [5, 9, 300]
        torch.testing.assert_close(
            lens.token_logits(view, tokens)[0], expected[:, tokens], rtol=1e-4, atol=1e-3
        )
        assert lens.top_tokens(view)[0].tolist() == expected.argmax(-1).tolist()


@pytest.mark.parametrize("family", BRIDGED)
def test_cosines_equal_those_of_transformer_lens(family, tmp_path):
    from transformer_lens.model_bridge import TransformerBridge

    lm = tiny.model(family)
    lm.save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    bridge = TransformerBridge.boot_transformers(str(tmp_path), tokenizer=tokenizer)
    with torch.no_grad():
        final, cache = bridge.run_with_cache(torch.tensor([IDS]))
        blocks = [cache[f"blocks.{number}.hook_out"] for number in range(bridge.cfg.n_layers)]
        logits = [bridge.unembed(bridge.ln_final(state))[0, -1] for state in blocks]
        if cap := getattr(lm.config, "final_logit_softcapping", None):
            logits = [cap * torch.tanh(each / cap) for each in logits]
        expected = [torch.cosine_similarity(each, final[0, -1], dim=0).item() for each in logits]
        lens = prove_lens(lm)
        got = lens.cosines(lens.view(states_and_logits(lm)[0]))[0].tolist()
    assert got == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("family", SHAPES)
def test_the_raw_lens_leaves_the_final_norm_out(family):
    lm = tiny.model(family)
    states, final = states_and_logits(lm)
    with torch.no_grad():
        raw = prove_lens(lm, "raw")
        expected = torch.cosine_similarity(own_logits(lm, states[0]), final[None], dim=-1)
        torch.testing.assert_close(raw.cosines(raw.view(states))[0], expected, rtol=0, atol=1e-4)
    assert raw.describe()["kind"] == "raw"
    assert expected[-1] < 0.9999


@pytest.mark.parametrize("engine", ["tree", "plain"])
@pytest.mark.parametrize("family", SHAPES)
def test_drift_is_the_cosine_of_hidden_states_with_those_without_history(family, engine):
    lm = language_model(family, engine=engine)
    zero = lm.encode(conversation(TURN), LABELS)
    one = lm.encode(conversation(TURN, [Turn("the question", ("no!",))]), LABELS, baseline=zero)
    here, there = (states_and_logits(lm.model, prompt.ids)[0][0] for prompt in (one, zero))
    expected = torch.cosine_similarity(here, there, dim=-1).tolist()
    assert lm.run([one])[0].layers.drift == pytest.approx(expected, abs=1e-5)
    assert lm.run([zero, one])[1].layers.drift == pytest.approx(expected, abs=1e-5)
    assert lm.run([zero])[0].layers.drift == pytest.approx([1] * len(expected), abs=1e-6)


@pytest.mark.parametrize("engine", ["tree", "plain"])
@pytest.mark.parametrize("family", SHAPES)
def test_label_logits_differ_at_the_last_block_as_label_logprobs_do(family, engine):
    lm = language_model(family, engine=engine)
    for outcome in two_lengths(lm, ("A", "B", "C")):
        logits = {label: row[-1] for label, row in outcome.layers.label_logits.items()}
        for label, logprob in outcome.label_logprobs.items():
            gap = outcome.label_logprobs["A"] - logprob
            assert logits["A"] - logits[label] == pytest.approx(gap, abs=1e-3)


@pytest.mark.parametrize("engine", ["tree", "plain"])
def test_agreement_is_that_of_the_likeliest_tokens(engine):
    lm = language_model("llama", engine=engine, agree=True)
    prompt = lm.encode(conversation(TURN))
    top = logits_by_transformers(lm.model, lm.lens, prompt.ids).argmax(-1)
    [outcome] = lm.run([prompt])
    assert outcome.layers.agree == tuple((top == top[-1]).tolist())
    assert outcome.layers.label_logits is None


# --- labels that part later, or nowhere


def test_labels_that_begin_alike_are_read_where_they_part():
    lm = language_model("llama")
    prompt = lm.encode(conversation(TURN), ("no!", "nope"))
    assert len(prompt.fork.prefix) > len(prompt.ids)
    [outcome] = lm.run([prompt])
    with torch.no_grad():
        logits = lm.model(torch.tensor([prompt.fork.prefix])).logits[0, -1]
    read = [row[-1] for row in outcome.layers.label_logits.values()]
    assert read == pytest.approx(logits[list(prompt.fork.tokens)].tolist(), abs=1e-4)


@pytest.mark.parametrize("labels", [("A", "no!", "nope"), ("A",)])
def test_labels_that_no_one_token_tells_apart_have_no_label_logits(labels):
    lm = language_model("llama")
    [outcome] = lm.run([lm.encode(conversation(TURN), labels)])
    assert outcome.layers.label_logits is None and len(outcome.layers.cosines) == 3
    assert lm.margin_tokens(labels) is None


def test_a_label_that_begins_another_parts_from_it_where_it_ends():
    lm = language_model("llama")
    prompt = lm.encode(conversation(TURN), ("no", "no!"))
    ends = lm.tokenizer.convert_tokens_to_ids("<|end|>")
    assert prompt.fork.tokens[0] == ends
    [outcome] = lm.run([prompt])
    assert set(outcome.layers.label_logits) == {"no", "no!"}


# --- numerics


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("family", SHAPES)
def test_half_precision_weights_give_the_layers_of_float32_arithmetic(family, dtype):
    """The states are rounded by the model; from there on everything is float32."""
    lm = tiny.model(family, dtype)
    lens = prove_lens(lm)
    states, _ = states_and_logits(lm)
    assert states.dtype == dtype
    whole = tiny.model(family, dtype).float().__class__(lm.config).eval()
    whole.load_state_dict(lm.state_dict())
    by_float32 = Lens(find_parts(whole), prove_lens(whole).parts.norms[0], lens.scale)
    with torch.no_grad():
        got, expected = (each.cosines(each.view(states)) for each in (lens, by_float32))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


def test_states_near_the_largest_float16_do_not_overflow():
    lm = tiny.model("llama", torch.float16)
    states = torch.full((1, 3, 32), 6e4, dtype=torch.float16)
    states[..., ::2] *= -1
    for kind in ("logit", "raw"):
        lens = prove_lens(lm, kind)
        with torch.no_grad():
            view = lens.view(states)
            assert lens.cosines(view).isfinite().all()
            assert lens.drift(states, states).isfinite().all()
            assert lens.token_logits(view, (5, 9)).isfinite().all()


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
def test_a_state_that_is_not_finite_gives_nan_there_and_nowhere_else(bad):
    lens = prove_lens(tiny.model("llama"))
    states, _ = states_and_logits(tiny.model("llama"))
    spoiled = states.clone()
    spoiled[0, 1, 4] = bad
    with torch.no_grad():
        for read in (lens.cosines(lens.view(spoiled)), lens.drift(spoiled, states)):
            assert read[0].isfinite().tolist() == [True, False, True]


def test_a_soft_cap_matters_to_the_cosines():
    lens = prove_lens(tiny.model("gemma2"))
    states = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0))
    bare = Lens(dataclasses.replace(lens.parts, softcap=None), lens.parts.norms[0])
    with torch.no_grad():
        view = lens.view(states)
        assert (lens.cosines(view) - bare.cosines(view)).abs().max() > 0.01


# --- models that are spread over devices


@pytest.mark.parametrize("offload", [cpu_offload, disk_offload])
@pytest.mark.parametrize("family", ["llama", "gemma2", "phi"])
def test_a_model_whose_weights_are_kept_elsewhere_has_the_same_layers(family, offload, tmp_path):
    """What `device_map` does with parts that fit no device: hooks bring them in when they run."""
    expected = two_lengths(language_model(family))
    lm = tiny.fresh_model(family)
    places = {"offload_dir": str(tmp_path)} if offload is disk_offload else {}
    offload(lm, execution_device=torch.device("cpu"), **places)
    try:
        assert lm.get_output_embeddings().weight.is_meta
        got = two_lengths(LanguageModel(lm, tiny.tokenizer(), agree=True))
    finally:
        remove_hook_from_submodules(lm)
    for one, other in zip(got, expected):
        assert one.label_logprobs == pytest.approx(other.label_logprobs, abs=1e-5)
        assert one.layers.cosines == pytest.approx(other.layers.cosines, abs=1e-5)
        assert one.layers.drift == pytest.approx(other.layers.drift, abs=1e-5)


def test_hooks_are_gone_after_a_read():
    lm = language_model("llama")
    before = hooks_of(lm.model)
    two_lengths(lm)
    assert hooks_of(lm.model) == before


def hooks_of(lm):
    return [len(each._forward_hooks) + len(each._forward_pre_hooks) for each in lm.modules()]


def test_only_wanted_positions_are_kept():
    wants = {IDS[:9]: Request({5}, is_prompt=True), IDS: Request({5}, is_prompt=True, states=True)}
    readings = language_model("llama").engine.read(wants)
    assert readings[IDS[:9]].states is None and readings[IDS].states.shape == (3, 32)


# --- shapes that the lens has to know


def opt_350m():
    """OPT-350m's shape: embeddings narrower than blocks, and no final norm."""
    return tiny.fresh_model(
        "opt",
        families={
            "opt": {
                **tiny.FAMILIES["opt"],
                "word_embed_proj_dim": 16,
                "do_layer_norm_before": False,
            }
        },
    )


def test_a_projection_between_blocks_and_unembedding_is_part_of_the_lens():
    bare = opt_350m()
    assert bare.base_model.decoder.project_out.weight.shape == (16, 32)
    lm = LanguageModel(bare, tiny.tokenizer())
    for outcome in two_lengths(lm):
        assert outcome.layers.cosines[-1] == pytest.approx(1, abs=1e-5)
    assert lm.facts()["lens"]["norm"] == "Linear"


GEMMA_3N = {
    **tiny.FAMILIES["qwen3"],
    "num_hidden_layers": 4,
    "num_kv_shared_layers": 0,
    "layer_types": ["full_attention"] * 4,
    "vocab_size_per_layer_input": tiny.VOCABULARY,
    "hidden_size_per_layer_input": 8,
    "laurel_rank": 4,
    "activation_sparsity_pattern": [0.0] * 4,
}


def test_blocks_that_put_out_no_state_per_token_are_refused_in_two_lines():
    bare = tiny.fresh_model("gemma3n_text", families={"gemma3n_text": GEMMA_3N})
    with pytest.raises(UserError) as refused:
        LanguageModel(bare, tiny.tokenizer())
    assert str(refused.value) == (
        "Gemma3nForCausalLM: its blocks put out 4-dimensional states,\n"
        "so its layers would be misread. Run with --no_cosine."
    )
    assert LanguageModel(bare, tiny.tokenizer(), lens=None).engine.name == "tree"


BAMBA = {
    **tiny.FAMILIES["llama"],
    "attn_layer_indices": [],
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_d_state": 8,
    "mamba_chunk_size": 8,
}


def test_a_hybrid_with_mamba_layers_only_runs_plain(capsys):
    bare = tiny.fresh_model("bamba", families={"bamba": BAMBA})
    lm = LanguageModel(bare, tiny.tokenizer())
    assert (lm.engine.name, lm.engine.answering) == ("plain", "reread")
    assert "the tree engine fails on it (IndexError: " in capsys.readouterr().err
    prompt = lm.encode(conversation(TURN), (), max_new_tokens=3)
    [outcome] = lm.run([prompt])
    ids = list(prompt.ids)
    with torch.no_grad():
        for _ in range(3):
            ids.append(bare(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax().item())
    assert outcome.reply == tuple(ids[len(prompt.ids) :])
    assert outcome.layers.cosines[-1] == pytest.approx(1, abs=1e-5)


# --- memory


def test_short_memory_in_the_lens_and_in_sampling_changes_no_number(monkeypatch, capsys):
    lm = language_model("llama")
    expected, texts = two_lengths(lm), lm.sample(5, 6, seed=1)
    read, generate = LayerReader.read_together, type(lm.model).generate

    def short(self, prompts, readings):
        if len(prompts) > 1:
            raise torch.OutOfMemoryError("no memory left")
        return read(self, prompts, readings)

    def few(self, ids, **settings):
        if len(ids) > 2:
            raise torch.OutOfMemoryError("no memory left")
        return generate(self, ids, **settings)

    monkeypatch.setattr(LayerReader, "read_together", short)
    monkeypatch.setattr(type(lm.model), "generate", few)
    assert lm.sample(5, 6, seed=1) == texts
    for outcome, whole in zip(two_lengths(lm), expected):
        assert outcome.layers.cosines == pytest.approx(whole.layers.cosines, abs=1e-5)
    assert "out of memory: 1 prompts at once" in capsys.readouterr().err


def test_samples_are_drawn_from_the_softmax():
    from lm.sampling import Drawn

    logits = torch.tensor([2.0, 0.0, 1.0]).repeat(4000, 1)
    drawn = Drawn([3, number] for number in range(4000))(None, logits).argmax(-1)
    shares = torch.bincount(drawn) / 4000
    torch.testing.assert_close(shares, logits[0].softmax(-1), atol=0.03, rtol=0)
