"""Where the rows of a task come from: a local file, a folder in the Hub's layout, or the Hub."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import yaml

from core.errors import UserError, unique_keys
from tasks.spec import EMBEDDED, TaskSpec

Row = dict[str, Any]

# What the libraries that read rows raise for files that they cannot read: damaged, nested without
# end, a script that would have to be run, or of a kind that needs a package that is not there
UNREADABLE = (OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, ImportError)
UNREADABLE += (ArithmeticError, MemoryError, RuntimeError, csv.Error, yaml.YAMLError, BadZipFile)


def read_rows(spec: TaskSpec, data_root: str | None = None) -> list[Row]:
    """Rows of a task in the order of their source; UserError where they cannot be read.

    `data_root` is a folder in the Hub's layout (`data_root/org/name`); without it the rows of the
    Hub's data sets come from the Hub or its cache.
    """
    return _read_dataset(spec, data_root) if spec.task.folder is None else _read_file(spec)


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
    except UNREADABLE as error:
        said = str(getattr(error, "strerror", None) or error).strip() or type(error).__name__
        reason = said.splitlines()[0]
        raise UserError(f"{task.place('source')}cannot read {path}: {reason}.") from error


def _read_jsonl(path: Path) -> list[Row]:
    rows = []
    with open(path, encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    row = json.loads(line, object_pairs_hook=unique_keys)
                except (ValueError, RecursionError) as error:
                    raise ValueError(f"line {number}: {error}") from error
                if not isinstance(row, dict):
                    raise ValueError(f"line {number} is not an object")
                rows.append(row)
    return rows


def _read_csv(path: Path) -> list[Row]:
    csv.field_size_limit(2**31 - 1)  # a document may be longer than the 128 KiB of the default
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        rows = []
        unique_keys([(name, None) for name in reader.fieldnames or ()])
        for row in reader:
            if None in row or None in row.values():  # more cells than columns, or fewer
                raise ValueError(f"line {reader.line_num} has not as many cells as the first line")
            rows.append(row)
    return rows


def _read_parquet(path: Path) -> list[Row]:
    from pyarrow import parquet

    table = parquet.read_table(path)
    unique_keys([(name, None) for name in table.column_names])
    return table.to_pylist()


READERS: dict[str, Callable[[Path], list[Row]]] = {
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}


def _read_dataset(spec: TaskSpec, data_root: str | None) -> list[dict]:
    import datasets  # slow to import, as is the Hub's client; the embedded tasks need neither
    import huggingface_hub

    from core import hub

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    huggingface_hub.logging.set_verbosity_error()  # its retries end in an error of our own
    task, split = spec.task, spec.split
    local = data_root is not None
    source = _folder(spec, data_root) if local else task.source
    # Local files are streamed: the cache of datasets takes them for unchanged when they are not.
    settings = {"streaming": local, "revision": None if local else task.revision}
    refusal = None if local else hub.refusal_of(source, "dataset")
    if refusal:  # else it would ask again, for half a minute
        datasets.config.HF_HUB_OFFLINE = True
    try:
        return hub.patient(
            lambda: list(datasets.load_dataset(source, task.config, split=split, **settings))
        )
    except (*UNREADABLE, *hub.FETCHING, datasets.exceptions.DatasetsError) as error:
        if str(error).startswith(("Unknown split", "Bad split", "Split name")):
            raise UserError(f"task '{task.name}' has no split '{split}'. {error}") from error
        raise UserError(_why_no_rows(spec, data_root, refusal or error)) from error


def _folder(spec: TaskSpec, data_root: str) -> str:
    folder = Path(data_root) / spec.task.source
    if not folder.is_dir():
        raise UserError(
            f"--data_root {data_root} has no folder {spec.task.source}, where '{spec}' should be."
        )
    return str(folder)


def _why_no_rows(spec: TaskSpec, data_root: str | None, error: Exception) -> str:
    from core import hub

    source = spec.task.source
    embedded = ", ".join(EMBEDDED)
    without = (
        "Without the Hub: --data_root DIR reads DIR/org/name, HF_HUB_OFFLINE=1 uses what is "
        f"cached, and {embedded} are always there."
    )
    it, unknown = (
        f"'{spec}' from {source}",
        f"{source} is no data set on the Hub that you can read.",
    )
    why = hub.trouble(error, hub.Wanted(it, f"datasets/{source}", unknown, without))
    if why is not None:
        return why
    damaged = None if data_root else hub.if_damaged(source, "dataset")
    return f"{hub.own_words(error.__cause__ or error, it)}\n{damaged or without}"
