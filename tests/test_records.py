"""Claims about the result files: where they lie, that they come back whole, and what is refused."""

import copy
import errno
import os
from functools import partial

import pytest
from stored import write_pair

from core import keys, records, schema
from core.errors import UserError

RESULT = {
    "schema_version": schema.SCHEMA_VERSION,
    "model": "org/name",
    "target": "quiz/test",
    "distractor": "posts/test",
    "metric_name": "accuracy",
    "n": 1,
    "metric_by_len": {"0": 1.0, "1": 0.0},
    **{key: {"0": [0.5, 1.0], "1": [0.25, None]} for key in schema.SOMETIMES},
    "debug_top5_by_len": {"0": [[" é\n", 1]], "1": [["A", 1]]},
    "stats_by_len": {"0": {"n": 1, "percent_change": None}, "1": {"n": 1}},
    "config": {},
    "environment": {},
}
LOG = {
    "schema_version": schema.SCHEMA_VERSION,
    "model": "org/name",
    "target": "quiz/test",
    "distractor": "posts/test",
    "metric_name": "accuracy",
    "debug_examples": [
        {
            "prompt_text": "User: 木\n",
            "model_prediction": "A",
            "expected_answer": "A",
            "config": {"history_len": 0, "target_idx": 3, "history_idx": []},
            "score": 1.0,
            "top5": ["A"],
            "label_logprobs": {"A": -0.5, "B": -1.5},
            "cosines": [0.5, 1.0],
            "conversation": 0,
        }
    ],
    "conversations": [[{"role": "user", "content": "木"}]],
}
SEALED = RESULT | {records.DIGEST: records.digest(RESULT)}
READERS = {"result": (records.read_result, RESULT), "log": (records.read_debug, LOG)}


def edited(content, *keys, value):
    """A copy of a file's content with one value replaced."""
    content = copy.deepcopy(content)
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    return content


def assert_refused(read, path):
    with pytest.raises(UserError) as refused:
        read(path)
    assert str(path) in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


# --- paths


@pytest.mark.parametrize(
    ("model", "target", "distractor", "path"),
    [
        (
            "org/name",
            "mmlu/test",
            "tweetqa/validation",
            "org@name__mmlu/test_vs_tweetqa_validation",
        ),
        ("gpt2", "quiz/test", "quiz/test", "gpt2__quiz/test_vs_quiz_test"),
        ("a/b", "mmlu.x_y/test", "mmlu.z/test", "a@b__mmlu.x_y/test_vs_mmlu.z_test"),
    ],
)
def test_a_pair_has_one_path(tmp_path, model, target, distractor, path):
    result = records.result_path(tmp_path, model, target, distractor)
    assert result == tmp_path / f"{path}.json"
    assert records.debug_path(result) == tmp_path / f"{path}_debug.json"
    assert records.result_of_debug(records.debug_path(result)) == result


@pytest.mark.parametrize("ending", ["", "/", "/."])
def test_a_local_model_is_named_by_its_last_folder(tmp_path, ending):
    (tmp_path / "deep" / "my-model").mkdir(parents=True)
    assert records.model_name(f"{tmp_path}/deep/my-model{ending}") == "my-model"


def test_a_model_in_the_working_folder_has_its_name(tmp_path, monkeypatch):
    (tmp_path / "my-model").mkdir()
    monkeypatch.chdir(tmp_path / "my-model")
    assert records.model_name(".") == "my-model"
    assert records.model_name("org/name") == "org/name"


def test_only_a_log_has_a_result_beside_it(tmp_path):
    assert_refused(records.result_of_debug, tmp_path / "test_vs_quiz_test.json")


# --- writing


@pytest.mark.parametrize("kind", READERS)
def test_a_file_comes_back_as_it_was_written(tmp_path, kind):
    read, content = READERS[kind]
    path = tmp_path / "new" / "folder" / "x_debug.json"
    records.write_json(path, content)
    assert read(path) == content | {records.DIGEST: records.digest(content)}
    assert list(read(path)) == [*content, records.DIGEST]
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_no_number_that_is_none_enters_a_file(tmp_path, number):
    path = tmp_path / "x.json"
    records.write_json(path, RESULT)
    with pytest.raises(ValueError, match="JSON"):
        records.write_json(path, edited(RESULT, "cos_by_len", "0", 1, value=number))
    assert records.read_result(path) == SEALED
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path, monkeypatch, step):
    path = tmp_path / "x.json"
    records.write_json(path, RESULT)
    monkeypatch.setattr("os.fsync" if step == "fsync" else "pathlib.Path.replace", disk_is_full)
    with pytest.raises(UserError, match="No space left"):
        records.write_json(path, LOG)
    assert records.read_result(path) == SEALED
    assert os.listdir(tmp_path) == [path.name]


def disk_is_full(*arguments):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_file_is_complete_before_it_has_its_name(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    monkeypatch.setattr("os.fsync", lambda descriptor: seen.append(path.exists()))
    seen = []
    records.write_json(path, RESULT)
    assert seen == [False, True]  # its contents, then its name


def test_a_folder_is_made_only_where_it_is_asked_for(tmp_path):
    records.check_writable(tmp_path / "a" / "b", make=False)
    assert os.listdir(tmp_path) == []
    records.check_writable(tmp_path / "a" / "b")
    assert os.listdir(tmp_path / "a") == ["b"]
    assert os.listdir(tmp_path / "a" / "b") == []


def test_a_folder_below_a_file_is_not_writable(tmp_path):
    (tmp_path / "file").write_text("")
    for make in (True, False):
        assert_refused(partial(records.check_writable, make=make), tmp_path / "file" / "results")
    with pytest.raises(UserError, match="cannot write"):
        records.write_json(tmp_path / "file" / "x.json", RESULT)


# --- reading

DAMAGED_BYTES = {
    "empty": lambda whole: b"",
    "truncated": lambda whole: whole[:-20],
    "not UTF-8": lambda whole: whole.replace(b"org/name", b"\xff"),
    "not JSON": lambda whole: b"<html>",
    "a list": lambda whole: b"[%b]" % whole,
    "NaN": lambda whole: b'{"x": NaN, ' + whole[1:],
    "Infinity": lambda whole: b'{"x": -Infinity, ' + whole[1:],
    "too deep": lambda whole: b"[" * 100_000,
    "twice": lambda whole: whole * 2,
    "edited": lambda whole: whole.replace(b'"A"', b'"B"', 1),
    "a number edited": lambda whole: whole.replace(b"0.5", b"0.25", 1),
    "without a digest": lambda whole: whole.replace(records.DIGEST.encode(), b"more"),
    "of no kind": lambda whole: whole.replace(b"metric_by_len", b"x").replace(b"debug_e", b"x"),
    "of another version": lambda whole: whole.replace(b'version": 3', b'version": 2'),
    "with a name for the terminal": lambda whole: whole.replace(b"org/name", b"\\u001b[31m"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGED_BYTES)
@pytest.mark.parametrize("kind", READERS)
def test_what_is_not_as_it_was_written_is_refused(tmp_path, kind, damage):
    read, content = READERS[kind]
    path = tmp_path / "x.json"
    records.write_json(path, content)
    raw = path.read_bytes()
    path.write_bytes(DAMAGED_BYTES[damage](raw))
    assert path.read_bytes() != raw
    assert_refused(read, path)


def test_a_file_of_another_version_is_refused_with_what_to_do(tmp_path):
    path = tmp_path / "x.json"
    records.write_json(path, RESULT | {"schema_version": 2})
    with pytest.raises(UserError, match="schema version 2, and 3 is needed: make it again with"):
        records.read_result(path)


@pytest.mark.parametrize("kind", READERS)
def test_what_is_no_file_is_refused(tmp_path, kind):
    for path in (tmp_path, tmp_path / "missing.json"):
        assert_refused(READERS[kind][0], path)


def test_two_runs_of_equal_values_have_equal_digests_wherever_they_ran(tmp_path):
    elsewhere = RESULT | {"environment": {"device": "cuda"}}
    assert records.digest(elsewhere) == records.digest(RESULT)
    assert records.digest(RESULT | {"n": 2}) != records.digest(RESULT)


def test_a_result_holds_the_digest_of_its_log(tmp_path):
    write_pair(tmp_path / "x.json", RESULT, LOG)
    result, log = (
        records.read_result(tmp_path / "x.json"),
        records.read_debug(tmp_path / "x_debug.json"),
    )
    assert result[records.DIGEST_OF_LOG] == log[records.DIGEST] == records.digest(LOG)


# --- folders


def test_every_result_below_a_folder_is_found_and_no_log(tmp_path):
    wanted = [tmp_path / "a.json", tmp_path / "deep" / "er" / "b.json"]
    for path in wanted:
        records.write_json(path, RESULT)
        records.write_json(records.debug_path(path), LOG)
    records.write_json(tmp_path / "other.json", {})
    records.write_json(tmp_path / records.REFERENCE / "kept.json", RESULT)
    records.write_json(tmp_path / records.REFERENCE / "kept_debug.json", LOG)
    assert list(records.find_results(tmp_path)) == [(path, SEALED) for path in wanted]


def test_a_folder_of_an_unfinished_run_is_said_to_be_one(tmp_path):
    journal = tmp_path / "org@name__quiz" / "test_vs_posts_test_journal.jsonl"
    journal.parent.mkdir()
    journal.touch()
    with pytest.raises(UserError, match=r"yet: a run there .* interrupted\.\nThe same command"):
        list(records.find_results(tmp_path))


@pytest.mark.parametrize("folder", ["empty", "missing", "file"])
def test_a_folder_without_results_is_refused(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    assert_refused(lambda path: list(records.find_results(path)), tmp_path / folder)


# --- keys


def stored(tmp_path, folder="results", distractor="posts/test", **config):
    """Write a result with these settings and its log; returns its path."""
    content = edited(RESULT, "config", value=config) | {"distractor": distractor}
    path = records.result_path(tmp_path / folder, "org/name", "quiz/test", distractor)
    write_pair(path, content, LOG)
    return path


@pytest.mark.parametrize(
    ("label", "config"),
    [
        ("teacher", {"mix": "distractor", "switch_cue": None, "num_histories": None}),
        ("model", {"history": "model", "mix": "distractor"}),
        ("teacher, interleaved", {"mix": "interleaved"}),
        ("teacher, cue", {"switch_cue": "Now another one."}),
        ("teacher, 5 histories", {"num_histories": 5}),
        ("teacher, 1 history", {"num_histories": 1}),
        ("model, target_last, cue", {"history": "model", "mix": "target_last", "switch_cue": "."}),
    ],
)
def test_a_history_is_called_by_what_is_not_usual_about_it(label, config):
    assert keys.history_label({"history": "teacher"} | config) == label


def test_runs_that_differ_in_history_or_seed_are_kept_apart_and_in_order(tmp_path):
    made = [("teacher", [10]), ("teacher", [2]), ("model", [0]), ("teacher", [0, 1, 2])]
    for number, (history, seed) in enumerate(made):
        stored(tmp_path, f"results/{number}", history=history, seed=seed)
    pair = ("org/name", "quiz/test", "posts/test")
    assert list(records.load_results([tmp_path])) == [
        (*pair, "model", "0"),
        (*pair, "teacher", "2"),
        (*pair, "teacher", "10"),
        (*pair, "teacher", "0 1 2"),
    ]


def test_a_setting_that_a_result_does_not_hold_is_not_guessed(tmp_path):
    stored(tmp_path)
    ((*_, history, seed),) = records.load_results([tmp_path])
    assert history == seed == keys.NOT_RECORDED


@pytest.mark.parametrize(
    ("other", "said"),
    [({"batch_size": 8, "device": "cuda"}, "differ in batch_size, device"), ({}, "all settings")],
)
def test_two_results_of_one_key_are_refused_with_what_they_differ_in(tmp_path, other, said):
    settings = {"history": "teacher", "seed": [0], "batch_size": 4, "device": "cpu"}
    paths = [stored(tmp_path, name, **settings | more) for name, more in (("a", {}), ("b", other))]
    with pytest.raises(UserError) as refused:
        records.load_results([tmp_path])
    assert all(str(path) in str(refused.value) for path in paths)
    assert said in str(refused.value)
    assert len(str(refused.value).splitlines()) == 2


def test_a_setting_in_which_results_of_one_pair_differ_is_a_field_of_every_key(tmp_path):
    made = {"a": {"prompt": "chat"}, "b": {"prompt": "plain"}, "c": {"prompt": "chat", "seed": [1]}}
    for name, settings in made.items():
        stored(tmp_path, name, **{"seed": [0], "dtype": "float32", "max_new_tokens": 8} | settings)
    found = [key.fields for key in records.load_results([tmp_path])]
    assert [(each["seed"], each["prompt"]) for each in found] == [
        ("0", "chat"), ("0", "plain"), ("1", "chat")
    ]  # fmt: skip
    assert not any("dtype" in each or "max_new_tokens" in each for each in found)


def test_a_file_below_two_of_the_folders_is_read_once(tmp_path):
    stored(tmp_path, "a", seed=[0])
    assert len(records.load_results([tmp_path, tmp_path / "a"])) == 1
