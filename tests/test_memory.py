"""Claims about runs that memory is too small for: they go on with less, or leave out what cannot
fit, and remember both when they are taken up again.
"""

import json

import pytest
import tiny
import torch
from runs import LIMIT, assert_same_examples, examples_of, path_of, result_of, run

import data
import experiment
from core.errors import OutOfMemory
from run import batches, journal, planning
from tasks import spec

ENGINES = ("tree", "plain")


@pytest.fixture(scope="module")
def grid(tmp_path_factory, model):
    """Results of a machine with enough memory."""
    folder = tmp_path_factory.mktemp("grid")
    assert run(folder, model, "quiz", ["reviews", "posts"]) == 0
    return folder


@pytest.fixture
def memory(monkeypatch):
    """Makes models that run out of memory beyond some tokens of a row, or rows of a batch."""
    load = experiment._load

    def limit(tokens=10**6, rows=10**6):
        def check(module, args, kwargs):
            ids, cache = kwargs["input_ids"], kwargs.get("past_key_values")
            past = cache.get_seq_length() if cache else 0
            if ids.shape[0] > rows or ids.shape[1] + past > tokens:
                raise torch.OutOfMemoryError("no memory left")

        def small(config):
            lm = load(config)
            lm.model.register_forward_pre_hook(check, with_kwargs=True)
            small.loaded = lm
            return lm

        monkeypatch.setattr(experiment, "_load", small)
        return small

    return limit


@pytest.fixture(scope="module")
def lengths(grid):
    """Tokens of each quiz target with a label, after its longest history."""
    found = {}
    for name in ("reviews", "posts"):
        for example in examples_of(grid, "quiz", name):
            text = example["prompt_text"] + "A"
            count = len(tiny.tokenizer()(text, add_special_tokens=False).input_ids)
            key = name, example["config"]["target_idx"]
            found[key] = max(count, found.get(key, 0))
    return found


@pytest.mark.parametrize("engine", ENGINES)
def test_a_prompt_that_cannot_fit_is_named_by_its_ids(
    tmp_path, model, memory, lengths, engine, capsys
):
    (name, target), longest = max(lengths.items(), key=lambda entry: entry[1])
    memory(tokens=longest - 2)
    assert run(tmp_path, model, "quiz", ["reviews", "posts"], "--engine", engine) == 2
    said = capsys.readouterr().err.splitlines()[-2:]
    assert said[0].startswith(
        f"error: quiz/test after {name}/test, target {target}, seed 0: out of memory on a single"
    )
    assert "--on_overflow skip" in said[1]
    assert not list(tmp_path.rglob("*test.json"))


@pytest.mark.parametrize("engine", ENGINES)
def test_skip_leaves_out_the_target_that_does_not_fit_at_every_h_and_counts_it(
    tmp_path, model, memory, lengths, grid, engine, capsys
):
    (name, target), longest = max(lengths.items(), key=lambda entry: entry[1])
    memory(tokens=longest - 2)
    flags = ["--on_overflow", "skip", "--engine", engine]
    assert run(tmp_path, model, "quiz", ["reviews", "posts"], *flags) == 0
    assert f"target {target}, seed 0: out of memory on a single prompt; skipped" in (
        capsys.readouterr().err
    )
    for other in ("reviews", "posts"):
        gone = [target] if other == name else []
        result = result_of(tmp_path, "quiz", other)
        counted = [result[key] for key in ("n", "n_skipped", "skipped_target_idx")]
        assert counted == [LIMIT - len(gone), len(gone), gone]
        kept = [
            e for e in examples_of(grid, "quiz", other) if e["config"]["target_idx"] not in gone
        ]
        assert_same_examples(examples_of(tmp_path, "quiz", other), kept)


def test_a_run_that_memory_stopped_may_go_on_by_skipping(tmp_path, model, memory, lengths):
    (name, target), longest = max(lengths.items(), key=lambda entry: entry[1])
    memory(tokens=longest - 2)
    flags = ["--engine", "plain", "--batch_size", 1]
    assert run(tmp_path, model, "quiz", name, *flags) == 2
    assert run(tmp_path, model, "quiz", name, *flags, "--on_overflow", "skip") == 0
    assert result_of(tmp_path, "quiz", name)["skipped_target_idx"] == [target]


def interrupted_before_results(monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "write_results", interrupt)


def test_what_memory_showed_is_in_the_journal_and_not_tried_again(
    tmp_path, model, memory, lengths, monkeypatch
):
    (name, target), longest = max(lengths.items(), key=lambda entry: entry[1])
    flags = ["--on_overflow", "skip", "--engine", "plain"]
    with monkeypatch.context() as patch:
        interrupted_before_results(patch)
        memory(tokens=longest - 2, rows=2)
        assert run(tmp_path, model, "quiz", name, *flags) == 130
    [path] = journal.find_journals(path_of(tmp_path, "quiz", name))
    lines = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    assert [line["target_idx"] for line in lines if "skipped" in line] == [target]
    budgets = [line["token_budget"] for line in lines if "token_budget" in line]
    assert budgets == sorted(budgets, reverse=True) and budgets
    plenty = memory()
    assert run(tmp_path, model, "quiz", name, *flags) == 0
    assert plenty.loaded.runtime.token_budget == budgets[-1]
    assert result_of(tmp_path, "quiz", name)["skipped_target_idx"] == [target]
    assert result_of(tmp_path, "quiz", name)["environment"]["token_budget"] == budgets[-1]


def test_where_no_target_fits_no_result_is_written(tmp_path, model, memory, capsys):
    memory(tokens=20)
    assert run(tmp_path, model, "quiz", "reviews", "--on_overflow", "skip") == 2
    said = capsys.readouterr().err
    assert "error: not even one target fits into memory for: quiz/test after reviews/test." in said
    assert not list(tmp_path.rglob("*test.json"))


def test_a_pair_that_does_not_fit_keeps_no_other_from_its_result(
    tmp_path, model, memory, lengths, grid
):
    longest = {name: max(n for (other, _), n in lengths.items() if other == name)
               for name in ("reviews", "posts")}  # fmt: skip
    shorter = min(longest, key=longest.get)
    least = min(n for (name, _), n in lengths.items() if name != shorter)
    assert longest[shorter] < least
    memory(tokens=longest[shorter])
    flags = ["--on_overflow", "skip", "--engine", "plain"]
    for _ in range(2):
        assert run(tmp_path, model, "quiz", ["reviews", "posts"], *flags) == 2
        assert_same_examples(
            examples_of(tmp_path, "quiz", shorter), examples_of(grid, "quiz", shorter)
        )


def test_what_was_skipped_is_tried_again_under_stop(
    tmp_path, model, memory, lengths, monkeypatch, grid
):
    (name, _), longest = max(lengths.items(), key=lambda entry: entry[1])
    with monkeypatch.context() as patch:
        interrupted_before_results(patch)
        memory(tokens=longest - 2)
        flags = ["--on_overflow", "skip", "--engine", "plain"]
        assert run(tmp_path, model, "quiz", name, *flags) == 130
    memory()
    assert run(tmp_path, model, "quiz", name, "--engine", "plain") == 0
    assert result_of(tmp_path, "quiz", name)["n_skipped"] == 0
    assert_same_examples(examples_of(tmp_path, "quiz", name), examples_of(grid, "quiz", name))
    assert run(tmp_path, model, "quiz", name, "--engine", "plain", "--on_overflow", "skip") == 0


def test_a_finished_example_is_never_skipped_afterwards(
    tmp_path, model, memory, lengths, monkeypatch, grid
):
    """A run is killed when one of a batch's two pairs is in its journal; then memory shrinks."""
    (name, _), longest = max(lengths.items(), key=lambda entry: entry[1])
    flags = ["--on_overflow", "skip", "--engine", "plain"]
    with monkeypatch.context() as patch:
        interrupted_before_results(patch)
        assert run(tmp_path, model, "quiz", ["reviews", "posts"], *flags) == 130
    other = {"reviews": "posts", "posts": "reviews"}[name]
    for path in journal.find_journals(path_of(tmp_path, "quiz", other)):
        path.write_bytes(b"".join(path.read_bytes().splitlines(True)[:-1]))
    memory(tokens=longest - 2)
    assert run(tmp_path, model, "quiz", ["reviews", "posts"], *flags) == 0
    assert result_of(tmp_path, "quiz", name)["n_skipped"] == 0
    assert_same_examples(examples_of(tmp_path, "quiz", name), examples_of(grid, "quiz", name))


# --- batches


@pytest.mark.parametrize(("size", "places"), [(1, 1), (4, 1), (27, 1), (54, 2), (100, 3)])
def test_a_batch_counts_target_examples_and_keeps_those_of_one_place_together(size, places):
    names = ("quiz", "reviews", "posts")
    rows = [data.load_rows(spec.parse_spec(name)) for name in names]
    pairs = [data.Pair(target, distractor) for target in rows for distractor in rows]
    plan = data.plan_cases(pairs, 2, [0, 1, 2], limit=5)
    found = planning.in_batches(plan, size)
    assert [case for batch in found for case in batch] == [c for place in plan for c in place]
    assert len(found[0]) == places * 27


def test_where_a_batch_does_not_fit_its_halves_are_tried(tmp_path, model, monkeypatch, grid):
    ran, work = [], batches.run_cases

    def short(cases, *rest):
        ran.append(len(cases))
        if len(cases) > 2:
            raise OutOfMemory("out of memory on a single prompt")
        return work(cases, *rest)

    monkeypatch.setattr(batches, "run_cases", short)
    flags = ["--batch_size", 2 * LIMIT]
    assert run(tmp_path, model, "quiz", ["reviews", "posts"], *flags) == 0
    assert ran == [8, 4, 2, 2, 4, 2, 2]
    for name in ("reviews", "posts"):
        assert_same_examples(examples_of(tmp_path, "quiz", name), examples_of(grid, "quiz", name))
