"""Claims about labels read from text: which one is found, and the reads side by side."""

import numpy as np
import pytest
from runs import LIMIT, MAX_LEN, examples_of, path_of, result_of
from studies import CUE, assert_verified, mismatches, of_h, run_study

from measures import metrics, scoring
from model import LanguageModel

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
        assert run_study(folders[read], model, f"--scoring {read}|{CUE}") == 0
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
