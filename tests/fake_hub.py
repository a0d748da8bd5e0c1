"""A small Hub on loopback that serves folders as repositories, and misbehaves on demand."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FOR_EVER = 10**6  # times
LONGEST = 60  # seconds that any answer is held back, so that no thread outlives its test for long

API = re.compile(
    r"/api/(models|datasets)/([^/]+/[^/]+?)(?:/(revision|tree|paths-info)/([^/]+)/?(.*))?"
)
FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class Fault:
    """What goes wrong with requests whose method and path match, the first `times` of them."""

    match: str  # searched in "GET /org/name/resolve/main/config.json"
    status: int | None = None  # answered instead of the content
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False  # half of the body, and the connection is closed
    pause: float = 0.0  # seconds before the answer; LONGEST is no answer at all
    times: int = FOR_EVER


GATED = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to it is restricted."}
NO_REPO = {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}
NO_ENTRY = {
    "X-Error-Code": "EntryNotFound",
    "X-Error-Message": "Entry not found",
    "X-Repo-Commit": COMMIT,
}
BAD_TOKEN = {"X-Error-Message": "Invalid credentials in Authorization header"}


class FakeHub:
    """Repositories by name, what goes wrong with them, and the tokens that came."""

    def __init__(self):
        self.repos: dict[str, Path] = {}
        self.faults: list[Fault] = []
        self.tokens: set[str] = set()
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._server = self._listen(0)
        self.port = self._server.server_port
        self.endpoint = f"http://127.0.0.1:{self.port}"

    def _listen(self, port: int) -> ThreadingHTTPServer:
        server = ThreadingHTTPServer(("127.0.0.1", port), partial(_Handler, self))
        server.daemon_threads, server.block_on_close = True, False
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return server

    def close(self) -> None:
        """Stop, and let go of every connection that is held."""
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()

    @contextmanager
    def down(self) -> Iterator[None]:
        """Connections are refused within the block."""
        self.close()
        try:
            yield
        finally:
            self.stopping.clear()
            self._server = self._listen(self.port)

    def fault_for(self, request: str) -> Fault | None:
        """What goes wrong with a request."""
        with self._lock:
            for fault in self.faults:
                if fault.times and re.search(fault.match, request):
                    fault.times -= 1
                    return fault
        return None


@contextmanager
def running() -> Iterator[FakeHub]:
    """A fake Hub for the length of the block."""
    hub = FakeHub()
    try:
        yield hub
    finally:
        hub.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = LONGEST

    def __init__(self, hub: FakeHub, *arguments):
        self.hub = hub
        super().__init__(*arguments)

    def log_message(self, *arguments) -> None:
        """Nothing on stderr, which the tests read."""

    def do_GET(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.path = unquote(self.path)
        fault = self.hub.fault_for(f"{self.command} {self.path}") or Fault("", times=0)
        self.hub.tokens.add(self.headers.get("Authorization", ""))
        stopped = fault.pause and self.hub.stopping.wait(fault.pause)
        if stopped or fault.pause == LONGEST:
            self.close_connection = True
        elif fault.status is not None:
            text = f"sent with {self.headers.get('Authorization')}"  # as careless proxies do
            self.answer(json.dumps({"error": text}).encode(), fault.status, fault.headers)
        else:
            self.content(fault)

    do_HEAD = do_POST = do_GET  # the names that http.server looks for

    def content(self, fault: Fault) -> None:
        """The answer of a Hub that works, but for how it ends."""
        path = urlsplit(self.path).path
        if found := FILE.fullmatch(path):
            return self.file(found, fault)
        if found := API.fullmatch(path):
            return self.api(*found.groups())
        return self.answer(b"{}", 404, NO_ENTRY)

    def api(self, _kind: str, repo: str, what: str | None, _revision: str | None, path: str | None):
        """Facts of a repository, the files in a folder of it, or those of given paths."""
        folder = self.hub.repos.get(repo)
        if folder is None:
            return self.answer(b"{}", 404, NO_REPO)
        if what in (None, "revision"):
            names = [{"rfilename": entry["path"]} for entry in _entries(folder, "**/*")]
            return self.answer_json({"id": repo, "sha": COMMIT, "siblings": names, "tags": []})
        if what == "tree":
            if not (folder / (path or "")).is_dir():
                return self.answer(b"{}", 404, NO_ENTRY)
            deep = "recursive=true" in urlsplit(self.path).query.lower()
            inside = _entries(folder, "**/*" if deep else "*", path or "", folders=True)
            return self.answer_json(inside)
        asked = json.loads(self.body)["paths"]
        known = _entries(folder, "**/*", folders=True)
        return self.answer_json([entry for entry in known if entry["path"] in asked])

    def file(self, found: re.Match, fault: Fault) -> None:
        """One file, or the rest of it from the asked position on."""
        folder = self.hub.repos.get(found[2])
        if folder is None:
            return self.answer(b"{}", 404, NO_REPO)
        path = folder / found[4]
        if not path.is_file():
            return self.answer(b"{}", 404, NO_ENTRY)
        content = path.read_bytes()
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        if begin := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            total, content = len(content), content[int(begin[1]) :]
            headers["Content-Range"] = f"bytes {begin[1]}-{total - 1}/{total}"
            return self.answer(content, 206, headers, fault)
        return self.answer(content, 200, headers, fault)

    def answer_json(self, value) -> None:
        self.answer(json.dumps(value).encode(), 200, {"Content-Type": "application/json"})

    def answer(
        self, content: bytes, status: int, headers: dict[str, str], fault: Fault | None = None
    ) -> None:
        """Send an answer, or its first half where a fault breaks it off."""
        self.send_response(status)
        for name, value in (headers | (fault.headers if fault else {})).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        broken = fault and fault.cut and self.command == "GET"
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if broken else content)
        if broken:
            self.wfile.flush()
            self.close_connection = True


def _entries(folder: Path, pattern: str, below: str = "", folders: bool = False) -> list[dict]:
    """Files of a repository as its API lists them."""
    found = []
    for path in sorted((folder / below).glob(pattern)):
        name = path.relative_to(folder).as_posix()
        oid = hashlib.sha1(name.encode()).hexdigest()
        if path.is_file():
            found.append({"type": "file", "path": name, "oid": oid, "size": path.stat().st_size})
        elif folders:
            found.append({"type": "directory", "path": name, "oid": oid, "size": 0})
    return found
