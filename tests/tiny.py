"""Tiny random models and a tokenizer, made offline: enough for every identity the tests assert."""

import json
from functools import cache

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 320
WINDOW = 8  # of sliding-window families: shorter than every test's prompts
CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

_BODY = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
}
_GPT = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 512}
_FULL = {**_BODY, "num_key_value_heads": 4}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_CAPS = {"final_logit_softcapping": 3.0, "attn_logit_softcapping": 5.0}
_LAYERS = ["sliding_attention", "full_attention", "sliding_attention"]
_SLIDING = {"sliding_window": WINDOW, "layer_types": _LAYERS, "head_dim": 8}

_GEMMA3 = {**_BODY, **_SLIDING, "vocab_size": VOCABULARY}
_VISION = {**_FULL, "image_size": 28, "patch_size": 14}

FAMILIES = {
    "llama": _BODY,
    "mistral": {**_BODY, "sliding_window": WINDOW},
    "mixtral": {**_BODY, **_LOCAL_EXPERTS, "sliding_window": None},
    "qwen2": _BODY,
    "qwen3": {**_BODY, "head_dim": 8},
    "qwen3_moe": {**_BODY, **_EXPERTS, "head_dim": 8},
    "gemma": {**_BODY, "head_dim": 8},
    "gemma2": {**_BODY, **_SLIDING, **_CAPS},
    "gemma3_text": {**_BODY, **_SLIDING},
    "gemma3": {"text_config": _GEMMA3, "vision_config": _VISION},  # as the Hub's larger ones come
    "phi": _FULL,
    "phi3": {**_BODY, "pad_token_id": 0},
    "gpt2": _GPT,
    "gptj": {**_GPT, "rotary_dim": 4},
    "gpt_neox": _FULL,
    "opt": {**_FULL, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "bloom": {"hidden_size": 32, "n_layer": 3, "n_head": 4},
    "falcon": _FULL,
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 3, "max_seq_len": 512},
    "olmo": _BODY,
    "olmo2": _BODY,
    "stablelm": _BODY,
    "cohere": {**_BODY, "logit_scale": 0.25},
    "cohere2": {**_BODY, **_SLIDING, "logit_scale": 0.25},
    "granite": {**_BODY, "logits_scaling": 4.0},
    "starcoder2": _BODY,
    "smollm3": {**_BODY, "no_rope_layers": [1, 1, 0]},
    "gpt_oss": {**_BODY, **_LOCAL_EXPERTS, **_SLIDING},
    "glm4": {**_BODY, "head_dim": 8},
    "nemotron": _BODY,
    "helium": {**_BODY, "head_dim": 8},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 3, "state_size": 8},
}

# Families that read a text otherwise from SWITCH tokens on
SWITCH = 32
_LONGROPE = {
    "max_position_embeddings": 256,
    "original_max_position_embeddings": SWITCH,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "original_max_position_embeddings": SWITCH,
        "short_factor": [1.0] * 4,
        "long_factor": [1.0, 2.0, 4.0, 8.0],
        "short_mscale": 1.0,  # of PhiMoE
        "long_mscale": 1.3,
    },
}
_LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8}
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 16.0,
    "original_max_position_embeddings": SWITCH // 2,
    "llama_4_scaling_beta": 0.5,
}
_NTK = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
BY_LENGTH = {
    "phi3": {**_BODY, **_LONGROPE, "pad_token_id": 0},
    "phimoe": {**_BODY, **_LOCAL_EXPERTS, **_LONGROPE},
    "minicpm3": {**_FULL, **_LONGROPE, **_LATENT, "v_head_dim": 8},
    "llama": {**_BODY, "max_position_embeddings": SWITCH, "rope_parameters": _NTK},
    "llama4_text": {
        **_BODY,
        "num_hidden_layers": 4,  # the fourth has no rotary embedding, and a scale by position
        "head_dim": 8,
        "intermediate_size_mlp": 48,
        "num_local_experts": 2,
        "attention_chunk_size": SWITCH // 2,
        "floor_scale": SWITCH // 4,
        "attn_scale": 0.5,
    },
    "ministral3": {**_BODY, "head_dim": 8, "rope_parameters": _YARN},
}


@cache
def model(family: str, dtype: torch.dtype = torch.float32):
    """A random causal LM of a family, the same object at every call."""
    return fresh_model(family, dtype)


def fresh_model(family: str, dtype: torch.dtype = torch.float32, families: dict = FAMILIES):
    """A random causal LM of a family, with weights large enough that a wrong mask shows."""
    torch.manual_seed(0)
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    settings = {**special, "vocab_size": VOCABULARY, **families[family]}
    lm = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings)).eval()
    with torch.no_grad():
        for parameter in lm.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.25)
            else:  # biases and norms come as zeros and ones, which would hide a part that is missed
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return lm.to(dtype)


@cache
def tokenizer(chat: bool = True) -> PreTrainedTokenizerFast:
    """Byte-level BPE over a few sentences: words of one, two and more tokens."""
    return fresh_tokenizer(CHAT_TEMPLATE if chat else None)


def fresh_tokenizer(template: str | None) -> PreTrainedTokenizerFast:
    """The same tokenizer with another chat template."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "<|end|>", "<|user|>", "<|assistant|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(["the answer to the question is positive or negative"] * 3, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="<|end|>",
        additional_special_tokens=special[3:],
        chat_template=template,
    )


def save_model(folder, **config):
    """The folder, with a tiny Llama and its tokenizer; `config` changes its config.json."""
    lm = model("llama")
    lm.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    settings = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(settings))
    return folder
