"""Debug logs as files: written and read a prompt at a time, so that none has to fit into memory.

A log is one JSON object, with a line to each conversation and each example; one of another layout
is read as well. Its name ends in `_debug.json`, or `_debug.json.gz` where it is compressed.
"""

import contextlib
import gzip
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core import frames, records
from core.debug_log import Conversation, Example
from core.errors import UserError
from core.json_stream import BEGIN, END, members
from core.keys import Key
from core.schema import IDENTITY
from core.spool import Place, Spool
from core.terminal import counted

if TYPE_CHECKING:
    from pandas import DataFrame

LISTS = ("conversations", "debug_examples")  # in this order, which is that of their names too
NEEDED = {*IDENTITY, "schema_version"}  # before the examples
PACKED = 6  # level of compression

Member = tuple[str, Any]  # name and value


# -- writing


def write_log(path: Path, log: Mapping[str, Any]) -> str:
    """Write a log, whole or not at all -> its digest.

    Its LISTS may be any iterables. A log of the same result that is compressed, where this one is
    not, or the other way round, is deleted.
    """
    total = _Digest()
    with records.replacing(path) as raw, _packed(raw, path) as file:
        for text in _text(log, total):
            file.write(text.encode())
    other = records.debug_path(records.result_of_debug(path), path.suffix != ".gz")
    with contextlib.suppress(OSError):
        other.unlink()
    return total.hexdigest()


@contextlib.contextmanager
def _packed(raw: Any, path: Path) -> Iterator[Any]:
    """What a log is written to; equal logs give equal bytes."""
    if path.suffix != ".gz":
        yield raw
        return
    with gzip.GzipFile("", "wb", PACKED, raw, mtime=0) as file:
        yield file


def _text(log: Mapping[str, Any], total: "_Digest") -> Iterator[str]:
    mark, lists = "{", [name for name in LISTS if name in log]
    for name in [*(name for name in log if name not in LISTS), *lists]:
        value = log[name]
        yield f"{mark}\n {_line(name)}: "
        mark = ","
        if name in LISTS:
            yield from _list_text(name, value, total)
        else:
            total.add(name, value)
            yield _line(value)
    yield f"{mark}\n {_line(records.DIGEST)}: {_line(total.hexdigest())}\n}}"


def _list_text(name: str, values: Iterable[Any], total: "_Digest") -> Iterator[str]:
    total.add(name, BEGIN)
    mark = "["
    for value in values:
        total.add(name, value)
        yield f"{mark}\n  {_line(value)}"
        mark = ","
    total.add(name, END)
    yield "[]" if mark == "[" else "\n ]"


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


class _Digest:
    """`records.digest` of an object of which members, and elements of LISTS, come one by one.

    Other members come before the lists that their names come before in the alphabet.
    """

    def __init__(self) -> None:
        self.sum = hashlib.sha256(b"{")
        self.mark = ""  # before the next member or element
        self.waiting: dict[str, Any] = {}
        self.last = ""  # name that was begun last
        self.in_order = True

    def add(self, name: str, value: Any) -> None:
        """Add a member, or BEGIN, an element or END of a list."""
        if value is BEGIN:
            self._add_waiting(name)
            self._begin(name, "[")
            self.mark = ""
        elif value is END:
            self.sum.update(b"]")
            self.mark = ", "
        elif name in LISTS:
            self._put(json.dumps(value, sort_keys=True))
        elif name not in records.UNDIGESTED:
            self.waiting[name] = value

    def _add_waiting(self, end: str | None = None) -> None:
        for name in sorted(name for name in self.waiting if end is None or name < end):
            self._begin(name, json.dumps(self.waiting.pop(name), sort_keys=True))

    def _begin(self, name: str, text: str) -> None:
        self.in_order &= name > self.last
        self.last = name
        self._put(f"{json.dumps(name)}: {text}")

    def _put(self, text: str) -> None:
        self.sum.update((self.mark + text).encode())
        self.mark = ", "

    def hexdigest(self) -> str | None:
        """The digest of all that was added; None where that was in another order."""
        self._add_waiting()
        whole = self.sum.copy()
        whole.update(b"}")
        return whole.hexdigest() if self.in_order else None


# -- reading


class Conversations:
    """The conversations of a log, by their place; put away on disk where they are many."""

    def __init__(self) -> None:
        self.spool, self.places = Spool(), []
        self._last: tuple[Place, Conversation] | None = None

    def append(self, conversation: Conversation) -> None:
        """Put one in."""
        self.places.append(self.spool.put(json.dumps(conversation).encode()))

    def __getitem__(self, number: int) -> Conversation:
        place = self.places[number]
        if self._last is None or self._last[0] != place:
            self._last = place, json.loads(self.spool.get(place))
        return self._last[1]


class LogReader:
    """A log that is read once, an example at a time; `head` holds what stands before these.

    UserError where it cannot be read, or is damaged so that it is no log.
    """

    def __init__(self, path: Path):
        self.path = path
        self._begin(_members_of(path))
        if self._rest is None:  # the examples are not the last: in this order they are
            self._begin(_members_in(path))
        records.identified(path, self.head | dict.fromkeys(self._begun), "log")
        if self._rest is None:
            raise UserError(f"{path} is damaged: it holds no {LISTS[0]}.")

    def _begin(self, found: Iterator[Member]) -> None:
        """Read up to the examples; there is no rest where something else is still to come."""
        self.head: dict[str, Any] = {}
        self.conversations = Conversations()
        self._begun: set[str] = set()
        self._total, self._rest = _Digest(), None
        self._digest: str | None = None
        for name, value in found:
            self._total.add(name, value)
            if name not in LISTS:
                self.head[name] = value
            elif value is BEGIN:
                self._begun.add(name)
            elif name == LISTS[0] and value is not END:
                self.conversations.append(value)
            if value is BEGIN and name == LISTS[1]:
                complete = self.head.keys() >= NEEDED and LISTS[0] in self._begun
                self._rest = found if complete else None
                return

    def examples(self) -> Iterator[Example]:
        """Every example that was not read yet."""
        for name, value in self._rest:
            self._total.add(name, value)
            if name not in LISTS:
                self.head[name] = value
            elif value is not END:
                yield value

    @property
    def digest(self) -> str:
        """`records.digest` of what it holds; reads the rest."""
        if self._digest is None:
            for _ in self.examples():
                pass
            found = self._total.hexdigest()
            self._digest = found or records.digest(records.read_json(self.path))
        return self._digest

    def is_whole(self) -> bool:
        """Are its values those that were written? Reads the rest."""
        return self.digest == self.head.get(records.DIGEST)

    def require_whole(self) -> None:
        """UserError where its values are not those that were written. Reads the rest."""
        if not self.is_whole():
            raise UserError(f"{self.path} is damaged: its values are not those that were written.")


def _members_of(path: Path) -> Iterator[Member]:
    with records.reading(path) as file:
        yield from members(file, LISTS)


def _members_in(path: Path) -> Iterator[Member]:
    """The same of a file that is read whole, the lists last."""
    content = records.read_json(path)
    for name in sorted(content, key=lambda name: (name in LISTS, name)):
        value = content[name]
        if name not in LISTS:
            yield name, value
            continue
        if not isinstance(value, list):
            raise UserError(f"{path} is damaged: {name} is no list.")
        yield name, BEGIN
        yield from ((name, element) for element in value)
        yield name, END


@contextlib.contextmanager
def trusted(result: Mapping[str, Any]) -> Iterator[LogReader]:
    """The log of a result of `load_results`, to read an example at a time.

    UserError, at the end of the block, where it was changed or is another result's: nothing may be
    done before with what it held.
    """
    log = LogReader(log_of(result))
    try:
        yield log
    except UserError:
        raise
    except Exception:
        log.require_whole()  # a changed log explains it
        raise
    log.require_whole()
    if log.digest != result[records.DIGEST_OF_LOG]:
        raise UserError(
            f"{log.path} is the log of another result: its digest is another one.\n"
            "Make both again: the command that made them, with --overwrite."
        )


def log_of(result: Mapping[str, Any]) -> Path:
    """The log of a result of `load_results`; UserError where it is gone."""
    path = records.find_log(Path(result["path"]))
    if path is None:
        raise UserError(f"{result['path']} has no log beside it any more.")
    return path


def check_log(result: Mapping[str, Any]) -> None:
    """UserError where the log of a result of `load_results` is not the one that was written."""
    with trusted(result):
        pass


def load_examples(*folders: str | Path, flat: bool = False) -> "DataFrame":
    """A row per prompt of the results below folders, see `frames.examples_frame`.

    UserError as for `records.load_results`, and for a damaged log.
    """

    def every() -> Iterator[tuple[Key, Example]]:
        found = records.load_results(folders)
        for key, result in counted(found.items(), "Reading logs"):
            with trusted(result) as log:
                examples = list(log.examples())
            yield from ((key, example) for example in examples)

    return frames.examples_frame(every(), flat)
