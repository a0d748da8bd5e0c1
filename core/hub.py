"""What comes from the Hub, models and data sets: fetched, and plain words where that fails."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import (
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx

from core import patience
from core.patience import BUSY, CutShort, GivenUp, Incomplete

Loaded = TypeVar("Loaded")

PAUSE = 1.0  # seconds between two tries of a load
FAULTS = (OSError, ValueError, KeyError, RuntimeError, httpx.TransportError)  # of a load


def fetch(load: Callable[[], Loaded], complete: bool = False) -> Loaded:
    """What `load` gets from the Hub, tried once more where an answer or a connection broke off.

    Raises what `load` raises, and OSError for what the client's transport raises. With `complete`
    it is Incomplete where a file was asked for in vain which transformers then takes for absent:
    without its chat template, say, a model would run with other prompts.
    """
    if constants.HF_HUB_OFFLINE:
        return load()

    def attempt() -> Loaded:
        watch.begin()
        try:
            loaded = load()
        except FAULTS as error:
            if complete:
                watch.require_all(error)
                raise
            raise error from error.__cause__ or watch.refusal  # datasets drops causes
        if complete:
            watch.require_all(None)
        return loaded

    watch = patience.of_this_process()
    try:
        with watch.notices():
            try:
                return attempt()
            except FAULTS as error:
                if not _may_pass(error):
                    raise
            time.sleep(PAUSE)
            return attempt()
    except httpx.TransportError as error:  # its text may hold the token
        raise ConnectionError(type(error).__name__) from error


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


def _may_pass(error: BaseException) -> bool:
    """True where the Hub, not given up yet, may well answer the next time."""
    found = causes(error)
    if any(isinstance(one, GivenUp | CutShort) or _unsendable(one) for one in found):
        return False
    if any(400 <= (_status(one) or 0) < 500 and _status(one) not in BUSY for one in found):
        return False
    broken = httpx.TransportError | Incomplete
    return any(_status(one) in BUSY or isinstance(one, broken) or _short(one) for one in found)


def _status(error: BaseException) -> int | None:
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code
    return error.status if isinstance(error, GivenUp | Incomplete) else None


def _short(error: BaseException) -> bool:
    """True for the client's plain OSError about a file of another size than announced."""
    return isinstance(error, OSError) and str(error).startswith("Consistency check failed")


def _unsendable(error: BaseException) -> bool:
    """True for a header, which can only be the token's, that HTTP does not allow."""
    ascii_only = isinstance(error, UnicodeEncodeError) and error.encoding == "ascii"
    return ascii_only or isinstance(error, httpx.LocalProtocolError)


def _of_store(error: BaseException) -> bool:
    """True for the errors of Xet, the Hub's file store, which have no type of their own."""
    return isinstance(error, RuntimeError) and "CAS Client Error" in str(error)


@dataclass(frozen=True)
class Wanted:
    """What was asked of the Hub, as messages put it."""

    it: str
    page: str  # its address behind https://huggingface.co/
    unknown: str  # what is said where the Hub has no such thing
    without: str  # what there is to do without the Hub


LATER = "Try again later; whole files that came are in the cache."
Fits = Callable[[BaseException], bool]


def _of(*kinds: type[BaseException]) -> Fits:
    return lambda error: isinstance(error, kinds)


def _answered(*statuses: int) -> Fits:
    return lambda error: _status(error) in statuses


TROUBLES: tuple[tuple[Fits, str], ...] = (  # the first that fits any cause of an error
    (
        _of(GatedRepoError),
        "{it} is gated: accept its licence at https://huggingface.co/{page}, "
        "then run `hf auth login` or set HF_TOKEN.",
    ),
    (_of(RepositoryNotFoundError), "{unknown}"),
    (_of(RevisionNotFoundError), "{it} has no such revision on the Hub."),
    (
        _answered(401),
        "cannot load {it}: the Hub does not take your token (401).\n"
        "Run `hf auth login` or set HF_TOKEN to a valid one; what is public needs none.",
    ),
    (
        _answered(403),
        "cannot load {it}: the Hub refuses it (403).\n"
        "HF_TOKEN lacks the permission, or a proxy on the way forbids the download.",
    ),
    (
        _answered(429),
        "cannot load {it}: too many requests to the Hub (429{wait}).\n"
        "Try again later, or set HF_TOKEN: it has a higher limit. Whole files that came are kept.",
    ),
    (
        _answered(408, *range(500, 600)),
        "cannot load {it}: the Hub is in trouble ({status}).\n" + LATER,
    ),
    (
        _of(FileMetadataError),
        "cannot load {it}: what answers in the place of the Hub is none.\n"
        "Check HF_ENDPOINT and the proxy; some networks send a page for logging in.",
    ),
    (
        _unsendable,
        "cannot load {it}: HF_TOKEN holds a character that no token has.\n"
        "Copy it again, or run `hf auth login`.",
    ),
    (
        _of_store,
        "cannot load {it}: the Hub's file store (Xet) does not answer.\n"
        "Try again later, or set HF_HUB_DISABLE_XET=1 to do without it.",
    ),
    (_of(httpx.ProxyError), "cannot load {it}: the proxy refuses.\nSee HTTPS_PROXY. {without}"),
    (
        _of(CutShort, httpx.ReadError, httpx.RemoteProtocolError),
        "cannot load {it}: the connection breaks off in the middle of a file.\n" + LATER,
    ),
    (_short, "cannot load {it}: a file has another size than the Hub says.\n" + LATER),
    (_of(GivenUp), "{it} is not in the cache and the Hub ({host}) does not answer.\n{without}"),
    (
        _of(ConnectionError, LocalEntryNotFoundError, httpx.TransportError),
        "{it} is not in the cache and the Hub cannot be reached.\n{without}",
    ),
    (_of(Incomplete), "cannot load {it}: the Hub withholds {file}.\n" + LATER),
)


def trouble(error: BaseException, wanted: Wanted) -> str | None:
    """One or two plain lines where the Hub is at fault, else None. Never a word of the server."""
    found = sorted(causes(error), key=lambda one: isinstance(one, Incomplete))
    for fits, text in TROUBLES:
        for one in filter(fits, found):
            wait = getattr(one, "wait", 0)
            facts = {
                "status": _status(one),
                "host": getattr(one, "host", ""),
                "wait": f", wait {wait} s" if wait else "",
                "file": str(one),
            }
            return text.format(**vars(wanted), **facts)
    return None


def without_token(text: str) -> str:
    """The text without the user's token, which a careless server may have sent back."""
    token = huggingface_hub.get_token()
    return text.replace(token, "HF_TOKEN") if token else text


def if_damaged(name: str, kind: str) -> str | None:
    """What to do about damaged files of a `model` or `dataset`, None where the cache has none."""
    folder = Path(constants.HF_HUB_CACHE) / f"{kind}s--{name.replace('/', '--')}"
    return f"If its files are damaged, delete {folder} and run again." if folder.is_dir() else None
