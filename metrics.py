"""Scores and statistics, used by the run and by viz, so that they cannot disagree.

An example here is one entry of a debug log: a dict with at least `score`, `top5`, and `config` with
`history_len` and `target_idx`, and `cosines` where layers were read.
"""

from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

import stats

BINARY = {"accuracy"}  # metrics whose scores are 0 or 1
TOP = 5  # most frequent tokens that are kept

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

    return RougeScorer(["rougeL"], use_stemmer=False)


def rouge_scores(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """ROUGE-L F1 of each prediction, best of its references, without stemming (Lin 2004)."""
    return [
        max(_scorer().score(reference, prediction)["rougeL"].fmeasure for reference in group)
        for prediction, group in zip(predictions, references)
    ]


@cache
def _rouge_metric() -> Any:
    """`rouge_scores` as an `evaluate` metric; `evaluate.load("rouge")` asks the Hub for one."""
    import datasets
    import evaluate

    class RougeL(evaluate.Metric):
        def _info(self) -> evaluate.MetricInfo:
            text = datasets.Value("string")
            return evaluate.MetricInfo(
                description="ROUGE-L F1 of the best reference, per example",
                citation="Lin, ROUGE: A Package for Automatic Evaluation of Summaries, 2004",
                features=datasets.Features(
                    {"predictions": text, "references": datasets.List(text)}
                ),
            )

        def _compute(self, predictions: list, references: list) -> dict[str, list[float]]:
            return {"rouge": rouge_scores(predictions, references)}

    return RougeL(keep_in_memory=True)


def evaluated_rouge(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """`rouge_scores` through `evaluate`; for the run alone, since importing it imports torch."""
    groups = [list(group) for group in references]
    return _rouge_metric().compute(predictions=list(predictions), references=groups)["rouge"]


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
        "cos_by_len": _mean_cosines(by_len),
        "debug_top5_by_len": {h: _top_tokens(group) for h, group in by_len.items()},
        "stats_by_len": _stats_by_len(by_len, metric_name),
    }


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


def _mean_cosines(by_len: dict[str, list[Example]]) -> dict[str, list[float]]:
    """Mean over examples of each block's cosine; {} where layers were not read."""
    if not all("cosines" in example for group in by_len.values() for example in group):
        return {}
    return {
        h: np.mean([example["cosines"] for example in group], axis=0).tolist()
        for h, group in by_len.items()
    }


def _top_tokens(group: Sequence[Example]) -> list[list[Any]]:
    """The most frequent tokens among the examples' likeliest next tokens, with their counts."""
    counts = Counter(token for example in group for token in example["top5"])
    return [list(entry) for entry in counts.most_common(TOP)]


def _stats_by_len(by_len: dict[str, list[Example]], metric_name: str) -> dict[str, Any]:
    """Statistics of each history length; examples of one target or one history are clustered."""
    scores = np.array([[example["score"] for example in group] for group in by_len.values()])
    identities = list(map(_identity, by_len["0"]))
    numbers = [example["config"].get("history_number") for example in by_len["0"]]
    histories = [
        (seed, target, None) if number is None else (seed, None, number)
        for (target, seed), number in zip(identities, numbers)
    ]
    targets = [target for target, _ in identities]
    found = stats.stats_by_len(scores, targets, histories, binary=metric_name in BINARY)
    return dict(zip(by_len, found))
