"""A Hugging Face causal LM: conversations in; label scores, greedy text and its layers out.

    lm = load_model("bundled/SmolLM2-135M-Instruct")
    question = {"role": "user", "content": "2 + 2 = 4: true or false?"}
    prompt = lm.encode([question], labels=("true", "false"))
    [outcome] = lm.run([prompt])          # outcome.label_logprobs, outcome.top5, outcome.layers

Paper: Gupta et al., arXiv 2402.18216.
"""

import core  # isort: skip  # noqa: F401  before torch, which reads what it sets

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from transformers import GenerationConfig

from core import provenance
from core.debug_log import Message
from core.schema import EFFECT_PARTS
from lm.checks import check_tokens
from lm.effects import measure_effects
from lm.encoder import Encoder
from lm.engine import Decoding, Runtime
from lm.forward import Reading, input_device
from lm.identities import exact_parts
from lm.interventions import Interventions, Past
from lm.layers import LayerReader, prove_lens
from lm.lens import find_parts
from lm.loading import load
from lm.memory import release_memory
from lm.prefix_tree import common_length
from lm.prompts import (
    Layers,
    Outcome,
    Prefix,
    Prompt,
    Request,
    requests_of,
)
from lm.proof import choose_engine
from lm.sampling import sample
from lm.targets import Asked
from lm.verdicts import Verdict

# Tokens of one forward, and its time apart from them, in tokens: reading the weights is soon paid
# for on a CPU, while an accelerator requests large batches.
TOKEN_BUDGET = {"cpu": 8192, "accelerator": 32768}
FORWARD_COST = {"cpu": 48.0, "accelerator": 2000.0}


class LanguageModel(Encoder):
    """A loaded causal LM with its tokenizer, prompt form and engine."""

    def __init__(
        self,
        model,
        tokenizer,
        prompt_form: str = "auto",
        lens: str | None = "logit",
        agree: bool = False,
        engine: str = "auto",
        *,
        open_thought: str = "refuse",
        revision: str | None = None,
        verdict: Verdict | None = None,
    ):
        """`model` is a Hugging Face causal LM; `prompt_form` is auto, chat or plain, `engine` auto,
        tree or plain, `lens` logit, raw or None (no layers); `agree` reads Layers.agree too.
        `open_thought` is what Renderer says of it, `revision` which state of the model it is,
        `verdict` what its checks have shown before.
        UserError where the form, the engine or the lens does not fit the model.
        """
        self.revision = revision
        self.model = model.eval()
        super().__init__(tokenizer, model.config, prompt_form, open_thought)
        ends = tuple(dict.fromkeys([*_eos_ids(model, tokenizer), *self.renderer.answers.stop_ids]))
        check_tokens(model, tokenizer, [*self.renderer.ids_of_conversations(), *ends])
        self.decoding = Decoding(ends, self.renderer.stop_text, tokenizer.decode)
        model.generation_config = GenerationConfig()  # generate() takes penalties from the old one
        self.lens = prove_lens(model, lens) if lens else None
        self.agree = agree
        kind = "cpu" if input_device(model).type == "cpu" else "accelerator"
        blocks = self.lens.parts.blocks if self.lens else ()
        self.runtime = Runtime(model, blocks, self.decoding, TOKEN_BUDGET[kind], FORWARD_COST[kind])
        self.verdict = verdict or Verdict()
        self.engine, self.proof = choose_engine(engine, self.runtime, self.verdict)
        self._pasts: dict[Prefix, Past] = {}  # of the prompts of the last run that say so

    # -- settings and facts

    def margin_tokens(self, labels: Sequence[str]) -> dict[str, str] | None:
        """The token each label is read by at the fork; None where no token tells them apart."""
        fork = self.encode([{"role": "user", "content": "?"}], labels).fork
        if fork is None:
            return None
        return dict(zip(labels, map(self.tokenizer.decode, ([token] for token in fork.tokens))))

    def describe(self, labels: Sequence[str], max_new_tokens: int) -> dict[str, Any]:
        """The settings that this model resolves, for the config of a result."""
        return {
            "revision": self.revision,
            "prompt": self.renderer.form,
            "engine": self.engine.name,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "label_continuations": self.continuations(labels),
            "template": self.renderer.describe(),
            "margin_tokens": self.margin_tokens(labels),
            "generation": self.decoding.describe() | {"max_new_tokens": max_new_tokens},
        }

    def facts(self) -> dict[str, Any]:
        """What a result records about the model as it was run."""
        device = input_device(self.model)
        peak = {"peak_device_memory_mib": self.peak_memory_mib} if device.type == "cuda" else {}
        return peak | {
            "architecture": type(self.model).__name__,
            "device": str(device),
            "device_map": {k: str(v) for k, v in getattr(self.model, "hf_device_map", {}).items()},
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "attention": self.model.config._attn_implementation,
            "engine": self.engine.name,
            "tree_refused": self.proof.refusal,
            "pasts_shared": self.runtime.shares,
            "answering": self.engine.answering,
            "rounding": self.proof.describe(),
            "lens": self.lens.describe() if self.lens else None,
            "token_budget": self.runtime.token_budget,
            "context": self.context,
        }

    @property
    def counts_tokens(self) -> bool:
        """Are the tokens of labels known here?"""
        return True

    @property
    def tokens_read(self) -> int:
        """Tokens run so far, without padding."""
        return self.runtime.tokens

    @property
    def peak_memory_mib(self) -> int:
        """The most memory taken until now (MiB): of a GPU, or else of this process."""
        if input_device(self.model).type == "cuda":
            return torch.cuda.max_memory_allocated() // 2**20
        return provenance.peak_memory_mib()

    @property
    def token_budget(self) -> int:
        """Most tokens of one forward; a continued run starts with what memory allowed."""
        return self.runtime.token_budget

    @token_budget.setter
    def token_budget(self, tokens: int) -> None:
        self.runtime.token_budget = tokens

    def release_memory(self) -> None:
        """Free what a failed forward left on the device."""
        release_memory()

    # -- numbers

    def run(
        self, prompts: Sequence[Prompt], advance: Callable[[int], None] = lambda done: None
    ) -> list[Outcome]:
        """Score or answer the prompts, in order. `advance` is called with the number just done."""
        readings = self.engine.read(requests_of(prompts), advance)
        kept = ((prompt.ids, readings[prompt.ids].kept) for prompt in prompts if prompt.keep)
        self._pasts = {ids: Past.of(blocks) for ids, blocks in kept if blocks}
        layers = [None] * len(prompts)
        if self.lens:
            layers = LayerReader(self.lens, self.agree).read(prompts, readings)
        return [self._outcome(prompt, readings, held) for prompt, held in zip(prompts, layers)]

    def _outcome(
        self, prompt: Prompt, readings: Mapping[Prefix, Reading], layers: Layers | None
    ) -> Outcome:
        here = readings[prompt.ids]
        scores = {label: _logprob(readings, ids, prompt.start) for label, ids in prompt.labels}
        others = {}
        for label, ids in prompt.others:
            own, shared = (_logprob(readings, *each) for each in prompt.relative(ids))
            others[label] = own - shared
        answer = here.answer[: prompt.answer] if prompt.answer else ()
        return Outcome(
            top5=tuple(self.tokenizer.decode([token]) for token in here.top_tokens),
            layers=layers,
            label_logprobs=scores or None,
            text=self._text(answer) if prompt.answer else None,
            reply=self._reply(answer),
            other_logprobs=others,
        )

    def _text(self, answer: Prefix) -> str:
        text = self.tokenizer.decode(answer, skip_special_tokens=True)
        stop_text = self.decoding.stop_text
        return (text.partition(stop_text)[0] if stop_text else text).strip()

    def _reply(self, answer: Prefix) -> Prefix:
        """The tokens of an answer up to the one in which its stop text begins."""
        stop_text = self.decoding.stop_text
        if stop_text is None:
            return answer
        before, stop, _ = self.tokenizer.decode(answer).partition(stop_text)
        while stop and answer and len(self.tokenizer.decode(answer)) > len(before):
            answer = answer[:-1]
        return answer

    def continued(self, prompt: Prompt, text: str) -> tuple[Prefix, int]:
        """A prompt's tokens with a text behind it, and where that begins to differ from them."""
        ids = self.renderer.tokens(prompt.text + self.continuation(text))
        return ids, common_length(ids, prompt.ids)

    def logprobs(self, sequences: Sequence[tuple[Prefix, int]]) -> list[float]:
        """log P of the tokens of each sequence from a position on (nats); 0 for no tokens."""
        requests: dict[Prefix, Request] = {}
        for ids, start in sequences:
            for k in range(start, len(ids)):
                requests.setdefault(ids[:k], Request()).next_tokens.add(ids[k])
        readings = self.engine.read(requests) if requests else {}
        return [_logprob(readings, ids, start) for ids, start in sequences]

    # -- effects

    @cached_property
    def interventions(self) -> Interventions:
        """Runs of the model with parts of its attention or its states changed."""
        return Interventions(self.runtime, find_parts(self.model).blocks)

    @cached_property
    def exact_effects(self) -> tuple[str, ...]:
        """The parts of `--effects` that are exact for this model."""
        parts = self.verdict.once(
            "effects",
            lambda: list(exact_parts(self.interventions)),
            lambda parts: parts == list(EFFECT_PARTS),
        )
        return tuple(parts)

    def effects(
        self,
        conversations: Sequence[Sequence[Message]],
        prompts: Sequence[Prompt],
        reference: str,
        parts: Iterable[str],
        *,
        window: int | None = None,
        all_lengths: bool = False,
    ) -> list[dict[str, Any]]:
        """What a history does to a target, at h = 1, 2, ...: `spans` and `effects` of the log.

        Conversations and prompts are those at h = 0, 1, 2, ...; parts that are not exact for this
        model are left out. `window` is the width of a window of blocks; with `all_lengths` the slow
        parts are measured at every h, not the longest alone.
        """
        asked = [
            Asked.of(prompt, reference)
            if prompt.labels
            else Asked.of_text(*self.continued(prompt, reference))
            for prompt in prompts
        ]
        exact = [part for part in parts if part in self.exact_effects]
        return measure_effects(
            self.interventions, self.renderer, conversations, asked, exact,
            width=window, all_lengths=all_lengths, past=self._pasts.pop(prompts[-1].ids, None),
        )  # fmt: skip

    def sample(self, count: int, max_new_tokens: int, seed: int) -> list[str]:
        """Texts sampled from the model after what begins a text, at temperature 1."""
        known = (self.tokenizer.bos_token_id, *self.decoding.eos_ids, 0)
        first = next(token for token in known if token is not None)
        begin = self.renderer.tokens(self.renderer.beginning) or (first,)
        rows = sample(self.runtime, begin, count, max_new_tokens, seed)
        texts = self.tokenizer.batch_decode(rows, skip_special_tokens=True)
        return [text.strip() for text in texts]


def load_model(
    name: str,
    *,
    dtype: str = "auto",
    device: str = "auto",
    prompt_form: str = "auto",
    lens: str | None = "logit",
    agree: bool = False,
    device_map: str | None = None,
    engine: str = "auto",
    adapter: str | None = None,
    open_thought: str = "refuse",
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    recheck: bool = False,
) -> LanguageModel:
    """Load a causal LM by Hub name, path, or BUNDLED; UserError with advice where that fails.

    A path is a folder, or a GGUF file. With a `device_map` (auto) the model is spread over every
    device there is, `device` or not. `adapter` is a PEFT adapter of the model's layers, by path or
    Hub name. Pickled weights are read with `allow_pickle` only. With `recheck` its checks are run,
    also where they were passed before. The rest is as in LanguageModel.
    """
    loaded = load(
        name,
        dtype=dtype,
        device=device,
        device_map=device_map,
        adapter=adapter,
        trust_remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
        recheck=recheck,
    )
    return LanguageModel(
        loaded.model, loaded.tokenizer, prompt_form, lens, agree, engine,
        open_thought=open_thought, revision=loaded.revision, verdict=loaded.verdict,
    )  # fmt: skip


def _logprob(readings: Mapping[Prefix, Reading], ids: Prefix, start: int) -> float:
    """log P of the tokens of a sequence from a position on."""
    return sum(readings[ids[:k]].logprobs[ids[k]] for k in range(start, len(ids)))


def _eos_ids(model, tokenizer) -> tuple[int, ...]:
    """Every token that ends a text by the model's generation settings or its tokenizer."""
    settings = model.generation_config
    stated = settings.eos_token_id if settings else None
    ids = [*(stated if isinstance(stated, list) else [stated]), tokenizer.eos_token_id]
    return tuple(dict.fromkeys(token for token in ids if token is not None))
