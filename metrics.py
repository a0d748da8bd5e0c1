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
import stats

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

    Raises ValueError unless the examples are the same targets, each once under a seed, at every
    history length 0..H. The statistics of each length are those of `stats.stats_by_len`.
    """
    by_len = _by_len(examples)
    scores = {h: np.array([example["score"] for example in group]) for h, group in by_len.items()}
    return {
        "n": len(by_len["0"]),
        "metric_by_len": {h: float(values.mean()) for h, values in scores.items()},
        "debug_top5_by_len": {h: _top_tokens(group) for h, group in by_len.items()},
        "stats_by_len": _stats_by_len(by_len, metric_name),
        "scores_by_len": _mean_scores(by_len),
        "format_failures_by_len": _format_failures(by_len),
    } | layers.aggregate(by_len, *(stats.find_clusters(*names) for names in _shared(by_len)))


def _by_len(examples: Sequence[Example]) -> dict[str, list[Example]]:
    """Examples by history length, in the order of the targets, so that lengths can be paired."""
    longest = max(example["config"]["history_len"] for example in examples)
    by_len: dict[str, list[Example]] = {str(h): [] for h in range(longest + 1)}
    for example in sorted(examples, key=_identity):
        by_len[str(example["config"]["history_len"])].append(example)
    first, *others = [list(map(_identity, group)) for group in by_len.values()]
    if any(row != first for row in others):
        raise ValueError("the examples are not the same targets at every history length")
    if len(set(first)) < len(first):
        raise ValueError("a target is there twice at one history length under one seed")
    return by_len


def _identity(example: Example) -> tuple[int, int]:
    """Target and seed: what makes examples of two history lengths a pair."""
    return example["config"]["target_idx"], example["config"].get("seed", 0)


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


def _shared(by_len: dict[str, list[Example]]) -> tuple[tuple[list, list], tuple[list, list]]:
    """Names of the target and of the history of each example, at h = 0 and at all other lengths."""
    identities = list(map(_identity, by_len["0"]))
    numbers = [example["config"].get("history_number") for example in by_len["0"]]
    histories = [
        (seed, target, None) if number is None else (seed, None, number)
        for (target, seed), number in zip(identities, numbers)
    ]
    targets = [target for target, _ in identities]
    return (targets, identities), (targets, histories)


def _stats_by_len(by_len: dict[str, list[Example]], metric_name: str) -> dict[str, Any]:
    """Statistics of each history length; examples of one target or one history are clustered."""
    scores = np.array([[example["score"] for example in group] for group in by_len.values()])
    _, (targets, histories) = _shared(by_len)
    found = stats.stats_by_len(scores, targets, histories, binary=metric_name in PROPORTIONS)
    return dict(zip(by_len, found))
