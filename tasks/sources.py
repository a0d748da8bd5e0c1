"""Where the rows of a task come from: a local file, a folder in the Hub's layout, or the Hub."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO
from zipfile import BadZipFile

import numpy as np
import yaml

from core.errors import UserError, unique_keys
from core.json_stream import elements
from tasks.cells import Field, class_names, parse_field, reach
from tasks.task import EMBEDDED, TaskSpec

Row = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """The rows of a source, and what its features say of their columns."""

    rows: list[Row]
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # `a.b` -> class names

    def names(self, place: Field) -> tuple[str, ...]:
        """The names of the classes that stand at a field; () where it holds none."""
        keys = [key for key in place.keys if not key.isdecimal()]
        return self.classes.get(".".join((place.column, *keys)), ())

    def place_of(self, name: str) -> Field:
        """What a task file names: a column of just this name, or a place inside one."""
        if any(name in row for row in self.rows):
            return Field(name)
        try:
            return parse_field(name, dots=True)
        except ValueError:
            return Field(name)

    def shown(self, row: Row, place: Field) -> Any:
        """What stands at a field of a row; of a class its name, and None for -1."""
        return _named(reach(row, place), self.names(place))


def _named(value: Any, names: tuple[str, ...]) -> Any:
    if not names or not isinstance(value, int | list):
        return value
    if isinstance(value, list):
        return [_named(item, names) for item in value]
    if value == -1:
        return None
    if not 0 <= value < len(names):
        raise ValueError(f"is class {value}, and there are {len(names)}")
    return names[value]


# What the libraries that read rows raise for files that they cannot read: damaged, nested without
# end, a script that would have to be run, or of a kind that needs a package that is not there
UNREADABLE = (OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, ImportError)
UNREADABLE += (ArithmeticError, MemoryError, RuntimeError, csv.Error, yaml.YAMLError, BadZipFile)


def read_table(spec: TaskSpec, data_root: str | None = None) -> Table:
    """Rows of a task in the order of their source; UserError where they cannot be read.

    `data_root` is a folder in the Hub's layout (`data_root/org/name`); without it the rows of the
    Hub's data sets come from the Hub or its cache.
    """
    return _read_dataset(spec, data_root) if spec.task.folder is None else _read_file(spec)


def _read_file(spec: TaskSpec) -> Table:
    """Rows of a local file, whose only split is the default one."""
    task = spec.task
    if spec.split != task.split:
        raise UserError(
            f"task '{task.name}' has no split '{spec.split}'. Known splits: {task.split}."
        )
    path = task.folder / task.source
    try:
        return READERS[path.suffix](path)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{task.place('source')}cannot read {path}: it is not UTF-8 text (cannot decode byte "
            f"{error.start + 1}). Save it as UTF-8."
        ) from error
    except UNREADABLE as error:
        said = str(getattr(error, "strerror", None) or error).strip() or type(error).__name__
        reason = said.splitlines()[0]
        raise UserError(f"{task.place('source')}cannot read {path}: {reason}.") from error


def _open_text(path: Path) -> TextIO:
    """A text file, open; ValueError for UTF-16 without a mark, which could pass for UTF-8."""
    with open(path, "rb") as file:
        if b"\0" in file.readline(4096):
            raise ValueError("its first line holds a NUL: it is not UTF-8 text")
    return open(path, encoding="utf-8-sig", newline="")


def json_lines(path: Path) -> Iterator[tuple[int, Row]]:
    """The objects of a JSONL file, each with the number of its line; ValueError with that line."""
    with _open_text(path) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    row = json.loads(line, object_pairs_hook=unique_keys)
                except (ValueError, RecursionError) as error:
                    raise ValueError(f"line {number}: {error}") from error
                if not isinstance(row, dict):
                    raise ValueError(f"line {number} is not an object")
                yield number, row


def json_entries(path: Path) -> Iterator[tuple[str, int, Row]]:
    """The objects of a file with one in each line, or of one that is a JSON list, one at a time;
    each with where it stands: `line` or `entry`, and which. ValueError with that place.
    """
    with _open_text(path) as file:
        while (first := file.read(1)).isspace():
            pass
        if first == "[":
            file.seek(0)
            yield from (("entry", number, row) for number, row in _json_list(file))
            return
    yield from (("line", number, row) for number, row in json_lines(path))


def _json_list(file: TextIO) -> Iterator[tuple[int, Row]]:
    number = 1
    try:
        for row in elements(file):
            if not isinstance(row, dict):
                raise ValueError("it is no object")
            yield number, row
            number += 1
    except UnicodeDecodeError:
        raise
    except (ValueError, RecursionError) as error:
        raise ValueError(f"entry {number}: {error}") from error


def _read_jsonl(path: Path) -> Table:
    return Table([row for _, row in json_lines(path)])


def _read_json(path: Path) -> Table:
    """A list of objects, by itself or as the only list of an object."""
    with _open_text(path) as file:
        held = json.load(file, object_pairs_hook=unique_keys)
    if isinstance(held, dict):
        lists = [value for value in held.values() if isinstance(value, list)]
        held = lists[0] if len(lists) == 1 else None
    if not isinstance(held, list) or not all(isinstance(row, dict) for row in held):
        raise ValueError("it is no list of objects")
    return Table(held)


def _read_tsv(path: Path) -> Table:
    return _read_csv(path, delimiter="\t")


def _read_csv(path: Path, delimiter: str = ",") -> Table:
    csv.field_size_limit(2**31 - 1)  # a document may be longer than the 128 KiB of the default
    with _open_text(path) as file:
        reader = csv.DictReader(file, strict=True, delimiter=delimiter)
        rows = []
        unique_keys([(name, None) for name in reader.fieldnames or ()])
        for row in reader:
            if None in row or None in row.values():  # more cells than columns, or fewer
                raise ValueError(
                    f"line {reader.line_num} has more or fewer cells than the first line"
                )
            rows.append(row)
    return Table(rows)


def _read_parquet(path: Path) -> Table:
    from pyarrow import parquet

    table = parquet.read_table(path)
    unique_keys([(name, None) for name in table.column_names])
    noted = (table.schema.metadata or {}).get(b"huggingface")
    features = json.loads(noted).get("info", {}).get("features", {}) if noted else {}
    kinds = {column.name: str(column.type) for column in table.schema}
    return Table(_with_short_floats(table.to_pylist(), kinds), dict(class_names(features)))


def _with_short_floats(rows: list[Row], kinds: Mapping[str, str]) -> list[Row]:
    """The rows with narrow floats as they were written: 0.1, not the 0.10000000149011612 that the
    float32 next to it becomes in Python.
    """
    narrow = {"float": np.float32, "float32": np.float32, "halffloat": np.float16}
    narrow |= {"float16": np.float16}
    wanted = {column: narrow[kind] for column, kind in kinds.items() if kind in narrow}
    for row in rows:
        for column, kind in wanted.items():
            if row.get(column) is not None:
                row[column] = float(str(kind(row[column])))
    return rows


READERS: dict[str, Callable[[Path], Table]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}


def _read_dataset(spec: TaskSpec, data_root: str | None) -> Table:
    import datasets  # slow to import, as is the Hub's client; the embedded tasks need neither
    import huggingface_hub

    from core import hub

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    huggingface_hub.logging.set_verbosity_error()  # its retries end in an error of our own
    task, split = spec.task, spec.split
    local = data_root is not None
    source = _folder(task.source, data_root) if local else task.source
    # Local files are streamed: the cache of datasets takes them for unchanged when they are not.
    settings = {"streaming": local, "revision": None if local else task.revision}
    refusal = None if local else hub.refusal_of(source, "dataset")
    if refusal:  # else it would ask again, for half a minute
        datasets.config.HF_HUB_OFFLINE = True

    def load() -> Table:
        files = _csv_files(source, task.config, split) if local else ()
        if files:
            return Table([row for path in files for row in _read_csv(path).rows])
        found = datasets.load_dataset(source, task.config, split=split, **settings)
        features = getattr(found, "features", None)
        known = features.to_dict() if features else {}
        kinds = {k: f["dtype"] for k, f in known.items() if isinstance(f, dict) and "dtype" in f}
        return Table(_with_short_floats(list(found), kinds), dict(class_names(known)))

    try:
        return hub.patient(load)
    except (*UNREADABLE, *hub.FETCHING, datasets.exceptions.DatasetsError) as error:
        if str(error).startswith(("Unknown split", "Bad split", "Split name")):
            raise UserError(f"task '{task.name}' has no split '{split}'. {error}") from error
        raise UserError(
            _why_no_rows(f"'{spec}' from {source}", task.source, data_root, refusal or error)
        ) from error


def list_splits(
    source: str, config: str | None = None, data_root: str | None = None
) -> tuple[list[str], list[str]]:
    """The configurations of a data set of the Hub, and the splits of one or of the first.

    UserError where they cannot be had.
    """
    import datasets

    from core import hub

    place = _folder(source, data_root) if data_root else source
    refusal = None if data_root else hub.refusal_of(source, "dataset")
    if refusal:
        datasets.config.HF_HUB_OFFLINE = True
    try:
        configs = hub.patient(lambda: datasets.get_dataset_config_names(place))
        chosen = config or (configs[0] if configs else None)
        return configs, hub.patient(lambda: datasets.get_dataset_split_names(place, chosen))
    except (*UNREADABLE, *hub.FETCHING, datasets.exceptions.DatasetsError) as error:
        raise UserError(_why_no_rows(source, source, data_root, refusal or error)) from error


def _csv_files(folder: str, config: str | None, split: str) -> list[Path]:
    """The files of a split where all are CSV; pandas would take None, NA and 007 for other values.

    [] for any other form, and where the folder says more of its files than where they are.
    """
    import datasets

    builder = datasets.load_dataset_builder(folder, config)
    files = [Path(path) for path in (builder.config.data_files or {}).get(split, ())]
    plain = getattr(builder.config, "sep", None) == "," and not builder.info.features
    return files if plain and all(path.suffix == ".csv" for path in files) else []


def _folder(source: str, data_root: str) -> str:
    folder = Path(data_root) / source
    if not folder.is_dir():
        raise UserError(f"--data_root {data_root} has no folder {source}, where it should be.")
    return str(folder)


def _why_no_rows(it: str, source: str, data_root: str | None, error: Exception) -> str:
    from core import hub

    embedded = ", ".join(EMBEDDED)
    without = (
        "Without the Hub: --data_root DIR reads DIR/org/name, HF_HUB_OFFLINE=1 uses what is "
        f"cached, and {embedded} are always there."
    )
    unknown = f"{source} is no data set on the Hub that you can read."
    why = hub.trouble(error, hub.Wanted(it, f"datasets/{source}", unknown, without))
    if why is not None:
        return why
    damaged = None if data_root else hub.if_damaged(source, "dataset")
    return f"{hub.own_words(error.__cause__ or error, it)}\n{damaged or without}"
