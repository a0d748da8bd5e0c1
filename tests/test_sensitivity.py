"""Claims about task-switch sensitivity and about the log-probabilities that it is made of."""

from types import SimpleNamespace

import pytest
import tiny
import torch
from drawn import rows
from test_model import LABELS, MESSAGES, SHAPES, language_model, logprob

import data
from data import Pair
from measures import metrics, sensitivity, stats
from measures.table import Group
from run.config import RunConfig
from run.examples import run_cases

UNITS = ("sum", "per_token")


def example(zero_shot, own, reference):
    """What the log holds of an example; each reply is (sum, tokens)."""
    replies = {"zero_shot": zero_shot, "own": own, "reference": reference}
    named = {name: dict(zip(("sum", "tokens"), each)) for name, each in replies.items()}
    return {"reply_logprobs": named}


def aggregate(*groups):
    clusters = stats.find_clusters(range(len(groups[0])), range(len(groups[0])))
    by_len = {str(h): group_of(example(*each) for each in group) for h, group in enumerate(groups)}
    return sensitivity.sensitivity_by_len(by_len, clusters, clusters)


def group_of(examples):
    return Group.of(({"score": 0.0, **each} for each in examples), metrics.columns)


def means(entry):
    return {name: tuple(entry[name][unit]["mean"] for unit in UNITS) for name in entry}


# --- the measures, by hand

WITHOUT = [((-2, 2), (-2, 2), (-4, 4)), ((-1, 1), (-1, 1), (-6, 2))]
WITH = [((-5, 2), (-1, 1), (-3, 4)), ((-2, 1), (-8, 4), (-10, 2))]


def test_signs_and_values_are_what_a_hand_gets():
    found = aggregate(WITHOUT, WITH)
    assert means(found["1"]) == {
        "tau": (2, 1.25),  # (-2 + 5, -1 + 2) and (3 / 2, 1 / 1)
        "confidence": (3, 0.5),  # (-2 + 1, -1 + 8) and (-1 + 1, -1 + 2)
        "loss": (1.5, 0.875),  # (-4 + 3, -6 + 10) and (-1 / 4, 4 / 2)
        "reference_logprob": (-6.5, -2.875),  # -3, -10 and -3 / 4, -10 / 2
    }
    assert means(found["0"])["reference_logprob"] == (-5, -2)


def test_the_interval_is_student_s_over_the_targets():
    entry = aggregate(WITHOUT, WITH)["1"]["tau"]["sum"]  # 3 and 1: their mean has the error 1
    assert (entry["low"], entry["high"]) == pytest.approx((2 - 12.7062047, 2 + 12.7062047))
    assert (entry["interval"], entry["excluded"]) == ("95% Student's t over targets", 0)


@pytest.mark.parametrize("name", sensitivity.VARIANTS)
def test_a_history_that_makes_the_reply_less_likely_is_over_0(name):
    same = [((-3, 2), (-3, 2), (-3, 2))] * 2
    less = [((-4, 2), (-4, 2), (-4, 2))] * 2
    assert means(aggregate(same, less)["1"])[name] == (1, 0.5)
    assert means(aggregate(less, same)["1"])[name] == (-1, -0.5)


def test_without_a_history_all_three_are_exactly_0():
    found = aggregate(WITHOUT, WITH)["0"]
    for name in sensitivity.VARIANTS:
        for unit in UNITS:
            assert [found[name][unit][key] for key in ("mean", "low", "high")] == [0, 0, 0]


def test_an_empty_reply_is_left_out_of_both_and_counted():
    empty = [((0, 0), (0, 0), (-6, 2)), WITHOUT[1]]
    found = aggregate(empty, [((0, 0), (-8, 4), (-10, 2)), WITH[1]])["1"]
    excluded = {name: tuple(found[name][unit]["excluded"] for unit in UNITS) for name in found}
    assert excluded == {
        "tau": (1, 1), "confidence": (1, 1), "loss": (0, 0), "reference_logprob": (0, 0)
    }  # fmt: skip
    assert means(found)["tau"] == (1, 1)  # the second alone
    assert means(found)["confidence"] == (7, 1)
    for unit in UNITS:
        assert found["tau"][unit]["low"] is None


def test_pairs_are_of_one_target():
    changed = [[(-1, 1)] * 3, [(-20, 1)] * 3, [(-300, 1)] * 3]
    moved = [[(total - 1, 1) for total, _ in each] for each in changed]
    entry = aggregate(changed, moved)["1"]["tau"]["sum"]
    assert [entry[key] for key in ("mean", "low", "high")] == [1, 1, 1]


def test_where_it_was_not_read_there_is_none():
    clusters = stats.find_clusters([0], [0])
    by_len = {"0": group_of([example(*WITH[0])]), "1": group_of([{}])}
    assert sensitivity.sensitivity_by_len(by_len, clusters, clusters) == {}


# --- log-probabilities


@pytest.mark.parametrize("engine", ["tree", "plain"])
@pytest.mark.parametrize("family", SHAPES)
def test_logprobs_are_those_of_the_bare_model(family, engine):
    lm = language_model(family, engine=engine)
    ids = lm.encode(MESSAGES).ids
    sequences = [(ids, 1), (ids, len(ids) - 3), (ids[:9], 4), (ids, len(ids)), (ids[::-1], 5)]
    expected = [logprob(lm, whole) - logprob(lm, whole[:start]) for whole, start in sequences]
    assert lm.logprobs(sequences) == pytest.approx(expected, abs=1e-4)
    assert lm.logprobs(sequences)[3] == 0


def test_no_sequences_are_no_work():
    assert language_model().logprobs([]) == []


@pytest.mark.parametrize("form", ["chat", "plain"])
def test_a_continuation_s_logprob_is_the_score_of_that_label(form):
    lm = language_model(prompt_form=form)
    for label in LABELS:
        prompt = lm.encode(MESSAGES, [label])
        [outcome] = lm.run([prompt])
        ids, start = lm.continued(lm.encode(MESSAGES), label)
        assert (ids, start) == (dict(prompt.labels)[label], prompt.start)
        assert lm.logprobs([(ids, start)]) == [pytest.approx(outcome.label_logprobs[label])]
        assert prompt.label_tokens(label) == len(ids) - start


def examples(target, distractor, lm, limit=3, max_len=2, **settings):
    """Examples of one pair by a library call, and the cases they are of."""
    pairs = [Pair(rows(target), rows(distractor))]
    plan = data.plan_cases(pairs, max_len, [0], limit)
    config = RunConfig(max_len=max_len, **settings)
    found = run_cases([case for place in plan for case in place], config, lm, lambda done: None)
    return [(query.case, query.example) for query in found]


def expected_logprob(lm, prompt, reply):
    """Sum and number of tokens, by one forward of the bare model for each sequence."""
    ids, start = reply if isinstance(reply[0], tuple) else ((*prompt, *reply), len(prompt))
    return {
        "sum": pytest.approx(logprob(lm, ids) - logprob(lm, ids[:start]), abs=2e-3),
        "tokens": len(ids) - start,
    }


@pytest.mark.parametrize("engine", ["tree", "plain"])
@pytest.mark.parametrize("form", ["chat", "plain"])
def test_a_generated_reply_has_the_logprob_of_one_forward_of_the_bare_model(form, engine):
    lm = language_model(prompt_form=form, engine=engine, lens=None)
    for case, found in examples("posts", "reviews", lm, limit=1, sensitivity=True):
        h = found["config"]["history_len"]
        prompts = [lm.encode(case.messages(k)) for k in (0, h)]
        zero, own = lm.run(prompts)
        reference = lm.continued(prompts[1], found["expected_answer"])
        assert found["reply_logprobs"] == {
            "zero_shot": expected_logprob(lm, prompts[1].ids, zero.reply),
            "own": expected_logprob(lm, prompts[1].ids, own.reply),
            "reference": expected_logprob(lm, prompts[1].ids, reference),
        }
        assert found["model_prediction"] == own.text
        assert own.reply and reference[0][: reference[1]] == prompts[1].ids[: reference[1]]


def test_label_tasks_have_it_from_their_scores():
    lm = language_model(lens=None)
    found = {}
    for case, each in examples("quiz", "reviews", lm):
        h = each["config"]["history_len"]
        found[case, h] = each["label_logprobs"]
        zero = found[case, 0]
        likeliest = {
            "zero_shot": max(zero, key=zero.get),
            "own": max(each["label_logprobs"], key=each["label_logprobs"].get),
            "reference": each["expected_answer"],
        }
        assert each["reply_logprobs"] == {
            name: {"sum": each["label_logprobs"][label], "tokens": 1}
            for name, label in likeliest.items()
        }


def test_generation_tasks_have_it_only_where_it_is_asked_for():
    lm = language_model(lens=None)
    found = examples("posts", "reviews", lm, limit=1, max_len=1)
    assert all("reply_logprobs" not in each for _, each in found)


# --- replies


def spelled(form="plain"):
    """A model whose tokens are the words of a small table."""
    lm = language_model(prompt_form=form, lens=None, engine="plain")
    words = ["one", " two", ".\n", "User", ":", "\nUser:", " three", "\n", "\0"]

    def decode(ids, skip_special_tokens=False):
        return "".join(words[token] for token in ids)

    lm.tokenizer = SimpleNamespace(decode=decode)
    return lm


@pytest.mark.parametrize(
    ("answer", "reply", "text"),
    [
        ((), (), ""),
        ((0, 1), (0, 1), "one two"),
        ((0, 1, 5), (0, 1), "one two"),
        ((0, 1, 7, 3, 4), (0, 1), "one two"),
        ((0, 1, 7, 3, 4, 6), (0, 1), "one two"),
        ((0, 5, 1, 5), (0,), "one"),
        ((5,), (), ""),
        ((0, 2, 3, 4), (0,), "one."),  # a token that the stop text begins in goes, its text stays
        ((0, 7, 3), (0, 7, 3), "one\nUser"),  # the beginning of a stop text is none
        ((0, 8, 1), (0, 8, 1), "one\0 two"),
    ],
)
def test_a_reply_ends_before_its_stop_text(answer, reply, text):
    lm = spelled()
    assert (lm._reply(answer), lm._text(answer)) == (reply, text)


def test_without_a_stop_text_every_token_is_of_the_reply():
    for answer in ((0, 1, 5, 6), (0, 8, 1), ()):
        assert spelled("chat")._reply(answer) == answer


@pytest.mark.parametrize("stop", [" a", "e", "ti"])
def test_the_text_of_an_answer_is_what_stands_before_the_stop_text(monkeypatch, stop):
    lm = language_model(prompt_form="plain", lens=None, engine="plain")
    decoded = lm.tokenizer.decode
    ids = lm.renderer.tokens("the answer to the question is positive")
    monkeypatch.setattr(
        lm, "decoding", SimpleNamespace(stop_text=stop, eos_ids=lm.decoding.eos_ids)
    )
    text = "the answer to the question is positive".partition(stop)[0]
    assert lm._text(ids) == text.strip()
    kept = decoded(lm._reply(ids))
    assert text.startswith(kept) and lm._reply(ids) == ids[: len(lm._reply(ids))]
    assert len(decoded(ids[: len(lm._reply(ids)) + 1])) > len(text)  # no more could stay


# --- sampling


def test_sampling_follows_its_seed_and_leaves_the_global_generator_alone():
    lm = language_model(lens=None)
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first = lm.sample(4, 12, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(6)
    assert lm.sample(4, 12, seed=1) == first != lm.sample(4, 12, seed=2)
    assert len(set(first)) == 4


def test_a_sample_begins_after_the_beginning_of_text(monkeypatch):
    lm = language_model(lens=None)
    asked = []
    generate = lm.model.generate
    monkeypatch.setattr(
        lm.model, "generate", lambda ids, **k: asked.append(ids) or generate(ids, **k)
    )
    lm.sample(3, 2, seed=0)
    assert asked[0].tolist() == [[tiny.tokenizer().bos_token_id]] * 3
