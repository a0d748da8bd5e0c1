"""The numbers and words of a report: verdict, tables, heat maps, settings. Reads results; no torch.

The numbers of verdict and table come from `tables.make_frame` and are rounded by `tables.rounded`,
those of heat maps by `tables.cell_text`, so that page, table and figures cannot disagree.
"""

from collections.abc import Callable, Iterator, Sequence
from operator import neg, pos
from typing import TYPE_CHECKING, Any

from core.keys import same_task
from measures import stats
from reports import limits, style, tables

if TYPE_CHECKING:
    from pandas import DataFrame

NO_HISTORY = "These results have no history (h = 0 only)."
MOST_NAMED = 3  # pairs in a sentence of the verdict
SHADES = 20  # steps of the heat map's colours
# Column of `tables.rounded` -> the number that it is sorted by
SORTED_BY = {
    "h": "h", "Value": "value", "Change (points)": "change_points", "Change (%)": "percent_change",
    "p": "p_value", "p (Holm)": "p_holm_table", "n": "n", "Detectable": "detectable_points",
}  # fmt: skip
# Column -> its measure, whose meaning is in `meanings`
MEASURES = {
    "Value": "value", "Change (points)": "change", "Change (%)": "percent", "p": "p",
    "p (Holm)": "p_holm", "n": "n", "Detectable": "detectable",
}  # fmt: skip
SIDES = ("target", "distractor")

Record = dict[str, Any]
Row = dict[str, Any]  # of tables.make_frame


def identity(frame: "DataFrame") -> list[str]:
    """Columns that tell results apart beside target and distractor, and do so here."""
    return [name for name in _apart(frame) if frame[name].nunique() > 1]


def _apart(frame: "DataFrame") -> list[str]:
    return [name for name in tables.key_columns(frame) if name not in SIDES]


def name_of(row: Row, apart: Sequence[str]) -> str:
    """`target after distractor`, with what else tells it from the others."""
    more = [row[name] if name == "model" else f"{name} {row[name]}" for name in apart]
    return f"{row['target']} after {row['distractor']}" + "".join(f" ({each})" for each in more)


# -- the verdict


def make_verdict(frame: "DataFrame", results: Sequence[Record]) -> dict[str, Any]:
    """The answer in words: how many comparisons are significant, what hurts most, what n can show.

    `hurt`, `helped` and `control` (histories of the target's own task, changed either way) are
    lists of pairs, the largest change of each; `switches` counts comparisons of two tasks.
    """
    rows = _compared(frame, results)
    tested = [row for row in rows if row["p_value"] == row["p_value"]]
    found = [row for row in tested if row["stars"]]
    fell, rose = ([row for row in found if sign * row["change_points"] > 0] for sign in (-1, 1))
    switches = [row for row in rows if not same_task(row["target"], row["distractor"])]
    falls = [row for row in fell if not same_task(row["target"], row["distractor"])]
    return {
        "sentence": _count(found, tested, len(fell), len(rose)) if rows else NO_HISTORY,
        "most": _most(rows),
        "untested": limits.reasons(rows, "p_value"),
        "significant": bool(falls),
        "compared": len(rows),
        "switches": len(switches),
        "hurt": _largest(falls or switches, neg),
        "helped": _largest(
            [row for row in rose if not same_task(row["target"], row["distractor"])], pos
        ),
        "control": _largest(
            [row for row in rows if same_task(row["target"], row["distractor"])], abs
        ),
        "power": limits.power(rows) | {"unknown": limits.reasons(rows, "detectable_points")},
    }


def _compared(frame: "DataFrame", results: Sequence[Record]) -> list[Row]:
    """The rows from h = 1 with their name, their texts, the value they start from, and `stored`,
    the statistics with the reasons of nulls.
    """
    apart, rows, start = identity(frame), [], ""
    entries = (entry for result in results for entry in result["stats_by_len"].values())
    texts = tables.rounded(frame).to_dict("records")
    for row, text, stored in zip(frame.to_dict("records"), texts, entries):
        if row["h"]:
            more = {"name": name_of(row, apart), "text": text, "start": start, "stored": stored}
            rows.append(row | more)
        else:
            start = text["Value"]
    return rows


def _count(found: list[Row], tested: list[Row], fell: int, rose: int) -> str:
    if not tested:
        return "No comparison with h = 0 could be tested."
    many = len(tested)
    corrected = f"after Holm's correction over all {many} (p < {stats.ALPHA})"
    if many == 1:
        corrected = f"(p < {stats.ALPHA})"
    if not found:
        none = "None of the" if many > 1 else "The one comparison with h = 0 is not"
        rest = f" {many} comparisons with h = 0 is" if many > 1 else ""
        return f"{none}{rest} significant {corrected}."
    verb = "is" if len(found) == 1 else "are"
    moved = f"{_plural(fell, 'fall')} and {_plural(rose, 'rise')}"
    return f"{len(found)} of {many} comparisons with h = 0 {verb} significant {corrected}: {moved}."


def _most(rows: list[Row]) -> str:
    """The largest change in words."""
    if not rows:
        return ""
    row = max(rows, key=lambda each: abs(each["change_points"]))
    metric = style.in_sentence(row["metric"])
    p = row["text"]["p (Holm)"]
    return (
        f"Against no history the largest change is that of {row['name']} at h = {row['h']}: "
        f"{metric} moves by {row['text']['Change (points)'].rstrip('*')} points (n = {row['n']}, "
        f"{f'p = {p} corrected' if p else 'not testable'})."
    )


def _plural(count: int, noun: str) -> str:
    return f"{count or 'no'} {noun}{'' if count == 1 else 's'}"


def _largest(rows: list[Row], size: Callable[[float], float]) -> list[dict[str, str]]:
    """The row of each pair whose change has the largest `size` above 0, the largest pairs first."""
    best: dict[str, tuple[float, Row]] = {}
    for row in rows:
        found = size(row["change_points"])
        if found > best.get(row["name"], (0, row))[0]:
            best[row["name"]] = found, row
    order = [row for _, row in sorted(best.values(), key=lambda pair: -pair[0])]
    return [
        {
            "name": row["name"],
            "h": row["h"],
            "metric": style.METRICS.get(row["metric"], row["metric"]),
            "change": row["text"]["Change (points)"],
            "before": row["start"].partition(" ")[0],
            "after": row["text"]["Value"].partition(" ")[0],
            "p": row["text"]["p (Holm)"],
        }
        for row in order[:MOST_NAMED]
    ]


# -- tables


def verdict_table(frame: "DataFrame") -> dict[str, Any]:
    """The rounded table of all rows: `columns` and `rows` of cells with what they are sorted by.

    A column that names the model, or how a history was made, is left out where it is the same for
    all; it is under `shared` then.
    """
    cells = tables.rounded(frame)
    shared = {name: frame[name].iloc[0] for name in _apart(frame) if name not in identity(frame)}
    left_out = set(map(tables.heading, shared))
    columns = [name for name in cells if name not in left_out]
    rows = [
        {
            "h": row["h"],
            "significant": bool(row["stars"]),
            "cells": [_cell(text[name], row.get(SORTED_BY.get(name))) for name in columns],
        }
        for text, row in zip(cells.to_dict("records"), frame.to_dict("records"))
    ]
    return {
        "columns": [
            {"name": name, "number": name in SORTED_BY, "measure": MEASURES.get(name)}
            for name in columns
        ],
        "rows": rows,
        "shared": shared,
        "tests": int(frame["p_value"].notna().sum()),
        "stars": ", ".join(tables.MARK.format(mark, end) for end, mark in reversed(tables.STARS)),
        "lengths": sorted(set(frame["h"])),
        "empty": _empty_cells(frame),
    }


def _cell(text: str, value: Any) -> dict[str, Any]:
    missing = not text or value is None or value != value
    return {"text": text, "sort": "" if missing else repr(value)}


def _empty_cells(frame: "DataFrame") -> list[dict[str, Any]]:
    """Why cells from h = 1 are empty, and in which rows."""
    apart, found = identity(frame), {}
    for row in frame.to_dict("records"):
        if row["h"] and row["note"]:
            for reason in row["note"].split("; "):
                place = f"{name_of(row, apart)} at h = {row['h']}"
                found.setdefault(reason, []).append(place)
    return [{"reason": reason, "places": places} for reason, places in found.items()]


def heat_maps(frame: "DataFrame") -> dict[str, Any]:
    """Change in points, target by distractor, a `map` for every h of every model (and history).

    All share one scale; a cell's `shade` is a class from 0 (fall) to SHADES (rise).
    """
    limit = max(1.0, float(frame["change_points"].abs().max()))
    apart = identity(frame)
    maps = []
    for values, part in frame.groupby(apart) if apart else [((), frame)]:
        title = ", ".join(f"{name} {value}" for name, value in zip(apart, values))
        maps += [
            {"h": h, "title": title, **_heat_map(part, h, limit)}
            for h in sorted(set(frame["h"]))
            if h
        ]
    return {
        "maps": maps,
        "limit": f"{limit:.1f}",
        "lengths": [h for h in sorted(set(frame["h"])) if h],
        "shades": list(_shades()),
    }


def _heat_map(part: "DataFrame", h: int, limit: float) -> dict[str, Any]:
    targets, distractors = (sorted(part[name].unique()) for name in ("target", "distractor"))
    at = {
        (row["target"], row["distractor"]): row
        for row in part.to_dict("records")
        if row["h"] == h and row["change_points"] == row["change_points"]
    }
    metric = dict(zip(part["target"], part["metric"]))
    return {
        "distractors": distractors,
        "rows": [
            {
                "target": target,
                "metric": style.METRICS.get(metric[target], metric[target]),
                "cells": [_heat_cell(at.get((target, name)), limit) for name in distractors],
            }
            for target in targets
        ],
    }


def _heat_cell(row: Row | None, limit: float) -> dict[str, Any] | None:
    if row is None:
        return None
    return {
        "text": tables.cell_text(row, between=""),
        "shade": round((row["change_points"] / limit + 1) / 2 * SHADES),
        "significant": bool(row["stars"]),
    }


def _shades() -> Iterator[dict[str, str]]:
    """Colours of the heat map and of the numbers on them, from a fall to a rise."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    for step in range(SHADES + 1):
        place = 2 * step / SHADES - 1
        yield {
            "colour": to_hex(colormaps[style.DIVERGING]((place + 1) / 2)),
            "ink": style.ink(place),
        }


# -- settings


def settings(results: Sequence[Record], names: Sequence[str]) -> dict[str, Any]:
    """Config and environment: under `shared` what is the same for all, with titles; under `apart`
    the rest, once for each target or distractor where that decides it, else for every pair.
    """
    shared, apart = [], []
    for part, title in (("config", "Settings"), ("environment", "Environment")):
        flat = [dict(_leaves(result[part])) for result in results]
        same = []
        for key in dict.fromkeys(key for one in flat for key in one if key not in SIDES):
            values = [one.get(key, "(not recorded)") for one in flat]
            if len(set(values)) == 1:
                same.append((key, values[0]))
            else:
                apart += [(key, *entry) for entry in _grouped(values, results, names)]
        shared.append((title, same))
    return {"shared": shared, "apart": apart}


def _grouped(
    values: Sequence[str], results: Sequence[Record], names: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Whose value it is, and the value: by target or distractor where that decides it."""
    ways: list[tuple[str, Callable[[int], str]]] = [
        ("target", lambda i: results[i]["target"]),
        ("distractor", lambda i: results[i]["distractor"]),
        ("model", lambda i: results[i]["model"]),
        ("", lambda i: names[i]),
    ]
    for what, key in ways:
        found: dict[str, dict[str, None]] = {}
        for i, value in enumerate(values):
            found.setdefault(key(i), {})[value] = None
        if not what or all(len(seen) == 1 for seen in found.values()):
            for name, seen in found.items():
                yield f"{what} {name}".strip(), " | ".join(seen)
            return


def _leaves(settings: Record, place: str = "") -> Iterator[tuple[str, str]]:
    """Every setting as text by the path to it; an object of plain values is one text of lines."""
    for key, value in settings.items():
        name = f"{place}.{key}" if place else key
        if isinstance(value, dict) and any(isinstance(inner, dict) for inner in value.values()):
            yield from _leaves(value, name)
        elif isinstance(value, dict) and value:
            yield name, "\n".join(f"{each}: {_text(inner)}" for each, inner in value.items())
        else:
            yield name, _text(value)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value in (None, {}) else str(value)
