"""Conversations as prompts of token ids: what tokenizer and configuration say, without weights."""

from collections.abc import Sequence
from dataclasses import replace

from core.debug_log import Conversation, Message
from core.errors import UserError
from core.schema import MAX_NEW_TOKENS
from lm.prefix_tree import common_length
from lm.prompts import Longest, Prompt
from lm.text import Renderer, nested

CONTEXT_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx")


class Encoder:
    """A tokenizer with a prompt form, and what its model can read."""

    def __init__(self, tokenizer, config, prompt_form: str = "auto", open_thought: str = "refuse"):
        """`config` is the model's; the form and the thought are as for Renderer.

        UserError where template or tokenizer are not fit for measuring.
        """
        self.tokenizer, self.config = tokenizer, config
        self.renderer = Renderer(tokenizer, prompt_form, open_thought=open_thought)

    @property
    def context(self) -> int | None:
        """Longest sequence of the model in tokens; None where its configuration states no limit."""
        config = self.config.get_text_config()
        return next(
            (limit for name in CONTEXT_NAMES if (limit := getattr(config, name, None))), None
        )

    def render(self, messages: Sequence[Message]) -> str:
        """Text of a conversation up to the assistant's answer: exactly what the model reads."""
        return self.renderer.render(messages)

    def as_read(self, messages: Sequence[Message]) -> Conversation:
        """The messages without special tokens in what is said: what stands in their text."""
        return self.renderer.as_read(messages)

    def continuation(self, label: str) -> str:
        """An answer behind its prompt: character for character as a history shows it."""
        return self.renderer.continuation(label)

    def continuations(self, labels: Sequence[str]) -> dict[str, str]:
        """The text scored for each label; where one begins another, with what ends an answer."""
        return self.renderer.continuations(labels)

    def scored_end(self, labels: Sequence[str]) -> str:
        """What is scored behind each of these labels: mostly nothing, see `continuations`."""
        label, text = next(iter(self.continuations(labels).items()))
        return text.removeprefix(self.continuation(label))

    def encode(
        self,
        messages: Sequence[Message],
        labels: Sequence[str] = (),
        max_new_tokens: int | None = None,
        baseline: Prompt | None = None,
    ) -> Prompt:
        """Tokenise a conversation, and again with each label behind it: a token may span the seam.

        `max_new_tokens` is the longest answer: by default MAX_NEW_TOKENS, with labels 0 (none).
        `baseline` is the same target's prompt without history, which drift is measured from.
        Raises UserError where two labels cannot be told apart by their tokens.
        """
        if max_new_tokens is None:
            max_new_tokens = 0 if labels else MAX_NEW_TOKENS
        text = self.render(messages)
        ids = self.renderer.tokens(text)
        escaped = sum(self.renderer.escape(each["content"])[1] for each in messages)
        if not labels:
            return Prompt(text, ids, answer=max_new_tokens, baseline=baseline, escaped=escaped)
        behind = self.continuations(labels)
        full = {label: self.renderer.tokens(text + behind[label]) for label in labels}
        start = min(common_length(ids, sequence) for sequence in full.values())
        empty = any(len(sequence) <= start for sequence in full.values())
        if empty or nested(list(full.values())):
            names = ", ".join(labels)
            raise UserError(f"labels {names} cannot be told apart by this model's tokens.")
        return Prompt(text, ids, tuple(full.items()), start, max_new_tokens, baseline, escaped)

    def beside(self, prompt: Prompt, labels: Sequence[str]) -> Prompt:
        """The prompt with labels of another task to be scored behind it, as its own are.

        Those whose tokens begin a label of its own, or the other way round, are left out.
        """
        own, found = dict(prompt.labels), {}
        for label in labels:
            end = self.scored_end(tuple(own))
            ids = self.renderer.tokens(prompt.text + self.continuation(label) + end)
            if not nested([ids, *own.values()]):
                found[label] = ids
        return replace(prompt, others=tuple(found.items())) if found else prompt

    def tokens_needed(self, asked: Longest) -> int:
        """Tokens of a prompt with its longest label, of its own or others, or the longest answer it
        may get.
        """
        prompt = self.encode(asked.messages, asked.labels, asked.answer)
        return self.beside(prompt, asked.others).longest + asked.more

    def surely_fits(self, asked: Longest) -> bool:
        """Does a prompt fit the context without counting? No text has more tokens than bytes."""
        form = self.renderer.answers
        labels = (self.renderer.escape(label)[0] for label in (*asked.labels, *asked.others))
        behind = (len((form.opening + label + form.end).encode()) for label in labels)
        text = len(self.render(asked.messages).encode())
        most = text + max([asked.answer, *behind]) + asked.more + 8
        return self.context is None or most <= self.context
