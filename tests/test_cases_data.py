"""Claims about data from the field: a column is read as it is meant, or refused with a way out."""

import json
from decimal import Decimal

import datasets
import numpy as np
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import data
from core.errors import UserError
from run.pairs import require_references
from tasks import spec
from tasks.task import TaskSpec

datasets.disable_progress_bars()


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_csv(path, rows):
    pandas.DataFrame(rows).to_csv(path, index=False)


def write_parquet(path, rows):
    pandas.DataFrame(rows).to_parquet(path)


WRITERS = {"jsonl": write_jsonl, "csv": write_csv, "parquet": write_parquet}


def task_of(folder, source, **keys):
    keys = {"source": source, "prompt": "Q: {text}", "reference": "label"} | keys
    (folder / "own.yaml").write_text(
        yaml.safe_dump({"own": keys}, sort_keys=False), encoding="utf-8"
    )
    return spec.parse_spec("own", spec.read_tasks(folder / "own.yaml"))


def turns(folder, source, data_root=None, **keys):
    return data.load_rows(task_of(folder, source, **keys), data_root).turns


def references(folder, values, ending="jsonl", **keys):
    """The first references of a label column with these values."""
    rows = [{"text": f"t{i}", "label": value} for i, value in enumerate(values)]
    WRITERS[ending](folder / f"rows.{ending}", rows)
    found = turns(folder, f"rows.{ending}", **keys)
    return [turn.references[0] if turn.references else None for turn in found]


def refused(make, *arguments, **keys):
    with pytest.raises(UserError) as error:
        make(*arguments, **keys)
    said = str(error.value)
    assert 1 <= len(said.splitlines()) <= 2
    return said


# --- true and false


PAIRS = [["true", "false"], ["false", "true"], ["yes", "no"], ["no", "yes"], ["Yes", "No"]]


@pytest.mark.parametrize("ending", WRITERS)
@pytest.mark.parametrize("labels", PAIRS, ids=" ".join)
def test_true_is_the_label_true_or_yes_wherever_it_stands(tmp_path, labels, ending):
    found = references(tmp_path, [True, False, True], ending, labels=labels)
    assert [each.lower() in ("true", "yes") for each in found] == [True, False, True]


@pytest.mark.parametrize("values", [["YES", "no", "Yes "], ["True", " FALSE", "true"]])
@pytest.mark.parametrize("labels", PAIRS, ids=" ".join)
def test_words_for_true_and_false_are_read_in_any_case(tmp_path, labels, values):
    found = references(tmp_path, values, labels=labels)
    assert [each.lower() in ("true", "yes") for each in found] == [True, False, True]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize("labels", [["bad", "good"], ["0", "1"], ["yes", "no", "maybe"]])
def test_true_and_false_for_other_labels_are_refused(tmp_path, labels, ending):
    said = refused(references, tmp_path, [True, False], ending, labels=labels)
    assert "line 4" in said and "row 1 of 'own', column 'label': True is not one of" in said


@pytest.mark.parametrize("ending", WRITERS)
def test_1_for_true_is_not_taken_for_the_second_label(tmp_path, ending):
    said = refused(references, tmp_path, [1, 0], ending, labels=["yes", "no"])
    assert "could be an index, or 1 for yes and 0 for no" in said and "`index_from: 0`" in said
    assert references(tmp_path, [1, 0], ending, labels=["no", "yes"]) == ["yes", "no"]
    assert references(tmp_path, [1, 0], ending, labels=["yes", "no"], index_from=0) == ["no", "yes"]


# --- one coding for a column


@pytest.mark.parametrize("ending", WRITERS)
@pytest.mark.parametrize("values", [[1, 2, 3], ["1", "2", "3"], [1, 2, 4]])
def test_an_index_that_may_begin_at_1_is_refused_until_it_is_said(tmp_path, ending, values):
    labels = ["poor", "fair", "good", "best"]
    said = refused(references, tmp_path, values, ending, labels=labels)
    assert "no row has 0" in said and "`index_from: 1`" in said
    for first in (0, 1):
        if max(map(int, values)) - first < 4:
            found = references(tmp_path, values, ending, labels=labels, index_from=first)
            assert found == [labels[int(value) - first] for value in values]


@pytest.mark.parametrize("ending", WRITERS)
def test_letters_in_some_rows_and_numbers_in_others_are_refused_until_it_is_said(tmp_path, ending):
    labels = ["A", "B", "C", "D"]
    said = refused(references, tmp_path, ["A", "1", "2", "C"], ending, labels=labels)
    assert "row 2 of 'own'" in said and "row 1 has the label 'A'" in said
    for first, expected in ((1, ["A", "A", "B", "C"]), (0, ["A", "B", "C", "C"])):
        found = references(tmp_path, ["A", "1", "2", "C"], ending, labels=labels, index_from=first)
        assert found == expected


NUMBERS = {
    "int8": np.array([0, 1, 0], np.int8),
    "uint64": np.array([0, 1, 0], np.uint64),
    "float32": np.array([0, 1, 0], np.float32),
    "Decimal": [Decimal("0.00"), Decimal("1.00"), Decimal("0.00")],
    "nullable": pandas.array([0, 1, 0], dtype="Int16"),
    "categorical": pandas.Categorical(["high", "low", "high"], ["low", "high"]),
    "bytes": [b"high", b"low", b"high"],
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_an_index_or_text_of_any_column_type_is_the_same_label(tmp_path, kind):
    frame = pandas.DataFrame({"text": ["a", "b", "c"], "label": NUMBERS[kind]})
    frame.to_parquet(tmp_path / "rows.parquet")
    found = turns(tmp_path, "rows.parquet", labels=["high", "low"])
    assert [turn.references for turn in found] == [("high",), ("low",), ("high",)]


@pytest.mark.parametrize("ending", WRITERS)
def test_an_index_with_gaps_is_one_although_pandas_writes_it_with_a_point(tmp_path, ending):
    values = [0.0, None, 1.0] if ending == "jsonl" else pandas.Series([0, None, 1])
    assert references(tmp_path, values, ending, labels=["low", "high"]) == ["low", None, "high"]


def test_labels_that_are_numbers_are_read_as_themselves_unless_an_index_is_named(tmp_path):
    for values in ([1, 2, 3], ["1", "2", "3"], [1.0, 2.0, 3.0]):
        assert references(tmp_path, values, labels=["1", "2", "3"]) == ["1", "2", "3"]
    said = refused(references, tmp_path, [0, 1, 2], labels=["1", "2", "3"])
    assert "0 is not one of 1, 2, 3. If it is an index" in said
    assert references(tmp_path, [0, 1, 2], labels=["1", "2", "3"], index_from=0) == ["1", "2", "3"]
    assert references(tmp_path, [-1, 0, 1], labels=["-1", "0", "1"]) == ["-1", "0", "1"]


def test_a_label_is_known_in_either_normal_form(tmp_path):
    assert references(tmp_path, ["cafe\u0301", "thé"], labels=["café", "the\u0301"]) == [
        "café", "the\u0301"
    ]  # fmt: skip
    said = refused(task_of, tmp_path, "rows.jsonl", labels=["café", "cafe\u0301"])
    assert "two or more different texts" in said


@pytest.mark.parametrize("keys", [{"index_from": -1}, {"index_from": "one"}, {"index_from": True}])
def test_index_from_is_a_whole_number(tmp_path, keys):
    write_jsonl(tmp_path / "rows.jsonl", [{}])
    said = refused(task_of, tmp_path, "rows.jsonl", labels=["a", "b"], **keys)
    assert "key 'index_from' must be a whole number of 0 or more" in said
    said = refused(task_of, tmp_path, "rows.jsonl", index_from=1)
    assert "key 'index_from' is for label tasks" in said


# --- the file's own names of its classes


def class_features(names):
    return datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)}
    )


def write_classes(path, names, values):
    texts = [f"t{i}" for i in range(len(values))]
    rows = datasets.Dataset.from_dict(
        {"text": texts, "label": values}, features=class_features(names)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    rows.to_parquet(path)


def of_classes(folder, layout, names, values, labels, **keys):
    """The labels of a parquet file with class names, alone or as a data set in the Hub's layout."""
    if layout == "file":
        write_classes(folder / "rows.parquet", names, values)
        found = turns(folder, "rows.parquet", labels=labels, **keys)
    else:
        write_classes(folder / "root/org/mails/data/test-0.parquet", names, values)
        keys |= {"split": "test", "labels": labels}
        found = turns(folder, "org/mails", str(folder / "root"), **keys)
    return [turn.references[0] if turn.references else None for turn in found]


@pytest.mark.parametrize("layout", ["file", "folder"])
@pytest.mark.parametrize("labels", [["spam", "ham"], ["ham", "spam"], ["Spam", "HAM"]], ids=str)
def test_the_file_s_own_names_decide_what_a_class_is(tmp_path, layout, labels):
    found = of_classes(tmp_path, layout, ["ham", "spam"], [1, 0, 1, -1], labels)
    assert [each and each.lower() for each in found] == ["spam", "ham", "spam", None]


@pytest.mark.parametrize("layout", ["file", "folder"])
def test_classes_of_other_names_are_refused_until_their_place_is_said_to_count(tmp_path, layout):
    case = (tmp_path, layout, ["neg", "pos"], [1, 0], ["negative", "positive"])
    said = refused(of_classes, *case)
    assert "the file's classes are neg, pos" in said and "`index_from: 0`" in said
    assert of_classes(*case, index_from=0) == ["positive", "negative"]


@pytest.mark.parametrize("layout", ["file", "folder"])
def test_an_index_that_contradicts_the_file_s_names_is_refused(tmp_path, layout):
    case = (tmp_path, layout, ["ham", "spam"], [1, 0], ["spam", "ham"])
    said = refused(of_classes, *case, index_from=0)
    assert "by `index_from` 1 is ham, and the file names it spam" in said


def test_a_class_in_a_prompt_is_shown_by_its_name(tmp_path):
    write_classes(tmp_path / "rows.parquet", ["ham", "spam"], [1, 0])
    found = turns(tmp_path, "rows.parquet", prompt="{text} is {label}", reference="text")
    assert [turn.prompt for turn in found] == ["t0 is spam", "t1 is ham"]
    found = turns(tmp_path, "rows.parquet")
    assert [turn.references for turn in found] == [("spam",), ("ham",)]


# --- what is missing


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize("labels", [["None", "Severe"], ["nan", "NaN"], ["null", "<NA>"]])
def test_a_null_is_no_label_whatever_the_labels_are_called(tmp_path, ending, labels):
    found = references(tmp_path, [labels[0], None, labels[1]], ending, labels=labels)
    assert found == [labels[0], None, labels[1]]
    own = task_of(tmp_path, f"rows.{ending}", labels=labels)
    assert "in 1 of 3 rows" in refused(require_references, data.load_rows(own))


@pytest.mark.parametrize("text", ["None", "NA", "null", "nan", "007", "1.0", "True"])
def test_a_text_of_csv_stays_what_it_is_in_a_file_and_in_a_folder(tmp_path, text):
    content = f"text,label\n{text},{text}\nx,other\n"
    folder = tmp_path / "root/org/texts"
    folder.mkdir(parents=True)
    for path in (tmp_path / "rows.csv", folder / "test.csv"):
        path.write_text(content)
    for source, root in (("rows.csv", None), ("org/texts", str(tmp_path / "root"))):
        [turn, _] = turns(tmp_path, source, root, split="test")
        assert (turn.prompt, turn.references) == (f"Q: {text}", (text,))
    [turn, _] = turns(tmp_path, "rows.csv", labels=[text, "other"])
    assert turn.references == (text,)


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_null_that_a_prompt_uses_is_refused(tmp_path, ending):
    rows = [
        {"choices": ["red", "ten", "tea"], "label": 0},
        {"choices": ["red", "ten", None], "label": 1},
    ]
    WRITERS[ending](tmp_path / f"rows.{ending}", rows)
    keys = {"labels": ["A", "B", "C"]}
    for prompt, words in (
        ("{choices[0]}, {choices[2]}", "row 2 of 'own' has no 'choices[2]'"),
        ("{options}", "row 2 of 'own' does not fit the options: 'choices' option C is null"),
    ):
        keys |= {"prompt": prompt} | ({"options": "choices"} if "options" in prompt else {})
        assert words in refused(turns, tmp_path, f"rows.{ending}", **keys)
    found = turns(tmp_path, f"rows.{ending}", prompt="{choices[0]}", labels=["A", "B", "C"])
    assert [turn.prompt for turn in found] == ["red", "red"]


# --- bytes, narrow floats, lists


def write_table(folder, **columns):
    pq.write_table(pa.table(columns), folder / "rows.parquet")


def test_binary_text_is_decoded_and_other_bytes_are_refused(tmp_path):
    write_table(tmp_path, text=["été".encode(), b"b"], label=[b"ja", b"nein"], more=[b"\xff"] * 2)
    [first, _] = turns(tmp_path, "rows.parquet")
    assert (first.prompt, first.references) == ("Q: été", ("ja",))
    for keys in ({"prompt": "{more}"}, {"reference": "more"}):
        said = refused(turns, tmp_path, "rows.parquet", **keys)
        assert "row 1 of 'own'" in said and "is binary and not UTF-8 text" in said


def test_a_narrow_float_is_shown_as_it_was_written(tmp_path):
    write_table(tmp_path, text=pa.array([0.1, None, 16.5], pa.float32()), label=["a", "b", "c"])
    path = tmp_path / "root/org/floats/test.parquet"
    path.parent.mkdir(parents=True)
    path.write_bytes((tmp_path / "rows.parquet").read_bytes())
    for source, root in (("rows.parquet", None), ("org/floats", str(tmp_path / "root"))):
        keys = {"prompt": "{label}", "reference": "text", "split": "test"}
        found = turns(tmp_path, source, root, **keys)
        assert [turn.references for turn in found] == [("0.1",), (), ("16.5",)]


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("{choices}", "'choices' is a list, not a text: name a part of it"),
        ("{nested}", "'nested' is an object, not a text"),
        ("{nested[b]}", "'nested[b]' names [b], and there is only a"),
        ("{choices[2]}", "names [2], and the list has 2 items"),
        ("{choices[a]}", "names [a] in what is a list"),
        ("{label[0]}", "names [0] in what is neither a list nor an object: 'x y'"),
    ],
)
def test_a_prompt_shows_texts_and_no_python(tmp_path, prompt, words):
    row = {"choices": ["a", "b"], "nested": {"a": ["c"]}, "label": "x y"}
    write_jsonl(tmp_path / "rows.jsonl", [row])
    said = refused(turns, tmp_path, "rows.jsonl", prompt=prompt)
    assert "line 3: task 'own': row 1 of 'own' does not fit the prompt: " in said and words in said


# --- nested columns and options


SQUAD = [
    {"text": "Where is Ada?", "answers": {"text": ["Kiel", "in Kiel"], "start": [13, 10]}},
    {"text": "What does Bo play?", "answers": {"text": ["chess"], "start": [9]}},
]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize("reference", ["answers.text", "answers[text]"])
def test_a_reference_stands_inside_a_column(tmp_path, ending, reference):
    WRITERS[ending](tmp_path / f"rows.{ending}", SQUAD)
    found = turns(tmp_path, f"rows.{ending}", reference=reference)
    assert [turn.references for turn in found] == [("Kiel", "in Kiel"), ("chess",)]
    found = turns(tmp_path, f"rows.{ending}", reference=f"{reference}[0]")
    assert [turn.references for turn in found] == [("Kiel",), ("chess",)]
    said = refused(turns, tmp_path, f"rows.{ending}", reference="answers.txt")
    assert "column 'answers.txt': names [txt], and there is only text, start" in said


def test_a_reference_is_found_in_a_list_of_objects_and_in_a_column_with_a_dot(tmp_path):
    rows = [{"text": "a", "answers": [{"text": "x"}, {"text": "y"}], "flat.text": "z"}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    for reference, expected in (("answers.text", ("x", "y")), ("flat.text", ("z",))):
        [turn] = turns(tmp_path, "rows.jsonl", reference=reference)
        assert turn.references == expected


ARC = [
    {"text": "A fruit?", "choices": {"text": ["apple", "stone", "cup"], "label": list("ABC")},
     "key": "A"},
    {"text": "A metal?", "choices": {"text": ["tin", "oak"], "label": list("12")}, "key": "2"},
]  # fmt: skip


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_options_are_lines_with_letters_and_the_key_may_be_a_number_from_1(tmp_path, ending):
    WRITERS[ending](tmp_path / f"rows.{ending}", ARC)
    keys = {"prompt": "{text} {choices[text][0]}?\n{options}", "options": "choices.text"}
    keys |= {"reference": "key", "labels": ["A", "B", "C", "D"]}
    assert "If both are meant" in refused(turns, tmp_path, f"rows.{ending}", **keys)
    found = turns(tmp_path, f"rows.{ending}", index_from=1, **keys)
    assert [(turn.prompt, *turn.references) for turn in found] == [
        ("A fruit? apple?\nA. apple\nB. stone\nC. cup", "A"),
        ("A metal? tin?\nA. tin\nB. oak", "B"),
    ]


OPTIONS = {
    "of a column of that name": ({"options": ["x", "y"], "label": 1}, {}, "A. x\nB. y"),
    "with letters of their own": ({"options": {"A": "x", "B": 2}, "label": "B"}, {}, "A. x\nB. 2"),
    "a text": ({"options": "A) x B) y", "label": 1}, {}, "A) x B) y"),
    "in objects": (
        {"all": [{"t": "x"}, {"t": "y"}], "label": "A"}, {"options": "all.t"}, "A. x\nB. y"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", OPTIONS)
def test_options_are(tmp_path, kind):
    row, keys, expected = OPTIONS[kind]
    write_jsonl(tmp_path / "rows.jsonl", [row, row | {"label": 0 if row["label"] == 1 else "A"}])
    [turn, _] = turns(tmp_path, "rows.jsonl", prompt="{options}", labels=["A", "B"], **keys)
    assert turn.prompt == expected


NO_OPTIONS = {
    "no list": ({"options": "choices"}, "x y", "is not a list of options: 'x y'"),
    "empty": ({}, [], "has 0 options"),
    "more than the labels": ({}, ["x", "y", "z"], "has options A, B, C, and labels A, B"),
    "fewer than the answer": ({}, ["x"], "has options A, and the answer is B"),
    "lists": ({}, [["x"], ["y"]], "option A is a list"),
}


@pytest.mark.parametrize("kind", NO_OPTIONS)
def test_options_that_do_not_fit_are_refused(tmp_path, kind):
    keys, value, words = NO_OPTIONS[kind]
    write_jsonl(tmp_path / "rows.jsonl", [{keys.get("options", "options"): value, "label": "B"}])
    said = refused(turns, tmp_path, "rows.jsonl", prompt="{options}", labels=["A", "B"], **keys)
    assert f"row 1 of 'own' does not fit the {'options' if keys else 'prompt'}" in said
    assert words in said


def test_options_without_a_column_are_refused(tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", [{"text": "a", "label": "b"}])
    assert "no column 'options'" in refused(turns, tmp_path, "rows.jsonl", prompt="{options}")
    said = refused(turns, tmp_path, "rows.jsonl", prompt="{options}", options="choices")
    assert "line 5" in said and "no column 'choices'" in said


# --- encodings


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
def test_a_file_that_is_not_utf_8_is_refused_by_name(tmp_path, ending, encoding):
    line = {"csv": "text,label\nété,b\n", "jsonl": '{"text": "été", "label": "b"}\n'}[ending]
    (tmp_path / f"rows.{ending}").write_bytes(line.encode(encoding))
    said = refused(turns, tmp_path, f"rows.{ending}")
    assert f"rows.{ending}" in said and "not UTF-8" in said and len(said.splitlines()) == 1


def test_every_line_or_row_is_named_by_its_own_number_whatever_the_subject(tmp_path):
    rows = [{"text": "t", "label": label, "area": "ab"[i % 2]} for i, label in enumerate("xyxz")]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    known = task_of(tmp_path, "rows.jsonl", labels=["x", "y"], subject="area").task
    said = refused(data.load_rows, TaskSpec(known, "b", "test"))
    assert "row 4 of 'own', column 'label': 'z' is not one of x, y" in said
