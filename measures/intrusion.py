"""Intrusion: answers to the previous task instead of the target's.

A written answer is told by its form. Where the distractor has labels, it is intruded if it holds
exactly one of them and no label of the target. Where it has none, it is intruded if its ROUGE-L
with a reply that the history shows is higher than with every reference. That is a proxy: it sees
copied words, not a task. The form can also come up by chance, so a rate says something beside the
one at h = 0, without any history.

Where the target has labels too, their log-probabilities are compared with the distractor's. Short
labels are more likely than long ones whatever was said before, so that it is the change against
h = 0 which tells of an intrusion, and the sign of the margin does not.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from core.debug_log import Conversation, Example
from measures import scoring, texts
from measures.stats import Clusters, mean_and_interval, mean_interval
from measures.table import ByLen, Group


@dataclass(frozen=True)
class Switch:
    """What tells an answer to the distractor from one to the target."""

    labels: tuple[str, ...]  # of the target; () for a generation task
    others: tuple[str, ...]  # of the distractor, without those that are the target's too
    labelled: bool  # has the distractor labels?
    tells: bool  # are these two tasks whose answers can be told apart?

    @classmethod
    def between(cls, target: Mapping[str, Any], distractor: Mapping[str, Any]) -> "Switch":
        """Of two tasks by their descriptions; equal names, or equal labels, are one task."""
        labels, theirs = tuple(target["labels"]), tuple(distractor["labels"])
        own = {texts.bare(label).casefold() for label in labels}
        others = tuple(label for label in theirs if texts.bare(label).casefold() not in own)
        tells = target["name"] != distractor["name"] and (bool(others) or not theirs)
        return cls(labels, others if tells else (), bool(theirs), tells)


# -- one example


def is_intruded(example: Example, switch: Switch, conversation: Conversation) -> bool | None:
    """Is the written answer one to the previous task? None where that cannot be told."""
    text = example.get("generated_text") if switch.labels else example["model_prediction"]
    if text is None or not switch.tells:
        return None
    if switch.labelled:
        found = scoring.labels_in(text, (*switch.others, *switch.labels))
        return len(found) == 1 and found <= {*switch.others}
    replies = shown_replies(example, conversation)
    return is_copied(text, replies, example) if replies else None


def is_copied(text: str, replies: Sequence[str], example: Example) -> bool:
    """Is a text nearer to a reply of the history than to every reference, by ROUGE-L?"""
    references = example.get("references", [example["expected_answer"]])
    return scoring.best_rouge(text, replies) > scoring.best_rouge(text, references)


def shown_replies(example: Example, conversation: Conversation) -> list[str]:
    """The distractor's replies in the history of a prompt; a history may show none, and that of a
    neutral text does not.
    """
    if example["config"].get("history_kind") == "filler":
        return []
    roles = example["config"].get("history_role", [])
    replies = [each["content"] for each in conversation if each["role"] == "assistant"]
    return [reply for reply, role in zip(replies, roles) if role == "distractor"]


def margin(example: Example) -> float | None:
    """Log-odds (nats) of the likeliest label of the distractor against the likeliest of the
    target; None where they were not read.
    """
    if not example.get("distractor_logprobs"):
        return None
    theirs, own = example["distractor_logprobs"].values(), example["label_logprobs"].values()
    return max(theirs) - max(own)


# -- many examples


INTRUDED, MARGIN, ROW = "intruded", "intrusion_margin", "intrusion_by_block"  # columns


def columns(example: Example) -> Iterator[tuple[Hashable, Any]]:
    """Flag and margin, null where they are not told, and what the lens reads of it."""
    yield INTRUDED, example.get("intruded")
    yield MARGIN, margin(example)
    if example.get(ROW) is not None:
        yield ROW, example[ROW]


def intrusion_by_len(by_len: ByLen, at_0: Clusters, later: Clusters) -> dict[str, Any]:
    """Rate and margin at each history length, with intervals; {} where nothing can be told.

    `rate` is the share of intruded answers among the `n` that can be told, `margin` the mean of
    `margin` and `margin_by_block` the mean of what the lens reads of it at each block.
    `format_failures` counts the answers in no form at all: they are not among the intruded.
    """
    read = (group.values(name) for group in by_len.values() for name in (INTRUDED, MARGIN))
    if all(np.isnan(values).all() for values in read):
        return {}
    return {h: _entry(group, later if int(h) else at_0) for h, group in by_len.items()}


def _entry(group: Group, clusters: Clusters) -> dict[str, Any]:
    told = group.values(INTRUDED)
    found = {"n": int((~np.isnan(told)).sum()), "intruded": int((told == 1).sum())}
    if group.has("format_failure"):
        failed = (group.values("format_failure") == 1) & (told != 1)
        found["format_failures"] = int(failed.sum())
    return found | _rate(told, clusters) | _margin(group, clusters)


def _rate(told: np.ndarray, clusters: Clusters) -> dict[str, Any]:
    """Share of intruded answers among those that are told, with its interval."""
    there = ~np.isnan(told)
    if not there.any():
        reason = "no answer is written here, or no reply of the distractor is shown"
        return {f"{name}{end}": value for name in ("rate", "low", "high")
                for end, value in (("", None), ("_reason", reason))}  # fmt: skip
    left = clusters.among(there)
    return {"rate": float(told[there].mean())} | mean_interval(told[there], left, binary=True)


def _margin(group: Group, clusters: Clusters) -> dict[str, Any]:
    margins = group.values(MARGIN)
    if np.isnan(margins).any():
        reason = "labels of both tasks are not compared here"
        return {"margin": None, "margin_reason": reason, "margin_by_block": []}
    [mean], ends = mean_and_interval(margins[:, None], clusters)
    found = {"margin": mean, "margin_low": ends["low"][0], "margin_high": ends["high"][0]}
    if not group.has(ROW):
        return found | {"margin_by_block": []}
    means, ends = mean_and_interval(group.values(ROW), clusters)
    return found | {
        "margin_by_block": means,
        "margin_by_block_low": ends["low"],
        "margin_by_block_high": ends["high"],
    }
