"""Claims about what is loaded: the model that its files hold, or two lines that say what is wrong.

Each case is a folder as users have them: saved from a wrapper, half fetched, with an adapter.
"""

import json
import re
import shutil

import gguf
import pytest
import tiny
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from refusals import edit_json
from safetensors.torch import load_file, save_file

import experiment
from core import records
from core.errors import UserError
from lm.loading import place_of
from model import LanguageModel, load_model

PAIR = ("--target", "quiz", "--distractor", "reviews", "--limit", "2", "--max_len", "1")
QUESTION = [{"role": "user", "content": "the answer is"}]
LABELS = ("positive", "negative")


def refusal_of(folder, *flags):
    """What is said of a model that is refused: one line or two."""
    with pytest.raises(UserError) as refused:
        load_model(str(folder), **dict(flags))
    said = str(refused.value)
    assert len(said.splitlines()) <= 2 and "Traceback" not in said
    return said


def rename(folder, change=lambda key: key, **more):
    """Write the weights again under other names, with some more."""
    weights = load_file(folder / "model.safetensors")
    renamed = {change(key): weight for key, weight in weights.items()} | more
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})


def scores(lm):
    [outcome] = lm.run([lm.encode(QUESTION, LABELS)])
    return outcome.label_logprobs


# --- weights


def test_weights_that_the_configuration_has_no_place_for_are_refused_and_named(copy):
    rename(copy, **{f"model.layers.{i}.self_attn.q_proj.bias": torch.ones(32) for i in range(3)})
    said = refusal_of(copy)
    assert "3 weights, such as model.layers.0.self_attn.q_proj.bias" in said
    assert "config.json" in said


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("llama", "model.layers.0.self_attn.rotary_emb.inv_freq"),
        ("gpt2", "transformer.h.0.attn.bias"),
        ("gptj", "transformer.h.0.attn.bias"),
        ("gpt_neox", "gpt_neox.layers.0.attention.masked_bias"),
        ("gptj", "transformer.h.0.attn.masked_bias"),
    ],
)
def test_buffers_of_older_checkpoints_are_no_weights(tmp_path, family, name):
    tiny.model(family).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    rename(tmp_path, **{name: torch.ones(1)})
    assert scores(load_model(str(tmp_path), lens=None)).keys() == set(LABELS)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "_orig_mod.module."])
def test_names_that_a_wrapper_has_changed_are_refused_with_the_cause(copy, prefix):
    rename(copy, lambda key: prefix + key)
    assert f"begin with '{prefix}', which torch.compile or DataParallel" in refusal_of(copy)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_pointer_of_git_lfs_is_called_so(copy, name):
    (copy / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert f"{name} is a pointer of Git LFS" in refusal_of(copy)


# --- the tokenizer

DAMAGE = {
    "version": ({"version": "9.0"}, "of a newer version than the installed tokenizers"),
    "kind": ({"pre_tokenizer": {"type": "Later"}}, "of a newer version than the installed"),
    "expression": (
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "\\p{Nope}"}, "invert": False,
                           "behavior": "Isolated"}},
        "has a regular expression that cannot be compiled",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_tokenizer_that_cannot_be_read_here_is_refused_with_the_cause(copy, damage):
    change, said = DAMAGE[damage]
    edit_json(copy / "tokenizer.json", **change)
    assert said in refusal_of(copy)


def with_tokens(folder, *names, **more):
    """Add tokens behind the embeddings."""
    tokenizer = tiny.tokenizer().__class__.from_pretrained(folder)
    tokenizer.add_tokens([f"filler{i}" for i in range(tiny.VOCABULARY - len(tokenizer))])
    tokenizer.add_tokens(list(names), **more)
    tokenizer.save_pretrained(folder)


def test_tokens_of_the_vocabulary_beyond_the_embeddings_are_refused(copy):
    with_tokens(copy, "later")
    said = refusal_of(copy)
    assert "tokens beyond the model's 320 embeddings (1), such as 'later'" in said


def test_special_tokens_of_the_template_beyond_the_embeddings_are_refused(copy):
    with_tokens(copy, "<|turn|>", special_tokens=True)
    (copy / "chat_template.jinja").write_text(tiny.CHAT_TEMPLATE.replace("<|end|>", "<|turn|>"))
    assert "such as '<|turn|>'" in refusal_of(copy)


def test_a_token_for_padding_that_no_prompt_has_may_lie_beyond_the_embeddings(copy):
    expected = scores(load_model(str(copy)))
    with_tokens(copy, "<more>", special_tokens=True)
    assert scores(load_model(str(copy))) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ["chat_template.json", "processor_config.json"])
def test_a_template_that_stands_beside_the_tokenizer_is_read(copy, name):
    expected = load_model(str(copy))
    (copy / "chat_template.jinja").rename(copy / "old")
    assert load_model(str(copy)).renderer.form == "plain"
    (copy / name).write_text(json.dumps({"chat_template": tiny.CHAT_TEMPLATE}))
    lm = load_model(str(copy))
    assert lm.render(QUESTION) == expected.render(QUESTION)
    assert lm.revision != expected.revision


# --- adapters


@pytest.fixture
def adapter(model, tmp_path):
    """Makes a folder with an adapter of the tiny Llama."""

    def make(**settings):
        torch.manual_seed(1)
        settings = {"target_modules": ["q_proj", "down_proj"], **settings}
        config = LoraConfig(r=2, init_lora_weights=False, **settings)
        get_peft_model(tiny.fresh_model("llama"), config).save_pretrained(tmp_path / "adapter")
        return tmp_path / "adapter"

    return make


def test_an_adapter_alone_is_refused_with_the_command_that_runs_it(adapter):
    folder = adapter()
    edit_json(folder / "adapter_config.json", base_model_name_or_path="org/base")
    assert f"--model org/base --adapter {folder}" in refusal_of(folder)


def test_a_folder_with_a_base_and_an_adapter_is_refused(copy, adapter):
    shutil.copytree(adapter(), copy, dirs_exist_ok=True)
    assert "a whole model and a PEFT adapter" in refusal_of(copy)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"target_modules": ["v_proj", "lm_head"]},
        {"target_modules": ["v_proj"], "modules_to_save": ["lm_head", "embed_tokens"]},
    ],
    ids=["blocks", "unembedding", "embeddings saved whole"],
)
def test_a_model_with_an_adapter_is_the_one_that_peft_runs(model, adapter, settings):
    from peft import PeftModel

    folder = adapter(**settings)
    lm = load_model(str(model), adapter=str(folder))
    prompt = lm.encode(QUESTION, LABELS)
    peft = PeftModel.from_pretrained(tiny.fresh_model("llama"), folder).eval()
    [outcome] = lm.run([prompt])
    for label, ids in prompt.labels:
        with torch.no_grad():
            logprobs = peft(torch.tensor([ids])).logits[0].log_softmax(-1)
        expected = sum(logprobs[k - 1, ids[k]].item() for k in range(prompt.start, len(ids)))
        assert outcome.label_logprobs[label] == pytest.approx(expected, abs=1e-4)
    assert outcome.layers.cosines[-1] == pytest.approx(1, abs=1e-5)
    assert scores(lm) != pytest.approx(scores(load_model(str(model))), abs=1e-2)


def test_an_adapter_is_recorded_in_the_settings_and_the_revision(model, adapter, tmp_path):
    folder = adapter()
    flags = ["--model", str(model), "--adapter", str(folder), *PAIR, "--device", "cpu"]
    assert experiment.main([*flags, "--out_dir", str(tmp_path / "out")]) == 0
    [log] = (tmp_path / "out").rglob("*_debug.json")
    config = records.read_result(records.result_of_debug(log))["config"]
    assert config["adapter"] == str(folder)
    base, _, of_adapter = config["revision"].partition(" + adapter ")
    assert base == load_model(str(model)).revision and of_adapter.startswith("files ")


@pytest.mark.parametrize("what", ["nothing", "another", "prompt", "part"])
def test_what_is_no_adapter_of_the_model_is_refused(model, adapter, tmp_path, what):
    folder = tmp_path / "adapter"
    folder.mkdir()
    if what == "another":
        adapter()
        weights = load_file(folder / "adapter_model.safetensors")
        wider = {key: torch.cat([weight, weight], -1) for key, weight in weights.items()}
        save_file(wider, folder / "adapter_model.safetensors")
    elif what == "part":
        adapter()
        weights = load_file(folder / "adapter_model.safetensors")
        save_file(dict(list(weights.items())[:2]), folder / "adapter_model.safetensors")
    elif what == "prompt":
        config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
        get_peft_model(tiny.fresh_model("llama"), config).save_pretrained(folder)
    assert str(folder) in refusal_of(model, ("adapter", str(folder)))


# --- GGUF


@pytest.fixture
def gguf_file(tmp_path):
    """The tiny Llama and its tokenizer as GGUF, alone in a folder, the weights in 32 bits."""
    lm, raw = tiny.model("llama"), json.loads(tiny.tokenizer().backend_tokenizer.to_str())
    names = sorted(raw["model"]["vocab"], key=raw["model"]["vocab"].get)
    (tmp_path / "model").mkdir()
    path = tmp_path / "model" / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(lm.config.num_hidden_layers)
    writer.add_context_length(lm.config.max_position_embeddings)
    writer.add_embedding_length(lm.config.hidden_size)
    writer.add_feed_forward_length(lm.config.intermediate_size)
    writer.add_head_count(lm.config.num_attention_heads)
    writer.add_head_count_kv(lm.config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(lm.config.rms_norm_eps)
    writer.add_rope_freq_base(lm.config.rope_parameters["rope_theta"])
    writer.add_vocab_size(tiny.VOCABULARY)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(names)
    writer.add_token_types([3] * 5 + [1] * (len(names) - 5))  # 3 is a control token
    writer.add_token_merges([" ".join(pair) for pair in raw["model"]["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(tiny.CHAT_TEMPLATE)
    for name, weight in lm.state_dict().items():
        writer.add_tensor(in_gguf(name), paired(name, weight, lm.config).numpy().copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def in_gguf(name):
    """The name that a weight of a Llama has in a GGUF file."""
    whole = {"model.embed_tokens.weight": "token_embd.weight", "lm_head.weight": "output.weight"}
    whole["model.norm.weight"] = "output_norm.weight"
    if name in whole:
        return whole[name]
    block, kind = name.split(".")[2], name.split(".")[-2]
    parts = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output"}
    parts |= {"gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}
    parts |= {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    return f"blk.{block}.{parts[kind]}.weight"


def paired(name, weight, config):
    """Queries and keys as GGUF orders them: the two halves that rotate together side by side."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    count = next((heads[kind] for kind in heads if kind in name), None)
    if count is None:
        return weight
    return weight.view(count, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def test_a_gguf_file_is_a_model_as_a_file_and_as_a_folder(gguf_file):
    prompt = [{"role": "user", "content": "the answer is"}]
    here = LanguageModel(tiny.model("llama"), tiny.tokenizer())
    expected = here.run([here.encode(prompt, ("positive", "negative"))])[0].label_logprobs
    for place in (gguf_file, gguf_file.parent):
        lm = load_model(str(place))
        assert lm.encode(prompt).ids == here.encode(prompt).ids
        [found] = lm.run([lm.encode(prompt, ("positive", "negative"))])
        assert found.label_logprobs == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF" + b"\xff" * 60])
def test_a_damaged_gguf_file_is_refused(tmp_path, content):
    (tmp_path / "x.gguf").write_bytes(content)
    for place in (tmp_path, tmp_path / "x.gguf"):
        with pytest.raises(UserError, match=re.escape(str(place))):
            load_model(str(place))


def test_of_several_gguf_files_none_is_chosen(tmp_path):
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(UserError, match=r"a\.gguf, b\.gguf"):
        load_model(str(tmp_path))


def test_a_gguf_file_is_looked_for_and_named_by_its_name(tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    for place in (tmp_path, tmp_path / "x.gguf"):
        assert place_of(str(place)) == (tmp_path, "x.gguf")
    assert records.model_name(str(tmp_path / "x.gguf")) == "x.gguf"
