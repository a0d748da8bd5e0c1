"""Figures of what a history changes at each layer: layer on x, a line per h, and a heat map.

Every line has its interval over examples as a band.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from core.keys import in_words
from reports import style
from reports.groups import Group, Record, lengths_of
from reports.style import FigureStyle, NamedFigure

PANEL_HEIGHTS = {"single": 1.6, "double": 2.3}  # inches, of a panel
MARKED = 8  # blocks of a line that have a marker
CROSS = "#D55E00"


@dataclass(frozen=True)
class Measure:
    """How a layer measure is drawn."""

    name: str  # of `NAME_by_len` in a result
    stem: str  # in the figure's file name
    label: str  # of its axis, with the unit
    about: str  # one line under the title: what it is
    signed: bool = False  # 0 is the middle of the colours


COSINE = Measure(
    "cos", "cosine", "Cosine with the final logits",
    "Cosine between a block's lens logits and the final logits, at the last position of the prompt",
)  # fmt: skip
DRAWN_MEASURES = (
    Measure(
        "drift", "drift", "Cosine with the state at h = 0",
        "Drift: cosine between a block's hidden state at the last position and the same target's "
        "at h = 0",
    ),
    Measure(
        "margin", "margin", "Margin (nats)",
        "Margin: lens log-odds of the reference label against the best other label", signed=True,
    ),
    Measure(
        "agree", "agree", "Share of examples",
        "Agreement: examples where the lens' most likely token is the model's",
    ),
    Measure(
        "cos_centred", "cosine_centred", "Centred cosine with the final logits",
        "Centred cosine: between a block's lens logits and the final logits, each less its mean "
        "over the vocabulary",
    ),
    COSINE,
)  # fmt: skip
DECISION = "First block from which on the lens keeps the final prediction"


def layer_figures(
    groups: Iterable[Group], look: FigureStyle = style.PLAIN
) -> Iterator[NamedFigure]:
    """Each measure that a result holds, for every result."""
    for result in _results(groups):
        for measure in DRAWN_MEASURES:
            if result[f"{measure.name}_by_len"]:
                yield draw_measure(result, measure, look)
        if result["decision_layer_by_len"]:
            yield draw_decisions(result, look)


def cosine_figures(
    groups: Iterable[Group], look: FigureStyle = style.PLAIN
) -> Iterator[NamedFigure]:
    """The cosines alone, where layers were read."""
    for result in _results(groups):
        if result["cos_by_len"]:
            yield draw_measure(result, COSINE, look)


def _results(groups: Iterable[Group]) -> Iterator[Record]:
    for group in groups:
        yield from group.lines.values()


def table(by_len: dict[str, Any]) -> np.ndarray:
    """A row per history length, [H + 1, L]; null is NaN."""
    return np.array([list(row) for row in by_len.values()], dtype=float)


def draw_measure(result: Record, measure: Measure, look: FigureStyle) -> NamedFigure:
    """Mean over examples at each block, as lines with bands and as a heat map."""
    values = table(result[f"{measure.name}_by_len"])
    stats = [of_len[measure.name] for of_len in result["layer_stats_by_len"].values()]
    low, high = (
        table({str(h): row[end] for h, row in enumerate(stats)}) for end in ("low", "high")
    )
    excluded = sum(sum(row["excluded"]) for row in stats)
    notes = [f"bands: {style.interval([stats[0]['interval']])}"]
    notes += [f"{excluded} values left out: not finite"] if excluded else []
    figure, lines, heat = _panels(look)
    lengths = lengths_of(result)
    _draw_lines(lines, lengths, values, low, high)
    label = style.wrap(measure.label, PANEL_HEIGHTS[look.width], "axes.labelsize")
    lines.set_ylabel(label)
    if measure.signed:
        lines.axhline(0, **style.ZERO)
    _draw_heat(figure, heat, values, label, measure.signed)
    style.down_turns(heat, lengths)
    return _finished(figure, result, look, measure.stem, measure.about, notes)


def draw_decisions(result: Record, look: FigureStyle) -> NamedFigure:
    """Share of examples that are decided by each block, and the share decided at each block."""
    shares = table(result["decision_layer_by_len"]) / result["n"]  # [H + 1, L]
    stats = [of_len["decision_layer"] for of_len in result["layer_stats_by_len"].values()]
    undecided = sum(of_len["undecided"] for of_len in stats)
    notes = [f"crosses: mean and {style.interval([stats[0]['interval']])}"]
    notes += [f"{undecided} prompts without a decision layer"] if undecided else []
    figure, lines, heat = _panels(look)
    _draw_lines(lines, lengths_of(result), shares.cumsum(axis=1))
    lines.set(ylabel="Share of examples\ndecided so far", ylim=(-0.03, 1.03))
    _draw_heat(figure, heat, shares, "Share decided at the block")
    style.down_turns(heat, lengths_of(result))
    heat.set_autoscale_on(False)  # an interval may reach beyond the blocks
    for row, of_len in enumerate(stats):
        if of_len["low"] is not None:
            heat.plot([of_len["low"], of_len["high"]], [row, row], **_outlined(1.2))
        if of_len["mean"] is not None:
            heat.plot(of_len["mean"], row, "x", **_outlined(1.5))
    return _finished(figure, result, look, "decision_layer", DECISION, notes)


def _outlined(width: float) -> dict[str, Any]:
    """Style of a line that is seen on every colour of a map, in grey too."""
    from matplotlib.patheffects import withStroke

    edge = withStroke(linewidth=width + 1.5, foreground="white")
    return {"color": CROSS, "linewidth": width, "markeredgewidth": width, "path_effects": [edge]}


def _panels(look: FigureStyle) -> tuple[Any, Any, Any]:
    """A figure with room for lines and for a heat map, both with blocks on x."""
    figure, panels = style.new_figure(look, *((1, 2) if look.wide else (2, 1)))
    for axes in panels:
        axes.set_xlabel(style.BLOCKS)
        axes.locator_params(axis="x", integer=True, min_n_ticks=1)
    return figure, *panels


def _finished(
    figure: Any, result: Record, look: FigureStyle, stem: str, about: str, notes: list[str]
) -> NamedFigure:
    """The figure with its legend, its title and its caption."""
    model, pair = in_words(result["names"])
    lens = f"{result['config'].get('lens', 'logit')} lens"
    size = f"n = {result['n']}"
    style.add_legend(figure, figure.axes[0], look, style.TURNS, notes)
    style.finish(figure, look, [f"{model}, {size}, {lens}", pair, about], PANEL_HEIGHTS[look.width])
    panels = "By decoder block for each history length h (turns): as lines and as a heat map"
    caption = style.as_sentences([f"{about}, {model}, {pair}, {size}, {lens}", panels, *notes])
    names = {field: name for field, name in result["names"].items() if field != "distractor"}
    kind = f"{stem}_{result['distractor']}"
    return NamedFigure(style.figure_stem(names, kind), figure, caption, stem, result["names"])


def _draw_lines(
    axes: Any, lengths: Sequence[int], values: np.ndarray,
    low: np.ndarray | None = None, high: np.ndarray | None = None,
) -> None:  # fmt: skip
    """A line per history length, its markers spread over the blocks, with bands where given."""
    blocks = np.arange(1, values.shape[1] + 1)
    every = max(1, len(blocks) // MARKED)
    for k, (h, line) in enumerate(zip(lengths, values)):
        mark = {"marker": style.MARKERS[k % len(style.MARKERS)], "markevery": (k % every, every)}
        colour = style.colour_of(k, len(values))
        axes.plot(blocks, line, label=h, color=colour, **mark)
        if low is not None:
            axes.fill_between(blocks, low[k], high[k], color=colour, alpha=0.15, linewidth=0)
    axes.set_xlim(0.5, len(blocks) + 0.5)


def _draw_heat(
    figure: Any, axes: Any, values: np.ndarray, label: str, signed: bool = False
) -> None:
    """Blocks by history lengths, a row each; what was not finite at any example is left blank."""
    limit = np.nanmax(np.abs(values), initial=0) or 1
    ends = {"vmin": -limit, "vmax": limit} if signed else {}
    extent = (0.5, values.shape[1] + 0.5, -0.5, len(values) - 0.5)
    image = axes.imshow(values, aspect="auto", origin="lower", extent=extent, **ends)
    axes.set(facecolor="white")
    axes.grid(False)
    figure.colorbar(image, ax=axes, label=label)
