"""Claims about debug logs that are read and written a prompt at a time: the same values as in one
piece, in memory that does not grow with them.
"""

import errno
import gzip
import io
import json
import os
import shutil
import tracemalloc

import pytest
from pages import examples_of, log_of
from runs import run
from stored import write_pair

import viz
from core import json_stream, log_files, records, schema, spool
from core.errors import UserError
from core.log_files import LogReader
from measures import metrics, table
from reports import explorer

HEAD = {
    "schema_version": schema.SCHEMA_VERSION,
    "model": "org/name",
    "target": "quiz/test",
    "distractor": "posts/test",
    "metric_name": "accuracy",
}


def made_up(count=12):
    """A log with texts in several scripts."""
    examples = examples_of(
        "quiz/test", "posts/test", count=count, odd='\U0001f600 é\u2028 \\ " \x7f'
    )
    return HEAD | log_of(examples)


@pytest.fixture
def small(monkeypatch):
    """Files are read in pieces that end within keys, numbers and escapes."""
    monkeypatch.setattr(json_stream, "CHUNK", 7)


def contents(path):
    """All that the reader finds in a log, as one object."""
    reader = LogReader(path)
    examples = list(reader.examples())
    places = range(len(reader.conversations.places))
    lists = {"conversations": [reader.conversations[k] for k in places], "debug_examples": examples}
    return reader.head | lists, reader


def as_written(path, log):
    log_files.write_log(path, log)


def indented(path, log):
    records.write_json(path, log)


def sorted_keys(path, log):
    records.write_json(path, dict(sorted(log.items())))


def lists_first(path, log):
    records.write_json(path, dict(reversed(log.items())))


def of_windows(path, log):
    as_written(path, log)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))


def on_one_line(path, log):
    sealed = log | {records.DIGEST: records.digest(log)}
    path.write_text(json.dumps(sealed, separators=(",", ":")))


LAYOUTS = [as_written, indented, sorted_keys, lists_first, of_windows, on_one_line]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
@pytest.mark.usefixtures("small")
def test_a_log_is_read_as_json_reads_it_whatever_its_layout(tmp_path, layout):
    path, log = tmp_path / "x_debug.json", made_up()
    layout(path, log)
    found, reader = contents(path)
    assert found == json.loads(path.read_bytes())
    assert reader.digest == records.digest(log) == found[records.DIGEST]
    assert reader.is_whole()


@pytest.mark.parametrize("chunk", range(1, 14))
def test_no_value_is_cut_where_a_piece_of_the_file_ends(monkeypatch, chunk):
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    text = '{"a": 1234567, "b": -1.5e-07 , "c": null, "d": "\\ud83d\\ude00", "f": [10, 2.25]}'
    assert dict(json_stream.members(io.StringIO(text), ())) == json.loads(text)
    elements = [value for name, value in json_stream.members(io.StringIO(text), ("f",))][-4:]
    assert elements == [json_stream.BEGIN, 10, 2.25, json_stream.END]


def test_a_log_has_a_line_to_each_example_and_its_digest_is_that_of_the_whole(tmp_path):
    path, log = tmp_path / "x_debug.json", made_up()
    assert log_files.write_log(path, log) == records.digest(log)
    lines = path.read_text().split("\n")
    examples = [line for line in lines if line.startswith('  {"')]
    assert [json.loads(line.rstrip(",")) for line in examples] == log["debug_examples"]


def test_a_compressed_log_holds_the_same_bytes_every_time_and_replaces_the_other(tmp_path):
    result, log = tmp_path / "x.json", made_up()
    plain, packed = (records.debug_path(result, compressed) for compressed in (False, True))
    log_files.write_log(plain, log)
    text = plain.read_bytes()
    log_files.write_log(packed, log)
    first = packed.read_bytes()
    assert gzip.decompress(first) == text and len(first) < len(text) / 2
    assert not plain.exists() and records.find_log(result) == packed
    log_files.write_log(packed, log)
    assert packed.read_bytes() == first
    assert contents(packed)[0] == json.loads(text)
    log_files.write_log(plain, log)
    assert os.listdir(tmp_path) == [plain.name]


DAMAGES = {
    "cut off": lambda text: text[: len(text) // 2],
    "cut off at its end": lambda text: text[:-1],
    "a key twice": lambda text: text[:-2] + b', "model": "x"}',
    "NaN": lambda text: text.replace(b'"score": 1.0', b'"score": NaN', 1),
    "half a character": lambda text: text.replace(b'"role": "', b'"role": "\\ud800', 1),
    "no list": lambda text: text.replace(b'"conversations": [', b'"conversations": {}, "x": [', 1),
    "a value gone": lambda text: text.replace(b'"score": 1.0', b'"score": ', 1),
    "something behind it": lambda text: text + b"1",
    "no comma": lambda text: text.replace(b"},\n", b"}\n", 1),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_log_is_refused_in_one_line(tmp_path, damage, packed):
    path = tmp_path / "x_debug.json"
    log_files.write_log(path, made_up())
    damaged = DAMAGES[damage](path.read_bytes())
    assert damaged != path.read_bytes()
    if packed:
        path = records.debug_path(tmp_path / "x.json", compressed=True)
        damaged = gzip.compress(damaged)
    path.write_bytes(damaged)
    with pytest.raises(UserError, match="is damaged") as refused:
        LogReader(path).require_whole()
    assert len(str(refused.value).splitlines()) == 1


def test_a_compressed_log_that_is_cut_off_is_refused(tmp_path):
    path = tmp_path / "x_debug.json.gz"
    log_files.write_log(path, made_up())
    for raw in (path.read_bytes()[:-30], b"no gzip at all"):
        path.write_bytes(raw)
        with pytest.raises(UserError, match="is damaged"):
            LogReader(path).require_whole()


# --- writing


def examples_of_many():
    """More than one block of a table."""
    return examples_of("quiz/test", "posts/test", count=table.BLOCK + 1)


def failing(error):
    yield from made_up()["debug_examples"][:5]
    raise error


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_a_log_that_is_interrupted_leaves_what_was_there(tmp_path, error):
    path, log = tmp_path / "x_debug.json", made_up()
    log_files.write_log(path, log)
    before = path.read_bytes()
    raised = UserError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(raised):
        log_files.write_log(path, log | {"debug_examples": failing(error)})
    assert os.listdir(tmp_path) == [path.name] and path.read_bytes() == before


# --- what reads them


def stored(folder, count=12, compressed=False):
    """Write a result with its log; returns the log's path."""
    log = made_up(count)
    path = records.result_path(folder, "org/name", "quiz/test", "posts/test")
    labels = {"name": "quiz", "labels": ["A", "B"]}
    config = {"seed": [0], "history": "teacher", "compress_logs": compressed}
    config |= {"tasks": {"target": labels, "distractor": labels}}
    found = metrics.aggregate(log["debug_examples"], "accuracy") | {"n_skipped": 0}
    write_pair(path, HEAD | found | {"config": config, "environment": {}}, log, compressed)
    return records.find_log(path)


def test_every_command_reads_compressed_logs(tmp_path, capsys):
    path = stored(tmp_path / "results", compressed=True)
    assert path.name.endswith("_debug.json.gz")
    assert viz.main(["verify", "--debug_file", str(path)]) == 0
    assert "MISMATCH" not in capsys.readouterr().out
    folder = str(tmp_path / "results")
    assert viz.main(["table", "--result_dir", folder]) == 0
    assert viz.main(["report", "--result_dir", folder, "--out", str(tmp_path / "r.html")]) == 0


def test_a_run_compresses_its_logs_where_asked_and_runs_nothing_again_for_it(
    model, tmp_path, capsys
):
    for folder, more in (("plain", ()), ("packed", ("--compress_logs",))):
        assert run(tmp_path / folder, model, "quiz", "posts", *more) == 0
    [plain] = (tmp_path / "plain").rglob("*_debug.json")
    [packed] = (tmp_path / "packed").rglob("*_debug.json.gz")
    assert gzip.decompress(packed.read_bytes()) == plain.read_bytes()
    result = records.read_result(records.result_of_debug(packed))
    assert result["config"]["compress_logs"] is True
    assert viz.main(["verify", "--debug_file", str(packed), str(plain)]) == 0
    before = packed.read_bytes()
    capsys.readouterr()
    assert run(tmp_path / "packed", model, "quiz", "posts") == 0
    assert "All results exist already" in capsys.readouterr().out
    assert packed.read_bytes() == before and not list(packed.parent.glob("*_debug.json"))


def test_the_log_of_another_result_is_no_finished_pair(model, tmp_path, capsys):
    """As a run with --overwrite leaves it that is killed between the log and its result."""
    for folder, more in (("here", ()), ("other", ("--max_len", "1"))):
        assert run(tmp_path / folder, model, "quiz", "posts", *more) == 0
    paths = {
        folder: next((tmp_path / folder).rglob("*_debug.json")) for folder in ("here", "other")
    }
    shutil.copy(paths["other"], paths["here"])
    capsys.readouterr()
    assert run(tmp_path / "here", model, "quiz", "posts") == 2
    said = capsys.readouterr().err
    assert "is the log of another result" in said and "--overwrite" in said
    assert run(tmp_path / "here", model, "quiz", "posts", "--overwrite") == 0
    assert viz.main(["verify", "--debug_file", str(paths["here"])]) == 0


def test_a_number_that_was_changed_amid_a_log_is_found(tmp_path, capsys):
    path = stored(tmp_path, count=60)
    lines = path.read_text().split("\n")
    middle = len(lines) // 2
    lines[middle] = lines[middle].replace('"cosines": [0.1', '"cosines": [0.2')
    path.write_text("\n".join(lines))
    assert viz.main(["verify", "--debug_file", str(path)]) == 1
    wrong = [line for line in capsys.readouterr().out.splitlines() if "MISMATCH (" in line]
    assert {line.split()[0] for line in wrong} >= {"cos_by_len", "content_sha256"}
    [result] = records.load_results([tmp_path]).values()
    with pytest.raises(UserError, match="not those that were written"):
        explorer.make_explorer([result], ["x"])


def test_a_temporary_file_that_cannot_be_made_is_said_in_two_lines(tmp_path, monkeypatch, capsys):
    path = stored(tmp_path / "results")
    monkeypatch.setattr(spool, "IN_MEMORY", 1)
    monkeypatch.setattr(spool.tempfile, "tempdir", str(tmp_path / "missing"))
    assert viz.main(["verify", "--debug_file", str(path)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("error: cannot use a temporary file: No such file")
    assert "TMPDIR" in said[1] and len(said) == 2
    kept = path.read_bytes()
    collected = metrics.Examples()
    with pytest.raises(UserError, match="cannot use a temporary file"):
        log_files.write_log(path, {"debug_examples": map(collected.add, examples_of_many())})
    assert sorted(os.listdir(path.parent)) == ["test_vs_posts_test.json", path.name]
    assert path.read_bytes() == kept


def test_memory_hardly_grows_with_the_examples(tmp_path, monkeypatch):
    """What a target costs is its names and places, a small part of its prompts and numbers."""
    monkeypatch.setattr(json_stream, "CHUNK", 2**15)
    monkeypatch.setattr(spool, "IN_MEMORY", 2**15)
    paths = [stored(tmp_path / str(count), count) for count in (200, 800)]
    peaks = []
    for path in paths:
        tracemalloc.start()
        collected, reader = metrics.Examples(), LogReader(path)
        for example in reader.examples():
            collected.add(example)
        assert reader.is_whole()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    sizes = [path.stat().st_size for path in paths]
    assert sizes[1] - sizes[0] > 1_000_000
    assert peaks[1] - peaks[0] < (sizes[1] - sizes[0]) / 3
