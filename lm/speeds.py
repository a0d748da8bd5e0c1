"""How fast a model was read on this machine the last time, and what memory that took.

Kept beside the Hub's cache, for `--dry_run`. Imports no torch.
"""

import hashlib
import json
import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from core.errors import UserError
from core.records import read_json, write_json


class Speed(NamedTuple):
    """What a run was like as a whole, all that it does beside reading tokens included."""

    tokens_per_second: float
    peak_memory_mib: int


class Way(NamedTuple):
    """Which model is run, and how."""

    model: str  # path or Hub name
    adapter: str | None
    dtype: str
    device: str  # its type: cpu, cuda


def folder() -> Path:
    """Where speeds are kept."""
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "speeds"


def keep(way: Way, speed: Speed) -> None:
    """Keep a speed in the place of the last one, where files can be written."""
    with suppress(UserError):
        write_json(_file(way), speed._asdict())


def last(way: Way) -> Speed | None:
    """The last speed of a model on this machine; None where none is known."""
    with suppress(UserError, KeyError):
        kept = read_json(_file(way))
        return Speed(kept["tokens_per_second"], kept["peak_memory_mib"])
    return None


def _file(way: Way) -> Path:
    model = str(Path(way.model).resolve()) if os.path.exists(way.model) else way.model
    machine = (platform.node(), os.cpu_count())  # a cache may be shared
    text = json.dumps([*way._replace(model=model), *machine])
    return folder() / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"
