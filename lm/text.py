"""Conversations as text: exactly what a model reads, and the text that is scored for a label."""

import re
from collections.abc import Sequence
from functools import cached_property

from jinja2 import TemplateError

from core.debug_log import Conversation, Message
from core.errors import UserError

# Fixed values for what a chat template would otherwise take from the day or from its defaults.
TEMPLATE_SETTINGS = {"date_string": "01 Jan 2025", "enable_thinking": False}
# What a template written for other conversations raises while it is rendered
TEMPLATE_ERRORS = (TemplateError, ArithmeticError, LookupError)
TEMPLATE_ERRORS += (RecursionError, TypeError, ValueError)
PLAIN_STOP = "\nUser:"
# Where a space makes the name of a special token a text like any other
SEAM = re.compile(r"(?<=\S)(?=\S)")


class Renderer:
    """Renders conversations in one prompt form of one tokenizer."""

    def __init__(self, tokenizer, form: str = "auto"):
        """`form` is chat (the tokenizer's template), plain, or auto: chat where there is one."""
        self.tokenizer = tokenizer
        self.form = _resolve_form(form, tokenizer)

    @property
    def stop_text(self) -> str | None:
        """What ends an answer as text. Chat templates end a turn with a token instead."""
        return PLAIN_STOP if self.form == "plain" else None

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

    def render(self, messages: Sequence[Message]) -> str:
        """Text of a conversation up to the assistant's answer: exactly what the model reads.

        Special tokens in it come from the template alone, see `escape`.
        """
        return self._render(messages, answer=None)

    def render_answered(self, messages: Sequence[Message], answer: str) -> str:
        """Text of a conversation that ends with an answer, closed as the template closes it."""
        return self._render(messages, answer)

    def continuation(self, label: str) -> str:
        """The text scored for a label: to the character what a history shows as that answer."""
        question = [{"role": "user", "content": "?"}]
        label, _ = self.escape(label)
        prompt, shown = self._render(question, None), self._render(question, label)
        behind = shown.removeprefix(prompt)
        if behind == shown or label not in behind:  # the template writes a last answer differently
            return label
        return behind[: behind.index(label) + len(label)]

    def _render(self, messages: Sequence[Message], answer: str | None) -> str:
        last = [] if answer is None else [{"role": "assistant", "content": answer}]
        whole = self.as_read([*messages, *last])
        if self.form == "plain":
            turns = [f"{each['role'].title()}: {each['content']}" for each in whole]
            return self._bos + "\n".join([*turns, "Assistant:"] if answer is None else turns)
        try:
            return self.tokenizer.apply_chat_template(
                whole,
                tokenize=False,
                add_generation_prompt=answer is None,
                **TEMPLATE_SETTINGS,
            )
        except TEMPLATE_ERRORS as error:
            raise UserError(
                "the chat template of this model does not take the conversation "
                f"({' '.join(str(error).split())[:90]}). Use --prompt plain."
            ) from error

    def ids_of_conversations(self) -> set[int]:
        """The ids of a short conversation: among them the special tokens that prompts have."""
        asked = {"role": "user", "content": "?"}
        messages = [asked, {"role": "assistant", "content": "!"}, asked]
        return {*self.tokens(self.render([asked])), *self.tokens(self.render(messages))}

    @cached_property
    def _bos(self) -> str:
        """The beginning-of-text token, where this tokenizer puts one before every text."""
        puts_one = self.tokenizer("a").input_ids[:1] == [self.tokenizer.bos_token_id]
        return self.tokenizer.bos_token if puts_one else ""

    def tokens(self, text: str) -> tuple[int, ...]:
        """Token ids of a rendered text, which holds its special tokens already."""
        return tuple(self.tokenizer(text, add_special_tokens=False).input_ids)

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Characters of each of a rendered text's tokens; for fast tokenizers alone."""
        whole = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return whole.offset_mapping


def _resolve_form(form: str, tokenizer) -> str:
    if form == "chat" and not tokenizer.chat_template:
        raise UserError(
            "--prompt chat: this model's tokenizer has no chat template. Use --prompt plain."
        )
    return form if form != "auto" else "chat" if tokenizer.chat_template else "plain"
