"""What comes from the Hub: fetched within bounds, and plain words where it fails.

Left to itself the Hub's client asks again for up to a minute, in silence and for every file anew,
and waits as long as a rate limit tells it to. Here a Hub without a good answer for a few seconds is
given up, and no later request of the process waits for it: to the client that is being offline, so
what is in the cache is used. HF_HUB_ETAG_TIMEOUT, a setting of the client, is the longest wait for
one answer (10 s).
"""

import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import huggingface_hub
from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import (
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import hf_raise_for_status, httpx

Loaded = TypeVar("Loaded")

NOTICE = 3.0  # seconds of waiting in silence
FORGET = 60.0  # seconds after which a Hub that was given up is asked again
SMALL = 1 << 20  # bytes: a resumed download that brought fewer made no progress
PAUSE = 1.0  # seconds between two tries of a load
LARGE = 10 << 20  # bytes: a download that is announced
RESUMES = 2  # in a row and without progress, then a file is given up
BUSY = (408, 429, 500, 502, 503, 504)  # answers after which the client asks again
FAULTS = (OSError, ValueError, KeyError, RuntimeError, httpx.TransportError)  # of a load
FILE = re.compile(r"/(datasets/)?([^/]+(?:/[^/]+)?)/resolve/([^/]+)/(.+)")


class GivenUp(OfflineModeIsEnabled):
    """A host is not asked any more; its last answer was `status`, None where there was none."""

    def __init__(self, host: str, status: int | None = None, wait: int = 0):
        super().__init__(f"{host} was given up, last status {status}")
        self.host, self.status = host, status
        self.wait = wait  # seconds that it asked for


class CutShort(OSError):
    """A download broke off several times without getting further."""


class Incomplete(OSError):
    """Files were asked for in vain; the Hub's last answer about them, if there was one."""

    def __init__(self, files: list[str], status: int | None):
        super().__init__(", ".join(files))
        self.status = status


# -- bounds


class Patience:
    """Sees every request of the Hub's client and every answer, and bounds the time without any."""

    def __init__(self, seconds: float):
        self.seconds = seconds  # the longest wait for one answer
        self.waiting: dict[str, float] = {}  # host -> when it began to owe a good answer
        self.status: dict[str, int] = {}  # host -> its last answer, where that was trouble
        self.given_up: dict[str, tuple[float, GivenUp]] = {}  # host -> when, and why
        self.refusal: OSError | None = None  # the last answer as an error, where it was none
        self.missing: dict[str, int | None] = {}  # path asked for and not had -> last answer
        self.begun: dict[str, tuple[int, int]] = {}  # path -> begin, times again without progress
        self.said: set[str] = set()

    def install(self) -> "Patience":
        """Put these hooks behind the client's own."""
        own = huggingface_hub.get_session().event_hooks
        hooks = {
            "request": [*own["request"], self.before],
            "response": [*own["response"], self.after],
        }
        huggingface_hub.set_client_factory(
            lambda: httpx.Client(event_hooks=hooks, follow_redirects=True, timeout=None)
        )
        return self

    def begin(self) -> None:
        """A new load: what an earlier one owed no longer counts, except for hosts given up."""
        for owed in (self.waiting, self.missing, self.begun, self.said):
            owed.clear()
        self.refusal = None

    def before(self, request: httpx.Request) -> None:
        """Hook: bound a request; GivenUp where its host has had its time."""
        host, path, now = _host(request.url), _path(request.url), time.monotonic()
        since, why = self.given_up.get(host, (now, None))
        file = not path.startswith("/api/")
        if file:
            self.missing[path] = why.status if why else None
        if why and now - since < FORGET:
            self.refusal = GivenUp(host, why.status, why.wait)
            raise self.refusal
        if now - self.waiting.setdefault(host, now) > self.seconds / 2:
            self.give_up(host)
        if file and request.method == "GET":
            self.require_progress(path, request.headers.get("Range", ""))
        limits = request.extensions.get("timeout", {})
        longest = {"read": max(self.seconds, constants.HF_HUB_DOWNLOAD_TIMEOUT)}
        request.extensions["timeout"] = {
            phase: min(limits.get(phase) or self.seconds, longest.get(phase, self.seconds))
            for phase in ("connect", "read", "write", "pool")
        }

    def after(self, response: httpx.Response) -> None:
        """Hook: note an answer; GivenUp where it asks for more time than there is."""
        host, path, status = _host(response.url), _path(response.url), response.status_code
        if path in self.missing:
            self.missing[path] = status
        self.refusal = _as_error(response)
        if status in BUSY:
            self.status[host] = status
            wait = _wait_asked_for(response.headers)
            if wait > self.seconds / 2:
                self.give_up(host, wait)
            return
        self.waiting.pop(host, None)
        self.status.pop(host, None)
        body = response.request.method == "GET" and FILE.fullmatch(path)  # may yet break off
        if status == 404 or (status < 400 and not body):
            self.missing.pop(path, None)
        if status < 300 and response.request.method == "GET":
            self.announce(path, int(response.headers.get("Content-Length") or 0))

    def give_up(self, host: str, wait: int = 0) -> None:
        """Raise GivenUp, now and at every later request."""
        self.refusal = why = GivenUp(host, self.status.get(host), wait)
        self.given_up[host] = (time.monotonic(), why)
        self.waiting.pop(host, None)
        raise why

    def require_progress(self, path: str, asked_range: str) -> None:
        """CutShort where a download began again and again and got no further."""
        found = re.fullmatch(r"bytes=(\d+)-", asked_range)
        if asked_range and not found:
            return  # a part from the middle of a file is no resumed download
        begin = int(found[1]) if found else 0
        last, times = self.begun.get(path, (begin, -1))
        times = times + 1 if begin - last < SMALL else 0
        self.begun[path] = (begin, times)
        if times > RESUMES:
            raise CutShort(path)
        if times:
            self.say(f"{path.rpartition('/')[2]} did not come whole, trying again ...")

    def require_all(self, cause: Exception | None) -> None:
        """Incomplete where the cache lacks a file asked for in vain, not known to be absent."""
        lacking = {
            found[4]: status for path, status in self.missing.items() if (found := _uncached(path))
        }
        if lacking:
            status = next(filter(None, lacking.values()), None)
            raise Incomplete(sorted(lacking), status) from cause

    # -- what is said meanwhile

    def announce(self, path: str, size: int) -> None:
        """A line for a download that takes long."""
        repo, xet, _ = path.partition("/xet-read-token/")  # behind it come all the large files
        if xet:
            self.say(f"Downloading files of {repo.removeprefix('/api/')} ...")
        elif size >= LARGE:
            self.say(f"Downloading {path.rpartition('/')[2]}, {size >> 20} MiB ...")

    def say(self, text: str) -> None:
        """Print a line, once in a load."""
        if text not in self.said:
            self.said.add(text)
            print(text, file=sys.stderr)

    @contextmanager
    def notices(self) -> Iterator[None]:
        """Within the block a wait of more than NOTICE seconds is told."""
        done = threading.Event()
        threading.Thread(target=self._tell, args=(done,), daemon=True).start()
        try:
            yield
        finally:
            done.set()

    def _tell(self, done: threading.Event) -> None:
        while not done.wait(min(0.25, NOTICE)):
            for host, since in self.waiting.copy().items():
                if time.monotonic() - since > NOTICE:
                    status = self.status.get(host)
                    reason = f"it answers {status}" if status else "no answer yet"
                    self.say(f"Waiting for the Hub ({host}): {reason} ...")


def _host(url: httpx.URL) -> str:
    """Host and port of a URL, without the name and password that it may hold."""
    return url.host if url.port is None else f"{url.host}:{url.port}"


def _path(url: httpx.URL) -> str:
    """Path of a URL as on huggingface.co: a mirror named by HF_ENDPOINT may have it in a folder."""
    return url.path.removeprefix(urlsplit(constants.ENDPOINT).path.rstrip("/"))


def _as_error(response: httpx.Response) -> HfHubHTTPError | None:
    """What the client makes of an answer, None where it is good or a file is absent."""
    try:
        hf_raise_for_status(response)
    except RemoteEntryNotFoundError:
        return None
    except HfHubHTTPError as error:
        return error
    return None


def _wait_asked_for(headers: Mapping[str, str]) -> int:
    """Seconds that an answer tells the client to wait, 0 for none."""
    window = re.search(r";\s*r\s*=\s*0\s*;\s*t\s*=\s*(\d+)", headers.get("ratelimit", ""))
    plain = headers.get("retry-after", "").strip()
    return int(window[1]) if window else int(plain) if plain.isdigit() else 0


def _uncached(path: str) -> re.Match | None:
    """The parts of a file's path where the cache knows nothing of that file."""
    found = FILE.fullmatch(path)
    if found is None:
        return None
    datasets, repo, revision, name = found.groups()
    kind = "dataset" if datasets else "model"
    known = try_to_load_from_cache(repo, name, revision=revision, repo_type=kind)
    return None if known is not None else found


@cache
def _patience() -> Patience:
    return Patience(float(constants.HF_HUB_ETAG_TIMEOUT)).install()


def fetch(load: Callable[[], Loaded], complete: bool = False) -> Loaded:
    """What `load` gets from the Hub, tried once more where an answer or a connection broke off.

    Raises what `load` raises, and OSError for what the client's transport raises. With `complete`
    it is Incomplete where a file was asked for in vain which transformers then takes for absent:
    without its chat template, say, a model would run with other prompts.
    """
    if constants.HF_HUB_OFFLINE:
        return load()

    def attempt() -> Loaded:
        patience.begin()
        try:
            loaded = load()
        except FAULTS as error:
            if complete:
                patience.require_all(error)
                raise
            raise error from error.__cause__ or patience.refusal  # datasets drops causes
        if complete:
            patience.require_all(None)
        return loaded

    patience = _patience()
    try:
        with patience.notices():
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
