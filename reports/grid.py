"""Heat maps of a grid of pairs: what each distractor does to each target at one history length."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from core import keys
from core.errors import UserError
from core.keys import in_words, named_fields
from measures import stats
from reports import style, tables
from reports.groups import BY, SEEDS
from reports.style import FigureStyle, NamedFigure

if TYPE_CHECKING:
    from pandas import DataFrame

CHANGE = "Change against h = 0"
MISSING = "0.88"  # grey
LINE = 0.125  # inches: a line of text
BOLD = 1.15  # how much wider text is in bold
NARROWEST = 0.11  # inches: the least that a column is wide
NAME_ROOM = {"single": 0.95, "double": 1.8}  # inches for the names of targets
MOST_LINES = 4  # of a column's name where it is upright


@dataclass(frozen=True)
class Heat:
    """What the maps of a table have in common."""

    h: int
    limit: float  # points at the ends of the colours
    tests: int  # comparisons that p-values are corrected over
    by: str = BY[0]  # the field of the columns
    look: FigureStyle = style.PLAIN
    what: str = CHANGE

    @property
    def unit(self) -> str:
        """What a cell's number is called: a change, or a difference."""
        return self.what.split(" ")[0]


def split(frame: "DataFrame", by: str) -> Iterator[tuple[dict[str, str], "DataFrame"]]:
    """The rows of each map with the fields that name it: all but targets and columns."""
    fields = [field for field in tables.key_columns(frame) if field not in (by, "target")]
    named = named_fields(frame[fields].to_dict("records"))
    in_order = [each for each in fields if each in named]
    for _, cells in frame.groupby(fields):
        yield {field: str(cells[field].iloc[0]) for field in in_order}, cells


def choose_length(frame: "DataFrame", h: int | None, by: str = BY[0]) -> int:
    """`h`, or the longest history that every pair has; UserError where a map has none of `h`."""
    of_pairs = frame.groupby(tables.key_columns(frame))["h"].agg(set)
    longest = int(max(set.intersection(*of_pairs)))
    if h is None and not longest:
        raise UserError(
            "these results share no h of 1 or more: name one with --h, or fewer folders."
        )
    if h is None:
        h = longest
    if h < 1:
        raise UserError("a grid needs h of 1 or more: the change at h = 0 is always 0.")
    short = [
        ", ".join(in_words(names)) for names, cells in split(frame, by) if h not in set(cells["h"])
    ]
    if short:
        raise UserError(
            f"--h {h}: no result with such a history for {'; '.join(short)}.\n"
            f"The longest history that all pairs have is {longest}."
        )
    return h


def grid_figures(
    frame: "DataFrame", h: int, by: str = BY[0], look: FigureStyle = style.PLAIN
) -> Iterator[NamedFigure]:
    """A map of each model (or what else is not in the columns), all on one colour scale."""
    chosen = frame[frame["h"] == h]
    limit = max(1.0, float(chosen["change_points"].abs().max()))
    tests = int(frame["p_value"].notna().sum())
    heat = Heat(h, limit, tests, by, look, frame.attrs.get("what", CHANGE))
    for names, cells in split(frame, by):
        yield draw_grid(names, cells, heat)


def draw_grid(names: dict[str, str], cells: "DataFrame", heat: Heat) -> NamedFigure:
    """Change (points) at one h, targets down and distractors, or what `heat.by` is, across.

    `cells` are rows of every length, so that a pair without this one is drawn as missing.
    """
    targets = sorted(cells["target"].unique())
    across = sorted(cells[heat.by].unique(), key=keys.by_text if heat.by == "seed" else None)
    found = {
        (targets.index(row["target"]), across.index(row[heat.by])): row
        for row in cells[cells["h"] == heat.h].to_dict("records")
    }
    changes = np.full((len(targets), len(across)), np.nan)
    for place, row in found.items():
        changes[place] = row["change_points"]
    figure, axes = _new_figure(changes, heat)
    metrics = dict(zip(cells["target"], cells["metric"]))
    rows = [
        f"{target} ({style.METRICS.get(metrics[target], metrics[target])})" for target in targets
    ]
    rows = [style.wrap(name, NAME_ROOM[heat.look.width]) for name in rows]
    axes.set_yticks(range(len(rows)), rows)
    width = _cell_width(figure, axes, len(across))
    _name_columns(axes, across, width)
    height = max(name.count("\n") + 1 for name in rows) * LINE + 0.06  # inches
    height = max(height, _write_cells(axes, changes.shape, found, heat, width))
    return _finished(figure, names, heat, len(rows) * height)


def _finished(figure: Any, names: dict[str, str], heat: Heat, height: float) -> NamedFigure:
    what = f"{heat.what} after h = {heat.h} turns"
    marks = ", ".join(tables.MARK.format(mark, end) for end, mark in reversed(tables.STARS))
    notes = [
        f"{heat.unit} in points of the metric",
        f"{marks}, Holm-corrected over the {heat.tests} comparisons (every pair and h >= 1) of the "
        "results given",
        f"Hatched, in brackets: not significant (p >= {stats.ALPHA}) or not testable",
        *([SEEDS] if heat.by == "seed" else []),
    ]
    if not heat.look.paper:
        figure.supxlabel(style.wrap(". ".join(notes), heat.look.inches - 0.2))
    titles = [*in_words(names), what]
    style.finish(figure, heat.look, titles, height)
    kind = (
        "grid" if heat.what == CHANGE else "grid_contrast",
        f"h{heat.h}" if heat.by == BY[0] else f"h{heat.h}_by_{heat.by}",
    )
    caption = style.as_sentences([", ".join([what, *in_words(names)]), *notes])
    return NamedFigure(style.figure_stem(names, *kind), figure, caption, names=names)


def _cell_width(figure: Any, axes: Any, columns: int) -> float:
    """Inches of a column; the figure grows where columns would be too narrow for their names."""
    figure.get_layout_engine().execute(figure)
    width = axes.get_window_extent().width / figure.dpi / columns
    if width >= NARROWEST:
        return width
    figure.set_figwidth(figure.get_figwidth() + columns * (NARROWEST - width))
    return NARROWEST


def _name_columns(axes: Any, names: Sequence[str], width: float) -> None:
    """Names below the columns: upright where they fit, else from below to above."""
    upright = [style.wrap(name, width - 0.06) for name in names]
    lines = [line for name in upright for line in name.splitlines()]
    short = all(name.count("\n") < MOST_LINES for name in upright)
    if short and max(map(style.text_inches, lines)) < width - 0.04:
        axes.set_xticks(range(len(names)), upright)
        return
    most = max(1, int(width / LINE))
    for room in np.arange(0.8, 9, 0.2):  # inches
        lying = [style.wrap(name, room) for name in names]
        if max(name.count("\n") for name in lying) < most:
            break
    axes.set_xticks(range(len(names)), lying, rotation=90, multialignment="right")


def _write_cells(
    axes: Any, shape: tuple[int, int], found: dict[tuple, dict], heat: Heat, width: float
) -> float:
    """Number and stars of each cell, or that it is missing; returns how high a row must be.

    They stand upright where they fit, else lie; where not even that, the sign alone is written.
    """
    texts = {place: tables.cell_text(found.get(place)) for place in np.ndindex(shape)}
    lines = [line for text in texts.values() for line in text.split("\n")]
    rotation, height = 0, 2 * LINE + 0.06
    if BOLD * max(map(style.text_inches, lines)) + 0.04 > width:
        texts = {place: text.replace("\n", " ") for place, text in texts.items()}
        rotation, height = 90, BOLD * max(map(style.text_inches, texts.values())) + 0.08
    if width < LINE:
        texts = {place: text.strip("(")[0].strip("no") for place, text in texts.items()}
        rotation, height = 0, LINE
    for place, text in texts.items():
        _write_cell(axes, place, text, found.get(place), heat.limit, rotation)
    return height


def _write_cell(
    axes: Any, place: tuple[int, int], text: str, row: Any, limit: float, rotation: int
) -> None:
    """The text of a cell, and its hatching where a test found nothing."""
    from matplotlib import rcParams
    from matplotlib.patches import Rectangle

    (i, j), looks = place, {"color": "0.3"}
    if row is not None and row["stars"]:
        looks = {"color": style.ink(row["change_points"] / limit), "weight": "bold"}
    elif row is not None and not row.get("is_zero"):
        hatch = {"fill": False, "hatch": "////", "edgecolor": "0.55", "linewidth": 0}
        axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, **hatch))
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.2, "alpha": 0.85}
        looks = {"color": "0.2", "bbox": box}
    middle = {"ha": "center", "va": "center", "rotation": rotation}
    axes.text(j, i, text, size=rcParams[style.SMALL], **middle, **looks)


def _new_figure(changes: np.ndarray, heat: Heat) -> tuple[Any, Any]:
    """The map itself with its colour bar, without names and numbers."""
    figure, axes = style.new_figure(heat.look)
    axes.set_facecolor(MISSING)
    for ticks, count in ((axes.set_yticks, len(changes)), (axes.set_xticks, changes.shape[1])):
        ticks(np.arange(count + 1) - 0.5, minor=True)
    axes.grid(False)
    axes.grid(which="minor", axis="both", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.set(ylabel="Target", xlabel=heat.by.capitalize())
    image = axes.imshow(
        changes, cmap=style.DIVERGING, vmin=-heat.limit, vmax=heat.limit, aspect="auto"
    )
    # Below, since beside a map of one row there is no room for its label.
    figure.colorbar(image, label=f"{heat.unit} (points)", location="bottom", aspect=40, shrink=0.6)
    return figure, axes
