"""What so few examples cannot show, and what was left out. Reads results; no torch."""

from collections.abc import Sequence
from typing import Any

from measures import stats

Record = dict[str, Any]
Row = dict[str, Any]


def power(rows: Sequence[Row]) -> dict[str, Any]:
    """Number of examples, and the range of the smallest differences that they can show, of how many
    comparisons.
    """
    points = (row["detectable_points"] for row in rows)
    known = sorted(each for each in points if each is not None and each == each)
    counts = sorted({row["n"] for row in rows})
    ends = [f"{each:.1f}" for each in (known[0], known[-1])] if known else []
    return {
        "n": " to ".join(str(n) for n in dict.fromkeys((counts[0], counts[-1]))) if counts else "",
        "range": " to ".join(dict.fromkeys(ends)),
        "known": len(known),
        "all": len(rows),
        "unknown": [],
        "power": f"{stats.POWER:.0%}",
        "level": f"{stats.ALPHA:.0%}",
    }


def reasons(rows: list[Row], name: str) -> list[dict[str, Any]]:
    """Why a number is null, with the number of rows where it is."""
    counts: dict[str, int] = {}
    for row in rows:
        if row[name] != row[name]:
            reason = row["stored"].get(f"{name}_reason", "of no stored reason")
            counts[reason] = counts.get(reason, 0) + 1
    return [{"reason": reason, "count": count} for reason, count in counts.items()]


# -- what was left out


def left_out(results: Sequence[Record], names: Sequence[str]) -> dict[str, Any]:
    """Skipped targets, format failures and layer values that were not finite, for every pair.

    A target that several pairs share is counted once among those skipped.
    """
    rows, skipped, failed = [], set(), {True: 0, False: 0}
    for result, name in zip(results, names):
        row = {"name": name, **_left_out(result)}
        skipped |= {(result["model"], result["target"], place) for place in row["targets"]}
        failed[bool(result["reads_by_len"])] += sum(row["failures"].values())
        rows.append(row)
    return {
        "rows": rows,
        "skipped": len(skipped),
        "failed": failed[False],
        "beside": failed[True],  # in texts that the metric is not read from
        "extracted": any(row["failures"] for row in rows),
        "excluded": sum(row["excluded"] for row in rows),
        "lengths": sorted({h for row in rows for h in row["failures"]}),
    }


def _left_out(result: Record) -> dict[str, Any]:
    return {
        "n": result["n"],
        "skipped": int(result.get("n_skipped", 0)),
        "targets": list(result.get("skipped_target_idx", [])),
        "failures": {int(h): int(n) for h, n in result["format_failures_by_len"].items()},
        "excluded": _excluded(result),
    }


def _excluded(result: Record) -> int:
    """Layer values that were not finite, with prompts that no block decides."""
    by_len = result["layer_stats_by_len"].values()
    measures = [measure for of_len in by_len for measure in of_len.values()]
    return sum(sum(m.get("excluded", [])) + m.get("undecided", 0) for m in measures)
