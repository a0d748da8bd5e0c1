"""What a row holds where a template or a reference points, and the text of it in a prompt."""

import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from string import Formatter, ascii_uppercase
from typing import Any, NamedTuple

PART = r"[^.\[\]]+"
KEY = re.compile(rf"\[({PART})\]|\.({PART})")
OPTIONS = "options"  # the field that shows a list with a letter before each item


class Field(NamedTuple):
    """A place in a row: a column, and the keys that lead to what is inside it."""

    column: str
    keys: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.column + "".join(f"[{key}]" for key in self.keys)


def parse_field(text: str, dots: bool = False) -> Field:
    """`column`, `column[0]`, `column[key][0]`, and with `dots` also `column.key`.

    ValueError for anything else.
    """
    key = rf"\[{PART}\]|\.{PART}" if dots else rf"\[{PART}\]"
    if not re.fullmatch(rf"{PART}(?:{key})*", text):
        raise ValueError(f"{text!r:.60} is not column, column[0] or column[key]")
    column = re.match(PART, text)[0]
    return Field(column, tuple(a or b for a, b in KEY.findall(text[len(column) :])))


def template_parts(template: str) -> tuple[tuple[str, Field | None], ...]:
    """A prompt template as texts, each with the field behind it, or None.

    ValueError for anything in braces but {column}, {column[0]} and {column[key]}.
    """
    return tuple(
        (literal, None if name is None else _named_field(name, spec, conversion))
        for literal, name, spec, conversion in Formatter().parse(template)
    )


def _named_field(name: str, spec: str, conversion: str | None) -> Field:
    shown = name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
    try:
        field = parse_field(shown)
    except ValueError:
        field = None
    if field is None or spec or conversion or field.column.isdigit():
        raise ValueError(
            f"{{{shown}}} is not allowed: only {{column}}, {{column[0]}} and {{column[key]}}"
        )
    return field


def is_missing(value: Any) -> bool:
    """True for null, and for the NaN that stands for it in tables."""
    return value is None or (isinstance(value, float | Decimal) and value != value)


def reach(row: Mapping[str, Any], field: Field) -> Any:
    """What stands at a field of a row; None for null. ValueError where there is no such place."""
    value = row.get(field.column)
    for key in field.keys:
        value = _inside(value, key)
    return value


def _inside(value: Any, key: str) -> Any:
    if is_missing(value):
        return None
    if isinstance(value, Mapping):
        if key not in value:
            raise ValueError(f"names [{key}], and there is only {', '.join(map(str, value))}"[:200])
        return value[key]
    if isinstance(value, list) and key.isdecimal():
        if int(key) >= len(value):
            raise ValueError(f"names [{key}], and the list has {len(value)} items")
        return value[int(key)]
    if isinstance(value, list) and all(isinstance(item, Mapping) for item in value):
        return [_inside(item, key) for item in value]
    kind = "a list" if isinstance(value, list) else f"neither a list nor an object: {value!r:.40}"
    raise ValueError(f"names [{key}] in what is {kind}")


def as_text(value: Any) -> str:
    """One value as text; ValueError for null, lists, objects, and bytes that are not UTF-8."""
    if is_missing(value):
        raise ValueError("is null")
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise ValueError("is binary and not UTF-8 text") from error
    if isinstance(value, list | tuple | Mapping):
        kind = "an object" if isinstance(value, Mapping) else "a list"
        raise ValueError(
            f"is {kind}, not a text: name a part of it, as in {{column[0]}} or {{column[key]}}"
        )
    return f"{value:f}" if isinstance(value, Decimal) else str(value)


def option_lines(value: Any, labels: Sequence[str] = (), answer: str | None = None) -> str:
    """A list as lines `A. ...`, `B. ...`; an object of texts has its own letters.

    ValueError for anything else, a null in it, and letters that do not go with labels that are
    letters, or with the answer.
    """
    if not isinstance(value, list | Mapping):
        raise ValueError(f"is not a list of options: {value!r:.40}")
    if not 0 < len(value) <= len(ascii_uppercase):
        raise ValueError(f"has {len(value)} options, not 1 to {len(ascii_uppercase)}")
    letters = list(value) if isinstance(value, Mapping) else ascii_uppercase[: len(value)]
    if labels and set(labels) <= set(ascii_uppercase):
        if set(letters) - set(labels):
            raise ValueError(f"has options {', '.join(letters)}, and labels {', '.join(labels)}")
        if answer is not None and answer not in letters:
            raise ValueError(f"has options {', '.join(letters)}, and the answer is {answer}")
    items = value.values() if isinstance(value, Mapping) else value
    return "\n".join(f"{letter}. {_option(letter, item)}" for letter, item in zip(letters, items))


def _option(letter: str, item: Any) -> str:
    try:
        return as_text(item)
    except ValueError as error:
        raise ValueError(f"option {letter} {error}") from error


def class_names(features: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, tuple]]:
    """The columns of classes with their names, from the features that `datasets` writes.

    A column inside another one is `outer.inner`, whatever lists are between.
    """
    if isinstance(features, list):
        for inner in features[:1]:
            yield from class_names(inner, path)
    elif isinstance(features, Mapping) and isinstance(features.get("_type"), str):
        names = features.get("names") if features["_type"] == "ClassLabel" else None
        if isinstance(names, list) and names != [str(i) for i in range(len(names))]:
            yield ".".join(path), tuple(map(str, names))
        yield from class_names(features.get("feature"), path)
    elif isinstance(features, Mapping):
        for key, inner in features.items():
            yield from class_names(inner, (*path, str(key)))
