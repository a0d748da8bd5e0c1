"""Aggregates over examples, computed by the run and again by viz, so that they cannot disagree."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any
from unicodedata import normalize

import numpy as np

from core.debug_log import Example, Logprob
from core.records import PROPORTIONS, TEXT_SCORES
from measures import layers, stats, ties
from measures.effects import effects_by_len
from measures.intrusion import intrusion_by_len
from measures.reliability import reliability_by_len
from measures.scoring import label_score
from measures.stats import Clusters, mean_and_interval

MOST_FREQUENT = 5  # most frequent tokens that are kept


def aggregate(
    examples: Sequence[Example],
    metric_name: str,
    rounding: Mapping[str, float | None] | None = None,
) -> dict[str, Any]:
    """Every aggregate of a result file, from the examples of one pair.

    `rounding` is that of `ties.ties_by_len`.

    Raises ValueError unless the examples are the same targets, each once under a seed, at every
    history length, 0 among them. The statistics of each length are those of `stats.stats_by_len`.
    """
    by_len = by_length(examples)
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
        "bounded_labels_by_len": _bounded_labels(by_len),
        "cue_by_len": _cue(by_len, metric_name),
        "ties_by_len": ties.ties_by_len(by_len, rounding),
        "sensitivity_by_len": sensitivity_by_len(by_len, at_0, later),
        "effects_by_len": effects_by_len(by_len, later),
        "intrusion_by_len": intrusion_by_len(by_len, at_0, later),
        "reliability_by_len": reliability_by_len(by_len, later),
    } | layers.aggregate(by_len, at_0, later)


def by_length(examples: Sequence[Example]) -> dict[str, list[Example]]:
    """Examples by history length, in the order of the targets, so that lengths can be paired."""
    lengths = sorted({example["config"]["history_len"] for example in examples})
    if 0 not in lengths:
        raise ValueError("there are no examples at h = 0")
    by_len: dict[str, list[Example]] = {str(h): [] for h in lengths}
    for example in sorted(examples, key=identity):
        by_len[str(example["config"]["history_len"])].append(example)
    first, *others = [list(map(identity, group)) for group in by_len.values()]
    if any(row != first for row in others):
        raise ValueError("the examples are not the same targets at every history length")
    if len(set(first)) < len(first):
        raise ValueError("a target is there twice at one history length under one seed")
    return by_len


def identity(example: Example) -> tuple[int, int]:
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


def _bounded_labels(by_len: dict[str, list[Example]]) -> dict[str, int]:
    """Labels that a server did not list among the likeliest tokens; {} where all are known."""
    if not all("label_bounds" in example for group in by_len.values() for example in group):
        return {}
    return {h: sum(len(each["label_bounds"]) for each in group) for h, group in by_len.items()}


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
    return [list(entry) for entry in counts.most_common(MOST_FREQUENT)]


def _shared(by_len: dict[str, list[Example]]) -> tuple[tuple[list, list], tuple[list, list]]:
    """Names of the target and of the history of each example, at h = 0 and at all other lengths.

    Targets of one name are one cluster: the same row, rows with an equal prompt, such as a line per
    annotator, or rows with an equal value in the column that the task names.
    """
    targets = list(map(target_name, by_len["0"]))
    seeds = [identity(example) for example in by_len["0"]]
    return (targets, seeds), (targets, list(map(history_name, by_len["0"])))


def history_name(example: Example) -> tuple[Any, ...]:
    """What tells an example's history from others': seed and number, or seed and target."""
    target, seed = identity(example)
    number = example["config"].get("history_number")
    return (seed, target, None) if number is None else (seed, None, number)


def target_name(example: Example) -> Hashable:
    """What makes targets one: the value of the task's cluster column, or else an equal prompt.

    Of an example at h = 0, where the prompt is the target's own.
    """
    return example["config"].get("cluster", _question(example))


def _question(example: Example) -> Hashable:
    """The prompt as prompts are compared; examples made by hand may have none."""
    text = example.get("prompt_text")
    return example["config"]["target_idx"] if text is None else normalize("NFC", text)


def _stats_by_len(by_len: dict[str, list[Example]], metric_name: str) -> dict[str, Any]:
    """Statistics of each history length; examples of one target or one history are clustered."""
    scores = np.array([[example["score"] for example in group] for group in by_len.values()])
    _, (targets, histories) = _shared(by_len)
    found = stats.stats_by_len(scores, targets, histories, binary=metric_name in PROPORTIONS)
    different = len(set(map(_question, by_len["0"])))
    return {h: entry | {"n_targets": different} for h, entry in zip(by_len, found)}


# -- task-switch sensitivity

# Name -> the reply whose log-likelihood is compared without and with the history
VARIANTS = {"tau": "zero_shot", "confidence": "own", "loss": "reference"}


def sensitivity_by_len(
    by_len: Mapping[str, Sequence[Example]], at_0: Clusters, later: Clusters
) -> dict[str, Any]:
    """How much less likely a history makes an answer, by history length; {} where not read.

    With l(r | c) the log-likelihood of reply r after context c, u the target's prompt, h its
    history, r_0 and r_h the replies without and with it, and ref the reference, per example:

        tau         l(r_0 | u) - l(r_0 | u, h)    over 0: the history makes r_0 less likely
        confidence  l(r_0 | u) - l(r_h | u, h)
        loss        l(ref | u) - l(ref | u, h)

    The signs are those that the code of Gupta et al. (arXiv 2402.18216) computes; the docstring
    there has the ratios upside down. Beside them stands the reference's own log-likelihood.

    An entry holds `sum` and `per_token`, each a mean over examples with its interval. A reply of no
    token, with whatever it is compared, is left out of both and counted.
    """
    if not all("reply_logprobs" in each for group in by_len.values() for each in group):
        return {}
    without = [each["reply_logprobs"] for each in by_len["0"]]
    found = {}
    for h, group in by_len.items():
        now = [each["reply_logprobs"] for each in group]
        found[h] = {
            name: _both(
                [
                    np.array(_values(before[reply])) - _values(here[reply])
                    for before, here in zip(without, now)
                ],
                later,
            )
            for name, reply in VARIANTS.items()
        }
        references = [_values(here["reference"]) for here in now]
        found[h]["reference_logprob"] = _both(references, later if int(h) else at_0)
    return found


def _values(logprob: Logprob) -> tuple[float, float]:
    """A reply's log-likelihood (nats), as a sum and per token; NaN for a reply of no token."""
    total, tokens = logprob["sum"], logprob["tokens"]
    return (total, total / tokens) if tokens else (np.nan, np.nan)


def _both(rows: Sequence[Any], clusters: Clusters) -> dict[str, dict[str, Any]]:
    means, stats = mean_and_interval(np.array(rows, dtype=float), clusters)  # [N, 2]
    return {
        unit: {
            "mean": means[k],
            **{key: stats[key][k] for key in ("low", "high", "excluded")},
            "interval": stats["interval"],
        }
        for k, unit in enumerate(("sum", "per_token"))
    }
