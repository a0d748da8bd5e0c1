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
from errors import UserError

METRICS = {
    "accuracy": "Accuracy",
    "rouge": "ROUGE-L F1",
    "rouge1": "ROUGE-1 F1",
    "rouge2": "ROUGE-2 F1",
    "exact_match": "Exact match",
    "f1": "Token F1",
}
# Okabe and Ito without yellow, which is too pale for a line.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
STYLES = [{"color": COLOURS[i % 7], "marker": MARKERS[i % 8]} for i in range(56)]
# Type 42 embeds TrueType fonts; many publishers refuse Type 3, the default.
SETTINGS = {"pdf.fonttype": 42, "savefig.dpi": 200, "font.size": 9, "axes.titlesize": "medium"}
SETTINGS |= {"legend.fontsize": "small", "legend.frameon": False, "lines.markersize": 5}

Record = dict[str, Any]  # a result
Group = dict[str, Record]  # the results of one model and target, by distractor


def load_groups(folder: str | Path) -> dict[tuple[str, str], Group]:
    """Results below a folder by (model, target); UserError where one distractor is there twice."""
    groups: dict[tuple[str, str], Group] = defaultdict(dict)
    origin: dict[tuple[str, ...], Path] = {}
    for path, result in records.find_results(folder):
        key = (result["model"], result["target"], result["distractor"])
        if origin.setdefault(key, path) != path:
            raise UserError(
                f"{origin[key]} and {path} hold the same model, target and distractor.\n"
                "Draw them apart, with a --result_dir for each."
            )
        groups[key[:2]][key[2]] = result | {"path": path, "curves": read_curves(path, result)}
    return {key: dict(sorted(groups[key].items())) for key in sorted(groups)}


def read_curves(path: Path, result: Record) -> dict[str, np.ndarray]:
    """metric, low, high (fractions) and percent_change, each [H + 1]; null is NaN."""
    try:
        stats, names = result["stats_by_len"].values(), ("low", "high", "percent_change")
        curves = {name: [of_len[name] for of_len in stats] for name in names}
        curves["metric"] = list(result["metric_by_len"].values())
        return {name: np.array(values, dtype=float) for name, values in curves.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged: it cannot be drawn ({error!r:.90}).") from error


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
    distractors = sorted({distractor for group in groups.values() for distractor in group})
    styles = {name: STYLES[i % len(STYLES)] for i, name in enumerate(distractors)}
    for (model, target), group in groups.items():
        title = f"{model}\ntarget {target}"
        yield figure_stem(model, target, "metric"), draw_metric(title, group, styles)
        yield figure_stem(model, target, "change"), draw_change(title, group, styles)


def draw_metric(title: str, group: Group, styles: Group) -> Any:
    """Metric (fraction in [0, 1]) over history length (turns), with its interval as bars."""
    figure, axes = _draw_lines(title, group, styles, "metric", "{} (fraction, 0 to 1)")
    for line, result in zip(axes.lines, group.values()):
        low, high = result["curves"]["low"], result["curves"]["high"]
        axes.vlines(line.get_xdata(), low, high, color=line.get_color(), linewidth=1)
    interval = result["stats_by_len"]["0"].get("interval", "unnamed")
    figure.legends[0].set_title(f"Distractor (bars: interval, {interval})")
    return figure


def draw_change(title: str, group: Group, styles: Group) -> Any:
    """Change of the metric against h = 0 (%) over history length (turns); null is a noted gap."""
    ylabel = "{}: relative change\nagainst h = 0 (%)"
    figure, axes = _draw_lines(title, group, styles, "percent_change", ylabel)
    axes.axhline(0, color="0.4", linewidth=0.8, zorder=1.6)  # over the grid
    # At least 1 % either way, so that a flat line is not blown up to rounding noise.
    axes.set_ylim(min(-1, axes.get_ylim()[0]), max(1, axes.get_ylim()[1]))
    axes.set_xlabel("\n".join([axes.get_xlabel(), *change_notes(group)]))
    return figure


def change_notes(group: Group) -> list[str]:
    """Lines that say which percentage changes are not drawn, and why."""
    notes = defaultdict(dict)  # a dict as an ordered set
    for distractor, result in group.items():
        for stats in result["stats_by_len"].values():
            if stats["percent_change"] is None:
                notes[stats.get("percent_change_reason", "of no stored reason")][distractor] = None
    texts = [f"Gaps because {reason}: {', '.join(names)}" for reason, names in notes.items()]
    return [line for text in texts for line in textwrap.wrap(text, 85)]


def _draw_lines(title: str, group: Group, styles: Group, curve: str, ylabel: str) -> Any:
    """Figure and axes with a line per distractor, moved sideways so that bars stay apart."""
    figure, axes = _new_figure(title)
    for i, (name, result) in enumerate(group.items()):
        values, shift = result["curves"][curve], 0.45 * ((i + 0.5) / len(group) - 0.5)  # turns
        label = f"{name} (n = {result['n']})"
        axes.plot(np.arange(len(values)) + shift, values, label=label, **styles[name])
    axes.set_xlim(-0.5, max(len(result["metric_by_len"]) for result in group.values()) - 0.5)
    axes.set_ylabel(ylabel.format(METRICS.get(result["metric_name"], result["metric_name"])))
    columns = max(1, min(3, 90 // (max(map(len, group)) + 17)))
    figure.set_figheight(3.6 + 0.16 * np.ceil(len(group) / columns))  # inches
    figure.legend(title="Distractor", loc="outside lower center", ncols=columns)
    return figure, axes


def _new_figure(title: str) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 4.0), layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel="History length h (turns)")
    axes.locator_params(axis="x", integer=True, min_n_ticks=1)
    axes.grid(axis="y", color="0.9", linewidth=0.6)
    return figure, axes
