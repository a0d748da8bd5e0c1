"""Claims about answers to the previous task: what counts as one, and that reading them changes
nothing of the target.
"""

import json

import pytest
import tiny
import torch
from drawn import rows
from runs import examples_of, path_of, run

from core import records
from data import Pair, Turn, conversation
from measures import intrusion, metrics, scoring
from measures.intrusion import Switch, is_intruded
from model import LanguageModel
from reports import verify

SENTIMENTS, LETTERS = ("negative", "positive"), ("A", "B", "C", "D")
TASKS = {
    "quiz": {"name": "quiz", "labels": list(LETTERS)},
    "exam": {"name": "exam", "labels": ["a", "B", "C", "D"]},
    "reviews": {"name": "reviews", "labels": list(SENTIMENTS)},
    "moods": {"name": "moods", "labels": ["Negative", "neutral"]},
    "posts": {"name": "posts", "labels": []},
    "news": {"name": "news", "labels": []},
}
MESSAGES = conversation(Turn("the question is positive", ()), [Turn("the answer", ("nope",))])


def between(target, distractor):
    return Switch.between(TASKS[target], TASKS[distractor])


@pytest.mark.parametrize(
    ("target", "distractor", "others", "tells"),
    [
        ("quiz", "reviews", SENTIMENTS, True),
        ("reviews", "moods", ("neutral",), True),  # a label of both says nothing
        ("posts", "reviews", SENTIMENTS, True),
        ("posts", "news", (), True),
        ("quiz", "exam", (), False),
        ("quiz", "quiz", (), False),
        ("posts", "posts", (), False),
    ],
)
def test_one_task_and_equal_labels_cannot_be_told_apart(target, distractor, others, tells):
    switch = between(target, distractor)
    assert (switch.others, switch.tells) == (others, tells)


def written(text, **more):
    config = {"history_len": 1, "history_role": ["distractor"]}
    found = {"model_prediction": text, "expected_answer": "the red car", "config": config}
    return found | {"references": ["the red car"]} | more


SHOWN = conversation(Turn("?", ()), [Turn("A house?", ("an old house by the sea",))])


@pytest.mark.parametrize(
    ("text", "intruded"),
    [
        ("negative", True), ("Negative.", True), ("The sentiment is positive", True),
        ("the red car", False), ("positive or negative", False), ("positively", False), ("", False),
    ],
)  # fmt: skip
def test_a_text_with_exactly_one_label_of_the_distractor_is_intruded(text, intruded):
    assert is_intruded(written(text), between("posts", "reviews"), SHOWN) is intruded


@pytest.mark.parametrize(
    ("text", "intruded"),
    [
        ("positive", True), ("B, positive", False), ("A or B, positive", False), ("B", False),
        ("x", False),
    ],
)  # fmt: skip
def test_a_text_with_a_label_of_the_target_is_none_of_the_distractor_s(text, intruded):
    example = written("B", generated_text=text, label_logprobs={"A": -1, "B": -2})
    example["distractor_logprobs"] = {"negative": -0.5, "positive": -3}
    assert is_intruded(example, between("quiz", "reviews"), SHOWN) is intruded
    del example["generated_text"]  # labels by likelihood alone: their margin tells, not its sign
    assert is_intruded(example, between("quiz", "reviews"), SHOWN) is None


@pytest.mark.parametrize(
    ("text", "intruded"), [("Very good!", True), ("good", False), ("good, very good", False)]
)
def test_a_label_of_the_distractor_that_holds_one_of_the_target_s_is_read_whole(text, intruded):
    films = {"name": "films", "labels": ["good", "poor"]}
    books = {"name": "books", "labels": ["very good", "very poor"]}
    answer = written("good", generated_text=text)
    assert is_intruded(answer, Switch.between(films, books), SHOWN) is intruded


def test_labels_in_two_normal_forms_are_one():
    one = {"name": "one", "labels": ["né", "x"]}
    two = {"name": "two", "labels": ["ne\u0301", "y"]}
    assert Switch.between(one, two).others == ("y",)


@pytest.mark.parametrize(
    ("text", "intruded"), [("an old house", True), ("the red house", False), ("so what", False)]
)
def test_without_labels_it_is_told_by_what_a_text_shares_with_the_replies(text, intruded):
    switch = between("posts", "news")
    assert is_intruded(written(text), switch, SHOWN) is intruded
    own = written(text)
    own["config"] = {"history_len": 1, "history_role": ["target"]}
    assert is_intruded(own, switch, SHOWN) is None  # no reply of the distractor


def test_words_of_a_neutral_text_are_no_answer_to_the_distractor():
    text, switch = "an old house by the sea", between("posts", "news")
    assert is_intruded(written(text), switch, SHOWN) is True
    filler = {"history_len": 1, "history_role": ["distractor"], "history_kind": "filler"}
    assert is_intruded(written(text) | {"config": filler}, switch, SHOWN) is None


def test_of_label_tasks_without_labels_on_the_other_side_nothing_is_told():
    example = written("A", label_logprobs={"A": -1.0})
    assert is_intruded(example, between("quiz", "posts"), SHOWN) is None


# --- aggregates


def aggregated(told, **more):
    """Aggregates of two history lengths of as many targets as there are entries."""
    examples = [
        {"score": 0.0, "top5": [], "intruded": flag if h else False, **written("x"), **more}
        | {"config": {"history_len": h, "target_idx": i, "history_role": ["distractor"] * h}}
        for h in (0, 1)
        for i, flag in enumerate(told)
    ]
    return metrics.aggregate(examples, "rouge")["intrusion_by_len"]


def test_the_rate_is_a_share_with_wilson_s_interval_and_format_failures_are_apart():
    entry = aggregated([True] * 7 + [False] * 3, format_failure=True)["1"]
    assert (entry["rate"], entry["n"], entry["intruded"]) == (0.7, 10, 7)
    assert entry["format_failures"] == 3
    assert entry["low"] == pytest.approx(0.3968, abs=1e-4)  # Wilson 1927 of 7 in 10
    assert entry["high"] == pytest.approx(0.8922, abs=1e-4)
    assert entry["margin"] is None and entry["margin_by_block"] == []


def test_where_nothing_can_be_told_there_is_no_entry_or_no_rate():
    assert aggregated([None] * 4) != {}  # h = 0 was told
    assert aggregated([None] * 4)["1"]["rate"] is None
    examples = [
        written("x") | {"score": 0.0, "top5": [], "config": {"history_len": 0, "target_idx": 0}}
    ]
    assert metrics.aggregate(examples, "rouge")["intrusion_by_len"] == {}


# --- labels of another task beside the target's own


def language_model(family="llama", form="chat", **settings):
    tokenizer = tiny.tokenizer(chat=form == "chat")
    return LanguageModel(tiny.model(family), tokenizer, form, **settings)


def exactly(outcome):
    """Everything that is read of the target."""
    layers = outcome.layers
    return (
        outcome.label_logprobs, outcome.top5, outcome.text,
        layers.cosines, layers.drift, layers.label_logits,
    )  # fmt: skip


@pytest.mark.parametrize("engine", ["tree", "plain"])
@pytest.mark.parametrize("form", ["chat", "plain"])
def test_no_digit_of_the_target_depends_on_what_is_read_beside_it(form, engine):
    lm = language_model(form=form, engine=engine)
    prompts = [
        lm.encode(conversation(Turn(text, ())), LETTERS, most)
        for text, most in (("the question", 0), ("the answer to the question is", 3))
    ]
    beside = [
        lm.beside(prompt, ("negative question, the answer", "positive", "q")) for prompt in prompts
    ]
    assert [prompt.others for prompt in prompts] == [(), ()] and beside == prompts
    assert max(len(ids) for _, ids in beside[1].others) > prompts[1].longest
    found = lm.run(beside)
    assert list(map(exactly, found)) == list(map(exactly, lm.run(prompts)))
    assert all(len(outcome.other_logprobs) == 3 for outcome in found)


@pytest.mark.parametrize("engine", ["tree", "plain"])
@pytest.mark.parametrize("form", ["chat", "plain"])
def test_log_probabilities_of_the_distractor_s_labels_are_those_of_the_bare_model(form, engine):
    lm = language_model(form=form, engine=engine)
    prompt = lm.encode(MESSAGES, LETTERS)
    [outcome] = lm.run([lm.beside(prompt, SENTIMENTS)])
    for label, value in outcome.other_logprobs.items():
        ids = lm.renderer.tokens(prompt.text + lm.continuation(label))
        with torch.no_grad():
            table = lm.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        places = range(prompt.start, len(ids))
        assert value == pytest.approx(sum(table[k - 1, ids[k]].item() for k in places), abs=1e-4)


def test_at_the_last_block_the_lens_gives_the_log_odds_of_the_output():
    lm = language_model()
    prompt = lm.encode(MESSAGES, ("A", "B"))
    [outcome] = lm.run([lm.beside(prompt, ("C", "D"))])  # one token each
    for label, row in outcome.layers.other_odds.items():
        expected = outcome.other_logprobs[label] - max(outcome.label_logprobs.values())
        assert row[-1] == pytest.approx(expected, abs=1e-4)


def test_a_label_that_begins_one_of_the_target_s_is_not_compared_with_it():
    lm = language_model()
    prompt = lm.beside(lm.encode(MESSAGES, ("no!", "positive")), ("no", "A"))
    assert [label for label, _ in prompt.others] == ["A"]


def test_a_score_from_before_the_end_of_the_prompt_counts_only_what_differs():
    lm = language_model()
    prompt = lm.encode(MESSAGES, LETTERS)
    ids = (*prompt.ids[:-1], 7, 8)  # as if the label had merged with the prompt's last token
    (mine, parts), (theirs, same) = prompt.relative(ids)
    assert (mine, theirs, parts, same) == (ids, prompt.ids, len(prompt.ids) - 1, parts)


# --- from flags to files


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model):
    out_dir = tmp_path_factory.mktemp("intrusion")
    flags = ["--scoring", "both", "--switch_cue", "Now this."]
    assert run(out_dir, model, ("quiz", "posts"), ("reviews", "quiz", "posts"), *flags) == 0
    return out_dir


def entries_of(folder, target, distractor):
    return records.read_result(path_of(folder, target, distractor))["intrusion_by_len"]


def test_a_label_task_has_margins_and_a_written_one_rates(folder):
    for entry in entries_of(folder, "quiz", "reviews").values():
        assert entry["n"] == 4 and entry["intruded"] == 4 * entry["rate"]  # of the texts
        assert len(entry["margin_by_block"]) == 3 and isinstance(entry["margin"], float)
    for h, entry in entries_of(folder, "posts", "quiz").items():
        told = [
            scoring.find_label(each["model_prediction"], LETTERS) is not None
            for each in examples_of(folder, "posts", "quiz")
            if str(each["config"]["history_len"]) == h
        ]
        assert entry["rate"] == sum(told) / 4 and entry["margin"] is None


def test_pairs_of_one_task_have_none_and_their_examples_say_so(folder):
    for target in ("quiz", "posts"):
        assert entries_of(folder, target, target) == {}
        assert {each["intruded"] for each in examples_of(folder, target, target)} == {None}


def test_a_text_after_a_task_without_labels_is_told_from_the_first_reply_on(folder):
    entries = entries_of(folder, "quiz", "posts")
    assert [entry["n"] for entry in entries.values()] == [0, 4, 4]
    assert entries["0"]["rate"] is None and entries["0"]["rate_reason"]


def test_a_margin_follows_from_the_logged_log_probabilities(folder):
    for each in examples_of(folder, "quiz", "reviews"):
        assert set(each["distractor_logprobs"]) == set(SENTIMENTS)
        odds = max(each["distractor_logprobs"].values()) - max(each["label_logprobs"].values())
        assert intrusion.margin(each) == odds


def test_verify_recomputes_intrusion_and_sees_an_edit(folder, tmp_path):
    log = records.debug_path(path_of(folder, "quiz", "reviews"))
    assert {row[-1] for row in verify.verify(log)} == {"ok"}
    for name in (log.name, records.result_of_debug(log).name):
        (tmp_path / name).write_bytes((log.parent / name).read_bytes())
    content = json.loads((tmp_path / log.name).read_text())
    content["debug_examples"][1]["distractor_logprobs"] = {"negative": 1.0, "positive": 2.0}
    (tmp_path / log.name).write_text(json.dumps(content))
    wrong = {row[0].split()[0] for row in verify.verify(tmp_path / log.name) if row[-1] != "ok"}
    assert "intrusion_by_len" in wrong
    content["debug_examples"][1]["intruded"] = True
    (tmp_path / log.name).write_text(json.dumps(content))
    wrong = {row[0].split()[0] for row in verify.verify(tmp_path / log.name) if row[-1] != "ok"}
    assert "intruded" in wrong


def test_the_pair_decides_which_labels_are_the_distractor_s():
    pair = Pair(rows("quiz"), rows("reviews"))
    assert pair.switch == between("quiz", "reviews")
