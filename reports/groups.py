"""Which results stand in one figure, and by what the figure is named."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core import records
from core.errors import UserError
from core.keys import Key, in_words, named_fields
from reports import style
from reports.style import NamedFigure

DRAWN_STATISTICS = (
    "low",
    "high",
    "percent_change",
    "percent_change_low",
    "percent_change_high",
    "p_holm",
)
BY = ("distractor", "model", "history", "seed")  # what lines can be, beside settings that differ
SEEDS = (
    "Each seed draws its own histories and, under --limit, its own targets; nothing is pooled "
    "over seeds"
)

Record = dict[str, Any]  # a result
Curves = dict[str, np.ndarray]  # of `read_curves`


@dataclass(frozen=True)
class Group:
    """The results of one figure: a line each, by the field of their keys in which they differ."""

    by: str  # of BY
    names: dict[str, str]  # the fields that they share, by which the figure is named
    lines: dict[str, Record]

    @property
    def lengths(self) -> list[int]:
        """The history lengths of all lines, in order."""
        return sorted({h for result in self.lines.values() for h in lengths_of(result)})

    @property
    def notes(self) -> list[str]:
        """What must be known about such lines."""
        return [SEEDS] if self.by == "seed" else []

    @property
    def metric_name(self) -> str:
        """The metric of all lines."""
        return next(iter(self.lines.values()))["metric_name"]

    @property
    def metric(self) -> str:
        """Its name, as figures write it."""
        return style.METRICS.get(self.metric_name, self.metric_name)

    def drawn(
        self, kind: str, figure: Any, about: str, notes: Sequence[str], measure: str = ""
    ) -> NamedFigure:
        """A figure with its name and its caption; the kind is the measure where none is named."""
        lines = ", ".join(label_of(name, result) for name, result in self.lines.items())
        what = ", ".join([about, *in_words(self.names)])
        name = kind if self.by == BY[0] else f"{kind}_by_{self.by}"
        text = style.as_sentences([what, f"{self.by}: {lines}", *notes])
        stem = style.figure_stem(self.names, name)
        return NamedFigure(stem, figure, text, measure or kind, self.names)


def load_groups(folders: Iterable[str | Path], by: str = BY[0]) -> list[Group]:
    """Results below the folders, in figures whose lines differ in `by` alone."""
    return group_results(records.load_results(folders), by)


def group_results(results: dict[Key, Record], by: str = BY[0]) -> list[Group]:
    """Results of `records.load_results` in figures whose lines differ in `by` alone.

    Each result gets its `curves`, and under `names` the fields of its key that name it.
    """
    check_field(results, by)
    named = named_fields(key.fields for key in results)
    groups: dict[Key, Group] = {}
    for key, result in results.items():
        names = {field: name for field, name in key.fields.items() if field in named}
        shared = {field: name for field, name in names.items() if field != by}
        group = groups.setdefault(key.without(by), Group(by, shared, {}))
        drawn = {"names": names, "curves": read_curves(result)}
        group.lines[key.fields[by]] = result | drawn
    return list(groups.values())


def check_field(results: Iterable[Key], by: str) -> None:
    """UserError unless `by` is what lines can be, or a setting in which the results differ."""
    known = dict.fromkeys((*BY, *(name for key in results for name in key.settings)))
    if by not in known:
        raise UserError(f"--by {by}: the results given differ in {', '.join(known)} at most.")


def lengths_of(result: Record) -> list[int]:
    """The history lengths that were run, in order."""
    return list(map(int, result["metric_by_len"]))


def read_curves(result: Record) -> Curves:
    """The statistics NAMES and the metric, each over h [H + 1]; null is NaN."""
    stats_by_len = result["stats_by_len"].values()
    curves = {name: [of_len[name] for of_len in stats_by_len] for name in DRAWN_STATISTICS}
    curves["metric"] = list(result["metric_by_len"].values())
    return {name: np.array(values, dtype=float) for name, values in curves.items()}


def label_of(name: str, result: Record) -> str:
    """A line's label in the legend."""
    return f"{name} (n = {result['n']})"
