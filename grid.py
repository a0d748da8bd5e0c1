"""Heat maps of a grid of pairs: what each distractor does to each target at one history length."""

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

import figures
import stats
import tables
from errors import UserError

if TYPE_CHECKING:
    from pandas import DataFrame

COLOURS = "PuOr_r"  # diverging, told apart by the colour-blind; orange is a rise
MISSING = "0.88"  # grey


def choose_length(frame: "DataFrame", h: int | None) -> int:
    """`h`, or the longest history that every pair has; UserError where a model has none of `h`."""
    longest = frame.groupby(["model", "target", "distractor"])["h"].max()
    if h is None:
        h = int(longest.min())
    if h < 1:
        raise UserError("a grid needs a history of at least 1 turn: the change at h = 0 is 0.")
    short = [model for model, most in longest.groupby("model").max().items() if most < h]
    if short:
        raise UserError(
            f"--h {h}: {', '.join(short)} has no result with so long a history.\n"
            f"The longest that all pairs have is {longest.min()}."
        )
    return h


def grid_figures(frame: "DataFrame", h: int) -> Iterator[tuple[str, Any]]:
    """Stem and figure of each model of a table of `tables.make_frame`, all on one colour scale."""
    chosen = frame[frame["h"] == h]
    limit = max(1.0, float(chosen["change_points"].abs().max()))  # points
    tests = int(frame["p_value"].notna().sum())
    for model, cells in frame.groupby("model"):
        yield figures.figure_stem(model, "grid", f"h{h}"), draw_grid(model, cells, h, limit, tests)


def draw_grid(model: str, cells: "DataFrame", h: int, limit: float, tests: int) -> Any:
    """Change (points) at `h`, targets down and distractors across; `limit` ends the colours.

    `cells` are all rows of the model, so that a pair without this length is drawn as missing.
    """
    targets, distractors = (sorted(cells[name].unique()) for name in ("target", "distractor"))
    figure, axes = _new_figure(len(targets), len(distractors))
    changes = np.full((len(targets), len(distractors)), np.nan)
    for row in cells[cells["h"] == h].to_dict("records"):
        place = targets.index(row["target"]), distractors.index(row["distractor"])
        changes[place] = row["change_points"]
        _write_cell(axes, *place, row, limit)
    for place in np.argwhere(np.isnan(changes)):
        axes.text(*place[::-1], "no\nresult", ha="center", va="center", color="0.3", size="small")
    image = axes.imshow(changes, cmap=COLOURS, vmin=-limit, vmax=limit, aspect="auto")
    figure.colorbar(image, label="Change (points)")
    metrics = dict(zip(cells["target"], cells["metric"]))
    names = [
        f"{target}\n({figures.METRICS.get(metrics[target], metrics[target])})" for target in targets
    ]
    axes.set_yticks(range(len(targets)), names)
    axes.set_xticks(
        range(len(distractors)), distractors, rotation=30, ha="right", rotation_mode="anchor"
    )
    axes.set(title=f"{model}\nchange against h = 0 after h = {h} distractor turns", ylabel="Target")
    axes.set_xlabel("Distractor")
    figure.supxlabel(caption(tests, figure.get_figwidth()), size="small")
    return figure


def caption(tests: int, width: float) -> str:
    """What numbers, stars and hatching mean, in lines for a figure of this width (inches)."""
    marks = ", ".join(f"{mark} p < {end}" for end, mark in reversed(tables.STARS))
    text = (
        f"Change in points of the metric. {marks}, after Holm's correction over the {tests} "
        "comparisons (every pair and h >= 1) of the results given. Hatched, in brackets: not "
        f"significant (p >= {stats.ALPHA}) or not testable."
    )
    return "\n".join(textwrap.wrap(text, int(15 * width)))


def _write_cell(axes: Any, i: int, j: int, row: dict[str, Any], limit: float) -> None:
    """The number of a cell, and its hatching where it is not significant."""
    from matplotlib.patches import Rectangle

    number = f"{row['change_points']:+z.1f}"
    if row["stars"]:
        style = {"color": ink(row["change_points"] / limit), "weight": "bold"}
        axes.text(j, i, f"{number}\n{row['stars']}", ha="center", va="center", **style)
        return
    hatch = {"fill": False, "hatch": "////", "edgecolor": "0.55", "linewidth": 0}
    axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, **hatch))
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5, "alpha": 0.85}
    axes.text(j, i, f"({number})", ha="center", va="center", color="0.2", bbox=box)


def ink(place: float) -> str:
    """Black or white, whichever is read better on the colour at `place` in [-1, 1].

    By the relative luminance of WCAG 2: above 0.179 black has the higher contrast.
    """
    from matplotlib import colormaps

    channels = np.array(colormaps[COLOURS]((place + 1) / 2)[:3])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return "black" if linear @ (0.2126, 0.7152, 0.0722) > 0.179 else "white"


def _new_figure(rows: int, columns: int) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    size = (max(5.6, 3.2 + 0.95 * columns), 3.1 + 0.62 * rows)  # inches
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.set_facecolor(MISSING)
    axes.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    return figure, axes
