"""Real conversations from a local file, for `--history chats:FILE`.

The file is JSONL with a chat in each line, or one JSON list of them. A chat is an object whose
`messages`, `conversation` or `conversations` lists objects with `role` and `content`, or with
`from` and `value`, as the files of ShareGPT, WildChat and LMSYS-Chat-1M do. All other keys are
passed over.

The turns of a chat are its user and assistant messages in turn, as they are said. They end before
the first message that is no such text. A system message before them is left out: h = 0 is one
prompt whatever the history, so there is no place for it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import UserError, is_text
from tasks.sources import UNREADABLE, json_entries

LISTS = ("messages", "conversation", "conversations")
ROLES = {"user": "user", "human": "user", "system": "system", "developer": "system"}
ROLES |= dict.fromkeys(("assistant", "gpt", "chatgpt", "bing", "bard"), "assistant")


@dataclass(frozen=True)
class Chat:
    """One conversation: user texts, each with its answer."""

    line: int  # of the file, or its place in the list, from 1
    where: str  # the same in words
    turns: tuple[tuple[str, str], ...]
    has_system: bool
    fault: str | None  # which message ended the turns before the end of the chat, and why


def read_chats(path: Path) -> Iterator[Chat]:
    """The chats of a file in order; UserError, with the place, for what is no chat at all."""
    try:
        for word, number, row in json_entries(path):
            yield _chat(number, f"{word} {number}", row)
    except UnicodeDecodeError as error:
        raise UserError(
            f"--history chats: {path}, line {_undecodable(path)}: not UTF-8 text. Save it as UTF-8."
        ) from error
    except UNREADABLE as error:
        said = str(getattr(error, "strerror", None) or error).strip() or type(error).__name__
        raise UserError(f"--history chats: cannot read {path}: {said.splitlines()[0]}.") from error


def _undecodable(path: Path) -> int:
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    raise AssertionError("a file that cannot be decoded has a line that cannot")


def _chat(line: int, where: str, row: dict[str, Any]) -> Chat:
    messages = next((row[key] for key in LISTS if isinstance(row.get(key), list)), None)
    if messages is None:
        raise ValueError(f"{where} has no list of {', '.join(LISTS[:-1])} or {LISTS[-1]}")
    has_system = bool(messages) and _is_system(messages[0])
    texts: list[str] = []
    fault = None
    for place, message in enumerate(messages[has_system:], 1 + has_system):
        try:
            texts.append(_said(message, "assistant" if len(texts) % 2 else "user"))
        except ValueError as error:
            fault = f"message {place} {error}"
            break
    return Chat(line, where, tuple(zip(texts[::2], texts[1::2])), has_system, fault)


def _is_system(message: Any) -> bool:
    return isinstance(message, dict) and ROLES.get(_role(message)) == "system"


def _role(message: dict[str, Any]) -> str:
    return str(message.get("role", message.get("from"))).lower()


def _said(message: Any, expected: str) -> str:
    """The text of a message of the expected role; ValueError where it is no such message."""
    if not isinstance(message, dict):
        raise ValueError("is no object")
    role = ROLES.get(_role(message))
    if role is None:
        raise ValueError(f"has an unknown role, {_role(message)[:40]!r}")
    if role != expected:
        raise ValueError(f"is of the {role}, and the {expected} should speak")
    text = _text(message.get("content", message.get("value")))
    if not text.strip():
        raise ValueError("is empty")
    if not is_text(text):
        raise ValueError("contains a lone surrogate, which is not valid text")
    return text


def _text(content: Any) -> str:
    """A content as one text: it may be a list of parts that are all text."""
    if isinstance(content, list):
        return "".join(map(_part, content))
    return _part(content) if content is not None else ""


def _part(part: Any) -> str:
    if isinstance(part, dict) and part.get("type", "text") == "text":
        part = part.get("text")
    if not isinstance(part, str):
        what = part.get("type") if isinstance(part, dict) else type(part).__name__
        raise ValueError(f"holds what is no text ({what!s:.40})")
    return part
