"""Histories of another making than the rows of a task: the model's own replies, texts sampled from
it, a neutral text cut to its tokens, and real conversations.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np

from core.errors import UserError
from core.schema import MAX_NEW_TOKENS
from data import Case, HistoryTurn, Pair, TaskRows, Turn, conversation
from lm.filler import Count, neutral_turns
from lm.interface import LocalModel, Model
from run.config import RunConfig
from tasks.chats import read_chats
from tasks.kinds import CHATS
from tasks.task import Task, TaskSpec

POOL = 20  # sampled turns that histories are drawn from, as in Gupta et al.
SAMPLED_TOKENS = 150  # most tokens of a sampled user text

Advance = Callable[[int], object]  # is told how many prompts were read since it was told last
Asked = tuple[tuple[str, int], ...]  # user texts, and the most tokens of each one's reply


def with_own_words(cases: Sequence[Case], lm: Model, advance: Advance) -> list[Case]:
    """The cases in order, with what a model has a part in where their kind of history wants it."""
    own = [case for case in cases if case.pair.kind.name == "model"]
    replied = dict(zip(own, with_model_replies(own, lm, advance)))
    return with_neutral_text([replied.get(case, case) for case in cases], lm)


def with_model_replies(
    cases: Sequence[Case], lm: Model, advance: Advance = lambda done: None
) -> list[Case]:
    """The same cases, with the model's greedy replies in the history, each made after the ones
    before it. Equal beginnings of histories are answered once. `advance` is told how many replies
    of cases were made.
    """
    replies: dict[Asked, str] = {}  # the turns up to one -> the reply to it
    for k in range(max((len(case.history) for case in cases), default=0)):
        asked = dict.fromkeys(_asked(case, k + 1) for case in cases if len(case.history) > k)
        prompts = []
        for turns in asked:
            past = [Turn(turns[j][0], (replies[turns[: j + 1]],)) for j in range(k)]
            text, most = turns[k]
            messages = conversation(Turn(text, ()), past)
            prompts.append(lm.encode(messages, max_new_tokens=most))
        for turns, outcome in zip(asked, lm.run(prompts)):
            replies[turns] = outcome.text
        advance(sum(len(case.history) > k for case in cases))
    return [replace(case, history=_replied(case, replies)) for case in cases]


def _asked(case: Case, length: int) -> Asked:
    tasks = {"distractor": case.pair.distractor.spec.task, "target": case.task}
    return tuple(
        (past.turn.prompt, tasks[past.role].max_new_tokens) for past in case.history[:length]
    )


def _replied(case: Case, replies: dict[Asked, str]) -> tuple[HistoryTurn, ...]:
    turns = _asked(case, len(case.history))
    return tuple(
        replace(past, turn=Turn(past.turn.prompt, (replies[turns[: k + 1]],)))
        for k, past in enumerate(case.history)
    )


def random_rows(lm: LocalModel, max_len: int, seed: int, max_new_tokens: int | None) -> TaskRows:
    """A pool of unrelated turns: user texts sampled from the model, each with its greedy reply.

    The same seed gives the same pool on the same device. UserError where the model samples too few
    different texts.
    """
    count = max(POOL, max_len + 1)
    sampled = dict.fromkeys(lm.sample(2 * count, SAMPLED_TOKENS, seed))
    texts = [text for text in sampled if text][:count]
    if len(texts) <= max_len:
        raise UserError("--history random: the model samples too few different texts.")
    task = Task("random", source="sampled from the model", prompt="{text}", reference="reply",
                split="model", max_new_tokens=max_new_tokens or MAX_NEW_TOKENS)  # fmt: skip
    prompts = [
        lm.encode(conversation(Turn(text, ())), max_new_tokens=task.max_new_tokens)
        for text in texts
    ]
    turns = (Turn(text, (outcome.text,)) for text, outcome in zip(texts, lm.run(prompts)))
    return TaskRows(TaskSpec(task, None, task.split), tuple(turns))


# -- the neutral text


def with_neutral_text(cases: Sequence[Case], lm: Model) -> list[Case]:
    """The same cases; in those of `filler` turns say the neutral text instead, in as many tokens to
    within one. UserError where that is not so of a turn within the prompt.
    """

    def count(user: str, answer: str) -> int:
        return len(lm.encode(conversation(Turn("?", ()), [Turn(user, (answer,))])).ids)

    cut = cache(partial(_neutral_turns, count))  # targets may share a history
    filled = []
    for case in cases:
        filled.append(case)
        if case.pair.kind.name == "filler":
            said = tuple(past.turn for past in case.history)
            labels = (*case.labels, *case.pair.distractor.spec.task.labels)
            shown = cut(said, labels, f"{case.seed}/{case.history_number}")
            history = tuple(replace(past, turn=turn) for past, turn in zip(case.history, shown))
            filled[-1] = replace(case, history=history)
            _require_as_long(case, filled[-1], lm)
    return filled


def _neutral_turns(
    count: Count, turns: Sequence[Turn], labels: Sequence[str], key: str
) -> list[Turn]:
    said = [(turn.prompt, turn.references[0]) for turn in turns]
    pieces = neutral_turns(said, count, key, never=labels)
    return [Turn(user, (answer,)) for user, answer in pieces]


def _require_as_long(case: Case, filled: Case, lm: Model) -> None:
    """UserError unless each turn of a filled history adds as many tokens to the prompt as the
    turn in its place, to within one.
    """
    lengths = [
        [len(lm.encode(each.messages(h)).ids) for h in range(len(case.history) + 1)]
        for each in (case, filled)
    ]
    gaps = np.diff(lengths)[1] - np.diff(lengths)[0]
    if np.any(abs(gaps) > 1):
        raise UserError(
            f"--history filler: {case.pair}, target {case.target_idx}: this model's tokens depend "
            f"on the text around them,\nso that a turn of neutral text is {max(abs(gaps))} tokens "
            "off. Leave out filler."
        )


# -- real conversations


def chat_rows(path: str, length: int) -> TaskRows:
    """The chats of a file with so many turns and more, each cut to as many: a pool of turns.

    Of chats with the same turns the first is taken. `facts` counts what was read. UserError where
    the file cannot be read.
    """
    facts = {"file": path, "chats": 0, "long_enough": 0, "cut_at_a_fault": 0, "first_fault": None}
    facts |= {"system_messages_left_out": 0, "repeated": 0}
    turns: dict[tuple[tuple[str, str], ...], list[Turn]] = {}
    for chat in read_chats(Path(path)):  # one by one: a file may hold a million
        facts["chats"] += 1
        if chat.fault:
            facts["cut_at_a_fault"] += 1
            facts["first_fault"] = facts["first_fault"] or f"{chat.where}: {chat.fault}"
        shown = chat.turns[:length]
        if shown in turns:
            facts["repeated"] += 1
        elif len(shown) == length:
            facts["long_enough"] += 1
            facts["system_messages_left_out"] += chat.has_system
            turns[shown] = [Turn(user, (said,), line=chat.line) for user, said in shown]
    name, split = Path(path).name, Path(path).stem
    task = Task(CHATS, source=name, prompt="{user}", reference="assistant", split=split)
    pool = tuple(turn for of_chat in turns.values() for turn in of_chat)
    return TaskRows(TaskSpec(task, None, split), pool, facts)


def require_chats(pair: Pair, config: RunConfig) -> None:
    """UserError where a file has fewer chats than a pair needs, each for one history."""
    facts, needed, there = pair.distractor.facts, len(pair.target.turns), len(pair.chats)
    needed = min(needed, config.limit or needed, config.num_histories or needed)
    if there < needed:
        why = f" {facts['cut_at_a_fault']} end early, the first in {facts['first_fault']}."
        asking = " and ask nothing that the target asks" if there < facts["long_enough"] else ""
        repeated = ", repeats counted once," if facts["repeated"] else ""
        raise UserError(
            f"--history chats: {facts['file']}: {there} of {facts['chats']} chats{repeated} have "
            f"{config.longest} turns or more{asking}, and {needed} histories need one each."
            f"{why if facts['first_fault'] else ''}\nUse a smaller h, --limit or --num_histories."
        )


def describe_chats(pairs: Sequence[Pair]) -> Iterator[str]:
    """A line about what a file of chats holds that is not shown; none where that is nothing."""
    facts = pairs[0].distractor.facts
    if facts.get("first_fault"):
        yield (
            f"{facts['file']}: {facts['cut_at_a_fault']} of {facts['chats']} chats are cut before "
            f"a message that is no turn, the first in {facts['first_fault']}."
        )
    if facts.get("system_messages_left_out"):
        yield (
            f"{facts['file']}: system messages are left out, of "
            f"{facts['system_messages_left_out']} of {facts['long_enough']} chats."
        )
