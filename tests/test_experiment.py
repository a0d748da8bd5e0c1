"""Claims about a run, end to end: a tiny saved model on the embedded tasks, from flags to files."""

import dataclasses
import json
import shutil
from itertools import product
from pathlib import Path

import pytest
import tiny
from runs import (
    LIMIT,
    MAX_LEN,
    assert_same_examples,
    contents,
    examples_of,
    path_of,
    result_of,
    run,
)

import data
import experiment
from core import VERSION, provenance, records, schema
from lm import bundled
from measures import metrics, scoring
from run.config import DEMO_LIMIT, RunConfig, parse_args
from tasks import spec

TARGETS, DISTRACTORS = ("quiz", "posts"), ("reviews", "quiz")
PAIRS = list(product(TARGETS, DISTRACTORS))
BLOCKS = 3
AGGREGATES = ("n", "metric_by_len", "debug_top5_by_len", "stats_by_len", *schema.SOMETIMES)
ROOT = Path(experiment.__file__).parent


@pytest.fixture(scope="module")
def grid(tmp_path_factory, model):
    """Folder with the results of every pair, made by one run."""
    out_dir = tmp_path_factory.mktemp("grid")
    assert run(out_dir, model, TARGETS, DISTRACTORS) == 0
    return out_dir


# --- the files


def test_a_grid_writes_a_result_and_a_log_per_pair_and_nothing_else(grid):
    results = [path_of(grid, *pair) for pair in PAIRS]
    assert set(contents(grid)) == {*results, *map(records.debug_path, results)}


@pytest.mark.parametrize("pair", PAIRS)
def test_a_result_keeps_its_contract(grid, pair):
    result = result_of(grid, *pair)
    assert (result["target"], result["distractor"]) == tuple(f"{name}/test" for name in pair)
    assert result["model"] == "tiny-llama"
    assert result["metric_name"] == spec.builtin_tasks()[pair[0]].metric
    assert (result["n"], result["n_skipped"], result["skipped_target_idx"]) == (LIMIT, 0, [])
    for name in ("metric_by_len", "cos_by_len", "debug_top5_by_len", "stats_by_len"):
        assert list(result[name]) == ["0", "1", "2"]
    assert all(0 <= value <= 1 for value in result["metric_by_len"].values())
    for cosines in result["cos_by_len"].values():
        assert len(cosines) == BLOCKS
        assert cosines[-1] == pytest.approx(1, abs=1e-5)
        assert all(-1 <= cosine <= 1 for cosine in cosines)
    assert list(result["drift_by_len"]) == list(result["layer_stats_by_len"]) == ["0", "1", "2"]
    assert result["drift_by_len"]["0"] == pytest.approx([1] * BLOCKS, abs=1e-6)
    labels = result["metric_name"] == "accuracy"
    for name in ("margin_by_len", "decision_layer_by_len"):
        assert list(result[name]) == (["0", "1", "2"] if labels else [])
    assert result["agree_by_len"] == {}
    assert result["config"]["lens"] == result["environment"]["lens"]["kind"] == "logit"


def test_the_margin_at_the_last_block_is_that_of_the_label_logprobs(grid):
    result = result_of(grid, "quiz", "reviews")
    assert list(result["config"]["margin_tokens"]) == ["A", "B", "C", "D"]
    for example in examples_of(grid, "quiz", "reviews"):
        scores = dict(example["label_logprobs"])
        own = scores.pop(example["expected_answer"])
        assert example["margin"][-1] == pytest.approx(own - max(scores.values()), abs=1e-4)
        assert 1 <= example["decision_layer"] <= BLOCKS


def test_agreement_is_read_where_it_is_asked_for(tmp_path, model, grid):
    assert run(tmp_path, model, "posts", "quiz", "--agree") == 0
    result = result_of(tmp_path, "posts", "quiz")
    assert [row[-1] for row in result["agree_by_len"].values()] == [1, 1, 1]
    for h, counts in result["decision_layer_by_len"].items():
        assert sum(counts) == LIMIT, h
    assert_same_examples(examples_of(tmp_path, "posts", "quiz"), examples_of(grid, "posts", "quiz"))


def test_the_raw_lens_is_named_in_the_result_and_reads_otherwise(tmp_path, model, grid):
    assert run(tmp_path, model, "quiz", "reviews", "--lens", "raw") == 0
    raw, logit = (result_of(folder, "quiz", "reviews") for folder in (tmp_path, grid))
    assert raw["config"]["lens"] == raw["environment"]["lens"]["kind"] == "raw"
    assert raw["drift_by_len"]["2"] == pytest.approx(logit["drift_by_len"]["2"], abs=1e-5)
    assert raw["cos_by_len"]["2"][-1] < 0.9999 < logit["cos_by_len"]["2"][-1]
    assert raw["metric_by_len"] == logit["metric_by_len"]


@pytest.mark.parametrize("pair", PAIRS)
def test_config_holds_every_setting_as_it_was_resolved(grid, model, pair):
    config = result_of(grid, *pair)["config"]
    names = {field.name for field in dataclasses.fields(RunConfig)}
    of_the_moment = {"out_dir", "overwrite", "device", "quiet"}
    of_the_moment |= {"server", "concurrency", "max_tokens_total", "wording", "dry_run", "recheck"}
    assert names - of_the_moment <= set(config)
    assert config["model"] == str(model)
    assert (config["target"], config["distractor"]) == tuple(f"{name}/test" for name in pair)
    resolved = {"prompt": "chat", "dtype": "float32", "engine": "tree"}
    assert {name: config[name] for name in resolved} == resolved
    assert config["requested"] == dict.fromkeys(resolved, "auto")
    labels = spec.builtin_tasks()[pair[0]].labels
    assert config["label_continuations"] == {label: label for label in labels}
    assert config["generation"]["decoding"] == "greedy"
    assert config["generation"]["max_new_tokens"] == config["max_new_tokens"] == 4
    for role, name in zip(("target", "distractor"), pair):
        task = dataclasses.replace(spec.builtin_tasks()[name], max_new_tokens=4)
        assert config["tasks"][role] == json.loads(json.dumps(task.describe()))


def test_environment_says_with_what_a_result_was_made(grid):
    environment = result_of(grid, "quiz", "reviews")["environment"]
    assert set(provenance.PACKAGES) == set(environment["packages"])
    assert environment["device"] == "cpu"
    assert environment["version"] == VERSION
    assert {"git_commit", "git_dirty", "dtype", "attention", "engine"} <= set(environment)


@pytest.mark.parametrize("pair", PAIRS)
def test_a_log_holds_every_prompt_once(grid, pair):
    target, distractor = (data.load_rows(spec.parse_spec(name)) for name in pair)
    examples = examples_of(grid, *pair)
    places = [(e["config"]["target_idx"], e["config"]["history_len"]) for e in examples]
    chosen = data.target_order(len(target.turns), 0, LIMIT)
    assert sorted(places) == sorted(product(chosen, range(MAX_LEN + 1)))
    for example in examples:
        config = example["config"]
        turn = target.turns[config["target_idx"]]
        history = [distractor.turns[i] for i in config["history_idx"]]
        assert len(history) == config["history_len"]
        texts = [message["content"] for message in data.conversation(turn, history)]
        assert all(text in example["prompt_text"] for text in texts)
        assert example["expected_answer"] == turn.references[0]
        assert len(example["top5"]) == 5
        assert (config["target_dataset"], config["distractor_dataset"]) == pair
        assert (config["target_split"], config["distractor_split"]) == ("test", "test")


@pytest.mark.parametrize("pair", PAIRS)
def test_every_score_and_aggregate_recomputes_from_the_log(grid, pair):
    result, examples = result_of(grid, *pair), examples_of(grid, *pair)
    for example in examples:
        if "label_logprobs" in example:
            best = scoring.best_label(example["label_logprobs"])
            expected = float(best == example["expected_answer"])
            assert example["model_prediction"] == best
        else:
            scores = scoring.text_scores(example["model_prediction"], example["references"])
            assert example["scores"] == scores
            expected = scores["rouge"]
        assert example["score"] == expected
    rounding = result["environment"]["rounding"]
    recomputed = metrics.aggregate(examples, result["metric_name"], rounding)
    assert recomputed == {name: result[name] for name in AGGREGATES}


@pytest.mark.parametrize("target", TARGETS)
def test_zero_turns_give_the_same_numbers_for_every_distractor(grid, target):
    first, second = (
        [e for e in examples_of(grid, target, distractor) if e["config"]["history_len"] == 0]
        for distractor in DISTRACTORS
    )
    of_distractor = {"config", "distractor_logprobs", "intrusion_by_block", "intruded"}
    for one, other in zip(first, second, strict=True):
        assert {**one, **dict.fromkeys(of_distractor)} == {**other, **dict.fromkeys(of_distractor)}


# --- the same numbers


@pytest.mark.parametrize("pair", [PAIRS[0], PAIRS[-1]])
def test_a_pair_alone_equals_the_pair_in_a_grid(tmp_path, model, grid, pair):
    assert run(tmp_path, model, *pair) == 0
    assert_same_examples(examples_of(tmp_path, *pair), examples_of(grid, *pair))


@pytest.mark.parametrize("flags", ["--batch_size 1", "--batch_size 3", "--engine plain"])
def test_neither_batch_size_nor_engine_changes_a_number(tmp_path, model, grid, flags):
    assert run(tmp_path, model, TARGETS, "reviews", *flags.split()) == 0
    for target in TARGETS:
        found = examples_of(tmp_path, target, "reviews")
        assert_same_examples(found, examples_of(grid, target, "reviews"))


def test_another_seed_gives_other_targets_and_histories(tmp_path, model, grid):
    assert run(tmp_path, model, "quiz", "reviews", "--seed", 1, "--no_cosine") == 0
    prompts, others = (
        {example["prompt_text"] for example in examples_of(folder, "quiz", "reviews")}
        for folder in (tmp_path, grid)
    )
    assert not prompts & others


def test_no_cosine_stores_none(tmp_path, model, grid):
    assert run(tmp_path, model, "posts", "quiz", "--no_cosine") == 0
    assert all(result_of(tmp_path, "posts", "quiz")[name] == {} for name in schema.LAYER_KEYS)
    found, expected = (examples_of(folder, "posts", "quiz") for folder in (tmp_path, grid))
    assert not any({"cosines", "drift", "margin"} & set(example) for example in found)
    assert [example["score"] for example in found] == [example["score"] for example in expected]


# --- a second run


SAME = [
    "",
    "--batch_size 1",
    "--on_overflow skip",
    "--prompt chat",
    "--dtype float32",
    "--engine tree",
]


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("flags", SAME)
def test_the_same_settings_are_complete_and_left_as_they_are(grid, model, capsys, flags):
    before = contents(grid)
    assert run(grid, model, TARGETS, DISTRACTORS, *flags.split()) == 0
    assert contents(grid) == before
    printed = capsys.readouterr().out
    assert "exist already" in printed
    assert all(str(path_of(grid, *pair)) in printed for pair in PAIRS)


OTHER = {
    "--max_len 1": "max_len 2 there, 1 now",
    "--limit 3": "limit 4 there, 3 now",
    "--seed 7": "seed [0] there, [7] now",
    "--prompt plain": "prompt 'chat' there, 'plain' now",
    "--engine plain": "engine 'tree' there, 'plain' now",
    "--dtype bfloat16": "dtype 'float32' there, 'bfloat16' now",
    "--max_new_tokens 5": "max_new_tokens 4 there, 5 now",
    "--no_cosine": "no_cosine False there, True now",
    "--num_histories 2": "num_histories None there, 2 now",
}


@pytest.mark.usefixtures("no_model")
def test_other_rows_under_the_same_name_are_refused(grid, model, monkeypatch, capsys):
    changed = dataclasses.replace(spec.builtin_tasks()["posts"], prompt="{Question}")
    monkeypatch.setitem(spec.builtin_tasks(), "posts", changed)
    assert run(grid, model, "posts", "quiz") == 2
    assert "target_rows" in capsys.readouterr().err


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("setting", "value"), [("metric", "f1"), ("labels", ("A", "B", "C", "D", "E"))]
)
def test_a_task_that_is_scored_otherwise_is_refused(
    grid, model, monkeypatch, capsys, setting, value
):
    name = "quiz" if setting == "labels" else "posts"
    changed = dataclasses.replace(spec.builtin_tasks()[name], **{setting: value})
    monkeypatch.setitem(spec.builtin_tasks(), name, changed)
    assert run(grid, model, name, "reviews") == 2
    assert f"other settings: target_{setting}" in capsys.readouterr().err


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("flags", OTHER)
def test_other_settings_are_refused_and_named(grid, model, capsys, flags):
    before = contents(grid)
    assert run(grid, model, "quiz", "reviews", *flags.split()) == 2
    assert contents(grid) == before
    message = capsys.readouterr().err
    assert f"other settings: {OTHER[flags]}." in message
    assert "--overwrite" in message


def test_another_model_of_the_same_name_is_refused(grid, tmp_path, capsys):
    assert run(grid, tiny.save_model(tmp_path / "tiny-llama"), "quiz", "reviews") == 2
    assert "other settings: model" in capsys.readouterr().err


def test_overwrite_replaces(tmp_path, grid, model):
    shutil.copytree(grid, tmp_path, dirs_exist_ok=True)
    assert run(tmp_path, model, "quiz", "reviews", "--max_len", 1, "--overwrite") == 0
    assert list(result_of(tmp_path, "quiz", "reviews")["metric_by_len"]) == ["0", "1"]
    assert len(examples_of(tmp_path, "quiz", "reviews")) == 2 * LIMIT


def test_only_what_is_missing_is_run(tmp_path, grid, model):
    shutil.copytree(grid, tmp_path, dirs_exist_ok=True)
    missing = path_of(tmp_path, "posts", "quiz")
    missing.unlink()
    kept = contents(tmp_path)
    assert run(tmp_path, model, TARGETS, DISTRACTORS) == 0
    after = contents(tmp_path)
    assert set(after) == {*kept, missing}
    changed = {path for path in kept if after[path] != kept[path]}
    assert changed <= {records.debug_path(missing)}
    assert_same_examples(examples_of(tmp_path, "posts", "quiz"), examples_of(grid, "posts", "quiz"))


def test_a_run_that_is_interrupted_before_anything_is_finished_leaves_nothing(
    tmp_path, model, monkeypatch, capsys
):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "run_plan", interrupt)
    assert run(tmp_path / "new" / "results", model, "quiz", "reviews") == 130
    assert list(tmp_path.iterdir()) == []
    assert "interrupted" in capsys.readouterr().err


# --- prompts longer than the context


def tokens_read(example):
    """Tokens of an example's prompt with the longest label of either task behind it."""
    labels = (*example["label_logprobs"], *example.get("distractor_logprobs", ()))
    texts = [example["prompt_text"] + label for label in labels]
    return max(len(tiny.tokenizer()(text, add_special_tokens=False).input_ids) for text in texts)


@pytest.fixture(scope="module")
def lengths(grid):
    """Tokens of each quiz target after the longest history of reviews."""
    examples = examples_of(grid, "quiz", "reviews")
    longest = [e for e in examples if e["config"]["history_len"] == MAX_LEN]
    return {e["config"]["target_idx"]: tokens_read(e) for e in longest}


@pytest.fixture(scope="module")
def short_model(tmp_path_factory, lengths):
    """A model whose context is exactly what the second longest of the targets needs."""
    context = sorted(lengths.values())[-2]
    folder = tmp_path_factory.mktemp("short") / "tiny-llama"
    return tiny.save_model(folder, max_position_embeddings=context)


def test_an_overflow_stops_and_names_pair_h_and_tokens(tmp_path, short_model, lengths, capsys):
    assert run(tmp_path, short_model, "quiz", "reviews") == 2
    message = capsys.readouterr().err
    target, needed = max(lengths.items(), key=lambda entry: entry[1])
    assert f"quiz/test after reviews/test, target {target}, h = 2: {needed} tokens" in message
    assert f"context is {sorted(lengths.values())[-2]}." in message
    assert "1 of 4 targets" in message
    assert contents(tmp_path) == {}


def test_skip_drops_the_target_at_every_h_and_counts_it(tmp_path, short_model, lengths, grid):
    assert run(tmp_path, short_model, "quiz", "reviews", "--on_overflow", "skip") == 0
    result = result_of(tmp_path, "quiz", "reviews")
    gone = max(lengths, key=lengths.get)
    assert (result["n"], result["n_skipped"], result["skipped_target_idx"]) == (3, 1, [gone])
    kept = [e for e in examples_of(grid, "quiz", "reviews") if e["config"]["target_idx"] != gone]
    assert_same_examples(examples_of(tmp_path, "quiz", "reviews"), kept)


def test_generated_tokens_count_as_read(tmp_path, model, grid, capsys):
    texts = [example["prompt_text"] for example in examples_of(grid, "posts", "quiz")]
    longest = max(len(ids) for ids in tiny.tokenizer()(texts, add_special_tokens=False).input_ids)
    for context, status in ((longest + 4, 0), (longest + 3, 2)):
        fitting = tiny.save_model(tmp_path / "tiny-llama", max_position_embeddings=context)
        assert run(tmp_path / f"{context}", fitting, "posts", "quiz", "--no_cosine") == status
    assert f"{longest + 4} tokens" in capsys.readouterr().err


def test_a_context_that_no_target_fits_is_refused(tmp_path, capsys):
    tiny_context = tiny.save_model(tmp_path / "tiny-llama", max_position_embeddings=64)
    assert run(tmp_path / "out", tiny_context, "quiz", "posts", "--on_overflow", "skip") == 2
    assert "quiz/test after posts/test: every target is too long" in capsys.readouterr().err
    assert contents(tmp_path / "out") == {}


# --- the command line


def test_no_flags_mean_the_bundled_model_on_the_embedded_grid():
    config = parse_args([])
    assert config == RunConfig(limit=DEMO_LIMIT)
    assert (config.model, config.max_len) == (bundled.BUNDLED, 4)
    names = tuple(name for name, task in spec.builtin_tasks().items() if task.embedded)
    assert config.target == config.distractor == names


def test_a_named_model_is_run_on_every_target():
    assert parse_args(["--model", "org/name"]) == RunConfig(model="org/name")


def test_flags_of_the_original_are_kept():
    flags = "--model m --target a b --distractor c --max_len 8 --batch_size 2 --fp16 --no_cosine"
    assert parse_args([*flags.split(), "--out_dir", "o"]) == RunConfig(
        model="m", target=("a", "b"), distractor=("c",), max_len=8, batch_size=2,
        dtype="float16", no_cosine=True, out_dir="o",
    )  # fmt: skip
