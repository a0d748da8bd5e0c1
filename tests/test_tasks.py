"""Claims about task files: what one may say, and that whatever is wrong is named with its line."""

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import data
from core.errors import UserError
from run.pairs import require_references
from tasks import spec

# Keys stand in known lines: source in 2, prompt in 3, reference in 4, the rest from 5.
GOOD = """\
moods:
  source: moods.jsonl
  prompt: "Mood of: {text}"
  reference: mood
"""
ROWS = [{"text": f"t{i}", "mood": ("low", "high")[i % 2], "n": i % 2} for i in range(6)]


@pytest.fixture
def folder(tmp_path):
    """A folder with the rows of GOOD."""
    write_jsonl(tmp_path / "moods.jsonl", ROWS)
    return tmp_path


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_csv(path, rows):
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path)


def read(folder, text=GOOD):
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return spec.read_tasks(path, taken=spec.builtin_tasks())


def turns(folder, text=GOOD, named="moods"):
    return data.load_rows(spec.parse_spec(named, read(folder, text))).turns


def refused(folder, text, load=read):
    with pytest.raises(UserError) as error:
        load(folder, text)
    said = str(error.value)
    assert 1 <= len(said.splitlines()) <= 2
    return said


# --- what a task file says


def test_what_a_task_leaves_out_has_a_default(folder):
    [task] = read(folder).values()
    assert (task.name, task.split, task.metric, task.labels) == ("moods", "test", "rouge", ())
    assert (task.max_new_tokens, task.extract, task.citation) == (32, None, "")
    assert not task.embedded


def test_every_key_of_a_task_arrives(folder):
    text = """
one:
  source: org/name
  config: part
  revision: refs/convert/parquet
  split: validation
  subject: topic
  prompt: |-
    Q: {question[0]}
    {options}
    A {{brace}}:
  options: choices.text
  reference: answer
  cluster: topic
  extract: number
  metric: accuracy
  max_new_tokens: 99
  citation: Someone, 2020
"""
    [task] = read(folder, text).values()
    assert task.describe() == {
        "name": "one", "source": "org/name", "prompt": "Q: {question[0]}\n{options}\nA {{brace}}:",
        "reference": "answer", "split": "validation", "config": "part",
        "revision": "refs/convert/parquet", "subject": "topic", "labels": (),
        "index_from": None, "options": "choices.text", "cluster": "topic",
        "metric": "accuracy", "extract": "number", "max_new_tokens": 99,
        "citation": "Someone, 2020",
    }  # fmt: skip


def test_one_file_holds_several_tasks(folder):
    text = GOOD + GOOD.replace("moods:", "again:") + "  metric: f1\n"
    assert {name: task.metric for name, task in read(folder, text).items()} == {
        "moods": "rouge",
        "again": "f1",
    }


@pytest.mark.parametrize(
    ("keys", "metric"),
    [
        ("", "rouge"),
        ("  labels: [low, high]\n", "accuracy"),
        ("  extract: number\n", "accuracy"),
        *((f"  metric: {name}\n", name) for name in ("rouge1", "rouge2", "exact_match", "f1")),
    ],
)
def test_a_task_has_the_metric_it_names_or_that_of_its_kind(folder, keys, metric):
    assert read(folder, GOOD + keys)["moods"].metric == metric


def test_a_name_selects_the_splits_of_a_hub_source(folder):
    known = read(folder, GOOD.replace("moods.jsonl", "org/name\n  split: validation"))
    assert str(spec.parse_spec("moods", known)) == "moods/validation"
    assert str(spec.parse_spec("moods/train", known)) == "moods/train"


def test_built_in_tasks_are_a_task_file():
    assert spec.read_tasks(spec.EMBEDDED_ROWS / "builtin.yaml") == spec.builtin_tasks()
    assert [name for name, task in spec.builtin_tasks().items() if task.embedded] == [
        "quiz", "reviews", "posts"
    ]  # fmt: skip


# --- what it may not say: line, key and words

WRONG = {
    "unknown key": (GOOD + "  metrics: rouge\n", 5, "metrics", "did you mean 'metric'?"),
    "strange key": (GOOD + "  zzz: 1\n", 5, "zzz", "known: source, config"),
    "key twice": (GOOD + "  source: x.csv\n", 5, "source", "given twice"),
    "no source": ("a:\n  prompt: '{x}'\n  reference: y\n", 1, None, "lacks the key 'source'"),
    "no prompt": ("a:\n  source: o/n\n  reference: y\n", 1, None, "lacks the key 'prompt'"),
    "no reference": ("\na:\n  source: o/n\n  prompt: '{x}'\n", 2, None, "the key 'reference'"),
    "no split": (GOOD.replace("moods.jsonl", "org/name"), 1, None, "the key 'split'"),
    "number as text": (GOOD.replace(": mood\n", ": 3\n"), 4, "reference", "'3'; put it in quotes"),
    "list as text": (GOOD.replace(": mood\n", ": [mood]\n"), 4, "reference", "must be a text"),
    "null as text": (GOOD.replace(": mood\n", ":\n"), 4, "reference", "must be a text"),
    "empty text": (GOOD.replace(": mood\n", ": ' '\n"), 4, "reference", "is empty"),
    "text as number": (GOOD + "  max_new_tokens: many\n", 5, "max_new_tokens", "whole number"),
    "zero tokens": (GOOD + "  max_new_tokens: 0\n", 5, "max_new_tokens", "1 or more"),
    "text as list": (GOOD + "  labels: low\n", 5, "labels", "must be a list"),
    "booleans as labels": (GOOD + "  labels: [yes, no]\n", 5, "labels", "'yes'; put it in quotes"),
    "one label": (GOOD + "  labels: [low]\n", 5, "labels", "two or more"),
    "equal labels": (GOOD + "  labels: [low, low]\n", 5, "labels", "different"),
    "spaced label": (GOOD + "  labels: [low, ' high']\n", 5, "labels", "spaces around"),
    "labels, other metric": (GOOD + "  labels: [low, high]\n  metric: f1\n", 6, "metric", "'f1'"),
    "accuracy of text": (GOOD + "  metric: accuracy\n", 5, "metric", "not 'accuracy'"),
    "number, other metric": (GOOD + "  extract: number\n  metric: f1\n", 6, "metric", "accuracy"),
    "unknown metric": (GOOD + "  metric: bleu\n", 5, "metric", "rouge1 or rouge2 or rouge or"),
    "unknown extract": (GOOD + "  extract: date\n", 5, "extract", "'number' only"),
    "extract with labels": (GOOD + "  labels: [a, b]\n  extract: number\n", 6, "extract", "labels"),
    "tokens with labels": (
        GOOD + "  labels: [a, b]\n  max_new_tokens: 9\n", 6, "max_new_tokens", "no labels"
    ),
    "wordings, no list": (GOOD + "  prompts: 'Q: {text}'\n", 5, "prompts", "be a list of prompts"),
    "no wordings": (GOOD + "  prompts: []\n", 5, "prompts", "be a list of prompts"),
    "number as wording": (GOOD + "  prompts: [7]\n", 5, "prompts", "must be a text"),
    "wording twice": (GOOD + "  prompts: ['{text}?', '{text}?']\n", 5, "prompts", "twice"),
    "wording, no template": (GOOD + "  prompts: ['{text!r}']\n", 5, "prompts", "not a template"),
    "wording, no column": (GOOD + "  prompts: ['Say it']\n", 5, "prompts", "names no column"),
    "wording, other columns": (
        GOOD + "  prompts: ['{text}?', '{zzz}']\n", 5, "prompts", "no. 2 shows zzz, and 'prompt'"
    ),
    "no such file": (GOOD.replace("moods.jsonl", "gone.csv"), 2, "source", "does not exist"),
    "other format": (GOOD.replace("moods.jsonl", "mine.yaml"), 2, "source", "a file of .csv"),
    "no Hub id": (GOOD.replace("moods.jsonl", "a b/c d"), 2, "source", "neither a Hub id"),
    "config of a file": (GOOD + "  config: all\n", 5, "config", "of the Hub only"),
    "revision of a file": (GOOD + "  revision: main\n", 5, "revision", "of the Hub only"),
    "a list of tasks": ("- moods\n", 1, None, "does not map names to tasks"),
    "a text": ("moods\n", 1, None, "does not map names to tasks"),
    "empty": ("", 1, None, "is empty"),
    "comments alone": ("# nothing\n", 1, None, "is empty"),
    "task without keys": ("moods: 3\n", 1, None, "at least source, prompt, reference"),
    "name of a built-in": (GOOD.replace("moods:", "mmlu:"), 1, None, "'mmlu' exists already"),
    "name twice": (GOOD + GOOD, 5, None, "'moods' exists already"),
    "name with a slash": (GOOD.replace("moods:", "my/moods:"), 1, None, "not a task name"),
    "name with a dot": (GOOD.replace("moods:", "my.moods:"), 1, None, "not a task name"),
    "syntax": ("moods:\n  source: [a\n  prompt: x\n", 3, None, "not YAML"),
    "tab": ("moods:\n\tsource: a\n", 2, None, "not YAML"),
    "two documents": (GOOD + "---\n" + GOOD, 5, None, "not YAML"),
    "control character": ("moods:\n  source: \x07\n", 2, None, "not YAML"),
    "unknown alias": ("moods: *other\n", 1, None, "not YAML"),
    "tag that calls": ("moods: !!python/object/apply:os.getcwd []\n", 1, None, "needs keys"),
    "value that calls": (GOOD.replace(": mood\n", ": !!python/name:os\n"), 4, "reference", "text"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "line", "key", "words"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named_with_file_line_and_key(folder, text, line, key, words):
    said = refused(folder, text)
    assert said.startswith(f"{folder / 'mine.yaml'}, line {line}: ")
    assert f"key '{key}' " in said if key else "key '" not in said.replace("lacks the key '", "")
    assert words in said


@pytest.mark.parametrize(
    "field",
    [
        "{text.__class__}",
        "{text.__class__.__mro__}",
        "{text[0].real}",
        "{text.0}",
        "{text!r}",
        "{text:>99999999}",
        "{text:{n}}",
        "{0}",
        "{}",
        "{text",
        "text}",
        "no column",
    ],
)
def test_a_template_reaches_columns_and_nothing_else(folder, field):
    said = refused(folder, GOOD.replace("{text}", field))
    assert said.startswith(f"{folder / 'mine.yaml'}, line 3: task 'moods': key 'prompt' ")


def test_an_index_that_is_no_index_of_its_column_names_the_row(folder):
    said = refused(folder, GOOD.replace("{text}", "{text[__class__]}"), turns)
    assert "line 3: task 'moods': row 1 of 'moods' does not fit the prompt" in said


@pytest.mark.parametrize("what", ["missing", "folder", "latin-1", "nul"])
def test_a_path_that_cannot_be_read_is_named(folder, what):
    path = folder / ("mine\0.yaml" if what == "nul" else "mine.yaml")
    if what == "folder":
        path.mkdir()
    elif what == "latin-1":
        path.write_bytes(GOOD.replace("moods:", "# caf\xe9\nmoods:").encode("latin-1"))
    with pytest.raises(UserError, match="cannot read --task_file") as error:
        spec.read_tasks(path)
    assert len(str(error.value).splitlines()) == 1


def test_a_file_nested_too_deep_is_refused(folder):
    assert "not a task file" in refused(folder, "[" * 5000)


# --- rows


@pytest.mark.parametrize("write", [write_jsonl, write_csv, write_parquet])
@pytest.mark.parametrize("reference", ["mood", "n"])
def test_a_label_is_named_by_its_text_or_its_index(folder, write, reference):
    name = f"rows.{write.__name__.removeprefix('write_')}"
    write(folder / name, ROWS)
    text = GOOD.replace("moods.jsonl", name).replace(": mood\n", f": {reference}\n")
    found = turns(folder, text + "  labels: [low, high]\n")
    assert [turn.prompt for turn in found] == [f"Mood of: t{i}" for i in range(6)]
    assert [turn.references for turn in found] == [("low",), ("high",)] * 3


@pytest.mark.parametrize("write", [write_jsonl, write_csv, write_parquet])
def test_texts_survive_their_format(folder, write):
    name = f"rows.{write.__name__.removeprefix('write_')}"
    texts = ['say "no", then go', "two\nlines", "été 木", "{braces} stay"]
    write(folder / name, [{"text": text, "mood": text} for text in texts])
    found = turns(folder, GOOD.replace("moods.jsonl", name))
    assert [turn.prompt for turn in found] == [f"Mood of: {text}" for text in texts]
    assert [turn.references for turn in found] == [(text,) for text in texts]


def test_references_are_a_text_a_number_or_a_list(folder):
    values = [" a ", 12, 1.5, ["b", " c "], ["", None, "d"]]
    write_jsonl(folder / "moods.jsonl", [{"text": "t", "mood": value} for value in values])
    found = [turn.references for turn in turns(folder)]
    assert found == [("a",), ("12",), ("1.5",), ("b", "c"), ("d",)]


def test_labels_that_are_numbers_are_never_taken_for_an_index(folder):
    text = GOOD.replace(": mood\n", ": n\n") + "  labels: ['1', '2']\n"
    write_jsonl(folder / "moods.jsonl", [{"text": "a", "n": 1}, {"text": "b", "n": "2"}])
    assert [turn.references for turn in turns(folder, text)] == [("1",), ("2",)]
    write_jsonl(folder / "moods.jsonl", [{"text": "a", "n": 0}])
    assert "0 is not one of 1, 2." in refused(folder, text, turns)


@pytest.mark.parametrize("value", ["medium", "Low", 3, -2, 1.5, "1e0"])
def test_a_value_that_is_no_label_names_its_row_and_the_labels(folder, value):
    write_jsonl(folder / "moods.jsonl", [*ROWS, {"text": "t", "mood": value}])
    said = refused(folder, GOOD + "  labels: [low, high]\n", turns)
    assert "line 4: task 'moods': row 7 of 'moods', column 'mood'" in said
    assert f"{value!r} is not one of low, high or an index 0 to 1." in said


LABELS = "  labels: [low, high]\n"


@pytest.mark.parametrize(
    ("value", "labels"),
    [
        *((value, labels) for value in (None, "", float("nan")) for labels in ("", LABELS)),
        ("-1", LABELS),  # as data sets of the Hub mark rows without a label
        (-1, LABELS),
    ],
)
def test_a_row_without_a_reference_is_counted(folder, value, labels):
    write_jsonl(folder / "moods.jsonl", [*ROWS, {"text": "t", "mood": value}])
    rows = data.load_rows(spec.parse_spec("moods", read(folder, GOOD + labels)))
    with pytest.raises(UserError, match=r"no reference answer in 1 of 7 rows.*column 'mood'"):
        require_references(rows)


@pytest.mark.parametrize(
    ("old", "new", "line", "column"),
    [
        ("{text}", "{txt}", 3, "txt"),
        (": mood\n", ": moods\n", 4, "moods"),
        (": mood\n", ": mood\n  subject: area\n", 5, "area"),
    ],
)
def test_a_missing_column_lists_those_that_are_there(folder, old, new, line, column):
    said = refused(folder, GOOD.replace(old, new), turns)
    assert f"mine.yaml, line {line}: task 'moods': " in said
    assert f"no column '{column}'. They have: text, mood, n." in said


def test_a_row_without_a_value_for_the_prompt_is_named(folder):
    for row in ({"mood": "low"}, {"text": None, "mood": "low"}):
        write_jsonl(folder / "moods.jsonl", [*ROWS, row])
        assert "line 3: task 'moods': row 7 of 'moods' has no 'text'" in refused(
            folder, GOOD, turns
        )


def test_a_reference_without_the_number_to_extract_is_named(folder):
    said = refused(folder, GOOD + "  extract: number\n", turns)
    assert "line 4: task 'moods': row 1 of 'moods', column 'mood': there is no number" in said


def test_a_reference_of_another_kind_is_named(folder):
    write_jsonl(folder / "moods.jsonl", [{"text": "t", "mood": {"text": "low"}}])
    assert "is neither a text nor a list of texts" in refused(folder, GOOD, turns)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b'{"text": "t", "mood": "m"}\n{"text": ', "line 2"),
        ("a.jsonl", b'["t", "m"]\n', "line 1 is not an object"),
        ("a.jsonl", b'{"text": "\xe9"}\n', "decode"),
        ("a.jsonl", b"", "has no rows"),
        ("a.csv", b"text,mood\nt,m,x\n", "line 2 has more or fewer cells"),
        ("a.csv", b"text,mood\nt\n", "line 2 has more or fewer cells"),
        ("a.csv", b'text,mood\n"t,m\n', "unexpected end of data"),
        ("a.csv", b"text,mood\n", "has no rows"),
        ("a.parquet", b"PAR1", "cannot read"),
    ],
)
def test_a_damaged_file_is_named_with_the_place(folder, name, content, words):
    (folder / name).write_bytes(content)
    said = refused(folder, GOOD.replace("moods.jsonl", name), turns)
    assert said.startswith(f"{folder / 'mine.yaml'}, line 2: task 'moods': ")
    assert words in said


def test_a_file_has_one_split_and_may_have_subjects(folder):
    rows = [{**row, "area": f"a{i % 3}"} for i, row in enumerate(ROWS)]
    write_jsonl(folder / "moods.jsonl", rows)
    text = GOOD + "  subject: area\n  split: dev\n"
    assert [turn.prompt for turn in turns(folder, text, "moods.a1/dev")] == [
        "Mood of: t1",
        "Mood of: t4",
    ]
    with pytest.raises(UserError, match="Known splits: dev"):
        turns(folder, text, "moods/test")


def test_a_source_is_relative_to_its_task_file(folder, monkeypatch):
    monkeypatch.chdir(Path(data.__file__).parent)
    assert len(turns(folder)) == 6


def test_a_hub_source_of_ones_own_is_read_from_data_root(folder):
    (folder / "root/org/name/data").mkdir(parents=True)
    for split, count in (("train", 6), ("validation", 4)):
        write_parquet(folder / f"root/org/name/data/{split}-0.parquet", ROWS[:count])
    known = read(folder, GOOD.replace("moods.jsonl", "org/name\n  split: validation"))
    for text, count in (("moods", 4), ("moods/train", 6)):
        rows = data.load_rows(spec.parse_spec(text, known), str(folder / "root"))
        assert len(rows.turns) == count
