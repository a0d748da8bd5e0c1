"""What the checks of a loaded model have shown, kept beside the Hub's cache and used again.

A verdict holds for one state of a model, run in one way on one kind of device by the same code: all
of that is kept with it and has to be equal. Only checks that were passed are kept.
"""

import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from core.errors import UserError
from core.records import is_whole, read_json, write_json
from lm.checks import MODEL_FILES
from lm.forward import input_device

# What begins the names of variables that say how torch and transformers compute
SWITCHES = (
    "TRANSFORMERS_", "TORCH", "PYTORCH_", "USE_HUB_KERNELS", "CUBLAS_", "CUDNN_", "NVIDIA_",
    "DNNL_", "ONEDNN_", "MKL_",
)  # fmt: skip
LIBRARIES = ("torch", "transformers", "tokenizers", "accelerate", "peft", "gguf", "safetensors")
# Those that transformers computes with where they are installed
KERNELS = (
    "kernels", "flash-attn", "triton", "bitsandbytes", "torchao", "gptqmodel", "autoawq",
    "compressed-tensors", "optimum", "hqq", "fbgemm-gpu", "mamba-ssm", "causal-conv1d",
    "flash-linear-attention",
)  # fmt: skip

MOST_KEPT = 100  # verdicts


class Verdict:
    """The checks of one model that were passed, each with what it found."""

    def __init__(self, facts: Mapping[str, Any] | None = None, again: bool = False):
        """`facts` is all that it holds for; without them nothing is kept. With `again` every check
        is run again.
        """
        self.facts = facts
        self.passed: dict[str, Any] = {} if facts is None or again else self._read()

    @property
    def file(self) -> Path:
        """Where it is kept: another file for any other facts."""
        text = json.dumps(self.facts, sort_keys=True)
        return folder() / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"

    def once(
        self, check: str, run: Callable[[], Any], passed: Callable[[Any], bool] = lambda found: True
    ) -> Any:
        """What a check finds, as JSON: from an earlier run where it was `passed` there."""
        if check in self.passed:
            return self.passed[check]
        found = run()
        if self.facts is not None and passed(found):
            self.passed[check] = found
            with suppress(UserError, ValueError):  # it is run again next time
                write_json(self.file, {"facts": self.facts, "passed": self.passed})
                _make_room()
        return found

    def _read(self) -> dict[str, Any]:
        with suppress(UserError):
            kept = read_json(self.file)
            if is_whole(kept) and kept.get("facts") == self.facts:
                with suppress(OSError):  # on a disk that is only read
                    os.utime(self.file)  # when it was used last
                return kept["passed"]
        return {}


def folder() -> Path:
    """Where verdicts are kept."""
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "verdicts"


def _make_room() -> None:
    """Delete the verdicts that were used longest ago, but for MOST_KEPT."""
    with suppress(OSError):  # another process may do so too
        files = sorted(folder().glob(f"{'[0-9a-f]' * 32}.json"), key=os.path.getmtime)
        for file in files[:-MOST_KEPT]:
            file.unlink(missing_ok=True)


def facts_of(name: str, model, places: Iterable[Path]) -> dict[str, Any]:
    """All that the checks of a loaded model can depend on; `places` are the folders it is from."""
    device = input_device(model)
    return {
        "model": [name, type(model).__name__, str(model.dtype), model.config._attn_implementation],
        "files": [_files(place) for place in places],
        "device": [str(device), _kind(device), str(getattr(model, "hf_device_map", None))],
        "versions": [platform.python_version(), *map(_version, (*LIBRARIES, *KERNELS))],
        "torch": _hashed(map(str.encode, _how_torch_computes())),
        "settings": _hashed(
            f"{key}={value}".encode()
            for key, value in sorted(os.environ.items())
            if key.startswith(SWITCHES)
        ),
        "code": _hashed(file.read_bytes() for file in _own_code()),
    }


def _files(place: Path) -> list[list[Any]]:
    """Name, size, mtime and ctime of each file of a model's folder: an mtime can be put back, a
    ctime not.
    """
    kinds = (*MODEL_FILES, ".py")
    files = sorted(file for file in place.iterdir() if file.suffix in kinds and file.is_file())
    stats = ((file.name, file.stat()) for file in files)
    return [[name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns] for name, stat in stats]


def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


def _how_torch_computes() -> list[str]:
    """How it was built, its threads, and the precision of its products."""
    config = torch.__config__
    return [config.show(), config.parallel_info(), torch.get_float32_matmul_precision()]


def _kind(device: torch.device) -> str:
    if device.type == "cpu":
        able = json.dumps(dict(torch.cpu.get_capabilities()), sort_keys=True)  # AMX, bfloat16, ...
        return f"{torch.backends.cpu.get_cpu_capability()} {able}"
    module = torch.get_device_module(device)
    return module.get_device_name(device) if hasattr(module, "get_device_name") else device.type


def _own_code() -> list[Path]:
    here = Path(__file__).parent
    return [*sorted(here.glob("*.py")), here.with_name("model.py")]


def _hashed(pieces: Iterable[bytes]) -> str:
    found = hashlib.sha256()
    for piece in pieces:
        found.update(hashlib.sha256(piece).digest())
    return found.hexdigest()[:16]
