"""The examples behind a report's numbers, as its explorer reads them. No torch.

A row is one target of a pair under one seed, with its prompts of all history lengths. Texts are
stored once, in `strings`, and named by their place there. Where there are more examples than a page
can bear a sample is embedded; every count is of all of them.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from core import log_files
from core.debug_log import Conversation, Example, cut_at_messages, messages_at
from core.schema import PROPORTIONS
from core.terminal import counted
from reports import style

FLIP = 0.5  # change of a score against h = 0 that is a flip; of right and wrong it is any change
MOST_ROWS = 2000  # of all pairs
MOST_LETTERS = 4_000_000  # of all texts
PLACES = 3  # of scores and log-probabilities

Record = dict[str, Any]  # a result


class Texts:
    """Texts by the place of their first use; equal ones are kept once."""

    def __init__(self) -> None:
        """Starts empty."""
        self.places: dict[str, int] = {}
        self.letters = 0

    def __call__(self, text: str) -> int:
        """The place of a text."""
        if text not in self.places:
            self.letters += len(text)
        return self.places.setdefault(text, len(self.places))


# What a row needs of an example, beside its prompts in pieces
KEPT = ("config", "model_prediction", "expected_answer", "references", "score", "top5")
KEPT += ("label_logprobs", "decision_layer", "format_failure", "intruded", "generated_text")

Row = tuple[int, int]  # target and seed


@dataclass(frozen=True)
class Target:
    """One target of a pair under one seed."""

    place: int  # in the order of the run
    conversation: Conversation  # its longest
    examples: Sequence[Example]  # KEPT of each history length, in order, with `pieces`
    states: Sequence[str]


def make_explorer(results: Sequence[Record], names: Sequence[str]) -> dict[str, Any]:
    """What the explorer embeds: `strings`, `pairs` called by `names`, and `rows`; UserError for a
    log that is damaged.
    """
    pairs, sampled = [], []
    of_names = list(zip(results, names))
    for result, name in counted(of_names, "Reading logs"):  # one at a time: they can be large
        states = states_of(read_scores(result), result)
        chosen = choose(states, MOST_ROWS // len(results), f"report/{name}")
        sampled.append(read_targets(result, chosen, states))
        pairs.append(describe_pair(result, name, states) | count_intruded(result))
    texts, rows = Texts(), []
    for turn in zip_longest(*sampled):  # a row of every pair, so that a limit cuts all alike
        for number, target in enumerate(turn):
            if target and texts.letters < MOST_LETTERS:
                rows.append((number, target.place, {"pair": number, **make_row(target, texts)}))
                pairs[number]["embedded"] += 1
    rule = {"threshold": FLIP, "strings": list(texts.places)}
    in_order = [row for *_, row in sorted(rows, key=lambda entry: entry[:2])]
    return rule | {"pairs": pairs, "rows": in_order}


def read_scores(result: Record) -> dict[Row, list[float]]:
    """The scores of a result's log by target and seed, in the order of the run, each with one per
    history length.
    """
    found: dict[Row, dict[int, float]] = {}
    with log_files.trusted(result) as log:
        for example in log.examples():
            found.setdefault(row_of(example), {})[example["config"]["history_len"]] = example[
                "score"
            ]
    return {row: [by_len[h] for h in sorted(by_len)] for row, by_len in found.items()}


def row_of(example: Example) -> Row:
    """Target and seed of an example."""
    return example["config"]["target_idx"], example["config"]["seed"]


def read_targets(
    result: Record, chosen: Sequence[Row], states: dict[Row, list[str]]
) -> list[Target]:
    """The chosen rows of a log that `read_scores` has read, in their order."""
    log = log_files.LogReader(log_files.log_of(result))
    groups: dict[Row, list[Example]] = {row: [] for row in chosen}
    conversations: dict[Row, Conversation] = {}
    for example in log.examples():
        row = row_of(example)
        if row in groups:
            conversations.setdefault(row, log.conversations[example["conversation"]])
            groups[row].append(shortened(example, conversations[row]))
    order = {row: place for place, row in enumerate(states)}
    for examples in groups.values():
        examples.sort(key=lambda example: example["config"]["history_len"])
    return [Target(order[row], conversations[row], groups[row], states[row]) for row in chosen]


def shortened(example: Example, conversation: Conversation) -> Example:
    """KEPT of an example and its prompt in `pieces`, and the same of it with the cue.

    Pieces that are messages are the conversation's own texts, so that they are in memory once.
    """
    messages = messages_at(conversation, example["config"]["history_len"])
    own = {each["content"]: each["content"] for each in messages}

    def short(read: Example) -> Example:
        pieces, _ = cut_at_messages(read["prompt_text"], messages)
        kept = {name: read[name] for name in KEPT if name in read}
        return kept | {"pieces": [own.get(piece, piece) for piece in pieces]}

    return short(example) | ({"cued": short(example["cued"])} if "cued" in example else {})


def states_of(scores: dict[Row, list[float]], result: Record) -> dict[Row, list[str]]:
    """The `state` of each row at each history length."""
    graded = result["metric_name"] not in PROPORTIONS
    return {row: [state(each, own[0], graded) for each in own] for row, own in scores.items()}


def state(score: float, at_0: float, graded: bool) -> str:
    """`lost` or `gained` where the score moved by FLIP or more against h = 0, else right or wrong;
    a graded score that did not is `scored`.
    """
    if abs(round(score - at_0, PLACES)) >= FLIP:  # the change that is displayed
        return "lost" if score < at_0 else "gained"
    return "scored" if graded else "right" if score else "wrong"


def flipped(states: Sequence[str]) -> bool:
    """Did any history flip this target?"""
    return "lost" in states or "gained" in states


def choose(states: dict[Any, list[str]], room: int, key: str) -> list[Any]:
    """At most `room` rows, drawn with `key` as the seed: a flipped one and another in turn while
    there are both, so that any beginning of them is half flipped.
    """
    order = list(states)
    random.Random(key).shuffle(order)
    moved = [row for row in order if flipped(states[row])]
    others = [row for row in order if not flipped(states[row])]
    return [row for both in zip_longest(moved, others) for row in both if row is not None][:room]


def describe_pair(result: Record, name: str, states: dict[Any, list[str]]) -> dict[str, Any]:
    """A pair's name, metric, labels and counts over all of its examples by history length."""
    by_len = list(zip(*states.values()))
    return {
        "name": name,
        **{key: result[key] for key in ("model", "target", "distractor")},
        "metric": style.METRICS.get(result["metric_name"], result["metric_name"]),
        "graded": result["metric_name"] not in PROPORTIONS,
        "n": len(states),
        "embedded": 0,
        "flipped": sum(map(flipped, states.values())),
        "lengths": [int(h) for h in result["metric_by_len"]],
        "lost": [column.count("lost") for column in by_len],
        "gained": [column.count("gained") for column in by_len],
        "blocks": max(map(len, result["cos_by_len"].values()), default=0),
    }


def count_intruded(result: Record) -> dict[str, Any]:
    """How many of all answers are to the previous task, by history length; where that is told."""
    entries = result["intrusion_by_len"].values()
    told = any(entry["n"] for entry in entries)
    return {"intruded": [entry["intruded"] for entry in entries]} if told else {}


def make_row(target: Target, texts: Texts) -> dict[str, Any]:
    """A target's longest conversation, its prompts as the model read them, and what came of each.

    `prompts` and `cued` are lists of places; the texts there make up a prompt.
    """
    first, longest = target.examples[0], target.examples[-1]["config"]
    roles = longest.get("history_role", ["distractor"] * len(longest["history_idx"]))
    return {
        "target": first["config"]["target_idx"],
        "seed": first["config"].get("seed", 0),
        "labelled": "label_logprobs" in first,
        "references": list(map(texts, first.get("references", [first["expected_answer"]]))),
        "history": list(zip(roles, longest["history_idx"])),
        "messages": [[each["role"], texts(each["content"])] for each in target.conversation],
        "prompts": [list(map(texts, each["pieces"])) for each in target.examples],
        "cued": [
            list(map(texts, each["cued"]["pieces"])) for each in target.examples if "cued" in each
        ],
        "at": [
            {"state": named, **make_answer(example, first["score"], texts)}
            for example, named in zip(target.examples, target.states)
        ],
    }


def make_answer(example: Example, at_0: float, texts: Texts) -> dict[str, Any]:
    """What the model made of a prompt; what was not read is left out."""
    found = {
        "score": round(example["score"], PLACES),
        "change": round(example["score"] - at_0, PLACES),
        "answer": texts(example["model_prediction"]),
        "top5": list(map(texts, map(str, example["top5"]))),
    }
    if "label_logprobs" in example:
        scores = example["label_logprobs"].items()
        found["logprobs"] = {label: round(value, PLACES) for label, value in scores}
    if "decision_layer" in example:
        found["layer"] = example["decision_layer"]
    if example.get("format_failure"):
        found["failed"] = True
    if example.get("intruded"):
        found["intruded"] = True
    if "generated_text" in example:
        found["text"] = texts(example["generated_text"])
    if "cued" in example:
        cued = example["cued"]
        found["cued"] = {
            "answer": texts(cued["model_prediction"]),
            "score": round(cued["score"], PLACES),
        }
    return found
