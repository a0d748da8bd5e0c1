"""Bad input gets one or two plain lines and exit status 2; no traceback, and nothing is written."""

import subprocess
import sys
from pathlib import Path

import hub
import pytest
import tiny
import torch
from refusals import assert_plain, call, contents, edit_json
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertLMHeadModel,
    LlamaConfig,
    LlamaForSequenceClassification,
    LlamaModel,
    T5Config,
    T5ForConditionalGeneration,
)

import experiment
from lm.bundled import BUNDLED
from tasks import spec

ROOT = Path(experiment.__file__).parent
PAIR = ("--target", "quiz", "--distractor", "reviews")


@pytest.fixture
def refusal(tmp_path):
    """Run with flags that must be refused before anything is written; returns what was said."""

    def refused(*flags, model="org/none"):
        out_dir = tmp_path / "deep" / "results"
        asked = ["--out_dir", out_dir, "--limit", 2, "--max_len", 1, "--model", model, *flags]
        status, said = call(experiment.main, *asked)
        assert status == 2 and not out_dir.parent.exists()
        return said

    return refused


# --- flags, tasks and folders: found before a model is looked for


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("flags", ["--max_len -1", "--limit 0", "--seed -1"])
def test_a_number_out_of_range_is_refused(refusal, flags):
    assert flags in refusal(*PAIR, *flags.split())


@pytest.mark.parametrize("flags", ["--max 3", "--max_len two", "--fp16 --dtype float32"])
def test_a_flag_that_is_not_known_ends_with_2(flags, capsys):
    with pytest.raises(SystemExit) as stopped:
        experiment.main(flags.split())
    assert stopped.value.code == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "meant"),
    [("--modle x", " Did you mean --model?"), ("--batchsize=3", " Did you mean --batch_size?")],
)
def test_a_mistyped_flag_is_shown_the_one_that_is_meant(flags, meant, capsys):
    with pytest.raises(SystemExit) as stopped:
        experiment.main(flags.split())
    assert stopped.value.code == 2
    assert f"unrecognized arguments: {flags}.{meant}" in capsys.readouterr().err


@pytest.mark.usefixtures("no_model")
def test_a_mistyped_task_is_shown_the_one_that_is_meant(refusal):
    assert "unknown task 'revews'. Did you mean reviews? Known" in refusal(
        *PAIR, "--target", "revews"
    )
    assert "unknown task 'x' in 'x/test'. Known" in refusal(*PAIR, "--target", "x/test")


@pytest.mark.usefixtures("no_model")
def test_a_history_longer_than_its_rows_is_refused(refusal, tmp_path):
    assert "only 144 different rows" in refusal(*PAIR, "--max_len", 144)
    subject = ("--data_root", hub.write_all(tmp_path), "--distractor", "mmlu.anatomy")
    assert "only 4 different rows" in refusal("--target", "mmlu", *subject, "--max_len", 4)


UNKNOWN = {
    "imdb": ("task 'imdb'", spec.builtin_tasks()),
    "quiz/dev": ("split 'dev'", ["test"]),
    "quiz.law": ("'quiz.law'", ["astronomy", "sports"]),
    "quiz/test/more": ("'quiz/test/more'", ["name.subject/split"]),
    "rotten_tomatoes/dev": ("split 'dev'", ["train", "validation", "test"]),
    "tweetqa/test": ("'tweetqa/test' has no reference answer", ["tweetqa/validation"]),
    "quiz.../../x": ("quiz", []),
}


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("side", ["--target", "--distractor"])
@pytest.mark.parametrize("task", UNKNOWN)
def test_a_task_that_cannot_be_had_lists_those_that_can(refusal, tmp_path, side, task):
    said = refusal("--data_root", hub.write_all(tmp_path), *PAIR, side, task)
    what, known = UNKNOWN[task]
    assert what in said and all(name in said for name in known)


@pytest.mark.usefixtures("no_model")
def test_a_data_set_that_is_not_there_says_where_it_was_looked_for(refusal, monkeypatch, tmp_path):
    said = refusal("--data_root", tmp_path, *PAIR, "--target", "mmlu")
    assert f"no folder {spec.builtin_tasks()['mmlu'].source}" in said
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "nothing")
    said = refusal(*PAIR, "--target", "mmlu")
    assert "'mmlu/test' from cais/mmlu is not in the cache" in said and "--data_root" in said


@pytest.mark.usefixtures("no_model")
def test_a_bad_task_file_is_refused_with_the_line(refusal, tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("mine:\n  source: rows.csv\n  promt: '{x}'\n")
    said = refusal("--task_file", path, *PAIR)
    assert f"{path}, line 3: task 'mine': key 'promt' is unknown; did you mean 'prompt'?" in said
    assert "cannot read --task_file" in refusal("--task_file", tmp_path / "none.yaml", *PAIR)


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("content", [None, "", "{}", '{"schema_version": 1}'])
def test_what_is_in_the_way_of_a_result_is_refused_and_left(tmp_path, content):
    path = tmp_path / "org@none__quiz" / "test_vs_reviews_test.json"
    if content is None:  # a file in the place of the folder
        path.parent.write_text("a file")
    else:
        path.parent.mkdir()
        path.write_text(content)
    before = contents(tmp_path)
    status, said = call(experiment.main, "--model", "org/none", *PAIR, "--out_dir", tmp_path)
    assert status == 2 and contents(tmp_path) == before
    assert (f"cannot write in {path.parent}" if content is None else str(path)) in said


# --- models


def test_no_network_and_nothing_cached_says_what_else_there_is(refusal):
    said = refusal(*PAIR, model="org/none")
    assert all(word in said for word in ("'org/none' is not in the cache", BUNDLED, "HF_HOME"))


@pytest.mark.parametrize("name", ["/no/such/folder", "a name with spaces", "a/b/c", ""])
def test_what_is_no_name_of_a_model_is_refused(refusal, name):
    assert f"'{name}' is neither a folder here nor a model on the Hub" in refusal(*PAIR, model=name)


BODY = tiny.FAMILIES["llama"] | {"vocab_size": tiny.VOCABULARY}
BERT = {name: size for name, size in BODY.items() if name != "num_key_value_heads"}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
NOT_CAUSAL = {
    "encoder-decoder": lambda: T5ForConditionalGeneration(T5Config(**T5)),
    "masked": lambda: BertForMaskedLM(BertConfig(**BERT)),
    "looks ahead": lambda: BertLMHeadModel(BertConfig(**BERT)),
    "classifier": lambda: LlamaForSequenceClassification(
        LlamaConfig(**BODY, tie_word_embeddings=True)
    ),
    "no head": lambda: LlamaModel(LlamaConfig(**BODY)),
}


@pytest.mark.parametrize("kind", NOT_CAUSAL)
def test_a_model_that_is_not_a_causal_lm_is_refused(refusal, tmp_path, kind):
    torch.manual_seed(0)
    NOT_CAUSAL[kind]().save_pretrained(tmp_path / "model")
    tiny.tokenizer().save_pretrained(tmp_path / "model")
    said = refusal(*PAIR, model=tmp_path / "model")
    assert f"'{tmp_path / 'model'}'" in said and "is not a causal language model" in said


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_damaged_model_is_refused(refusal, copy, name, damage):
    raw = (copy / name).read_bytes()
    (copy / name).unlink()
    if damage == "truncated":
        (copy / name).write_bytes(raw[:100])
    assert f"'{copy}'" in refusal(*PAIR, model=copy)


@pytest.mark.parametrize(
    ("edit", "said"),
    [({"model_type": "no_such_type"}, "no_such_type"), ({"intermediate_size": 64}, "other shapes")],
)
def test_a_configuration_that_does_not_fit_is_refused(refusal, copy, edit, said):
    edit_json(copy / "config.json", **edit)
    assert said in refusal(*PAIR, model=copy)


def test_chat_without_a_template_is_refused(refusal, copy):
    (copy / "chat_template.jinja").unlink()
    assert "--prompt plain" in refusal(*PAIR, "--prompt", "chat", model=copy)


@pytest.mark.parametrize("device", ["nonsense", "cpu:x", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(refusal, model, device):
    assert f"--device {device}" in refusal(*PAIR, "--device", device, model=model)


# --- the whole program


def test_a_process_ends_with_2_and_plain_lines(tmp_path):
    command = [sys.executable, "experiment.py", "--target", "imdb", "--out_dir", tmp_path / "out"]
    done = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert_plain(done.stderr)
    assert not (tmp_path / "out").exists()
