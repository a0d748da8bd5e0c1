"""The rows of tasks as turns. Never imports torch.

One row becomes a turn: one user prompt, one reference answer. The same template renders a row
wherever it stands, in the history or as the target, so that the two can never differ in form.
"""

import csv
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from errors import UserError
from metrics import find_number
from tasks import TASKS, Task, TaskSpec

Row = dict[str, Any]


@dataclass(frozen=True)
class Turn:
    """One user prompt and its references: a history shows the first; () where none is known."""

    prompt: str
    references: tuple[str, ...]


@dataclass(frozen=True)
class TaskRows:
    """The rows of one task and split, rendered as turns."""

    spec: TaskSpec
    turns: tuple[Turn, ...]

    @cached_property
    def distinct(self) -> int:
        """Number of different prompts among the rows."""
        return len({turn.prompt for turn in self.turns})

    @cached_property
    def fingerprint(self) -> str:
        """Changes with any prompt or reference: other data, or another template, is another run."""
        text = json.dumps([(turn.prompt, turn.references) for turn in self.turns])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_rows(spec: TaskSpec, data_root: str | None = None) -> TaskRows:
    """Rows of a task as turns, in the order of the source: an index means the same row everywhere.

    `data_root` is a folder in the Hub's layout (`data_root/org/name`); without it the rows of the
    Hub's data sets come from the Hub or its cache. UserError for an unknown split or subject, for
    rows that do not have the task's form, and where the source cannot be reached.
    """
    task = spec.task
    rows = _read_dataset(spec, data_root) if task.folder is None else _read_file(spec)
    if not rows:
        raise UserError(f"{task.place('source')}'{spec}' has no rows.")
    _check_columns(spec, rows[0])
    if spec.subject:
        subjects = sorted({str(row.get(task.subject)) for row in rows})
        rows = [row for row in rows if str(row.get(task.subject)) == spec.subject]
        if not rows:
            raise UserError(
                f"'{spec.dataset}': no such subject in {task.name}/{spec.split}. "
                f"Known: {', '.join(subjects)}."
            )
    return TaskRows(spec, tuple(_turn(task, row, number) for number, row in enumerate(rows, 1)))


def _check_columns(spec: TaskSpec, row: Row) -> None:
    """UserError where the rows lack a column, except for the reference of a split without any."""
    needed = dict(spec.task.columns)
    if spec.split == spec.task.split:
        needed.setdefault(spec.task.reference, "reference")
    for column, key in needed.items():
        if column not in row:
            raise UserError(
                f"{spec.task.place(key)}the rows of '{spec}' have no column '{column}'. "
                f"They have: {', '.join(map(str, row))}."
            )


def _turn(task: Task, row: Row, number: int) -> Turn:
    """A row as a turn; its number, from 1, is for messages."""
    empty = [column for column in task.columns if _is_missing(row.get(column))]
    if empty:
        raise UserError(f"{task.place('prompt')}row {number} of '{task.name}' has no '{empty[0]}'.")
    try:
        prompt = task.prompt.format_map(row)
    except (LookupError, TypeError, ValueError) as error:
        raise UserError(
            f"{task.place('prompt')}row {number} of '{task.name}' does not fit the prompt "
            f"({error!r:.60})."
        ) from error
    try:
        return Turn(prompt, (_label if task.labels else _texts)(task, row.get(task.reference)))
    except ValueError as error:
        raise UserError(
            f"{task.place('reference')}row {number} of '{task.name}', column '{task.reference}': "
            f"{error}."
        ) from error


def _is_missing(value: Any) -> bool:
    """True for null, and for the NaN that stands for it in tables."""
    return value is None or (isinstance(value, float) and value != value)


def _label(task: Task, value: Any) -> tuple[str, ...]:
    """The label that a column names by its text or its index; () for none: empty, null or -1.

    Where the labels are whole numbers themselves an index could be either, so texts alone count.
    """
    labels, text = task.labels, str(value).strip()
    if text in labels:
        return (text,)
    if _is_missing(value) or text in ("", "-1"):
        return ()
    known, indices = ", ".join(labels), dict(zip(map(str, range(len(labels))), labels))
    if any(label.lstrip("-").isdecimal() for label in labels):
        indices = {}
    else:
        known += f" or an index 0 to {len(labels) - 1}"
    index = str(int(value)) if isinstance(value, bool) else text
    if index not in indices:
        raise ValueError(f"{value!r:.40} is none of {known}")
    return (indices[index],)


def _texts(task: Task, value: Any) -> tuple[str, ...]:
    """The references in a column: a text, a number or a list of texts; () where none is known."""
    found = []
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, str | int | float | None) or isinstance(item, bool):
            raise ValueError(f"{item!r:.40} is neither a text nor a list of texts")
        text = "" if _is_missing(item) else str(item).strip()
        if text and task.extract and find_number(text) is None:
            raise ValueError(f"there is no number in {text!r:.40}")
        found += [text] if text else []
    return tuple(found)


def _read_file(spec: TaskSpec) -> list[Row]:
    """Rows of a local file, whose only split is the default one."""
    task = spec.task
    if spec.split != task.split:
        raise UserError(
            f"task '{task.name}' has no split '{spec.split}'. Known splits: {task.split}."
        )
    path = task.folder / task.source
    try:
        return READERS[path.suffix](path)
    except (OSError, ValueError, csv.Error) as error:  # also of pyarrow, of JSON and of UTF-8
        reason = str(getattr(error, "strerror", None) or error).splitlines()[0]
        raise UserError(f"{task.place('source')}cannot read {path}: {reason}.") from error


def _read_jsonl(path: Path) -> list[Row]:
    rows = []
    with open(path, encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise ValueError(f"line {number}: {error}") from error
                if not isinstance(row, dict):
                    raise ValueError(f"line {number} is not an object")
                rows.append(row)
    return rows


def _read_csv(path: Path) -> list[Row]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        rows = []
        for row in reader:
            if None in row or None in row.values():  # more cells than columns, or fewer
                raise ValueError(f"line {reader.line_num} has not as many cells as the first line")
            rows.append(row)
    return rows


def _read_parquet(path: Path) -> list[Row]:
    from pyarrow import parquet

    return parquet.read_table(path).to_pylist()


READERS: dict[str, Callable[[Path], list[Row]]] = {
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}


def _read_dataset(spec: TaskSpec, data_root: str | None) -> list[dict]:
    import datasets  # slow to import, as is remote, and not needed for the embedded tasks
    import huggingface_hub

    import remote

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    huggingface_hub.logging.set_verbosity_error()  # its retries end in an error of our own
    task, split = spec.task, spec.split
    local = data_root is not None
    source = _folder(spec, data_root) if local else task.source
    # Local files are streamed: the cache of datasets takes them for unchanged when they are not.
    settings = {"streaming": local, "revision": None if local else task.revision}

    def load() -> list[dict]:
        return list(datasets.load_dataset(source, task.config, split=split, **settings))

    try:
        return load() if local else remote.fetch(load)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        if str(error).startswith(("Unknown split", "Bad split", "Split name")):
            raise UserError(f"task '{task.name}' has no split '{split}'. {error}") from error
        raise UserError(_why_no_rows(spec, data_root, error)) from error


def _folder(spec: TaskSpec, data_root: str) -> str:
    folder = Path(data_root) / spec.task.source
    if not folder.is_dir():
        raise UserError(
            f"--data_root {data_root} has no folder {spec.task.source}, where '{spec}' should be."
        )
    return str(folder)


def _why_no_rows(spec: TaskSpec, data_root: str | None, error: Exception) -> str:
    import remote

    source = spec.task.source
    embedded = ", ".join(name for name, task in TASKS.items() if task.embedded)
    without = (
        "Without the Hub: --data_root DIR reads DIR/org/name, HF_HUB_OFFLINE=1 uses what is "
        f"cached, and {embedded} are always there."
    )
    it, unknown = (
        f"'{spec}' from {source}",
        f"{source} is no data set on the Hub that you can read.",
    )
    why = remote.trouble(error, remote.Wanted(it, f"datasets/{source}", unknown, without))
    if why is not None:
        return why
    cause = error.__cause__ or error
    reason = remote.without_token(f"{type(cause).__name__}: {str(cause).splitlines()[0]}")
    damaged = None if data_root else remote.if_damaged(source, "dataset")
    return f"cannot load {it}: {reason}\n{damaged or without}"


def require_references(rows: TaskRows) -> None:
    """UserError unless every row has a reference, to be scored by or shown as an answer."""
    missing = sum(not turn.references for turn in rows.turns)
    if missing:
        spec, task = rows.spec, rows.spec.task
        advice = f"Use a split with references, such as {spec.dataset}/{task.split}."
        if spec.split == task.split:
            advice = f"References are in column '{task.reference}'."
        raise UserError(
            f"'{spec}' has no reference answer in {missing} of {len(rows.turns)} rows. {advice}"
        )
