"""Figures of finished runs: the curves over history length.

They are drawn after Gupta et al., LLM Task Interference, EMNLP 2024, arXiv 2402.18216.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from core import keys
from core.keys import in_words
from measures import stats
from reports import style
from reports.groups import Group, Record, label_of, lengths_of
from reports.style import FigureStyle, NamedFigure

MOST_BANDS = 3  # lines whose bands can still be told apart
SPREAD = 0.6  # turns over which the lines of one history length are spread where there are more

NOT_RULED_OUT = ", the changes that the data do not rule out"

PANEL_HEIGHTS = {"single": 1.9, "double": 2.4}  # inches, of the panel


@dataclass(frozen=True)
class Curve:
    """A number over history length, and how it is called."""

    name: str  # of the values in `read_curves`
    ends: tuple[str, str]  # of their interval
    stem: str  # in the figure's file name
    label: str  # of its axis, with the unit
    about: str  # for a caption


METRIC = Curve("metric", ("low", "high"), "metric", "{} (fraction, 0 to 1)", "{}")
CHANGE = Curve(
    "percent_change", ("percent_change_low", "percent_change_high"), "change",
    "{}: relative change\nagainst h = 0 (%)", "Relative change (%) of {} against h = 0",
)  # fmt: skip


def metric_figures(
    groups: Sequence[Group], look: FigureStyle = style.PLAIN
) -> Iterator[NamedFigure]:
    """The metric of each group, and its change where there is a history."""
    styles = line_styles(groups)
    for group in groups:
        for curve in (METRIC, CHANGE) if max(group.lengths) else (METRIC,):
            yield draw_curve(curve, group, styles, look)


def line_styles(groups: Iterable[Group]) -> dict[str, dict[str, Any]]:
    """Colour, marker and dashes of each line, the same in every figure of these groups."""
    names = {name for group in groups for name in group.lines}
    seeds = any(group.by == "seed" for group in groups)
    return style.line_styles(sorted(names, key=keys.by_text if seeds else None))


def draw_curve(
    curve: Curve, group: Group, styles: dict[str, Any], look: FigureStyle
) -> NamedFigure:
    """A line per result with its interval: few with bands, many apart and with bars."""
    figure, axes = style.new_figure(look)
    style.over_turns(axes, group.lengths)
    for (name, result), shift in zip(group.lines.items(), shifts(group)):
        line = styles[name] | {"label": label_of(name, result), "markerfacecolor": "white"}
        values = result["curves"]
        x, ends = lengths_of(result), [values[end] for end in curve.ends]
        draw_line(axes, (x, values[curve.name]), line, shift, ends)
        _fill_markers(axes, axes.lines[-1], values["p_holm"] < stats.ALPHA)  # not where it is NaN
    if not any(np.isfinite(line.get_ydata()).any() for line in axes.lines):
        middle = {"transform": axes.transAxes, "ha": "center", "va": "center"}
        axes.text(0.5, 0.5, "no value can be computed", **middle)
    axes.set_xlim(-0.5, max(group.lengths) + 0.5)
    axes.set_ylabel(curve.label.format(group.metric))
    if curve is CHANGE:
        axes.axhline(0, **style.ZERO)
        # At least 1 % either way, so that a flat line is not blown up to rounding noise.
        axes.set_ylim(min(-1, axes.get_ylim()[0]), max(1, axes.get_ylim()[1]))
    notes = [*curve_notes(group, curve), *null_notes(group, curve)]
    style.add_legend(figure, axes, look, group.by.capitalize(), notes)
    style.finish(figure, look, in_words(group.names), PANEL_HEIGHTS[look.width])
    about = f"{curve.about.format(group.metric)} over history length h (turns)"
    measure = group.metric_name if curve is METRIC else "percent"
    return group.drawn(curve.stem, figure, about, notes, measure)


def curve_notes(group: Group, curve: Curve) -> list[str]:
    """What the marks of lines mean: band or bars, filled or hollow."""
    by_len = [list(result["stats_by_len"].values()) for result in group.lines.values()]
    if curve is METRIC:
        methods = [entry["interval"] for entries in by_len for entry in entries]
    else:
        methods = [change_method(entries[-1]) for entries in by_len]
    held = "" if curve is METRIC else NOT_RULED_OUT
    filled = f"filled: p < {stats.ALPHA} against h = 0, Holm-corrected over the line"
    return [interval_note(group, methods) + held, filled, *group.notes]


def change_method(entry: Record) -> str:
    """How the interval of a change was made: from the test that it agrees with."""
    test = entry.get("test") or f"test over {entry['clusters']['unit']}"
    return f"{stats.CONFIDENCE:.0%} {test}"


def interval_note(group: Group, methods: Sequence[str]) -> str:
    """What bands or bars are, by how they were made."""
    return f"{'band' if len(group.lines) <= MOST_BANDS else 'bars'}: {style.interval(methods)}"


def null_notes(group: Group, curve: Curve) -> list[str]:
    """Sentences that say what is not drawn, why, and at which h unless at all."""
    notes: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, result in group.lines.items():
        for h, entry in result["stats_by_len"].items():
            nulls = [each for each in (curve.name, curve.ends[0]) if entry.get(each, 0) is None]
            if nulls:
                what = "no interval" if nulls[0] == curve.ends[0] else "gaps"
                reason = entry.get(f"{nulls[0]}_reason", "of no stored reason").partition(":")[0]
                notes[f"{what} because {reason}"][name].append(h)
    return [
        f"{note}: {', '.join(_at(group, *line) for line in lines.items())}"
        for note, lines in notes.items()
    ]


def _at(group: Group, name: str, lengths: Sequence[str]) -> str:
    whole = len(lengths) == len(group.lines[name]["stats_by_len"])
    return name if whole else f"{name} (h = {', '.join(lengths)})"


def shifts(group: Group) -> list[float | None]:
    """How far each line is moved (turns): many apart, so that bars are seen; few (None) not."""
    return spread(len(group.lines))


def spread(count: int) -> list[float | None]:
    """How far each of so many lines is moved."""
    if count <= MOST_BANDS:
        return [None] * count
    return [SPREAD * ((i + 0.5) / count - 0.5) for i in range(count)]


def draw_line(
    axes: Any, points: tuple[Any, Any], line: dict[str, Any], shift: float | None, ends: Any = None
) -> None:
    """A line through points (their h, their y) in this style; its interval is a band, or bars where
    shifted.

    An interval beside none has a bar too: a band of one point is not seen.
    """
    x, y = np.array(points[0]) + (shift or 0), points[1]
    axes.plot(x, y, **line)
    if ends is None:
        return
    low, high = ends
    bars = known = np.isfinite(low) & np.isfinite(high)
    if shift is None:
        axes.fill_between(x, low, high, color=line["color"], alpha=0.15, linewidth=0)
        beside = np.pad(known, 1)
        bars = known & ~beside[:-2] & ~beside[2:]
    if bars.any():
        axes.vlines(x[bars], low[bars], high[bars], color=line["color"], linewidth=1)


def _fill_markers(axes: Any, line: Any, where: np.ndarray) -> None:
    dots = {"color": line.get_color(), "marker": line.get_marker(), "zorder": 3}
    axes.scatter(*line.get_xydata()[where].T, line.get_markersize() ** 2, **dots)


STUDY_HEIGHTS = {"single": 1.4, "double": 2.0}  # inches, of a panel
PANELS = {
    "tau": "tau: zero-shot reply",
    "confidence": "confidence: own reply",
    "loss": "loss: reference",
}


def study_figures(
    groups: Sequence[Group], look: FigureStyle = style.PLAIN
) -> Iterator[NamedFigure]:
    """Sensitivity and cue of each group, for those of its results that hold them."""
    styles = line_styles(groups)
    for group in groups:
        for key, draw in (("sensitivity_by_len", draw_sensitivity), ("cue_by_len", draw_cue)):
            held = {
                name: result for name, result in group.lines.items() if any(result[key].values())
            }
            if held:
                yield draw(replace(group, lines=held), styles, look)


def draw_sensitivity(group: Group, styles: dict[str, Any], look: FigureStyle) -> NamedFigure:
    """Loss of log-likelihood (nats per token) over history length, a panel for each variant."""
    figure, panels = _panels(group, look, len(PANELS), sharey=True)
    for axes, (name, label) in zip(panels, PANELS.items()):
        axes.set_title(label)
        axes.axhline(0, **style.ZERO)
        for (line, result), shift in zip(group.lines.items(), shifts(group)):
            by_len = result["sensitivity_by_len"].values()
            entries = [of_len[name]["per_token"] for of_len in by_len]
            mean, *ends = (_column(entries, key) for key in ("mean", "low", "high"))
            named = styles[line] | {"label": label_of(line, result)}
            draw_line(axes, (lengths_of(result), mean), named, shift, ends)
    for axes in panels[:1] if look.wide else panels:
        axes.set_ylabel("Log-likelihood lost against h = 0\n(nats per token)")
    about = "Loss of log-likelihood against h = 0 (nats per token) over history length h (turns)"
    notes = ["below 0: likelier than at h = 0", interval_note(group, [entries[0]["interval"]])]
    return _finished(figure, group, look, ("sensitivity", about), notes)


def draw_cue(group: Group, styles: dict[str, Any], look: FigureStyle) -> NamedFigure:
    """The metric with and without the cue, and their difference, on the same targets."""
    figure, (values, differences) = _panels(group, look, 2)
    differences.axhline(0, **style.ZERO)
    for (line, result), shift in zip(group.lines.items(), shifts(group)):
        plain, shape = list(result["metric_by_len"].values()), styles[line]
        x = lengths_of(result)
        entries = [entry for h, entry in result["cue_by_len"].items() if int(h)]
        hollow = shape | {"markerfacecolor": "white"}
        ends = [_column(entries, f"change_points_{end}") for end in ("low", "high")]
        draw_line(values, (x, plain), shape | {"label": label_of(line, result)}, shift)
        draw_line(values, (x[1:], _column(entries, "metric")), hollow, shift)
        draw_line(differences, (x[1:], _column(entries, "change_points")), shape, shift, ends)
    # At least a point either way, so that no difference is not blown up to rounding noise.
    low, high = differences.get_ylim()
    differences.set_ylim(min(-1, low), max(1, high))
    values.set_ylabel(f"{group.metric} (fraction, 0 to 1)")
    differences.set_ylabel("With cue minus without (points)")
    cues = dict.fromkeys(each["config"].get("switch_cue", "") for each in group.lines.values())
    notes = [f"hollow: with the cue {' or '.join(f'{cue!r:.60}' for cue in cues)}"]
    notes += [interval_note(group, [change_method(entries[0])])]
    about = f"{group.metric} with and without a switch cue, and the difference"
    return _finished(figure, group, look, ("cue", about), notes)


def _column(entries: list[dict[str, Any]], key: str) -> np.ndarray:
    return np.array([entry[key] for entry in entries], dtype=float)


def _panels(group: Group, look: FigureStyle, count: int, **shared: bool) -> tuple[Any, Any]:
    """A figure with panels over history length, side by side or below each other."""
    figure, panels = style.new_figure(look, *((1, count) if look.wide else (count, 1)), **shared)
    for axes in panels:
        style.over_turns(axes, group.lengths)
    return figure, panels


def _finished(
    figure: Any, group: Group, look: FigureStyle, what: tuple[str, str], notes: list[str]
) -> NamedFigure:
    """The figure of `what` (its name, its caption's beginning) with legend, title and caption."""
    notes = notes + group.notes
    style.add_legend(figure, figure.axes[0], look, group.by.capitalize(), notes)
    style.finish(figure, look, in_words(group.names), STUDY_HEIGHTS[look.width])
    return group.drawn(what[0], figure, what[1], notes)
