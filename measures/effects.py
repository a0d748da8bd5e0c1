"""What a history does, over many targets: the aggregates of `--effects`.

An example's numbers are log-odds of the reference (nats), or its log P for a generated answer, with
parts of the history hidden or states patched. Here are their means and differences, each with an
interval; a positive difference is in favour of the reference. No torch.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from core.records import cleaned
from measures import paired, stats
from measures.stats import Clusters, mean_and_interval

# Name of a difference -> what is compared with what. The first four are reported; position, length
# and content add up to the total.
CONTRASTS = {
    "position": ("hidden", "none"),
    "filler": ("filler", "none"),
    "seen": ("full", "hidden"),
    "content": ("full", "filler"),
    "length": ("filler", "hidden"),
    "total": ("full", "none"),
}
STATES = ("none", "hidden", "filler", "full")
# Numbers of an example in lists -> the number that they are compared with
LISTED = {
    "hidden_by_window": "full",
    "seen_by_window": "hidden",
    "hidden_by_turn": "full",
    "hidden_by_user": "full",
    "hidden_by_answer": "full",
}
# Patched numbers -> the run that states are put into, and the run that they are from
PATCHED = {
    "patched_last": ("full", "none"),
    "patched_target": ("full", "none"),
    "reverse_last": ("none", "full"),
    "reverse_target": ("none", "full"),
}

ByLen = Mapping[str, Sequence[dict[str, Any]]]  # history length -> its examples
Stats = dict[str, Any]


def effects_by_len(by_len: ByLen, clusters: Clusters) -> dict[str, Stats]:
    """Every aggregate of `--effects` by history length, {} where nothing was measured.

    The clusters are those of the examples with a history.
    """
    longer = {h: group for h, group in by_len.items() if int(h)}
    if not longer or not all("effects" in each for group in longer.values() for each in group):
        return {}
    found = {h: _of_length([e["effects"] for e in group], clusters) for h, group in longer.items()}
    _correct(list(found.values()))
    return {"0": {}} | found


def _of_length(effects: Sequence[Stats], clusters: Clusters) -> Stats:
    columns = {name: _column(effects, name) for name in effects[0] if name in _MEASURED}
    found: Stats = {
        "n": len(effects),
        "means": {s: _mean(columns[s], clusters) for s in STATES if s in columns},
        "contrasts": _contrasts(columns, clusters),
    }
    if "windows" in effects[0]:
        found["windows"] = effects[0]["windows"]
    for name, against in LISTED.items():
        if name in columns:
            found[name] = _listed(columns[name] - columns[against], clusters)
    if "routes" in effects[0]:
        found["routes"] = {
            route: _mean(_column([e["routes"] for e in effects], route) - columns["full"], clusters)
            for route in effects[0]["routes"]
        }
    restored = {name: _restored(columns, name, clusters) for name in PATCHED if name in columns}
    if restored:
        found["restored"] = restored
    if "attention" in effects[0]:
        found |= _attention(effects, clusters)
    return found


_MEASURED = {*STATES, *LISTED, *PATCHED}


def _column(effects: Sequence[Stats], name: str) -> np.ndarray:
    """A number of each example [N, 1], or a list of them [N, K]; null is NaN."""
    values = np.array([each[name] for each in effects], dtype=float)
    return values.reshape(len(effects), -1)


def _listed(values: np.ndarray, clusters: Clusters) -> Stats:
    means, around = mean_and_interval(values, clusters)
    return {"mean": means, **around}


def _mean(values: np.ndarray, clusters: Clusters) -> Stats:
    """The same of a single column, without lists."""
    found = _listed(values, clusters)
    return {k: value[0] if isinstance(value, list) else value for k, value in found.items()}


# -- what is position, what length, what content


def _contrasts(columns: Mapping[str, np.ndarray], clusters: Clusters) -> dict[str, Stats]:
    pairs = {
        name: columns[after] - columns[before]
        for name, (after, before) in CONTRASTS.items()
        if after in columns and before in columns
    }
    tested = _tested(np.concatenate(list(pairs.values()), axis=1), clusters)
    return dict(zip(pairs, tested))


def _tested(changes: np.ndarray, clusters: Clusters) -> list[Stats]:
    """Mean of each column of changes [N, K]; by sign flips its p-value, and the interval of the
    means that they do not reject.
    """
    test = {"test": f"sign-flip permutation over {clusters.unit}", "interval": "95% of the test"}
    finite = np.isfinite(changes).all()
    means = cleaned(changes.mean(axis=0))
    if clusters.count < 2 or not finite:
        return [
            {"mean": mean, "low": None, "high": None, "p_value": None, **test} for mean in means
        ]
    sums = clusters.sums(changes.T)  # [clusters, K]
    sizes = np.broadcast_to(clusters.sums(np.ones((1, len(changes)))), sums.shape)
    flipped = paired.sign_flip(sums, [sizes])
    few = (np.abs(sums) > 1e-9).sum(axis=0) < stats.FEWEST
    low, high = (cleaned(np.where(few, np.nan, ends)) for ends in flipped.ends[0])
    rows = zip(means, low, high, flipped.p_values.tolist())
    return [dict(zip(("mean", "low", "high", "p_value"), row)) | test for row in rows]


def _correct(lengths: Sequence[Stats]) -> None:
    """Give each contrast its p-value corrected over the lengths at which it was looked at."""
    for name in lengths[0]["contrasts"]:
        entries = [of_length["contrasts"][name] for of_length in lengths]
        for entry, p_holm in zip(entries, stats.holm([each["p_value"] for each in entries])):
            entry["p_holm"] = p_holm


# -- what patched states restore


def _restored(columns: Mapping[str, np.ndarray], name: str, clusters: Clusters) -> Stats:
    into, donor = (columns[state] for state in PATCHED[name])
    whole = donor - into  # [N, 1]
    shares = [ratio_of_means(part, whole[:, 0], clusters) for part in (columns[name] - into).T]
    return {key: [share[key] for share in shares] for key in ("share", "low", "high")}


def ratio_of_means(part: np.ndarray, whole: np.ndarray, clusters: Clusters) -> Stats:
    """Mean of `part` over mean of `whole` [N], with the interval of Fieller (1954).

    It holds each r for which the mean of part - r whole is not clearly away from 0. All are null
    where the mean of `whole` is not clearly away from 0 itself: then no r is excluded.
    """
    rows = np.stack([part, whole, part + whole], axis=1)
    (a, b, _), around = mean_and_interval(rows[np.isfinite(rows).all(axis=1)], clusters)
    if None in around["high"] or b is None:
        return {"share": None, "low": None, "high": None}
    va, vb, vab = (((top - end) / 2) ** 2 for end, top in zip(around["low"], around["high"]))
    product = (vab - va - vb) / 2
    square, middle, rest = b * b - vb, a * b - product, a * a - va
    if square <= 0:
        return {"share": None, "low": None, "high": None}
    root = max(middle**2 - square * rest, 0) ** 0.5
    low, high = (middle - root) / square, (middle + root) / square
    return dict(zip(("share", "low", "high"), cleaned([a / b, low, high])))


# -- where the answer position looks


def _attention(effects: Sequence[Stats], clusters: Clusters) -> Stats:
    attention = [each["attention"] for each in effects]
    heads = [each["attention_by_head"] for each in effects]
    flat = [each["attention_if_uniform"] for each in effects]
    return {
        "attention": {p: _listed(_column(attention, p), clusters) for p in attention[0]},
        "attention_by_head": {
            part: [cleaned(row) for row in np.mean([each[part] for each in heads], axis=0)]
            for part in heads[0]
        },
        "attention_if_uniform": {p: cleaned(_column(flat, p).mean(axis=0))[0] for p in flat[0]},
    }
