"""Claims about what a study varies, from flags to files: seeds, mixes, histories, cues, reads."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
from runs import LIMIT, MAX_LEN, SMALL, assert_same_examples, examples_of, path_of, result_of
from test_data import rows

import data
import experiment
from core import records
from core.debug_log import messages_at
from core.errors import UserError
from data import Case, HistoryTurn, Pair, TaskRows, Turn, conversation
from lm.text import Renderer
from measures import metrics, scoring, stats
from model import LanguageModel
from reports import verify
from run import planning
from run.config import MIXES, RunConfig, parse_args
from run.examples import run_cases
from run.histories import random_rows, with_model_replies
from tasks.kinds import parse_kind
from tasks.spec import Task, TaskSpec

LENGTHS = [str(h) for h in range(MAX_LEN + 1)]
CUE = "Now for something else."


@pytest.fixture(scope="module")
def study(tmp_path_factory, model):
    """Folder of a run with these flags; each is made once."""
    made = {}

    def studied(flags=""):
        if flags not in made:
            made[flags] = tmp_path_factory.mktemp("study")
            assert run(made[flags], model, flags) == 0
        return made[flags]

    return studied


def run(out_dir, model, flags=""):
    """Exit status of one run, by default of two targets after reviews."""
    flags = flags.split("|")
    tasks = [] if "--target" in flags[0] else ["--target", "quiz", "posts"]
    if "--distractor" not in flags[0] and "--history random" not in flags[0]:
        tasks += ["--distractor", "reviews"]
    cue = ["--switch_cue", flags[1]] if len(flags) > 1 else []
    flags = [*tasks, *SMALL, "--no_cosine", *flags[0].split(), *cue]
    return experiment.main(["--model", str(model), "--out_dir", str(out_dir), *flags])


@pytest.fixture(scope="module")
def lm(model):
    """The saved model, as a run loads it."""
    return experiment._load(RunConfig(model=str(model), no_cosine=True, device="cpu"))


@pytest.fixture
def no_model(monkeypatch):
    """Whoever loads a model fails."""
    monkeypatch.setattr(experiment, "_load", lambda config: pytest.fail("a model was loaded"))


def of_h(examples, *lengths):
    return [example for example in examples if example["config"]["history_len"] in lengths]


def history_of(example, tables):
    """The turns that a log says stand in the history of an example."""
    config = example["config"]
    places = zip(config["history_role"], config["history_idx"], strict=True)
    return [tables[role].turns[idx] for role, idx in places]


def assert_same_numbers(found, expected):
    """The same examples, of runs that read no layers."""
    assert_same_examples(*([e | {"cosines": []} for e in each] for each in (found, expected)))


def assert_verified(path):
    assert {row[-1] for row in verify.verify(records.debug_path(path))} == {"ok"}


def mismatches(folder, tmp_path, edit):
    """The quantities of quiz after reviews that do not verify once an edit has been made.

    The digests are left out: any edit changes them.
    """
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    log = records.debug_path(path_of(tmp_path, "quiz", "reviews"))
    content = json.loads(log.read_text())
    edit(content["debug_examples"])
    log.write_text(json.dumps(content))
    wrong = [row for row in verify.verify(log) if row[-1] != "ok"]
    return {row[0].split()[0] for row in wrong} - {records.DIGEST, records.DIGEST_OF_LOG}


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
    [pair] = planning.load_pairs(config)
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
    assert run(tmp_path, model, "--seed 1 2 1") == 2
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
    assert run(tmp_path, model, flags) == 2
    said = capsys.readouterr().err
    assert f"h = {max_len}: 'reviews/test' has only 144 different rows" in said
    assert "a history of 144 of its turns needs at least 145" in said


@pytest.mark.parametrize("mix", MIXES[1:])
def test_a_mix_needs_of_each_task_one_row_more_than_its_own_turns(mix):
    few, many = made_up("few", "abc"), made_up("many", "klmnopqrst")
    planning.require_rows(Pair(few, many), RunConfig(max_len=5, mix=mix))
    with pytest.raises(UserError, match=r"'few/test' has only 3 .* history of 3 of its turns"):
        planning.require_rows(Pair(few, many), RunConfig(max_len=6, mix=mix))
    with pytest.raises(UserError, match=r"'few/test' has only 3 .* history of 3 of its turns"):
        planning.require_rows(Pair(many, few), RunConfig(max_len=5, mix=mix))
    with pytest.raises(UserError, match=r"'few/test' has only 3 .* history of 3 of its turns"):
        planning.require_rows(Pair(few, few), RunConfig(max_len=3, mix=mix))


# --- replies of the model's own


@pytest.mark.parametrize("flags", ["--history model", "--history model --mix interleaved"])
@pytest.mark.parametrize("target", ["quiz", "posts"])
def test_every_reply_in_a_prompt_is_what_the_model_says_to_that_conversation(
    study, lm, target, flags
):
    tables = {"target": rows(target), "distractor": rows("reviews")}
    shown = set()
    for example in examples_of(study(flags), target, "reviews"):
        past = []
        for turn in history_of(example, tables):
            [said] = lm.run([lm.encode(conversation(turn, past), max_new_tokens=4)])
            past.append(Turn(turn.prompt, (said.text,)))
            shown.add(said.text)
        asked = tables["target"].turns[example["config"]["target_idx"]]
        assert example["prompt_text"] == lm.render(conversation(asked, past))
    assert len(shown) > LIMIT
    assert_verified(path_of(study(flags), target, "reviews"))


def test_replies_of_its_own_change_nothing_without_a_history_and_no_row(study):
    for target in ("quiz", "posts"):
        found, expected = (
            examples_of(study(flags), target, "reviews") for flags in ("--history model", "")
        )
        for example in (*found, *expected):
            del example["config"]["history_kind"]
        assert_same_numbers(of_h(found, 0), of_h(expected, 0))
        rows_of = [[e["config"]["history_idx"] for e in each] for each in (found, expected)]
        assert rows_of[0] == rows_of[1]
        texts = [[e["prompt_text"] for e in of_h(each, 1, 2)] for each in (found, expected)]
        assert not set(texts[0]) & set(texts[1])


def test_longer_conversations_with_own_replies_begin_as_the_shorter_ones(study):
    examples = examples_of(study("--history model"), "quiz", "reviews")
    for index in {e["config"]["target_idx"] for e in examples}:
        zero, one, two = [e["prompt_text"] for e in examples if e["config"]["target_idx"] == index]
        assert one.endswith(zero) and two.endswith(zero)
        assert two.startswith(one.removesuffix(zero))


class Parrot:
    """Stands for a model: keeps what it was asked, and says how often it was."""

    def __init__(self):
        self.asked = []

    def encode(self, messages, max_new_tokens):
        return tuple(message["content"] for message in messages), max_new_tokens

    def run(self, prompts):
        self.asked += prompts
        number = len(self.asked) - len(prompts)
        return [SimpleNamespace(text=f"reply {number + k}") for k in range(len(prompts))]


def made_up(name, texts, most=8):
    task = Task(name, "a file", "{x}", "y", max_new_tokens=most)
    turns = tuple(Turn(text, ("reference",)) for text in texts)
    return TaskRows(TaskSpec(task, None, "test"), turns)


def case_of(target, distractor, *indices):
    past = tuple(HistoryTurn("distractor", i, distractor.turns[i]) for i in indices)
    return Case(Pair(target, distractor), 0, 0, 0, past)


def test_equal_beginnings_are_answered_once():
    target, other = made_up("target", ["t"]), made_up("other", "abc")
    cases = [case_of(target, other, *place) for place in ((0, 1), (0, 1), (0, 2), (1, 0))]
    parrot = Parrot()
    replied = with_model_replies(cases, parrot)
    assert [texts for texts, _ in parrot.asked] == [
        ("a",), ("b",),
        ("a", "reply 0", "b"), ("a", "reply 0", "c"), ("b", "reply 1", "a"),
    ]  # fmt: skip
    contents = [[m["content"] for m in case.messages(2)] for case in replied]
    assert contents == [
        ["a", "reply 0", "b", "reply 2", "t"], ["a", "reply 0", "b", "reply 2", "t"],
        ["a", "reply 0", "c", "reply 3", "t"], ["b", "reply 1", "a", "reply 4", "t"],
    ]  # fmt: skip
    assert [case.history_idx for case in replied] == [case.history_idx for case in cases]


def test_a_reply_may_be_as_long_as_the_task_of_its_turn_allows():
    target = made_up("target", ["t"])
    tables = [made_up("short", "ab", 3), made_up("long", "ab", 7)]
    parrot = Parrot()
    replied = with_model_replies([case_of(target, table, 0, 1) for table in tables], parrot)
    assert [most for _, most in parrot.asked] == [3, 7, 3, 7]
    assert [case.messages(1)[1]["content"] for case in replied] == ["reply 0", "reply 1"]


def test_no_cases_and_no_turns_ask_nothing():
    parrot, table = Parrot(), made_up("target", ["t"])
    assert with_model_replies([], parrot) == []
    [alone] = with_model_replies([case_of(table, table)], parrot)
    assert (alone.history, parrot.asked) == ((), [])


# --- sampled turns

RANDOM = "--history random"


@pytest.fixture(scope="module")
def pool(lm):
    """The turns that a run with the first seed 0 draws from."""
    return random_rows(lm, MAX_LEN, 0, 4)


def test_sampled_turns_stand_in_the_history_and_come_from_the_pool(study, lm, pool):
    for target in ("quiz", "posts"):
        path = study(RANDOM) / f"tiny-llama__{target}" / "test_vs_random_model.json"
        result, log = records.read_result(path), records.read_debug(records.debug_path(path))
        assert (result["distractor"], result["config"]["distractor"]) == ("random/model",) * 2
        assert result["config"]["distractor_rows"] == pool.fingerprint
        tables = {"target": rows(target), "distractor": pool}
        for example in log["debug_examples"]:
            asked = tables["target"].turns[example["config"]["target_idx"]]
            history = history_of(example, tables)
            assert example["prompt_text"] == lm.render(conversation(asked, history))
        assert_verified(path)


def test_a_pool_follows_its_seed(lm, pool):
    assert random_rows(lm, MAX_LEN, 0, 4) == pool
    other = random_rows(lm, MAX_LEN, 1, 4)
    assert not {turn.prompt for turn in pool.turns} & {turn.prompt for turn in other.turns}


def test_sampled_turns_are_different_and_answered_by_the_model(lm, pool):
    assert pool.distinct == len(pool.turns) == 20
    for turn in pool.turns[:4]:
        [said] = lm.run([lm.encode(conversation(turn), max_new_tokens=4)])
        assert turn.references == (said.text,)


def test_a_pool_has_more_turns_than_the_longest_history(monkeypatch, lm):
    monkeypatch.setattr(lm, "sample", lambda count, most, seed: [f"t{k}" for k in range(count)])
    assert [random_rows(lm, h, 0, 1).distinct for h in (0, 19, 20, 30)] == [20, 20, 21, 31]
    monkeypatch.setattr(lm, "sample", lambda count, most, seed: ["a", "", "b", "a"])
    assert [turn.prompt for turn in random_rows(lm, 1, 0, 1).turns] == ["a", "b"]
    with pytest.raises(UserError, match="too few different texts"):
        random_rows(lm, 2, 0, 1)


def test_a_distractor_beside_sampled_turns_is_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        experiment.main(["--history", "random", "--distractor", "reviews"])
    assert stopped.value.code == 2
    assert "leave out --distractor" in capsys.readouterr().err


# --- a cue at the switch

CUED = f"|{CUE}"
OF_CUE = ("prompt_text", "model_prediction", "score")


@pytest.mark.parametrize("target", ["quiz", "posts"])
def test_a_cue_stands_before_the_target_prompt_and_nowhere_else(study, target):
    for example in examples_of(study(CUED), target, "reviews"):
        assert ("cued" in example) == (example["config"]["history_len"] > 0)
        assert CUE not in example["prompt_text"]
        if "cued" in example:
            asked = rows(target).turns[example["config"]["target_idx"]].prompt
            before, _, behind = example["prompt_text"].rpartition(asked)
            assert example["cued"]["prompt_text"] == f"{before}{CUE}\n{asked}{behind}"
            assert set(OF_CUE) < set(example["cued"])


@pytest.mark.parametrize("target", ["quiz", "posts"])
def test_a_cue_changes_nothing_of_the_run_without_it(study, target):
    found, expected = (examples_of(study(flags), target, "reviews") for flags in (CUED, ""))
    bare = [{k: v for k, v in e.items() if k != "cued"} for e in found]
    assert_same_numbers(bare, expected)
    assert list(map(list, bare)) == list(map(list, expected))
    results = [result_of(study(flags), target, "reviews") for flags in (CUED, "")]
    assert results[0]["stats_by_len"] == results[1]["stats_by_len"]
    assert results[1]["cue_by_len"] == {}


@pytest.mark.parametrize("target", ["quiz", "posts"])
def test_what_a_cue_changes_is_what_a_hand_gets(study, target):
    examples, result = (read(study(CUED), target, "reviews") for read in (examples_of, result_of))
    found = result["cue_by_len"]
    assert list(found) == LENGTHS and found["0"] == {}
    for h in (1, 2):
        group = sorted(of_h(examples, h), key=lambda e: e["config"]["target_idx"])
        without, with_cue = ([e["score"] for e in each] for each in (group, cued_of(group)))
        entry = found[str(h)]
        assert entry["metric"] == pytest.approx(np.mean(with_cue))
        change = np.subtract(with_cue, without)
        assert entry["change_points"] == pytest.approx(100 * change.mean())
        assert (entry["n"], entry["clusters"]["count"]) == (LIMIT, LIMIT)
    p_values = [found[h]["p_value"] for h in ("1", "2")]
    assert [found[h]["p_holm"] for h in ("1", "2")] == stats.holm(p_values)
    assert_verified(path_of(study(CUED), target, "reviews"))


def cued_of(group):
    return [example["cued"] for example in group]


def test_the_change_by_a_cue_is_paired_with_the_same_history():
    scores = {1: [(1, 0), (1, 0), (0, 0), (1, 1)], 2: [(0, 1), (0, 0), (0, 0), (0, 0)]}
    examples = []
    for h in (0, 1, 2):
        for index in range(4):
            config = {"history_len": h, "target_idx": index}
            before, behind = scores[h][index] if h else (1, None)
            example = {"config": config, "score": before, "top5": []}
            examples.append(example | ({"cued": {"score": behind}} if h else {}))
    found = metrics.aggregate(examples[::-1], "accuracy")["cue_by_len"]
    assert [found[h]["metric"] for h in "12"] == [0.25, 0.25]
    assert [found[h]["change_points"] for h in "12"] == [-50, 25]
    mid_p = [0.25, 0.5]  # 2 of 2 lost; 1 of 1 gained
    assert [found[h]["p_value"] for h in "12"] == pytest.approx(mid_p)
    assert [found[h]["p_holm"] for h in "12"] == pytest.approx([0.5, 0.5])
    assert found["1"]["percent_change"] == pytest.approx(100 * -2 / 3)


def test_an_edited_cued_score_does_not_verify(study, tmp_path):
    def edit(examples):
        cued = of_h(examples, 2)[1]["cued"]
        cued["score"] = 1 - cued["score"]

    assert "cued" in mismatches(study(CUED), tmp_path, edit)


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("cue", ["", "  "])
def test_an_empty_cue_is_refused(tmp_path, model, capsys, cue):
    assert run(tmp_path, model, f"|{cue}") == 2
    assert "--switch_cue: the sentence is empty" in capsys.readouterr().err


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
    assert run(tmp_path, model, flags) == 2
    assert words in capsys.readouterr().err


# --- labels read from text

LETTERS, MOODS = ("A", "B", "C", "D"), ("negative", "positive")
FOUND = [
    ("B", LETTERS, "B"),
    ("B.", LETTERS, "B"),
    ("(B)", LETTERS, "B"),
    ("**B**", LETTERS, "B"),
    ("B. Saturn", LETTERS, "B"),
    ("The answer is:\nC", LETTERS, "C"),
    ("B, yes, B", LETTERS, "B"),
    ("b", LETTERS, None),
    ("It is a C", LETTERS, "C"),
    ("A or B", LETTERS, None),
    ("A B C D", LETTERS, None),
    ("Because", LETTERS, None),
    ("B2", LETTERS, None),
    ("_B_", LETTERS, None),
    ("", LETTERS, None),
    ("none of them", LETTERS, None),
    ("positive", MOODS, "positive"),
    ("Positive!", MOODS, "positive"),
    ("NEGATIVE", MOODS, "negative"),
    ("positively", MOODS, None),
    ("nonpositive", MOODS, None),
    ("non-positive", MOODS, "positive"),
    ("negative, not positive", MOODS, None),
    ("so it is negative. Negative.", MOODS, "negative"),
    ("It is not likely.", ("likely", "not likely"), "not likely"),
    ("Likely", ("likely", "not likely"), "likely"),
    ("likely or not likely", ("likely", "not likely"), None),
    ("yes", ("Yes", "yes"), "yes"),
    ("YES", ("Yes", "yes"), None),
    ("C++", ("C++", "C#"), "C++"),
    ("a.b", ("a.b", "axb"), "a.b"),
]


@pytest.mark.parametrize(("text", "labels", "label"), FOUND)
def test_the_label_of_a_text(text, labels, label):
    assert scoring.find_label(text, labels) == label
    assert scoring.find_label(text, labels[::-1]) == label


LOGPROBS = {"A": -1.0, "B": -2.0}
WRITTEN = {
    "B": {"generated_label": "B", "generated_score": 1.0, "format_failure": False},
    "A": {"generated_label": "A", "generated_score": 0.0, "format_failure": False},
    "A, B": {"generated_label": None, "generated_score": 0.0, "format_failure": True},
}


@pytest.mark.parametrize("text", WRITTEN)
def test_the_three_reads_of_one_example(text):
    likeliest = {"model_prediction": "A", "score": 0.0}
    written = WRITTEN[text] | {"generated_text": text}
    assert scoring.judge_labels(LOGPROBS, "B", "likelihood", text) == likeliest
    assert scoring.judge_labels(LOGPROBS, "B") == likeliest
    assert scoring.judge_labels(LOGPROBS, "B", "both", text) == likeliest | written
    shown = {"model_prediction": written["generated_label"] or text}
    scored = {"score": written["generated_score"]}
    assert scoring.judge_labels(LOGPROBS, "B", "generate", text) == shown | scored | written


def test_the_reads_side_by_side_are_what_a_hand_gets():
    cases = [("A", "A", "A"), ("A", "A", "B"), ("B", "B", "?"), ("B", "A", "B")]
    examples = []
    for h in (0, 1):
        for index, (best, expected, text) in enumerate(cases if h else cases[:1] * 4):
            scores = {"A": -1.0, "B": -1.5 if best == "A" else -0.5}
            example = {
                "config": {"history_len": h, "target_idx": index},
                "top5": [],
                "expected_answer": expected,
                "label_logprobs": scores,
            }
            examples.append(example | scoring.judge_labels(scores, expected, "both", text))
    found = metrics.aggregate(examples, "accuracy")
    assert found["reads_by_len"] == {
        "0": {"likelihood": 1, "generate": 1, "format_failure_rate": 0},
        "1": {"likelihood": 0.75, "generate": 0.25, "format_failure_rate": 0.25},
    }
    assert found["format_failures_by_len"] == {"0": 0, "1": 1}
    assert found["metric_by_len"] == {"0": 1, "1": 0.75}


@pytest.fixture(scope="module")
def reads(tmp_path_factory, model):
    """Folders of the three reads, by a model whose every other text holds a label."""
    patch = pytest.MonkeyPatch()
    plain = LanguageModel._text
    patch.setattr(LanguageModel, "_text", lambda lm, ids: f"{plain(lm, ids)} {'AB?'[sum(ids) % 3]}")
    folders = {}
    for read in ("likelihood", "generate", "both"):
        folders[read] = tmp_path_factory.mktemp(read)
        assert run(folders[read], model, f"--scoring {read}|{CUE}") == 0
    patch.undo()
    return folders


def test_both_has_the_scores_of_likelihood_and_the_texts_of_generate(reads):
    logs = [examples_of(reads[read], "quiz", "reviews") for read in reads]
    for likelihood, generate, both in zip(*logs, strict=True):
        pairs = [(likelihood, generate, both)]
        if "cued" in both:
            pairs.append((likelihood["cued"], generate["cued"], both["cued"]))
        for of_scores, of_texts, of_both in pairs:
            for name in ("prompt_text", "score", "model_prediction", "label_logprobs"):
                assert of_both[name] == of_scores[name]
            for name in ("generated_text", "generated_label", "generated_score"):
                assert of_both[name] == of_texts[name]
            assert of_both["format_failure"] == of_texts["format_failure"]
            assert of_texts["score"] == of_texts["generated_score"]
            assert "generated_text" not in of_scores


def test_the_accuracy_of_each_read_is_what_a_hand_gets(reads):
    logs = {read: examples_of(reads[read], "quiz", "reviews") for read in reads}
    results = {read: result_of(reads[read], "quiz", "reviews") for read in reads}
    labels = set()
    for h in range(MAX_LEN + 1):
        likeliest = np.mean([example["score"] for example in of_h(logs["likelihood"], h)])
        texts = [example["generated_text"] for example in of_h(logs["both"], h)]
        found = [scoring.find_label(text, LETTERS) for text in texts]
        expected = [example["expected_answer"] for example in of_h(logs["both"], h)]
        written = np.mean([one == other for one, other in zip(found, expected)])
        failures = found.count(None)
        for read in ("generate", "both"):
            assert results[read]["reads_by_len"][str(h)] == {
                "likelihood": likeliest,
                "generate": written,
                "format_failure_rate": failures / LIMIT,
            }
            assert results[read]["format_failures_by_len"][str(h)] == failures
        metric = [results[read]["metric_by_len"][str(h)] for read in reads]
        assert metric == [likeliest, written, likeliest]
        labels |= set(found)
    assert None in labels and len(labels) > 1
    assert results["likelihood"]["reads_by_len"] == {}
    assert results["likelihood"]["format_failures_by_len"] == {}


def test_a_generation_task_is_read_the_same_by_every_read(reads):
    logs = [examples_of(reads[read], "posts", "reviews") for read in reads]
    assert logs[0] == logs[1] == logs[2]


def test_every_read_verifies(reads):
    for folder in reads.values():
        for target in ("quiz", "posts"):
            assert_verified(path_of(folder, target, "reviews"))


EDITS = {
    "generated_text": "Not one label",
    "generated_label": "D",
    "generated_score": 0.5,
    "format_failure": None,
}


@pytest.mark.parametrize(("read", "key"), [*zip(["generate", "both"] * 2, EDITS)])
def test_an_edited_read_does_not_verify(reads, tmp_path, read, key):
    def edit(examples):
        changed = next(e for e in examples if e["generated_label"] in ("A", "B"))
        changed[key] = EDITS[key]

    assert mismatches(reads[read], tmp_path, edit)


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


# --- prompts longer than the context


def case_and_needed(lm, target, **settings):
    """A case of two turns, and the tokens of what it asks at each h, worked out here."""
    config = RunConfig(max_len=MAX_LEN, **settings)
    [kind] = map(parse_kind, config.history)
    pair = Pair(rows(target), rows("reviews"), kind)
    [[case]] = data.plan_cases([pair], MAX_LEN, [0], 1)
    needed = []
    for h in range(MAX_LEN + 1):
        messages = case.messages(h, config.switch_cue if h else None)
        if "model" in config.history:  # of which no answer is known yet
            messages = [
                m | ({"content": "?"} if m["role"] == "assistant" else {}) for m in messages
            ]
        text = lm.render(messages)
        behind = [
            len(lm.renderer.tokens(text + label))
            for label in (*case.labels, *case.distractor_labels)
        ]
        if not case.labels or config.scoring != "likelihood":
            behind.append(len(lm.renderer.tokens(text)) + case.task.max_new_tokens)
        if not case.labels and config.sensitivity:
            behind.append(len(lm.renderer.tokens(text + case.target.references[0])))
        own = case.pair.distractor.spec.task.max_new_tokens - 1 if "model" in config.history else 0
        needed.append(max(behind) + h * own)
    return case, config, needed


OVERFLOWS = [
    ("quiz", {}),
    ("posts", {}),
    ("quiz", {"history": ("model",)}),
    ("posts", {"history": ("model",)}),
    ("quiz", {"scoring": "generate"}),
    ("quiz", {"scoring": "both", "history": ("model",)}),
    ("quiz", {"switch_cue": CUE}),
    ("posts", {"switch_cue": CUE, "history": ("model",)}),
    ("posts", {"sensitivity": True}),
]


@pytest.mark.parametrize(("target", "settings"), OVERFLOWS)
def test_the_context_must_hold_the_longest_that_can_be_asked(monkeypatch, lm, target, settings):
    case, config, needed = case_and_needed(lm, target, **settings)
    for context, dropped in ((needed[-1], []), (needed[-1] - 1, [case])):
        monkeypatch.setattr(LanguageModel, "context", context)
        skipping = RunConfig(**(vars(config) | {"on_overflow": "skip"}))
        kept = [[] if dropped else [case]]
        assert planning.drop_overflowing([[case]], lm, skipping) == (kept, dropped)
    with pytest.raises(UserError, match=f"h = 2: {needed[-1]} tokens"):
        planning.drop_overflowing([[case]], lm, config)


def test_a_reference_that_sensitivity_reads_counts(monkeypatch, lm):
    long = made_up("long", ["a question"], most=2)
    pair = Pair(TaskRows(long.spec, (Turn("a question", ("answer " * 20,)),)), rows("reviews"))
    [[case]] = data.plan_cases([pair], 1, [0])
    reference = lm.render(case.messages(1)) + case.target.references[0]
    monkeypatch.setattr(LanguageModel, "context", len(lm.renderer.tokens(reference)) - 1)
    for sensitivity, dropped in ((False, []), (True, [case])):
        config = RunConfig(max_len=1, sensitivity=sensitivity, on_overflow="skip")
        assert planning.drop_overflowing([[case]], lm, config)[1] == dropped


def test_no_prompt_is_sure_to_fit_that_does_not(monkeypatch, lm):
    for target, settings in OVERFLOWS:
        case, config, needed = case_and_needed(lm, target, **settings)
        for h in range(MAX_LEN + 1):
            asked = planning._longest(case, h, config)
            assert lm.tokens_needed(asked) == needed[h]
            monkeypatch.setattr(LanguageModel, "context", needed[h] - 1)
            assert not lm.surely_fits(asked)


def test_replies_of_its_own_may_overflow_where_references_fit(tmp_path, model, study, lm, capsys):
    texts = [e["prompt_text"] for e in examples_of(study(), "posts", "reviews")]
    context = max(len(lm.renderer.tokens(text)) for text in texts) + 4
    fitting = tiny.save_model(tmp_path / "tiny-llama", max_position_embeddings=context)
    flags = "--target posts"
    assert run(tmp_path / "teacher", fitting, flags) == 0
    assert run(tmp_path / "own", fitting, f"{flags} --history model") == 2
    assert "context is" in capsys.readouterr().err
