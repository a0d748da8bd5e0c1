"""The table and the figure of contrasts: one history against another on the same targets."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from string import ascii_lowercase
from typing import TYPE_CHECKING, Any

from core.errors import UserError
from core.keys import FIELDS, in_words, named_fields, same_task
from measures import stats
from measures.contrasts import CHANGES, COLUMNS, Row, unit_of
from reports import style, tables
from reports.style import FigureStyle, NamedFigure

if TYPE_CHECKING:
    from pandas import DataFrame

FORMATS = ("markdown", "csv", "json", "latex")
ROW_HEIGHT = 0.19  # inches
EXPLAINED = (
    "Difference: {what}, on the same targets{sign}. {shared} "
    "{brackets}p (Holm) and the stars "
    "(below {levels}) are corrected over the tests of this table ({tests}). Detectable: the "
    "smallest difference found with {power:.0%} power at an uncorrected level of {alpha}."
)
BRACKETS = f"Brackets: {stats.CONFIDENCE:.0%} intervals, which agree with the test. "
DIFFERENCE = "{by} less Against, in {unit}"
WORSE = "; below 0: the metric is lower than that of Against"
SHARED = "h = 0 is the same prompt in both, so the changes from h = 0 differ by as much."
OTHER = "Where h = 0 is not the same, the changes from h = 0 are compared."


def render(rows: Sequence[Row], form: str, by: str = "distractor") -> str:
    """Contrasts as text: CSV and JSON in full precision, Markdown rounded for reading.

    `by` is what is compared: its column stays, of others that are all the same none.
    """
    if form == "json":
        plain = [{name: row[name] for name in COLUMNS} for row in rows]
        return json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    import pandas

    if form == "csv":
        return pandas.DataFrame(rows, columns=COLUMNS).to_csv(index=False, lineterminator="\n")
    explained, marks = explain(rows, by), marks_of(rows)
    cells = pandas.DataFrame([rounded(row, marks) for row in rows])
    maybe = ("model", "history", "seed", "metric", *rows[0]["settings"])
    names = [tables.heading(name) for name in maybe if name != by]
    cells = cells.drop(columns=[name for name in names if cells[name].nunique() == 1])
    if form == "latex":
        caption = f"{explained} {legend(marks)}".strip().replace("%", r"\%")
        return cells.to_latex(index=False, escape=True, caption=caption)
    cells = cells.map(lambda cell: cell.replace("|", r"\|"))
    below = "\n".join(filter(None, (legend(marks), explained)))
    return f"{cells.to_markdown(index=False, disable_numparse=True)}\n\n{below}\n"


def explain(rows: Sequence[Row], by: str = "distractor") -> str:
    """What the columns of `rounded` are, and how many contrasts are corrected for."""
    unit = unit_of(rows[0])
    return EXPLAINED.format(
        what=DIFFERENCE.format(by=tables.heading(by), unit=unit),
        sign=WORSE if unit == "points" else "",
        shared=OTHER if any(CHANGES in row["note"] for row in rows) else SHARED,
        tests=tested(rows), levels=", ".join(f"{end}" for end, _ in reversed(tables.STARS)),
        power=stats.POWER, alpha=stats.ALPHA,
        brackets=BRACKETS if _any_interval(rows) else "",
    )  # fmt: skip


def tested(rows: Sequence[Row]) -> int:
    """How many contrasts have a test: over so many they are corrected."""
    return sum(row["p_value"] is not None for row in rows)


def marks_of(rows: Sequence[Row]) -> dict[str, str]:
    """A mark for each reason why something cannot be computed: `(a)`, `(b)`."""
    reasons = dict.fromkeys(reason for row in rows for reason in _reasons(row).values())
    return {reason: f"({letter})" for reason, letter in zip(reasons, ascii_lowercase)}


def _reasons(row: Row) -> dict[str, str]:
    """The reason of each column that is null, without the numbers of this row."""
    return {name: reason.partition(":")[0] for name, reason in row["why_null"].items()}


def legend(marks: Mapping[str, str]) -> str:
    """What the marks mean, in a line; "" without any."""
    meanings = "; ".join(f"{mark} {reason}" for reason, mark in marks.items())
    return f"Cannot be computed: {meanings}." if marks else ""


def rounded(row: Row, marks: Mapping[str, str]) -> dict[str, str]:
    """A contrast as it is read, with its mark where something cannot be computed."""
    known = {name: float("nan") if row[name] is None else row[name] for name in COLUMNS}
    names = ("model", "target", "distractor", "against", "history", "seed")
    unit = unit_of(row)
    places = 1 if unit == "points" else 4  # of a cosine, differences are small
    named = {name: str(row[name]) for name in names} | row["settings"]
    mark = {name: marks[reason] for name, reason in _reasons(row).items()}
    difference = tables.with_ends(known, "difference_points", "low", "high", places)
    difference += tables.stars(row["p_holm"]) + (f" {mark['low']}" if "low" in mark else "")
    return {tables.heading(name): value for name, value in named.items()} | {
        "h": str(row["h"]),
        "Metric": row["metric"],
        f"Difference ({unit})": difference,
        "p": tables.p_text(known["p_value"]) or mark["p_value"],
        "p (Holm)": tables.p_text(known["p_holm"]) or mark["p_value"],
        "n": str(row["n"]),
        "Detectable": tables.number(known["detectable_points"], places)
        or mark["detectable_points"],
    }


def make_frame(rows: Sequence[Row], results: tables.Results) -> "DataFrame":
    """Contrasts against the target's own task as `grid` draws them; that task itself `is_zero`."""
    import pandas

    if not all(same_task(row["target"], row["against"]) for row in rows):
        raise UserError(
            "grid --contrast compares with the target's own task: run each target after itself too."
        )
    found = [
        {name: row[name] for name in FIELDS}
        | row["settings"]
        | {name: row[name] for name in ("h", "metric", "p_value", "note")}
        | {"change_points": row["difference_points"], "stars": tables.stars(row["p_holm"])}
        | {"is_zero": False}
        for row in rows
    ]
    own = [
        {**key.fields, "h": int(h), "metric": result["metric_name"], "p_value": None}
        | {"note": "", "change_points": 0.0, "stars": "", "is_zero": True}
        for key, result in results.items()
        for h in result["metric_by_len"]
        if h == "0" or same_task(key.fields["target"], key.fields["distractor"])
    ]
    frame = pandas.DataFrame(own + found)
    frame["p_value"] = frame["p_value"].astype(float)
    frame.attrs["what"] = "Difference to the target's own task"
    return frame


def contrast_figures(
    rows: Sequence[Row], by: str, look: FigureStyle = style.PLAIN, against: str | None = None
) -> Iterator[NamedFigure]:
    """A figure for each model, history and seed (but for what is compared); its name has in it what
    was asked for as the other side.
    """
    apart = [name for name in ("model", "history", "seed") if name != by]
    named = named_fields({name: row[name] for name in apart} for row in rows)
    shown = [name for name in apart if name in named]
    in_order = sorted(rows, key=lambda row: [row[name] for name in apart])
    for _, group in groupby(in_order, key=lambda row: [row[name] for name in apart]):
        group = list(group)
        names = {name: group[0][name] for name in shown}
        yield draw(group, names, by, tested(rows), look, against)


def draw(
    rows: Sequence[Row], names: dict[str, str], by: str, tests: int, look: FigureStyle,
    asked: str | None = None,
) -> NamedFigure:  # fmt: skip
    """A row for each pair and h with its interval, the other side as the zero line.

    `tests` is the number of contrasts that p-values are corrected over, those of other figures too.
    """
    figure, axes = style.new_figure(look)
    axes.axvline(0, **style.ZERO)
    for place, row in enumerate(rows):
        _draw_row(axes, place, row)
    pairs = sorted({pair_of(row) for row in rows})
    alone = by != "distractor" and len(pairs) == 1  # the title then names it, once
    labels = [label_of(row, by).removeprefix(f"{pairs[0]}, " if alone else "") for row in rows]
    labels = [style.wrap(label, 0.42 * look.inches) for label in labels]
    axes.set_yticks(range(len(rows)), labels)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(False, axis="y")
    sides = sorted({row["against"] for row in rows})
    against = "the target's own task" if by == "distractor" and _own(rows) else " or ".join(sides)
    axes.set_xlabel(style.wrap(f"Difference to {against} ({unit_of(rows[0])})", 0.5 * look.inches))
    what = f"{by.capitalize()} against {against}, on the same targets"
    notes = [
        *(["Bars: 95% intervals, which agree with the test"] if _any_interval(rows) else []),
        f"Filled: p < {stats.ALPHA} after Holm's correction over {tests} contrasts",
    ]
    if not look.paper:
        figure.supxlabel(style.wrap(". ".join(notes), look.inches - 0.2))
    figure.get_layout_engine().set(w_pad=0.16)  # inches: long labels differ in width by resolution
    titles = [*in_words(names), *(pairs if alone else ()), what]
    lines = sum(label.count("\n") + 1 for label in labels)
    style.finish(figure, look, titles, max(0.6, ROW_HEIGHT * lines))
    kind = ["contrast"] if by == "distractor" else ["contrast", f"by_{by}"]
    if asked is not None:
        kind.append(f"against_{asked}")
    if unit_of(rows[0]) != "points":
        kind.append(unit_of(rows[0]))
    caption = style.as_sentences([", ".join([what, *titles[:-1]]), *notes])
    return NamedFigure(style.figure_stem(names, *kind), figure, caption, "contrast", names)


def _any_interval(rows: Sequence[Row]) -> bool:
    return any(row["low"] is not None for row in rows)


def _own(rows: Sequence[Row]) -> bool:
    return all(same_task(row["target"], row["against"]) for row in rows)


def _draw_row(axes: Any, place: int, row: Row) -> None:
    colour = style.COLOURS[0] if row["difference_points"] >= 0 else style.COLOURS[1]
    if row["low"] is not None:
        axes.hlines(place, row["low"], row["high"], color=colour, linewidth=1.5)
    filled = bool(tables.stars(row["p_holm"]))
    face = colour if filled else "white"
    axes.plot(row["difference_points"], place, "o", color=colour, markerfacecolor=face)


def pair_of(row: Row) -> str:
    """`target after distractor`."""
    return f"{row['target']} after {row['distractor']}"


def label_of(row: Row, by: str) -> str:
    """`target after distractor, h = 2`, with the side that is compared."""
    name, what = row.get(by, ""), pair_of(row)
    if by != "distractor":
        what += f", {name} against {row['against']}" if name else f" ({row['note'].split(';')[0]})"
    settings = [f"{key} {value}" for key, value in row["settings"].items() if key != by]
    if settings:
        what += f" ({', '.join(settings)})"
    return f"{what}, h = {row['h']}"


def sureness(row: Row) -> tuple[float, float]:
    """What contrasts are sorted by, the surest first and those without a test last."""
    return 2 if row["p_holm"] is None else row["p_holm"], -abs(row["difference_points"])
