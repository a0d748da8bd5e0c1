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
import sensitivity
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


def judge_labels(
    label_logprobs: dict[str, float], expected: str, read: str = "likelihood", text: str = ""
) -> Example:
    """What of an example follows from its label log-probabilities and, where it was read, its text.

    `read` likelihood scores the likeliest label, generate the label in the text; both scores the
    likeliest label and keeps the other beside it. A text without exactly one label is wrong, and a
    format failure besides.
    """
    best = best_label(label_logprobs)
    likeliest = {"model_prediction": best, "score": float(best == expected)}
    if read == "likelihood":
        return likeliest
    label = find_label(text, tuple(label_logprobs))
    score = float(label == expected)
    written = {"generated_text": text, "generated_label": label, "generated_score": score}
    written["format_failure"] = label is None
    if read == "both":
        return likeliest | written
    return {"model_prediction": text if label is None else label, "score": score} | written


def find_label(text: str, labels: Sequence[str]) -> str | None:
    """The label that a text holds as a word of its own; None where it holds none or several.

    Labels of one letter must be in their own case, since `a` is also a word, and so must labels
    that differ in case alone; others in any. Where one label is a part of another, as in `likely`
    and `not likely`, the longer one is read first.
    """
    found, lower = set(), [label.lower() for label in labels]
    for label in sorted(labels, key=len, reverse=True):
        case = re.IGNORECASE if len(label) > 1 and lower.count(label.lower()) == 1 else 0
        text, count = re.subn(rf"(?<!\w){re.escape(label)}(?!\w)", "\0", text, flags=case)
        found |= {label} if count else set()
    return found.pop() if len(found) == 1 else None


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
    at_0, later = (stats.find_clusters(*names) for names in _shared(by_len))
    return {
        "n": len(by_len["0"]),
        "metric_by_len": {h: float(values.mean()) for h, values in scores.items()},
        "debug_top5_by_len": {h: _top_tokens(group) for h, group in by_len.items()},
        "stats_by_len": _stats_by_len(by_len, metric_name),
        "scores_by_len": _mean_scores(by_len),
        "format_failures_by_len": _format_failures(by_len),
        "reads_by_len": _reads(by_len),
        "cue_by_len": _cue(by_len, metric_name),
        "sensitivity_by_len": sensitivity.aggregate(by_len, at_0, later),
    } | layers.aggregate(by_len, at_0, later)


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
    """Texts without the number or label that is scored; {} where nothing is extracted."""
    if not all("format_failure" in example for group in by_len.values() for example in group):
        return {}
    return {h: sum(example["format_failure"] for example in group) for h, group in by_len.items()}


def _reads(by_len: dict[str, list[Example]]) -> dict[str, dict[str, float]]:
    """Accuracy by likelihood and by text side by side; {} unless both were read."""
    if not all("generated_score" in example for group in by_len.values() for example in group):
        return {}
    return {
        h: {
            "likelihood": float(np.mean([_likeliest_score(example) for example in group])),
            "generate": float(np.mean([example["generated_score"] for example in group])),
            "format_failure_rate": float(np.mean([example["format_failure"] for example in group])),
        }
        for h, group in by_len.items()
    }


def _likeliest_score(example: Example) -> float:
    return label_score(example["label_logprobs"], example["expected_answer"])


def _cue(by_len: dict[str, list[Example]], metric_name: str) -> dict[str, dict[str, Any]]:
    """What a cue before the target changes, on the same targets under the same histories.

    From h = 1: the metric with the cue, and the statistics of its difference to the metric without.
    """
    longer = {h: group for h, group in by_len.items() if int(h)}
    if not longer or not all("cued" in each for group in longer.values() for each in group):
        return {}
    _, names = _shared(by_len)
    found = {}
    for h, group in longer.items():
        rows = np.array([[e["score"] for e in group], [e["cued"]["score"] for e in group]])
        compared = stats.stats_by_len(rows, *names, binary=metric_name in PROPORTIONS)[1]
        found[h] = {"metric": float(rows[1].mean()), **compared}
    corrected = stats.holm([entry["p_value"] for entry in found.values()])
    for entry, p_holm in zip(found.values(), corrected):
        entry["p_holm"] = p_holm
    return {"0": {}} | found


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
