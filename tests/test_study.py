"""Claims about what a study varies, from flags to files: seeds, mixes, and histories of nothing."""

import pytest
from drawn import rows
from runs import LIMIT, MAX_LEN, SMALL, examples_of, path_of, result_of
from studies import (
    CUE,
    LENGTHS,
    assert_same_numbers,
    assert_verified,
    history_of,
    made_up,
    mismatches,
    of_h,
    run_study,
)

import data
import experiment
from core import records
from core.debug_log import messages_at
from core.errors import UserError
from data import Case, Pair, conversation
from lm.text import Renderer
from measures import metrics
from run.config import MIXES, RunConfig, parse_args
from run.examples import run_cases
from run.pairs import load_pairs, require_rows

# --- conversations

CASES_OF_MESSAGES = {
    "": None,
    "--seed 0 1": None,
    "--history model": None,
    "--mix interleaved --prompt plain": None,
    f"--history model --mix target_last|{CUE}": CUE,
}


@pytest.mark.parametrize("flags", CASES_OF_MESSAGES)
@pytest.mark.parametrize("target", ["quiz", "posts"])
def test_every_prompt_is_the_rendering_of_its_messages_in_the_log(study, lm, target, flags):
    log = records.read_debug(records.debug_path(path_of(study(flags), target, "reviews")))
    render = (Renderer(lm.tokenizer, "plain") if "plain" in flags else lm).render
    named = set()
    for example in log["debug_examples"]:
        h, place = example["config"]["history_len"], example["conversation"]
        named.add((place, example["config"]["target_idx"], example["config"]["seed"]))
        messages = messages_at(log["conversations"][place], h)
        assert render(messages) == example["prompt_text"]
        assert len(messages) == 2 * h + 1
        assert example["rewritten_messages"] == 0
        if "cued" in example:
            cued = messages_at(log["conversations"][place], h, CASES_OF_MESSAGES[flags])
            assert render(cued) == example["cued"]["prompt_text"]
    seeds = 2 if "--seed" in flags else 1
    assert len(named) == len(log["conversations"]) == seeds * LIMIT
    assert_verified(path_of(study(flags), target, "reviews"))


# --- several seeds

SEEDS = (0, 1, 2)
POOLED = "--seed 0 1 2"


def test_several_seeds_are_as_many_examples_of_the_same_targets(study):
    for target in ("quiz", "posts"):
        examples = examples_of(study(POOLED), target, "reviews")
        places = {(e["config"]["target_idx"], e["config"]["seed"]) for e in of_h(examples, 1)}
        chosen = data.target_order(len(rows(target).turns), 0, LIMIT)
        assert places == {(index, seed) for index in chosen for seed in SEEDS}
        result = result_of(study(POOLED), target, "reviews")
        assert result["n"] == LIMIT * len(SEEDS)
        for entry in result["stats_by_len"].values():
            assert entry["clusters"] == {"unit": "targets", "count": LIMIT}
            assert entry["n_targets"] == LIMIT
        assert result["config"]["seed"] == list(SEEDS)
        assert_verified(path_of(study(POOLED), target, "reviews"))


def test_each_seed_draws_other_histories_and_h_0_is_one_for_all(study):
    examples = examples_of(study(POOLED), "quiz", "reviews")
    for index in {e["config"]["target_idx"] for e in examples}:
        group = [e for e in examples if e["config"]["target_idx"] == index]
        first, *others = [e | {"config": None, "conversation": None} for e in of_h(group, 0)]
        assert others == [first] * 2
        assert len({e["prompt_text"] for e in of_h(group, 2)}) == len(SEEDS)


def test_the_first_seed_alone_is_what_it_is_among_others(study):
    found = examples_of(study(POOLED), "quiz", "reviews")
    found = [example for example in found if example["config"]["seed"] == 0]
    assert_same_numbers(found, examples_of(study(), "quiz", "reviews"))


@pytest.mark.parametrize("target", ["quiz", "posts"])
def test_the_pooled_result_is_that_of_the_single_logs_together(study, model, lm, target):
    flags = ["--model", str(model), "--target", target, "--distractor", "reviews", *SMALL]
    config = parse_args(flags)
    [pair] = load_pairs(config)
    plan = data.plan_cases([pair], MAX_LEN, SEEDS, LIMIT)
    together = []
    for seed in SEEDS:
        of_seed = [[case for case in cases if case.seed == seed] for cases in plan]
        for start in range(0, len(of_seed), config.batch_size):
            batch = of_seed[start : start + config.batch_size]
            found = run_cases(
                [case for cases in batch for case in cases], config, lm, lambda n: None
            )
            together += [query.example for query in found]
    result = result_of(study(POOLED), target, "reviews")
    pooled = metrics.aggregate(together, result["metric_name"])
    for name in ("n", "metric_by_len", "stats_by_len", "scores_by_len", "debug_top5_by_len"):
        assert pooled[name] == result[name]


@pytest.mark.usefixtures("no_model")
def test_one_seed_twice_is_refused(tmp_path, model, capsys):
    assert run_study(tmp_path, model, "--seed 1 2 1") == 2
    assert "--seed: each seed can be given only once" in capsys.readouterr().err


# --- mixes


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("distractor", ["reviews", "quiz"])
def test_the_log_says_which_task_each_turn_is_of(study, lm, mix, distractor):
    folder = study(f"--mix {mix} --target quiz --distractor {distractor} --max_len 3")
    tables = {"target": rows("quiz"), "distractor": rows(distractor)}
    examples = examples_of(folder, "quiz", distractor)
    assert len(examples) == 4 * LIMIT
    for example in examples:
        config = example["config"]
        assert tuple(config["history_role"]) == data.roles(mix, 3)[: config["history_len"]]
        target = tables["target"].turns[config["target_idx"]]
        history = history_of(example, tables)
        assert example["prompt_text"] == lm.render(conversation(target, history))
        assert target.prompt not in [turn.prompt for turn in history]
        assert len({turn.prompt for turn in history}) == config["history_len"]


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("target", "distractor", "mix", "max_len"),
    [
        ("reviews", "reviews", "interleaved", 144),  # one table for both roles
        ("posts", "reviews", "distractor", 144),
        ("quiz", "reviews", "target_last", 287),  # 144 of the distractor and 143 of the target
    ],
)
def test_too_few_rows_for_a_mix_are_refused(
    tmp_path, model, capsys, target, distractor, mix, max_len
):
    flags = f"--target {target} --distractor {distractor} --mix {mix} --max_len {max_len}"
    assert run_study(tmp_path, model, flags) == 2
    said = capsys.readouterr().err
    assert f"h = {max_len}: 'reviews/test' has only 144 different rows" in said
    assert "a history of 144 of its turns needs at least 145" in said


@pytest.mark.parametrize("mix", MIXES[1:])
def test_a_mix_needs_of_each_task_one_row_more_than_its_own_turns(mix):
    few, many = made_up("few", "abc"), made_up("many", "klmnopqrst")
    require_rows(Pair(few, many), RunConfig(max_len=5, mix=mix))
    with pytest.raises(UserError, match=r"'few/test' has only 3 .* history of 3 of its turns"):
        require_rows(Pair(few, many), RunConfig(max_len=6, mix=mix))
    with pytest.raises(UserError, match=r"'few/test' has only 3 .* history of 3 of its turns"):
        require_rows(Pair(many, few), RunConfig(max_len=5, mix=mix))
    with pytest.raises(UserError, match=r"'few/test' has only 3 .* history of 3 of its turns"):
        require_rows(Pair(few, few), RunConfig(max_len=3, mix=mix))


# --- sensitivity

SENSITIVE = "--sensitivity"


def test_label_tasks_always_have_sensitivity_and_texts_where_it_is_asked_for(study):
    for flags, target, there in (("", "quiz", True), ("", "posts", False)):
        found = result_of(study(flags), target, "reviews")["sensitivity_by_len"]
        assert list(found) == (LENGTHS if there else [])
    for target in ("quiz", "posts"):
        found = result_of(study(SENSITIVE), target, "reviews")["sensitivity_by_len"]
        assert list(found) == LENGTHS
        for variant in ("tau", "confidence", "loss"):
            for unit in ("sum", "per_token"):
                at_0, at_2 = (found[h][variant][unit]["mean"] for h in ("0", "2"))
                assert at_0 == 0 != at_2
        assert_verified(path_of(study(SENSITIVE), target, "reviews"))


def test_sensitivity_changes_nothing_else(study):
    for target in ("quiz", "posts"):
        found, expected = (
            examples_of(study(flags), target, "reviews") for flags in (SENSITIVE, "")
        )
        assert_same_numbers(found, expected)


def test_an_edited_log_probability_does_not_verify(study, tmp_path):
    def edit(examples):
        of_h(examples, 1)[0]["reply_logprobs"]["reference"]["sum"] += 0.1

    assert mismatches(study(), tmp_path, edit) == {"sensitivity_by_len"}


# --- histories of nothing


@pytest.fixture(scope="module")
def nothing(tmp_path_factory, model):
    """Folder of a run in which neither a history nor a cue is ever shown."""
    folder = tmp_path_factory.mktemp("nothing")
    patch = pytest.MonkeyPatch()
    patch.setattr(Case, "messages", lambda case, h, cue=None: conversation(case.target))
    flags = ["--target", "quiz", "posts", "--distractor", "reviews", *SMALL, "--max_len", "3"]
    flags += ["--seed", "0", "1", "--sensitivity", "--scoring", "both", "--agree"]
    flags += ["--switch_cue", CUE, "--model", str(model), "--out_dir", str(folder)]
    assert experiment.main(flags) == 0
    patch.undo()
    return folder


@pytest.mark.parametrize("target", ["quiz", "posts"])
def test_histories_of_nothing_change_nothing(nothing, target):
    result = result_of(nothing, target, "reviews")
    assert len(set(result["metric_by_len"].values())) == 1
    found = [(h, result["stats_by_len"][h]) for h in "123"]
    found += [(h, result["cue_by_len"][h]) for h in "123"]
    for h, entry in found:
        assert entry["change_points"] == 0, h
        assert entry["percent_change"] in (0, None)
        for name in ("change_points_low", "change_points_high"):
            assert entry[name] is None and "0 do" in entry[f"{name}_reason"]  # no score differs
        assert entry["p_value"] == entry["p_holm"] == 1
        assert entry["detectable_points"] is None
    for h in "123":
        assert result["cue_by_len"][h]["metric"] == result["metric_by_len"]["0"]
        assert result["stats_by_len"][h]["low"] == result["stats_by_len"]["0"]["low"]


@pytest.mark.parametrize("target", ["quiz", "posts"])
def test_histories_of_nothing_have_no_sensitivity(nothing, target):
    found = result_of(nothing, target, "reviews")["sensitivity_by_len"]
    for entry in found.values():
        assert entry["reference_logprob"] == found["0"]["reference_logprob"]
        for variant in ("tau", "confidence", "loss"):
            for unit in ("sum", "per_token"):
                assert [entry[variant][unit][key] for key in ("mean", "low", "high")] == [0, 0, 0]


@pytest.mark.parametrize("target", ["quiz", "posts"])
def test_histories_of_nothing_leave_every_layer_as_it_is(nothing, target):
    result = result_of(nothing, target, "reviews")
    for values in result["drift_by_len"].values():
        assert values == pytest.approx([1] * 3, abs=1e-6)
    for name in ("cos_by_len", "margin_by_len", "agree_by_len", "decision_layer_by_len"):
        for h, values in result[name].items():
            assert values == pytest.approx(result[name]["0"], abs=1e-6), (name, h)
    assert result["cos_by_len"] and result["agree_by_len"]
    assert bool(result["margin_by_len"]) == (target == "quiz")


@pytest.mark.parametrize("target", ["quiz", "posts"])
def test_histories_of_nothing_leave_every_example_as_it_is(nothing, target):
    varying = {"config", "conversation", "cued", "cosines", "drift", "margin", "labels_shown"}
    varying.add("rewritten_messages")  # this model's template shows no history
    examples = examples_of(nothing, target, "reviews")
    for index in {e["config"]["target_idx"] for e in examples}:
        group = [e for e in examples if e["config"]["target_idx"] == index]
        first, *others = [{k: v for k, v in e.items() if k not in varying} for e in group]
        assert others == [first] * 7
        for example in of_h(group, 1, 2, 3):
            cued = {k: v for k, v in example["cued"].items() if k not in varying}
            assert cued.items() <= example.items()


# --- settings


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--switch_cue Now. --max_len 0", "no history to switch from"),
        ("--effect_window 2", "of --effects"),
        ("--effect_lengths all", "where --effects"),
        ("--lens raw --no_cosine", "--lens raw reads layers"),
        ("--max_tokens_total 9", "needs --server"),
    ],
)
def test_a_setting_that_would_change_nothing_is_refused(tmp_path, model, capsys, flags, words):
    assert run_study(tmp_path, model, flags) == 2
    assert words in capsys.readouterr().err
