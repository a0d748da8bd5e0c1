"""`--dry_run`: what a run would read and could show, from its tokenizer and configuration alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from core.errors import UserError
from core.schema import PROPORTIONS
from data import Case, Pair
from lm.interface import Model
from lm.prefix_tree import PrefixTree
from lm.prompts import requests_of
from lm.regimes import regimes_of
from lm.speeds import Speed, Way, keep, last
from measures.stats import detectable_binary, detectable_mean
from run.config import RunConfig, check_settings
from run.examples import encode_case, prompts_of
from run.histories import describe_chats, with_neutral_text
from run.pairs import load_pairs
from run.planning import Plan, in_batches, make_plan, unfinished
from tasks.kinds import RANDOM

if TYPE_CHECKING:  # it imports transformers
    from lm.encoder import Encoder

COUNTED = 64  # places in the order of targets whose tokens are counted; more are extrapolated
# Assumed: share of answers that change, SD of changes of a score (points)
FLIPS, SPREAD = 0.25, 30.0
MIB = 2**20
COLUMNS = ("", "targets", "prompts", "tokens", "tree", "answers", "detects")
LEGEND = f"""tokens   of all prompts, each by itself
tree     what is read of them where shared beginnings are read once
answers  most tokens that are generated
detects  the smallest change from h = 0 that so many targets show with 80 % power, if the history
         turns {FLIPS:.0%} of the answers right or wrong, or moves the scores of texts by
         {SPREAD:.0f} points (SD); nothing: these are too few targets or histories"""


class Count(NamedTuple):
    """What some cases make a model read."""

    prompts: int  # as often as they are asked
    tokens: int  # of all prompts, each by itself
    tree: int  # nodes of the prefix trees: tokens that are read where what is shared is read once
    answers: int  # most tokens that are generated

    def scaled(self, factor: float) -> "Count":
        """The count of so many times the cases."""
        return Count(*(round(number * factor) for number in self))


@dataclass(frozen=True)
class Planned:
    """A run as far as it is known before it."""

    config: RunConfig
    encoder: "Encoder"
    pairs: list[Pair]
    waiting: list[Pair]  # without a result
    plan: Plan

    def count(self, *pairs: Pair) -> tuple[Count, bool]:
        """What is read of these pairs, and whether that is counted to the last token."""
        places = [[case for case in place if case.pair in pairs] for place in self.plan.places]
        places = [place for place in places if place]
        counted, total = sum(map(len, places[:COUNTED])), sum(map(len, places))
        found = count(places[:COUNTED], self.config, self.encoder)
        return found.scaled(total / counted), counted == total


def describe(config: RunConfig) -> Iterator[str]:
    """The lines of `--dry_run`; UserError where the run itself would be refused before it begins,
    or where it needs a model to know what it reads.
    """
    check_settings(config)
    if config.served:
        raise UserError(
            "--dry_run counts tokens with the model's own tokenizer, which a server keeps.\n"
            "Leave out --server and name the model by its folder or Hub name."
        )
    if RANDOM in config.history:
        raise UserError("--dry_run: texts of --history random are sampled from the model itself.")
    found = plan_run(config)
    done = len(found.pairs) - len(found.waiting)
    if done:
        yield f"{done} of {len(found.pairs)} pairs have their result already."
    if found.waiting:
        yield from describe_planned(found)


def plan_run(config: RunConfig) -> Planned:
    """The plan of a run, made as the run makes it."""
    from lm.loading import load_encoder

    pairs = load_pairs(config)
    waiting = unfinished(pairs, config)
    encoder = load_encoder(
        config.model,
        adapter=config.adapter,
        prompt_form=config.prompt,
        open_thought=config.open_thought,
        trust_remote_code=config.trust_remote_code,
    )
    plan = make_plan(waiting, encoder, config) if waiting else Plan([], [])
    return Planned(config, encoder, pairs, waiting, plan)


def describe_planned(found: Planned) -> Iterator[str]:
    """The lines about what is still to be run."""
    counts = {str(pair): found.count(pair) for pair in found.waiting}
    rows = [
        (name, str(len(targets_of(found, pair))), *shown(*counts[name]), detects(found, pair))
        for pair, name in zip(found.waiting, counts)
    ]
    total, exact = found.count(*found.waiting)
    rows.append(("all, what pairs share once", "", *shown(total, exact), ""))
    widths = [max(map(len, column)) for column in zip(COLUMNS, *rows)]
    for name, *cells in (COLUMNS, *rows):
        yield "  ".join([name.ljust(widths[0]), *map(str.rjust, cells, widths[1:])]).rstrip()
    yield ""
    yield LEGEND
    yield from notes(found, total, exact)
    yield from first_prompt(found)


def targets_of(found: Planned, pair: Pair) -> set[int]:
    """Rows of the targets of a pair."""
    return {case.target_idx for case in found.plan.cases(pair)}


def shown(count: Count, exact: bool) -> list[str]:
    """A count as cells; what is extrapolated begins with ~."""
    mark = "" if exact else "~"
    return [f"{count.prompts:,}", *(f"{mark}{number:,}" for number in count[1:])]


def count(places: Sequence[Sequence[Case]], config: RunConfig, encoder: "Encoder") -> Count:
    """What these cases make a model read, in the batches of the run."""
    regimes = regimes_of(encoder.config.get_text_config())
    found = Count(0, 0, 0, 0)
    for batch in in_batches(places, config.batch_size):
        batch = with_neutral_text(batch, encoder)
        queries = [query for case in batch for query in encode_case(case, config, encoder)]
        asked = [each for query in queries for each in (query, query.cued) if each]
        prompts = prompts_of(asked, encoder)
        groups = list(regimes.groups(requests_of(prompts)))
        here = Count(
            len(asked),
            sum(len(query.prompt.ids) for query in asked),
            sum(PrefixTree(group).size for group in groups),
            sum(prompt.answer for prompt in prompts),
        )
        found = Count(*map(sum, zip(found, here)))
    return found


def detects(found: Planned, pair: Pair) -> str:
    """The smallest change that the targets of a pair can show, under the assumptions above."""
    rows, metric = pair.target.turns, pair.target.spec.task.metric
    n = len({rows[idx].cluster or rows[idx].question for idx in targets_of(found, pair)})
    clusters = min(n, found.config.num_histories or n)
    if metric in PROPORTIONS and clusters == n:
        least = detectable_binary(FLIPS, n)
    else:  # targets that share a history are taken for independent, which is the best case
        spread = 100 * FLIPS**0.5 if metric in PROPORTIONS else SPREAD
        least = detectable_mean(spread * (clusters / n) ** 0.5, clusters)
    return "nothing" if least is None else f"{least:.0f} points"


def notes(found: Planned, total: Count, exact: bool) -> Iterator[str]:
    """What the counts leave out, and what is known of memory and time."""
    from lm.loading import quantised_as, weights_of

    config = found.config
    if not exact:
        yield f"~: extrapolated from the first {COUNTED} targets."
    yield from describe_chats(found.waiting)
    if "model" in config.history:
        yield "--history model: reference answers stand in for the model's own replies."
    yield from uncounted(config)
    size, dtype, device = weights_of(
        found.encoder, config.dtype, config.device, config.trust_remote_code
    )
    yield weights_line(f"{size / MIB:,.0f} MiB in {dtype}", quantised_as(found.encoder.config))
    speed = last(Way(config.model, config.adapter, dtype, device))
    if speed is None:
        yield "Time and memory in all: unknown until a first run of this model here shows them."
    else:
        least, most = (
            format_time(tokens / speed.tokens_per_second)
            for tokens in (total.tree, total.tree + total.answers)
        )
        yield (
            f"Time: {least if least == most else f'{least} to {most}'} on the tree, at the "
            f"{speed.tokens_per_second:,.0f} tokens/s of its last run here.\n"
            f"Memory: {speed.peak_memory_mib:,} MiB were the most in that run."
        )


def uncounted(config: RunConfig) -> Iterator[str]:
    """What is in neither the counts nor the time."""
    extra = [f"--{name}" for name in ("effects", "sensitivity") if getattr(config, name)]
    if extra:
        reads = f"{' and '.join(extra)} read{'s' if len(extra) == 1 else ''}"
        more = "; --effects takes several times as long as the rest" if config.effects else ""
        yield f"Not counted, in tokens or time: what {reads}{more}."


def weights_line(size: str, method: str | None) -> str:
    """How large the weights are, of a checkpoint that may be quantised by some method."""
    if method is None:
        return f"Weights: {size}."
    return f"Weights: less than {size}, since they are quantised ({method})."


def keep_speed(config: RunConfig, lm: Model, tokens_per_second: float) -> None:
    """Keep the speed of a run for the dry runs to come, unless it has read nothing."""
    if not tokens_per_second:
        return
    made = lm.facts()
    way = Way(config.model, config.adapter, made["dtype"], made["device"].partition(":")[0])
    keep(way, Speed(tokens_per_second, lm.peak_memory_mib))


def format_time(seconds: float) -> str:
    """Hours, minutes and seconds."""
    return str(timedelta(seconds=round(seconds)))


def first_prompt(found: Planned) -> Sequence[str]:
    """The first prompt at the longest history."""
    [case] = with_neutral_text(found.plan.cases(found.waiting[0])[:1], found.encoder)
    text = found.encoder.render(case.messages(found.config.longest))
    title = f"The first prompt at h = {found.config.longest} ({case.pair}, row {case.target_idx}):"
    return ["", title, text]
