"""The spread over wordings of the prompts, as it is read: below a table and on a page. No torch."""

from collections.abc import Iterator, Sequence
from typing import Any

from core.keys import Key
from measures.wordings import Spread, spreads
from reports import style, tables

TITLE = "Over wordings of the prompts (fraction; differences to the own task in points)"
COLUMNS = ("Wordings", "Mean", "Lowest", "Highest")
EXPLAINED = (
    "Each number under every wording of the prompts: their mean, the lowest and the highest. "
    "These are no intervals: the same targets were run after the same rows each time."
)


def render(results: tables.Results, form: str) -> str:
    """The table of spreads in Markdown or LaTeX; "" without several wordings, and for CSV, which
    has a row for each wording.
    """
    import pandas

    rows = [row for spread in spreads(results) for row in _rows(spread)]
    if not rows or form == "csv":
        return ""
    cells = pandas.DataFrame(rows)
    cells = cells.drop(columns=[name for name in ("History", "Seed") if cells[name].nunique() == 1])
    if form == "latex":
        return "\n" + cells.to_latex(index=False, escape=True, caption=EXPLAINED)
    text = cells.to_markdown(index=False, disable_numparse=True)
    return f"\n{text}\n\n{EXPLAINED}\n"


def page_tables(results: tables.Results) -> list[dict[str, Any]]:
    """The same in the form of `others.other_scores`; [] without several wordings."""
    found = spreads(results)
    keys = [spread.key.fields for spread in found]
    maybe = [name for name in (keys[0] if keys else ()) if name not in ("target", "distractor")]
    apart = [name for name in maybe if len({key[name] for key in keys}) > 1]
    rows = [
        {"name": _name(spread, apart), "h": row["h"], "values": [row[name] for name in COLUMNS]}
        for spread in found
        for row in _rows(spread)
    ]
    columns = [(name, "wordings") for name in COLUMNS]
    return [{"title": TITLE, "columns": columns, "rows": rows}] if rows else []


def _rows(spread: Spread) -> Iterator[dict[str, str]]:
    """A row for each h; of a contrast from h = 1."""
    contrast = spread.against is not None
    what = style.METRICS.get(spread.metric, spread.metric)
    for h in spread.by_len:
        if h or not contrast:
            values = [tables.number(value, 1 if contrast else 3) for value in spread.at(h)]
            yield {
                **{tables.heading(name): value for name, value in _named(spread.key).items()},
                "Number": f"points less after {spread.against}" if contrast else what,
                "h": str(h),
                **dict(zip(COLUMNS, [str(spread.wordings), *values])),
            }


def _named(key: Key) -> dict[str, str]:
    return {name: value for name, value in key.fields.items() if value}


def _name(spread: Spread, apart: Sequence[str]) -> str:
    """The pair, its history and what else tells it from the others, and what is compared."""
    names = spread.key.fields
    more = [f"{name} {names[name]}" for name in apart if name != "history"]
    about = ", ".join([names["history"], *more])
    pair = f"{names['target']} after {names['distractor']} ({about})"
    return pair if spread.against is None else f"{pair}, points less after {spread.against}"
