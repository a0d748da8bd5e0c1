"""How long the Hub is waited for: hooks on the requests of its client, and no other change to it.

Left to itself the Hub's client asks again for up to a minute, in silence and for every file anew,
and waits as long as a rate limit tells it to. Here a Hub without a good answer for a few seconds is
given up, and no later request of the process waits for it: to the client that is being offline, so
what is in the cache is used. HF_HUB_ETAG_TIMEOUT, a setting of the client, is the longest wait for
one answer (10 s).
"""

import os
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from urllib.parse import urlsplit

import huggingface_hub
from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RemoteEntryNotFoundError
from huggingface_hub.utils import hf_raise_for_status, httpx

NOTICE = 3.0  # seconds of waiting in silence
FORGET = 60.0  # seconds after which a Hub that was given up is asked again
SMALL = 1 << 20  # bytes: a resumed download that brought fewer made no progress
LARGE = 10 << 20  # bytes: a download that is announced
RESUMES = 2  # in a row and without progress, then a file is given up
BUSY = (408, 429, 500, 502, 503, 504)  # answers after which the client asks again
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
def of_this_process() -> Patience:
    """The hooks, put in at the first call; and the same bounds for the client of the file store.

    Large files come from a store, Xet, with a client of its own that takes them from variables.
    Its own are six tries and two minutes for each.
    """
    seconds = int(constants.HF_HUB_ETAG_TIMEOUT)
    os.environ.setdefault("HF_XET_CLIENT_RETRY_MAX_ATTEMPTS", "2")
    for phase in ("CONNECT", "READ"):
        os.environ.setdefault(f"HF_XET_CLIENT_{phase}_TIMEOUT", f"{seconds}s")
    return Patience(seconds).install()
