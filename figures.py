"""Figures of finished runs: their style, their files, and the curves over history length.

Curves over history length after Gupta et al., LLM Task Interference, EMNLP 2024, arXiv 2402.18216.
"""

import re
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import records
import stats
from errors import UserError

METRICS = {
    "accuracy": "Accuracy",
    "rouge": "ROUGE-L F1",
    "rouge1": "ROUGE-1 F1",
    "rouge2": "ROUGE-2 F1",
    "exact_match": "Exact match",
    "f1": "Token F1",
}
NAMES = ("low", "high", "percent_change", "percent_change_low", "percent_change_high", "p_holm")
LABELS = {
    "metric": "{} (fraction, 0 to 1)",
    "percent_change": "{}: relative change\nagainst h = 0 (%)",
}
MOST_BANDS = 3  # lines whose bands can still be told apart
# Okabe and Ito without yellow, which is too pale for a line.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
STYLES = [{"color": COLOURS[i % 7], "marker": MARKERS[i % 8]} for i in range(56)]
# Type 42 embeds TrueType fonts; many publishers refuse Type 3, the default.
SETTINGS = {"pdf.fonttype": 42, "savefig.dpi": 200, "font.size": 9, "axes.titlesize": "medium"}
SETTINGS |= {
    "text.parse_math": False,  # a $ in a name is a $
    "legend.fontsize": "small",
    "legend.frameon": False,
    "legend.title_fontsize": "small",
    "lines.markersize": 5,
}

Record = dict[str, Any]  # a result
Group = dict[str, Record]  # the results of one model and target, by distractor


def load_groups(folder: str | Path) -> dict[tuple[str, str], Group]:
    """Results below a folder by (model, target); UserError where one distractor is there twice."""
    groups: dict[tuple[str, str], Group] = defaultdict(dict)
    for (model, target, distractor), result in records.load_results([folder]).items():
        groups[model, target][distractor] = result | {"curves": read_curves(result)}
    return dict(groups)


def read_curves(result: Record) -> dict[str, np.ndarray]:
    """The statistics NAMES and the metric, each over h [H + 1]; null is NaN."""
    stats_by_len = result["stats_by_len"].values()
    curves = {name: [of_len[name] for of_len in stats_by_len] for name in NAMES}
    curves["metric"] = list(result["metric_by_len"].values())
    try:
        return {name: np.array(values, dtype=float) for name, values in curves.items()}
    except (TypeError, ValueError) as error:
        pair = " of ".join((result["distractor"], result["target"]))
        raise UserError(f"the result {pair} is damaged: {error!r:.90}.") from error


def figure_stem(model: str, target: str, *parts: str) -> str:
    """File name of a figure, without its ending: `org@name__quiz_test__metric`."""
    names = (model.replace("/", "@"), target, "_".join(parts))
    return "__".join(re.sub(r"[^\w.@-]", "_", name) for name in names)


def save_figures(figures: Iterable[tuple[str, Any]], out_dir: str | Path) -> list[Path]:
    """Write (stem, figure) pairs as PNG and PDF; a generator of them draws under SETTINGS."""
    import matplotlib

    records.check_writable(out_dir)
    paths: list[Path] = []
    with matplotlib.rc_context(SETTINGS):
        for stem, figure in figures:
            for ending, metadata in (("png", None), ("pdf", {"CreationDate": None})):
                path = Path(out_dir) / f"{stem}.{ending}"
                if path in paths:
                    raise UserError(f"two figures would have the same name, {path}.")
                figure.savefig(path, metadata=metadata)
                paths.append(path)
    return paths


def metric_figures(groups: dict[tuple[str, str], Group]) -> Iterator[tuple[str, Any]]:
    """Stem and figure of each model and target: the metric, and its change."""
    styles = line_styles(groups)
    for (model, target), group in groups.items():
        title = f"{model}\ntarget {target}"
        yield figure_stem(model, target, "metric"), draw_metric(title, group, styles)
        yield figure_stem(model, target, "change"), draw_change(title, group, styles)


def line_styles(groups: dict[tuple[str, str], Group]) -> Group:
    """Colour and marker of each distractor, the same in every figure of these results."""
    distractors = sorted({distractor for group in groups.values() for distractor in group})
    return {name: STYLES[i % len(STYLES)] for i, name in enumerate(distractors)}


def draw_metric(title: str, group: Group, styles: Group) -> Any:
    """Metric (fraction in [0, 1]) over history length (turns), with its interval."""
    figure, _ = _draw_lines(title, group, styles, "metric", ("low", "high"))
    return figure


def draw_change(title: str, group: Group, styles: Group) -> Any:
    """Change of the metric against h = 0 (%) over history length (turns), with its interval."""
    ends = ("percent_change_low", "percent_change_high")
    figure, axes = _draw_lines(title, group, styles, "percent_change", ends)
    axes.axhline(0, color="0.4", linewidth=0.8, zorder=1.6)  # over the grid
    # At least 1 % either way, so that a flat line is not blown up to rounding noise.
    axes.set_ylim(min(-1, axes.get_ylim()[0]), max(1, axes.get_ylim()[1]))
    return figure


def null_notes(group: Group, *names: str) -> list[str]:
    """Lines that say which of these statistics are not drawn, and why."""
    notes: dict[str, dict[str, None]] = defaultdict(dict)  # a dict as an ordered set
    for distractor, result in group.items():
        for entry in result["stats_by_len"].values():
            null = next((name for name in names if entry.get(name, 0) is None), None)
            if null:
                what = "No interval" if null.endswith("_low") or null == "low" else "Gaps"
                reason = entry.get(f"{null}_reason", "of no stored reason")
                notes[f"{what} because {reason}"][distractor] = None
    texts = [f"{note}: {', '.join(distractors)}" for note, distractors in notes.items()]
    return [line for text in texts for line in textwrap.wrap(text, 85)]


def legend_title(group: Group, curve: str, shape: str) -> str:
    """What the marks of a line mean: band or bars, filled or hollow."""
    by_len = [list(result["stats_by_len"].values()) for result in group.values()]
    if curve == "metric":
        methods = dict.fromkeys(entry["interval"] for entries in by_len for entry in entries)
    else:
        units = dict.fromkeys(entries[-1]["clusters"]["unit"] for entries in by_len)
        methods = [f"{stats.CONFIDENCE:.0%} bootstrap over {unit}" for unit in units]
    filled = f"filled: p < {stats.ALPHA} against h = 0, after Holm's correction over a line"
    return "\n".join(["Distractor", *textwrap.wrap(f"{shape}: {' or '.join(methods)}", 85), filled])


def _draw_lines(
    title: str, group: Group, styles: Group, curve: str, ends: tuple[str, str]
) -> tuple[Any, Any]:
    """Figure and axes with a line per distractor: few with bands, many apart and with bars."""
    figure, axes = _new_figure(title)
    lengths = max(len(result["metric_by_len"]) for result in group.values())
    bands = len(group) <= MOST_BANDS and lengths > 1
    for i, (name, result) in enumerate(group.items()):
        curves = result["curves"]
        shift = 0 if bands else 0.45 * ((i + 0.5) / len(group) - 0.5)  # turns
        x, label = np.arange(len(curves[curve])) + shift, f"{name} (n = {result['n']})"
        axes.plot(x, curves[curve], label=label, markerfacecolor="white", **styles[name])
        _draw_interval(axes, x, [curves[end] for end in ends], styles[name]["color"], bands)
        significant = curves["p_holm"] < stats.ALPHA  # not where it is NaN
        size = SETTINGS["lines.markersize"] ** 2
        axes.scatter(x[significant], curves[curve][significant], size, zorder=3, **styles[name])
    axes.set_xlim(-0.5, lengths - 0.5)
    axes.set_ylabel(LABELS[curve].format(METRICS.get(result["metric_name"], result["metric_name"])))
    axes.set_xlabel("\n".join([axes.get_xlabel(), *null_notes(group, curve, ends[0])]))
    columns = max(1, min(3, 90 // (max(map(len, group)) + 17)))
    figure.set_figheight(3.9 + 0.16 * np.ceil(len(group) / columns))  # inches
    heading = legend_title(group, curve, "band" if bands else "bars")
    figure.legend(title=heading, loc="outside lower center", ncols=columns)
    return figure, axes


def _draw_interval(axes: Any, x: np.ndarray, ends: list, colour: str, band: bool) -> None:
    if band:
        axes.fill_between(x, *ends, color=colour, alpha=0.15, linewidth=0)
    else:
        axes.vlines(x, *ends, color=colour, linewidth=1)


def _new_figure(title: str) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 4.0), layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel="History length h (turns)")
    axes.locator_params(axis="x", integer=True, min_n_ticks=1)
    axes.grid(axis="y", color="0.9", linewidth=0.6)
    return figure, axes
