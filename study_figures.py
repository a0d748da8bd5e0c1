"""Figures of what a run reads beside its metric: sensitivity, and what a switch cue changes."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

import stats
import style
from errors import UserError
from figures import Group, draw_line, in_words, interval_note, label_of, line_styles, shifts
from style import Drawn, Look

HEIGHTS = {"single": 1.4, "double": 2.0}  # inches, of a panel
PANELS = {
    "tau": "tau: zero-shot reply",
    "confidence": "confidence: own reply",
    "loss": "loss: reference",
}


def study_figures(groups: Sequence[Group], look: Look = style.PLAIN) -> Iterator[Drawn]:
    """Sensitivity and cue of each group, for those of its results that hold them."""
    styles = line_styles(groups)
    for group in groups:
        for key, draw in (("sensitivity_by_len", draw_sensitivity), ("cue_by_len", draw_cue)):
            held = {
                name: result for name, result in group.lines.items() if any(result[key].values())
            }
            if not held:
                continue
            try:
                yield draw(replace(group, lines=held), styles, look)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                path = next(iter(held.values()))["path"]
                raise UserError(
                    f"{path} is damaged: {key} cannot be drawn ({error!r:.90})."
                ) from error


def draw_sensitivity(group: Group, styles: dict[str, Any], look: Look) -> Drawn:
    """Loss of log-likelihood (nats per token) over history length, a panel for each variant."""
    figure, panels = _panels(look, len(PANELS), sharey=True)
    for axes, (name, label) in zip(panels, PANELS.items()):
        axes.set_title(label)
        axes.axhline(0, **style.ZERO)
        for (line, result), shift in zip(group.lines.items(), shifts(group)):
            by_len = result["sensitivity_by_len"].values()
            entries = [of_len[name]["per_token"] for of_len in by_len]
            mean, *ends = (_column(entries, key) for key in ("mean", "low", "high"))
            draw_line(axes, mean, styles[line] | {"label": label_of(line, result)}, shift, ends)
    for axes in panels[:1] if look.wide else panels:
        axes.set_ylabel("Less likely than at h = 0\n(nats per token)")
    about = "Loss of log-likelihood against h = 0 (nats per token) over history length h (turns)"
    notes = [interval_note(group, entries[0]["interval"])]
    return _finished(figure, group, look, ("sensitivity", about), notes)


def draw_cue(group: Group, styles: dict[str, Any], look: Look) -> Drawn:
    """The metric with and without the cue, and their difference, on the same targets."""
    figure, (values, differences) = _panels(look, 2)
    differences.axhline(0, **style.ZERO)
    for (line, result), shift in zip(group.lines.items(), shifts(group)):
        plain, shape = list(result["metric_by_len"].values()), styles[line]
        entries = [entry for h, entry in result["cue_by_len"].items() if int(h)]
        hollow = shape | {"markerfacecolor": "white"}
        ends = [_column(entries, f"change_points_{end}") for end in ("low", "high")]
        draw_line(values, plain, shape | {"label": label_of(line, result)}, shift)
        draw_line(values, _column(entries, "metric"), hollow, shift, first=1)
        draw_line(differences, _column(entries, "change_points"), shape, shift, ends, first=1)
    # At least a point either way, so that no difference is not blown up to rounding noise.
    low, high = differences.get_ylim()
    differences.set_ylim(min(-1, low), max(1, high))
    values.set_ylabel(f"{group.metric} (fraction, 0 to 1)")
    differences.set_ylabel("With cue less without (points)")
    unit = entries[0]["clusters"]["unit"]
    cues = dict.fromkeys(each["config"].get("switch_cue", "") for each in group.lines.values())
    notes = [f"hollow: with the cue {' or '.join(f'{cue!r:.60}' for cue in cues)}"]
    notes += [interval_note(group, f"{stats.CONFIDENCE:.0%} bootstrap over {unit}")]
    about = f"{group.metric} with and without a switch cue, and the difference"
    return _finished(figure, group, look, ("cue", about), notes)


def _column(entries: list[dict[str, Any]], key: str) -> np.ndarray:
    return np.array([entry[key] for entry in entries], dtype=float)


def _panels(look: Look, count: int, **shared: bool) -> tuple[Any, Any]:
    """A figure with panels over history length, side by side or below each other."""
    figure, panels = style.new_figure(look, *((1, count) if look.wide else (count, 1)), **shared)
    for axes in panels:
        style.over_turns(axes)
    return figure, panels


def _finished(
    figure: Any, group: Group, look: Look, what: tuple[str, str], notes: list[str]
) -> Drawn:
    """The figure of `what` (its name, its caption's beginning) with legend, title and caption."""
    notes = notes + group.notes
    style.add_legend(figure, figure.axes[0], look, group.by.capitalize(), notes)
    style.finish(figure, look, in_words(group.names), HEIGHTS[look.width])
    return group.drawn(what[0], figure, what[1], notes)
