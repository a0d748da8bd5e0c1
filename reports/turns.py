"""The turns of a prompt, found again in its exact text, and every length of a target stored once.

A prompt of h turns is a history and the target's own tail behind it: the histories of one target
are nested and the tail is the same, so that one list of pieces holds all of its prompts. Pieces are
texts between the marks of a chat template, or the marks themselves; joined they are the prompt.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

# What chat templates put before and behind a message. A template that is not here is read as well,
# with turns that are not told apart by speaker.
CHAT_MARKS = re.compile(
    r"(<\|im_start\|>\w+\n|<\|im_end\|>\n?"  # ChatML: Qwen, SmolLM, Yi
    r"|<\|begin_of_text\|>|<\|start_header_id\|>\w+<\|end_header_id\|>\n\n|<\|eot_id\|>"  # Llama 3
    r"|<start_of_turn>\w+\n|<end_of_turn>\n?|<bos>"  # Gemma
    r"|<\|(?:system|user|assistant|end|endoftext)\|>\n?"  # Phi, Zephyr, OLMo, Falcon
    r"|<\|start_of_role\|>\w+<\|end_of_role\|>|<\|end_of_text\|>\n?"  # Granite
    r"|<\|START_OF_TURN_TOKEN\|><\|\w+_TOKEN\|>|<\|END_OF_TURN_TOKEN\|>|<BOS_TOKEN>"  # Cohere
    r"|\[INST\] ?| ?\[/INST\] ?|<<SYS>>\n|\n<</SYS>>\n\n|</?s>)"  # Llama 2, Mistral
)
PLAIN_MARKS = re.compile(r"(^(?:System|User|Assistant):(?: |$))", re.MULTILINE)
SPEAKERS = (
    ("assistant", re.compile(r"assistant|model|chatbot|/INST", re.IGNORECASE)),
    ("system", re.compile(r"system|<<SYS", re.IGNORECASE)),
    ("user", re.compile(r"user|\[INST|<</SYS", re.IGNORECASE)),
)


class Pieces(NamedTuple):
    """All prompts of one target: at h the first cuts[h] pieces of `history`, then `tail`."""

    history: list[str]
    cuts: list[int]
    tail: list[str]

    def prompt(self, h: int) -> str:
        """The prompt with a history of h turns."""
        return "".join(self.history[: self.cuts[h]] + self.tail)


def split_prompts(prompts: Sequence[str], form: str) -> Pieces | None:
    """Pieces that give exactly these prompts of h = 0, 1, ... turns; None where there are none.

    `form` is the prompt form of the run, plain or chat.
    """
    marks = PLAIN_MARKS if form == "plain" else CHAT_MARKS
    rows = [[piece for piece in marks.split(prompt) if piece] for prompt in prompts]
    pieces = _nested(rows) if all(len(row) > 1 for row in rows) else _by_letters(prompts)
    if all(pieces.prompt(h) == prompt for h, prompt in enumerate(prompts)):
        return pieces
    return None


def _nested(rows: Sequence[Sequence[str]]) -> Pieces:
    """The tail that all rows share, and the longest row's history with each row's part of it."""
    shared = _shared_end(rows)
    tail = list(rows[0][len(rows[0]) - shared :])
    return Pieces(list(rows[-1][: len(rows[-1]) - shared]), [len(r) - shared for r in rows], tail)


def _by_letters(prompts: Sequence[str]) -> Pieces:
    """One piece for what each turn adds, where no mark of a template is known."""
    shared = _shared_end(prompts)
    ends = [len(prompt) - shared for prompt in prompts]
    longest = prompts[-1]
    history = [longest[start:end] for start, end in zip((0, *ends), ends)]
    return Pieces(history, list(range(1, len(ends) + 1)), [prompts[0][ends[0] :]])


def _shared_end(rows: Sequence[Sequence[str]]) -> int:
    """How many last pieces, or letters, all rows have in common."""
    columns = zip(*(reversed(row) for row in rows))
    for count, column in enumerate(columns):
        if len(set(column)) > 1:
            return count
    return min(map(len, rows))


def speaker(piece: str, form: str) -> str | None:
    """Whose words follow a piece: `user`, `assistant`, `system`, or "" for a mark that ends them.

    None for a piece that is no mark of a template.
    """
    marks = PLAIN_MARKS if form == "plain" else CHAT_MARKS
    if not marks.fullmatch(piece):
        return None
    return next((name for name, pattern in SPEAKERS if pattern.search(piece)), "")
