"""Bad input by the hundred: either it is right, or one or two plain lines and a status; never a
traceback, a changed file, or a wrong number that nothing is said of.
"""

import contextlib
import csv
import io
import json
import string
import tempfile
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import data
import experiment
import viz
from core import records
from core.errors import UNPRINTABLE, UserError
from model import LanguageModel
from tasks import cells, spec

hostile = settings(
    derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)
TEMPLATE_SYNTAX = [
    *("{x}", "{{", "}}", "{0.__class__}", "{text.__class__.__mro__}", "{{ jinja }}", "{% raw %}"),
    *("{!r}", "{:>99999999}", "%s", "%(text)s", "$text", "${text}", "`id`", "\\N{BULLET}", "{text"),
]
STRANGE = [
    "\0",
    "\x1b[31m",
    "\r\n",
    "\n",
    "\t",
    "\u202eabc\u202c",
    "שלום",
    "👩‍👩‍👧",
    "e\u0301",
    "\ufeff",
]
SPECIAL = ["<s>", "</s>", "<|end|>", "<|user|>", '"', "'", ",", "\\", "|", "# ", "- ", ": "]
PIECES = st.sampled_from([*TEMPLATE_SYNTAX, *STRANGE, *SPECIAL, "word", " ", "7", "é"])
CONTENT = st.one_of(st.lists(PIECES, min_size=1, max_size=6).map("".join), st.text(max_size=30))
PLAIN = settings(hostile, max_examples=60)


@contextlib.contextmanager
def unchanged(folder):
    """No file in the folder is other than it was, and none is new."""
    before = contents(folder)
    yield
    assert contents(folder) == before


def contents(folder):
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def assert_plain(said):
    assert said.startswith("error: ")
    assert 1 <= len(said.splitlines()) <= 2
    assert "Traceback" not in said and "\x1b" not in said


def right_or_refused(work):
    """What the work gives, or None where it is refused in one or two plain lines."""
    try:
        return work()
    except UserError as error:
        assert_plain(f"error: {error}")
        return None


def call(main, *flags):
    """Status and standard error of a command, run here."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()) as said,
    ):
        status = main([str(flag) for flag in flags])
    if status == 2:
        assert_plain(said.getvalue())
    return status, said.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder whose files each case writes anew."""
    return tmp_path_factory.mktemp("case")


@pytest.fixture(scope="module", autouse=True)
def quick():
    """One format of a figure is drawn sooner than three."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("reports.style.FORMATS", ("svg",))
        yield


# --- task files


def read(folder, text):
    """The tasks of a file with this text or these bytes; None where it is refused."""
    path = folder / "own.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    (folder / "rows.csv").write_text("text,label\nhi,a\n")
    with unchanged(folder):
        return right_or_refused(lambda: spec.read_tasks(path, taken=spec.builtin_tasks()))


TASK = "own:\n  source: rows.csv\n  prompt: '{text}'\n  reference: label\n"
YAML = [
    *("own", "other-task", ":", "\n", "\n  ", "\n    ", "- ", "[", "]", "{", "}", ",", "&a ", "*a"),
    *(
        "<<: *a",
        "!!python/object/apply:os.system [id]",
        "!!int ",
        "!own ",
        "? ",
        "|",
        ">",
        "'",
        '"',
    ),
    *("---", "...", "%YAML 9.9", "#", "null", "~", "yes", "1e3", "0x1F", "2020-01-01", "\t"),
    *("source: ", "rows.csv", "prompt: ", "'{text}'", "reference: ", "label", "labels: ", TASK),
]


@given(parts=st.lists(st.one_of(st.sampled_from(YAML), PIECES), max_size=14), good=st.booleans())
@settings(hostile, max_examples=150)
def test_a_task_file_of_scraps_is_read_or_refused(folder, parts, good):
    read(folder, (TASK if good else "") + "".join(parts))


@given(cut=st.integers(0, len(TASK)), at=st.integers(0, len(TASK)), more=st.binary(max_size=6))
@settings(hostile, max_examples=60)
def test_a_task_file_with_foreign_bytes_is_read_or_refused(folder, cut, at, more):
    raw = TASK.encode()
    read(folder, raw[:cut])
    read(folder, raw[:at] + more + raw[at:])


VALUES = st.recursive(
    st.one_of(CONTENT, st.none(), st.booleans(), st.integers(), st.floats(), st.dates()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(edits=st.dictionaries(st.sampled_from(list(spec.READ)), VALUES, min_size=1, max_size=3))
@settings(hostile, max_examples=100)
def test_a_value_of_a_task_file_arrives_as_it_is_or_is_refused(folder, edits):
    body = {"source": "rows.csv", "prompt": "{text}", "reference": "label"} | edits
    found = read(folder, yaml.safe_dump({"own": body}, allow_unicode=True))
    if found:
        held = found["own"].describe()
        for key, value in body.items():
            assert held[key] == (tuple(value) if isinstance(value, list) else value)


HOSTILE_FILES = {
    "nested brackets": "[" * 100_000,
    "nested braces": "own: " + "{a: " * 20_000,
    "nested dashes": "- " * 5_000,
    "nested indentation": "".join(" " * i + f"k{i}:\n" for i in range(500)),
    "aliases of aliases": "a: &a [x, x]\n"
    + "".join(
        f"k{i}: &k{i} [*{j}, *{j}]\n" for i, j in enumerate(["a", *(f"k{n}" for n in range(40))])
    ),
    "an alias of itself": "own: &a\n  source: *a\n  prompt: *a\n  reference: *a\n",
    "a list that holds itself": "own: &a [*a]\n",
    "labels that hold themselves": TASK + "  labels: &a [*a, b]\n",
    "a merge": "b: &b {source: rows.csv}\nown:\n  <<: *b\n  prompt: '{text}'\n  reference: y\n",
    "an object": "own: !!python/object/apply:os.system ['id']\n",
    "an object in a prompt": TASK.replace("'{text}'", "!!python/name:os.system '{text}'"),
    "a tag of its own": TASK.replace("'{text}'", "!own '{text}'"),
    "a binary": TASK.replace("'{text}'", "!!binary aGk="),
    "two documents": TASK + "---\n" + TASK,
    "no end of a quote": TASK + "  citation: 'never closed\n",
    "a key that is a list": "[a, b]: c\n",
    "a key that is nothing": "? \n: x\n",
    "a huge text": TASK + f"  citation: '{'x' * 3_000_000}'\n",
    "a huge number": TASK + f"  max_new_tokens: {'9' * 5000}\n",
    "many tasks": "".join(TASK.replace("own", f"own{i}") for i in range(300)),
    "the same key": TASK + "  prompt: '{text}'\n",
    "UTF-16": TASK.encode("utf-16"),
    "UTF-8 with a mark": b"\xef\xbb\xbf" + TASK.encode(),
    "Latin-1": TASK.encode() + "  citation: é\n".encode("latin-1"),
    "NUL": TASK.encode() + b"\0",
    "half a character": TASK + '  citation: "\\ud800"\n',
    "nothing": "",
    "a comment": "# nothing\n",
}
READ_ALL_THE_SAME = {"a huge text", "many tasks", "UTF-8 with a mark"}


@pytest.mark.parametrize("kind", HOSTILE_FILES)
def test_a_hostile_task_file_is_refused(tmp_path, kind):
    assert (read(tmp_path, HOSTILE_FILES[kind]) is not None) == (kind in READ_ALL_THE_SAME)


def test_a_folder_for_a_task_file_is_refused(tmp_path):
    assert right_or_refused(lambda: spec.read_tasks(tmp_path)) is None


TEMPLATE_PARTS = ["{text}", "{label[0]}", "{label[k]}", "{", "}", "{{", "}}", *TEMPLATE_SYNTAX]


@given(parts=st.lists(st.sampled_from(TEMPLATE_PARTS), min_size=1, max_size=5))
@settings(hostile, max_examples=100)
def test_a_template_names_columns_or_is_refused(parts):
    template = "".join(parts)
    try:
        fields = [field for _, field in cells.template_parts(template) if field]
    except ValueError:
        return
    assert all("{" + str(field) in template for field in fields)
    for _, name, form, conversion in string.Formatter().parse(template):
        assert not form and not conversion and "." not in (name or "")


# --- rows


def write_csv(path, rows):
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_parquet(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path)


WRITERS = {"csv": write_csv, "jsonl": write_jsonl, "parquet": write_parquet}


def task_of(folder, ending, labels="", prompt="Mood of: {text}, {text}!"):
    path = folder / f"rows-{ending}.yaml"
    body = {"source": f"rows.{ending}", "prompt": prompt, "reference": "label"}
    path.write_text(yaml.safe_dump({"own": body | labels} if labels else {"own": body}))
    return spec.read_tasks(path)


def turns(folder, ending, **settings):
    """The turns of the rows in the folder; None where they are refused."""
    own = spec.parse_spec("own", task_of(folder, ending, **settings))
    with unchanged(folder):
        rows = right_or_refused(lambda: data.load_rows(own))
    return rows and rows.turns


@pytest.mark.parametrize("ending", WRITERS)
@given(texts=st.lists(st.tuples(CONTENT, CONTENT), min_size=1, max_size=4))
@example([("x" * 200_000, "y")])
@PLAIN
def test_a_prompt_holds_the_text_of_its_row_to_the_character(folder, ending, texts):
    WRITERS[ending](folder / f"rows.{ending}", [{"text": a, "label": b} for a, b in texts])
    found = turns(folder, ending)
    assert [turn.prompt for turn in found] == [f"Mood of: {a}, {a}!" for a, _ in texts]
    assert [turn.references for turn in found] == [
        (b.strip(),) if b.strip() else () for _, b in texts
    ]


CELLS = st.recursive(
    st.one_of(CONTENT, st.none(), st.booleans(), st.integers(), st.floats(),
              st.sampled_from([10**400, -1, "\ud800", "x\udfff"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("ab"), inner, max_size=2)
    ),
    max_leaves=4,
)  # fmt: skip
ROW = st.dictionaries(st.sampled_from(["text", "label", "more"]), CELLS, max_size=3)


@given(rows=st.lists(st.one_of(ROW, CELLS), max_size=3), labels=st.booleans())
@settings(hostile, max_examples=120)
def test_a_row_of_any_kind_is_read_or_refused(folder, rows, labels):
    write_jsonl(folder / "rows.jsonl", rows)
    found = turns(folder, "jsonl", labels={"labels": ["a", "b"]} if labels else "")
    for turn, row in zip(found or (), rows):
        value = row["text"]
        assert turn.prompt == f"Mood of: {value}, {value}!" and value is not None
        assert all(isinstance(text, str) and text.encode() for text in turn.references)
        if labels:
            assert set(turn.references) <= {"a", "b"}


@cache
def whole_rows(ending):
    """The bytes of a file of four rows."""
    with tempfile.TemporaryDirectory() as folder:
        rows = [{"text": f"t{i}", "label": "ab"[i % 2]} for i in range(4)]
        WRITERS[ending](Path(folder) / "rows", rows)
        return (Path(folder) / "rows").read_bytes()


@pytest.mark.parametrize("ending", WRITERS)
@given(place=st.floats(0, 1), more=st.binary(max_size=4), cut=st.booleans())
@PLAIN
def test_a_file_of_rows_with_damaged_bytes_is_read_or_refused(folder, ending, place, more, cut):
    raw = whole_rows(ending)
    at = int(place * len(raw))
    damaged = raw[:at] + more + (b"" if cut else raw[at + len(more) :])
    (folder / f"rows.{ending}").write_bytes(damaged)
    turns(folder, ending)


ROW_FILES = {
    ("csv", "two columns of one name"): b"text,text,label\na,b,c\n",
    ("csv", "NUL"): b"text,label\n\0,\0\n",
    ("csv", "a quote that never ends"): b'text,label\n"a,b\n',
    ("csv", "nothing"): b"",
    ("csv", "a head alone"): b"text,label\n",
    ("csv", "UTF-16"): "text,label\na,b\n".encode("utf-16"),
    ("jsonl", "the same key twice"): b'{"text": "a", "text": "b", "label": "c"}\n',
    ("jsonl", "nested"): b'{"text": ' + b"[" * 100_000,
    ("jsonl", "nested just so"): b'{"text": ' + b"[" * 900 + b"]" * 900 + b', "label": "c"}\n',
    ("jsonl", "a number of 5000 digits"): b'{"text": ' + b"9" * 5000 + b"}\n",
    ("jsonl", "half a character"): b'{"text": "\\ud800", "label": "c"}\n',
    ("jsonl", "half a character in the label"): b'{"text": "a", "label": "\\udc00"}\n',
    ("jsonl", "a column of half a character"): b'{"\\ud800": "a"}\n',
    ("jsonl", "a list"): b"[]\n",
    ("jsonl", "invalid UTF-8"): b'{"text": "\xff"}\n',
    ("parquet", "nothing"): b"",
    ("parquet", "the frame alone"): b"PAR1PAR1",
}
READ_AS_THEY_ARE = {("csv", "NUL")}


@pytest.mark.parametrize(("ending", "kind"), ROW_FILES)
def test_a_hostile_file_of_rows_is_refused(tmp_path, ending, kind):
    (tmp_path / f"rows.{ending}").write_bytes(ROW_FILES[ending, kind])
    assert bool(turns(tmp_path, ending)) == ((ending, kind) in READ_AS_THEY_ARE)


def test_a_folder_for_a_file_of_rows_is_refused(tmp_path):
    (tmp_path / "rows.csv").mkdir()
    assert right_or_refused(lambda: task_of(tmp_path, "csv")) is None


def test_two_columns_of_one_name_in_parquet_are_refused(tmp_path):
    table = pa.table([["a"], ["b"], ["c"]], names=["text", "text", "label"])
    pq.write_table(table, tmp_path / "rows.parquet")
    assert turns(tmp_path, "parquet") is None


# --- prompts and labels


@cache
def speaker(form):
    return LanguageModel(tiny.model("llama"), tiny.tokenizer(), form, engine="plain", lens=None)


@pytest.mark.parametrize("form", ["chat", "plain"])
@given(texts=st.lists(CONTENT, min_size=1, max_size=3).filter(lambda texts: len(texts) % 2))
@settings(hostile, max_examples=50)
def test_the_tokens_of_a_prompt_give_its_text_and_the_text_its_tokens(form, texts):
    lm = speaker(form)
    roles = ("user", "assistant", "user")
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts)]
    prompt = lm.encode(messages)
    assert lm.tokenizer.decode(prompt.ids) == prompt.text
    assert tuple(lm.tokenizer(prompt.text, add_special_tokens=False).input_ids) == prompt.ids
    assert all(lm.renderer.escape(text)[0] in prompt.text for text in texts)


LABELS = [
    "a",
    "an",
    "ans",
    "answer",
    "answers",
    "A",
    " ",
    "the",
    "then",
    "é",
    "e\u0301",
    "<s>",
    "\n",
]
LABELS += ["1", "10", "100", "no", "not", "not likely", "likely", "😀", "positive", "positively"]


@pytest.mark.parametrize("form", ["chat", "plain"])
@given(labels=st.lists(st.sampled_from(LABELS), min_size=2, max_size=5, unique=True))
@settings(hostile, max_examples=50)
def test_labels_that_share_tokens_are_scored_from_one_place_or_refused(form, labels):
    lm = speaker(form)
    messages = [{"role": "user", "content": "is it"}]
    prompt = right_or_refused(lambda: lm.encode(messages, labels))
    if prompt is None:
        return
    assert len(set(prompt.labels)) == len(labels)
    behind = lm.continuations(labels)
    for label, ids in prompt.labels:
        whole = prompt.text + behind[label]
        assert ids == tuple(lm.tokenizer(whole, add_special_tokens=False).input_ids)
        assert ids[: prompt.start] == prompt.ids[: prompt.start] and len(ids) > prompt.start


@given(labels=st.lists(st.sampled_from(LABELS), min_size=2, max_size=4, unique=True))
@settings(hostile, max_examples=10)
def test_scores_of_labels_that_share_tokens_do_not_depend_on_each_other(labels):
    lm = speaker("plain")
    messages = [{"role": "user", "content": "is it"}]
    prompt = right_or_refused(lambda: lm.encode(messages, labels))
    if prompt is None:
        return
    [together] = lm.run([prompt])
    for label in labels:
        pair = [label, next(other for other in labels if other != label)]
        two = lm.encode(messages, pair)
        if two.start == prompt.start and set(two.labels) <= set(prompt.labels):
            [alone] = lm.run([two])
            expected = alone.label_logprobs[label]
            assert together.label_logprobs[label] == pytest.approx(expected, abs=1e-4)


# --- results and logs


class Runs(dict):
    """Target -> the bytes of its result and log."""

    def __repr__(self):
        return "the files of a run"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The files of a real run, of labels and of texts, with all that can be read."""
    base = tmp_path_factory.mktemp("runs")
    tiny.model("llama").save_pretrained(base / "model")
    tiny.tokenizer().save_pretrained(base / "model")
    flags = [
        "--model",
        base / "model",
        "--out_dir",
        base / "out",
        "--device",
        "cpu",
        "--sensitivity",
    ]
    flags += ["--limit", 3, "--max_len", 1, "--max_new_tokens", 3, "--agree", "--scoring", "both"]
    flags += ["--switch_cue", "Now another.", "--distractor", "reviews"]
    assert call(experiment.main, *flags, "--target", "quiz", "posts")[0] == 0
    found = Runs()
    for log in sorted((base / "out").rglob("*_debug.json")):
        found[log.parent.name.rpartition("__")[2]] = (
            records.result_of_debug(log).read_bytes(),
            log.read_bytes(),
        )
    return found


KINDS = ("quiz", "posts")


def place(folder, result, log):
    """Write both files of a pair; returns the log's path."""
    path = folder / "m__t" / "test_vs_d_test.json"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(result)
    records.debug_path(path).write_bytes(log)
    return records.debug_path(path)


def verified(folder, result, log):
    """Status of `viz.py verify` on these bytes, which it leaves as they are."""
    path = place(folder, result, log)
    with unchanged(folder):
        return call(viz.main, "verify", "--debug_file", path)[0]


def edited(runs, kind, which, change):
    """Both files of a run as bytes, one of them with a change made to its text."""
    files = list(runs[kind])
    files[which] = change(files[which])
    return files


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_run_wrote_is_verified(folder, runs, kind):
    assert verified(folder, *runs[kind]) == 0


@pytest.mark.parametrize("which", [0, 1], ids=["result", "log"])
@given(kind=st.sampled_from(KINDS), cut=st.floats(0, 0.9999))
@PLAIN
def test_a_file_cut_anywhere_is_damaged(folder, runs, which, kind, cut):
    files = edited(runs, kind, which, lambda raw: raw[: int(cut * len(raw))])
    assert verified(folder, *files) == 2


RAW = ["NaN", "-Infinity", "1e999", "9" * 400, "-0.0", "true", "null", "{}", "[]", '"x"', "[" * 99]
RAW += ["[" * 30 + "]" * 30, "0.5", "1e-9", "-1", "3", '"\\ud800"', '"a\\nb"', '"../../x"', "0e0"]


def leaves(value, path=()):
    """The path of every value inside lists and objects."""
    yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*path, key))


@cache
def paths_of(raw):
    return [path for path in leaves(json.loads(raw)) if path]


def at(content, path):
    for key in path:
        content = content[key]
    return content


MARK = "the value that is replaced"


def replaced(raw, path, value):
    """The file with the raw text of one value replaced."""
    content = json.loads(raw)
    at(content, path[:-1])[path[-1]] = MARK
    return json.dumps(content).replace(json.dumps(MARK), value).encode()


def removed(raw, path):
    content = json.loads(raw)
    del at(content, path[:-1])[path[-1]]
    return json.dumps(content).encode()


def nudged(raw, path):
    """The file with one number a little larger, a text a letter longer."""
    value = at(json.loads(raw), path)
    if isinstance(value, bool):
        return replaced(raw, path, json.dumps(not value))
    if isinstance(value, int | float):
        return replaced(raw, path, json.dumps(value + (1 if isinstance(value, int) else 1e-4)))
    return replaced(raw, path, json.dumps(str(value) + "x"))


def same(raw, other):
    """Do two files say the same? What a result says of its environment is no measurement."""
    try:
        one, two = json.loads(raw), json.loads(other)
    except (ValueError, RecursionError):
        return False
    for content in (one, two):
        content.pop("environment", None)
    return one == two and repr(one) == repr(two)


@pytest.mark.parametrize("which", [0, 1], ids=["result", "log"])
@given(kind=st.sampled_from(KINDS), seed=st.integers(0, 10**6), value=st.sampled_from([*RAW, "+"]))
@settings(hostile, max_examples=150)
def test_an_edited_value_is_never_verified(folder, runs, which, kind, seed, value):
    raw = runs[kind][which]
    path = paths_of(raw)[seed % len(paths_of(raw))]
    after = nudged(raw, path) if value == "+" else replaced(raw, path, value)
    files = edited(runs, kind, which, lambda raw: after)
    status = verified(folder, *files)
    assert status in ((0, 2) if same(raw, after) else (1, 2))


@pytest.mark.parametrize("which", [0, 1], ids=["result", "log"])
@given(kind=st.sampled_from(KINDS), seed=st.integers(0, 10**6))
@settings(hostile, max_examples=80)
def test_a_file_with_a_key_taken_out_is_never_verified(folder, runs, which, kind, seed):
    raw = runs[kind][which]
    path = paths_of(raw)[seed % len(paths_of(raw))]
    after = removed(raw, path)
    status = verified(folder, *edited(runs, kind, which, lambda raw: after))
    assert status in ((0, 2) if same(raw, after) or path == ("content_sha256",) else (1, 2))


@pytest.mark.parametrize("which", [0, 1], ids=["result", "log"])
@given(
    kind=st.sampled_from(KINDS), place=st.floats(0, 0.9999), more=st.binary(min_size=1, max_size=5)
)
@PLAIN
def test_foreign_bytes_in_a_file_are_never_verified(folder, runs, which, kind, place, more):
    raw = runs[kind][which]
    start = int(place * len(raw))
    after = raw[:start] + more + raw[start + len(more) :]
    status = verified(folder, *edited(runs, kind, which, lambda raw: after))
    assert status in ((0, 2) if same(raw, after) else (1, 2))


WHOLE = {
    "empty": lambda raw: b"",
    "nested": lambda raw: b'{"a": ' + b"[" * 100_000,
    "nested just so": lambda raw: raw[:-2] + b', "more": ' + b"[" * 700 + b"]" * 700 + b"}",
    "a key twice": lambda raw: raw[:-2] + b', "model": "org/other"}',
    "a mark": lambda raw: b"\xef\xbb\xbf" + raw,
    "UTF-16": lambda raw: raw.decode().encode("utf-16"),
    "invalid UTF-8": lambda raw: raw.replace(b"model", b"m\xffdel", 1),
    "NaN": lambda raw: raw[:-2] + b', "more": NaN}',
    "more digits than Python reads": lambda raw: raw[:-2] + b', "more": %b}' % (b"9" * 5000),
    "twice": lambda raw: raw * 2,
    "a list": lambda raw: b"[%b]" % raw,
    "a number": lambda raw: b"1",
}


@pytest.mark.parametrize("which", [0, 1], ids=["result", "log"])
@pytest.mark.parametrize("damage", WHOLE)
def test_a_file_that_is_no_json_of_ours_is_refused_by_every_command(folder, runs, damage, which):
    path = place(folder, *edited(runs, "quiz", which, WHOLE[damage]))
    with unchanged(folder):
        assert call(viz.main, "verify", "--debug_file", path)[0] == 2
        if which == 0:
            for command in ("metric", "layers", "table", "grid"):
                out = () if command == "table" else ("--out_dir", folder / "plots")
                assert call(viz.main, command, "--result_dir", path.parent, *out)[0] == 2


@pytest.mark.parametrize("which", [0, 1], ids=["result", "log"])
def test_a_folder_where_a_file_should_be_is_refused(tmp_path, runs, which):
    path = place(tmp_path, *runs["quiz"])
    there = (records.result_of_debug(path), path)[which]
    there.unlink()
    there.mkdir()
    assert call(viz.main, "verify", "--debug_file", path)[0] == 2
    if which == 0:
        assert call(viz.main, "table", "--result_dir", tmp_path)[0] == 2


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1], ids=["result", "log"])
def test_a_file_with_100_megabytes_of_text_is_a_mismatch(tmp_path, runs, which):
    more = b', "more": "' + b"x" * 100_000_000 + b'"}'
    files = edited(runs, "quiz", which, lambda raw: raw[:-2] + more)
    path = place(tmp_path, *files)
    assert call(viz.main, "verify", "--debug_file", path)[0] == 1


@given(kind=st.sampled_from(KINDS), seed=st.integers(0, 10**6), value=st.sampled_from([*RAW, "-"]))
@settings(hostile, max_examples=100)
def test_a_table_of_an_edited_result_is_made_or_refused(folder, runs, kind, seed, value):
    raw = runs[kind][0]
    drawn = [path for path in paths_of(raw) if path[0] not in ("config", "environment")]
    path = drawn[seed % len(drawn)]
    after = removed(raw, path) if value == "-" else replaced(raw, path, value)
    log = place(folder, after, runs[kind][1])
    with unchanged(folder):
        for form in ("csv", "markdown", "latex"):
            status = call(viz.main, "table", "--result_dir", log.parent, "--format", form)[0]
            assert status in (0, 2)


@pytest.mark.slow
@given(kind=st.sampled_from(KINDS), seed=st.integers(0, 10**6), value=st.sampled_from([*RAW, "-"]))
@settings(hostile, max_examples=4)
def test_figures_of_an_edited_result_are_drawn_in_their_folder_or_refused(
    folder, runs, kind, seed, value
):
    raw = runs[kind][0]
    drawn = [path for path in paths_of(raw) if path[0] not in ("config", "environment")]
    path = drawn[seed % len(drawn)]
    after = removed(raw, path) if value == "-" else replaced(raw, path, value)
    log = place(folder, after, runs[kind][1])
    with tempfile.TemporaryDirectory() as plots, unchanged(folder):
        for command in ("metric", "grid"):
            flags = ("--result_dir", log.parent, "--out_dir", Path(plots) / "deep")
            assert call(viz.main, command, *flags)[0] in (0, 2)
        assert {path.parent for path in contents(plots)} <= {Path(plots) / "deep"}


NAMES = ["../../x", "/abs", "a$b$c", "$\\frac{$", "{x}", "%s_&#", "שלום", "😀", "x" * 300, "a\0b"]
NAMES += ["a\nb", "\x1b[31m", "", "..", "a|b", "\ud800", "<b>", "_^{"]


def named(folder, runs, name):
    """The folder of a result whose model and distractor have this name."""
    names = {"model": name, "distractor": name}
    return place(folder, *(json.dumps(json.loads(raw) | names).encode() for raw in runs["posts"]))


@pytest.mark.parametrize("name", NAMES)
def test_a_result_with_hostile_names_is_in_a_table_or_refused(tmp_path, runs, name):
    path = named(tmp_path, runs, name)
    for form in ("csv", "markdown", "latex"):
        flags = ("--result_dir", path.parent, "--format", form)
        refused = UNPRINTABLE.search(name) is not None
        assert call(viz.main, "table", *flags)[0] == (2 if refused else 0)


@pytest.mark.parametrize("name", ["../../x", "$\\frac{$", "x" * 300])
def test_a_result_with_hostile_names_is_drawn_in_its_folder_or_refused(tmp_path, runs, name):
    path = named(tmp_path, runs, name)
    plots = tmp_path / "plots" / "deep"
    plots.mkdir(parents=True)
    before = contents(tmp_path)
    assert call(viz.main, "grid", "--result_dir", path.parent, "--out_dir", plots)[0] in (0, 2)
    new = {path for path in contents(tmp_path) if path not in before}
    assert {path.parent for path in new} <= {plots}


# --- a whole run


@given(kind=st.sampled_from(KINDS), seed=st.integers(0, 10**6), value=st.sampled_from(RAW))
@settings(hostile, max_examples=40)
def test_a_run_never_overwrites_a_result_that_was_edited(folder, runs, kind, seed, value):
    """The model is not there: a run that did not stop at the result would say so instead."""
    raw = runs[kind][0]
    path = paths_of(raw)[seed % len(paths_of(raw))]
    base = folder / "again"
    there = base / "none__quiz" / "test_vs_reviews_test.json"
    there.parent.mkdir(parents=True, exist_ok=True)
    there.write_bytes(replaced(raw, path, value))
    records.debug_path(there).write_bytes(runs[kind][1])
    with unchanged(folder):
        flags = ("--model", "none", "--target", "quiz", "--distractor", "reviews")
        status, said = call(experiment.main, *flags, "--out_dir", base)
    assert status == 2 and str(there) in said
