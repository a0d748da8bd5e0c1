"""The reference column of a task: which answer each row has.

A column of labels has one coding, decided over all of its rows: the labels' texts, true and false,
the names that the file itself gives its classes, or an index. Where it could be two of them, or is
partly one and partly another, it is refused: a wrong guess turns every answer round.
"""

import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, NamedTuple
from unicodedata import normalize

from core.errors import is_text
from tasks.cells import as_text, is_missing

TRUTH = {"true": True, "yes": True, "false": False, "no": False}
WHOLE = re.compile(r"[+-]?[0-9]{1,18}(\.0*)?")  # as tables write it: 3, -1 and 3.0

References = tuple[str, ...]  # the first is what a history shows; () where none is known


class RowError(ValueError):
    """What is wrong with the value of one row, and its number from 1."""

    def __init__(self, number: int, reason: str):
        super().__init__(reason)
        self.number = number


class Cell(NamedTuple):
    """One value of a label column, in every way that it can be read."""

    number: int  # of its row, from 1
    shown: str  # for messages
    text: str  # without spaces around it, in normal form C
    whole: int | None  # a whole number, however it is written
    truth: bool | None  # of true, false, yes or no
    is_bool: bool  # a truth value in the file, not a word

    def place(self, labels: Sequence[str]) -> int | None:
        """The place of the label that it is the text of, as it stands or as a whole number."""
        texts = () if self.is_bool else (self.text, str(self.whole))
        return next((labels.index(text) for text in texts if text in labels), None)


def same_form(text: str) -> str:
    """A text as texts are compared: in Unicode's normal form C, without spaces around it."""
    return normalize("NFC", text).strip()


def as_name(value: Any) -> str:
    """A value that rows are told by, as texts are compared; ValueError for an empty one."""
    if text := same_form(as_text(value)):
        return text
    raise ValueError("is empty")


def read_labels(
    values: Sequence[Any],
    labels: Sequence[str],
    index_from: int | None = None,
    names: Sequence[str] = (),
) -> list[References]:
    """The label of each value of a column; () for none: null, NaN, empty or -1.

    `names` are the file's own for its classes 0, 1, ...; `index_from` says that numbers are an
    index, and which is the first. RowError for a value that is no label, and for a column that
    could be read in two ways.
    """
    bare = [same_form(label) for label in labels]
    cells = [_cell(value, number) for number, value in enumerate(values, 1)]
    known = [cell for cell in cells if cell and not _is_none(cell, bare, index_from)]
    if names and any(cell.whole is not None for cell in known):
        found = _by_names(known, bare, index_from, names)
    elif index_from is not None:
        found = {cell.number: _label_or_index(cell, bare, index_from) for cell in known}
    else:
        found = _by_coding(known, bare)
    return [(labels[found[n]],) if n in found else () for n in range(1, len(values) + 1)]


def _cell(value: Any, number: int) -> Cell | None:
    """A value as a cell; None for null, and for a text of spaces."""
    if is_missing(value):
        return None
    try:
        text = same_form(as_text(value))
    except ValueError as error:
        raise RowError(number, f"{value!r:.40} {error}") from error
    is_bool = isinstance(value, bool)
    written = isinstance(value, int | float | Decimal | str | bytes) and not is_bool
    whole = int(text.partition(".")[0]) if written and WHOLE.fullmatch(text) else None
    shown = repr(value)[:40]
    return Cell(number, shown, text, whole, TRUTH.get(text.lower()), is_bool) if text else None


def _is_none(cell: Cell, labels: Sequence[str], index_from: int | None) -> bool:
    """True for the -1 by which data sets mark rows without a label."""
    return cell.whole == -1 and (index_from is not None or cell.place(labels) is None)


def _by_coding(cells: Sequence[Cell], labels: Sequence[str]) -> dict[int, int]:
    """Row -> place of its label, by the one coding that fits all cells."""
    places = {cell.number: cell.place(labels) for cell in cells}
    if None not in places.values():
        return places
    truths = _truths(labels)
    if truths and all(cell.truth is not None for cell in cells):
        return {cell.number: truths[cell.truth] for cell in cells}
    _refuse_foreign(cells, labels)
    _refuse_unsure_index(cells, labels)
    return {cell.number: cell.whole for cell in cells}


def _truths(labels: Sequence[str]) -> dict[bool, int]:
    """The place of the label for true and of that for false; {} where they are no such pair."""
    places = {TRUTH.get(label.lower()): place for place, label in enumerate(labels)}
    return places if len(labels) == 2 and set(places) == {True, False} else {}


def _refuse_foreign(cells: Sequence[Cell], labels: Sequence[str]) -> None:
    """RowError for the first cell that is neither a label nor could be an index."""
    known, last = ", ".join(labels), len(labels) - 1
    numeric = any(WHOLE.fullmatch(label) for label in labels)
    most = last + all(cell.whole != 0 for cell in cells)  # where it begins at 1
    has_truths = bool(_truths(labels)) and any(cell.is_bool for cell in cells)
    for cell in cells:
        is_index = cell.whole is not None and 0 <= cell.whole <= most
        why = f"{cell.shown} is not one of {known}"
        if cell.place(labels) is not None or (has_truths and cell.truth is not None):
            continue
        if cell.is_bool:
            why += ": true and false stand for labels true and false, or yes and no, only"
        elif numeric and cell.whole is not None:
            why += ". If it is an index, say where that begins: `index_from: 0` or `index_from: 1`"
        elif is_index and not has_truths:
            continue
        elif not numeric:
            why += f" or an index 0 to {last}"
        raise RowError(cell.number, why)


def _refuse_unsure_index(cells: Sequence[Cell], labels: Sequence[str]) -> None:
    """RowError unless all cells are an index that surely begins at 0."""
    text = next((cell for cell in cells if cell.place(labels) is not None), None)
    index = next(cell for cell in cells if cell.place(labels) is None)
    if text:
        why = f"is an index, and row {text.number} has the label {text.shown}. If both are meant"
    elif _truths(labels).get(True) == 0:
        why = f"could be an index, or 1 for {labels[0]} and 0 for {labels[1]}. If it is an index"
    elif all(cell.whole for cell in cells):
        why = "is an index, but no row has 0, so that it may begin at 1. Whichever it is"
    else:
        return
    raise RowError(
        index.number,
        f"{index.shown} {why}, say where the index begins: `index_from: 0` or `index_from: 1`",
    )


def _label_or_index(cell: Cell, labels: Sequence[str], first: int) -> int:
    """The place of a cell's label where numbers are an index from `first`."""
    if cell.whole is not None:
        if 0 <= cell.whole - first < len(labels):
            return cell.whole - first
    elif cell.place(labels) is not None:
        return cell.place(labels)
    raise RowError(
        cell.number,
        f"{cell.shown} is not one of {', '.join(labels)} or an index {first} to "
        f"{first + len(labels) - 1}",
    )


def _by_names(
    cells: Sequence[Cell], labels: Sequence[str], index_from: int | None, names: Sequence[str]
) -> dict[int, int]:
    """Row -> place of its label where the file names its classes; these decide.

    With `index_from` the classes are taken by their place, unless a name says otherwise.
    """
    own = [_same_name(same_form(name), labels) for name in names]
    found = {}
    for cell in cells:
        if cell.whole is None:
            place = _same_name(cell.text, labels)
        elif not 0 <= cell.whole < len(names):
            raise RowError(cell.number, f"{cell.shown} is not a class of {', '.join(names)}"[:300])
        elif index_from is None:
            place = own[cell.whole]
        else:
            place = _label_or_index(cell, labels, index_from)
            if own[cell.whole] not in (None, place):
                raise RowError(
                    cell.number,
                    f"by `index_from` {cell.shown} is {labels[place]}, and the file names it "
                    f"{names[cell.whole]}. Leave `index_from` out, or put the labels in the "
                    "file's order",
                )
        if place is None:
            raise RowError(
                cell.number,
                f"the file's classes are {', '.join(names)[:200]}, and not all are among the "
                f"labels {', '.join(labels)}. `index_from: 0` takes them by their place",
            )
        found[cell.number] = place
    return found


def _same_name(name: str, labels: Sequence[str]) -> int | None:
    """The place of the label that is this name, in its own case or else in any; None for none."""
    if name in labels:
        return labels.index(name)
    near = [i for i, label in enumerate(labels) if label.casefold() == name.casefold()]
    return near[0] if len(near) == 1 else None


def each_row(rows: Sequence[Any], find: Callable[[Any], Any]) -> list[Any]:
    """What `find` finds in each row; RowError where it raises ValueError."""
    found = []
    for number, row in enumerate(rows, 1):
        try:
            found.append(find(row))
        except ValueError as error:
            raise RowError(number, str(error)) from error
    return found


def read_texts(values: Sequence[Any], check: Callable[[str], None]) -> list[References]:
    """The references of each value of a column: a text, a number or a list of texts.

    RowError for anything else, and where `check` raises ValueError about a text.
    """
    return each_row(values, lambda value: _texts(value, check))


def _texts(value: Any, check: Callable[[str], None]) -> References:
    found = []
    for item in value if isinstance(value, list) else [value]:
        if is_missing(item):
            continue
        if isinstance(item, bool | list | dict | tuple):
            more = "; name what is in it, as in answers.text" if isinstance(item, dict) else ""
            raise ValueError(f"{item!r:.40} is neither a text nor a list of texts{more}")
        text = as_text(item).strip()
        if not is_text(text):
            raise ValueError("it contains a lone surrogate, which is not valid text")
        if text:
            check(text)
            found.append(text)
    return tuple(found)
