"""The first words of a page: was it the switch, and does the model do the previous task?

The numbers come from `measures.contrasts` and from `intrusion_by_len`; this file finds the words.
"""

from collections.abc import Sequence
from typing import Any

from measures import contrasts, stats
from measures.contrasts import Row, same_task
from reports import style, tables
from reports.contrasts import explain, label_of, rounded, tested

MOST_NAMED = 6  # contrasts in the table of the verdict
ALONE = (
    "No target was run after its own task and after another, so nothing here tells a switch from a "
    "longer prompt. Give the target as a --distractor too."
)
Record = dict[str, Any]


def make_answer(results: tables.Results) -> dict[str, Any]:
    """`sentence`, `over_all` and `intrusion` in words, `all` contrasts, the surest as they are
    read (`rows`) with what they are, and `refused`, why pairs cannot be compared.
    """
    rows, refused = contrasts.comparable(results)
    switch = [row for row in rows if same_task(row["target"], row["against"])]
    return {
        "sentence": in_words(switch, tested(rows)),
        "over_all": [_over_all(each) for each in contrasts.switch_effects(results)]
        if switch
        else [],
        "intrusion": intrusion(list(results.values())),
        "all": rows,
        "rows": [_shown(row) for row in _largest(rows)],
        "count": len(rows),
        "explained": explain(rows) if rows else "",
        "refused": refused,
    }


def in_words(rows: Sequence[Row], tests: int) -> str:
    """Whether a switch hurts, by how much, and how sure that is, corrected over so many tests."""
    if not rows:
        return ALONE
    many = len(rows)
    found = [row for row in rows if tables.stars(row["p_holm"])]
    fell, rose = ([row for row in found if sign * row["difference_points"] > 0] for sign in (-1, 1))
    scope = f"of {many} contrasts with the target's own task" if many > 1 else "of the one contrast"
    sure = (
        f"p < {stats.ALPHA}, Holm-corrected over {tests} tests"
        if tests > 1
        else f"p < {stats.ALPHA}"
    )
    if not found:
        worst = min(rows, key=lambda row: row["difference_points"])
        return (
            "Nothing here shows that a switch hurts, nor that it does not: none "
            f"{scope} is significant ({sure}). The lowest is {_named(worst)}."
        )
    parts = [
        f"a switch {verb} in {len(side)} {scope} ({sure}), most {_named(max(side, key=_size))}"
        for verb, side in (("hurts", fell), ("helps", rose))
        if side
    ]
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _size(row: Row) -> float:
    return abs(row["difference_points"])


def _named(row: Row) -> str:
    """A contrast in a sentence."""
    texts, metric = rounded(row), style.METRICS.get(row["metric"], row["metric"])
    difference = texts["Difference (points)"].rstrip("*")
    p = f"p = {texts['p (Holm)']}" if texts["p (Holm)"] else "not testable"
    return (
        f"{row['target']} after {row['distractor']} at h = {row['h']}: {difference} points of "
        f"{metric} against {row['against']} ({p}, n = {row['n']})"
    )


def _largest(rows: Sequence[Row]) -> list[Row]:
    """The surest contrasts first."""
    return sorted(rows, key=lambda row: (_or(row["p_holm"], 2), -_size(row)))[:MOST_NAMED]


def _or(value: Any, other: float) -> float:
    return other if value is None else value


def _shown(row: Row) -> dict[str, Any]:
    return {"name": label_of(row, "distractor"), "against": row["against"]} | {
        "stars": bool(tables.stars(row["p_holm"])), "cells": rounded(row)
    }  # fmt: skip


def _over_all(effect: dict[str, Any]) -> str:
    """One regression in words."""
    metric = style.METRICS.get(effect["metric"], effect["metric"])
    start = f"Over all targets, distractors and lengths ({metric}, one regression)"
    if effect["points"] is None:
        return f"{start}: not computed, {effect['reason']}."
    points, *ends = (tables.number(effect[name], 1) for name in ("points", "low", "high"))
    return (
        f"{start} a switch changes the metric by {points} [{', '.join(ends)}] points "
        f"(p = {tables.p_text(effect['p_value'])}, {effect['clusters']} clusters)."
    )


def intrusion(results: Sequence[Record]) -> str:
    """How often the previous task is answered instead, where results hold it; else nothing.

    Beside the highest rate stands the one at h = 0, where such a form comes up by chance.
    """
    found = [
        (entry["rate"], entry, h, result)
        for result in results
        for h, entry in (result.get("intrusion_by_len") or {}).items()
        if int(h) and entry and entry.get("rate") is not None
    ]
    if not found:
        return ""
    rate, entry, h, result = max(found, key=lambda each: each[0])
    if not rate:
        return "Does it answer the previous task? No answer after a history has its form."
    before = (result["intrusion_by_len"].get("0") or {}).get("rate")
    ends = ["" if entry.get(end) is None else f"{entry[end]:.0%}" for end in ("low", "high")]
    interval = f" [{', '.join(ends)}]" if all(ends) else ""
    chance = "" if before is None else f", {before:.0%} without a history"
    turns = f"{h} turn{'' if h == '1' else 's'}"
    return (
        f"Does it answer the previous task? After {turns} of {result['distractor']}, {rate:.0%}"
        f"{interval} of the answers to {result['target']} have that task's form{chance} "
        f"(n = {entry.get('n', result['n'])}, the highest of {len(found)} rates)."
    )
