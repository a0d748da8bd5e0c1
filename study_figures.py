"""Figures of what a run reads beside its metric: sensitivity, and what a switch cue changes."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from errors import UserError
from figures import METRICS, Group, figure_stem, line_styles

PANELS = {
    "tau": "tau: zero-shot reply",
    "confidence": "confidence: own reply",
    "loss": "loss: reference",
}


def study_figures(groups: dict[tuple[str, str], Group]) -> Iterator[tuple[str, Any]]:
    """Stem and figure of each model and target, for what its results hold of the two."""
    styles = line_styles(groups)
    for (model, target), group in groups.items():
        for key, name, draw in (
            ("sensitivity_by_len", "sensitivity", draw_sensitivity),
            ("cue_by_len", "cue", draw_cue),
        ):
            held = {distractor: result for distractor, result in group.items() if result[key]}
            if not held:
                continue
            try:
                figure = draw(f"{model}\ntarget {target}", held, styles)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                path = next(iter(held.values()))["path"]
                raise UserError(
                    f"{path} is damaged: {key} cannot be drawn ({error!r:.90})."
                ) from error
            yield figure_stem(model, target, name), figure


def draw_sensitivity(title: str, group: Group, styles: Group) -> Any:
    """Loss of log-likelihood (nats per token) over history length, a panel for each variant."""
    figure, panels = _panels(title, len(PANELS))
    for axes, (name, label) in zip(panels, PANELS.items()):
        axes.set_title(label, fontsize="small")
        axes.axhline(0, color="0.4", linewidth=0.8)
        for distractor, result in group.items():
            style = styles[distractor]
            by_len = result["sensitivity_by_len"].values()
            entries = [of_len[name]["per_token"] for of_len in by_len]
            mean, low, high = (_column(entries, key) for key in ("mean", "low", "high"))
            axes.plot(mean, label=f"{distractor} (n = {result['n']})", **style)
            axes.fill_between(range(len(mean)), low, high, color=style["color"], alpha=0.15, lw=0)
    panels[0].set_ylabel("Less likely than at h = 0\n(nats per token)")
    interval = entries[0]["interval"]
    _legend(figure, panels[0], f"Distractor (band: {interval})", len(group))
    return figure


def draw_cue(title: str, group: Group, styles: Group) -> Any:
    """The metric with and without the cue, and their difference, on the same targets."""
    figure, (values, differences) = _panels(title, 2)
    differences.axhline(0, color="0.4", linewidth=0.8)
    for distractor, result in group.items():
        style = styles[distractor]
        plain = list(result["metric_by_len"].values())
        entries = [entry for h, entry in result["cue_by_len"].items() if int(h)]
        h = range(1, len(entries) + 1)
        values.plot(plain, label=f"{distractor} (n = {result['n']})", **style)
        values.plot(h, _column(entries, "metric"), linestyle="--", markerfacecolor="white", **style)
        ends = [_column(entries, f"change_points_{end}") for end in ("low", "high")]
        differences.plot(h, _column(entries, "change_points"), **style)
        differences.fill_between(h, *ends, color=style["color"], alpha=0.15, lw=0)
        metric, cue = METRICS[result["metric_name"]], result["config"].get("switch_cue", "")
    # At least a point either way, so that no difference is not blown up to rounding noise.
    low, high = differences.get_ylim()
    differences.set_ylim(min(-1, low), max(1, high))
    values.set_ylabel(f"{metric} (fraction, 0 to 1)")
    differences.set_ylabel("With cue less without (points)")
    unit = entries[0]["clusters"]["unit"]
    heading = f"Distractor (dashed: with the cue {cue!r:.60};\nband: 95% bootstrap over {unit})"
    _legend(figure, values, heading, len(group))
    return figure


def _column(entries: list[dict[str, Any]], key: str) -> np.ndarray:
    return np.array([entry[key] for entry in entries], dtype=float)


def _panels(title: str, count: int) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.9 * count, 4.0), layout="constrained")
    panels = figure.subplots(1, count, sharey=count == len(PANELS))
    figure.suptitle(title, fontsize="medium")
    for axes in panels:
        axes.set_xlabel("History length h (turns)")
        axes.locator_params(axis="x", integer=True, min_n_ticks=1)
        axes.grid(axis="y", color="0.9", linewidth=0.6)
    return figure, panels


def _legend(figure: Any, axes: Any, heading: str, count: int) -> None:
    columns = min(3, count)
    figure.set_figheight(3.9 + 0.16 * np.ceil(count / columns))  # inches
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, title=heading, loc="outside lower center", ncols=columns)
