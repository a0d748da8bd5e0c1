"""A JSON object or list that is read from a file a part at a time, whatever its layout."""

import json
import re
from collections.abc import Collection, Iterator
from typing import Any, TextIO

from core.errors import is_text, unique_keys

CHUNK = 2**20  # characters that are read together
DEEPEST = 20  # lists and objects in each other; what is written has half as many
SPACE = re.compile(r"[ \t\n\r]*")
SURROGATE = re.compile(r"\\u[dD]")  # in JSON: half of a character, and alone nothing
BEGIN, END = object(), object()  # of a list whose elements come one by one


def members(file: TextIO, lists: Collection[str]) -> Iterator[tuple[str, Any]]:
    """Every member of the object that a file holds, in its order.

    Of a member in `lists` come BEGIN, each element, and END, all under its name. ValueError or
    RecursionError where the file is no JSON, no object, or not what `check` allows.
    """
    text, names = _Text(file), set()
    text.take("{")
    more = text.look() != "}"
    while more:
        name = text.value()
        if not isinstance(name, str) or name in names:
            raise ValueError(f"{name!r:.80} is there twice or no name")
        names.add(name)
        text.take(":")
        if name not in lists:
            yield name, text.value()
        elif text.take("["):
            yield name, BEGIN
            yield from ((name, element) for element in _elements(text))
            yield name, END
        more = text.look() == ","
        text.take("," if more else "}")
    if not names:
        text.take("}")
    text.require_end()


def elements(file: TextIO) -> Iterator[Any]:
    """Every element of the list that a file holds, unchecked but for keys that are there twice.

    ValueError or RecursionError where the file is no JSON or no list.
    """
    text = _Text(file, checked=False)
    text.take("[")
    yield from _elements(text)
    text.require_end()


def _elements(text: "_Text") -> Iterator[Any]:
    more = text.look() != "]"
    while more:
        yield text.value()
        more = text.look() == ","
        if more:
            text.take(",")
    text.take("]")


class _Text:
    """The text of a file, of which what was read already is given up."""

    def __init__(self, file: TextIO, checked: bool = True):
        self.file, self.held, self.place = file, "", 0
        self.checked, self.decoder = checked, DECODER if checked else PLAIN

    def _more(self) -> bool:
        """Hold at least twice as much; False where there is no more."""
        rest = self.held[self.place :]
        new = self.file.read(max(CHUNK, len(rest)))
        self.held, self.place = rest + new, 0
        return bool(new)

    def require_end(self) -> None:
        """ValueError where anything but white space is left."""
        if self.look():
            raise ValueError("something follows behind its end")

    def look(self) -> str:
        """The next character that is no white space, which is passed; "" at the end."""
        while True:
            self.place = SPACE.match(self.held, self.place).end()
            if self.place < len(self.held):
                return self.held[self.place]
            if not self._more():
                return ""

    def take(self, mark: str) -> bool:
        """Pass this character; ValueError for another one."""
        found = self.look()
        if found != mark:
            raise ValueError(f"{found!r} where {mark!r} should be" if found else "it is cut off")
        self.place += 1
        return True

    def value(self) -> Any:
        """The next value, whole."""
        self.look()
        while True:
            try:
                found, end = self.decoder.raw_decode(self.held, self.place)
                if self.held[end : end + 1] in ENDS:  # a number may go on behind what is held
                    break
            except json.JSONDecodeError as error:
                reason = error.msg
            else:
                goes_on = end < len(self.held)
                reason = "a value goes on where it should end" if goes_on else "it is cut off"
            if not self._more():
                raise ValueError(reason)
        if self.checked:
            check(found, self.held, self.place, end)
        self.place = end
        return found


def check(value: Any, text: str, start: int = 0, end: int | None = None) -> None:
    """ValueError for a value nested too deep, or with half a character in the text it is from."""
    if too_deep(value):
        raise ValueError("nested too deep")
    found = SURROGATE.search(text, start, len(text) if end is None else end)
    if found and not is_text(json.dumps(value, ensure_ascii=False)):
        raise ValueError("it holds half a character (a lone surrogate)")


def too_deep(value: Any) -> bool:
    """True where lists and objects stand in each other deeper than DEEPEST."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(DEEPEST):
        inner = (x.values() if isinstance(x, dict) else x for x in level)
        level = [x for each in inner for x in each if isinstance(x, dict | list)]
    return bool(level)


def _refuse(constant: str) -> None:
    raise ValueError(f"holds {constant}")


DECODER = json.JSONDecoder(parse_constant=_refuse, object_pairs_hook=unique_keys)
PLAIN = json.JSONDecoder(object_pairs_hook=unique_keys)
ENDS = set(" \t\n\r,:]}")
