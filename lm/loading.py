"""Loading a Hugging Face causal LM by name or path, with plain words where that fails."""

import hashlib
import importlib.metadata
import json
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from core import hub
from core.errors import UserError
from lm import checks
from lm.bundled import BUNDLED, bundled_path
from lm.encoder import Encoder
from lm.forward import PROBE, input_device
from lm.verdicts import Verdict, facts_of

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
HASHED_ENDS = 2**16  # bytes of a file's beginning and end
UNKNOWN = "'{name}' is neither a folder here nor a model on the Hub that you can read."
PICKLED = (
    "'{name}' has no weights in safetensors.\n"
    "If they are in pytorch_model.bin, which can hold code, and you trust their authors, "
    "run again with --allow_pickle."
)
WITHOUT_HUB = (
    f"Use a local folder, --model {BUNDLED}, or a cache filled elsewhere "
    "(HF_HOME, with HF_HUB_OFFLINE=1)."
)
GGUF = ".gguf"
OF_PROCESSORS = ("chat_template.json", "processor_config.json")  # that may hold a chat template


class Loaded(NamedTuple):
    """A model as transformers loads it, with its tokenizer."""

    model: Any
    tokenizer: Any
    revision: str  # which state of the model it is, see `revision_of`
    verdict: Verdict  # what its checks have shown


def load(
    name: str,
    *,
    dtype: str = "auto",
    device: str = "auto",
    device_map: str | None = None,
    adapter: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    recheck: bool = False,
) -> Loaded:
    """A causal LM by Hub name, path, or BUNDLED; the settings are those of `model.load_model`."""
    where = resolve_device(device)
    wanted_dtype = resolve_dtype(dtype, where)
    set_up(where)
    folder, gguf = place_of(name, allow_pickle)
    beside = folder_of(adapter, allow_pickle) if adapter else None
    transformers.utils.logging.disable_progress_bar()  # and with it the one of downloads
    checks.check_files(name, folder, gguf)
    of_file = {"trust_remote_code": trust_remote_code, **({"gguf_file": gguf} if gguf else {})}
    with pickles(name, allow_pickle):
        tokenizer = read_tokenizer(name, folder, of_file)
        with reading(name):
            model, report = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=wanted_dtype,
                output_loading_info=True,
                device_map=device_map,
                use_safetensors=None if allow_pickle else True,
                **of_file,
            )
        checks.check_weights(name, model, report)
        revision = revision_of(folder, gguf)
        if beside:
            model = adapted(model, adapter, beside)
            revision += f" + adapter {revision_of(beside)}"
            if (beside / "tokenizer_config.json").exists():  # with the tokens it was trained on
                tokenizer = read_tokenizer(adapter, beside, {})
    with reading(name):
        model = (model if device_map else model.to(where)).eval()
    facts = facts_of(name, model, [folder, *([beside] if beside else [])])
    verdict = Verdict(None if trust_remote_code else facts | {"revision": revision}, recheck)
    verdict.once("causal", lambda: checks.check_causal(name, model))
    return Loaded(model, tokenizer, revision, verdict)


def load_encoder(
    name: str,
    *,
    adapter: str | None = None,
    prompt_form: str = "auto",
    open_thought: str = "refuse",
    trust_remote_code: bool = False,
) -> Encoder:
    """The tokenizer and the configuration of a model, without its weights; else as `load`."""
    set_up(torch.device("cpu"))
    folder, gguf = place_of(name, weights=False)
    checks.check_files(name, folder, gguf)
    of_file = {"trust_remote_code": trust_remote_code, **({"gguf_file": gguf} if gguf else {})}
    tokenizer = read_tokenizer(name, folder, of_file)
    with reading(name):
        config = AutoConfig.from_pretrained(folder, **of_file)
    beside = folder_of(adapter, weights=False) if adapter else None
    if beside and (beside / "tokenizer_config.json").exists():
        tokenizer = read_tokenizer(adapter, beside, {})
    return Encoder(tokenizer, config, prompt_form, open_thought)


def weights_of(
    encoder: Encoder, dtype: str, device: str, trust_remote_code: bool = False
) -> tuple[int, str, str]:
    """Bytes of a model's weights as they would be loaded, their dtype and type of device.

    None is read.
    """
    where = resolve_device(device)
    wanted = resolve_dtype(dtype, where)
    with torch.device("meta"), reading(encoder.tokenizer.name_or_path):
        model = AutoModelForCausalLM.from_config(
            encoder.config, trust_remote_code=trust_remote_code
        )
    chosen = wanted if wanted != "auto" else encoder.config.dtype or torch.float32
    bytes_of_all = model.num_parameters() * chosen.itemsize
    return bytes_of_all, str(chosen).removeprefix("torch."), where.type


def quantised_as(config: Any) -> str | None:
    """The method by which a checkpoint's weights stay quantised; None where they do not."""
    kept = getattr(config, "quantization_config", None) or {}
    method = kept.get("quant_method") if isinstance(kept, dict) else kept.quant_method
    return None if method in (None, "gguf") else str(method)  # GGUF files are dequantised


def set_up(device: torch.device) -> None:
    """What transformers and the Hub's client are told before they load anything."""
    if device.type == "cpu":  # grouped keys are read in place, not copied for every head
        os.environ.setdefault("TRANSFORMERS_SDPA_FORCE_GQA", "1")
    transformers.utils.logging.set_verbosity_error()
    huggingface_hub.logging.set_verbosity_error()  # its retries end in an error of our own
    # Else transformers waits for a robot of the Hub to convert pickled weights.
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")


@contextmanager
def reading(name: str) -> Iterator[None]:
    """UserError for whatever a library raises at files that it cannot read; none of our own code
    stands in it, since tokenizers raises a bare Exception.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(_why_not_loaded(name, error)) from error


def read_tokenizer(name: str, folder: Path, of_file: dict[str, Any]):
    """The tokenizer of a folder, with the chat template that stands beside it for processors."""
    with reading(name):
        tokenizer = AutoTokenizer.from_pretrained(folder, **of_file)
    for file in OF_PROCESSORS:
        if not tokenizer.chat_template and (folder / file).exists():
            with reading(name):
                held = dict(json.loads((folder / file).read_text(encoding="utf-8")))
            tokenizer.chat_template = held.get("chat_template")
    return tokenizer


def adapted(model, name: str, folder: Path):
    """The model with a PEFT adapter in its layers; UserError where it does not fit.

    The adapter stays beside the weights, since adding it to them would round it in half precision;
    but for one of the unembedding, whose weights the lens reads.
    """
    from peft import PeftConfig, PeftModel

    if not (folder / "adapter_config.json").exists():
        raise UserError(
            f"--adapter {name}: there is no adapter_config.json, so it is not an adapter."
        )
    checks.check_pointers(name, folder)
    with reading(name), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", message="Found missing adapter keys")
        if PeftConfig.from_pretrained(folder).is_prompt_learning:
            raise UserError(
                f"--adapter {name} puts tokens of its own before every prompt; only adapters of a "
                "model's layers, such as LoRA, can be run."
            )
        head = model.get_output_embeddings()
        wrapped = PeftModel.from_pretrained(model, folder).eval()
        model = wrapped.get_base_model()
    if model.get_output_embeddings() is head:
        return model
    expected = probe_logits(model)
    with reading(name):
        merged = wrapped.merge_and_unload()
    if not torch.allclose(probe_logits(merged), expected, atol=0.01 * expected.abs().max()):
        raise UserError(
            f"--adapter {name} changes an unembedding whose weights are the embeddings too, and "
            "cannot be merged."
        )
    return merged


@torch.inference_mode()
def probe_logits(model) -> torch.Tensor:
    """Logits of a short row of tokens [T, V]."""
    return model(torch.tensor([PROBE], device=input_device(model))).logits[0].float()


def revision_of(folder: Path, gguf: str | None = None) -> str:
    """Which state of a model this is: the Hub's commit, or for a folder of one's own a hash over
    its files, or over the one named by `gguf`.

    Of large files the ends are hashed: training changes all weights, and reading them again would
    take as long as loading them.
    """
    if hub.is_snapshot(folder):
        return folder.name
    found = hashlib.sha256()
    files = [folder / gguf] if gguf else folder.iterdir()
    kept = (file for file in files if file.suffix in checks.MODEL_FILES and file.is_file())
    for file in sorted(kept):
        size = file.stat().st_size
        found.update(f"{file.name} {size} ".encode())
        with open(file, "rb") as content:
            found.update(content.read(HASHED_ENDS))
            content.seek(max(0, size - HASHED_ENDS))
            found.update(content.read())
    return f"files {found.hexdigest()[:16]}"


def place_of(
    name: str, allow_pickle: bool = False, weights: bool = True
) -> tuple[Path, str | None]:
    """Folder of a model, fetched where it is on the Hub, and the file's name where that is GGUF.

    Without `weights` it may lack them.
    """
    if name.endswith(GGUF) and os.path.isfile(name):
        return Path(name).parent, Path(name).name
    if name == BUNDLED:
        folder = bundled_path(unpack=weights)
    else:
        folder = folder_of(name, allow_pickle, weights)
    if (folder / "config.json").exists():
        return folder, None
    files = sorted(folder.glob(f"*{GGUF}"))
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise UserError(
            f"'{name}' holds several models: {names}.\nName one of these files as --model."
        )
    return folder, files[0].name if files else None


def folder_of(name: str, allow_pickle: bool = False, weights: bool = True) -> Path:
    """A folder by its path, or by its name on the Hub."""
    if os.path.isdir(name):
        return Path(name)
    return hub.fetch_model(_wanted(name), allow_pickle, weights)


@contextmanager
def pickles(name: str, allowed: bool) -> Iterator[None]:
    """Within it whatever would unpickle weights of a model is refused, unless it is allowed.

    `use_safetensors` alone is not enough: a configuration can name a pickled file itself.
    """
    load = torch.load

    def refuse(*arguments, **settings):
        raise UserError(PICKLED.format(name=name))

    torch.load = load if allowed else refuse
    try:
        yield
    finally:
        torch.load = load


def resolve_device(device: str) -> torch.device:
    """`auto` is the first accelerator that is there, else the CPU; UserError where it is absent."""
    if device == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        torch.empty(0, device=device)
        return torch.device(device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {device}: not usable here ({reason}).") from error


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype | str:
    """`auto` is float32 on a CPU and the checkpoint's own dtype elsewhere."""
    if dtype == "float16" and device.type == "cpu":
        print("float16 is slow on a CPU, slower than float32.", file=sys.stderr)
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else "auto"
    return DTYPES[dtype]


NEWER = (
    "'{name}': tokenizer.json is of a newer version than the installed tokenizers {version} reads, "
    "or damaged ({reason}).\nUpdate with: pip install -U tokenizers transformers"
)
OF_LIBRARIES = {  # part of a message of theirs: what is said
    "trust_remote_code": "'{name}' brings code of its own. "
    "If you trust its authors, run again with --trust_remote_code.",
    "Unrecognized configuration class": "'{name}' is not a causal language model that "
    "transformers knows.",
    "file named model.safetensors": PICKLED,
    "out of memory": "'{name}' does not fit into the memory of the device.\n"
    "Use --dtype bfloat16, --device_map auto where there are several devices, or a smaller model.",
    "ignore_mismatched_sizes": "'{name}' has weights of other shapes than its config.json says.",
    "backend tokenizer": "'{name}' has no tokenizer files that can be read.",
    "Unknown tokenizer version": NEWER,
    "did not match any variant": NEWER,
    "Oniguruma error": "'{name}': tokenizer.json has a regular expression that cannot be compiled "
    "({reason}).\nUse a version of tokenizers that knows it, or correct the file.",
}


def _wanted(name: str) -> hub.Wanted:
    return hub.Wanted(f"'{name}'", name, UNKNOWN.format(name=name), WITHOUT_HUB)


def _why_not_loaded(name: str, error: Exception) -> str:
    text = hub.trouble(error, _wanted(name))
    if text is not None:
        return text
    facts = {"name": name, "reason": " ".join(str(error).split())[:150]}
    facts["version"] = importlib.metadata.version("tokenizers")
    for part, said in OF_LIBRARIES.items():
        if part in str(error):
            return said.format(**facts)
    damaged = hub.if_damaged(name, "model")
    return hub.own_words(error, f"'{name}'") + (f"\n{damaged}" if damaged else "")
