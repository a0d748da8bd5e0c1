"""Was it the switch? One history against another on the same targets, paired by target and seed.

Where both sides read the same prompt at h = 0, as two distractors of one model do, the difference
in differences is the difference at h; else, as between two models, the changes are compared.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from core import log_files
from core.errors import UserError
from core.keys import FIELDS, KNOWN, Key, dataset, differing, same_task
from core.schema import PROPORTIONS
from core.terminal import counted
from measures import layers, stats
from measures.regression import Rows, switch_effect
from measures.table import Names, Table

COLUMNS = (
    "model", "target", "distractor", "against", "history", "seed", "h", "metric",
    "difference_points", "low", "high", "p_value", "p_holm", "n", "clusters", "detectable_points",
    "note",
)  # fmt: skip
OWN = "own"  # --against: the target's own task
AT_BLOCK = " at block "  # in the name of a layer measure
SHARED = "h = 0 is shared, so this is the difference of the changes too"
CHANGES = "difference of the changes against h = 0"
# What may differ between two sides, by what is compared: it follows from that, or changes no target
FOLLOWS = {
    "distractor": {"distractor_rows"},
    "model": {"revision", "adapter", "prompt", "dtype", "engine", "open_thought"},
    "history": {"distractor_rows"},
    "scoring": {"max_new_tokens"},
    "wording": {"target_rows", "distractor_rows"},
}
CHANGES_NOTHING = {
    *("max_len", "on_overflow", "no_cosine", "agree", "lens", "sensitivity", "engine"),
    *("effect_window", "effect_lengths"),
}
OF_LAYERS = {"lens"}  # changes no score
# What is each target task's own, among results of one grid
OF_TARGET = {"target_rows", "target_metric", "target_labels", "target_cluster", "max_new_tokens"}
OF_TARGET |= {"limit"}
# Of these, an h-turn history is no beginning of longer ones: what it holds follows from the longest
OF_LONGEST = {"target_first", "target_last", "shuffled"}

Record = dict[str, Any]
# Of COLUMNS, the `settings` in which results differ, of its first side, and of each column that is
# null the reason: `why_null`
Row = dict[str, Any]


class Reading(NamedTuple):
    """What is compared: the score, or one of `layers.EXAMPLE_KEYS` at a block from 1."""

    name: str
    block: int = 0


SCORE = Reading("score")
COMPARING = "Comparing results"  # which reads their logs
MEASURES = (SCORE.name, *layers.EXAMPLE_KEYS)


def unit_of(row: Row) -> str:
    """What its numbers are in: points of a score, or a layer measure's own unit, by its name."""
    return row["metric"] if AT_BLOCK in row["metric"] else "points"


class Side:
    """One result of a contrast and the examples behind it."""

    def __init__(self, key: Key, result: Record, by: str, reading: Reading = SCORE):
        self.key, self.result, self.by, self.reading = key, result, by, reading
        self.name = key.fields[by]

    @property
    def metric(self) -> str:
        """Name of what is compared."""
        name, block = self.reading
        return self.result["metric_name"] if name == SCORE.name else f"{name}{AT_BLOCK}{block}"

    @property
    def bounds(self) -> dict[str, float]:
        """Smallest and largest number that can be compared."""
        ends = layers.BOUNDS.get(self.reading.name, (0.0, 100.0))
        return {name: end / 100 for name, end in zip(("low", "high"), ends)}

    @cached_property
    def _table(self) -> Table:
        pooled = " " in self.key.fields["seed"]
        if self.by == "seed" and pooled:
            path = log_files.log_of(self.result)
            raise UserError(f"{path} pools several seeds, and a contrast of seeds needs one each.")
        table = Table(lambda example: [("value", self.value(example))])
        with log_files.trusted(self.result) as log:
            for example in log.examples():
                table.add(example)
        return table

    @cached_property
    def values(self) -> dict[int, np.ndarray]:
        """What is compared, by history length: of each target under each seed, in order [N]."""
        groups = self._table.by_length().items()
        return {int(h): group.values("value") for h, group in groups}

    @property
    def names(self) -> list[Names]:
        """What the targets share, in their order."""
        return [names for _, names in self._table.in_order()]

    @property
    def targets(self) -> list[Any]:
        """Target and seed of each, or the target alone where seeds are compared, in their order."""
        known_by = 1 if self.by == "seed" else 2
        return [identity[:known_by] for identity, _ in self._table.in_order()]

    def value(self, example: Record) -> float:
        """What is compared: a score, with the cue where the result has one, or a layer measure.

        Differences are shown in points, so a layer measure is divided by 100 to keep its own unit.
        """
        if self.reading == SCORE:
            return example["cued"]["score"] if "cued" in example else example["score"]
        name, block = self.reading
        values = example.get(layers.EXAMPLE_KEYS[name], [])
        if len(values) and not 1 <= block <= len(values):
            raise UserError(
                f"{self.result['path']} has no {self.metric}: blocks are 1 to {len(values)}."
            )
        if not 1 <= block <= len(values) or values[block - 1] is None:
            raise UserError(
                f"{self.result['path']} has no {self.metric} for every example. Give only results "
                "that have it: of one target, or run without --no_cosine."
            )
        return values[block - 1] / 100


def contrasts(
    results: Mapping[Key, Record],
    by: str = "distractor",
    against: str | None = None,
    reading: Reading = SCORE,
) -> list[Row]:
    """Rows of COLUMNS for every pair of results that differ in `by`, at every h >= 1.

    By default every other distractor is compared with the target's own task where that was run,
    else every pair. `p_holm` is corrected over all rows. UserError where two sides cannot be
    compared, or none can.
    """
    pairs = list(paired_sides(results, by, against, reading))
    if not pairs:
        raise UserError(
            f"nothing to compare: no two of these results differ in {by} alone"
            f"{'' if against is None else f', one of them {against}'}."
            f"{_meant(results, by, against)}"
        )
    for pair in counted(pairs, COMPARING):
        require_comparable(*pair)
    rows = rows_of(pairs)
    if not rows:
        raise UserError("nothing to compare: no two of these results share an h of 1 or more.")
    return rows


def _meant(results: Mapping[Key, Record], by: str, against: str | None) -> str:
    """The names that --against can have, where it has another; "" elsewhere."""
    names = sorted({key.fields[by] for key in results})
    known = {OWN, *names, *(name.partition("/")[0] for name in names)}
    return "" if against is None or against in known else f"\nThere are {', '.join(names)}."


def comparable(
    results: Mapping[Key, Record], by: str = "distractor", against: str | None = None
) -> tuple[list[tuple[Side, Side]], list[str]]:
    """Every pair that differs in `by` and can be compared, and why others cannot."""
    pairs, refused = [], []
    for pair in counted(list(paired_sides(results, by, against, SCORE)), COMPARING):
        try:
            require_comparable(*pair)
        except UserError as error:
            refused.append(str(error))
        else:
            pairs.append(pair)
    return pairs, refused


def rows_of(pairs: Iterable[tuple[Side, Side]]) -> list[Row]:
    """Rows of COLUMNS of these pairs, at every h >= 1; `p_holm` is corrected over all of them."""
    rows = [row for pair in pairs for row in contrast(*pair)]
    for row, p_holm in zip(rows, stats.holm([row["p_value"] for row in rows])):
        row["p_holm"] = p_holm
    return rows


def paired_sides(
    results: Mapping[Key, Record], by: str, against: str | None, reading: Reading
) -> Iterator[tuple[Side, Side]]:
    """Sides that differ in `by` alone: each with the one that it is compared with."""
    groups: dict[Key, list[Side]] = {}
    for key, result in results.items():
        if by not in key.fields:
            raise UserError(f"--by {by}: these results do not differ in it.")
        groups.setdefault(key.without(by), []).append(Side(key, result, by, reading))
    for sides in groups.values():
        second = _against(sides, by, against)
        if second is not None:
            yield from ((side, second) for side in sides if side is not second)
        elif against is None:
            yield from combinations(sides, 2)


def _against(sides: Sequence[Side], by: str, against: str | None) -> Side | None:
    """The side that the others are compared with; None for each with each."""
    if by == "distractor" and against in (None, OWN):
        target = sides[0].key.fields["target"]
        own = [side for side in sides if same_task(target, side.name)]
        return min(own, key=lambda side: dataset(side.name) != dataset(target), default=None)
    named = (side for side in sides if against in (side.name, side.name.partition("/")[0]))
    return next(named, None)


def contrast(first: Side, second: Side) -> list[Row]:
    """Rows of one pair that can be compared, `p_holm` still None."""
    by, binary = first.by, first.metric in PROPORTIONS
    compared = dict(_compared(first, second))
    zero = compared.pop(0)
    shared = np.array_equal(*zero)
    named = first.key.fields
    about = [f"{by} {first.name} against {second.name}"] if by not in FIELDS else []
    about += [f"{name} {named[name]}" for name in first.key.settings if name != by]
    clusters, rows = _clusters(first, second), []
    for h, (after, before) in compared.items():
        expected = before + zero[0] - zero[1], after + zero[1] - zero[0]  # without a difference
        room = stats.room_around(*expected, **first.bounds)
        if not shared:
            after, before = after - expected[0], 0 * before
        [entry] = stats.compare(
            after[None], before[None], clusters, binary=binary and shared, room=room
        )
        rows.append(
            {name: named[name] for name in FIELDS}
            | {"against": second.name, "h": h, "metric": first.metric}
            | {"difference_points": entry["change_points"]}
            | {end: entry[f"change_points_{end}"] for end in ("low", "high")}
            | {"p_value": entry["p_value"], "p_holm": None, "n": len(after)}
            | {"clusters": clusters.count, "detectable_points": entry["detectable_points"]}
            | {"why_null": _why_null(entry)}
        )
        test = [entry["test"]] if entry["test"] else []
        remarks = dict.fromkeys([*test, *rows[-1]["why_null"].values()])
        rows[-1]["note"] = "; ".join([*about, SHARED if shared else CHANGES, *remarks])
    settings = {"settings": {name: named[name] for name in first.key.settings}}
    return [{name: row[name] for name in (*COLUMNS, "why_null")} | settings for row in rows]


def _why_null(entry: Row) -> dict[str, str]:
    """The reason of each column that is null."""
    names = {"low": "change_points_low", "p_value": "p_value"}
    names["detectable_points"] = "detectable_points"
    return {
        column: entry[f"{name}_reason"] for column, name in names.items() if entry[name] is None
    }


def _compared(first: Side, second: Side) -> Iterator[tuple[int, tuple[np.ndarray, np.ndarray]]]:
    """Each h that both sides have, with what is compared [N] in the same order of targets."""
    for h in (h for h in first.values if h in second.values):
        yield h, (first.values[h], second.values[h])


def _clusters(first: Side, second: Side) -> stats.Clusters:
    """Examples that share a target, or a history of either side."""
    histories = [[names.history for names in side.names] for side in (first, second)]
    return stats.find_clusters([names.target for names in first.names], *histories)


# -- all of a grid at once


def switch_effects(pairs: Iterable[tuple[Side, Side]]) -> list[dict[str, Any]]:
    """`regression.switch_effect` of each model, history, seed and metric with what it is of.

    The pairs can be compared, the second of each the target after its own task; only targets that
    were run after another task too are in it, and only at lengths that both have.
    """
    groups: dict[tuple, list[tuple[Side, Side]]] = {}
    for first, own in pairs:
        apart = own.key.without("distractor").without("target")
        groups.setdefault((apart, own.metric), []).append((first, own))
    found = []
    for (key, metric), group in groups.items():
        switched = {own.key for first, own in group if _is_switch(first)}
        both = [(first, own) for first, own in group if own.key in switched]
        if both:
            apart = _settings_apart([own for _, own in both])
            effect = switch_effect(_rows(both), binary=metric in PROPORTIONS, apart=apart)
            found.append({"key": key, "metric": metric} | effect)
    return found


def _is_switch(side: Side) -> bool:
    return not same_task(side.key.fields["target"], side.name)


def _settings_apart(sides: Sequence[Side]) -> list[str]:
    """Settings in which the runs of several targets differ though a grid has them once."""
    configs = [side.result["config"] for side in sides]
    return differing(configs, _free(sides[0]) | OF_TARGET)


def _rows(pairs: Iterable[tuple[Side, Side]]) -> Rows:
    """An entry for each example of these sides, at lengths from 1 that both of a pair have."""
    lengths: dict[Key, set[int]] = {}
    sides: dict[Key, Side] = {}
    for pair in pairs:
        shared = {h for h in pair[0].values if h and h in pair[1].values}
        for side in pair:
            sides[side.key] = side
            lengths.setdefault(side.key, set()).update(shared)
    found = []
    for key, side in sides.items():
        target, switch = key.fields["target"], _is_switch(side)
        named = [((target, n.target), (side.name, *n.history)) for n in side.names]
        for h in sorted(lengths[key]):
            found += [(value, switch, target, h, *n) for value, n in zip(side.values[h], named)]
    scores, switches, *names = zip(*found) if found else [[]] * 6
    return Rows(np.array(scores, dtype=float), np.array(switches, dtype=bool), *map(list, names))


# -- what may be compared


def require_comparable(first: Side, second: Side) -> None:
    """UserError with what differs beside the one thing that is compared."""
    pair = f"{first.result['path']} and {second.result['path']}"
    if first.result["metric_name"] != second.result["metric_name"]:
        names = " and ".join(side.result["metric_name"] for side in (first, second))
        raise UserError(f"{pair} cannot be compared: their metrics are {names}.")
    others = unlike(first, second)
    if others:
        configs = [side.result["config"] for side in (first, second)]
        values = ", ".join(
            f"{name} ({' and '.join(str(config.get(name)) for config in configs)})"
            for name in others
        )
        raise UserError(
            f"{pair} differ in more than {first.by}: {values}.\n"
            "Run them alike; two runs of one pair that differ in one setting alone can be compared "
            "by it (--by)."
        )
    one, two = (set(side.targets) for side in (first, second))
    if one != two:
        raise UserError(
            f"{pair} have other targets: {len(one - two)} of {len(one)} are not in the second, "
            f"{len(two - one)} of {len(two)} not in the first.\n{_why(first, second)}"
        )


def unlike(first: Side, second: Side) -> list[str]:
    """Settings that change what is compared, and in which two sides differ beside that."""
    configs = [side.result["config"] for side in (first, second)]
    free = _free(first)
    if first.by != "max_len" and not are_beginnings(*configs):
        free -= {"max_len"}
    return differing(configs, free)


def _free(side: Side) -> frozenset[str]:
    """Settings in which a side may differ from the other."""
    free = {*KNOWN, *FOLLOWS.get(side.by, ()), *CHANGES_NOTHING, side.by}
    return frozenset(free if side.reading == SCORE else free - OF_LAYERS | {side.by})


def are_beginnings(*configs: Record) -> bool:
    """Are the h-turn histories of any of these results beginnings of its longer ones?"""
    return not all({config.get("mix"), config.get("history")} & OF_LONGEST for config in configs)


def _why(first: Side, second: Side) -> str:
    """What makes targets differ."""
    results = [side.result for side in (first, second)]
    told = []
    for name in ("limit", "seed"):
        values = [result["config"].get(name) for result in results]
        if values[0] != values[1]:
            told.append(f"--{name} is {values[0]} and {values[1]}")
    skipped = [int(result.get("n_skipped", 0)) for result in results]
    if any(skipped):
        told.append(f"{skipped[0]} and {skipped[1]} targets were skipped")
    return f"Run both with the same targets: {'; '.join(told) or 'their rows are not the same'}."
