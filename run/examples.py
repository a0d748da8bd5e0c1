"""Examples: one prompt of a run as it is asked, read and kept in the debug log."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from data import Case
from lm import prompts
from measures import scoring
from run.config import RunConfig

if TYPE_CHECKING:
    from model import LanguageModel, Outcome, Prompt

from dataclasses import replace
from typing import TYPE_CHECKING

from core.errors import UserError
from data import HistoryTurn, TaskRows, Turn, conversation
from tasks.spec import MAX_NEW_TOKENS, Task, TaskSpec

if TYPE_CHECKING:
    from model import LanguageModel

# What is kept of a prompt with the cue, inside the example without it
OF_CUED = {"prompt_text", "model_prediction", "score", "label_logprobs", "scores", "extracted"}
OF_CUED |= {"format_failure", "generated_text", "generated_label", "generated_score"}
OF_CUED |= {"escaped_special_tokens"}


@dataclass(frozen=True, eq=False)
class Found:
    """A prompt of a case at one history length, with or without the cue, and what came of it."""

    case: Case
    h: int
    cued: bool
    prompt: "Prompt"
    outcome: "Outcome"

    @property
    def references(self) -> tuple[str, ...]:
        """Reference answers; the first is the one that is expected."""
        return self.case.target.references


def run_cases(
    cases: Sequence[Case], config: RunConfig, lm: "LanguageModel", advance: Callable[[int], None]
) -> Iterator[tuple[Case, dict]]:
    """Every prompt of these cases in one call of the model, all pairs and lengths -> examples."""
    if config.history == "model":
        cases = with_model_replies(cases, lm, advance)
    asked = [each for case in cases for each in encode_case(case, config, lm)]
    prompts = [prompt for *_, prompt in asked]
    different = list(dict.fromkeys(prompts))  # h = 0 is one prompt for every distractor
    outcomes = dict(zip(different, lm.run(different, advance)))
    advance(len(prompts) - len(different))
    found = [Found(*each, outcomes[each[-1]]) for each in asked]
    examples = [make_example(each) for each in found]
    for example, each, verdict in zip(examples, found, score_outcomes(found, config.scoring)):
        example |= verdict
        if each.outcome.layers is not None:
            example |= _layers(each)
    for example, replies in zip(examples, reply_logprobs(found, config, lm)):
        example |= replies
    advance(sum(read_again(each.case, config) for each in found if not each.cued))
    whole = {(each.case, each.h): e for e, each in zip(examples, found) if not each.cued}
    for example, each in zip(examples, found):
        if each.cued:
            whole[each.case, each.h]["cued"] = {k: example[k] for k in example if k in OF_CUED}
    yield from ((case, example) for (case, _), example in whole.items())


def encode_case(
    case: Case, config: RunConfig, lm: "LanguageModel"
) -> "Iterator[tuple[Case, int, bool, Prompt]]":
    """The prompts of a case at h = 0, 1, ..., from h = 1 also with the cue where there is one.

    The first is the baseline of all others.
    """
    baseline = None
    for h, cue in asked_of(config):
        prompt = lm.encode(
            case.messages(h, cue), case.labels, config.answer_tokens(case.task), baseline
        )
        baseline = baseline or prompt
        yield case, h, cue is not None, prompt


def asked_of(config: RunConfig) -> list[tuple[int, str | None]]:
    """History length and cue of every prompt of a case."""
    cues = (None,) if config.switch_cue is None else (None, config.switch_cue)
    return [(0, None), *((h, cue) for h in range(1, config.max_len + 1) for cue in cues)]


def read_again(case: Case, config: RunConfig) -> bool:
    """Are the prompts of a case read a second time, with the answers behind them?"""
    return config.sensitivity and not case.labels


def reads_of(case: Case, config: RunConfig) -> int:
    """How often a prompt of this case is read: every length and cue, a second time where it is, and
    the model's own replies before.
    """
    replies = len(case.history) if config.history == "model" else 0
    return len(asked_of(config)) + read_again(case, config) * (config.max_len + 1) + replies


def make_example(found: Found) -> dict[str, Any]:
    """What of an entry of the debug log was known before the model ran, and what it put out."""
    case, outcome = found.case, found.outcome
    target, distractor = case.pair.target.spec, case.pair.distractor.spec
    past = case.history[: found.h]
    example = {
        "prompt_text": found.prompt.text,
        "model_prediction": outcome.text,
        "expected_answer": found.references[0],
        "config": {
            "history_len": found.h,
            "target_idx": case.target_idx,
            "target_dataset": target.dataset,
            "target_split": target.split,
            "distractor_dataset": distractor.dataset,
            "distractor_split": distractor.split,
            "history_idx": [turn.idx for turn in past],
            "history_role": [turn.role for turn in past],
            "history_number": case.history_number,
            "seed": case.seed,
        },
        "score": None,  # takes its place here and its value from `judge`
        "top5": list(outcome.top5),
    }
    if found.prompt.escaped:
        example["escaped_special_tokens"] = found.prompt.escaped
    if case.labels:
        return example | {"label_logprobs": outcome.label_logprobs}
    return example | {"references": list(found.references)}


def score_outcomes(found: Sequence[Found], read: str) -> Iterator[dict[str, Any]]:
    """Score of each prompt, and what else follows from what the model put out, in order."""
    written = [(f.outcome.text, list(f.references)) for f in found if not f.case.labels]
    scores = iter(scoring.evaluated_scores(*zip(*written)) if written else ())
    for each in found:
        outcome, references = each.outcome, each.references
        if each.case.labels:
            text = outcome.text or ""
            yield scoring.judge_labels(outcome.label_logprobs, references[0], read, text)
        else:
            yield scoring.judge_text(outcome.text, references, each.case.task.metric, next(scores))


def _layers(found: Found) -> dict[str, Any]:
    scores = found.outcome.label_logprobs
    prediction = scoring.best_label(scores) if scores else ""
    return prompts.layer_measures(found.outcome.layers, prediction, found.references[0])


# -- how likely answers are under a history


def reply_logprobs(
    found: Sequence[Found], config: RunConfig, lm: "LanguageModel"
) -> Iterator[dict[str, Any]]:
    """log P of the reply at h = 0, of the prompt's own reply and of the reference, in order.

    Label tasks have them in their label scores; for generated answers, where they are asked for,
    the prompts are read again with the answers behind them.
    """
    zero = {each.case: each for each in found if each.h == 0}
    again = {
        each: _sequences(each, zero[each.case], lm)
        for each in found
        if read_again(each.case, config) and not each.cued
    }
    different = list(dict.fromkeys(s for wanted in again.values() for s in wanted.values()))
    sums = dict(zip(different, lm.logprobs(different)))
    for each in found:
        if each.cued:
            yield {}
        elif each.case.labels:
            yield {"reply_logprobs": _of_labels(each, zero[each.case])}
        elif each in again:
            yield {
                "reply_logprobs": {
                    name: {"sum": sums[ids, start], "tokens": len(ids) - start}
                    for name, (ids, start) in again[each].items()
                }
            }
        else:
            yield {}


def _of_labels(found: Found, zero: Found) -> dict[str, dict[str, float]]:
    best = scoring.best_label
    labels = {
        "zero_shot": best(zero.outcome.label_logprobs),
        "own": best(found.outcome.label_logprobs),
        "reference": found.references[0],
    }
    return {
        name: {
            "sum": found.outcome.label_logprobs[label],
            "tokens": found.prompt.label_tokens(label),
        }
        for name, label in labels.items()
    }


def _sequences(found: Found, zero: Found, lm: "LanguageModel") -> dict[str, tuple]:
    ids = found.prompt.ids
    return {
        "zero_shot": ((*ids, *zero.outcome.reply), len(ids)),
        "own": ((*ids, *found.outcome.reply), len(ids)),
        "reference": lm.continued(found.prompt, found.references[0]),
    }


POOL = 20  # sampled turns that histories are drawn from, as in Gupta et al.
SAMPLED_TOKENS = 150  # most tokens of a sampled user text

Asked = tuple[tuple[str, int], ...]  # user texts, and the most tokens of each one's reply


def with_model_replies(
    cases: Sequence[Case], lm: "LanguageModel", advance: Callable[[int], object] = lambda done: None
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


def random_rows(
    lm: "LanguageModel", max_len: int, seed: int, max_new_tokens: int | None
) -> TaskRows:
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
