"""Conversations as text: exactly what a model reads, and the text that is scored for a label."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from functools import cache, cached_property, partial

from jinja2 import TemplateError
from transformers.utils import chat_template_utils

from core.debug_log import Conversation, Message
from core.errors import UserError
from lm.prefix_tree import common_length
from lm.prompts import Prefix
from lm.template_checks import AnswerForm, marks_between, proved_form, refused, require_shown

DATE = datetime(2025, 1, 1)  # of every prompt, where a template writes the day's
# Fixed values for what a chat template would otherwise take from the day or from its defaults.
TEMPLATE_SETTINGS = {
    "date_string": DATE.strftime("%d %b %Y"),
    "enable_thinking": False,
    "thinking": False,
}
# What a template written for other conversations raises while it is rendered
TEMPLATE_ERRORS = (TemplateError, ArithmeticError, LookupError)
TEMPLATE_ERRORS += (RecursionError, TypeError, ValueError)
PLAIN_FORM = AnswerForm(
    gap="\nAssistant: ", ending="\nUser: ", opening=" ", end="\n", stop_text="\nUser:"
)
SAMPLE = "The quick brown fox jumps over the lazy dog, 1 to 10. " * 20
# Where a space makes the name of a special token a text like any other
SEAM = re.compile(r"(?<=\S)(?=\S)")


class Renderer:
    """Renders conversations in one prompt form of one tokenizer."""

    def __init__(self, tokenizer, form: str = "auto", *, open_thought: str = "refuse"):
        """`form` is chat (the tokenizer's template), plain, or auto: chat where there is one.

        `open_thought` is what to do with a thought that the template opens before an answer and
        shows none of in a history. UserError where template or tokenizer are not fit for measuring.
        """
        self.tokenizer = tokenizer
        self.form = _resolve_form(form, tokenizer)
        # A run asks for the same with every prompt
        self.continuation = cache(self.continuation)
        self._behind = cache(self._behind)
        self._marks_between = cache(partial(marks_between, self._write))
        _switch_off_sampling(tokenizer)
        self.answers = PLAIN_FORM
        if self.form == "chat":
            self.answers = proved_form(self._write, self.tokens, self._marks, open_thought)
        self._require_steady_tokens()

    @property
    def stop_text(self) -> str | None:
        """What ends an answer as text; None where a token does."""
        return self.answers.stop_text

    def escape(self, text: str) -> tuple[str, int]:
        """A text with a space inside each special token's name, and how many there were.

        `<|im_end|>` in a review must not end the user's turn: it becomes `< |im_end|>`. A text
        without such names stays as it is; one without two visible characters in a row is left.
        """
        escaped = 0
        while True:  # a name may stand in another; each space takes away one seam, so this ends
            text, count = self._special_tokens.subn(lambda found: SEAM.sub(" ", found[0], 1), text)
            escaped += count
            if not count:
                return text, escaped

    @cached_property
    def _special_tokens(self) -> re.Pattern[str]:
        """Finds the texts that the tokenizer reads as special tokens, the longest first."""
        added = self.tokenizer.added_tokens_decoder.values()
        names = {*self.tokenizer.all_special_tokens, *(str(each) for each in added if each.special)}
        names = sorted(filter(SEAM.search, names), key=lambda name: (-len(name), name))
        return re.compile("|".join(map(re.escape, names)) or "(?!)")  # (?!) is found nowhere

    def as_read(self, messages: Sequence[Message]) -> Conversation:
        """The messages without special tokens in what is said, see `escape`."""
        return [each | {"content": self.escape(each["content"])[0]} for each in messages]

    @cached_property
    def _marks(self) -> dict[int, str]:
        """Tokens that were added to the tokenizer's own, and their texts."""
        return {number: str(token) for number, token in self.tokenizer.added_tokens_decoder.items()}

    def render(self, messages: Sequence[Message]) -> str:
        """Text of a conversation up to the assistant's answer: exactly what the model reads.

        Special tokens in it come from the template alone, see `escape`. UserError where a message
        is not in it as it was said.
        """
        said = self.as_read(messages)
        text = self._write(said)
        if self.form == "chat":
            marks = self._marks_between(tuple(message["role"] for message in said))
            require_shown(marks, said, text)
        return text + self.answers.lead

    def render_answered(self, messages: Sequence[Message], answer: str) -> str:
        """Text of a conversation that ends with an answer, closed as the template closes it."""
        last = {"role": "assistant", "content": answer}
        return self._write(self.as_read([*messages, last]), answered=True)

    def continuation(self, answer: str) -> str:
        """An answer with what stands between it and the prompt, as a history shows them; UserError
        where a history shows the answer otherwise.
        """
        shown = self.escape(answer)[0]
        if self.form == "chat":
            texts = zip(("user", "assistant", "user"), ("Marker Uno?", shown, "Marker Dos?"))
            text = self._write([{"role": role, "content": each} for role, each in texts])
            gap, ending = self.answers.gap, self.answers.ending
            if f"Marker Uno?{gap}{shown}{ending}" not in text:
                raise refused(f"does not show the answer {' '.join(shown.split())[:40]!r} as it is")
        return self.answers.opening + shown

    def continuations(self, labels: Sequence[str]) -> dict[str, str]:
        """The text scored for each label: to the character what a history shows as that answer.

        Where the tokens of one label begin those of another (1 and 10), what ends an answer is
        scored behind all of them, or the longer one could never win.
        """
        return dict(zip(labels, self._behind(tuple(labels))))

    def _behind(self, labels: tuple[str, ...]) -> list[str]:
        found = [self.continuation(label) for label in labels]
        prompt = self.render([{"role": "user", "content": "?"}])
        if nested([self.tokens(prompt + text) for text in found]):
            return [text + self.answers.end for text in found]
        return found

    def describe(self) -> dict[str, str | None]:
        """How answers are written and read, for a result file."""
        kept = ("lead", "opening", "end", "thought")
        found = {key: value for key, value in asdict(self.answers).items() if key in kept}
        return found | {"date": TEMPLATE_SETTINGS["date_string"] if self.form == "chat" else None}

    def _write(self, messages: Sequence[Message], answered: bool = False) -> str:
        """A conversation as text, up to an answer that is to come or with the last one there."""
        if self.form == "plain":
            turns = [f"{each['role'].title()}: {each['content']}" for each in messages]
            return self.beginning + "\n".join(turns if answered else [*turns, "Assistant:"])
        try:
            with fixed_date():
                return self.tokenizer.apply_chat_template(
                    list(messages),
                    tokenize=False,
                    add_generation_prompt=not answered,
                    **TEMPLATE_SETTINGS,
                )
        except TEMPLATE_ERRORS as error:
            reason = " ".join(str(error).split())[:90]
            raise refused(f"does not take the conversation ({reason})") from error

    def ids_of_conversations(self) -> set[int]:
        """The ids of a short conversation: among them the special tokens that prompts have."""
        asked = {"role": "user", "content": "?"}
        messages = [asked, {"role": "assistant", "content": "!"}, asked]
        return {*self.tokens(self.render([asked])), *self.tokens(self.render(messages))}

    @cached_property
    def beginning(self) -> str:
        """What this tokenizer puts before every text, such as a beginning-of-text token."""
        bare, whole = self.tokens("a"), tuple(self.tokenizer("a").input_ids)
        starts = range(len(whole) - len(bare) + 1)
        length = next((n for n in starts if whole[n : n + len(bare)] == bare), None)
        text = "".join(self.tokenizer.convert_ids_to_tokens(whole[:length]))
        if length is None or self.tokens(text + "a")[:length] != whole[:length]:
            raise UserError(
                "--prompt plain: what this model's tokenizer puts before a text cannot be written "
                f"as a part of it ({text!r})."
            )
        return text

    def tokens(self, text: str) -> Prefix:
        """Token ids of a rendered text, which holds its special tokens already."""
        return tuple(self.tokenizer(text, add_special_tokens=False).input_ids)

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Characters of each of a rendered text's tokens; for fast tokenizers alone."""
        whole = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return whole.offset_mapping

    def _require_steady_tokens(self) -> None:
        """UserError where a text has other tokens at another call."""
        text = self.render([{"role": "user", "content": SAMPLE}])
        if len({self.tokens(text) for _ in range(3)}) > 1:
            raise UserError(
                "this model's tokenizer gives a text other tokens at another call: it draws them "
                "at random.\nSwitch dropout or sampling off in its files."
            )


@contextmanager
def fixed_date() -> Iterator[None]:
    """Within it a chat template that asks for the day (`strftime_now`) is told DATE.

    transformers gives templates that function itself and takes no other in its place.
    """
    clock = chat_template_utils.datetime

    class Fixed(datetime):
        @classmethod
        def now(cls, tz=None) -> datetime:
            return DATE

    chat_template_utils.datetime = Fixed
    try:
        yield
    finally:
        chat_template_utils.datetime = clock


def nested(sequences: Sequence[Prefix]) -> bool:
    """Does one of these token sequences begin another, or equal it?"""
    return any(
        common_length(one, other) == len(one)
        for i, one in enumerate(sequences)
        for j, other in enumerate(sequences)
        if i != j
    )


def _switch_off_sampling(tokenizer) -> None:
    """Undo what is meant for training: BPE dropout, and special tokens read as text."""
    tokenizer.split_special_tokens = False
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if getattr(getattr(backend, "model", None), "dropout", None):
        backend.model.dropout = None


def _resolve_form(form: str, tokenizer) -> str:
    if form == "chat" and not tokenizer.chat_template:
        raise UserError(
            "--prompt chat: this model's tokenizer has no chat template. Use --prompt plain."
        )
    return form if form != "auto" else "chat" if tokenizer.chat_template else "plain"
