"""The figure of `--position`: does it matter how long ago the one distractor turn was?

A history `at:K` has its distractor turn at place K and turns of the target's own task at all
others, the same rows in every case. At one h, results of several K differ in that place alone.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from core.keys import Key, in_words, named_fields
from reports import curves, style
from reports.groups import Record, lengths_of, read_curves
from reports.style import FigureStyle, NamedFigure

AT = re.compile(r"at:(\d+)")  # the kinds of history that are drawn here

ByPlace = Mapping[int, Record]  # place of the distractor turn, from 1 -> result


def position_figures(
    results: Mapping[Key, Record], look: FigureStyle = style.PLAIN
) -> Iterator[NamedFigure]:
    """A figure for each model, target and distractor of which several places were run."""
    groups: dict[Key, dict[int, Record]] = {}
    for key, result in results.items():
        history = key.fields["history"]
        place = AT.match(history)
        if place:
            several = Key(key.fields | {"history": AT.sub("at:K", history, count=1)})
            groups.setdefault(several, {})[int(place[1])] = result
    groups = {key: by_place for key, by_place in groups.items() if len(by_place) > 1}
    named = named_fields(key.fields for key in groups)
    for key, by_place in groups.items():
        names = {field: name for field, name in key.fields.items() if field in named}
        yield draw_places(names, by_place, look)


def draw_places(names: dict[str, str], by_place: ByPlace, look: FigureStyle) -> NamedFigure:
    """The metric over the own-task turns since the distractor turn, a line for each h."""
    figure, axes = style.new_figure(look)
    run = set.intersection(*(set(lengths_of(result)) for result in by_place.values()))
    lengths = sorted(h for h in run if h >= min(by_place))
    for number, (h, shift) in enumerate(zip(lengths, curves.spread(len(lengths)))):
        marker = style.MARKERS[number % len(style.MARKERS)]
        line = {"color": style.colour_of(number, len(lengths)), "marker": marker, "label": h}
        since, values, *ends = points(by_place, h)
        curves.draw_line(axes, (since, values), line, shift, ends)
        level = without(by_place, h)
        if level is not None:
            axes.hlines(level, -0.4, h - 0.6, color=line["color"], linestyle=":", linewidth=1)
    first = next(iter(by_place.values()))
    metric = style.METRICS.get(first["metric_name"], first["metric_name"])
    axes.set(xlabel="Turns since the distractor turn", ylabel=f"{metric} (fraction, 0 to 1)")
    axes.locator_params(axis="x", integer=True, min_n_ticks=1)
    notes = [
        "bands or bars: 95% intervals of each mean; the targets are the same",
        "dotted: the same h without a distractor turn",
    ]
    style.add_legend(figure, axes, look, style.TURNS, notes)
    titles = [*in_words(names), f"One distractor turn in the target's own task (n = {first['n']})"]
    style.finish(figure, look, titles, curves.PANEL_HEIGHTS[look.width])
    about = f"{metric} by the number of own-task turns since the one distractor turn"
    caption = style.as_sentences([", ".join([about, *in_words(names)]), *notes])
    return NamedFigure(style.figure_stem(names, "position"), figure, caption, "place", names)


def points(by_place: ByPlace, h: int) -> tuple[list[int], Any, Any, Any]:
    """Own-task turns since the distractor turn, the metric there and its interval, at one h; the
    last turn of a history is 0 turns ago.
    """
    there = {h - place: by_place[place] for place in sorted(by_place, reverse=True) if place <= h}
    read = [read_curves(result) for result in there.values()]
    rows = [lengths_of(result).index(h) for result in there.values()]
    found = (
        [each[name][row] for each, row in zip(read, rows)] for name in ("metric", "low", "high")
    )
    return list(there), *map(np.array, found)


def without(by_place: ByPlace, h: int) -> float | None:
    """The metric at h before the distractor turn comes; None where it is in every history."""
    later = [result for place, result in by_place.items() if place > h]
    return later[0]["metric_by_len"][str(h)] if later else None
