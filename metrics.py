"""Scores and statistics, used by the run and by viz, so that they cannot disagree.

An example here is one entry of a debug log: a dict with at least `score`, `top5`, and `config` with
`history_len` and `target_idx`, and `cosines` where layers were read.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from functools import cache
from typing import Any

import numpy as np

import layers

CONFIDENCE = 0.95
RESAMPLES = 2000  # of a bootstrap
TOP = 5  # most frequent tokens that are kept
TEXT_SCORES = ("rouge1", "rouge2", "rouge", "exact_match", "f1")  # of every generated text
PROPORTIONS = ("accuracy", "exact_match")  # metrics that are 0 or 1 for an example
ARTICLES = re.compile(r"\b(?:a|an|the)\b")
# 7, 1,234.50 and .5; a minus is a sign where it follows no word or number, so that 10-3 ends in 3
NUMBER = re.compile(
    r"(?:(?<![\w)])[-\N{MINUS SIGN}])?"
    r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+|(?<![0-9])(?=\.[0-9]))(?:\.[0-9]+)?"
)
MARKED_NUMBER = re.compile(rf"####\s*\$?({NUMBER.pattern})")

Example = dict[str, Any]


def label_score(label_logprobs: dict[str, float], expected: str) -> float:
    """1.0 where the label with the highest log-probability is the expected one, else 0.0."""
    return float(best_label(label_logprobs) == expected)


def best_label(label_logprobs: dict[str, float]) -> str:
    """The label with the highest log-probability; of equal ones the first."""
    return max(label_logprobs, key=label_logprobs.__getitem__)


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False)


def text_scores(prediction: str, references: Sequence[str]) -> dict[str, float]:
    """TEXT_SCORES of a text, each with its best reference.

    ROUGE-1, -2 and -L (`rouge`) are F1 without stemming (Lin 2004); exact match and token F1 are
    those of SQuAD (Rajpurkar et al. 2016).
    """
    found = [_text_scores(prediction, reference) for reference in references]
    return {name: max(scores[name] for scores in found) for name in TEXT_SCORES}


def _text_scores(prediction: str, reference: str) -> dict[str, float]:
    rouge = _scorer().score(reference, prediction)
    words, expected = normalised_words(prediction), normalised_words(reference)
    return {
        "rouge1": rouge["rouge1"].fmeasure,
        "rouge2": rouge["rouge2"].fmeasure,
        "rouge": rouge["rougeL"].fmeasure,
        "exact_match": float(words == expected),
        "f1": token_f1(words, expected),
    }


def normalised_words(text: str) -> list[str]:
    """Words as SQuAD compares them: lower case, without ASCII punctuation, without articles."""
    bare = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return ARTICLES.sub(" ", bare).split()


def token_f1(words: Sequence[str], expected: Sequence[str]) -> float:
    """F1 of the words as bags; of two empty ones 1."""
    if not words or not expected:
        return float(words == expected)
    shared = (Counter(words) & Counter(expected)).total()
    return 2 * shared / (len(words) + len(expected))


def find_number(text: str) -> Decimal | None:
    """The number after the last `#### `, or else the last number of a text; None without any."""
    marked = MARKED_NUMBER.findall(text)
    numbers = marked or NUMBER.findall(text)
    return Decimal(numbers[-1].replace(",", "").replace("\N{MINUS SIGN}", "-")) if numbers else None


@cache
def _text_metric() -> Any:
    """`text_scores` as an `evaluate` metric; `evaluate.load("rouge")` asks the Hub for one."""
    import datasets
    import evaluate

    class TextScores(evaluate.Metric):
        def _info(self) -> evaluate.MetricInfo:
            text = datasets.Value("string")
            return evaluate.MetricInfo(
                description="ROUGE, exact match and F1 of the best reference, per example",
                citation="Lin, ROUGE: A Package for Automatic Evaluation of Summaries, 2004",
                features=datasets.Features(
                    {"predictions": text, "references": datasets.List(text)}
                ),
            )

        def _compute(self, predictions: list, references: list) -> dict[str, list[dict]]:
            return {"scores": list(map(text_scores, predictions, references))}

    return TextScores(keep_in_memory=True)


def evaluated_scores(
    predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> list[dict[str, float]]:
    """`text_scores` of many through `evaluate`; for the run alone: importing it imports torch."""
    groups = [list(group) for group in references]
    return _text_metric().compute(predictions=list(predictions), references=groups)["scores"]


def judge_labels(label_logprobs: dict[str, float], expected: str) -> Example:
    """What of an example follows from its label log-probabilities."""
    score = label_score(label_logprobs, expected)
    return {"model_prediction": best_label(label_logprobs), "score": score}


def judge_text(
    text: str, references: Sequence[str], metric_name: str, scores: dict[str, float]
) -> Example:
    """What of an example follows from a generated text and its `text_scores`.

    Under `accuracy` it is right where its number is that of the first reference; a text without a
    number is wrong, and a format failure besides.
    """
    if metric_name != "accuracy":
        return {"score": scores[metric_name], "scores": scores}
    found = find_number(text)
    return {
        "score": float(found is not None and found == find_number(references[0])),
        "scores": scores,
        "extracted": None if found is None else f"{found:f}",
        "format_failure": found is None,
    }


def aggregate(examples: Sequence[Example], metric_name: str) -> dict[str, Any]:
    """Every aggregate of a result file, from the examples of one pair.

    Raises ValueError unless the examples are the same targets at every history length 0..H.
    """
    by_len = _by_len(examples)
    scores = {h: np.array([example["score"] for example in group]) for h, group in by_len.items()}
    return {
        "n": len(by_len["0"]),
        "metric_by_len": {h: float(values.mean()) for h, values in scores.items()},
        "debug_top5_by_len": {h: _top_tokens(group) for h, group in by_len.items()},
        "stats_by_len": {
            h: _stats(values, scores["0"], metric_name) for h, values in scores.items()
        },
        "scores_by_len": _mean_scores(by_len),
        "format_failures_by_len": _format_failures(by_len),
    } | layers.aggregate(by_len)


def _by_len(examples: Sequence[Example]) -> dict[str, list[Example]]:
    """Examples by history length, in the order of the targets, so that lengths can be paired."""
    longest = max(example["config"]["history_len"] for example in examples)
    by_len: dict[str, list[Example]] = {str(h): [] for h in range(longest + 1)}
    for example in sorted(examples, key=lambda example: example["config"]["target_idx"]):
        by_len[str(example["config"]["history_len"])].append(example)
    targets = [[example["config"]["target_idx"] for example in group] for group in by_len.values()]
    if any(row != targets[0] for row in targets):
        raise ValueError("the examples are not the same targets at every history length")
    return by_len


def _mean_scores(by_len: dict[str, list[Example]]) -> dict[str, dict[str, float]]:
    """Mean of each of a text's scores by history length; {} for a label task."""
    if not all("scores" in example for group in by_len.values() for example in group):
        return {}
    return {
        h: {name: float(np.mean([each["scores"][name] for each in group])) for name in TEXT_SCORES}
        for h, group in by_len.items()
    }


def _format_failures(by_len: dict[str, list[Example]]) -> dict[str, int]:
    """Texts without the number that is scored; {} where nothing is extracted."""
    if not all("format_failure" in example for group in by_len.values() for example in group):
        return {}
    return {h: sum(example["format_failure"] for example in group) for h, group in by_len.items()}


def _top_tokens(group: Sequence[Example]) -> list[list[Any]]:
    """The most frequent tokens among the examples' likeliest next tokens, with their counts."""
    counts = Counter(token for example in group for token in example["top5"])
    return [list(entry) for entry in counts.most_common(TOP)]


def _stats(scores: np.ndarray, baseline: np.ndarray, metric_name: str) -> dict[str, Any]:
    """Interval of the metric at one history length, and its change from the targets' h = 0."""
    if metric_name in PROPORTIONS:
        (low, high), method = wilson(scores), "Wilson"
    else:
        (low, high), method = bootstrap_mean(scores), "bootstrap over targets"
    change = 100 * (scores - baseline)
    change_low, change_high = bootstrap_mean(change)
    return {
        "n": len(scores),
        "low": low,
        "high": high,
        "interval": f"{CONFIDENCE:.0%} {method}",
        "change_points": float(change.mean()),
        "change_points_low": change_low,
        "change_points_high": change_high,
        **percent_change(float(scores.mean()), float(baseline.mean())),
    }


def percent_change(value: float, baseline: float) -> dict[str, Any]:
    """100 (m(h) - m(0)) / m(0) as in Gupta et al.; null with the reason where the baseline is 0."""
    if baseline == 0:
        return {"percent_change": None, "percent_change_reason": "the metric is 0 at h = 0"}
    return {"percent_change": 100 * (value - baseline) / baseline}


def wilson(correct: np.ndarray) -> tuple[float, float]:
    """Wilson score interval of a proportion from 0/1 scores (Wilson 1927)."""
    from scipy.stats import binomtest

    interval = binomtest(int(correct.sum()), len(correct)).proportion_ci(
        CONFIDENCE, method="wilson"
    )
    return float(interval.low), float(interval.high)


def bootstrap_mean(values: np.ndarray) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean over examples (Efron 1979); always the same seed."""
    from scipy.stats import bootstrap

    if np.ptp(values) == 0:  # also a single value: nothing varies, so neither does its mean
        return float(values[0]), float(values[0])
    found = bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, confidence_level=CONFIDENCE, method="percentile",
        batch=max(1, 2_000_000 // len(values)), rng=np.random.default_rng(0),
    )  # fmt: skip
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
