"""What comes from the Hub, models and data sets: fetched by its client, and plain words where that
fails.

How long the client waits and where its cache lies is set by variables of its own, such as
HF_HUB_DOWNLOAD_TIMEOUT, HF_HUB_ETAG_TIMEOUT (seconds), HF_HUB_OFFLINE and HF_HOME.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import huggingface_hub
from huggingface_hub import HfApi, constants, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import httpx

from core.errors import UserError

# Of a model's repository: what transformers reads, and no second copy of the weights
SAFE = "*.safetensors"
FILES = ["*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken", "*.py", SAFE]
PICKLES = ["*.bin"]
OTHER_COPIES = ["consolidated*", "*/*.safetensors", "*/*.bin"]
LONGEST = 300  # characters of the client's own words
TRIES, PAUSE = 3, 2.0  # seconds between them

Loaded = TypeVar("Loaded")
FETCHING = (OSError, ValueError, RuntimeError, httpx.TransportError)  # what a download raises


@dataclass(frozen=True)
class Wanted:
    """What was asked of the Hub, as messages put it."""

    it: str
    page: str  # its address behind https://huggingface.co/
    unknown: str  # what is said where the Hub has no such thing
    without: str  # what there is to do without the Hub


def refusal_of(name: str, kind: str) -> Exception | None:
    """Why the Hub does not show a repository of a `model` or `dataset`, None where it does.

    Asked first: without an answer the client would wait on without end, and where `datasets` fails
    it does not say what the Hub said.
    """
    asked = {"repo_type": kind, "timeout": constants.HF_HUB_ETAG_TIMEOUT}
    try:
        patient(lambda: HfApi().repo_info(name, **asked))
    except FETCHING as error:
        return error
    return None


def patient(load: Callable[[], Loaded]) -> Loaded:
    """What `load` gets, tried again some seconds later where the Hub is busy."""
    for _ in range(TRIES - 1):
        try:
            return load()
        except FETCHING as error:
            if not any(status >= 500 for status in _answers(error)):
                raise
        time.sleep(PAUSE)
    return load()


def fetch_model(wanted: Wanted, pickled: bool = False, weights: bool = True) -> Path:
    """Folder of the cache with all files of a model, named by its commit; UserError where one
    cannot be had: transformers would take an optional file, a chat template say, for absent.

    What is in the cache is enough without the Hub. Weights in pickles are fetched only where they
    are allowed and the model has no others; none at all without `weights`.
    """
    name = wanted.page
    refusal = refusal_of(name, "model")
    if not refusal and not isinstance(try_to_load_from_cache(name, "config.json"), str):
        print(f"Fetching {name} from the Hub ...", file=sys.stderr)
    asked = {"ignore_patterns": OTHER_COPIES, "local_files_only": refusal is not None}

    def snapshot(patterns: list[str]) -> Path:
        return Path(patient(lambda: snapshot_download(name, allow_patterns=patterns, **asked)))

    try:
        folder = snapshot([name for name in FILES if weights or name != SAFE])
        if weights and pickled and not any(folder.glob("*.safetensors")):
            folder = snapshot(FILES + PICKLES)
    except FETCHING as error:
        why = refusal or error
        raise UserError(trouble(why, wanted) or own_words(why, wanted.it)) from error
    return folder


def is_snapshot(folder: Path) -> bool:
    """True for a folder of the client's cache, which is named by the commit that it holds."""
    return Path(constants.HF_HUB_CACHE) in folder.parents and folder.parent.name == "snapshots"


# -- what went wrong


def causes(error: BaseException) -> list[BaseException]:
    """An error and all that led to it."""
    found: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is not None and one not in found:
            found.append(one)
            waiting += (one.__context__, one.__cause__)
    return found


def trouble(error: BaseException, wanted: Wanted) -> str | None:
    """One or two plain lines where the Hub, or the way to it, is at fault; else None."""
    found, answers = causes(error), _answers(error)
    if _any(found, GatedRepoError):
        return (
            f"{wanted.it} is gated: accept its licence at https://huggingface.co/{wanted.page}, "
            "then run `hf auth login` or set HF_TOKEN."
        )
    if _any(found, RepositoryNotFoundError, HFValidationError):
        return wanted.unknown
    if 401 in answers or _any(found, UnicodeEncodeError, httpx.LocalProtocolError):
        return (
            f"cannot load {wanted.it}: the Hub does not accept your token.\n"
            "Run `hf auth login` or set HF_TOKEN to a valid one; what is public needs none."
        )
    if answers:
        refusal = next(one for one in found if isinstance(one, HfHubHTTPError))
        return own_words(refusal, wanted.it)
    if _any(found, ConnectionError, LocalEntryNotFoundError, httpx.TransportError):
        host = urlsplit(constants.ENDPOINT).netloc.rpartition("@")[2]
        return (
            f"{wanted.it} is not in the cache, or not whole, and the Hub ({host}) cannot be "
            f"reached.\n{wanted.without}"
        )
    return None


def own_words(error: BaseException, it: str) -> str:
    """A line with the client's own words, but for the user's token."""
    text, token = " ".join(str(error).split()), huggingface_hub.get_token()
    text = text.replace(token, "***") if token else text
    return f"cannot load {it}: {type(error).__name__}: {text[:LONGEST]}"


def _answers(error: BaseException) -> list[int]:
    """HTTP statuses of the Hub among an error and all that led to it."""
    return [one.response.status_code for one in causes(error) if isinstance(one, HfHubHTTPError)]


def _any(errors: list[BaseException], *kinds: type[BaseException]) -> bool:
    return any(isinstance(one, kinds) for one in errors)


def if_damaged(name: str, kind: str) -> str | None:
    """What to do about damaged files of a `model` or `dataset`, None where the cache has none."""
    folder = Path(constants.HF_HUB_CACHE) / f"{kind}s--{name.replace('/', '--')}"
    return f"If its files are damaged, delete {folder} and run again." if folder.is_dir() else None
