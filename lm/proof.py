"""Which engine reads a model, and how it writes answers: never trusted, proved on a short probe."""

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from core.errors import UserError
from lm.checks import MISFITS, in_a_line, slack_of
from lm.engine import ANSWERING, Decoding, Engine, PlainEngine, Runtime
from lm.forward import Reading
from lm.prompts import Prefix, Request
from lm.tree_engine import NoCache, TreeEngine
from lm.verdicts import Verdict

BATCHED = 10_000  # tokens of a forward: all of the probe in one
CROWDED = 80  # all that the tree runs together, but not copies of what its answers share

Readings = Mapping[Prefix, Reading]


@dataclass(frozen=True)
class Proof:
    """What the probe showed of a model; gaps are in log P (nats)."""

    batch_gap: float  # largest between a prefix read in a padded batch and by itself
    tree_gap: float | None = None  # largest between tree and plain loop; None: not read
    refusal: str | None = None  # why the tree does not read it; None: it does, or was not asked
    answering: str = ANSWERING[0]  # how the plain engine writes answers, where that is the one
    shares: bool = False  # do rows of the tree share their pasts?

    def describe(self) -> dict[str, float | None]:
        """How far roads to the same number lie apart, for a result file."""
        return {"tree_and_plain": self.tree_gap, "batch_and_single": self.batch_gap}


def choose_engine(
    name: str, runtime: Runtime, verdict: Verdict | None = None
) -> tuple[Engine, Proof]:
    """The engine by name; `auto` is the tree where it reads this model as the plain loop does.

    Says so where it does not, and raises UserError where the tree was asked for by name. A verdict
    on this model may hold the proof.
    """
    verdict = verdict or Verdict()
    found = verdict.once(f"engine {name}", lambda: asdict(prove(name, runtime)), _is_clean)
    proof = Proof(**found)
    runtime.shares = proof.shares
    if name != "plain" and proof.refusal is None:
        return TreeEngine(runtime), proof
    return PlainEngine(runtime, proof.answering), proof


def _is_clean(proof: Mapping[str, Any]) -> bool:
    """Is there nothing to be said of a proof? One that says something is made again."""
    return proof["refusal"] is None and proof["answering"] != ANSWERING[-1]


def prove(name: str, runtime: Runtime) -> Proof:
    """The proof of the engine by name; says so where the plain one takes the place of the tree."""
    probe = Probe(runtime)
    proof = Proof(probe.batch_gap) if name == "plain" else probe.tree_proof()
    if name != "plain" and proof.refusal is None:
        return proof
    model = type(runtime.model).__name__
    if name == "tree":
        raise UserError(
            f"--engine tree cannot run {model}: {proof.refusal}. Use --engine auto or plain."
        )
    if proof.refusal:
        print(f"{model}: {proof.refusal}. The plain engine runs instead (slower).", file=sys.stderr)
    return replace(proof, answering=probe.answering())


class Probe:
    """A few short prefixes that are read by each engine, and what the plain loop makes of them.

    They have branches off branches at unequal depths, two of them off one node, of unequal lengths,
    run in few padded forwards, and answers decoded in one batch: all that the tree does and the
    plain loop does not.
    """

    def __init__(self, runtime: Runtime):
        endless = Decoding(eos_ids=(), stop_text=None, decode=str)
        self.runtime = replace(runtime, blocks=(), decoding=endless)
        self.requests = probe_requests(runtime.model.config.get_text_config().vocab_size)
        bare = {prefix: replace(request, answer=0) for prefix, request in self.requests.items()}
        self.plain = PlainEngine(self._with(1), "reread").read(self.requests)
        batched = PlainEngine(self._with(BATCHED)).read(bare)
        self.batch_gap = largest_gap(batched, self.plain)
        self.slack = slack_of(runtime.model.dtype)
        if runtime.model.dtype.itemsize < 4:
            self.slack = max(self.slack, 2 * self.batch_gap)

    def _with(self, token_budget: int) -> Runtime:
        return replace(self.runtime, token_budget=token_budget)

    def tree_proof(self) -> Proof:
        """Does the tree read the probe as the plain loop does, to within rounding?

        Where it does not because rows share their past, they share it no longer.
        """
        proof = self._tree_proof()
        if proof.refusal and self.runtime.shares:
            self.runtime.shares = False
            proof = self._tree_proof()
        return proof

    def _tree_proof(self) -> Proof:
        runtime = replace(self.runtime, forward_cost=1000, token_budget=CROWDED)
        try:
            tree = TreeEngine(runtime).read(self.requests)
        except NoCache:
            return Proof(self.batch_gap, refusal="it keeps no keys and values for the tree engine")
        except MISFITS as error:
            refusal = f"the tree engine fails on it ({in_a_line(error)})"
            return Proof(self.batch_gap, refusal=refusal)
        gap = largest_gap(tree, self.plain)
        exact = gap <= self.slack and self.same_answers(tree)
        refusal = None if exact else f"the tree engine is not exact for it ({gap:.1g} nats)"
        return Proof(self.batch_gap, gap, refusal, shares=runtime.shares)

    def answering(self) -> str:
        """The fastest way of ANSWERING in which `generate` gives the answers of plain argmax."""
        for way in ANSWERING[:-1]:
            try:
                if self.same_answers(PlainEngine(self._with(BATCHED), way).read(self.requests)):
                    return way
            except MISFITS:
                continue  # no cache that `generate` could use
        print(f"{type(self.runtime.model).__name__}: its cache is not exact, so the whole text "
              "is read again for each token of an answer (slower).", file=sys.stderr)  # fmt: skip
        return ANSWERING[-1]

    def same_answers(self, found: Readings) -> bool:
        """Are answers those of the plain loop, up to the first near tie?"""
        return all(
            self._same_answer(prefix, found[prefix].answer, self.plain[prefix].answer)
            for prefix, request in self.requests.items()
            if request.answer
        )

    def _same_answer(self, prefix: Prefix, found: Prefix, expected: Prefix) -> bool:
        parting = next((k for k, pair in enumerate(zip(found, expected)) if len({*pair}) > 1), None)
        if parting is None:
            return True
        request = Request({found[parting], expected[parting]})
        text = (*prefix, *expected[:parting])
        first, second = PlainEngine(self._with(1)).read({text: request})[text].logprobs.values()
        return abs(first - second) <= self.slack


def largest_gap(first: Readings, second: Readings) -> float:
    """Largest difference in a log-probability that both have read."""
    return max(
        abs(second[prefix].logprobs[token] - logprob)
        for prefix, reading in first.items()
        for token, logprob in reading.logprobs.items()
    )


def probe_requests(vocabulary: int) -> dict[Prefix, Request]:
    """What is read of a model with so many token ids."""
    tokens = torch.randint(vocabulary, (45,), generator=torch.Generator().manual_seed(0)).tolist()
    trunk = tuple(tokens[:24])
    early, late = (*trunk[:4], *tokens[24:32]), (*trunk[:16], *tokens[32:37])
    on_branch, twin = (*early[:7], *tokens[37:42]), (*trunk[:4], *tokens[42:])
    return {
        prefix: Request(set(tokens), is_prompt=True, answer=3 * (prefix in (trunk, early, late)))
        for prefix in (trunk, early, late, on_branch, twin)
    }
