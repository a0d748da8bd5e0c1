"""Verification of a finished run: every aggregate is computed again from the debug log.

The log is read an example at a time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core import provenance, records
from core.debug_log import Example, count_labels, cut_at_messages, messages_at
from core.errors import UserError
from core.log_files import Conversations, LogReader
from core.schema import SOMETIMES
from core.terminal import counted
from measures import metrics, scoring
from measures.effects import Margins
from measures.intrusion import Switch, is_intruded

TOLERANCE = 1e-6  # largest difference between a stored number and a recomputed one
IDENTITY = ("model", "target", "distractor", "metric_name", "n")
BY_LEN = ("metric_by_len", "debug_top5_by_len", "stats_by_len", *SOMETIMES)
# What of an example follows from what else it holds, beside its score
OF_TEXTS = ("scores", "extracted", "format_failure", "generated_label", "generated_score")
FOLLOWING = (*OF_TEXTS, "intruded", "rewritten_messages", "labels_shown", "cued")
WIDEST = 24  # characters of a stored or recomputed value
COLUMNS = ("quantity", "h", "values", "stored", "recomputed", "difference", "verdict")

Record = dict[str, Any]
Sides = tuple[Any, Any]  # as stored, and as recomputed


def verify(path: Path) -> list[tuple[str, ...]]:
    """Rows of COLUMNS: what a log and its result store against what follows from the log.

    UserError where they were changed so that nothing follows.
    """
    result = records.read_unsealed(records.result_of_debug(path), "result")
    log, table = LogReader(path), Comparison()
    try:
        compare_all(result, log, table)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        if records.is_whole(result) and log.is_whole():
            raise  # the fault is not in the files
        if isinstance(error, ValueError):
            return [("aggregates", "-", "0", "", f"none: {error!s:.90}", "", "MISMATCH")]
        raise UserError(f"{path} or its result is damaged: {error!r:.90}.") from error
    digests = {
        "of the result": (result, records.digest(result)),
        "of the log": (log.head, log.digest),
    }
    for place, (stored, digest) in digests.items():
        table.add(records.DIGEST, "-", place, (stored.get(records.DIGEST), digest))
    table.add(records.DIGEST_OF_LOG, "-", "", (result.get(records.DIGEST_OF_LOG), log.digest))
    return table.rows()


def made_otherwise(path: Path, rows: Sequence[Sequence[str]]) -> str | None:
    """By which other state of the toolkit a log was written, where that may be why some of its rows
    differ; None where this state wrote it, or its files were changed.
    """
    digests = [row for row in rows if row[0].startswith((records.DIGEST, records.DIGEST_OF_LOG))]
    if not digests or any(row[-1] != "ok" for row in digests):
        return None
    made = records.read_unsealed(records.result_of_debug(path), "result")["environment"]
    here = provenance.toolkit()
    there = {name: made.get(name) for name in here}
    if there == here:
        return None
    one, other = (
        "version {}, commit {:.7}".format(*(str(state[name] or "unknown") for name in here))
        for state in (there, here)
    )
    return (
        f"  Both files are as they were written, by another state of the toolkit ({one}) than this "
        f"({other}),\n  which may compute this otherwise."
    )


def compare_all(result: Record, log: LogReader, table: "Comparison") -> None:
    """Compare every value of a result and its log as stored with what follows from the log."""
    judge, examples, margins = None, metrics.Examples(), Margins()
    precise = result["environment"].get("dtype") in ("float32", "float64")
    prompts = len(log.conversations.places) * len(result["metric_by_len"])
    for number, example in enumerate(counted(log.examples(), "Verifying prompts", prompts)):
        if judge is None:
            metric_name = "accuracy" if "label_logprobs" in example else log.head["metric_name"]
            judge = Judge(metric_name, result["config"], log.conversations)
        judged = judge.judged(example)
        examples.add(judged)
        h = str(example["config"]["history_len"])
        sides = (values_of(example), values_of(judged))
        table.add_values(h, f"of example {number}", sides)
        for name, pair in margins.of(example).items() if precise else ():
            table.add("effects", h, f"{name} of example {number}", pair)
    rounding = result["environment"].get("rounding")
    aggregates = metrics.aggregate_examples(examples, judge.metric_name, rounding)
    recomputed = log.head | aggregates | {"metric_name": judge.metric_name}
    for name in IDENTITY:
        table.add(name, "-", "", (result[name], recomputed[name]))
    stored = {key: {} for key in SOMETIMES} | result
    for name in BY_LEN:
        sides = [
            {h: {name: value} for h, value in side[name].items()} for side in (stored, recomputed)
        ]
        for h in sides[0] | sides[1]:
            table.add_values(h, "", [side.get(h, {}) for side in sides])


@dataclass(frozen=True)
class Judge:
    """Computes what of an example follows from what else its log and the settings say."""

    metric_name: str
    config: dict[str, Any]  # of the result
    conversations: Conversations

    def judged(self, example: Example) -> Example:
        """The example with every value that follows computed again."""
        found = example | self.follows(example)
        if "labels_shown" in example:
            found["labels_shown"] = self.labels_shown(example)
        if "cued" in example:
            cue = self.config.get("switch_cue")
            cued = {k: v for k, v in example.items() if k != "cued"} | example["cued"]
            found["cued"] = example["cued"] | self.follows(cued, cue)
        return found

    def follows(self, example: Example, cue: str | None = None) -> Example:
        """The values that follow, of a prompt with this cue or without."""
        found = self.rescored(example)
        return found | {
            "intruded": self.intruded(example | found),
            "rewritten_messages": self.rewritten(example, cue),
        }

    def rescored(self, example: Example) -> Example:
        """Score and prediction."""
        if "label_logprobs" in example:
            scores, expected = example["label_logprobs"], example["expected_answer"]
            read, text = self.config.get("scoring", "likelihood"), example.get("generated_text", "")
            return scoring.judge_labels(
                scores,
                expected,
                read,
                text,
                labels=tuple(self.config.get("label_continuations") or scores),
                label_bounds=example.get("label_bounds"),
            )
        text, references = example["model_prediction"], example["references"]
        scores = scoring.text_scores(text, references)
        return scoring.judge_text(text, references, self.metric_name, scores)

    def intruded(self, example: Example) -> bool | None:
        """Is its answer one to the previous task?"""
        tasks = self.config["tasks"]
        switch = Switch.between(tasks["target"], tasks["distractor"])
        return is_intruded(example, switch, self.conversations[example["conversation"]])

    def labels_shown(self, example: Example) -> dict[str, int]:
        """How often the history of a prompt shows each label of the distractor."""
        conversation = self.conversations[example["conversation"]]
        messages = messages_at(conversation, example["config"]["history_len"])
        return count_labels(messages, self.config["tasks"]["distractor"]["labels"])

    def rewritten(self, example: Example, cue: str | None) -> int:
        """Messages of a prompt's conversation that do not stand in its text, in order."""
        conversation = self.conversations[example["conversation"]]
        messages = messages_at(conversation, example["config"]["history_len"], cue)
        return cut_at_messages(example["prompt_text"], messages)[1]


def values_of(example: Example) -> Record:
    """What of an example is verified."""
    judged = ("model_prediction",) if "label_logprobs" in example else ()
    return {name: example[name] for name in ("score", *judged, *FOLLOWING) if name in example}


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every number, text and null inside lists and objects, with the place it has there."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{place} {key}".strip())
    elif isinstance(value, list):
        for number, inner in enumerate(value, 1):
            yield from leaves(inner, f"{place} no. {number}".strip())
    else:
        yield place, value


@dataclass
class Entry:
    """Of a quantity and a history length: how many values, how many differ, and which the most."""

    values: int = 0
    wrong: int = 0
    gap: float = -1
    place: str = ""
    pair: Sides = (None, None)


class Comparison:
    """Stored and recomputed values, of which the ones that differ most are kept."""

    def __init__(self) -> None:
        self.entries = {(name, "-"): Entry() for name in IDENTITY}  # are shown first

    def add(self, quantity: str, h: str, place: str, pair: Sides) -> None:
        """Compare a value as stored and as recomputed."""
        entry = self.entries.setdefault((quantity, h), Entry())
        gap = difference(*pair)
        entry.values += 1
        entry.wrong += gap > TOLERANCE
        if gap > entry.gap:
            entry.gap, entry.place, entry.pair = gap, place, pair

    def add_values(self, h: str, place: str, sides: Sequence[Record]) -> None:
        """Compare every value inside records of one place, stored and recomputed, by quantity."""
        for name in sides[0] | sides[1]:
            pair = [dict(leaves(side[name])) if name in side else {} for side in sides]
            for part in pair[0] | pair[1]:
                found = tuple(side.get(part, "(missing)") for side in pair)
                self.add(name, h, f"{part} {place}".strip(), found)

    def rows(self) -> list[tuple[str, ...]]:
        """A row of COLUMNS per quantity and history length, about the place that differs most."""
        rows = []
        for (quantity, h), entry in self.entries.items():
            shown = [f"{x:.9g}" if isinstance(x, float) else as_cell(x) for x in entry.pair]
            name = f"{quantity} {entry.place}".strip()
            verdict = f"MISMATCH ({entry.wrong})" if entry.wrong else "ok"
            rows.append((name, h, str(entry.values), *shown, f"{entry.gap:.0e}", verdict))
        return rows


def as_cell(value: Any) -> str:
    """A value as a short text."""
    text = repr(value)
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 3]}..."


def difference(stored: Any, recomputed: Any) -> float:
    """Absolute difference of two numbers; of anything else 0 where equal, infinite where not."""
    numbers = (int, float)
    if stored == recomputed or not (
        isinstance(stored, numbers) and isinstance(recomputed, numbers)
    ):
        return 0.0 if stored == recomputed else np.inf
    try:
        return abs(float(stored) - float(recomputed))
    except OverflowError:  # whole numbers have no largest one
        return np.inf
