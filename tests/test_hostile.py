"""Bad input by the hundred: either it is right, or one or two plain lines and a status; never a
traceback, a changed file, or a wrong number that nothing is said of.
"""

import csv
import json
import re
from functools import cache

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from refusals import call, right_or_refused, unchanged

import data
import experiment
import viz
from core import records
from core.errors import UNPRINTABLE
from model import LanguageModel
from tasks import spec

hostile = settings(
    derandomize=True, database=None, deadline=None, max_examples=25,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
STRANGE = ["{x}", "{{", "}}", "{0.__class__}", "{{ jinja }}", "{:>99999999}", "%s", "$text", "\0",
           "\x1b[31m", "\r\n", "\n", "\t", "\u202eabc\u202c", "שלום", "👩‍👩‍👧", "e\u0301", "\ufeff",
           "<s>", "<|end|>", '"', "'", ",", "\\", "# ", "- ", ": ", "word", " ", "7"]  # fmt: skip
PIECES = st.sampled_from(STRANGE)
CONTENT = st.one_of(st.lists(PIECES, min_size=1, max_size=6).map("".join), st.text(max_size=30))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder whose files each case writes anew."""
    return tmp_path_factory.mktemp("case")


# --- task files

TASK = "own:\n  source: rows.csv\n  prompt: '{text}'\n  reference: label\n"
YAML = ["own", ":", "\n", "\n  ", "- ", "[", "]", "{", "}", ",", "&a ", "*a", "<<: *a", "!!int ",
        "!!python/object/apply:os.system [id]", "? ", "|", "---", "%YAML 9.9", "null", "yes", "1e3",
        "source: ", "rows.csv", "prompt: ", "'{text}'", "reference: ", "labels: ",
        TASK]  # fmt: skip


def read(folder, text):
    """The tasks of a file with this text or these bytes; None where it is refused."""
    path = folder / "own.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    (folder / "rows.csv").write_text("text,label\nhi,a\n")
    with unchanged(folder):
        return right_or_refused(lambda: spec.read_tasks(path, taken=spec.builtin_tasks()))


@given(
    parts=st.lists(st.one_of(st.sampled_from(YAML), PIECES), max_size=14),
    at=st.integers(0, len(TASK)),
    more=st.binary(max_size=6),
)
@hostile
def test_a_task_file_of_scraps_is_read_or_refused(folder, parts, at, more):
    read(folder, "".join(parts))
    read(folder, TASK + "".join(parts))
    read(folder, TASK.encode()[:at] + more + TASK.encode()[at:])


VALUES = st.recursive(
    st.one_of(CONTENT, st.none(), st.booleans(), st.integers(), st.floats(), st.dates()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(edits=st.dictionaries(st.sampled_from(list(spec.READ)), VALUES, min_size=1, max_size=3))
@hostile
def test_a_value_of_a_task_file_arrives_as_it_is_or_is_refused(folder, edits):
    body = {"source": "rows.csv", "prompt": "{text}", "reference": "label"} | edits
    found = read(folder, yaml.safe_dump({"own": body}, allow_unicode=True))
    for key, value in body.items() if found else ():
        assert found["own"].describe()[key] == (tuple(value) if isinstance(value, list) else value)


HOSTILE_FILES = {
    "nested brackets": "[" * 100_000,
    "aliases of aliases": "a: &k0 [x]\n"
    + "".join(f"k{i}: &k{i} [*k{i - 1}, *k{i - 1}]\n" for i in range(1, 40)),
    "labels that hold themselves": TASK + "  labels: &a [*a, b]\n",
    "an object": "own: !!python/object/apply:os.system ['id']\n",
    "two documents": TASK + "---\n" + TASK,
    "the same key": TASK + "  prompt: '{text}'\n",
    "UTF-16": TASK.encode("utf-16"),
    "half a character": TASK + '  citation: "\\ud800"\n',
    "nothing": "",
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE_FILES)
def test_a_hostile_task_file_is_refused(tmp_path, kind):
    assert read(tmp_path, HOSTILE_FILES[kind]) is None


# --- rows


def write_csv(path, rows):
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


WRITERS = {
    "csv": write_csv,
    "jsonl": lambda path, rows: path.write_text("".join(json.dumps(row) + "\n" for row in rows)),
    "parquet": lambda path, rows: pq.write_table(pa.Table.from_pylist(rows), path),
}


def turns(folder, ending, **more):
    """The turns of the rows in the folder; None where they are refused."""
    body = {"source": f"rows.{ending}", "prompt": "Mood of: {text}, {text}!", "reference": "label"}
    (folder / "rows.yaml").write_text(yaml.safe_dump({"own": body | more}))
    own = spec.parse_spec("own", spec.read_tasks(folder / "rows.yaml"))
    with unchanged(folder):
        rows = right_or_refused(lambda: data.load_rows(own))
    return rows and rows.turns


@pytest.mark.parametrize("ending", WRITERS)
@given(texts=st.lists(st.tuples(CONTENT, CONTENT), min_size=1, max_size=4))
@example([("x" * 200_000, "y")])
@hostile
def test_a_prompt_holds_the_text_of_its_row_to_the_character(folder, ending, texts):
    WRITERS[ending](folder / f"rows.{ending}", [{"text": a, "label": b} for a, b in texts])
    found = turns(folder, ending)
    assert [turn.prompt for turn in found] == [f"Mood of: {a}, {a}!" for a, _ in texts]
    references = [(b.strip(),) if b.strip() else () for _, b in texts]
    assert [turn.references for turn in found] == references


CELLS = st.one_of(VALUES.filter(lambda value: json.dumps(value, default=str)), PIECES)
ROW = st.dictionaries(st.sampled_from(["text", "label", "more"]), CELLS, max_size=3)


@given(rows=st.lists(st.one_of(ROW, CELLS), max_size=3), labels=st.booleans())
@hostile
def test_a_row_of_any_kind_is_read_or_refused(folder, rows, labels):
    text = "".join(json.dumps(row, default=str) + "\n" for row in rows)
    (folder / "rows.jsonl").write_text(text, encoding="utf-8", errors="surrogatepass")
    for turn in turns(folder, "jsonl", **({"labels": ["a", "b"]} if labels else {})) or ():
        assert turn.prompt.startswith("Mood of: ") and turn.prompt.encode()
        assert set(turn.references) <= {"a", "b"} if labels else all(turn.references)


ROW_FILES = {
    ("csv", "two columns of one name"): b"text,text,label\na,b,c\n",
    ("csv", "a quote that never ends"): b'text,label\n"a,b\n',
    ("csv", "a head alone"): b"text,label\n",
    ("csv", "UTF-16"): "text,label\na,b\n".encode("utf-16"),
    ("jsonl", "the same key twice"): b'{"text": "a", "text": "b", "label": "c"}\n',
    ("jsonl", "nested"): b'{"text": ' + b"[" * 100_000,
    ("jsonl", "a number of 5000 digits"): b'{"text": ' + b"9" * 5000 + b"}\n",
    ("jsonl", "half a character"): b'{"text": "\\ud800", "label": "c"}\n',
    ("jsonl", "a list"): b"[]\n",
    ("jsonl", "invalid UTF-8"): b'{"text": "\xff"}\n',
    ("parquet", "the frame alone"): b"PAR1PAR1",
}


@pytest.mark.parametrize(("ending", "kind"), ROW_FILES)
def test_a_hostile_file_of_rows_is_refused(tmp_path, ending, kind):
    (tmp_path / f"rows.{ending}").write_bytes(ROW_FILES[ending, kind])
    assert turns(tmp_path, ending) is None


# --- prompts and labels


@cache
def speaker(form):
    return LanguageModel(tiny.model("llama"), tiny.tokenizer(), form, engine="plain", lens=None)


@pytest.mark.parametrize("form", ["chat", "plain"])
@given(texts=st.lists(CONTENT, min_size=1, max_size=3).filter(lambda texts: len(texts) % 2))
@hostile
def test_the_tokens_of_a_prompt_give_its_text_and_the_text_its_tokens(form, texts):
    lm = speaker(form)
    roles = ("user", "assistant", "user")
    prompt = lm.encode([{"role": role, "content": text} for role, text in zip(roles, texts)])
    assert lm.tokenizer.decode(prompt.ids) == prompt.text
    assert tuple(lm.tokenizer(prompt.text, add_special_tokens=False).input_ids) == prompt.ids
    assert all(lm.renderer.escape(text)[0] in prompt.text for text in texts)


LABELS = ["a", "an", "ans", "answer", "answers", "A", " ", "the", "then", "é", "e\u0301", "<s>",
          "\n", "1", "10", "no", "not", "not likely", "😀", "positive", "positively"]  # fmt: skip


@pytest.mark.parametrize("form", ["chat", "plain"])
@given(labels=st.lists(st.sampled_from(LABELS), min_size=2, max_size=5, unique=True))
@hostile
def test_labels_that_share_tokens_are_scored_from_one_place_or_refused(form, labels):
    lm = speaker(form)
    prompt = right_or_refused(lambda: lm.encode([{"role": "user", "content": "is it"}], labels))
    for label, ids in prompt.labels if prompt else ():
        assert label in labels and label in lm.tokenizer.decode(ids).replace("< s>", "<s>")
        assert ids[: prompt.start] == prompt.ids[: prompt.start] and len(ids) > prompt.start


# --- results and logs


@pytest.fixture(scope="module")
def runs(model, tmp_path_factory):
    """Target -> the bytes of its result and log, of a real run with all that can be read."""
    out_dir = tmp_path_factory.mktemp("runs")
    flags = ["--model", model, "--out_dir", out_dir, "--device", "cpu", "--sensitivity", "--agree"]
    flags += ["--limit", 3, "--max_len", 1, "--max_new_tokens", 3, "--scoring", "both"]
    flags += ["--switch_cue", "Now another.", "--distractor", "reviews"]
    assert call(experiment.main, *flags, "--target", "quiz", "posts")[0] == 0
    logs = sorted(out_dir.rglob("*_debug.json"))
    names = [log.parent.name.rpartition("__")[2] for log in logs]
    return {
        name: (records.result_of_debug(log).read_bytes(), log.read_bytes())
        for name, log in zip(names, logs)
    }


def place(folder, result, log):
    """Write both files of a pair; returns the log's path."""
    path = folder / "none__quiz" / "test_vs_reviews_test.json"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(result)
    records.debug_path(path).write_bytes(log)
    return records.debug_path(path)


def statuses(folder, result, log):
    """Status of `viz.py verify` and of `viz.py table` on these bytes, which they leave alone."""
    path = place(folder, result, log)
    with unchanged(folder):
        verify = call(viz.main, "verify", "--debug_file", path)[0]
        return verify, call(viz.main, "table", "--result_dir", path.parent)[0]


@pytest.mark.parametrize("kind", ["quiz", "posts"])
def test_what_a_run_wrote_is_verified(folder, runs, kind):
    assert statuses(folder, *runs[kind]) == (0, 0)


RAW = ["1e999", "9" * 400, "true", "null", "{}", "[]", '"x"', "[" * 30 + "]" * 30, "0.5", "-1"]
NUMBER = re.compile(rb"(?<=[ \n])-?\d+(\.\d+)?(?=[,\n])|\"\w+\"(?=[,\n])")


@pytest.mark.parametrize("which", [0, 1], ids=["result", "log"])
@given(kind=st.sampled_from(["quiz", "posts"]), at=st.floats(0, 1), value=st.sampled_from(RAW))
@hostile
def test_an_edited_value_is_never_verified_nor_shown(folder, runs, which, kind, at, value):
    files = list(runs[kind])
    end = files[0].index(b'"environment"') if which == 0 else len(files[1])
    found = list(NUMBER.finditer(files[which], 0, end))
    spot = found[int(at * (len(found) - 1))]
    if spot[0] == value.encode():
        return
    files[which] = files[which][: spot.start()] + value.encode() + files[which][spot.end() :]
    verify, table = statuses(folder, *files)
    assert verify in (1, 2) and (table == 2 or which == 1)


WHOLE = {
    "empty": lambda raw: b"",
    "cut": lambda raw: raw[:-40],
    "nested": lambda raw: b'{"a": ' + b"[" * 100_000,
    "a key twice": lambda raw: raw[:-2] + b', "model": "org/other"}',
    "invalid UTF-8": lambda raw: raw.replace(b"model", b"m\xffdel", 1),
    "NaN": lambda raw: raw[:-2] + b', "more": NaN}',
    "half a character": lambda raw: raw[:-2] + b', "more": "\\ud800"}',
    "more digits than Python reads": lambda raw: raw[:-2] + b', "more": %b}' % (b"9" * 5000),
    "a list": lambda raw: b"[%b]" % raw,
    "of another version": lambda raw: re.sub(
        rb'"schema_version": \d+', b'"schema_version": 1', raw
    ),
}


@pytest.mark.parametrize("which", [0, 1], ids=["result", "log"])
@pytest.mark.parametrize("damage", WHOLE)
def test_a_file_that_is_no_json_of_ours_is_refused_by_every_command(folder, runs, damage, which):
    files = list(runs["quiz"])
    files[which] = WHOLE[damage](files[which])
    path = place(folder, *files)
    with unchanged(folder):
        assert call(viz.main, "verify", "--debug_file", path)[0] == 2
        for command in ("metric", "layers", "table", "grid") if which == 0 else ():
            out = () if command == "table" else ("--out_dir", folder / "plots")
            assert call(viz.main, command, "--result_dir", path.parent, *out)[0] == 2


NAMES = [
    "../../x",
    "a$b$c",
    "$\\frac{$",
    "{x}",
    "%s_&#",
    "שלום",
    "x" * 300,
    "a\0b",
    "a\nb",
    "",
    "<b>",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_result_with_hostile_names_is_in_a_table_or_refused(tmp_path, runs, name):
    path = place(tmp_path, *runs["posts"])
    result = json.loads(runs["posts"][0]) | {"model": name, "distractor": name}
    records.write_json(records.result_of_debug(path), result)
    for form in ("csv", "markdown", "latex"):
        flags = ("--result_dir", path.parent, "--format", form)
        refused = UNPRINTABLE.search(name) is not None
        assert call(viz.main, "table", *flags)[0] == (2 if refused else 0)


def test_a_run_never_overwrites_a_result_that_was_edited(folder, runs):
    """The model is not there: a run that did not stop at the result would say so instead."""
    result, log = runs["quiz"]
    path = place(folder, result.replace(b'"n": 3', b'"n": 4'), log)
    with unchanged(folder):
        flags = ("--model", "none", "--target", "quiz", "--distractor", "reviews")
        status, said = call(experiment.main, *flags, "--out_dir", folder)
    assert status == 2 and str(records.result_of_debug(path)) in said
