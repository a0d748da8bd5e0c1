"""What a history does, over many targets: the aggregates of `--effects`.

An example's numbers are log-odds of the reference (nats), or its log P for a generated answer, with
parts of the history hidden or states patched. Here are their means and differences, each with an
interval; a positive difference is in favour of the reference. No torch.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from core.debug_log import Example
from core.schema import cleaned
from measures import paired, stats
from measures.stats import Clusters, mean_and_interval
from measures.table import ByLen, Group, all_have

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

OF = "effects"  # first in the names of columns
# What an example has by parts
PARTED = ("routes", "attention", "attention_by_head", "attention_if_uniform")

MARGIN_SLACK = 0.01  # nats, between two roads to one margin in single precision

Stats = dict[str, Any]


def columns(example: Example) -> Iterator[tuple[Hashable, Any]]:
    """What an example has of `effects`, under (OF, name) or, by parts, (OF, name, part)."""
    for name, value in example.get(OF, {}).items():
        if name in PARTED:
            yield from (((OF, name, part), np.atleast_1d(inner)) for part, inner in value.items())
        else:
            yield (OF, name), np.atleast_1d(value)


def effects_by_len(by_len: ByLen, clusters: Clusters) -> dict[str, Stats]:
    """Every aggregate of `--effects` by history length, {} where nothing was measured.

    The clusters are those of the examples with a history.
    """
    longer = {h: group for h, group in by_len.items() if int(h)}
    if not longer or not all_have(longer, (OF, "none")):
        return {}
    found = {h: _of_length(group, clusters) for h, group in longer.items()}
    _correct(list(found.values()))
    return {"0": {}} | found


def _of_length(group: Group, clusters: Clusters) -> Stats:
    columns = {name: group.values((OF, name)) for name in _MEASURED if group.some((OF, name))}
    found: Stats = {
        "n": group.n,
        "means": {s: _mean(columns[s], clusters) for s in STATES if s in columns},
        "contrasts": _contrasts(columns, clusters),
    }
    if group.some((OF, "windows")):
        found["windows"] = group.values((OF, "windows"))[0].astype(int).tolist()
    for name, against in LISTED.items():
        if name in columns:
            found[name] = _listed(columns[name] - columns[against], clusters)
    routes = group.parts(OF, "routes")
    if routes:
        less = {route: values - columns["full"] for route, values in routes.items()}
        found["routes"] = {route: _mean(values, clusters) for route, values in less.items()}
    restored = {name: _restored(columns, name, clusters) for name in PATCHED if name in columns}
    if restored:
        found["restored"] = restored
    attention = group.parts(OF, "attention")
    if attention:
        found |= _attention(group, attention, clusters)
    return found


_MEASURED = {*STATES, *LISTED, *PATCHED}


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

    Examples with a value that is not finite are left out of all columns, so that parts add up to
    their sum, and counted.
    """
    known = np.isfinite(changes).all(axis=1)
    changes, clusters = changes[known], clusters.among(known)
    about: Stats = {"test": f"sign-flip permutation over {clusters.unit}"}
    about |= {"interval": "95% of the test"}
    about |= {} if known.all() else {"excluded": int((~known).sum())}
    means = cleaned(changes.mean(axis=0)) if known.any() else [None] * changes.shape[1]
    names = ("mean", "low", "high", "p_value")
    if clusters.count < 2:
        return [dict(zip(names, (mean, None, None, None))) | about for mean in means]
    sums = clusters.sums(changes.T)  # [clusters, K]
    sizes = np.broadcast_to(clusters.sums(np.ones((1, len(changes)))), sums.shape)
    flipped = paired.sign_flip(sums, [sizes])
    few = (np.abs(sums) > 1e-9).sum(axis=0) < stats.FEWEST
    low, high = (cleaned(np.where(few, np.nan, ends)) for ends in flipped.ends[0])
    rows = zip(means, low, high, flipped.p_values.tolist())
    return [dict(zip(names, row)) | about for row in rows]


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
    where the mean of `whole` is not clearly away from 0 itself: then no r is excluded. Examples
    whose values are not finite are left out.
    """
    rows = np.stack([part, whole, part + whole], axis=1)
    known = np.isfinite(rows).all(axis=1)
    (a, b, _), around = mean_and_interval(rows[known], clusters.among(known))
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


def _attention(group: Group, attention: Mapping[str, np.ndarray], clusters: Clusters) -> Stats:
    heads = group.parts(OF, "attention_by_head")
    flat = group.parts(OF, "attention_if_uniform")
    return {
        "attention": {part: _listed(values, clusters) for part, values in attention.items()},
        "attention_by_head": {
            part: [cleaned(row) for row in values.mean(axis=0)] for part, values in heads.items()
        },
        "attention_if_uniform": {p: cleaned(values.mean(axis=0))[0] for p, values in flat.items()},
    }


# -- a second road to the runs without history and with it


class Margins:
    """The margins of the label scores of prompts, which were read by the engine of the run."""

    def __init__(self) -> None:
        self.without: dict[tuple[Any, ...], float] = {}  # of a case at h = 0

    def of(self, example: Mapping[str, Any]) -> dict[str, tuple[Any, float]]:
        """What an example of a label task stores as `none` and `full` beside the margin at h = 0
        and its own, or itself where they are the same but for rounding.

        Examples come case by case, the one at h = 0 first.
        """
        about, scores = example["config"], dict(example.get("label_logprobs") or {})
        if len(scores) < 2 or None in scores.values():
            return {}
        case = tuple(about.get(name) for name in ("target_idx", "seed", "history_number"))
        own = scores.pop(example["expected_answer"]) - max(scores.values())
        if not about["history_len"]:
            self.without[case] = own
        effects = example.get("effects")
        if not effects:
            return {}
        pairs = {"none": (effects["none"], self.without[case]), "full": (effects["full"], own)}
        return {name: (stored, _same(stored, other)) for name, (stored, other) in pairs.items()}


def _same(stored: Any, other: float) -> Any:
    near = isinstance(stored, float | int) and abs(stored - other) <= MARGIN_SLACK
    return stored if near else other
