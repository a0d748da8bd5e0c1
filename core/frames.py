"""Results and their prompts as tables of pandas, for a notebook and for other programs."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from core.debug_log import Example
from core.keys import Key

if TYPE_CHECKING:  # pandas is slow to import, and --help does not need it
    from pandas import DataFrame

SUFFIX = "_by_len"
TEXTS = "debug_top5_by_len"
MEANS = {"mean": "", "share": "", "rate": ".rate"}  # what `low` and `high` beside it are of -> name

WORDS = {"test", "interval", "unit"}  # hold texts, or null where there is nothing to say


class Row(NamedTuple):
    """One number of a result."""

    measure: str  # its path in the result: `cos`, `intrusion.rate`, `effects.routes.through`
    place: int | None  # in a list, from 1: a block, a window or a turn
    value: float | None
    low: float | None = None  # of its interval
    high: float | None = None


def results_frame(results: Mapping[Key, dict[str, Any]]) -> "DataFrame":
    """A row per result, history length, measure and place; null is NaN.

    The columns are the fields of the results' keys, `metric` (its name), `h`, and those of Row.
    """
    import pandas

    rows = [
        key.fields | {"metric": result["metric_name"], "h": int(h)} | row._asdict()
        for key, result in results.items()
        for h in result["metric_by_len"]
        for row in _numbers_at(result, h)
    ]
    numeric = {"place": "Int64", "value": float, "low": float, "high": float}
    return pandas.DataFrame(rows).astype(numeric)


def examples_frame(examples: Iterable[tuple[Key, Example]], flat: bool = False) -> "DataFrame":
    """A row per prompt: the fields of its result's key, and all that the debug log holds of it.

    What is nested stays a list or a dict; `flat` makes dicts JSON, as files need it.
    """
    import pandas

    return pandas.DataFrame([_prompt_row(key, example, flat) for key, example in examples])


def with_texts_for_lists(frame: "DataFrame") -> "DataFrame":
    """The frame with every list as JSON, as a file of plain cells needs it."""
    return frame.map(lambda cell: json.dumps(cell) if isinstance(cell, list) else cell)


def _prompt_row(key: Key, example: Example, flat: bool) -> dict[str, Any]:
    made = dict(example["config"])
    made["history_seed"] = made.pop("seed")  # a result may have several
    row = key.fields | {"h": made.pop("history_len")} | made
    row |= {name: value for name, value in example.items() if name != "config"}
    if flat:
        row = {k: json.dumps(v) if isinstance(v, dict) else v for k, v in row.items()}
    return row


def _numbers_at(result: Mapping[str, Any], h: str) -> Iterator[Row]:
    """Every number of a result at one history length."""
    at = {name: held[h] for name, held in result.items() if name.endswith(SUFFIX) and h in held}
    stats, layers = dict(at.pop("stats_by_len")), at.pop("layer_stats_by_len", {})
    yield Row("metric", None, at.pop("metric_by_len"), stats.pop("low"), stats.pop("high"))
    yield from _inside("", stats)
    for name, held in layers.items():
        if "mean" not in held:
            held = {"mean": at.pop(f"{name}{SUFFIX}")} | held
        yield from _numbers(name, held)
    for name, value in at.items():
        if name == "decision_layer_by_len":
            yield from _numbers("decision_layer.count", value)
        elif name != TEXTS:
            yield from _numbers(name.removesuffix(SUFFIX), value)


def _numbers(name: str, value: Any, low: Any = None, high: Any = None) -> Iterator[Row]:
    """Rows of a value and all that is inside it; its interval, if it has one, is of its form."""
    if isinstance(value, dict):
        yield from _inside(name, value)
    elif isinstance(value, list):
        for place, item in enumerate(value, 1):
            if isinstance(item, list):  # first and last of a window
                yield from (Row(f"{name}.{i}", place, each) for i, each in enumerate(item, 1))
            elif _is_number(item):
                ends = [end[place - 1] if isinstance(end, list) else None for end in (low, high)]
                yield Row(name, place, item, *ends)
    elif _is_number(value):
        yield Row(name, None, value, low, high)


def _inside(name: str, held: Mapping[str, Any]) -> Iterator[Row]:
    mean = next((key for key in MEANS if key in held), None)
    if mean is not None:
        yield from _numbers(name + MEANS[mean], held[mean], held.get("low"), held.get("high"))
    for key, value in held.items():
        own_end = key in (mean, "low", "high") and mean is not None
        of_other = key.endswith(("_low", "_high")) and key.rpartition("_")[0] in held
        if not own_end and not of_other and key not in WORDS:
            ends = (held.get(f"{key}_{end}") for end in ("low", "high"))
            yield from _numbers(f"{name}.{key}" if name else key, value, *ends)


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float)
