"""The result files: where they lie, how they are written whole, and how they are read and checked.

OUT_DIR/org@name__T/S_vs_D_R.json holds the aggregates of one pair and S_vs_D_R_debug.json beside it
one entry per prompt (`log_files`). Whoever a file belongs to is read from inside it, never out of
its name.
"""

import contextlib
import gzip
import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

from core import frames
from core.errors import UNPRINTABLE, UserError
from core.json_stream import DECODER, check
from core.keys import Key, by_text, make_keys
from core.schema import IDENTITY, SCHEMA_VERSION, SOMETIMES
from core.terminal import counted

if TYPE_CHECKING:
    from pandas import DataFrame

LONGEST_NAME = 200  # bytes of a file's name; most file systems take 255, a log's has more
REFERENCE = "_reference"  # folder in results/ of a small run to compare with
MADE_OF = {"result": "metric_by_len", "log": "debug_examples"}  # a key that each has
DIGEST, DIGEST_OF_LOG = "content_sha256", "log_sha256"
UNDIGESTED = ("environment", DIGEST)  # members that a digest is not of
LOG_ENDINGS = ("_debug.json", "_debug.json.gz")
JOURNAL = "_journal"  # behind the name of a pair
JOURNALS = f"*{JOURNAL}*.jsonl"


def model_name(model: str) -> str:
    """The name a model has in results: `org/name`, or the last part of a local path."""
    local = os.path.isdir(model) or (model.endswith(".gguf") and os.path.isfile(model))
    return Path(model).resolve().name if local else model


def result_path(out_dir: str | Path, model: str, target: str, distractor: str) -> Path:
    """Result file of a pair; `target` and `distractor` are `name/split`.

    UserError where they make no name of a file that stays within its folder.
    """
    folder, _, split = target.partition("/")
    parts = (
        f"{model_name(model).replace('/', '@')}__{folder}",
        f"{split}_vs_{distractor.replace('/', '_')}.json",
    )
    for part in parts:
        if "/" in part or UNPRINTABLE.search(part) or len(part.encode()) > LONGEST_NAME:
            raise UserError(
                f"model {model!r:.80}, target {target!r:.80} and distractor {distractor!r:.80} "
                "make no name of a file: too long, or with a slash or control character."
            )
    return Path(out_dir, *parts)


def debug_path(result: Path, compressed: bool = False) -> Path:
    """Debug log that belongs to a result file."""
    return result.with_name(result.stem + LOG_ENDINGS[compressed])


def find_log(result: Path) -> Path | None:
    """The debug log that is there beside a result file, compressed or not; None where none is."""
    both = (debug_path(result, compressed) for compressed in (False, True))
    return next((path for path in both if path.exists()), None)


def result_of_debug(debug: Path) -> Path:
    """Result file that a debug log belongs to; UserError where the name is not a debug log's."""
    for ending in LOG_ENDINGS:
        if debug.name.endswith(ending):
            return debug.with_name(debug.name.removesuffix(ending) + ".json")
    raise UserError(f"{debug} is not a debug log: those end in {' or '.join(LOG_ENDINGS)}.")


def check_writable(out_dir: str | Path, make: bool = True) -> None:
    """UserError unless files can be written in `out_dir`, or in what is there of its path.

    Where it is missing it is made, unless `make` is False.
    """
    folder = Path(out_dir).absolute()
    try:
        if make:
            folder.mkdir(parents=True, exist_ok=True)
        there = next(path for path in (folder, *folder.parents) if path.exists())
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise UserError(f"cannot write in {out_dir}: {error.strerror}.") from error


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a file with a digest of itself, whole or not at all; ValueError for NaN."""
    sealed = content | {DIGEST: digest(content)}
    write_text(path, json.dumps(sealed, indent=1, ensure_ascii=False, allow_nan=False))


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8, whole or not at all; UserError where it cannot be written."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; UserError where it cannot be written."""
    with replacing(path) as file:
        file.write(content)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes its place when the block ends, or leaves nothing behind.

    UserError where it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")  # the next attempt writes over a killed one's
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror}. Nothing of it was left behind."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where its file system can say so."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def digest(content: dict[str, Any]) -> str:
    """Changes with any value of a result or a log, a result's `environment` apart."""
    kept = {key: value for key, value in content.items() if key not in UNDIGESTED}
    text = json.dumps(kept, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """Read a file of `write_json`; UserError where it is missing, damaged, or holds NaN."""
    with reading(path) as file:
        text = file.read()
        content = DECODER.decode(text)
        if not isinstance(content, dict):
            raise ValueError("not an object")
        check(content, text)
    return content


@contextlib.contextmanager
def reading(path: Path) -> Iterator[TextIO]:
    """The text of a file, which is compressed where its name ends in .gz.

    UserError where it cannot be read, or the block finds something wrong with it.
    """
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8")
            if path.suffix == ".gz"
            else open(path, encoding="utf-8") as file
        ):
            yield file
    except (ValueError, RecursionError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is damaged: {str(error) or type(error).__name__}.") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from error


def read_result(path: Path) -> dict[str, Any]:
    """A result as it was written; UserError where it is missing, damaged or of another version.

    What this version could measure and an earlier one of the same schema could not is {}.
    """
    result = require_whole(path, read_unsealed(path, "result"))
    return result | {key: {} for key in SOMETIMES if key not in result}


def read_debug(path: Path) -> dict[str, Any]:
    """A debug log as it was written; UserError as for a result."""
    return require_whole(path, read_unsealed(path, "log"))


def read_unsealed(path: Path, kind: str) -> dict[str, Any]:
    """A `result` or `log` that may hold other values than were written."""
    return identified(path, read_json(path), kind)


def identified(path: Path, content: dict[str, Any], kind: str) -> dict[str, Any]:
    """The content; UserError unless it is one of this version, with plain names."""
    version = content.get("schema_version")
    if MADE_OF[kind] not in content or not isinstance(version, int):
        raise UserError(f"{path} is damaged: it is no {kind}.")
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{path} has schema version {version}, and {SCHEMA_VERSION} is needed: make it again "
            "with the command that made it and --overwrite."
        )
    names = [content.get(name) for name in IDENTITY]
    if not all(isinstance(name, str) and not UNPRINTABLE.search(name) for name in names):
        raise UserError(f"{path} is damaged: {', '.join(IDENTITY)} are not all plain text.")
    return content


def is_whole(content: dict[str, Any]) -> bool:
    """Are the values of a file those that were written?"""
    return content.get(DIGEST) == digest(content)


def require_whole(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """The content of a file, which can be trusted; UserError where it was changed."""
    if not is_whole(content):
        raise UserError(f"{path} is damaged: its values are not those that were written.")
    return content


def is_unfinished(folder: Path) -> bool:
    """Are there journals of a run below a folder, which end with it?"""
    return any(folder.rglob(JOURNALS))


def lacks_results(folder: Path) -> bool:
    """Are there journals below a folder of pairs that have no result?"""
    pairs = (path.with_name(path.name.rpartition(JOURNAL)[0]) for path in folder.rglob(JOURNALS))
    return not all(Path(f"{pair}.json").exists() for pair in pairs)


def find_results(folder: str | Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every result below a folder with its path; UserError for none or a damaged one.

    A result has its log beside it. The stored reference run is none of the user's and passed over.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"--result_dir {folder} is not a folder.")
    logged = (path for path in root.rglob("*.json") if find_log(path))
    paths = sorted(path for path in logged if REFERENCE not in path.relative_to(root).parts)
    if not paths and is_unfinished(root):
        raise UserError(
            f"no results below {folder} yet: a run there is under way or was interrupted.\n"
            "The same command continues it, and writes the results at its end."
        )
    if not paths:
        raise UserError(
            f"no results below {folder}. Make some with: python experiment.py --out_dir {folder}"
        )
    for path in counted(paths, "Reading results"):
        yield path, read_result(path)


def load_results(folders: Iterable[str | Path]) -> dict[Key, dict[str, Any]]:
    """Results below the folders, each with its `path`, by its key, sorted.

    UserError where one key has two results, or one is damaged.
    """
    found = {}  # the same file may be below two of the folders
    for path, result in (pair for folder in folders for pair in find_results(folder)):
        found.setdefault(path.resolve(), result | {"path": str(path)})
    results = list(found.values())
    by_key: dict[Key, dict[str, Any]] = {}
    for key, result in zip(make_keys(results), results):
        first = by_key.setdefault(key, result)
        if first is not result:
            raise UserError(
                f"{first['path']} and {result['path']} hold the same {', '.join(key.fields)}, "
                f"{_differences(first['config'], result['config'])}.\n"
                "Name folders in --result_dir that hold only one of the two."
            )
    in_order = sorted(by_key, key=lambda key: (key[:4], by_text(key[4]), key[5:]))
    return {key: by_key[key] for key in in_order}


def load_frame(*folders: str | Path) -> "DataFrame":
    """Every number of the results below folders, see `frames.results_frame`; UserError as above."""
    return frames.results_frame(load_results(folders))


def _differences(config: dict[str, Any], other: dict[str, Any]) -> str:
    """The settings in which two configs differ, in words."""
    names = [name for name in config | other if config.get(name) != other.get(name)]
    return f"and differ in {', '.join(names)}" if names else "and all settings"
