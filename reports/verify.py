"""Verification of a finished run: every aggregate is computed again from the debug log."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core import records
from core.debug_log import Conversation, Example, count_labels, cut_at_messages, messages_at
from core.errors import UserError
from measures import metrics, scoring
from measures.intrusion import Switch, is_intruded

IDENTITY = ("model", "target", "distractor", "metric_name", "n")
BY_LEN = ("metric_by_len", "debug_top5_by_len", "stats_by_len", *records.SOMETIMES)
# What of an example follows from what else it holds, beside its score
OF_TEXTS = ("scores", "extracted", "format_failure", "generated_label", "generated_score")
FOLLOWING = (*OF_TEXTS, "intruded", "rewritten_messages", "labels_shown", "cued")
COLUMNS = ("quantity", "h", "values", "stored", "recomputed", "difference", "verdict")

Record = dict[str, Any]  # a result or a log


def verify(path: Path) -> list[tuple[str, ...]]:
    """Rows of COLUMNS: what a log and its result store against what follows from the log.

    UserError where they were changed so that nothing follows.
    """
    beside = records.result_of_debug(path)
    result, log = records.read_unsealed(beside, "result"), records.read_unsealed(path, "log")
    try:
        stored, recomputed = both_sides(result, log)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        if records.is_whole(result) and records.is_whole(log):
            raise  # the fault is not in the files
        if isinstance(error, ValueError):
            return [("aggregates", "-", "0", "", f"none: {error!s:.90}", "", "MISMATCH")]
        raise UserError(f"{path} or its result is damaged: {error!r:.90}.") from error
    for kind, content in (("result", result), ("log", log)):
        place = (records.DIGEST, "-", f"of the {kind}")
        stored[place], recomputed[place] = content.get(records.DIGEST), records.digest(content)
    place = (records.DIGEST_OF_LOG, "-", "")
    stored[place], recomputed[place] = result.get(records.DIGEST_OF_LOG), records.digest(log)
    return compare(stored, recomputed)


def both_sides(result: Record, log: Record) -> tuple[dict[tuple, Any], dict[tuple, Any]]:
    """Every value of a result and its log: as stored, and as it follows from the log."""
    examples = log["debug_examples"]
    metric_name = "accuracy" if "label_logprobs" in examples[0] else log["metric_name"]
    judge = Judge(metric_name, result["config"], log["conversations"])
    judged = [judge.judged(example) for example in examples]
    rounding = result["environment"].get("rounding")
    aggregates = metrics.aggregate(judged, metric_name, rounding) | {"metric_name": metric_name}
    stored = {key: {} for key in records.SOMETIMES} | result
    return flatten(stored, examples), flatten(log | aggregates, judged)


@dataclass(frozen=True)
class Judge:
    """Computes what of an example follows from what else its log and the settings say."""

    metric_name: str
    config: dict[str, Any]  # of the result
    conversations: Sequence[Conversation]

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


def flatten(record: Record, examples: Sequence[Example]) -> dict[tuple, Any]:
    """Every value that is verified, by quantity, history length and place."""
    flat = {(name, "-", ""): record[name] for name in IDENTITY}
    for number, example in enumerate(examples):
        h, place = str(example["config"]["history_len"]), f"of example {number}"
        judged = ("model_prediction",) if "label_logprobs" in example else ()
        for name in ("score", *judged, *FOLLOWING):
            if name in example:
                inner = leaves(example[name])
                flat |= {(name, h, f"{part} {place}".strip()): leaf for part, leaf in inner}
    for name in BY_LEN:
        for h, value in record[name].items():
            flat |= {(name, h, place): leaf for place, leaf in leaves(value)}
    return flat


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


def compare(stored: dict[tuple, Any], recomputed: dict[tuple, Any]) -> list[tuple[str, ...]]:
    """A row of COLUMNS per quantity and history length, about the place that differs most."""
    groups = defaultdict(list)
    for key in stored | recomputed:
        pair = [side.get(key, "(missing)") for side in (stored, recomputed)]
        groups[key[:2]].append((difference(*pair), key[2], *pair))
    rows = []
    for (quantity, h), group in groups.items():
        gap, place, *pair = max(group, key=lambda entry: entry[0])
        wrong = sum(entry[0] > records.TOLERANCE for entry in group)
        shown = [f"{x:.9g}" if isinstance(x, float) else repr(x)[:70] for x in pair]
        cells = (f"{quantity} {place}".strip(), h, str(len(group)), *shown, f"{gap:.0e}")
        rows.append((*cells, f"MISMATCH ({wrong})" if wrong else "ok"))
    return rows


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
