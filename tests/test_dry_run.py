"""Claims about --dry_run: what it says is what the run then does, and it needs no weights."""

import json

import pytest
import tiny
from refusals import call, unchanged
from runs import examples_of, result_of
from transformers import dynamic_module_utils

import experiment
from core.records import debug_path, result_path
from lm import speeds
from measures import stats
from run import dry_run
from run.config import RunConfig, parse_args

TARGETS = ["quiz", "reviews"]


def flags(model, out, *more):
    given = ["--model", model, "--out_dir", out, "--target", *TARGETS, "--distractor", *TARGETS]
    given += ["--max_len", 2, "--limit", 5, "--batch_size", 3, "--device", "cpu", *more]
    return list(map(str, given))


def said(capsys, *given):
    """The lines of a dry run that goes well."""
    assert experiment.main([*given, "--dry_run"]) == 0
    out, error = capsys.readouterr()
    assert error == ""
    return out


def numbers(text, name):
    """The cells of a row of the table."""
    [line] = [line for line in text.splitlines() if line.startswith(name)]
    return [cell.replace(",", "") for cell in line.removeprefix(name).split()]


@pytest.fixture
def bare(tmp_path):
    """A folder of a model without its weights."""
    folder = tiny.save_model(tmp_path / "tiny-llama")
    (folder / "model.safetensors").unlink()
    return folder


def test_a_folder_without_weights_is_enough_and_nothing_is_written(tmp_path, bare, capsys):
    with unchanged(tmp_path):
        text = said(capsys, *flags(bare, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    assert "quiz/test after reviews/test" in text and "The first prompt at h = 2 (" in text
    size = sum(p.numel() for p in tiny.model("llama").parameters()) * 4
    assert f"Weights: {size / 2**20:,.0f} MiB in float32." in text


OWN = """
from transformers import LlamaConfig, LlamaForCausalLM

class Config(LlamaConfig):
    model_type = "own"

class Model(LlamaForCausalLM):
    config_class = Config
"""


def test_a_model_with_code_of_its_own_that_is_trusted_is_described(
    tmp_path, bare, capsys, monkeypatch
):
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    (bare / "own.py").write_text(OWN)
    settings = json.loads((bare / "config.json").read_text())
    classes = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    settings |= {"model_type": "own", "auto_map": classes}
    (bare / "config.json").write_text(json.dumps(settings))
    given = flags(bare, tmp_path / "out")
    assert "MiB in float32." in said(capsys, *given, "--trust_remote_code")
    status, error = call(experiment.main, *given, "--dry_run")
    assert status == 2 and "brings code of its own" in error


@pytest.mark.parametrize("more", [[], ["--switch_cue", "Now this."], ["--lengths", "2"]])
def test_what_is_counted_is_what_the_run_reads(tmp_path, model, capsys, monkeypatch, more):
    given = flags(model, tmp_path / "out", *more)
    if "--lengths" in more:
        place = given.index("--max_len")
        del given[place : place + 2]
    text = said(capsys, *given)
    kept = []
    load = experiment._load
    monkeypatch.setattr(experiment, "_load", lambda config: kept.append(load(config)) or kept[0])
    assert experiment.main(given) == 0
    tokens = tiny.tokenizer()
    for target in TARGETS:
        for distractor in TARGETS:
            name = f"{target}/test after {distractor}/test"
            examples = examples_of(tmp_path / "out", target, distractor)
            asked = [each for e in examples for each in (e, e.get("cued")) if each]
            texts = [each["prompt_text"] for each in asked]
            length = sum(len(tokens(text, add_special_tokens=False).input_ids) for text in texts)
            assert numbers(text, name)[:3] == ["5", str(len(texts)), str(length)]
    assert numbers(text, "all, what pairs share once")[2] == str(kept[0].tokens_read)
    same = examples_of(tmp_path / "out", "quiz", "quiz")
    first = next(example for example in same if example["config"]["history_len"] == 2)
    assert text.endswith(f"row {first['config']['target_idx']}):\n{first['prompt_text']}\n")


def test_what_is_not_counted_is_said(tmp_path, bare, capsys):
    given = flags(bare, tmp_path / "out")
    assert "Not counted" not in said(capsys, *given)
    text = said(capsys, *given, "--sensitivity")
    assert "\nNot counted, in tokens or time: what --sensitivity reads.\n" in text
    text = said(capsys, *given, "--sensitivity", "--effects", "position")
    assert "what --effects and --sensitivity read; --effects takes several times as long" in text


@pytest.mark.parametrize(("method", "expected"), [("gptq", "less than "), ("gguf", "")])
def test_weights_that_stay_quantised_are_said_to_be_less(tmp_path, bare, capsys, method, expected):
    path = bare / "config.json"
    kept = {"quantization_config": {"quant_method": method, "bits": 4}}
    path.write_text(json.dumps(json.loads(path.read_text()) | kept))
    text = said(capsys, *flags(bare, tmp_path / "out"))
    assert f"\nWeights: {expected}" in text
    assert ("since they are quantised (gptq)." in text) == (method == "gptq")


def test_answers_are_counted_at_their_longest(tmp_path, bare, capsys):
    given = flags(bare, tmp_path / "out", "--target", "posts", "--max_new_tokens", 7)
    assert numbers(said(capsys, *given), "posts/test after quiz/test")[4] == str(5 * 3 * 7)


def test_many_targets_are_extrapolated(tmp_path, bare, capsys, monkeypatch):
    given = flags(bare, tmp_path / "out", "--limit", 40)
    exact = said(capsys, *given)
    monkeypatch.setattr(dry_run, "COUNTED", 20)
    about = said(capsys, *given)
    name = "all, what pairs share once"
    for counted, guessed in zip(numbers(exact, name)[1:3], numbers(about, name)[1:3]):
        assert guessed.startswith("~")
        assert float(guessed[1:]) == pytest.approx(float(counted), rel=0.1)
    assert numbers(exact, name)[0] == numbers(about, name)[0]
    assert "~: extrapolated from the first 20 targets." in about


def test_what_so_many_targets_detect(tmp_path, bare, capsys):
    text = said(capsys, *flags(bare, tmp_path / "out", "--target", "quiz", "posts", "--limit", 100))
    least = stats.detectable_binary(dry_run.FLIPS, 100)
    assert numbers(text, "quiz/test after quiz/test")[5:] == [f"{least:.0f}", "points"]
    least = stats.detectable_mean(dry_run.SPREAD, 100)
    assert numbers(text, "posts/test after quiz/test")[5:] == [f"{least:.0f}", "points"]
    text = said(capsys, *flags(bare, tmp_path / "out", "--limit", 2))
    assert numbers(text, "quiz/test after quiz/test")[5:] == ["nothing"]


def test_targets_that_share_few_histories_detect_what_clusters_do(tmp_path, bare, capsys):
    given = flags(bare, tmp_path / "out", "--target", "quiz", "posts", "--limit", 100)
    text = said(capsys, *given, "--num_histories", "6")
    for target in ("quiz", "posts"):
        assert numbers(text, f"{target}/test after quiz/test")[5:] == ["nothing"]
    text = said(capsys, *given, "--num_histories", "20")
    for target, spread in (("quiz", 50), ("posts", dry_run.SPREAD)):
        least = stats.detectable_mean(spread * 0.2**0.5, 20)
        assert numbers(text, f"{target}/test after quiz/test")[5:] == [f"{least:.0f}", "points"]


def test_pairs_that_are_finished_are_not_counted(tmp_path, model, capsys):
    given = flags(model, tmp_path / "out")
    one = [*given, "--target", "quiz"]
    assert experiment.main(one) == 0
    capsys.readouterr()
    text = said(capsys, *given)
    assert text.startswith("2 of 4 pairs have their result already.\n")
    assert "quiz/test after" not in text and "reviews/test after quiz/test" in text
    assert said(capsys, *one) == "2 of 2 pairs have their result already.\n"


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["--history", "random"], "--history random"),
        (["--server", "http://localhost:1/v1"], "Leave out --server"),
        (["--max_len", "40"], "too long"),
    ],
)
def test_what_cannot_be_run_or_counted_is_refused(tmp_path, bare, more, reason):
    (bare / "config.json").write_text(
        json.dumps(
            json.loads((bare / "config.json").read_text()) | {"max_position_embeddings": 512}
        )
    )
    given = flags(bare, tmp_path / "out", *more)
    if "random" in more:
        place = given.index("--distractor")
        del given[place : place + 3]
    if "--server" in more:
        place = given.index("--device")
        del given[place : place + 2]
    status, error = call(experiment.main, *given, "--dry_run")
    assert status == 2 and reason in error


def test_a_run_that_read_nothing_leaves_no_speed(tmp_path, monkeypatch):
    monkeypatch.setattr(speeds, "folder", lambda: tmp_path / "speeds")

    class Read:
        peak_memory_mib = 5

        def facts(self):
            return {"dtype": "float32", "device": "cpu"}

    way = speeds.Way("org/name", None, "float32", "cpu")
    dry_run.keep_speed(RunConfig(model="org/name"), Read(), 0.0)
    assert speeds.last(way) is None
    dry_run.keep_speed(RunConfig(model="org/name"), Read(), 2.0)
    assert speeds.last(way) == speeds.Speed(2.0, 5)


def test_the_speed_of_the_last_run_says_how_long_the_next_may_take(
    tmp_path, model, capsys, monkeypatch
):
    monkeypatch.setattr(speeds, "folder", lambda: tmp_path / "speeds")
    given = flags(model, tmp_path / "out")
    assert "Time and memory in all: unknown until" in said(capsys, *given)
    assert experiment.main([*given, "--target", "quiz"]) == 0
    way = speeds.Way(str(model), None, "float32", "cpu")
    found = speeds.last(way)
    assert found.tokens_per_second > 0 and found.peak_memory_mib > 100
    speeds.keep(way, speeds.Speed(50.0, 1234))
    capsys.readouterr()
    text = said(capsys, *given)
    tree = int(numbers(text, "all, what pairs share once")[2])
    assert f"Time: {dry_run.format_time(tree / 50)} on the tree, at the 50 tokens/s" in text
    assert "Memory: 1,234 MiB were the most in that run." in text
    for other in (way._replace(dtype="bfloat16"), way._replace(model="org/other")):
        assert speeds.last(other) is None


def test_a_dry_run_is_no_setting_of_the_run(tmp_path, model):
    given = flags(model, tmp_path / "out", "--target", "quiz", "--distractor", "quiz")
    assert experiment.main(given) == 0
    assert "dry_run" not in result_of(tmp_path / "out", "quiz", "quiz")["config"]
    assert debug_path(result_path(tmp_path / "out", str(model), "quiz/test", "quiz/test")).exists()
    assert parse_args(["--dry_run"]).dry_run
