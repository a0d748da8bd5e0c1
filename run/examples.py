"""Examples: one prompt of a run as it is asked, read and kept in the debug log.

A query flows: a case, a history length and maybe a cue make its prompt, the model its outcome, and
both its example.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from core.debug_log import (
    Conversation,
    Example,
    ExampleConfig,
    Logprob,
    count_labels,
    cut_at_messages,
    messages_at,
)
from core.schema import cleaned
from data import Case
from lm.interface import LocalModel, Model
from lm.prompts import Layers, Outcome, Prefix, Prompt
from measures import layers, scoring
from measures.intrusion import is_intruded
from run.config import RunConfig
from run.effects import effect_reads, effects_of
from run.histories import Advance, with_own_words
from run.progress import Work

Sequences = dict[str, tuple[Prefix, int]]  # name of a reply -> prompt and reply, and its start

# What is kept of a prompt with the cue, inside the example without it
OF_CUED = {"prompt_text", "model_prediction", "score", "label_logprobs", "scores", "extracted"}
OF_CUED |= {"format_failure", "generated_text", "generated_label", "generated_score"}
OF_CUED |= {"escaped_special_tokens", "rewritten_messages", "distractor_logprobs", "intruded"}

# In characters of a prompt: what a template adds to a message, and what a token of an answer costs,
# since every one is a forward of its own
TEMPLATE, WRITTEN = 40, 10


@dataclass(eq=False)
class Query:
    """A prompt of a case, with what came of it once the model has read it."""

    case: Case
    h: int
    cue: str | None
    conversation: Conversation  # the longest of its case, as the model reads it
    prompt: Prompt
    cued: "Query | None" = None  # the same with the cue, where there is one
    outcome: Outcome | None = None
    text_scores: dict[str, float] | None = None  # of a generated answer
    reply_logprobs: dict[str, Logprob] | None = None  # where they are read
    effects: Example | None = None  # `spans` and `effects`, where there is a history
    example: Example | None = None  # the entry of the debug log

    @property
    def references(self) -> tuple[str, ...]:
        """Reference answers; the first is the one that is expected."""
        return self.case.target.references

    @property
    def prediction(self) -> str:
        """The likeliest label; "" for a generation task."""
        scores = self.outcome.label_logprobs
        return scoring.best_label(scores) if scores else ""


def run_cases(cases: Sequence[Case], config: RunConfig, lm: Model, advance: Advance) -> list[Query]:
    """Every prompt of these cases in one call of the model, all pairs and lengths -> its query,
    with its example.
    """
    cases = with_own_words(cases, lm, advance)
    queries = [query for case in cases for query in encode_case(case, config, lm)]
    every = [each for query in queries for each in (query, query.cued) if each]
    outcomes = ask(every, lm, advance)
    score_texts(every)
    read_replies(queries, outcomes, config, lm)
    advance(sum(is_read_again(query.case, config) for query in queries))
    read_effects(queries, config, lm, advance)
    for query in queries:
        query.example = make_example(query, config)
        if query.cued:
            cued = make_example(query.cued, config)
            query.example["cued"] = {key: cued[key] for key in cued if key in OF_CUED}
    return queries


def encode_case(case: Case, config: RunConfig, lm: Model) -> Iterator[Query]:
    """A query at each length of the run, from h = 1 with the same under the cue where there is one.

    The prompt of the first is the baseline of all others; of the longest keys and values are kept
    where effects are measured behind them.
    """
    baseline = None
    most, read = config.answer_tokens(case.task), lm.as_read(case.conversation)

    def encode(h: int, cue: str | None) -> Query:
        prompt = lm.encode(case.messages(h, cue), case.labels, most, baseline)
        if config.effects is not None and h == config.longest and cue is None:
            prompt = replace(prompt, keep=True)
        return Query(case, h, cue, read, prompt)

    for h in config.run_lengths:
        query = encode(h, None)
        baseline = baseline or query.prompt
        if h and config.switch_cue is not None:
            query.cued = encode(h, config.switch_cue)
        yield query


def reads_of(case: Case, config: RunConfig) -> int:
    """How often a prompt of this case is read: every length and cue, a second time where it is, and
    the model's own replies before.
    """
    lengths = len(config.run_lengths)
    cued = (lengths - 1) * (config.switch_cue is not None)
    times = 1 + is_read_again(case, config)
    replies = len(case.history) if case.pair.kind.name == "model" else 0
    return times * lengths + cued + replies + effect_reads(config)


def work_of(case: Case, config: RunConfig) -> float:
    """An estimate of the tokens that are read of a case, in characters: its longest history once,
    and its target and its answer at every length.
    """
    *history, target = case.conversation
    lengths = len(config.run_lengths) * (1 + (config.switch_cue is not None))
    answer = WRITTEN * config.answer_tokens(case.task)
    return sum(len(each["content"]) for each in history) + lengths * (
        TEMPLATE + len(target["content"]) + answer
    )


def work_in(batches: Iterable[Sequence[Case]], config: RunConfig) -> Work:
    """The work of some batches, as progress counts it."""
    cases = [case for batch in batches for case in batch]
    return Work(len(cases), sum(work_of(case, config) for case in cases))


def is_read_again(case: Case, config: RunConfig) -> bool:
    """Are the prompts of a case read a second time, with the answers behind them?"""
    return config.sensitivity and not case.labels


def prompts_of(queries: Sequence[Query], lm: Model) -> list[Prompt]:
    """The different prompts among queries, with all labels that are read behind each."""
    others: dict[Prompt, dict[str, None]] = {}  # h = 0 is one prompt for all pairs
    for query in queries:
        others.setdefault(query.prompt, {}).update(dict.fromkeys(query.case.distractor_labels))
    return [lm.beside(prompt, labels) for prompt, labels in others.items()]


def ask(queries: Sequence[Query], lm: Model, advance: Advance) -> dict[Prompt, Outcome]:
    """Give each query its outcome; equal prompts are read once -> the outcome of each prompt."""
    prompts = prompts_of(queries, lm)
    outcomes = dict(zip(prompts, lm.run(prompts, advance)))
    advance(len(queries) - len(prompts))
    for query in queries:
        query.outcome = outcomes[query.prompt]
    return outcomes


def score_texts(queries: Sequence[Query]) -> None:
    """Give the queries of generation tasks the scores of their answers."""
    for query in queries:
        if not query.case.labels:
            query.text_scores = scoring.text_scores(query.outcome.text, query.references)


def make_example(query: Query, config: RunConfig) -> Example:
    """A query as an entry of the debug log, but for its cue and the place of its conversation."""
    case, outcome = query.case, query.outcome
    example: Example = {
        "prompt_text": query.prompt.text,
        "model_prediction": outcome.text,
        "expected_answer": query.references[0],
        "config": describe_history(query),
        "score": None,  # takes its place here and its value from `judged`
        "top5": list(outcome.top5),
    }
    if query.prompt.escaped:
        example["escaped_special_tokens"] = query.prompt.escaped
    if case.labels:
        example["label_logprobs"] = outcome.label_logprobs or {}
        if outcome.label_bounds is not None:
            example["label_bounds"] = outcome.label_bounds
    else:
        example["references"] = list(query.references)
    example |= judged(query, config.scoring)
    if outcome.layers is not None:
        example |= layer_measures(outcome.layers, query.prediction, query.references[0])
    if query.reply_logprobs is not None:
        example["reply_logprobs"] = query.reply_logprobs
    example |= query.effects or {}
    example |= other_task(query)
    example["intruded"] = is_intruded(example, case.pair.switch, query.conversation)
    messages = messages_at(query.conversation, query.h, query.cue)
    example["rewritten_messages"] = cut_at_messages(query.prompt.text, messages)[1]
    if query.h and case.pair.distractor.spec.task.labels:
        example["labels_shown"] = count_labels(messages, case.pair.distractor.spec.task.labels)
    return example


def layer_measures(read: Layers, prediction: str, reference: str) -> Example:
    """The layer measures of a prompt, as its entry in the debug log holds them."""
    found: Example = {"cosines": cleaned(read.cosines), "drift": cleaned(read.drift)}
    if read.cosines_centred:
        found["cosines_centred"] = cleaned(read.cosines_centred)
    if read.label_logits:
        found["margin"] = layers.margin(read.label_logits, reference)
        found["decision_layer"] = layers.first_kept(layers.leads(read.label_logits, prediction))
    if read.agree is not None:
        found["agree"] = [int(agrees) for agrees in read.agree]
        found.setdefault("decision_layer", layers.first_kept(read.agree))
    return found


def other_task(query: Query) -> Example:
    """Log-probabilities of the distractor's labels, and what the lens reads of the likeliest one;
    nothing where one of them was not read.
    """
    labels, outcome = query.case.distractor_labels, query.outcome
    if not labels or not set(labels) <= set(outcome.other_logprobs):
        return {}
    found: Example = {
        "distractor_logprobs": {label: outcome.other_logprobs[label] for label in labels}
    }
    odds = outcome.layers.other_odds if outcome.layers else {}
    if set(labels) <= set(odds):
        found["intrusion_by_block"] = cleaned(np.max([odds[label] for label in labels], axis=0))
    return found


def describe_history(query: Query) -> ExampleConfig:
    """Which rows of which tasks a prompt is made of."""
    case, past = query.case, query.case.history[: query.h]
    target, distractor = case.pair.target.spec, case.pair.distractor.spec
    cluster = case.target.cluster
    return {
        "history_len": query.h,
        "target_idx": case.target_idx,
        **({} if cluster is None else {"cluster": cluster}),
        **({"chat_line": past[0].turn.line} if past and past[0].turn.line else {}),
        "target_dataset": target.dataset,
        "target_split": target.split,
        "distractor_dataset": distractor.dataset,
        "distractor_split": distractor.split,
        "history_idx": [turn.idx for turn in past],
        "history_role": [turn.role for turn in past],
        "history_kind": str(case.pair.kind),
        "history_number": case.history_number,
        "seed": case.seed,
    }


def judged(query: Query, how: str) -> Example:
    """Score of a prompt, and what else follows from what the model put out."""
    outcome, references = query.outcome, query.references
    if query.case.labels:
        text = outcome.text or ""
        return scoring.judge_labels(
            outcome.label_logprobs or {},
            references[0],
            how,
            text,
            labels=query.case.labels,
            label_bounds=outcome.label_bounds,
        )
    metric = query.case.task.metric
    return scoring.judge_text(outcome.text, references, metric, query.text_scores)


def read_effects(queries: Sequence[Query], config: RunConfig, lm: Model, advance: Advance) -> None:
    """Give the queries with a history what it does, where that is asked for."""
    if config.effects is None:
        return
    for case in dict.fromkeys(query.case for query in queries):
        own = [query for query in queries if query.case is case]
        found = effects_of(case, [query.prompt for query in own], config, lm)
        for query, effects in zip(own[1:], found):
            query.effects = effects
        advance(effect_reads(config))


# -- how likely answers are under a history


def read_replies(
    queries: Sequence[Query],
    outcomes: Mapping[Prompt, Outcome],
    config: RunConfig,
    lm: Model,
) -> None:
    """Give queries log P of the reply at h = 0, of the prompt's own reply and of the reference.

    Label tasks have them in their label scores; for generated answers, where they are asked for,
    the prompts are read again with the answers behind them.
    """
    again: dict[Query, Sequences] = {}
    for query in queries:
        zero = outcomes[query.prompt.baseline or query.prompt]
        if query.case.labels and lm.counts_tokens:
            query.reply_logprobs = label_replies(query, zero)
        elif is_read_again(query.case, config):
            again[query] = reply_sequences(query, zero, lm)
    different = list(dict.fromkeys(each for named in again.values() for each in named.values()))
    sums = dict(zip(different, lm.logprobs(different)))
    for query, named in again.items():
        query.reply_logprobs = {
            name: {"sum": sums[ids, start], "tokens": len(ids) - start}
            for name, (ids, start) in named.items()
        }


def label_replies(query: Query, zero: Outcome) -> dict[str, Logprob]:
    """log P of each reply of a label task; `zero` is the outcome at h = 0."""
    scores = query.outcome.label_logprobs
    labels = {
        "zero_shot": scoring.best_label(zero.label_logprobs),
        "own": query.prediction,
        "reference": query.references[0],
    }
    return {
        name: {"sum": scores[label], "tokens": query.prompt.label_tokens(label)}
        for name, label in labels.items()
    }


def reply_sequences(query: Query, zero: Outcome, lm: LocalModel) -> Sequences:
    """The prompt with each reply behind it, and the position at which that begins."""
    ids = query.prompt.ids
    return {
        "zero_shot": ((*ids, *zero.reply), len(ids)),
        "own": ((*ids, *query.outcome.reply), len(ids)),
        "reference": lm.continued(query.prompt, query.references[0]),
    }
