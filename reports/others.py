"""The scores that stand beside the metric, as tables of a report. Reads results; no torch."""

from collections.abc import Mapping, Sequence
from typing import Any

from reports import style, tables
from reports.meanings import MEANINGS

Record = dict[str, Any]

TITLES = {
    "scores_by_len": "All scores of generated texts (fraction, mean over examples)",
    "reads_by_len": "Label tasks read by likelihood and in the generated text (fraction)",
    "reliability_by_len": "Over the histories of a target (fraction; changes in points)",
}
LEFT_OUT = ("_low", "_high", "_reason")  # what stands with a number, in no column of its own


def other_scores(results: Sequence[Record], names: Sequence[str]) -> list[dict[str, Any]]:
    """Tables of the scores of texts, of both readings of labels, and over several histories."""
    found = []
    for key, title in TITLES.items():
        held = [(name, result) for name, result in zip(names, results) if result[key]]
        if held:
            first = next(iter(held[0][1][key].values()))
            columns = [name for name in first if not name.endswith(LEFT_OUT)]
            rows = [
                {"name": name, "h": h, "values": [_text(scores, c) for c in columns]}
                for name, result in held
                for h, scores in result[key].items()
            ]
            named = [(style.METRICS.get(c, c.replace("_", " ")), _measure(c)) for c in columns]
            found.append({"title": title, "columns": named, "rows": rows})
    return found


def _measure(column: str) -> str:
    """The measure whose meaning a column has, or nothing."""
    name = column.removesuffix("_change")
    return name if name in MEANINGS else ""


def _text(scores: Mapping[str, Any], name: str) -> str:
    """A fraction, a whole number, or a change in points with its interval where it has one."""
    value = scores[name]
    if not name.endswith("_change"):
        return f"{value:.3f}" if isinstance(value, float) else str(value)
    ends = {end: scores[end] for end in (f"{name}_low", f"{name}_high")}
    if None in ends.values():
        return tables.number(value, 1)
    return tables.with_ends({name: value} | ends, name, *ends, 1)
