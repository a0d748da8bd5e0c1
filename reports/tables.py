"""Results as one tidy table: a row per history length of every result.

The p-values are corrected over the whole table (Holm 1979), since whoever looks through all of it
for a small one has scanned all of it.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from core import keys
from measures import stats

if TYPE_CHECKING:  # pandas is slow to import, and --help does not need it
    from pandas import DataFrame

FORMATS = ("csv", "markdown", "latex")
STARS = ((0.001, "***"), (0.01, "**"), (stats.ALPHA, "*"))
MARK = "{} p < {}".replace(" ", "\N{NO-BREAK SPACE}")  # what one means, not to be broken
COPIED = (
    "low", "high", "interval", "change_points", "change_points_low", "change_points_high",
    "percent_change", "percent_change_low", "percent_change_high", "test", "p_value",
)  # fmt: skip
EXPLAINED = (
    "Value: fraction; change: against h = 0. {brackets}"
    "p (Holm) and the stars are corrected over the {tests} comparisons of this table. "
    "Detectable: the smallest change in points found with {power:.0%} power at an uncorrected "
    "level of {alpha}."
)
CHANGES = ("Change (points)", "Change (%)")
WHY_EMPTY = " The column note of --format csv says what could not be computed, and why."

Results = dict[keys.Key, dict[str, Any]]  # of records.load_results


def make_frame(results: Results) -> "DataFrame":
    """Every history length of every result, with `p_holm_table` over all of them; null is NaN.

    Metric values are fractions in [0, 1], changes points, percentages per cent. `note` holds the
    reasons of what is null.
    """
    import pandas

    rows = [
        _row(key, result, int(h), entry)
        for key, result in results.items()
        for h, entry in result["stats_by_len"].items()
    ]
    for row, corrected in zip(rows, stats.holm([row["p_value"] for row in rows])):
        row["p_holm_table"], row["stars"] = corrected, stars(corrected)
    frame = pandas.DataFrame(rows)
    numeric = [name for name in frame if name.endswith(("_low", "_high", "_points"))]
    for name in (*numeric, "low", "high", "percent_change", "p_value", "p_holm_table"):
        frame[name] = frame[name].astype(float)
    behind = frame.columns.get_loc("p_value") + 1
    for name in ("stars", "p_holm_table"):
        frame.insert(behind, name, frame.pop(name))
    return frame


def _row(key: keys.Key, result: dict[str, Any], h: int, entry: dict[str, Any]) -> dict[str, Any]:
    reasons = [entry[name] for name in entry if name.endswith("_reason") and entry[name]]
    return (
        key.fields
        | {"h": h, "metric": result["metric_name"], "value": result["metric_by_len"][str(h)]}
        | {name: entry[name] for name in COPIED}
        | {"n": entry["n"], "n_targets": entry["n_targets"]}
        | {"resampled": "{count} {unit}".format(**entry["clusters"])}
        | {"detectable_points": entry["detectable_points"]}
        | {"note": "; ".join(dict.fromkeys(reasons))}
    )


def key_columns(frame: "DataFrame") -> list[str]:
    """The columns that tell results apart: the fields of their keys."""
    return list(frame.columns[: frame.columns.get_loc("h")])


def heading(name: str) -> str:
    """How the column of a key's field is headed."""
    return name.capitalize().replace("_", " ")


def stars(corrected: float | None) -> str:
    """*** below .001, ** below .01, * below .05 of a corrected p-value; nothing for None."""
    return next((mark for end, mark in STARS if corrected is not None and corrected < end), "")


def render(frame: "DataFrame", form: str) -> str:
    """The table as text: CSV in full precision, or Markdown or LaTeX rounded for reading.

    LaTeX needs the package booktabs.
    """
    if form == "csv":
        return frame.to_csv(index=False, lineterminator="\n")
    cells = rounded(frame)
    explained = explain(frame, brackets(cells[name] for name in ("Value", *CHANGES)))
    if frame.loc[frame["h"] > 0, "note"].any():
        explained += WHY_EMPTY
    texts = {*map(heading, key_columns(frame)), "Metric"}
    sides = ["left" if name in texts else "right" for name in cells]
    if form == "markdown":
        cells = cells.map(lambda cell: cell.replace("|", r"\|"))
        levels = ", ".join(rf"{_literal(mark)} p < {end}" for end, mark in reversed(STARS))
        text = cells.to_markdown(index=False, disable_numparse=True, colalign=sides)
        return f"{text}\n\n{explained} {levels}.\n"
    levels = ", ".join(f"{mark} $p < {end}$" for end, mark in reversed(STARS))
    caption = f"{explained} {levels}.".replace("%", r"\%")
    return cells.to_latex(
        index=False, escape=True, caption=caption, column_format="".join(side[0] for side in sides)
    )


def explain(frame: "DataFrame", about_brackets: str) -> str:
    """What the columns of `rounded` are, and how many comparisons the stars are corrected over."""
    tests = int(frame["p_value"].notna().sum())
    return EXPLAINED.format(
        brackets=f"{about_brackets} ".lstrip(), power=stats.POWER, alpha=stats.ALPHA, tests=tests
    )


def brackets(columns: Iterable[Iterable[str]]) -> str:
    """What brackets are, in a sentence; "" where no cell of these columns has any."""
    there = any("[" in cell for cells in columns for cell in cells)
    return f"Brackets: {stats.CONFIDENCE:.0%} intervals." if there else ""


def _literal(mark: str) -> str:
    """Stars that Markdown does not take for emphasis."""
    return mark.replace("*", r"\*")


def rounded(frame: "DataFrame") -> "DataFrame":
    """The columns that are read, as text; what is null is empty.

    History, seed and settings are among them where they vary.
    """
    import pandas

    others = key_columns(frame)[3:]
    varying = [name for name in others if frame[name].nunique() > 1]
    rows = [
        {heading(name): row[name] for name in ("model", "target", "distractor", *varying)}
        | {
            "h": str(row["h"]),
            "Metric": row["metric"],
            "Value": with_ends(row, "value", "low", "high", 3),
            CHANGES[0]: _change(row, "change_points", 1) + row["stars"],
            CHANGES[1]: _change(row, "percent_change", 1),
            "p": p_text(row["p_value"]),
            "p (Holm)": p_text(row["p_holm_table"]),
            "n": str(row["n"]),
            "Detectable": number(row["detectable_points"], 1),
        }
        for row in frame.to_dict("records")
    ]
    return pandas.DataFrame(rows)


def _change(row: dict[str, Any], name: str, places: int) -> str:
    """A change with its interval; nothing at h = 0, where it is 0 by definition."""
    return with_ends(row, name, f"{name}_low", f"{name}_high", places) if row["h"] else ""


def with_ends(row: dict[str, Any], name: str, low: str, high: str, places: int) -> str:
    """A number with its interval in brackets."""
    ends = [number(row[end], places) for end in (low, high)]
    return number(row[name], places) + (f" [{', '.join(ends)}]" if all(ends) else "")


def number(value: float, places: int) -> str:
    """Rounded, without a minus before zero; empty for NaN."""
    return "" if value != value else f"{value:z.{places}f}"


def p_text(value: float) -> str:
    """A p-value to three places; empty for NaN."""
    if value != value:
        return ""
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"


def cell_text(row: dict[str, Any] | None, between: str = "\n") -> str:
    """What a cell says: its change with `between` and its stars, or else in brackets; no number
    where it is the side that others are compared with.
    """
    if row is None:
        return f"no{between}result"
    if row.get("is_zero"):
        return f"own{between}task"
    number = f"{row['change_points']:+z.1f}"
    return f"{number}{between}{row['stars']}" if row["stars"] else f"({number})"
