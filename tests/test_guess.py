"""Claims about `python data.py FILE`: what it prints is a task file, and runs as it is printed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import fake_hub
import hub
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from data import load_rows
from tasks import draft
from tasks.guess import guess
from tasks.sources import Table
from tasks.spec import read_tasks
from tasks.task import TaskSpec

ROOT = Path(__file__).parents[1]
OPTIONS = ["tin", "oak", "silk", "wool"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def jsonl(name, rows):
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


def printed(capsys, *flags):
    """What the command prints; it must end well."""
    with pytest.raises(SystemExit) as ended:
        draft.main(load_rows, list(map(str, flags)))
    out, error = capsys.readouterr()
    assert (ended.value.code, error) == (0, "")
    return out


def as_task(text, data_root=None):
    """The task of a printed file, saved where it says, and its rows."""
    Path("own.yaml").write_text(text)
    [task] = read_tasks(Path("own.yaml")).values()
    return task, load_rows(TaskSpec(task, None, task.split), data_root)


def drafted(capsys, *flags, data_root=None):
    """The task that the command drafts, its first turn, which must be the one that is shown."""
    more = ["--data_root", data_root] if data_root else []
    text = printed(capsys, *flags, *more)
    task, rows = as_task(text, data_root)
    shown = text.partition("# The first prompt:\n")[2].partition("# Its right answer: ")
    assert [line.removeprefix("#   ") for line in shown[0].splitlines()] == (
        rows.turns[0].prompt.splitlines()
    )
    assert shown[2].split() == " | ".join(rows.turns[0].references).split()
    body = [line for line in text.splitlines() if line.startswith("  ") and line[2] != " "]
    assert all("# guess: " in line for line in body if not line.startswith("  source"))
    return task, rows


def test_nested_answers_are_references_and_the_question_comes_last(capsys):
    rows = [
        {"id": f"x{i}", "title": "Ada", "context": f"Ada lives in K{i}.", "question": "Where?",
         "answers": {"text": [f"K{i}", f"in K{i}"], "answer_start": [13, 10]}}
        for i in range(4)
    ]  # fmt: skip
    task, found = drafted(capsys, jsonl("squad.jsonl", rows))
    assert (task.reference, task.labels, task.metric) == ("answers.text", (), "rouge")
    assert found.turns[1].prompt == "Context: Ada lives in K1.\nQuestion: Where?\nAnswer:"
    assert found.turns[1].references == ("K1", "in K1")


@pytest.mark.parametrize("form", ["lists", "objects"])
def test_choices_with_letters_and_numbers_as_keys_are_options(capsys, form):
    labels = [["A", "B", "C", "D"], ["1", "2", "3", "4"]] * 2
    rows = [{"question": f"q{i}?", "answerKey": key[i]} for i, key in enumerate(labels)]
    for row, key in zip(rows, labels):
        row["choices"] = {"text": OPTIONS, "label": key}
        if form == "objects":
            row["choices"] = [{"text": t, "label": k} for t, k in zip(OPTIONS, key)]
    task, found = drafted(capsys, jsonl("arc.jsonl", rows))
    assert (task.options, task.labels, task.index_from) == ("choices.text", tuple("ABCD"), 1)
    assert [turn.references for turn in found.turns] == [("A",), ("B",), ("C",), ("D",)]
    lines = "\n".join(f"{letter}. {text}" for letter, text in zip("ABCD", OPTIONS))
    assert found.turns[0].prompt.endswith(f"\nQuestion: q0?\n{lines}\nAnswer:")


@pytest.mark.parametrize(
    ("answers", "index_from", "labels"),
    [
        ([0, 3, 1, 2], None, "ABCD"),
        ([4, 1, 2, 3], 1, "DABC"),
        (["A", "D", "B", "C"], None, "ADBC"),
        (["0", "3", "1", "2"], None, "ADBC"),
    ],
)
def test_an_index_and_a_letter_name_an_option(capsys, answers, index_from, labels):
    rows = [{"question": f"q{i}?", "options": OPTIONS, "answer": a} for i, a in enumerate(answers)]
    task, found = drafted(capsys, jsonl("own.jsonl", rows))
    assert task.index_from == index_from
    named = labels if index_from else "".join("ABCD"[int(a)] if str(a).isdigit() else a
                                              for a in answers)  # fmt: skip
    assert [turn.references[0] for turn in found.turns] == list(named)


@pytest.mark.parametrize(("answers", "told"), [([1, 2], False), ([1, 4], True), ([0, 2], True)])
def test_where_an_index_begins_is_said_to_be_open_where_no_row_shows_it(capsys, answers, told):
    rows = [{"question": f"q{i}?", "options": OPTIONS, "answer": a} for i, a in enumerate(answers)]
    text = printed(capsys, jsonl("own.jsonl", rows))
    assert ("no row shows whether the first option is 0 or 1" in text) == (not told)


def test_the_text_of_an_option_is_matched_exactly(capsys):
    rows = [{"question": f"q{i}?", "choices": OPTIONS, "answer": OPTIONS[i]} for i in range(4)]
    task, found = drafted(capsys, jsonl("texts.jsonl", rows))
    assert (task.labels, task.metric) == ((), "exact_match")
    assert "\nA. tin\n" in found.turns[0].prompt and found.turns[2].references == ("silk",)


def test_options_in_columns_of_their_own(capsys):
    rows = [
        {"premise": f"p{i}", "choice1": f"a{i}", "choice2": f"b{i}", "label": i % 2}
        for i in range(4)
    ]
    task, found = drafted(capsys, jsonl("copa.jsonl", rows))
    assert task.labels == ("A", "B")
    assert found.turns[1].prompt.endswith("\nPremise: p1\nA. a1\nB. b1\nAnswer:")
    assert found.turns[1].references == ("B",)


def test_two_sentences_are_no_options(capsys):
    rows = [{"sentence1": f"a{i}", "sentence2": f"b{i}", "label": i % 2} for i in range(6)]
    task, found = drafted(capsys, jsonl("pairs.jsonl", rows))
    assert task.labels == ("0", "1")
    assert "Sentence1: a0\nSentence2: b0" in found.turns[0].prompt


def test_classes_are_labels_by_their_names(capsys):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["ham", "spam"])})
    rows = {"text": ["win", "hi", "lunch"], "label": [1, 0, 0]}
    Dataset.from_dict(rows, features=features).to_parquet("mails.parquet")
    task, found = drafted(capsys, "mails.parquet")
    assert task.labels == ("ham", "spam")
    assert [turn.references for turn in found.turns] == [("spam",), ("ham",), ("ham",)]


@pytest.mark.parametrize("ending", ["csv", "tsv", "json"])
def test_a_table_of_ones_own(capsys, ending):
    rows = [
        {"id": i, "title": f"t{i}", "body": f"b{i}", "team": ["billing", "technical"][i % 2]}
        for i in range(6)
    ]
    frame, name = pandas.DataFrame(rows), f"tickets.{ending}"
    if ending == "json":
        frame.to_json(name, orient="records")
    else:
        frame.to_csv(name, index=False, sep="\t" if ending == "tsv" else ",")
    task, found = drafted(capsys, name)
    assert (task.name, task.reference, task.labels) == ("tickets", "team", ("billing", "technical"))
    assert found.turns[0].prompt.splitlines()[1:] == ["Title: t0", "Body: b0", "Team:"]


def test_yes_and_no_are_quoted(capsys):
    Path("said.csv").write_text("text,ok\n" + "".join(f"t{i},{'YN'[i % 2]}\n" for i in range(4)))
    assert drafted(capsys, "said.csv")[0].labels == ("N", "Y")
    Path("said.csv").write_text("text,ok\na,Yes\nb,no\nc,No\nd,yes\n")
    found = drafted(capsys, "said.csv")[1]
    assert [turn.references[0] for turn in found.turns] == ["yes", "no", "no", "yes"]


def test_numbers_are_extracted(capsys):
    rows = [{"question": f"{i} + 1?", "answer": f"{i} + 1 = {i + 1}\n#### {i + 1}"}
            for i in range(5)]  # fmt: skip
    task, found = drafted(capsys, jsonl("sums.jsonl", rows))
    assert (task.extract, task.metric) == ("number", "accuracy")
    assert "End with #### and the number." in found.turns[0].prompt


def test_long_answers_get_room(capsys):
    rows = [{"article": f"a{i}", "highlights": "word " * 60} for i in range(4)]
    task, found = drafted(capsys, jsonl("news.jsonl", rows))
    assert task.max_new_tokens == 128
    assert found.turns[0].prompt == "Article: a0\nHighlights:"


def test_the_answer_in_other_words_is_kept_out_of_the_prompt(capsys):
    rows = [
        {"text": f"t{i}", "label": i % 2, "label_text": ["bad", "good"][i % 2],
         "mood": ["low", "high"][i % 2], "explanation": "since"}
        for i in range(8)
    ]  # fmt: skip
    found = drafted(capsys, jsonl("said.jsonl", rows))[1]
    assert found.turns[0].prompt.splitlines()[1:] == ["Text: t0", "Label:"]


@pytest.mark.parametrize(
    ("source", "split", "labels"),
    [
        (hub.MMLU, "test", tuple("ABCD")),
        (hub.REVIEWS, "test", ("0", "1")),
        (hub.TWEETS, "validation", ()),  # the test split has no answers
        (hub.NEWS, "test", ()),
        (hub.PROBLEMS, "test", ()),
    ],
)
def test_a_data_set_of_the_hub(capsys, tmp_path, source, split, labels):
    root = hub.write_all(tmp_path / "hub")
    task, _ = drafted(capsys, source, data_root=root)
    assert (task.source, task.split, task.labels) == (source, split, labels)
    assert task.config in (hub.CONFIGS.get(source), None)
    if source == hub.MMLU:
        assert (task.options, task.subject, task.name) == ("choices", "subject", "mmlu_own")


def test_a_data_set_that_is_fetched(tmp_path):
    root = hub.write_all(tmp_path / "hub")
    with fake_hub.running() as served:
        served.repos[hub.TWEETS] = root / hub.TWEETS
        fetching = {"HF_ENDPOINT": served.endpoint, "HF_HOME": str(tmp_path / "cache")}
        done = subprocess.run(
            [sys.executable, ROOT / "data.py", hub.TWEETS], capture_output=True, text=True,
            env=os.environ | fetching | {"HF_HUB_OFFLINE": "0"},
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "  split: validation  # guess: of validation, test\n" in done.stdout


def test_the_configuration_that_holds_everything_is_the_guess(capsys, tmp_path, monkeypatch):
    root = hub.write_all(tmp_path / "hub")
    splits = ["test"]
    monkeypatch.setattr(draft, "list_splits", lambda *_: (["anatomy", "all"], splits))
    text = printed(capsys, hub.MMLU, "--data_root", root)
    assert "  config: all  # guess: of anatomy, all\n" in text


def test_a_split_can_be_named(capsys, tmp_path):
    root = hub.write_all(tmp_path / "hub")
    text = printed(capsys, hub.REVIEWS, "--data_root", root, "--split", "train")
    assert as_task(text, root)[0].split == "train"


def test_what_cannot_be_guessed_is_a_gap_beside_the_columns(capsys):
    rows = [{"note": f"n{i}", "more": {"a": [i]}} for i in range(3)]
    text = printed(capsys, jsonl("notes.jsonl", rows))
    assert "#   note: 'n0'" in text and "#   more.a: [0]" in text
    assert "  reference: FILL_IN  # the column with the right answer" in text
    Path("own.yaml").write_text(text)
    assert read_tasks(Path("own.yaml"))["notes"].prompt == "Note: {note}\nAnswer:"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("none.csv", None, "there is no file none.csv."),
        ("rows.txt", "a", "rows.txt is neither a file of .csv, "),
        ("empty.csv", "", "empty.csv has no rows."),
        ("torn.json", "{", "cannot read"),
        ("lists.json", "[[1]]", "no list of objects"),
        ("ragged.csv", "a,b\n1\n", "more or fewer cells"),
    ],
)
def test_errors_are_one_line(capsys, name, content, said):
    if content is not None:
        Path(name).write_text(content)
    with pytest.raises(SystemExit) as ended:
        draft.main(load_rows, [name])
    out, error = capsys.readouterr()
    assert ended.value.code == 2 and out == ""
    assert error.startswith("error: ") and said in error and error.count("\n") == 1


def test_rows_that_do_not_fit_are_an_error_below_the_draft(capsys):
    rows = [{"question": "q?", "choices": ["a", None], "answer": i} for i in (0, 1, 0)]
    with pytest.raises(SystemExit) as ended:
        draft.main(load_rows, [jsonl("ragged.jsonl", rows)])
    out, error = capsys.readouterr()
    assert ended.value.code == 2 and "options: choices" in out
    assert error.startswith("error: it cannot be run as it is; line ") and "is null" in error


def test_columns_that_a_task_file_cannot_name_are_said_to_be_left_out(capsys):
    odd = {"a.b": 1, "0": "x", "": "y", "Text {de}": "z", "meta": {"id": 1, "c:d": 2}}
    rows = [{"text": f"t{i}", "label": i % 2} | odd for i in range(4)]
    text = printed(capsys, jsonl("own.jsonl", rows))
    lines = text.splitlines()
    [place] = [number for number, line in enumerate(lines) if line.startswith("# Left out: ")]
    listed = "'a.b', '0', '', 'Text {de}', 'meta.c:d'"
    assert lines[place] == f"# Left out: {listed}. To use them, rename these columns:"
    assert "without . [ ] { } ! and :" in lines[place + 1]
    as_task(text)
    many = [{f"x.{k}": 1 for k in range(20)} | row for row in rows]
    assert "'x.7', 17 more. To use" in printed(capsys, jsonl("many.jsonl", many))
    plain = [{"text": row["text"], "label": row["label"]} for row in rows]
    assert "Left out" not in printed(capsys, jsonl("plain.jsonl", plain))


def test_the_command_needs_no_torch(tmp_path):
    jsonl("own.jsonl", [{"text": f"t{i}", "label": i % 2} for i in range(4)])
    code = (
        "import runpy, sys; sys.argv = ['data.py', 'own.jsonl']\n"
        f"try: runpy.run_path({str(ROOT / 'data.py')!r}, run_name='__main__')\n"
        "finally: print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout.startswith("# own.jsonl: 4 rows.")
    assert not {"torch", "transformers", "datasets", "pandas"} & set(done.stderr.split())


NAMES = st.sampled_from(
    ["label", "answer", "question", "text", "choices", "choice1", "choice2", "id", "subject",
     "no", "a b", "{x}", "a.b", "x[0]", "# y", "2024", "", "é", "a: b", "'q'", "\x85"]
)  # fmt: skip
CELLS = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 4) | st.floats() | st.text(max_size=6)
    | st.sampled_from(["A", "B", "yes", "no", "true", "", "#### 3", "\ud800", "\x85", "- x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=2),
    max_leaves=4,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(st.dictionaries(NAMES, CELLS, min_size=1, max_size=5), min_size=1, max_size=6))
def test_whatever_the_rows_are_the_draft_is_a_task_file(tmp_path_factory, rows):
    folder = tmp_path_factory.getbasetemp()
    (folder / "rows.jsonl").touch()
    text = draft.compose("rows.jsonl", ["  source: rows.jsonl"], guess(Table(rows)))
    path = folder / "drawn.yaml"
    path.write_text(text, encoding="utf-8")
    assert list(read_tasks(path)) == ["rows"]


def test_names_that_yaml_would_take_for_something_else(capsys):
    table = pa.table({"on": ["a", "b", "c", "d"], "null": ["x", "y", "x", "y"]})
    pq.write_table(table, "2024.parquet")
    task, found = drafted(capsys, "2024.parquet")
    assert (task.name, task.reference) == ("2024", "null")
    assert found.turns[0].prompt.splitlines()[1:] == ["On: a", "Null:"]
