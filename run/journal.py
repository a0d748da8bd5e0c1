"""The journal of a run: what is finished of a pair, so that the same command can continue it.

    OUT_DIR/org@name__T/S_vs_D_R_journal.jsonl      beside the future result
    OUT_DIR/org@name__T/S_vs_D_R_journal.1.jsonl    of the second process, if a run has several

The first line holds the settings, every other one a prompt as the debug log will hold it, or a
note. Each line has a checksum: a torn or changed line counts as not written, and its target example
is run again. The journal is deleted when the result is written.
"""

import contextlib
import hashlib
import json
import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core import records
from core.debug_log import Conversation, Example
from core.errors import UserError

CaseKey = tuple[int, int]  # row and seed: what makes a target example of a pair
# {"example": ...}, that of the longest history with "conversation"; {"skipped": ...}; or
# {"token_budget": ...}
Entry = dict[str, Any]
LATE_LINES = 90  # seconds; network file systems look at a folder again after a minute at the latest
CHECKSUM = ', "crc32": '  # behind what it is of, as the last key of a line

Line = tuple[Path, int]  # a journal, and where a line of it begins


class Stored(Mapping[CaseKey, Any]):
    """What lines hold of target examples, read from them when it is asked for."""

    def __init__(self, take: Callable[[Sequence[Entry]], Any]):
        self.take, self.lines = take, {}

    def __getitem__(self, key: CaseKey) -> Any:
        return self.take([_entry_at(*line) for line in self.lines[key]])

    def __iter__(self) -> Iterator[CaseKey]:
        return iter(self.lines)

    def __len__(self) -> int:
        return len(self.lines)


def _examples_in(entries: Sequence[Entry]) -> list[Example]:
    return [entry["example"] for entry in entries]


def _conversation_in(entries: Sequence[Entry]) -> Conversation:
    return entries[-1]["conversation"]


@dataclass
class Finished:
    """What the journals of a pair hold; prompts stay in them."""

    examples: Stored = field(default_factory=lambda: Stored(_examples_in))  # of each length from 0
    conversations: Stored = field(default_factory=lambda: Stored(_conversation_in))  # the longest
    scores: dict[CaseKey, list[float]] = field(default_factory=dict)
    skipped: dict[CaseKey, str] = field(default_factory=dict)  # with the reason
    token_budget: int | None = None  # the smallest that memory forced on a process
    damaged: int = 0  # lines that do not count

    def add(self, key: CaseKey, found: Sequence[tuple[Line, float]]) -> None:
        """Add a target example by its lines and scores."""
        lines = [line for line, _ in found]
        self.examples.lines[key], self.conversations.lines[key] = lines, lines[-1:]
        self.scores[key] = [score for _, score in found]
        self.skipped.pop(key, None)  # there was memory for it later

    def __contains__(self, key: CaseKey) -> bool:
        return key in self.scores or key in self.skipped


class Journal:
    """The journal of one pair; a process appends to a file of its own and reads those of all."""

    def __init__(
        self, result: Path, settings: Mapping[str, Any], lengths: Sequence[int], rank: int = 0
    ):
        """`result` is the pair's result file, `lengths` its history lengths in order (turns)."""
        self.result = result
        self.settings = json.loads(json.dumps(settings))  # tuples become lists, as in the file
        self.lengths = lengths
        self.path = _path(result, rank)

    def prepare(self, overwrite: bool) -> None:
        """Cut off what a killed process left torn; UserError where the settings were others.

        Under `overwrite` a journal of other settings is deleted instead. By one process, before any
        reads or appends.
        """
        for path in find_journals(self.result):
            found = begun_with(path)
            if found is None or (overwrite and found != self.settings):
                _remove(path)
            elif found != self.settings:
                raise other_settings(path, found, self.settings)
            else:
                _cut_torn_line(path)

    def read(self) -> Finished:
        """Every target example that any process has finished at all history lengths.

        UserError where a process had other settings.
        """
        kept = Finished()
        by_length: dict[CaseKey, dict[int, tuple[Line, float]]] = {}
        paths = find_journals(self.result)
        for path in paths:
            found = begun_with(path)
            if found not in (None, self.settings):
                raise other_settings(path, found, self.settings)
        for line, entry in (found for path in paths for found in _entries(path)):
            if entry is None:
                kept.damaged += 1
            elif "example" in entry:
                example = entry["example"]
                lengths = by_length.setdefault(case_key(example), {})
                lengths[example["config"]["history_len"]] = (line, example["score"])
            elif "skipped" in entry:
                kept.skipped[entry["target_idx"], entry["seed"]] = entry["skipped"]
            elif "token_budget" in entry:
                budgets = (kept.token_budget, entry["token_budget"])
                kept.token_budget = min(budget for budget in budgets if budget is not None)
        for key, lengths in by_length.items():
            if all(h in lengths for h in self.lengths):
                kept.add(key, [lengths[h] for h in self.lengths])
        return kept

    def read_all(self, keys: Iterable[CaseKey]) -> Finished:
        """`read`, where these target examples must be there; UserError where one is not.

        A shared disk may show another machine's lines late, so this waits for them.
        """
        keys = list(keys)
        given_up = time.monotonic() + LATE_LINES
        while True:
            kept = self.read()
            missing = sum(key not in kept for key in keys)
            if not missing:
                return kept
            if time.monotonic() > given_up:
                raise UserError(
                    f"{self.path}: {missing} of {len(keys)} target examples are missing. What was "
                    "finished is kept.\nRun the same command to complete them."
                )
            time.sleep(1)

    def append(self, entries: Sequence[Entry]) -> None:
        """Write entries and wait until they are on the disk.

        UserError where that fails; the journal is then what it was before.
        """
        text = b"".join(map(_line, entries))
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "ab", buffering=0) as file:
                size = file.tell()
                try:
                    _write_all(file.fileno(), text if size else _header(self.settings) + text)
                    os.fsync(file.fileno())
                except OSError:
                    with contextlib.suppress(OSError):
                        file.truncate(size)
                    raise
            if not size:
                records.sync_folder(self.path.parent)
        except OSError as error:
            raise UserError(
                f"cannot write {self.path}: {error.strerror}. What was finished before is kept.\n"
                "Free some space or fix the cause, then run the same command to continue."
            ) from error


def refuse_other_journals(result: Path, wanted: Mapping[str, Any]) -> None:
    """UserError where a pair's journal was started with other values of these settings."""
    for path in find_journals(result):
        found = begun_with(path)
        if found is not None and any(found.get(name) != value for name, value in wanted.items()):
            raise other_settings(path, found, wanted)


def case_key(example: Example) -> CaseKey:
    """The target example that a prompt belongs to."""
    return example["config"]["target_idx"], example["config"]["seed"]


def example_entry(example: Example, conversation: Conversation | None = None) -> Entry:
    """The line of an example; that of the longest history holds the conversation of its target."""
    return {"example": example} | ({} if conversation is None else {"conversation": conversation})


def skipped_entry(key: CaseKey, reason: str) -> Entry:
    """The line of a target example that cannot be run."""
    return {"skipped": reason, "target_idx": key[0], "seed": key[1]}


def find_journals(result: Path) -> list[Path]:
    """The journals of a pair by its result file, of all its processes."""
    first = _path(result, 0)
    others = result.parent.glob(f"{_escaped(first.stem)}.*.jsonl")
    return [path for path in (first, *sorted(others)) if path.is_file()]


def remove_journals(result: Path) -> None:
    """Delete every journal of a pair."""
    for path in find_journals(result):
        _remove(path)


def begun_with(path: Path) -> dict[str, Any] | None:
    """The settings of a journal; None for one that holds nothing finished.

    UserError where its first line does not say which settings it belongs to.
    """
    with _open(path) as file:
        first, more = file.readline(), file.readline()
    if not more.endswith(b"\n"):
        return None
    header = _parsed(first)
    settings = header.get("config") if header else None
    if not isinstance(settings, dict) or header.get("fingerprint") != settings_fingerprint(
        settings
    ):
        raise UserError(
            f"{path} is damaged: its first line does not say which settings it belongs to.\n"
            "Delete it to start this pair again."
        )
    return settings


def other_settings(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> UserError:
    """The error about a journal that was started with other settings than those wanted."""
    names = [name for name, value in wanted.items() if found.get(name) != value]
    shown = ((name, f"{found.get(name)!r:.60}", f"{wanted[name]!r:.60}") for name in names)
    differing = "; ".join(
        f"{name} differs" if there == now else f"{name} {there} there, {now} now"
        for name, there, now in shown
    )
    return UserError(
        f"{path} was started with other settings: {differing}.\n"
        "Use those settings or another --out_dir, or --overwrite to start again."
    )


def settings_fingerprint(settings: Mapping[str, Any]) -> str:
    """Changes with any setting."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


# -- files and lines


def _path(result: Path, rank: int) -> Path:
    return result.with_name(f"{result.stem}{records.JOURNAL}{f'.{rank}' if rank else ''}.jsonl")


def _escaped(name: str) -> str:
    """A file name as a glob pattern that matches it alone."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


@contextlib.contextmanager
def _open(path: Path, mode: str = "rb") -> Iterator[Any]:
    try:
        with open(path, mode) as file:
            yield file
    except OSError as error:
        raise UserError(f"cannot use the journal {path}: {error.strerror}.") from error


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot delete the journal {path}: {error.strerror}.") from error


def _header(settings: Mapping[str, Any]) -> bytes:
    return _line({"fingerprint": settings_fingerprint(settings), "config": settings})


def _line(entry: Mapping[str, Any]) -> bytes:
    """An entry as a line of JSON, with the checksum of all before it."""
    text = json.dumps(entry, allow_nan=False)[:-1]
    return f"{text}{CHECKSUM}{zlib.crc32(text.encode())}}}\n".encode()


def _parsed(line: bytes) -> dict[str, Any] | None:
    """What `_line` was given; None where the line is not one of its own, to the byte."""
    text, mark, checksum = line.rpartition(CHECKSUM.encode())
    if not mark or checksum != b"%d}\n" % zlib.crc32(text):
        return None
    return json.loads(text + b"}")


def _entries(path: Path) -> Iterator[tuple[Line, Entry | None]]:
    """Everything below the first line with its place; None for a line that does not count."""
    with _open(path) as file:
        start = len(file.readline())
        for line in file:
            yield (path, start), _parsed(line)
            start += len(line)


def _entry_at(path: Path, start: int) -> Entry:
    """The entry of a line; UserError where it is not the one that was there."""
    with _open(path) as file:
        file.seek(start)
        entry = _parsed(file.readline())
    if entry is None:
        raise UserError(f"{path} was changed while it was read.\nRun the same command again.")
    return entry


def _cut_torn_line(path: Path) -> None:
    """Cut off a last line without an end, so that the next one begins on a line of its own."""
    with _open(path, "r+b") as file:
        end = position = file.seek(0, os.SEEK_END)
        while position:
            start = max(0, position - 2**20)
            file.seek(start)
            newline = file.read(position - start).rfind(b"\n")
            if newline >= 0:
                position = start + newline + 1
                break
            position = start
        if position < end:
            file.truncate(position)
            os.fsync(file.fileno())


def _write_all(descriptor: int, text: bytes) -> None:
    while text:
        text = text[os.write(descriptor, text) :]
