"""Figures of what a history changes at each layer: layer on x, a line per h, and a heat map.

Reads results alone. Every line has its interval over examples as a band.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from errors import UserError
from figures import MARKERS, Group, Record, figure_stem

WIDTH, HEIGHT = 9.0, 3.9  # inches, of a figure with two panels


@dataclass(frozen=True)
class Measure:
    """How a layer measure is drawn."""

    name: str  # of `NAME_by_len` in a result
    stem: str  # in the figure's file name
    label: str  # of its axis, with the unit
    about: str  # one line under the title
    signed: bool = False  # colours diverge from 0


COSINE = Measure(
    "cos", "cosine", "Cosine",
    "Lens logits of a block against the final logits, at the last position of the prompt",
)  # fmt: skip
MEASURES = (
    COSINE,
    Measure(
        "drift", "drift", "Cosine with h = 0",
        "Hidden state of a block at the last position against the same target's without history",
    ),
    Measure(
        "margin", "margin", "Margin (nats)",
        "Lens log-odds of the reference label against the best other label", signed=True,
    ),
    Measure(
        "agree", "agree", "Share of examples",
        "Examples whose likeliest token in the lens is the model's own",
    ),
)  # fmt: skip
DECISION = "First block from which on the lens keeps the final prediction"


def layer_figures(groups: dict[tuple[str, str], Group]) -> Iterator[tuple[str, Any]]:
    """Stem and figure of each measure that a result holds, for every pair."""
    for result in _results(groups):
        for measure in MEASURES:
            if result[f"{measure.name}_by_len"]:
                yield _drawn(result, measure.stem, draw_measure, measure)
        if result["decision_layer_by_len"]:
            yield _drawn(result, "decision_layer", draw_decisions)


def cosine_figures(groups: dict[tuple[str, str], Group]) -> Iterator[tuple[str, Any]]:
    """Stem and figure of the cosines alone, where layers were read."""
    for result in _results(groups):
        if result["cos_by_len"]:
            yield _drawn(result, COSINE.stem, draw_measure, COSINE)


def _results(groups: dict[tuple[str, str], Group]) -> Iterator[Record]:
    for group in groups.values():
        yield from group.values()


def _drawn(result: Record, stem: str, draw: Callable[..., Any], *what: Any) -> tuple[str, Any]:
    """Stem and figure; UserError where the result lacks what is drawn."""
    try:
        figure = draw(result, *what)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{result['path']} is damaged: its layers cannot be drawn ({error!r:.90})."
        ) from error
    return figure_stem(result["model"], result["target"], stem, result["distractor"]), figure


def table(by_len: dict[str, Any]) -> np.ndarray:
    """A row per history length, [H + 1, L]; null is NaN."""
    return np.array([list(row) for row in by_len.values()], dtype=float)


def draw_measure(result: Record, measure: Measure) -> Any:
    """Mean over examples at each block, as lines with bands and as a heat map."""
    values = table(result[f"{measure.name}_by_len"])
    stats = [of_len[measure.name] for of_len in result["layer_stats_by_len"].values()]
    low, high = (
        table({str(h): row[end] for h, row in enumerate(stats)}) for end in ("low", "high")
    )
    excluded = sum(sum(row["excluded"]) for row in stats)
    note = f"bands: {stats[0]['interval']}"
    note += f"; {excluded} values not finite, left out" if excluded else ""
    figure, lines, heat = _panels(result, measure.about, note)
    _draw_lines(lines, values, low, high)
    lines.set_ylabel(measure.label)
    if measure.signed:
        lines.axhline(0, color="0.4", linewidth=0.8)
    _draw_heat(figure, heat, values, measure.label, measure.signed)
    return figure


def draw_decisions(result: Record) -> Any:
    """Share of examples that are decided by each block, and the share decided at each block."""
    shares = table(result["decision_layer_by_len"]) / result["n"]  # [H + 1, L]
    stats = [of_len["decision_layer"] for of_len in result["layer_stats_by_len"].values()]
    undecided = sum(of_len["undecided"] for of_len in stats)
    note = f"crosses: mean and {stats[0]['interval']}"
    note += f"; {undecided} prompts that no block decides" if undecided else ""
    figure, lines, heat = _panels(result, DECISION, note)
    _draw_lines(lines, shares.cumsum(axis=1))
    lines.set(ylabel="Share of examples decided so far", ylim=(-0.03, 1.03))
    _draw_heat(figure, heat, shares, "Share decided at the block")
    heat.set_autoscale_on(False)  # an interval may reach beyond the blocks
    for h, of_len in enumerate(stats):
        if of_len["mean"] is not None:
            heat.plot(of_len["mean"], h, "x", color="#D55E00", markersize=6)
        if of_len["low"] is not None:
            heat.plot([of_len["low"], of_len["high"]], [h, h], color="#D55E00", linewidth=1.2)
    return figure


def _panels(result: Record, about: str, note: str) -> tuple[Any, Any, Any]:
    """A figure with room for lines and for a heat map, both with blocks on x."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    lines, heat = figure.subplots(1, 2, width_ratios=(1, 1))
    lens = result["config"].get("lens", "logit")
    figure.suptitle(
        f"{result['model']}, n = {result['n']}, {lens} lens\n"
        f"target {result['target']}, distractor {result['distractor']}\n{about}",
        fontsize="medium",
    )
    figure.supxlabel(f"Decoder block ({note})", fontsize="medium")
    lines.grid(axis="y", color="0.9", linewidth=0.6)
    return figure, lines, heat


def _draw_lines(
    axes: Any, values: np.ndarray, low: np.ndarray | None = None, high: np.ndarray | None = None
) -> None:
    """A line per history length, its markers spread over the blocks, with bands where given."""
    blocks = np.arange(1, values.shape[1] + 1)
    every = max(1, len(blocks) // 8)
    for h, line in enumerate(values):
        colour = colour_of(h, len(values))
        axes.plot(
            blocks, line, label=h, color=colour, linewidth=1.2, marker=MARKERS[h % len(MARKERS)],
            markersize=3.5, markevery=(h % every, every),
        )  # fmt: skip
        if low is not None:
            axes.fill_between(blocks, low[h], high[h], color=colour, alpha=0.15, linewidth=0)
    axes.locator_params(axis="x", integer=True, min_n_ticks=1)
    axes.set_xlim(0.5, len(blocks) + 0.5)
    axes.legend(
        title="h (turns)",
        ncols=1 + len(values) // 6,
        loc="best",
        framealpha=0.8,
        frameon=True,
        edgecolor="none",
    )


def _draw_heat(
    figure: Any, axes: Any, values: np.ndarray, label: str, signed: bool = False
) -> None:
    """Blocks by history lengths; what was not finite at any example is left blank."""
    limit = np.nanmax(np.abs(values), initial=0) or 1
    colours = {"cmap": "RdBu", "vmin": -limit, "vmax": limit} if signed else {"cmap": "cividis"}
    extent = (0.5, values.shape[1] + 0.5, -0.5, len(values) - 0.5)
    image = axes.imshow(values, aspect="auto", origin="lower", extent=extent, **colours)
    axes.set(ylabel="History length h (turns)", facecolor="0.85")
    axes.locator_params(axis="both", integer=True, min_n_ticks=1)
    figure.colorbar(image, ax=axes, label=label)


def colour_of(h: int, count: int) -> tuple[float, ...]:
    """Colour of a history length, dark for 0; the pale end of the map is left out."""
    from matplotlib import colormaps

    return colormaps["viridis"](0.85 * h / max(1, count - 1))
