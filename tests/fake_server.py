"""A server on loopback that speaks the OpenAI protocol, for what real ones rarely do."""

import hashlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "org/served"
ALPHABET = ("A", "B", "C", "D", "positive", "negative", "The", "I", "It", "No", "Yes", "My")


def score(text: str, token: str) -> float:
    """A fixed log-probability of a token after a text; the list sums to less than 1."""
    number = int(hashlib.sha256(f"{text}/{token}".encode()).hexdigest()[:8], 16)
    return -2.5 - 4 * number / 2**32


class FakeServer:
    """Answers by a rule of its own; `troubles` are answered with first, one request each."""

    def __init__(self) -> None:
        self.troubles: list[Any] = []  # (status, headers, body) or a callable on the handler
        self.asked: list[dict[str, Any]] = []  # bodies of all chat and completion requests
        self.seconds = 0.0  # that each answer takes
        self.logprobs = True
        self.listed = ALPHABET  # tokens whose log-probabilities are told
        self.lock = threading.Lock()

    def trouble(self) -> Any:
        with self.lock:
            return self.troubles.pop(0) if self.troubles else None

    def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        text = json.dumps(body["messages"])
        top = sorted(((token, score(text, token)) for token in self.listed), key=lambda x: -x[1])
        best = top[0][0] if top else "nothing"
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant"}}
        choice["message"]["content"] = f"{best} it is"
        if body.get("logprobs") and self.logprobs:
            entries = [{"token": token, "logprob": value, "bytes": None} for token, value in top]
            choice["logprobs"] = {"content": [{**entries[0], "top_logprobs": entries}]}
        usage = {"prompt_tokens": len(text) // 4, "completion_tokens": 3}
        usage["total_tokens"] = sum(usage.values())
        usage["prompt_tokens_details"] = {"cached_tokens": 2}
        return {"id": "1", "object": "chat.completion", "created": 1, "model": MODEL,
                "choices": [choice], "usage": usage}  # fmt: skip


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: FakeServer

    def log_message(self, *words: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            entry = {"id": MODEL, "object": "model", "created": 1, "owned_by": "vllm"}
            self.send(200, {"object": "list", "data": [{**entry, "max_model_len": 4096}]})
        elif self.path == "/version":
            self.send(200, {"version": "9.9"})
        else:
            self.send(404, {"error": {"message": "nothing here"}})

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/tokenize":
            piece = json.loads(raw)["prompt"]
            self.send(200, {"tokens": [1], "token_strs": [piece]})
            return
        body = json.loads(raw)
        with self.fake.lock:
            self.fake.asked.append(body)
        trouble = self.fake.trouble()
        time.sleep(self.fake.seconds)
        if callable(trouble):
            trouble(self)
        elif trouble:
            status, headers, answer = trouble
            self.send(status, answer, headers)
        elif self.path == "/v1/chat/completions":
            self.send(200, self.fake.chat(body))
        else:
            self.send(404, {"error": {"message": "no such page"}})

    def send(self, status: int, answer: Any, headers: dict[str, str] | None = None) -> None:
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def cut(handler: _Handler) -> None:
    """Promise more than is sent, and hang up."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"id"')
    handler.wfile.flush()
    handler.close_connection = True
    handler.connection.close()


@contextmanager
def serving() -> Iterator[tuple[str, FakeServer]]:
    """A fake server and its address, such as http://127.0.0.1:1234/v1."""
    fake = FakeServer()
    handler = type("Handler", (_Handler,), {"fake": fake})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", fake
    finally:
        server.shutdown()
        server.server_close()


def free_port() -> int:
    """A port on loopback that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
