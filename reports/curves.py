"""Figures of finished runs: the curves over history length, and which results stand in one figure.

Curves over history length after Gupta et al., LLM Task Interference, EMNLP 2024, arXiv 2402.18216.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from core import keys, records
from core.errors import UserError
from measures import stats
from reports import style
from reports.style import FigureStyle, NamedFigure

DRAWN_STATISTICS = (
    "low",
    "high",
    "percent_change",
    "percent_change_low",
    "percent_change_high",
    "p_holm",
)
BY = ("distractor", "model", "history", "seed")  # what lines can be, beside settings that differ
ALWAYS = ("model", "target", "distractor")  # fields of a key that are named even where all agree
USUAL = "teacher"  # the history that is named only where there are others
SEEDS = (
    "Each seed draws its own histories and, under --limit, its own targets; nothing is pooled "
    "over seeds"
)
MOST_BANDS = 3  # lines whose bands can still be told apart
SPREAD = 0.6  # turns over which the lines of one history length are spread where there are more

NOT_RULED_OUT = ", the changes that the data do not rule out"

PANEL_HEIGHTS = {"single": 1.9, "double": 2.4}  # inches, of the panel

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
    def metric(self) -> str:
        """Name of the metric, as figures write it."""
        name = next(iter(self.lines.values()))["metric_name"]
        return style.METRICS.get(name, name)

    def drawn(self, kind: str, figure: Any, about: str, notes: Sequence[str]) -> NamedFigure:
        """A figure with its name and its caption; the metric's own is of that measure."""
        lines = ", ".join(label_of(name, result) for name, result in self.lines.items())
        what = ", ".join([about, *in_words(self.names)])
        metric = next(iter(self.lines.values()))["metric_name"]
        measure = {METRIC.stem: metric, CHANGE.stem: "percent"}.get(kind, kind)
        kind = kind if self.by == BY[0] else f"{kind}_by_{self.by}"
        text = style.as_sentences([what, f"{self.by}: {lines}", *notes])
        stem = style.figure_stem(self.names, kind)
        return NamedFigure(stem, figure, text, measure, self.names)


def load_groups(folders: Iterable[str | Path], by: str = BY[0]) -> list[Group]:
    """Results below the folders, in figures whose lines differ in `by` alone."""
    return group_results(records.load_results(folders), by)


def group_results(results: dict[keys.Key, Record], by: str = BY[0]) -> list[Group]:
    """Results of `records.load_results` in figures whose lines differ in `by` alone.

    Each result gets its `curves`, and under `names` the fields of its key that name it.
    """
    check_field(results, by)
    named = named_fields(key.fields for key in results)
    groups: dict[keys.Key, Group] = {}
    for key, result in results.items():
        names = {field: name for field, name in key.fields.items() if field in named}
        shared = {field: name for field, name in names.items() if field != by}
        group = groups.setdefault(key.without(by), Group(by, shared, {}))
        drawn = {"names": names, "curves": read_curves(result)}
        group.lines[key.fields[by]] = result | drawn
    return list(groups.values())


def named_fields(rows: Iterable[Mapping[str, Any]]) -> set[str]:
    """The fields by which figures of these rows are named: model and tasks, what is not the same
    in all, and any history but the usual one.
    """
    values: dict[str, set] = defaultdict(set)
    for field, name in (pair for row in rows for pair in row.items()):
        values[field].add(name)
    varying = {field for field, found in values.items() if len(found) > 1}
    odd = values["history"] - {USUAL, keys.NOT_RECORDED}
    return {*ALWAYS, *varying, *(["history"] if odd else [])}


def check_field(results: Iterable[keys.Key], by: str) -> None:
    """UserError unless `by` is what lines can be, or a setting in which the results differ."""
    known = dict.fromkeys((*BY, *(name for key in results for name in key.settings)))
    if by not in known:
        raise UserError(f"--by {by}: the results given differ in {', '.join(known)} at most.")


def in_words(names: dict[str, str]) -> list[str]:
    """The names of a figure in two lines: the model, and the rest."""
    rest = ", ".join(
        f"{field}\N{NO-BREAK SPACE}{name}" for field, name in names.items() if field != "model"
    )
    return [line for line in (names.get("model"), rest) if line]


def lengths_of(result: Record) -> list[int]:
    """The history lengths that were run, in order."""
    return list(map(int, result["metric_by_len"]))


def read_curves(result: Record) -> Curves:
    """The statistics NAMES and the metric, each over h [H + 1]; null is NaN."""
    stats_by_len = result["stats_by_len"].values()
    curves = {name: [of_len[name] for of_len in stats_by_len] for name in DRAWN_STATISTICS}
    curves["metric"] = list(result["metric_by_len"].values())
    return {name: np.array(values, dtype=float) for name, values in curves.items()}


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
    return group.drawn(curve.stem, figure, about, notes)


def label_of(name: str, result: Record) -> str:
    """A line's label in the legend."""
    return f"{name} (n = {result['n']})"


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
