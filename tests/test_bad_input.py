"""Bad input gets one or two plain lines and exit status 2; no traceback, and nothing is written."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import hub
import pytest
import tiny
import torch
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
import test_debug
from lm.bundled import BUNDLED
from run import planning
from run.config import parse_args
from tasks import spec

ROOT = Path(experiment.__file__).parent
MODEL = "org/none"  # of runs that must end before a model is looked for
PAIR = ("--target", "quiz", "--distractor", "reviews")


@pytest.fixture
def refusal(tmp_path, capfd):
    """Run with flags that must be refused; returns what was said."""

    def refused(*flags, model=MODEL):
        out_dir = tmp_path / "deep" / "results"
        asked = ["--out_dir", out_dir, "--limit", 2, "--max_len", 1, "--model", model, *flags]
        assert experiment.main([str(flag) for flag in asked]) == 2
        said = capfd.readouterr().err
        assert not out_dir.parent.exists()
        assert_plain(said)
        return said

    return refused


@pytest.fixture
def no_model(monkeypatch):
    """Whoever loads a model fails."""
    monkeypatch.setattr(experiment, "_load", lambda config: pytest.fail("a model was loaded"))


def assert_plain(said):
    assert said.startswith("error: ")
    assert 1 <= len(said.splitlines()) <= 2
    assert "Traceback" not in said


# --- numbers and flags


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    "flags",
    [
        "--max_len -1",
        "--limit 0",
        "--limit -3",
        "--batch_size 0",
        "--max_new_tokens 0",
        "--seed -1",
        "--num_histories 0",
    ],
)
def test_a_negative_number_or_zero_is_refused(refusal, flags):
    assert flags in refusal(*PAIR, *flags.split())


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("max_len", [144, 1000])
def test_a_history_longer_than_its_rows_is_refused(refusal, max_len):
    said = refusal(*PAIR, "--max_len", max_len)
    assert f"--max_len {max_len}: 'reviews/test' has only 144 different rows" in said


@pytest.mark.usefixtures("no_model")
def test_the_rows_of_a_subject_are_counted_alone(refusal, tmp_path):
    data_root = ("--data_root", hub.write_all(tmp_path))
    task = ("--target", "mmlu", "--distractor", "mmlu.anatomy")
    said = refusal(*data_root, *task, "--max_len", 4)
    assert "'mmlu.anatomy/test' has only 4 different rows" in said
    longest = parse_args([*map(str, data_root), *task, "--max_len", "3"])
    assert len(planning.load_pairs(longest)) == 1


@pytest.mark.parametrize(
    "flags",
    ["--max_length 3", "--max 3", "--max_len two", "--dtype int8", "--fp16 --dtype float32"],
)
def test_a_flag_that_is_not_known_ends_with_2(flags, capsys):
    with pytest.raises(SystemExit) as stopped:
        experiment.main(flags.split())
    assert stopped.value.code == 2
    assert "error: " in capsys.readouterr().err


# --- tasks


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("side", ["--target", "--distractor"])
@pytest.mark.parametrize(
    ("task", "what", "known"),
    [
        ("imdb", "task 'imdb'", spec.builtin_tasks()),
        ("quiz/dev", "split 'dev'", ["test"]),
        ("quiz.law", "'quiz.law'", ["astronomy", "sports"]),
        ("reviews.film", "'reviews.film'", ["reviews/test"]),
        ("quiz/test/more", "'quiz/test/more'", ["name.subject/split"]),
        ("mmlu/dev", "split 'dev'", ["test", "validation"]),
        ("mmlu.law", "'mmlu.law'", hub.SUBJECTS),
        ("rotten_tomatoes/dev", "split 'dev'", ["train", "validation", "test"]),
    ],
)
def test_an_unknown_task_subject_or_split_lists_the_known(
    refusal, tmp_path, side, task, what, known
):
    said = refusal("--data_root", hub.write_all(tmp_path), *PAIR, side, task)
    assert what in said
    assert all(name in said for name in known)


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("side", ["--target", "--distractor"])
def test_a_split_without_references_is_refused(refusal, tmp_path, side):
    said = refusal("--data_root", hub.write_all(tmp_path), *PAIR, side, "tweetqa/test")
    assert "'tweetqa/test' has no reference answer" in said
    assert "tweetqa/validation" in said


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("task", ["mmlu", "rotten_tomatoes", "tweetqa"])
def test_a_data_set_that_is_not_there_is_refused(refusal, tmp_path, task):
    said = refusal("--data_root", tmp_path, *PAIR, "--target", task)
    assert f"no folder {spec.builtin_tasks()[task].source}" in said


@pytest.mark.usefixtures("no_model")
def test_a_data_set_without_a_network_says_what_else_there_is(refusal, monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "nothing")
    said = refusal(*PAIR, "--target", "mmlu")
    assert "'mmlu/test' from cais/mmlu is not in the cache" in said
    assert all(word in said for word in ("--data_root", "HF_HUB_OFFLINE", "quiz"))


@pytest.mark.usefixtures("no_model")
def test_a_bad_task_file_is_refused_before_a_model_is_looked_for(refusal, tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("mine:\n  source: rows.csv\n  promt: '{x}'\n")
    said = refusal("--task_file", path, *PAIR)
    assert f"{path}, line 3: task 'mine': key 'promt' is unknown; did you mean 'prompt'?" in said
    assert "cannot read --task_file" in refusal("--task_file", tmp_path / "none.yaml", *PAIR)


@pytest.mark.usefixtures("no_model")
def test_a_task_that_no_file_names_lists_those_of_the_file_too(refusal, tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("mine:\n  source: org/name\n  split: test\n  prompt: '{x}'\n  reference: y\n")
    said = refusal("--task_file", path, *PAIR, "--target", "min")
    assert "unknown task 'min'" in said and "posts, mine." in said


# --- where results go


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("file", "out_dir"),
    [("results", "results"), ("file", "file/results"), ("org@none__quiz", ".")],
)
def test_an_out_dir_that_is_a_file_is_found_before_the_model(tmp_path, capfd, file, out_dir):
    (tmp_path / file).write_text("a file")
    assert experiment.main(["--model", MODEL, *PAIR, "--out_dir", str(tmp_path / out_dir)]) == 2
    said = capfd.readouterr().err
    assert_plain(said)
    assert f"cannot write in {tmp_path / file}" in said
    assert [path.read_text() for path in tmp_path.rglob("*")] == ["a file"]


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("content", ["", "{}", "[1", '{"schema_version": 1}'])
def test_a_damaged_result_is_refused_and_left(tmp_path, capfd, content):
    path = tmp_path / "org@none__quiz" / "test_vs_reviews_test.json"
    path.parent.mkdir()
    path.write_text(content)
    assert experiment.main(["--model", MODEL, *PAIR, "--out_dir", str(tmp_path)]) == 2
    said = capfd.readouterr().err
    assert_plain(said)
    assert f"{path} is damaged" in said
    assert path.read_text() == content


# --- models that cannot be had


CACHE_WORDS = ("'org/none' is not in the cache", BUNDLED, "HF_HUB_OFFLINE", "HF_HOME")


def test_no_network_and_nothing_cached_says_what_else_there_is(refusal):
    said = refusal(*PAIR, model="org/none")
    assert all(word in said for word in CACHE_WORDS)


@pytest.mark.parametrize("name", ["/no/such/folder", "a name with spaces", "a/b/c", ""])
def test_what_is_no_name_of_a_model_is_refused(refusal, name):
    assert f"'{name}' is neither a folder here nor a model on the Hub" in refusal(*PAIR, model=name)


# --- folders that hold no causal language model

BODY = tiny.FAMILIES["llama"]
BERT = {name: size for name, size in BODY.items() if name != "num_key_value_heads"}


def save(folder, lm):
    lm.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def llama(kind, **settings):
    return lambda: kind(LlamaConfig(vocab_size=tiny.VOCABULARY, **BODY, **settings))


def bert(kind):
    return lambda: kind(BertConfig(vocab_size=tiny.VOCABULARY, **BERT))


def t5():
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    return T5ForConditionalGeneration(T5Config(vocab_size=tiny.VOCABULARY, **sizes))


NOT_CAUSAL = {
    "encoder-decoder": t5,
    "masked": bert(BertForMaskedLM),
    "looks ahead": bert(BertLMHeadModel),
    "classifier": llama(LlamaForSequenceClassification),
    "classifier with tied embeddings": llama(
        LlamaForSequenceClassification, tie_word_embeddings=True
    ),
    "no head": llama(LlamaModel),
}


@pytest.mark.parametrize("flags", [[], ["--no_cosine"]])
@pytest.mark.parametrize("kind", NOT_CAUSAL)
def test_a_model_that_is_not_a_causal_lm_is_refused(refusal, tmp_path, kind, flags):
    torch.manual_seed(0)
    folder = save(tmp_path / "model", NOT_CAUSAL[kind]())
    said = refusal(*PAIR, *flags, model=folder)
    assert f"'{folder}'" in said
    assert "is not a causal language model" in said


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Folder of a model that runs."""
    return save(tmp_path_factory.mktemp("whole") / "model", tiny.model("llama"))


@pytest.fixture
def copy(whole, tmp_path):
    """The same model in a folder of its own."""
    return Path(shutil.copytree(whole, tmp_path / "model"))


def edit_config(folder, **settings):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def test_code_of_a_model_is_not_run(refusal, copy):
    classes = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    edit_config(copy, model_type="own", auto_map=classes)
    (copy / "own.py").write_text(f"open({str(copy / 'ran')!r}, 'w')\n")
    said = refusal(*PAIR, model=copy)
    assert "--trust_remote_code" in said
    assert not (copy / "ran").exists()


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated"])
def test_a_damaged_model_is_refused(refusal, copy, name, damage):
    path = copy / name
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:100] if damage == "truncated" else b"")
    assert f"'{copy}'" in refusal(*PAIR, model=copy)


def test_an_unknown_architecture_is_refused(refusal, copy):
    edit_config(copy, model_type="no_such_type")
    assert "no_such_type" in refusal(*PAIR, model=copy)


def test_weights_of_another_shape_are_refused(refusal, copy):
    edit_config(copy, intermediate_size=64)
    assert "of other shapes" in refusal(*PAIR, model=copy)


def test_chat_without_a_template_is_refused(refusal, copy):
    (copy / "chat_template.jinja").unlink()
    assert "--prompt plain" in refusal(*PAIR, "--prompt", "chat", model=copy)


# --- what the device cannot


@pytest.mark.parametrize("flags", ["--fp16", "--dtype float16"])
def test_float16_on_a_cpu_is_refused(refusal, whole, flags):
    said = refusal(*PAIR, "--device", "cpu", *flags.split(), model=whole)
    assert "float16" in said
    assert "bfloat16" in said


@pytest.mark.parametrize("device", ["nonsense", "cpu:x"])
def test_an_unknown_device_is_refused(refusal, whole, device):
    assert f"--device {device}" in refusal(*PAIR, "--device", device, model=whole)


def test_a_device_that_is_not_there_is_refused(refusal, whole):
    assert "--device cuda:99" in refusal(*PAIR, "--device", "cuda:99", model=whole)


# --- the whole program


@pytest.mark.parametrize("flags", [["--target", "imdb"], [*PAIR, "--model", "org/none"]])
def test_a_process_ends_with_2_and_plain_lines(tmp_path, flags):
    command = [sys.executable, "experiment.py", *flags, "--out_dir", str(tmp_path / "results")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert_plain(done.stderr)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "http://no-such-host.invalid"])
def test_the_smoke_check_takes_a_hub_that_cannot_be_reached_for_absent(monkeypatch, endpoint):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert not test_debug.hub_answers()
