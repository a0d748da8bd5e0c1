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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from core.debug_log import Conversation, Example
from measures import scoring
from measures.stats import Clusters, mean_and_interval, mean_interval


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
        own = {label.casefold() for label in labels}
        others = tuple(label for label in theirs if label.casefold() not in own)
        tells = target["name"] != distractor["name"] and (bool(others) or not theirs)
        return cls(labels, others if tells else (), bool(theirs), tells)


# -- one example


def is_intruded(example: Example, switch: Switch, conversation: Conversation) -> bool | None:
    """Is the written answer one to the previous task? None where that cannot be told."""
    text = example.get("generated_text") if switch.labels else example["model_prediction"]
    if text is None or not switch.tells:
        return None
    if switch.labelled:
        other = scoring.find_label(text, switch.others)
        return other is not None and scoring.find_label(text, switch.labels) is None
    replies = shown_replies(example, conversation)
    return is_copied(text, replies, example) if replies else None


def is_copied(text: str, replies: Sequence[str], example: Example) -> bool:
    """Is a text nearer to a reply of the history than to every reference, by ROUGE-L?"""
    references = example.get("references", [example["expected_answer"]])
    return scoring.best_rouge(text, replies) > scoring.best_rouge(text, references)


def shown_replies(example: Example, conversation: Conversation) -> list[str]:
    """The distractor's replies in the history of a prompt; a history may show none."""
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


def intrusion_by_len(
    by_len: Mapping[str, Sequence[Example]], at_0: Clusters, later: Clusters
) -> dict[str, Any]:
    """Rate and margin at each history length, with intervals; {} where nothing can be told.

    `rate` is the share of intruded answers among the `n` that can be told, `margin` the mean of
    `margin` and `margin_by_block` the mean of what the lens reads of it at each block.
    `format_failures` counts the answers in no form at all: they are not among the intruded.
    """
    every = [example for group in by_len.values() for example in group]
    if all(example.get("intruded") is None and margin(example) is None for example in every):
        return {}
    return {h: _entry(group, later if int(h) else at_0) for h, group in by_len.items()}


def _entry(group: Sequence[Example], clusters: Clusters) -> dict[str, Any]:
    told = [example.get("intruded") for example in group]
    found = {"n": sum(flag is not None for flag in told), "intruded": told.count(True)}
    if all("format_failure" in example for example in group):
        failed = [example["format_failure"] and not example.get("intruded") for example in group]
        found["format_failures"] = sum(failed)
    margins = [margin(example) for example in group]
    rows = [example.get("intrusion_by_block") for example in group]
    return found | _rate(told, clusters) | _margin(margins, rows, clusters)


def _rate(told: Sequence[bool | None], clusters: Clusters) -> dict[str, Any]:
    """Share of True among those that are told, with its interval."""
    there = np.array([flag is not None for flag in told])
    if not there.any():
        reason = "no answer is written here, or no reply of the distractor is shown"
        return {f"{name}{end}": value for name in ("rate", "low", "high")
                for end, value in (("", None), ("_reason", reason))}  # fmt: skip
    flags = np.array(told)[there].astype(float)
    names, of = np.unique(clusters.of[there], return_inverse=True)
    left = Clusters(clusters.unit, len(names), of)
    return {"rate": float(flags.mean())} | mean_interval(flags, left, binary=True)


def _margin(
    margins: Sequence[float | None], rows: Sequence[Any], clusters: Clusters
) -> dict[str, Any]:
    if None in margins:
        reason = "labels of both tasks are not compared here"
        return {"margin": None, "margin_reason": reason, "margin_by_block": []}
    [mean], ends = mean_and_interval(np.array(margins)[:, None], clusters)
    found = {"margin": mean, "margin_low": ends["low"][0], "margin_high": ends["high"][0]}
    if None in rows:
        return found | {"margin_by_block": []}
    means, ends = mean_and_interval(np.array(rows, dtype=float), clusters)
    return found | {
        "margin_by_block": means,
        "margin_by_block_low": ends["low"],
        "margin_by_block_high": ends["high"],
    }
