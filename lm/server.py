"""A model behind an OpenAI-compatible server, asked as `model.LanguageModel` is. No torch.

    python experiment.py --server http://localhost:8000/v1 --model NAME --target mmlu

The server words the conversation by its own template, so there is no exact prompt, and it shows no
layers. What it can tell of likelihood is proved by a probe (lm/abilities.py), never taken on trust.
"""

import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from core import provenance
from core.debug_log import Message
from core.errors import UserError
from lm.abilities import Abilities, find_abilities, first_tokens
from lm.client import Client, Reply
from lm.prompts import Longest, Outcome

STOP = "\nUser:"  # of the plain form
SEPARATOR = "\n\n"  # between messages in `prompt_text`, which is for reading only


@dataclass(frozen=True)
class ServerPrompt:
    """A conversation as it is sent. Equal ones are asked once."""

    messages: tuple[tuple[str, str], ...]  # role and content
    text: str  # readable, not what the server's template makes of it
    labels: tuple[str, ...] = ()
    answer: int = 0  # most tokens of its greedy answer; 0: none is wanted
    baseline: "ServerPrompt | None" = field(default=None, compare=False)  # the one at h = 0
    escaped: int = 0  # special tokens are the server's business

    @property
    def sent(self) -> list[Message]:
        """The messages, as the protocol takes them."""
        return [{"role": role, "content": content} for role, content in self.messages]


class ServerModel:
    """What `run/` asks of a model, answered by a server."""

    def __init__(self, client: Client, form: str, scoring: str, concurrency: int):
        """`form` is chat (messages) or plain (one text that ends in `Assistant:`); `scoring` is as
        in RunConfig: labels are not scored under `generate`.
        """
        self.client = client
        self.form = form
        self.scoring = scoring
        self.concurrency = concurrency
        self.abilities: Abilities = find_abilities(client, form)
        self.revision = self.abilities.model
        self.context = self.abilities.context
        self.token_budget = 0  # the server's own business
        self._first_tokens: dict[tuple[str, ...], dict[str, str] | str] = {}

    # -- conversations

    def render(self, messages: Sequence[Message]) -> str:
        """A conversation in a readable form, which the server's template words in its own way."""
        if self.form == "plain":
            turns = [f"{each['role'].title()}: {each['content']}" for each in messages]
            return "\n".join([*turns, "Assistant:"])
        return SEPARATOR.join(f"[{each['role']}]\n{each['content']}" for each in messages)

    def as_read(self, messages: Sequence[Message]) -> list[Message]:
        """The messages as the log holds them: as they are sent."""
        return [{"role": each["role"], "content": each["content"]} for each in messages]

    def continuation(self, label: str) -> str:
        """The text that is scored for a label."""
        return f" {label}" if self.form == "plain" else label

    def encode(
        self,
        messages: Sequence[Message],
        labels: Sequence[str] = (),
        max_new_tokens: int = 0,
        baseline: ServerPrompt | None = None,
    ) -> ServerPrompt:
        """A conversation to be asked; `baseline` is the same target's without history.

        UserError where labels are to be scored by likelihood and the server cannot.
        """
        if labels and self.scoring != "generate":
            self.require_likelihood(tuple(labels))
        said = tuple((each["role"], each["content"]) for each in messages)
        return ServerPrompt(said, self.render(messages), tuple(labels), max_new_tokens, baseline)

    def beside(self, prompt: ServerPrompt, labels: Sequence[str]) -> ServerPrompt:
        """The prompt as it is: a server is not asked for labels of another task."""
        return prompt

    def require_likelihood(self, labels: tuple[str, ...]) -> None:
        """UserError unless the server can score these labels."""
        if self.abilities.prompt_logprobs.there:
            return
        why = self.first_tokens_of(labels)
        if isinstance(why, str):
            raise UserError(
                f"the server at {self.client.place} gives no likelihood of labels: {why}.\n"
                "Read them from the answer with --scoring generate."
            )

    def first_tokens_of(self, labels: tuple[str, ...]) -> dict[str, str] | str:
        """Label -> the text of its first token, all different; or why there are none."""
        if not self.abilities.first_token.there:
            return self.abilities.first_token.why
        if labels not in self._first_tokens:
            shown = tuple(map(self.continuation, labels))
            found = first_tokens(self.client, shown)
            if not isinstance(found, str):
                found = dict(zip(labels, found))
            self._first_tokens[labels] = found
        return self._first_tokens[labels]

    # -- facts

    def describe(self, labels: Sequence[str], max_new_tokens: int) -> dict[str, Any]:
        """The settings that this model resolves, for the config of a result."""
        generation = {"decoding": "greedy", "temperature": 0, "max_new_tokens": max_new_tokens}
        return {
            "revision": self.revision,
            "prompt": self.form,
            "engine": "server",
            "dtype": None,
            "label_continuations": {label: self.continuation(label) for label in labels},
            "margin_tokens": None,
            "generation": generation | {"stop_text": STOP if self.form == "plain" else None},
            "likelihood": self.likelihood if labels else None,
            "template": "the server's own: prompt_text holds the messages in a readable form",
        }

    @property
    def likelihood(self) -> str | None:
        """How labels are scored: by their whole text, by their first token, or not."""
        if self.scoring == "generate":
            return None
        if self.abilities.prompt_logprobs.there:
            return "prompt_logprobs"
        return "first_token" if self.abilities.first_token.there else None

    def facts(self) -> dict[str, Any]:
        """What a result says of the server, and what was asked of it."""
        server = {"address": self.client.place} | self.abilities.describe()
        return {"server": server} | self.client.counts() | {
            "engine": "server",
            "lens": None,
            "context": self.context,
        }  # fmt: skip

    def summary(self) -> str:
        """What was found at the start, in a line."""
        able = self.abilities
        how = {
            "prompt_logprobs": "labels are scored whole",
            "first_token": "labels are scored by their first token",
            None: "labels are read from generated answers",
        }[self.likelihood]
        why = f" ({able.prompt_logprobs.why})" if not able.prompt_logprobs.there else ""
        what = " ".join(filter(None, (able.kind, able.version))) or "a server"
        return f"{able.model} at {self.client.place}, {what}: {how}{why}."

    @property
    def counts_tokens(self) -> bool:
        """Are the tokens of labels known here?"""
        return False

    @property
    def tokens_read(self) -> int:
        """Tokens sent and written until now."""
        return self.client.tokens_in + self.client.tokens_out

    @property
    def peak_memory_mib(self) -> int:
        """The most memory that this process has taken (MiB); the server's is not known."""
        return provenance.peak_memory_mib()

    def release_memory(self) -> None:
        """The memory is the server's."""

    def surely_fits(self, asked: Longest) -> bool:
        """The server counts: a prompt beyond its context is refused there."""
        return True

    def margin_tokens(self, labels: Sequence[str]) -> None:
        """Labels have no margin without layers."""

    def logprobs(self, sequences: Sequence[Any]) -> list[float]:
        """log P of sequences of token ids: a server's are not known here, so there are none."""
        return []

    # -- asking

    def run(
        self, prompts: Sequence[ServerPrompt], advance: Callable[[int], None] = lambda done: None
    ) -> list[Outcome]:
        """Score or answer the prompts, several at a time, in an order that a prefix cache likes."""
        pool = ThreadPoolExecutor(self.concurrency)
        try:
            waiting = [pool.submit(self.ask, prompt) for prompt in prompts]
            outcomes = []
            for each in waiting:
                outcomes.append(each.result())
                advance(1)
            return outcomes
        finally:  # after an error what has not begun is not asked
            pool.shutdown(wait=True, cancel_futures=True)

    def ask(self, prompt: ServerPrompt) -> Outcome:
        """One prompt: its labels' log-probabilities, its greedy answer, or both."""
        scores, bounds, top = None, None, ()
        if prompt.labels and self.likelihood == "prompt_logprobs":
            scores = self._whole_labels(prompt)
        elif prompt.labels and self.likelihood == "first_token":
            scores, bounds, top = self._first_labels(prompt)
        text = None
        if prompt.answer:
            reply = self._answer(prompt)
            text, top = reply.text, top or reply.top
        return Outcome(
            top5=tuple(token for token, _ in top[:5]),
            layers=None,
            label_logprobs=scores,
            text=text,
            reply=(),
            label_bounds=bounds,
        )

    def _answer(self, prompt: ServerPrompt) -> Reply:
        if self.form == "plain":
            return self.client.complete(prompt.text, prompt.answer, stop=STOP)
        return self.client.chat(prompt.sent, prompt.answer)

    def _first_labels(
        self, prompt: ServerPrompt
    ) -> tuple[dict[str, float], dict[str, float], Sequence[tuple[str, float]]]:
        """Labels by their first token, those beyond the server's list bounded by its last entry."""
        top = (
            self.client.complete(prompt.text, 1, logprobs=True)
            if self.form == "plain"
            else self.client.chat(prompt.sent, 1, logprobs=True)
        ).top
        if not top:
            raise UserError(f"the server at {self.client.place} left out log-probabilities.")
        there, least = dict(reversed(top)), min(logprob for _, logprob in top)
        tokens = self.first_tokens_of(prompt.labels)
        scores = {label: there[token] for label, token in tokens.items() if token in there}
        return scores, dict.fromkeys(set(tokens) - set(scores), least), top

    def _whole_labels(self, prompt: ServerPrompt) -> dict[str, float]:
        """Sum of log P over each label's tokens, from where the labels' own tokens begin."""
        rows = {}
        for label in prompt.labels:
            shown = self.continuation(label)
            if self.form == "plain":
                rows[label] = self.client.read_text(prompt.text + shown)
            else:
                rows[label] = self.client.read_chat(prompt.sent, shown)
        bare = (
            self.client.read_text(prompt.text)
            if self.form == "plain"
            else self.client.read_chat(prompt.sent)
        )
        start = min(_shared([token for token, _ in bare], row) for row in rows.values())
        return {label: sum(logprob for _, logprob in row[start:]) for label, row in rows.items()}


def _shared(tokens: Sequence[Any], row: Sequence[tuple[Any, float]]) -> int:
    """Length of the beginning that a read sequence has in common with these tokens."""
    pairs = zip(tokens, row)
    return next((k for k, (one, (other, _)) in enumerate(pairs) if one != other), len(tokens))


def connect(
    url: str | None,
    model: str,
    *,
    form: str = "auto",
    scoring: str = "likelihood",
    concurrency: int = 8,
    max_tokens_total: int | None = None,
    quiet: bool = False,
) -> ServerModel:
    """A model behind the server at this address (None: OPENAI_BASE_URL), once it has answered.

    UserError where it does not answer as the protocol says.
    """
    client = Client(url, model, max_tokens_total)
    server = ServerModel(client, "plain" if form == "plain" else "chat", scoring, concurrency)
    if not quiet:
        print(server.summary(), file=sys.stderr)
    return server
