"""A task file guessed from the columns of a data set: `python data.py FILE` prints it.

What is guessed is marked, with its reason, as `# guess: ...`. Names of columns come first, and what
stands in them decides: which hold lists of options, which few different values, which texts.
"""

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from tasks.answers import TRUTH, WHOLE, same_form
from tasks.cells import Field, as_text, is_missing, reach
from tasks.sources import Table

MOST_LABELS, LONGEST_LABEL = 20, 40  # different values, characters
ANSWER_TOKENS = (32, 64, 128, 256, 512)  # --max_new_tokens that is guessed
PER_WORD = 1.5  # tokens
# Names in lower case without _ and -, the likeliest first
OF_LABELS = (
    *("answerkey", "goldlabel", "label", "labels", "class", "sentiment", "category", "intent"),
    *("stars", "rating", "grade", "verdict"),
)
OF_ANSWERS = (
    *("answer", "answers", "correctanswer", "bestanswer", "gold", "target", "reference"),
    *("references", "highlights", "summary", "headline", "output", "response", "completion"),
)
OF_OPTIONS = ("choices", "options", "endings", "candidates", "answerchoices")
OF_SINGLE_OPTIONS = {"", "op", "opt", "option", "choice", "answer", "ending", "sol", "solution"}
OF_QUESTIONS = ("question", "query", "problem", "claim", "goal", "instruction", "hypothesis")
OF_CONTEXTS = (
    *("context", "passage", "article", "document", "paragraph", "story", "text", "tweet"),
    *("post", "review", "sentence", "premise", "dialogue", "content", "body", "ctx", "input"),
)
NO_PROMPT = {"source", "split", "lang", "language", "url", "date", "time", "author", "explanation"}
NO_PROMPT |= {"rationale", "solution", "support", "evidence", "hint", "dataset", "type", "subject"}
TRUTHS = ({"true", "false"}, {"yes", "no"})
INSIDE = ("text", "value", "label", "answer")  # keys of objects that hold an answer
ID = re.compile(r"(.*[_ -])?(id|idx|index|ind|uid|qid|guid|uuid|hash|key|number|no)|unnamed.*|")
USABLE = re.compile(r"(?!\d+$)[^.\[\]{}!:\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
NUMBER = re.compile(r"[+-]?[0-9][0-9,]*(\.[0-9]+)?")
MARK = "####"  # before the number that ends an answer
OPTION = re.compile(r"(.*?)[_ ]?([a-z]|[0-9])")


@dataclass(frozen=True)
class Column:
    """What stands at a field of each row, None where nothing does."""

    field: Field
    values: list[Any]
    names: tuple[str, ...] = ()  # of classes, as the file names them

    def __str__(self) -> str:
        return ".".join((self.field.column, *self.field.keys))

    @property
    def name(self) -> str:
        """The name of the column as names are compared."""
        return re.sub(r"[_ -]", "", self.field.column.lower())

    @cached_property
    def known(self) -> list[Any]:
        """The values that are there."""
        return [value for value in self.values if not is_missing(value) and value not in ("", [])]

    def holds(self, *kinds: type) -> bool:
        """Is every value that is there of these kinds?"""
        return bool(self.known) and all(type(value) in kinds for value in self.known)

    @property
    def is_text(self) -> bool:
        """Are all values texts, with no row that lacks one?"""
        return self.holds(str, bytes) and not any(map(is_missing, self.values))

    @property
    def is_texts(self) -> bool:
        """Are all values lists of texts?"""
        return self.holds(list) and all(
            isinstance(item, str) or is_missing(item) for value in self.known for item in value
        )

    @property
    def is_lettered(self) -> bool:
        """Are all values objects such as {"A": "tin", "B": "oak"}?"""
        return self.holds(dict) and all(set(v) <= set(string.ascii_uppercase) for v in self.known)

    @property
    def is_whole(self) -> bool:
        """Are all values whole numbers, as numbers or as texts?"""
        texts = [text for text in self.texts if text]
        return not self.holds(bool) and bool(texts) and all(map(WHOLE.fullmatch, texts))

    @cached_property
    def texts(self) -> list[str | None]:
        """The values of each row as texts; None for lists, objects and what is missing."""
        plain = (str, bytes, bool, int, float)
        return [same_form(as_text(v)) if isinstance(v, plain) and v == v else None
                for v in self.values]  # fmt: skip

    @cached_property
    def different(self) -> list[str]:
        """The different texts, numbers in their order; without the -1 that stands for none."""
        found = {text for text in self.texts if text}
        if self.is_whole:
            whole = {int(text.partition(".")[0]) for text in found}
            return [str(number) for number in sorted(whole - {-1})]
        return sorted(found)


def columns_of(table: Table) -> tuple[list[Column], list[str]]:
    """Every column that a task file can name, and the names that it cannot; what is inside objects
    are columns of their own.
    """
    found, left_out = [], []
    for name in dict.fromkeys(name for row in table.rows for name in row):
        if not isinstance(name, str) or not USABLE.fullmatch(name):
            left_out.append(str(name))
            continue
        column = _column(table, Field(name))
        inner = [item for value in column.known for item in _inner(value)]
        keys = dict.fromkeys(key for item in inner for key in item if isinstance(key, str))
        if not keys or column.is_lettered:
            found.append(column)
            continue
        found += [_column(table, Field(name, (key,))) for key in keys if USABLE.fullmatch(key)]
        left_out += [f"{name}.{key}" for key in keys if not USABLE.fullmatch(key)]
    return found, left_out


def _inner(value: Any) -> list[Mapping]:
    items = value if isinstance(value, list) else [value]
    return [item for item in items if isinstance(item, Mapping)]


def _column(table: Table, field: Field) -> Column:
    def find(row: Mapping[str, Any]) -> Any:
        try:
            return reach(row, field)
        except ValueError:  # not in this row
            return None

    return Column(field, [find(row) for row in table.rows], table.names(field))


@dataclass(frozen=True)
class Guess:
    """What the columns of a data set seem to be; None and () where there is no such thing."""

    count: int  # rows
    columns: list[Column]
    reference: Column | None = None
    why: str = ""  # the reference
    labels: tuple[str, ...] = ()
    options: tuple[Column, ...] = ()  # one of lists, or one for each option
    index_from: int | None = None
    asked: tuple[Column, ...] = ()  # in the prompt, the question last
    subject: Column | None = None
    left_out: tuple[str, ...] = ()  # names of columns that a task file cannot name

    @property
    def has_lists(self) -> bool:
        """Is there one column that holds all options?"""
        return len(self.options) == 1

    @property
    def extracts_number(self) -> bool:
        """Is the answer a number, with or without words around it?"""
        held = self.reference
        if self.labels or self.options or held is None or not held.known:
            return False
        texts = [text for text in held.texts if text]
        return bool(texts) and (
            all(map(NUMBER.fullmatch, texts)) or all(MARK in text for text in texts)
        )

    @property
    def answer_tokens(self) -> int:
        """Room for nearly all answers."""
        answers = [item for v in self.reference.known for item in (v if type(v) is list else [v])]
        words = sorted(len(str(answer).split()) for answer in answers)
        needed = PER_WORD * words[int(0.95 * (len(words) - 1))] if words else 0
        return next((room for room in ANSWER_TOKENS if room >= needed), ANSWER_TOKENS[-1])


def guess(table: Table) -> Guess:
    """The columns of a table by what they seem to be."""
    columns, left_out = columns_of(table)
    reference, why = _find_reference(columns)
    found = Guess(len(table.rows), columns, reference, why, left_out=tuple(left_out))
    if reference is not None:
        found = _with_options(found)
        if not found.options:
            found = replace(found, labels=_labels(reference))
    subject = next((c for c in columns if c.name == "subject" and _is_class(c)), None)
    if subject is not reference:
        found = replace(found, subject=subject)
    return replace(found, asked=tuple(_asked(found)))


# -- the reference


def _find_reference(columns: Sequence[Column]) -> tuple[Column | None, str]:
    """The column of right answers, and how it was found."""
    answers = [column for column in columns if _may_answer(column)]
    for name in (*OF_LABELS, *OF_ANSWERS):
        for column in answers:
            if column.name == name:
                return column, "by its name"
    for column in reversed(answers):
        if column.names or _truths(column):
            return column, "a column of classes"
    for column in reversed(answers):
        if _is_class(column) and not ID.fullmatch(column.field.column.lower()):
            return column, f"it has only {len(column.different)} different values"
    return None, ""


def _may_answer(column: Column) -> bool:
    simple = column.holds(str, bytes, bool, int, float) or column.is_texts
    return simple and (not column.field.keys or column.field.keys[-1].lower() in INSIDE)


def _is_class(column: Column) -> bool:
    """Does a column have few different values, each of them several times?"""
    count, rows = len(column.different), len(column.known)
    if (
        not (column.holds(str, bool) or column.is_whole)
        or not 2 <= count <= MOST_LABELS
        or count >= rows
    ):
        return False
    short = max(map(len, column.different)) <= LONGEST_LABEL
    return short and (count == 2 or 2 * count <= rows)


def _truths(column: Column) -> tuple[str, ...]:
    """The two labels of a column of true and false, or yes and no, in whatever case; else ()."""
    if column.holds(bool):
        return ("true", "false")
    lower = {text.lower() for text in column.different}
    return tuple(name for name in TRUTH if name in lower) if lower in TRUTHS else ()


def _labels(column: Column) -> tuple[str, ...]:
    """The labels of a column; () where it holds texts of any kind."""
    if column.names:
        names = tuple(map(str.strip, column.names))
        return names if len({*map(same_form, names), ""}) == len(names) + 1 > 2 else ()
    if _truths(column):
        return _truths(column)
    if column.name in OF_LABELS and column.is_whole and 2 <= len(column.different) <= MOST_LABELS:
        return tuple(column.different)
    return tuple(column.different) if _is_class(column) else ()


# -- options


def _with_options(found: Guess) -> Guess:
    """The guess with its options, if there are any that the reference goes with."""
    lists = [c for c in found.columns if (c.is_texts or c.is_lettered) and c is not found.reference]
    named = [column for column in lists if column.name in OF_OPTIONS]
    for options in [*((column,) for column in (*named, *lists)), *_single_options(found)]:
        coded = _coding(found.reference, options)
        if coded is not None:
            return replace(found, options=options, **coded)
    return found


def _single_options(found: Guess) -> list[tuple[Column, ...]]:
    """Options in a column each: option_a and option_b, choice1 and choice2, A and B."""
    groups: dict[str, dict[str, Column]] = {}
    for column in found.columns:
        match = OPTION.fullmatch(column.field.column.lower())
        if match and match[1] in OF_SINGLE_OPTIONS and column is not found.reference:
            groups.setdefault(match[1], {})[match[2]] = column
    whole = []
    for group in groups.values():
        for letters in (string.ascii_lowercase, "123456789", "0123456789"):
            if len(group) > 1 and sorted(group) == list(letters[: len(group)]):
                whole.append(tuple(group[letter] for letter in letters[: len(group)]))
    return [group for group in whole if all(column.is_text for column in group)]


def _coding(reference: Column, options: Sequence[Column]) -> dict[str, Any] | None:
    """How the reference names an option: labels and index_from; None where it names none."""
    rows = []
    for number, answer in enumerate(reference.texts):
        here = [column.values[number] for column in options]
        here = here[0] if len(here) == 1 else here
        if answer and answer != "-1" and isinstance(here, list | dict) and len(here):
            rows.append((answer, list(here.values()) if isinstance(here, dict) else here))
    most = max((len(items) for _, items in rows), default=0)
    if not 2 <= most <= len(string.ascii_uppercase):
        return None
    letters = string.ascii_uppercase[:most]
    whole = [(int(answer), items) for answer, items in rows if answer.isdecimal()]
    if all(answer in (*letters, *map(str, range(most + 1))) for answer, _ in rows):
        first = _first_index(whole, mixed=len(whole) < len(rows))
        fits = all(0 <= answer - (first or 0) < len(items) for answer, items in whole)
        return {"labels": tuple(letters), "index_from": first} if fits else None
    if all(answer in map(same_form, map(str, items)) for answer, items in rows):
        return {}
    return None


def _first_index(whole: Sequence[tuple[int, list]], mixed: bool) -> int | None:
    """Where an index begins; None where the numbers themselves show that it begins at 0."""
    if not whole:
        return None
    if any(answer == 0 for answer, _ in whole):
        return 0 if mixed else None
    return 1 if mixed or any(answer == len(items) for answer, items in whole) else 0


# -- the prompt


def _asked(found: Guess) -> list[Column]:
    """The columns of the prompt: what is asked about, and the question last."""
    gone = {column.field.column for column in (found.reference, *found.options) if column}
    free = [
        column
        for column in found.columns
        if column.is_text and column.field.column not in gone and not _says_answer(column, found)
    ]
    questions = [c for c in free if c.name in OF_QUESTIONS]
    contexts = [c for c in free if c.name.rstrip(string.digits) in OF_CONTEXTS]
    if questions and (contexts or found.options):
        free = [*contexts, *questions]
    elif contexts and found.options:
        free = contexts
    return sorted(free, key=lambda column: column in questions)


def _says_answer(column: Column, found: Guess) -> bool:
    """Is a column an id, about the row rather than of it, or the answer in other words?"""
    if column.name in NO_PROMPT or ID.fullmatch(column.field.column.lower()):
        return True
    if column.name in OF_QUESTIONS or found.reference is None:
        return False
    if any(word in column.name for word in ("label", "answer", "target")):
        return True
    pairs = {*zip(column.texts, found.reference.texts)}
    return len(pairs) == len(column.different) <= MOST_LABELS and _is_class(column)
