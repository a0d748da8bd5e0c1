"""What ends a run: errors that a user is meant to see, with what their text may not hold."""

import difflib
import os
import re
from collections.abc import Iterable
from typing import Any

# https://name:password@host, as in HF_ENDPOINT, and the Hub's tokens
SECRETS = re.compile(r"(?<=://)[^/\s]+(?=@)|\bhf_[A-Za-z0-9]{8,}")
TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")  # environment variables
LONGEST_LINE = 2000  # characters of a message's line


class UserError(Exception):
    """Something the user can put right: one or two plain lines, exit status 2, no traceback.

    The text may quote files and libraries: further lines are joined to the second, and secrets and
    what a terminal would obey are left out.
    """

    def __init__(self, text: str):
        for token in filter(None, map(os.environ.get, TOKENS)):
            text = text.replace(token, "***")
        first, *more = SECRETS.sub("***", text).splitlines() or [""]
        lines = (UNPRINTABLE.sub("?", line) for line in (first, " ".join(more)) if line)
        super().__init__("\n".join(line[:LONGEST_LINE] for line in lines))


class OutOfMemory(UserError):
    """A single prompt does not fit into memory, whatever else is left out."""


class Terminated(KeyboardInterrupt):
    """SIGTERM: whoever started the run wants it to end, as with Ctrl-C."""


# Control characters and lone surrogates: in no name, since names become file names and messages
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def is_text(value: str) -> bool:
    """False where a lone surrogate stands in it: UTF-8, and with it files and models, has none."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A sentence with the known word that is most like this one, and a space before it; "" where
    none is.
    """
    close = difflib.get_close_matches(word, known, n=1)
    return f" Did you mean {close[0]}?" if close else ""


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object as a dict; ValueError where a key is there twice, since one would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"'{twice}' is there twice")
    return found
