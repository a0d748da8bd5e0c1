"""Requests to an OpenAI-compatible server by its official client, and what comes back. No torch.

The client itself tries again after 408, 409, 429, 5xx, cut connections and time-outs, and keeps to
Retry-After. Whatever ends in an error here is one or two plain lines, without the key.
"""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from core.debug_log import Message
from core.errors import OutOfMemory, UserError

TRIES = 8  # again after a failure that may pass; about two minutes in all
TIMEOUT = 600.0  # seconds: a long prompt on a busy node
TOP = 20  # likeliest tokens that are asked for: the most that the protocol allows
LONG_CONTEXT = ("context length", "context size", "maximum context", "context_length", "too long")
OVERHEAD = 64  # tokens that a template may put around the messages, when a budget is watched


@dataclass(frozen=True)
class Reply:
    """An answer, and what the server told of its first token."""

    text: str
    top: tuple[tuple[str, float], ...]  # likeliest first tokens with log P, best first
    finish: str | None  # stop, length, content_filter, ...


class Client:
    """One server and one model of it; counts what is asked."""

    def __init__(self, url: str | None, model: str, max_tokens_total: int | None = None):
        """`url` None leaves the address, and in any case the key, to the client's environment."""
        import openai

        self.openai = openai
        try:
            self.api = openai.OpenAI(base_url=url, max_retries=TRIES, timeout=TIMEOUT)
        except openai.OpenAIError:  # no key: servers of one's own need none
            self.api = openai.OpenAI(
                base_url=url, api_key="none", max_retries=TRIES, timeout=TIMEOUT
            )
        self.model = model
        self.most = max_tokens_total
        self.lock = threading.Lock()
        self.requests = self.tokens_in = self.tokens_out = 0
        self.tokens_cached: int | None = None  # None: the server does not tell
        self.filtered = self.reserved = 0

    @property
    def place(self) -> str:
        """Address of the server, without a name and password that it may hold."""
        parts = urlsplit(str(self.api.base_url))
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")

    def counts(self) -> dict[str, Any]:
        """What was asked until now, for a result file."""
        return {
            "requests": self.requests,
            "tokens_in": self.tokens_in,
            "tokens_out": self.tokens_out,
            "tokens_cached": self.tokens_cached,
            "content_filtered": self.filtered,
        }

    # -- the protocol

    def chat(self, messages: Sequence[Message], most: int, logprobs: bool = False) -> Reply:
        """A greedy answer to a conversation, of at most so many tokens."""
        more = {"logprobs": True, "top_logprobs": TOP} if logprobs else {}
        with self._asking(json.dumps(list(messages)), most):
            answer = self.api.chat.completions.create(
                model=self.model, messages=list(messages), max_tokens=most, temperature=0, **more
            )
            choice = self._choice(answer)
            listed = choice.logprobs.content if choice.logprobs else None
            top = listed[0].top_logprobs if listed else ()
            text = choice.message.content or ""
            return Reply(text.strip(), _ranked(top), choice.finish_reason)

    def complete(
        self, text: str, most: int, stop: str | None = None, logprobs: bool = False
    ) -> Reply:
        """A greedy continuation of a text, of at most so many tokens, up to a stop text."""
        more = {"logprobs": TOP} if logprobs else {}
        with self._asking(text, most):
            answer = self.api.completions.create(
                model=self.model, prompt=text, max_tokens=most, temperature=0, stop=stop, **more
            )
            choice = self._choice(answer)
            return Reply(choice.text.strip(), _ranked(_first(choice)), choice.finish_reason)

    def read_text(self, text: str) -> list[tuple[Any, float]]:
        """Tokens of a text, each with its log P; [] where the server does not echo."""
        with self._asking(text, 1):
            answer = self.api.completions.create(
                model=self.model, prompt=text, max_tokens=1, temperature=0, echo=True, logprobs=1
            )
            told = self._choice(answer).logprobs
            tokens, values = getattr(told, "tokens", None), getattr(told, "token_logprobs", None)
            read = list(zip(tokens or (), values or ()))[:-1]  # the last one is the server's own
            echoed = "".join(token for token, _ in read) == text
            return [(token, value or 0.0) for token, value in read] if echoed else []

    def read_chat(
        self, messages: Sequence[Message], answer: str | None = None
    ) -> list[tuple[Any, float]]:
        """Token ids of a conversation, with an answer begun behind it, each with its log P.

        A vLLM extension of the protocol; [] where the server does not have it.
        """
        begun = [] if answer is None else [{"role": "assistant", "content": answer}]
        more = {
            "prompt_logprobs": 0,
            "add_generation_prompt": answer is None,
            "continue_final_message": answer is not None,
        }
        with self._asking(json.dumps([*messages, *begun]), 1):
            found = self.api.chat.completions.create(
                model=self.model, messages=[*messages, *begun], max_tokens=1, temperature=0,
                extra_body=more,
            )  # fmt: skip
            self._choice(found)
            return _prompt_logprobs((found.model_extra or {}).get("prompt_logprobs"))

    def get(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """JSON of a page beside the protocol, such as `/version`; None where there is none."""
        address = str(self.api.base_url).rstrip("/").removesuffix("/v1") + path
        again = self.api.with_options(max_retries=1)
        try:
            if body is None:
                return again.get(address, cast_to=object)
            return again.post(address, body=body, cast_to=object)
        except (self.openai.OpenAIError, ValueError):
            return None

    def models(self) -> list[dict[str, Any]]:
        """The models that the server says it has."""
        with self._asking("", 0):
            return [each.to_dict() for each in self.api.models.list().data]

    # -- counting, and what goes wrong

    def _choice(self, answer: Any) -> Any:
        """The one answer in what a server sent, once it is counted."""
        usage = getattr(answer, "usage", None)
        cached = getattr(getattr(usage, "prompt_tokens_details", None), "cached_tokens", None)
        choices = getattr(answer, "choices", None)
        with self.lock:
            self.tokens_in += getattr(usage, "prompt_tokens", 0) or 0
            self.tokens_out += getattr(usage, "completion_tokens", 0) or 0
            if cached is not None:
                self.tokens_cached = (self.tokens_cached or 0) + cached
            self.filtered += bool(choices) and choices[0].finish_reason == "content_filter"
        if not choices:
            raise UserError(f"the server at {self.place} sent an answer without a choice.")
        return choices[0]

    @contextmanager
    def _asking(self, text: str, most: int) -> Iterator[None]:
        """Within it a request is made, counted, kept to the budget; its errors are put plainly."""
        reserved = len(text.encode()) + most + OVERHEAD if self.most is not None else 0
        with self.lock:
            used = self.tokens_in + self.tokens_out + self.reserved
            if self.most is not None and most and used + reserved > self.most:
                raise UserError(
                    f"--max_tokens_total {self.most}: {used} tokens are used or under way, and the "
                    "next prompt may pass it.\nWhat was finished is kept; a larger budget goes on."
                )
            self.requests += 1
            self.reserved += reserved
        try:
            yield
        except self.openai.OpenAIError as error:
            raise self._plain(error) from error
        except (ValueError, TypeError, AttributeError, LookupError) as error:
            raise UserError(
                f"the server at {self.place} sent what is no answer of the protocol "
                f"({type(error).__name__})."
            ) from error
        finally:
            with self.lock:
                self.reserved -= reserved

    def _plain(self, error: Exception) -> UserError:
        """What the client raised, in plain words."""
        openai, kept = self.openai, "What was finished is kept; the same command goes on."
        said = " ".join(str(getattr(error, "message", error)).split())[:200]
        if isinstance(error, openai.APITimeoutError):
            return UserError(f"the server at {self.place} does not answer in time.\n{kept}")
        if isinstance(error, openai.APIConnectionError):
            return UserError(f"the server at {self.place} cannot be reached.\n{kept}")
        if isinstance(error, openai.AuthenticationError):
            return UserError(
                f"the server at {self.place} does not take the key (401).\nSet OPENAI_API_KEY."
            )
        if isinstance(error, openai.NotFoundError):
            return UserError(f"the server at {self.place} has no model '{self.model}' (404).")
        if isinstance(error, openai.RateLimitError):
            return UserError(f"the server at {self.place} has too many requests (429).\n{kept}")
        if isinstance(error, openai.BadRequestError) and any(w in said for w in LONG_CONTEXT):
            return OutOfMemory(f"longer than the context of the server ({said})")
        status = getattr(error, "status_code", None)
        return UserError(
            f"the server at {self.place} refuses a request ({status or type(error).__name__}): "
            f"{said}\n{kept}"
        )


def _ranked(entries: Any) -> tuple[tuple[str, float], ...]:
    """(token, log P) of a list of alternatives, best first."""
    pairs = [(each.token, each.logprob) for each in entries or ()]
    return tuple(sorted(pairs, key=lambda pair: -pair[1]))


def _first(choice: Any) -> Any:
    """The alternatives of a completion's first token, in the protocol's form or llama.cpp's."""
    told = choice.logprobs
    listed = (getattr(told, "model_extra", None) or {}).get("content")
    if listed:
        return [_Entry(each["token"], each["logprob"]) for each in listed[0]["top_logprobs"]]
    by_token = (getattr(told, "top_logprobs", None) or [None])[0]
    return [_Entry(*item) for item in (by_token or {}).items()]


@dataclass(frozen=True)
class _Entry:
    token: str
    logprob: float


def _prompt_logprobs(rows: Any) -> list[tuple[Any, float]]:
    """vLLM's list of {token id: {logprob, rank, decoded_token}} by position; the first is null.

    A row holds the prompt's own token, and maybe likelier ones: the own one comes first.
    """
    if not isinstance(rows, list) or len(rows) < 2:
        return []
    read: list[tuple[Any, float]] = [(None, 0.0)]
    for row in rows[1:]:
        token, told = next(iter(row.items()))
        read.append((token, float(told["logprob"])))
    return read
