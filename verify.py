"""Verification of a finished run: every stored number is computed again from the debug log."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

import metrics
import records
from errors import UserError

TOLERANCE = 1e-6  # largest difference that counts as equal
IDENTITY = ("model", "target", "distractor", "metric_name", "n")
BY_LEN = ("metric_by_len", "cos_by_len", "debug_top5_by_len", "stats_by_len")
OF_TEXTS = ("scores", "extracted", "format_failure")  # of examples, beside their score
COLUMNS = ("quantity", "h", "values", "stored", "recomputed", "difference", "verdict")

Record = dict[str, Any]  # a result, a log or an example


def verify(path: Path) -> list[tuple[str, ...]]:
    """Rows of COLUMNS: what a log and its result store against what follows from the log."""
    beside = records.result_of_debug(path)
    log, result = records.read_debug(path), records.read_result(beside)
    examples = log["debug_examples"]
    metric_name = "accuracy" if "label_logprobs" in examples[0] else log["metric_name"]
    try:
        rescored = [example | judge(example, metric_name) for example in examples]
        if "scores_by_len" not in result:  # written before texts had more scores than one
            rescored = [{k: v for k, v in each.items() if k != "scores"} for each in rescored]
        aggregates = metrics.aggregate(rescored, metric_name) | {"metric_name": metric_name}
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged: it cannot be scored ({error!r:.90}).") from error
    except ValueError as error:
        return [("aggregates", "-", "0", "", f"none: {error!s:.90}", "", "MISMATCH")]
    return compare(flatten(result, examples), flatten(log | aggregates, rescored))


def judge(example: Record, metric_name: str) -> Record:
    """The values of an example that follow from what else it recorded."""
    if "label_logprobs" in example:
        return metrics.judge_labels(example["label_logprobs"], example["expected_answer"])
    text, references = example["model_prediction"], example["references"]
    scores = metrics.text_scores(text, references)
    return metrics.judge_text(text, references, metric_name, scores)


def flatten(record: Record, examples: list[Record]) -> dict[tuple, Any]:
    """Every value that is verified, by quantity, history length and place."""
    flat = {(name, "-", ""): record[name] for name in IDENTITY}
    for number, example in enumerate(examples):
        h, place = str(example["config"]["history_len"]), f"of example {number}"
        judged = ("model_prediction",) if "label_logprobs" in example else OF_TEXTS
        for name in ("score", *judged):
            if name in example:
                flat |= _leaves(name, h, example[name], place)
    for name in BY_LEN:
        for h, value in record[name].items():
            flat |= _leaves(name, h, value)
    for score, by_len in record.get("scores_by_len", {}).items():
        flat |= {("scores_by_len", h, score): value for h, value in by_len.items()}
    failures = record.get("format_failures_by_len", {})
    return flat | {("format_failures_by_len", h, ""): count for h, count in failures.items()}


def _leaves(name: str, h: str, value: Any, place: str = "") -> Record:
    """A value, or what it holds, by quantity, history length and place."""
    if isinstance(value, list):
        value = {f"no. {number}": item for number, item in enumerate(value, 1)}
    leaves = value if isinstance(value, dict) else {"": value}
    return {(name, h, f"{part} {place}".strip()): leaf for part, leaf in leaves.items()}


def compare(stored: dict[tuple, Any], recomputed: dict[tuple, Any]) -> list[tuple[str, ...]]:
    """A row of COLUMNS per quantity and history length, about the place that differs most."""
    groups = defaultdict(list)
    for key in stored | recomputed:
        pair = [side.get(key, "(missing)") for side in (stored, recomputed)]
        groups[key[:2]].append((difference(*pair), key[2], *pair))
    rows = []
    for (quantity, h), group in groups.items():
        gap, place, *pair = max(group, key=lambda entry: entry[0])
        wrong = sum(entry[0] > TOLERANCE for entry in group)
        shown = [f"{x:.9g}" if isinstance(x, float) else repr(x)[:70] for x in pair]
        cells = (f"{quantity} {place}".strip(), h, str(len(group)), *shown, f"{gap:.0e}")
        rows.append((*cells, f"MISMATCH ({wrong})" if wrong else "ok"))
    return rows


def difference(stored: Any, recomputed: Any) -> float:
    """Absolute difference of two numbers; of anything else 0 where equal, infinite where not."""
    if isinstance(stored, (int, float)) and isinstance(recomputed, (int, float)):
        return abs(stored - recomputed)
    return 0.0 if stored == recomputed else np.inf
