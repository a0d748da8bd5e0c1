"""What a run asks of a model, be it `model.LanguageModel` or `lm.server.ServerModel`."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from core.debug_log import Conversation, Message
from lm.prompts import Longest, Outcome, Prefix, Prompt


class Model(Protocol):
    """A model that can be asked conversations; a server's prompts take the place of Prompt."""

    revision: str | None  # which state of the model it is
    token_budget: int  # of one forward
    context: int | None  # most tokens it reads; None where that is not known

    @property
    def counts_tokens(self) -> bool:
        """Are the tokens of labels known here?"""

    @property
    def tokens_read(self) -> int:
        """Tokens that were read until now."""

    @property
    def peak_memory_mib(self) -> int:
        """The most memory taken until now (MiB): of its device, or of this process."""

    def as_read(self, messages: Sequence[Message]) -> Conversation:
        """The messages as the log holds them."""

    def encode(
        self,
        messages: Sequence[Message],
        labels: Sequence[str] = (),
        max_new_tokens: int | None = None,
        baseline: Prompt | None = None,
    ) -> Prompt:
        """A conversation ready to be asked."""

    def beside(self, prompt: Prompt, labels: Sequence[str]) -> Prompt:
        """The prompt with labels of another task to be scored too, where that can be."""

    def run(
        self, prompts: Sequence[Prompt], advance: Callable[[int], None] = lambda done: None
    ) -> list[Outcome]:
        """Score or answer the prompts, in order."""

    def logprobs(self, sequences: Sequence[tuple[Prefix, int]]) -> list[float]:
        """log P of the tokens of each sequence from a position on (nats)."""

    def surely_fits(self, asked: Longest) -> bool:
        """Does a prompt fit the context without counting?"""

    def describe(self, labels: Sequence[str], max_new_tokens: int) -> dict[str, Any]:
        """The settings that the model resolves, for the config of a result."""

    def facts(self) -> dict[str, Any]:
        """What a result says of the model as it was run, for its environment."""

    def release_memory(self) -> None:
        """Give back what a failed forward has left on the device."""


class LocalModel(Model, Protocol):
    """A model in this process: what `run/config.py` refuses for a server."""

    model: Any  # the Hugging Face module

    @property
    def exact_effects(self) -> tuple[str, ...]:
        """The parts of `--effects` that are exact for this model."""

    def tokens_needed(self, asked: Longest) -> int:
        """Tokens of a prompt with its longest label or answer."""

    def continued(self, prompt: Prompt, text: str) -> tuple[Prefix, int]:
        """A prompt's tokens with a text behind it, and where that begins."""

    def effects(
        self,
        conversations: Sequence[Sequence[Message]],
        prompts: Sequence[Prompt],
        reference: str,
        parts: Iterable[str],
        *,
        window: int | None = None,
        all_lengths: bool = False,
    ) -> list[dict[str, Any]]:
        """What a history does to a target, at h = 1, 2, ..."""

    def sample(self, count: int, max_new_tokens: int, seed: int) -> list[str]:
        """Texts sampled from the model, at temperature 1."""
