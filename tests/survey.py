"""Every causal model type of transformers, tiny: does it run on the tree, plain, without the lens,
or is it refused, and are its numbers those of the bare model?

    python tests/survey.py             # all types, a line each, and the counts
    python tests/survey.py mamba opt   # some of them
"""

import contextlib
import io
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import tiny
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from core.errors import UserError
from data import Turn, conversation
from lm.checks import check_causal
from model import LanguageModel

# Parts of a setting's name -> what makes a model small; the first that fits
SMALL = {
    ("vocab_size", "n_vocab"): tiny.VOCABULARY,
    ("kv_heads", "key_value_heads", "num_kv"): 2,
    ("attention_heads", "n_head", "num_heads", "encoder_heads"): 4,
    ("hidden_layers", "n_layer", "num_layers", "decoder_layers", "encoder_layers", "num_blocks"): 4,
    ("experts_per_tok", "top_k_experts", "moe_topk", "moe_k", "num_experts_per"): 2,
    ("num_experts", "local_experts", "routed_experts", "moe_num_experts"): 4,
    ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden", "d_ff", "inner_dim", "dim_ff"): 48,
    ("head_dim", "head_size", "kv_channels"): 8,
    ("lora_rank", "q_lora", "kv_lora"): 16,
    ("hidden_size", "d_model", "n_embd", "emb_dim", "embed_dim", "embed_proj_dim", "dim_model"): 32,
    ("sliding_window", "attention_window"): 8,
    ("rotary_dim",): 4,
}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
OWN = {  # what some types need beside
    "reformer": {"is_decoder": True},
    "bamba": {"attn_layer_indices": [1, 3]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "codegen": {"n_ctx": 64, "rotary_dim": 4},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "ministral": {"head_dim": 8},
    "nemotron": {"head_dim": 8},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 2},
    "doge": {"keep_window_size": 2048},  # beyond it the model breaks ties between keys by chance
}
TOO_LARGE = 50_000_000  # parameters: no setting makes it small
LABELS = ("positive", "negative")
SLACK = 1e-3  # nats


def small_settings(config: Any) -> dict[str, int]:
    """Settings of a configuration that are sizes, made small."""
    found = {}
    for name, value in vars(config).items():
        if isinstance(value, int) and not isinstance(value, bool) and value > 1:
            fits = (n for parts, n in SMALL.items() if any(part in name for part in parts))
            small = next(fits, None)
            if small is not None and small < value:
                found[name] = small
    if hasattr(config, "qk_rope_head_dim"):  # latent attention derives it from its parts
        found.pop("head_dim", None)
    return found


def small_config(model_type: str) -> Any:
    """A small configuration of a type, its texts' part inside where it has several."""
    base = AutoConfig.for_model(model_type)
    inner = {
        name: {**small_settings(part), **(SPECIAL if "text" in name else {})}
        for name, part in vars(base).items()
        if hasattr(part, "to_dict")
    }
    own = OWN.get(model_type, {})
    settings = {**small_settings(base), **SPECIAL, **inner, **own}
    try:
        return AutoConfig.for_model(model_type, **settings)
    except Exception:  # a type that takes its sizes apart in ways of its own: set them afterwards
        for name, value in {**small_settings(base), **SPECIAL, **own}.items():
            setattr(base, name, value)
        return base


def build(model_type: str) -> torch.nn.Module:
    """A small random model, with weights large enough that a wrong mask shows."""
    config = small_config(model_type)
    with torch.device("meta"):
        size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if size > TOO_LARGE:
        raise ValueError(f"{size} parameters")
    torch.manual_seed(0)
    lm = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in lm.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return lm


def prompts_of(lm: LanguageModel) -> list:
    """Prompts of one target after histories of unequal length, with labels of several tokens."""
    past = [Turn("is the answer", ("positive",)), Turn("question", ("negative",))]
    return [lm.encode(conversation(Turn("to the", ("positive",)), past[:h]), LABELS)
            for h in range(3)]  # fmt: skip


def largest_gap(lm: LanguageModel, bare: torch.nn.Module) -> float:
    """Largest difference of a label's log P from the bare model's, each sequence by itself."""
    prompts, gaps = prompts_of(lm), [0.0]
    for prompt, outcome in zip(prompts, lm.run(prompts)):
        for label, ids in prompt.labels:
            with torch.no_grad():
                logprobs = bare(torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)
            expected = sum(logprobs[k - 1, ids[k]] for k in range(prompt.start, len(ids)))
            gaps.append(abs(outcome.label_logprobs[label] - expected.item()))
    return max(gaps)


def outcome_of(model_type: str) -> tuple[str, str]:
    """How a type runs, and what there is to say of it."""
    try:
        model = build(model_type)
        model(torch.tensor([[3, 4, 5]]), use_cache=False)
    except Exception as error:  # of transformers: the type cannot be made small so simply
        return "not built", f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            check_causal(model_type, model)
            lm, way = wrapped(model)
        except UserError as error:
            return "refused", str(error).splitlines()[0]
        gap = largest_gap(lm, model)
    note = f"{gap:.0e} {' '.join(said.getvalue().split())}"
    return ("WRONG" if not gap < SLACK else way), note


def wrapped(model: torch.nn.Module) -> tuple[LanguageModel, str]:
    """The model as the toolkit runs it, and how that is."""
    try:
        lm = LanguageModel(model, tiny.tokenizer())
        return lm, lm.engine.name
    except UserError as error:
        if "--no_cosine" not in str(error):
            raise
        print(str(error).splitlines()[0], file=sys.stderr)
    lm = LanguageModel(model, tiny.tokenizer(), lens=None)
    return lm, f"{lm.engine.name} without lens"


def survey(model_types: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Type, how it runs, and a note; an error of ours ends it."""
    for model_type in model_types:
        yield model_type, *outcome_of(model_type)


def main() -> None:
    """Command line."""
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    counts: Counter[str] = Counter()
    for model_type, way, note in survey(sys.argv[1:] or sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)):
        print(f"{model_type:28} {way:20} {note}", flush=True)
        counts[way] += 1
    print(*(f"{count} {way}" for way, count in counts.most_common()), sep=", ")


if __name__ == "__main__":
    main()
