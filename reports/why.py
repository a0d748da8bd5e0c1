"""Why a history acts: what is position, length and content, and what other histories do.

The numbers come from `effects_by_len` and `measures.contrasts`; this file finds the words.
"""

from collections.abc import Sequence
from typing import Any

from core.keys import USUAL
from measures import contrasts
from measures.contrasts import Row
from reports import tables
from reports.contrasts import legend, marks_of, rounded, sureness, tested
from reports.effects import unit_of
from reports.style import turns

PARTS = ("position", "length", "content", "seen", "total")  # as far as they were measured
MOST_KINDS = 12  # contrasts of histories in the table

Record = dict[str, Any]


def parts(results: Sequence[Record], names: Sequence[str]) -> dict[str, Any]:
    """The parts of the change at the longest history of each result that holds them: `columns`,
    `rows` of texts, and the largest change in words.
    """
    held = [(name, result) for name, result in zip(names, results) if result["effects_by_len"]]
    if not held:
        return {"columns": [], "rows": [], "sentence": ""}
    rows = [_longest(name, result) for name, result in held]
    there = [name for name in PARTS if any(name in row["parts"] for row in rows)]
    if "length" in there:
        there.remove("seen")  # length and content apart
    for row in rows:
        row["cells"] = [_cell(row["parts"].get(name)) for name in there]
    return {"columns": there, "rows": rows, "sentence": _in_words(rows, there)}


def _longest(name: str, result: Record) -> dict[str, Any]:
    h = max(result["effects_by_len"], key=int)
    found = result["effects_by_len"][h]["contrasts"]
    return {"name": name, "h": int(h), "n": result["n"], "unit": unit_of(result), "parts": found}


def _cell(stats: Row | None) -> str:
    """A mean with its interval and stars."""
    if stats is None:
        return ""
    known = {k: float("nan") if stats[k] is None else stats[k] for k in ("mean", "low", "high")}
    return tables.with_ends(known, "mean", "low", "high", 2) + tables.stars(stats["p_holm"])


def _in_words(rows: Sequence[Row], there: Sequence[str]) -> str:
    """The largest total that has all these parts, and what it is made of."""

    def has(part: Row | None) -> bool:
        return part is not None and part["mean"] is not None

    known = [row for row in rows if all(has(row["parts"].get(name)) for name in there)]
    if not known:
        return ""
    row = max(known, key=lambda each: abs(each["parts"]["total"]["mean"]))
    means = {name: tables.number(row["parts"][name]["mean"], 2) for name in there}
    made_of = [f"{means[name]} from {_named(name)}" for name in there if name != "total"]
    return (
        f"The largest change is that of {row['name']}: after {turns(row['h'])} the {row['unit']} "
        f"moves by {means['total']} (n = {row['n']}), of which {', '.join(made_of[:-1])} and "
        f"{made_of[-1]}."
    )


def _named(part: str) -> str:
    return "length and content" if part == "seen" else part


# -- other histories


def kinds(results: tables.Results) -> dict[str, Any]:
    """Contrasts of histories with the usual one: `all`, the surest as texts, and `refused`."""
    names = sorted({key.fields["history"] for key in results})
    if len(names) < 2:
        return {"all": [], "rows": [], "count": 0, "refused": [], "names": names}
    against = USUAL if USUAL in names else None  # others are compared with it
    pairs, refused = contrasts.comparable(results, "history", against)
    rows = contrasts.rows_of(pairs)
    surest = sorted(rows, key=sureness)[:MOST_KINDS]
    marks = marks_of(surest)
    shown = [rounded(row, marks) | _sides(row) for row in surest]
    return {
        "all": rows, "rows": shown, "marks": legend(marks), "count": len(rows),
        "tests": tested(rows), "refused": refused, "names": names,
    }  # fmt: skip


def _sides(row: Row) -> dict[str, Any]:
    settings = "".join(f", {name} {value}" for name, value in row["settings"].items())
    return {"name": f"{row['target']} after {row['distractor']}{settings}"}
