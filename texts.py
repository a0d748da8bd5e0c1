"""Texts that come from outside: what of them may become a name, a message or a key."""

import re
from typing import Any

# Control characters and lone surrogates: in no name, since names become file names and messages
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def is_text(value: str) -> bool:
    """False where a lone surrogate stands in it: UTF-8, and with it files and models, has none."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object as a dict; ValueError where a key is there twice, since one would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"'{twice}' is there twice")
    return found
