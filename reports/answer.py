"""The first words of a page: did the switch hurt, and does the model do the previous task?

The numbers come from `measures.contrasts` and from `intrusion_by_len`; this file finds the words.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from core.keys import FIELDS, same_task
from measures import contrasts
from measures.contrasts import Row
from reports import style, tables
from reports.contrasts import legend, marks_of, rounded, sureness, tested
from reports.style import turns

MOST_NAMED = 8  # contrasts in the table of the page
ALONE = (
    "Whether the switch hurts cannot be told here: no target was run after its own task and after "
    "another. Give the target as a --distractor too."
)
Record = dict[str, Any]


def make_answer(results: tables.Results) -> dict[str, Any]:
    """`sentence` and `over_all` in words, `all` contrasts of distractors, the surest as they are
    read (`rows`) with what they are, and `refused`, why pairs cannot be compared.
    """
    pairs, refused = contrasts.comparable(results)
    rows = contrasts.rows_of(pairs)
    switch = [row for row in rows if _is_switch(row)]
    apart = [name for name in FIELDS if len({key.fields[name] for key in results}) > 1]
    apart = [name for name in apart if name not in ("target", "distractor")]
    own = [pair for pair in pairs if same_task(pair[1].key.fields["target"], pair[1].name)]
    effects = contrasts.switch_effects(own)
    surest = _surest(rows)
    marks = marks_of(surest)
    shown = [_shown(row, apart, marks) for row in surest]
    return {
        "sentence": in_words(switch, tested(rows), apart),
        "over_all": [_over_all(each, apart) for each in effects if each["points"] is not None],
        "not_estimated": [_over_all(each, apart) for each in effects if each["points"] is None],
        "switch": bool(switch),
        "all": rows,
        "rows": shown,
        "marks": legend(marks),
        "count": len(rows),
        "tests": tested(rows),
        "refused": refused,
    }


def _is_switch(row: Row) -> bool:
    """Is another task compared with the target's own, not the own task in another split?"""
    own, other = (same_task(row["target"], row[side]) for side in ("against", "distractor"))
    return own and not other


# -- the finding


def in_words(rows: Sequence[Row], tests: int, apart: Sequence[str] = ()) -> str:
    """Whether a switch hurts, by how much, and how sure that is, corrected over so many tests;
    contrasts are told apart by these fields too.
    """
    if not rows:
        return ALONE
    found = [row for row in rows if tables.stars(row["p_holm"])]
    fell, rose = ([row for row in found if sign * row["difference_points"] > 0] for sign in (-1, 1))
    if not found:
        worst = min(rows, key=lambda row: row["difference_points"])
        none = f"none of {len(rows)} contrasts" if len(rows) > 1 else "the one contrast"
        return (
            f"Nothing here shows that the switch hurts, nor that it does not: {none} with the "
            f"target's own task is{'' if len(rows) > 1 else ' not'} significant. "
            f"The lowest: {compared(worst, tests, apart)}"
        )
    sides = [("hurts", fell), ("helps", rose)]
    if len(rows) == 1:
        lead = "The switch hurts." if fell else "The switch helps."
    else:
        counts = " and ".join(f"{verb} in {len(side)}" for verb, side in sides if side)
        lead = f"The switch {counts} of {len(rows)} contrasts with the target's own task."
    text = compared(max(fell or rose, key=_size), tests, apart)
    return f"{lead} {'The largest: ' + text if len(found) > 1 else text[0].upper() + text[1:]}"


def _size(row: Row) -> float:
    return abs(row["difference_points"])


def compared(row: Row, tests: int, apart: Sequence[str] = ()) -> str:
    """A contrast with the own task as a sentence; a significant one is said to be lower or higher,
    another to differ.
    """
    ends = [row["difference_points"], row["low"], row["high"]]
    sure = bool(tables.stars(row["p_holm"]))
    if sure and ends[0] < 0:
        ends = [-ends[0], *(None if end is None else -end for end in (ends[2], ends[1]))]
    size, low, high = ("" if end is None else tables.number(end, 1) for end in ends)
    lower = "lower" if row["difference_points"] < 0 else "higher"
    differs = f"is {size} points {lower} than" if sure else f"differs by {size} points from that"
    own = "its own task" + (f" ({row['against']})" if row["against"] != row["target"] else "")
    metric = style.in_sentence(row["metric"])
    about = [
        *_told_apart(row, apart),
        f"95% interval {low} to {high}" if low and high else "no interval",
        f"n = {row['n']}",
    ]
    return (
        f"after {turns(row['h'])} of {row['distractor']}, {metric} of {row['target']} {differs} "
        f"after {turns(row['h'])} of {own} ({', '.join([*about, _p(row, tests)])})."
    )


def _p(row: Row, tests: int) -> str:
    if row["p_holm"] is None:
        return "not testable"
    corrected = f" after Holm's correction over {tests} tests" if tests > 1 else ""
    return f"{_p_in_words(row['p_holm'])}{corrected}"


def _p_in_words(p: float) -> str:
    return f"p = {tables.p_text(p)}" if p >= 0.001 else "p < 0.001"


def _surest(rows: Sequence[Row]) -> list[Row]:
    """The surest contrasts first."""
    return sorted(rows, key=sureness)[:MOST_NAMED]


def _told_apart(row: Row, apart: Sequence[str]) -> list[str]:
    """What tells a contrast from others of its target and distractors."""
    named = {name: row[name] for name in apart} | row["settings"]
    return [f"{name} {value}" for name, value in named.items()]


def _shown(row: Row, apart: Sequence[str], marks: Mapping[str, str]) -> dict[str, Any]:
    """A contrast's texts by column, with what tells it from the others."""
    more = _told_apart(row, apart)
    name = f"{row['target']} after {row['distractor']}" + (f" ({', '.join(more)})" if more else "")
    return {"name": name, "cells": rounded(row, marks), "stars": bool(tables.stars(row["p_holm"]))}


def _over_all(effect: dict[str, Any], apart: Sequence[str]) -> str:
    """One regression in words."""
    metric = style.in_sentence(effect["metric"])
    named = effect["key"].fields
    of = ", ".join(f"{name} {named[name]}" for name in (*apart, *effect["key"].settings))
    start = f"Over all targets, distractors and lengths together{f' ({of})' if of else ''}"
    if effect["points"] is None:
        return f"{start}, the effect of a switch on {metric} is not estimated: {effect['reason']}."
    points, *ends = (tables.number(effect[name], 1) for name in ("points", "low", "high"))
    return (
        f"{start}, a switch changes {metric} by {points} points [{', '.join(ends)}] "
        f"({_p_in_words(effect['p_value'])}, {effect['clusters']} clusters, by regression)."
    )


# -- answers to the previous task


def intrusion(results: Sequence[Record], names: Sequence[str]) -> dict[str, Any]:
    """How often the previous task is answered instead: the highest rate in words (`sentence`), and
    `rows` of rates and margins over the `lengths`; both empty where nothing of it can be told.
    """
    held = [(result, name) for result, name in zip(results, names) if result["intrusion_by_len"]]
    rows = [row for result, name in held for row in _intrusion_rows(result, name)]
    lengths = sorted({int(h) for result, _ in held for h in result["intrusion_by_len"]})
    for row in rows:
        row["cells"] = [row["by_len"].get(str(h), "") for h in lengths]
    return {"sentence": _highest(held), "rows": rows, "lengths": lengths}


def _intrusion_rows(result: Record, name: str) -> Iterator[dict[str, Any]]:
    """A row of rates and one of margins, as far as there are any."""
    entries = result["intrusion_by_len"]
    rates = {h: _percent(entry) for h, entry in entries.items() if entry.get("rate") is not None}
    margins = {
        h: tables.with_ends(_plain(entry), "margin", "margin_low", "margin_high", 2)
        for h, entry in entries.items()
        if entry.get("margin") is not None
    }
    for measure, by_len in (("intrusion", rates), ("intrusion_margin", margins)):
        if by_len:
            yield {"name": name, "measure": measure, "by_len": by_len}


def _plain(entry: Row) -> Row:
    """Its numbers, NaN for null or missing."""
    names = ("margin", "margin_low", "margin_high")
    return {k: float("nan") if entry.get(k) is None else entry[k] for k in names}


def _percent(entry: Row) -> str:
    """A rate with its interval where there is one."""
    ends = ["" if entry.get(end) is None else f"{entry[end]:.0%}" for end in ("low", "high")]
    return f"{entry['rate']:.0%}" + (f" [{', '.join(ends)}]" if all(ends) else "")


def _highest(held: Sequence[tuple[Record, str]]) -> str:
    """The highest rate after a history, beside the one at h = 0, where such a form comes up by
    chance; nothing without any rate. Results come with their names.
    """
    found = [
        (entry["rate"], entry, h, result, name)
        for result, name in held
        for h, entry in result["intrusion_by_len"].items()
        if int(h) and entry.get("rate") is not None
    ]
    if not found:
        return ""
    rate, entry, h, result, name = max(found, key=lambda each: each[0])
    if not rate:
        return "No answer after a history has the form of an answer to the distractor."
    before = (result["intrusion_by_len"].get("0") or {}).get("rate")
    chance = "" if before is None else f"; without a history {before:.0%} have it"
    pair = f"{result['target']} after {result['distractor']}"
    told = name.removeprefix(pair) if name.startswith(pair) else ""  # (history filler) (seed 0)
    about = [f"n = {entry.get('n', result['n'])}", *told.strip(" ()").split(") (")]
    about += [f"the highest of {len(found)} rates"] if len(found) > 1 else []
    return (
        f"After {turns(h)} of {result['distractor']}, {_percent(entry)} of the answers to "
        f"{result['target']} have the form of an answer to {result['distractor']}{chance} "
        f"({', '.join(filter(None, about))})."
    )
