"""A Hugging Face causal LM: conversations in; label scores, greedy text and its layers out.

    lm = load_model("bundled/SmolLM2-135M-Instruct")
    question = {"role": "user", "content": "2 + 2 = 4: true or false?"}
    prompt = lm.encode([question], labels=("true", "false"))
    [outcome] = lm.run([prompt])          # outcome.label_logprobs, outcome.top5, outcome.layers

Paper: Gupta et al., arXiv 2402.18216.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from jinja2 import TemplateError
from torch import Tensor
from transformers import GenerationConfig

from engine import (
    Decoding,
    Prefix,
    Reading,
    Runtime,
    Spot,
    Want,
    captured,
    input_device,
    release_memory,
)
from errors import UserError
from histories import Message
from lens import Lens, find_parts, proved_lens
from prefix_tree import common_length
from prompts import Layers, Outcome, Prompt, wants_of
from tasks import MAX_NEW_TOKENS
from tree_engine import choose_engine

# Tokens of one forward, and its time apart from them, in tokens: reading the weights is soon paid
# for on a CPU, while an accelerator wants large batches.
TOKEN_BUDGET = {"cpu": 8192, "accelerator": 32768}
FORWARD_COST = {"cpu": 48.0, "accelerator": 2000.0}
CONTEXT_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx")
PROBE = (3, 5, 8, 13, 21, 34)  # token ids that every vocabulary has
# Fixed values for what a chat template would otherwise take from the day or from its defaults.
TEMPLATE_SETTINGS = {"date_string": "01 Jan 2025", "enable_thinking": False}
# What a template written for other conversations raises while it is rendered
TEMPLATE_ERRORS = (TemplateError, ArithmeticError, LookupError)
TEMPLATE_ERRORS += (RecursionError, TypeError, ValueError)
PLAIN_STOP = "\nUser:"
# Where a space makes the name of a special token a text like any other
SEAM = re.compile(r"(?<=\S)(?=\S)")
PROMPTS_AT_ONCE = 64  # whose states the lens reads together, in float32


class LanguageModel:
    """A loaded causal LM with its tokenizer, prompt form and engine."""

    def __init__(
        self,
        lm,
        tokenizer,
        prompt_form: str = "auto",
        lens: str | None = "logit",
        agree: bool = False,
        engine: str = "auto",
        *,
        revision: str | None = None,
    ):
        """`lm` is a Hugging Face causal LM; `prompt_form` is auto, chat or plain, `engine` auto,
        tree or plain, `lens` logit, raw or None (no layers); `agree` reads Layers.agree too.
        `revision` says which state of the model it is. UserError where the form, the engine or the
        lens does not fit the model.
        """
        self.revision = revision
        self.lm = lm.eval()
        self.tokenizer = tokenizer
        self.prompt_form = _resolve_prompt_form(prompt_form, tokenizer)
        # Chat templates end a turn with a token, so only the plain form needs a stop text.
        stop_text = PLAIN_STOP if self.prompt_form == "plain" else None
        ends = _eos_ids(lm, tokenizer)
        self.decoding = Decoding(ends, stop_text, tokenizer.decode)
        lm.generation_config = GenerationConfig()  # generate() takes penalties from the old one
        self.lens = prove_lens(lm, lens) if lens else None
        self.agree = agree
        kind = "cpu" if input_device(lm).type == "cpu" else "accelerator"
        blocks = self.lens.parts.blocks if self.lens else ()
        self.runtime = Runtime(lm, blocks, self.decoding, TOKEN_BUDGET[kind], FORWARD_COST[kind])
        self.engine = choose_engine(engine, self.runtime)

    # -- text and tokens

    def escape(self, text: str) -> tuple[str, int]:
        """A text with a space inside each special token's name, and how many there were.

        `<|im_end|>` in a review must not end the user's turn: it becomes `< |im_end|>`. A text
        without such names stays as it is; one without two visible characters in a row is left.
        """
        escaped = 0
        while True:  # a name may stand in another; each space takes away one seam, so this ends
            text, count = self._special_tokens.subn(lambda found: SEAM.sub(" ", found[0], 1), text)
            escaped += count
            if not count:
                return text, escaped

    @cached_property
    def _special_tokens(self) -> re.Pattern[str]:
        """Finds the texts that the tokenizer reads as special tokens, the longest first."""
        added = self.tokenizer.added_tokens_decoder.values()
        names = {*self.tokenizer.all_special_tokens, *(str(each) for each in added if each.special)}
        names = sorted(filter(SEAM.search, names), key=lambda name: (-len(name), name))
        return re.compile("|".join(map(re.escape, names)) or "(?!)")  # (?!) is found nowhere

    def render(self, messages: Sequence[Message]) -> str:
        """Text of a conversation up to the assistant's answer: exactly what the model reads.

        Special tokens in it come from the template alone, see `escape`.
        """
        return self._render(messages, answer=None)

    def continuation(self, label: str) -> str:
        """The text scored for a label: to the character what a history shows as that answer."""
        question = [{"role": "user", "content": "?"}]
        label, _ = self.escape(label)
        prompt, shown = self._render(question, None), self._render(question, label)
        behind = shown.removeprefix(prompt)
        if behind == shown or label not in behind:  # the template writes a last answer differently
            return label
        return behind[: behind.index(label) + len(label)]

    def _render(self, messages: Sequence[Message], answer: str | None) -> str:
        last = [] if answer is None else [{"role": "assistant", "content": answer}]
        whole = [each | {"content": self.escape(each["content"])[0]} for each in [*messages, *last]]
        if self.prompt_form == "plain":
            turns = [f"{each['role'].title()}: {each['content']}" for each in whole]
            return self._bos + "\n".join([*turns, "Assistant:"] if answer is None else turns)
        try:
            return self.tokenizer.apply_chat_template(
                whole,
                tokenize=False,
                add_generation_prompt=answer is None,
                **TEMPLATE_SETTINGS,
            )
        except TEMPLATE_ERRORS as error:
            raise UserError(
                "the chat template of this model does not take the conversation "
                f"({' '.join(str(error).split())[:90]}). Use --prompt plain."
            ) from error

    @cached_property
    def _bos(self) -> str:
        """The beginning-of-text token, where this tokenizer puts one before every text."""
        puts_one = self.tokenizer("a").input_ids[:1] == [self.tokenizer.bos_token_id]
        return self.tokenizer.bos_token if puts_one else ""

    def encode(
        self,
        messages: Sequence[Message],
        labels: Sequence[str] = (),
        max_new_tokens: int | None = None,
        baseline: Prompt | None = None,
    ) -> Prompt:
        """Tokenise a conversation, and again with each label behind it: a token may span the seam.

        It is answered in at most `max_new_tokens`: by default MAX_NEW_TOKENS, with labels 0, which
        is not at all. `baseline` is the same target's prompt without history, which drift is
        measured from. Raises UserError where two labels cannot be told apart by their tokens.
        """
        if max_new_tokens is None:
            max_new_tokens = 0 if labels else MAX_NEW_TOKENS
        text = self.render(messages)
        ids = self._tokens(text)
        escaped = sum(self.escape(each["content"])[1] for each in messages)
        if not labels:
            return Prompt(text, ids, answer=max_new_tokens, baseline=baseline, escaped=escaped)
        full = {label: self._tokens(text + self.continuation(label)) for label in labels}
        start = min(common_length(ids, sequence) for sequence in full.values())
        empty = any(len(sequence) <= start for sequence in full.values())
        if empty or len(set(full.values())) < len(full):
            names = ", ".join(labels)
            raise UserError(f"labels {names} cannot be told apart by this model's tokens.")
        return Prompt(text, ids, tuple(full.items()), start, max_new_tokens, baseline, escaped)

    def _tokens(self, text: str) -> Prefix:
        return tuple(self.tokenizer(text, add_special_tokens=False).input_ids)

    @property
    def context(self) -> int | None:
        """Most tokens the model was made to read; None where its configuration states no limit."""
        config = self.lm.config.get_text_config()
        return next(
            (limit for name in CONTEXT_NAMES if (limit := getattr(config, name, None))), None
        )

    def margin_tokens(self, labels: Sequence[str]) -> dict[str, str] | None:
        """The token each label is read by at the fork; None where no token tells them apart."""
        fork = self.encode([{"role": "user", "content": "?"}], labels).fork
        if fork is None:
            return None
        return dict(zip(labels, map(self.tokenizer.decode, ([token] for token in fork.tokens))))

    def tokens_needed(
        self, messages: Sequence[Message], labels: Sequence[str], max_new_tokens: int, more: int = 0
    ) -> int:
        """Tokens of a prompt with its longest label, or the longest answer it may get.

        `more` tokens are yet to come into the prompt.
        """
        return self.encode(messages, labels, max_new_tokens).longest + more

    def surely_fits(
        self, messages: Sequence[Message], labels: Sequence[str], max_new_tokens: int, more: int = 0
    ) -> bool:
        """Does a prompt fit the context without counting? No text has more tokens than bytes."""
        shown = [self.escape(label)[0] for label in labels]
        behind = max([max_new_tokens, *(len(label.encode()) for label in shown)])
        most = len(self.render(messages).encode()) + behind + more + 8
        return self.context is None or most <= self.context

    def facts(self) -> dict[str, Any]:
        """What a result says of the model as it was run."""
        peak = {}
        device = input_device(self.lm)
        if device.type == "cuda":
            peak["peak_device_memory_mib"] = torch.cuda.max_memory_allocated() // 2**20
        return peak | {
            "architecture": type(self.lm).__name__,
            "device": str(device),
            "device_map": {k: str(v) for k, v in getattr(self.lm, "hf_device_map", {}).items()},
            "dtype": str(self.lm.dtype).removeprefix("torch."),
            "attention": self.lm.config._attn_implementation,
            "engine": self.engine.name,
            "lens": self.lens.describe() if self.lens else None,
            "token_budget": self.runtime.token_budget,
            "context": self.context,
        }

    def release_memory(self) -> None:
        """Give back what a failed forward has left on the device."""
        release_memory()

    # -- numbers

    def run(
        self, prompts: Sequence[Prompt], advance: Callable[[int], None] = lambda done: None
    ) -> list[Outcome]:
        """Score or answer the prompts, in their order. `advance` is told how many were done."""
        readings = self.engine.read(wants_of(prompts), advance)
        layers = self._layers(prompts, readings) if self.lens else [None] * len(prompts)
        return [self._outcome(prompt, readings, held) for prompt, held in zip(prompts, layers)]

    def _outcome(
        self, prompt: Prompt, readings: Mapping[Prefix, Reading], layers: Layers | None
    ) -> Outcome:
        here = readings[prompt.ids]
        scores = {
            label: sum(readings[ids[:k]].logprobs[ids[k]] for k in range(prompt.start, len(ids)))
            for label, ids in prompt.labels
        }
        answer = here.answer[: prompt.answer] if prompt.answer else ()
        return Outcome(
            top5=tuple(self.tokenizer.decode([token]) for token in here.top_tokens),
            layers=layers,
            label_logprobs=scores or None,
            text=self._text(answer) if prompt.answer else None,
            reply=self._reply(answer),
        )

    @torch.inference_mode()
    def _layers(
        self, prompts: Sequence[Prompt], readings: Mapping[Prefix, Reading]
    ) -> list[Layers]:
        """What the blocks hold, some prompts at a time."""
        found = []
        for start in range(0, len(prompts), PROMPTS_AT_ONCE):
            batch = prompts[start : start + PROMPTS_AT_ONCE]
            states = _stack(readings, [prompt.ids for prompt in batch])
            baselines = _stack(readings, [(prompt.baseline or prompt).ids for prompt in batch])
            view = self.lens.view(states)
            cosines = self.lens.cosines(view).tolist()
            drift = self.lens.drift(states, baselines).tolist()
            labels = self._label_logits(batch, readings)
            agree = [None] * len(batch)
            if self.agree:
                own = torch.tensor([readings[prompt.ids].top_tokens[:1] for prompt in batch])
                agree = (self.lens.top_tokens(view).cpu() == own).tolist()
            found += [
                Layers(tuple(c), tuple(d), labels.get(prompt), None if a is None else tuple(a))
                for prompt, c, d, a in zip(batch, cosines, drift, agree)
            ]
        return found

    def _label_logits(
        self, prompts: Sequence[Prompt], readings: Mapping[Prefix, Reading]
    ) -> dict[Prompt, dict[str, tuple[float, ...]]]:
        """Lens logits of the labels of each prompt that has a fork, those of one task together."""
        groups: dict[tuple[int, ...], list[Prompt]] = {}
        for prompt in prompts:
            if prompt.fork:
                groups.setdefault(prompt.fork.tokens, []).append(prompt)
        found = {}
        for tokens, group in groups.items():
            view = self.lens.view(_stack(readings, [prompt.fork.prefix for prompt in group]))
            logits = self.lens.token_logits(view, tokens).transpose(1, 2).tolist()  # [P, T, L]
            for prompt, rows in zip(group, logits):
                names = (label for label, _ in prompt.labels)
                found[prompt] = dict(zip(names, map(tuple, rows)))
        return found

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
        ids = self._tokens(prompt.text + self.continuation(text))
        return ids, common_length(ids, prompt.ids)

    def logprobs(self, sequences: Sequence[tuple[Prefix, int]]) -> list[float]:
        """log P of the tokens of each sequence from a position on (nats); 0 for no tokens."""
        wants: dict[Prefix, Want] = {}
        for ids, start in sequences:
            for k in range(start, len(ids)):
                wants.setdefault(ids[:k], Want()).next_tokens.add(ids[k])
        readings = self.engine.read(wants) if wants else {}
        return [
            sum(readings[ids[:k]].logprobs[ids[k]] for k in range(start, len(ids)))
            for ids, start in sequences
        ]

    def sample(self, count: int, max_new_tokens: int, seed: int) -> list[str]:
        """Texts sampled from the model after its beginning-of-text token, at temperature 1."""
        known = (self.tokenizer.bos_token_id, *self.decoding.eos_ids, 0)
        begin = next(token for token in known if token is not None)
        ends = list(self.decoding.eos_ids) or None
        settings = GenerationConfig(
            max_new_tokens=max_new_tokens, do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
            eos_token_id=ends, pad_token_id=ends[0] if ends else 0,
        )  # fmt: skip
        ids = torch.full((count, 1), begin, device=input_device(self.lm))
        mask = torch.ones_like(ids)
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(seed)
            rows = self.lm.generate(ids, attention_mask=mask, generation_config=settings)
        texts = self.tokenizer.batch_decode(rows[:, 1:].tolist(), skip_special_tokens=True)
        return [text.strip() for text in texts]


def prove_lens(lm, kind: str = "logit") -> Lens:
    """The lens of a model, proved on a short row of tokens; UserError where none fits it."""
    parts = find_parts(lm)
    spots = [Spot(0, column, Want(states=True)) for column in range(len(PROBE))]
    with torch.no_grad(), captured(lm, parts.blocks[-1:], spots) as states:
        logits = lm(torch.tensor([PROBE], device=input_device(lm))).logits[0]
        return proved_lens(parts, states[0], logits, type(lm).__name__, kind)


def _stack(readings: Mapping[Prefix, Reading], prefixes: Sequence[Prefix]) -> Tensor:
    """Outputs of all blocks at the ends of these prefixes [P, L, D]."""
    return torch.stack([readings[prefix].states for prefix in prefixes])


def _resolve_prompt_form(form: str, tokenizer) -> str:
    if form == "chat" and not tokenizer.chat_template:
        raise UserError(
            "--prompt chat: this model's tokenizer has no chat template. Use --prompt plain."
        )
    return form if form != "auto" else "chat" if tokenizer.chat_template else "plain"


def _eos_ids(lm, tokenizer) -> tuple[int, ...]:
    """Every token that ends a text by the model's generation settings or its tokenizer."""
    stated = lm.generation_config.eos_token_id if lm.generation_config else None
    ids = [*(stated if isinstance(stated, list) else [stated]), tokenizer.eos_token_id]
    return tuple(dict.fromkeys(token for token in ids if token is not None))
