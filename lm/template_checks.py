"""How a chat template writes an answer, proved on marker words when a model is loaded.

A template is a program of the model's authors. What a run takes for granted of it is tried here:
it shows every message in order and unchanged, writes the same at every call and the same text
before every answer, its prompt leads to what a history shows, and something ends an answer.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

from core.debug_log import Message
from core.errors import UserError
from lm.prefix_tree import common_length

# Conversation, and whether its last answer is there already -> its text
Write = Callable[[Sequence[Message], bool], str]

# An empty line, indentation, two spaces and what HTML and JSON would write otherwise
QUESTIONS = (
    "Marker Uno: is 1 < 2 & \"two\" > 'One'?\n\n  A. Größe\n  B. two  spaces",
    "Marker Dos?",
    "Marker Tres?",
    "Marker Cuatro?",
)
ANSWERS = (
    ("Reply-Uno", "Reply Dos.\n\n  In two parts.", "Reply Tres"),
    ("Xy-1", "Xy-2", "Xy-3"),
)
CALLS = 4  # what is drawn at random differs in one of so many

# Marks between which models think before they answer
THOUGHTS = (
    ("<think>", "</think>"),
    ("<thought>", "</thought>"),
    ("<thinking>", "</thinking>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel>thought", "<channel|>"),
    ("◁think▷", "◁/think▷"),
)
PUNCTUATION = ".,;:!?…。\"'”»)]}"  # may stand in an answer, and so end none
OPEN_THOUGHT = ("refuse", "close", "keep")  # what to do with one that no answered turn closes


@dataclass(frozen=True)
class AnswerForm:
    """What stands around an answer: prompt, then lead, opening, answer and ending."""

    gap: str  # from a question to its answer in a history
    ending: str  # from an answer to the next question in a history, as far as turns have it alike
    opening: str  # scored before an answer: spaces
    end: str  # the part of `ending` that is scored behind labels of which one begins another
    lead: str = ""  # read before every answer, behind the template's own prompt
    stop_ids: tuple[int, ...] = ()  # tokens that end an answer
    stop_text: str | None = None  # what ends it where no token does
    thought: str | None = None  # what was done about a thought that the template's prompt opens


def refused(reason: str, advice: str = "Use --prompt plain.") -> UserError:
    """The error about a chat template that did not pass."""
    return UserError(f"the chat template of this model {reason}.\n{advice}")


def changed(message: str) -> UserError:
    """The error about a template that does not show this message as it was said."""
    shown = " ".join(message.split())[:40]
    return refused(f"leaves out or changes a message, or what stands around it ({shown!r})")


def pieces(text: str, said: Sequence[str]) -> list[str]:
    """What stands before, between and behind messages in a rendering; UserError where one is not
    there, in order and unchanged.
    """
    found, at = [], 0
    for message in said:
        place = text.find(message, at)
        if place < 0:
            raise changed(message)
        found.append(text[at:place])
        at = place + len(message)
    return [*found, text[at:]]


def marks_between(write: Write, roles: Sequence[str]) -> list[str]:
    """What a template puts before, between and behind the messages of a conversation."""
    words = [f"Marker-{number}-x" for number in range(len(roles))]
    messages = [{"role": role, "content": word} for role, word in zip(roles, words)]
    return pieces(write(messages, False), words)


def require_shown(marks: Sequence[str], messages: Sequence[Message], text: str) -> None:
    """UserError unless a rendering is these marks with the messages between them, as they were said
    but for the spaces around them. Of an answer with a thought, what stands behind that will do.
    """
    at = len(marks[0]) if text.startswith(marks[0]) else -1
    for message, mark in zip(messages, marks[1:]):
        ends = (at + len(said) for said in _as_shown(message) if text.startswith(said + mark, at))
        end = next(ends, -1) if at >= 0 else -1
        if end < 0:
            raise changed(message["content"])
        at = end + len(mark)
    if at != len(text):
        raise refused(f"adds {text[at:][:40]!r} to a conversation that it adds to no other")


def _as_shown(message: Message) -> dict[str, None]:
    """How a template may show a message."""
    text = message["content"]
    whole = [text]
    if message["role"] == "assistant":
        whole += [text.rpartition(closed)[2] for _, closed in THOUGHTS if closed in text]
    return dict.fromkeys(
        said for each in whole for said in (each, each.strip(), each.lstrip(), each.rstrip())
    )


def _answered(write: Write, messages: Sequence[Message]) -> list[str]:
    """`pieces` of a conversation that ends in an answer; of nothing where the template has none."""
    try:
        return pieces(write(messages, True), [message["content"] for message in messages])
    except UserError:  # some take no such conversation, and no run asks for one
        return ["", ""]


def proved_form(
    write: Write,
    tokens: Callable[[str], tuple[int, ...]],
    marks: Mapping[int, str],
    open_thought: str = "refuse",
) -> AnswerForm:
    """How a template writes answers; UserError says what of the above it fails.

    `marks` are the tokens that no text has, `open_thought` is one of OPEN_THOUGHT.
    """
    tried = [_Tried(write, answers) for answers in ANSWERS]
    found = {each.reach(k, open_thought) for each in tried for k in range(len(ANSWERS[0]))}
    if len(found) > 1:
        shown = " and ".join(sorted({repr(before) for before, _ in found})[:2])
        raise refused(f"writes other texts before other answers ({shown})")
    ((before, thought),) = found
    lead = before.rstrip(" ") if before.strip() else ""
    ending = reduce(_common, (ending for each in tried for ending in each.endings))
    last = reduce(_common, (each.last_ending for each in tried))
    spaces = ending[: len(ending) - len(ending.lstrip())]
    stop_ids = [*_stop_ids(ending, tokens, marks), *_stop_ids(last, tokens, marks)]
    if _stop_ids(ending, tokens, marks):
        stop_text, end = None, spaces + marks[stop_ids[0]]
    else:
        stop_text = _stop_text(spaces, ending, last, marks)
        end = spaces if "\n" in spaces else spaces + stop_text.lstrip()
    return AnswerForm(
        gap=tried[0].gap,
        ending=ending,
        opening=before[len(lead) :],
        end=end,
        lead=lead,
        stop_ids=tuple(dict.fromkeys(stop_ids)),
        stop_text=stop_text,
        thought=thought,
    )


def _stop_ids(
    ending: str, tokens: Callable[[str], tuple[int, ...]], marks: Mapping[int, str]
) -> list[int]:
    """The token that an ending begins with, where it is a mark."""
    return [token for token in tokens(ending.strip())[:1] if token in marks]


def _stop_text(spaces: str, ending: str, last: str, marks: Mapping[int, str]) -> str:
    """The text that ends an answer, with one space or line break before it where it has several.

    `ending` reaches into the next question's turn; `last` is what stands behind a last answer.
    UserError where that is nothing, or a full stop or quote that an answer may hold as well.
    """
    own = last if last.strip() and ending.startswith(last.rstrip()) else ending
    any_mark = (
        "|".join(map(re.escape, filter(str.strip, marks.values()))) or "(?!)"
    )  # found nowhere
    own = re.split(any_mark, own.strip())[0].strip()
    if not own and "\n" not in spaces:
        raise refused("writes nothing that would end an answer before the next question")
    if own and not own.split()[0].strip(PUNCTUATION):
        raise refused(f"writes {own!r} behind every answer, which does not tell that it is over")
    return ("\n" if "\n" in spaces else spaces[-1:]) + own


def _common(one: str, other: str) -> str:
    return one[: common_length(one, other)]


class _Tried:
    """The renderings of one conversation: each of its prompts, each answer last, and the whole."""

    def __init__(self, write: Write, answers: Sequence[str]):
        turns = zip(QUESTIONS, (*answers, ""))
        conversation = [
            {"role": role, "content": text}
            for turn in turns
            for role, text in zip(("user", "assistant"), turn)
        ][:-1]
        said = [message["content"] for message in conversation]
        whole = write(conversation, False)
        if any(write(conversation, False) != whole for _ in range(CALLS)):
            raise refused("writes another text at another call")
        history = pieces(whole, said)  # question, answer, question, ...
        ends = range(1, len(said), 2)
        prompts = [pieces(write(conversation[:n], False), said[:n]) for n in ends]
        answered = [_answered(write, conversation[: n + 1]) for n in ends]
        if any(prompt[:-1] != history[: len(prompt) - 1] for prompt in prompts):
            raise refused("writes earlier turns otherwise once another turn follows")
        self.prompts = [prompt[-1] for prompt in prompts]  # behind the last question
        self.gaps = history[1:-1:2]
        self.answered = [each[-2] for each in answered]  # the gap where the answer comes last
        self.endings = history[2:-1:2]
        self.last_ending = answered[0][-1]

    @property
    def gap(self) -> str:
        """From the first question to its answer."""
        return self.gaps[0]

    def reach(self, k: int, open_thought: str) -> tuple[str, str | None]:
        """What is missing behind the k-th prompt before the answer can be written, and what was
        done about a thought.
        """
        prompt, gap, last = self.prompts[k], self.gaps[k], self.answered[k]
        if gap.startswith(prompt):
            return gap[len(prompt) :], None
        thought = TRAILING_THOUGHT.search(prompt)
        before = prompt[: thought.start()] if thought else prompt
        if not gap.startswith(before):
            raise refused(
                f"ends a prompt in {prompt[-40:]!r}, but shows answers behind {gap[-40:]!r}"
            )
        missing = EMPTY_THOUGHT.sub("", gap[len(before) :], count=1)  # the prompt has one already
        if EMPTY_THOUGHT.fullmatch(thought[0]):
            return missing, "closed by the template"
        behind = last[len(prompt) :] if last.startswith(prompt) else ""
        if EMPTY_THOUGHT.fullmatch(thought[0] + behind):
            return behind, "closed as the template closes it"
        return _unclosed(thought[0].strip(), missing, open_thought)


_OPEN, _CLOSE = ("|".join(map(re.escape, each)) for each in zip(*THOUGHTS))
EMPTY_THOUGHT = re.compile(rf"\s*(?:(?:{_OPEN})\s*)?(?:{_CLOSE})\s*")
TRAILING_THOUGHT = re.compile(rf"(?:(?:{_OPEN})\s*(?:{_CLOSE})?|(?:{_CLOSE}))\s*$")


def _unclosed(opened: str, missing: str, open_thought: str) -> tuple[str, str | None]:
    """What follows a thought that the template opens and never shows closed."""
    if open_thought == "keep":
        return "", "kept open by --open_thought keep"
    if open_thought == "close":
        return f"\n{dict(THOUGHTS)[opened]}\n\n{missing}", "closed by --open_thought close"
    raise refused(
        f"opens a thought ({opened}) before every answer and shows none in a history",
        "Use --open_thought close to close it before the answer, or keep to read inside it.",
    )
