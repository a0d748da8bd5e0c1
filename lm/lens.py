"""The lens: a block's hidden state read through the model's own final norm and unembedding.

The parts are found by structure and proved by an identity, never guessed: the last block seen
through the lens must give the model's own logits. All of it is float32, whatever the model's dtype.
Logit lens: nostalgebraist, "interpreting GPT: the logit lens", 2020.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from accelerate.hooks import remove_hook_from_module
from accelerate.utils import align_module_device
from torch import Tensor, nn

from core.errors import UserError
from lm.forward import block_output
from lm.unembedding import Unembedding

MISREAD = "{}: its {},\nso its layers would be misread. Run with --no_cosine."


@dataclass(frozen=True)
class Parts:
    """What the lens reads of a causal LM; `norms` are the candidates for its final norm."""

    blocks: nn.ModuleList
    norms: tuple[nn.Module, ...]
    head: nn.Module
    softcap: float | None  # final logits are softcap * tanh(logits / softcap)
    scales: tuple[float, ...]  # candidates for what the logits are multiplied by


def find_parts(model: nn.Module) -> Parts:
    """The parts of a causal LM, found by structure; UserError where there are none to find."""
    config = model.config.get_text_config()
    head = model.get_output_embeddings()
    depth = getattr(config, "num_hidden_layers", None)
    body = text_body(model)
    stacks = [
        (name, module)
        for name, module in body.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth
    ]
    if head is None or not stacks:
        missing = "output embeddings" if head is None else f"list of {depth} blocks"
        name = type(model).__name__
        raise UserError(f"{name}: its layers cannot be read (no {missing}). Run with --no_cosine.")
    name, blocks = min(stacks, key=lambda found: found[0].count("."))
    return Parts(
        blocks,
        tuple(_norms(body.get_submodule(name.rpartition(".")[0]), head)),
        head,
        getattr(config, "final_logit_softcapping", None),
        tuple(_scales(config)),
    )


def text_body(model: nn.Module) -> nn.Module:
    """The part of a model that reads text: one for images too has several stacks of blocks."""
    body = getattr(model, "get_decoder", lambda: None)()
    return body if isinstance(body, nn.Module) and body is not model else model.base_model


def _norms(parent: nn.Module, head: nn.Module) -> Iterator[nn.Module]:
    """Candidates for what stands between the last block and the unembedding: a norm or none, and a
    projection where blocks and unembedding differ in width (OPT-350m).
    """
    parts = list(parent.children())
    norms = [part for part in reversed(parts) if _is_norm(part)]
    yield from norms
    yield nn.Identity()
    for part in parts:
        if isinstance(part, nn.Linear) and part.out_features == head.weight.shape[-1]:
            yield from (nn.Sequential(norm, part) for norm in norms)
            yield part


def _is_norm(part: nn.Module) -> bool:
    return "norm" in type(part).__name__.lower() and not isinstance(part, nn.Embedding)


def _scales(config: Any) -> Iterator[float]:
    """1, and what settings of the families that scale their logits say."""
    yield 1.0
    for name in ("logit_scale", "lm_head_multiplier", "logits_scaling"):
        value = getattr(config, name, None)
        if isinstance(value, (int, float)) and value:
            yield 1 / value if name == "logits_scaling" else value


def check_blocks(outputs: Sequence[Tensor | tuple], architecture: str) -> None:
    """UserError unless the last block was run, once, and put out one state for each token."""
    if len(outputs) != 1:
        found = f"last block is run {len(outputs)} times"
        raise UserError(MISREAD.format(architecture, found))
    dimensions = block_output(outputs[0]).dim()
    if dimensions != 3:
        found = f"blocks put out {dimensions}-dimensional states"
        raise UserError(MISREAD.format(architecture, found))


@dataclass(frozen=True)
class View:
    """What the unembedding is given, in float32."""

    blocks: Tensor  # [P, L, D], for each block
    final: Tensor  # [P, D], for the model's own logits


class Lens:
    """Reads block outputs through the final norm and the unembedding of one model."""

    def __init__(self, parts: Parts, norm: nn.Module, scale: float = 1.0, kind: str = "logit"):
        """`norm` is one of `parts.norms`, `scale` is what the model multiplies its logits by.

        `kind` is logit, or raw: blocks without the final norm, against the same final logits.
        """
        self.parts = parts
        self.unembedding = Unembedding(parts.head)
        self.scale = scale
        self.kind = kind
        with ExitStack() as weights:  # brings in those that are kept elsewhere
            for part in norm.modules():
                weights.enter_context(align_module_device(part))
            own = remove_hook_from_module(copy.deepcopy(norm), recurse=True)
            self.norm = own.to(self.device).float()

    @property
    def device(self) -> torch.device:
        """Where the unembedding is computed."""
        return self.unembedding.device

    def describe(self) -> dict[str, Any]:
        """How logits are made of a block's output, for a result file."""
        return {
            "kind": self.kind,
            "norm": ", ".join(
                type(part).__name__ for part in self.norm.modules() if part._parameters
            )
            or "none",
            "logit_scale": self.scale,
            "softcap": self.parts.softcap,
            "output_bias": self.unembedding.has_bias,
        }

    def view(self, states: Tensor) -> View:
        """Outputs of all blocks [P, L, D], of any dtype and device -> what the unembedding sees."""
        states = states.to(self.device).float()
        if self.kind == "raw":
            return View(states, self.norm(states[:, -1]))
        normed = self.norm(states)
        return View(normed, normed[:, -1])

    def logits(self, given: Tensor) -> Tensor:
        """What the unembedding is given [..., D] -> logits [..., V], as the model makes them."""
        return self._scaled_and_capped(self.unembedding.logits(given))

    def token_logits(self, view: View, tokens: Sequence[int]) -> Tensor:
        """Lens logits of a few tokens at each block [P, L, T]."""
        rows = self.unembedding.rows_of(tokens)
        given = self.unembedding.with_bias_column(view.blocks)
        return self._scaled_and_capped(given @ rows.T)

    def top_tokens(self, view: View) -> Tensor:
        """The likeliest token at each block [P, L]; all of the unembedding once for each."""
        given = self.unembedding.with_bias_column(view.blocks)
        start, best, top = 0, None, None
        for rows in self.unembedding.rows():  # neither scale nor soft-cap changes the order
            here, token = (given @ rows.T).max(dim=-1)
            if best is None:
                best, top = here, token
            else:
                best, top = torch.maximum(best, here), torch.where(here > best, start + token, top)
            start += len(rows)
        return top

    def cosines(self, view: View, centred: bool = False) -> Tensor:
        """Cosine of each block's lens logits with the model's own logits [P, L]; NaN where a state
        is not finite.

        `centred` takes the mean over the vocabulary off all logits before: an offset that they
        share changes no probability, and can hold the cosine at one value at every block.
        With W = QR, Q having orthonormal columns, cos(W a, W b) = cos(R a, R b), so no logits are
        made, unless a soft-cap bends them.
        """
        if self.parts.softcap:  # one block at a time: logits are as long as the vocabulary
            final = _less_mean(self.logits(view.final), centred)
            blocks = (_less_mean(self.logits(block), centred) for block in view.blocks.unbind(1))
            return torch.stack([_cosine(block, final) for block in blocks], dim=1)
        factor = self.centred_factor if centred else self.factor
        blocks, final = (
            self.unembedding.with_bias_column(given) @ factor.T
            for given in (view.blocks, view.final)
        )
        return _cosine(blocks, final[:, None])

    def drift(self, states: Tensor, baselines: Tensor) -> Tensor:
        """Cosine of block outputs [P, L, D] with others of the same blocks [P, L]; NaN as above."""
        here, there = (each.to(self.device).float() for each in (states, baselines))
        return _cosine(here, there)

    @cached_property
    def factor(self) -> Tensor:
        """R of W = QR of the unembedding [D, D], with its bias as one more column [D + 1, D + 1].

        The Gram matrix W'W = R'R would do too, but its rounding is that of squares. It is that of
        the centred W and V times the square of the mean row, so these make R.
        """
        count = len(self.parts.head.weight)
        return _factor([self.centred_factor, count**0.5 * self._mean_row[None]])

    @cached_property
    def centred_factor(self) -> Tensor:
        """The same of the unembedding without its mean row, which makes logits without a mean."""
        return _factor(rows - self._mean_row for rows in self.unembedding.rows())

    @cached_property
    def _mean_row(self) -> Tensor:
        total = sum(rows.sum(dim=0) for rows in self.unembedding.rows())
        return total / len(self.parts.head.weight)

    def _scaled_and_capped(self, logits: Tensor) -> Tensor:
        """What the model does to its logits behind the unembedding: scale, then soft-cap."""
        cap = self.parts.softcap
        logits = self.scale * logits
        return cap * torch.tanh(logits / cap) if cap else logits


def _factor(parts: Iterable[Tensor]) -> Tensor:
    """R of the QR decomposition of matrices [n, D] below each other, some at a time."""
    factor = None
    for rows in parts:
        stacked = rows if factor is None else torch.cat([factor, rows])
        factor = torch.linalg.qr(stacked, mode="r").R
    return factor


def _less_mean(logits: Tensor, centred: bool) -> Tensor:
    return logits - logits.mean(dim=-1, keepdim=True) if centred else logits


def _cosine(first: Tensor, second: Tensor) -> Tensor:
    lengths = first.norm(dim=-1) * second.norm(dim=-1)
    return _in_range((first * second).sum(-1) / lengths)


def _in_range(cosines: Tensor) -> Tensor:
    """Rounding beyond [-1, 1] is cut off; what is not finite becomes NaN, not 1."""
    return torch.where(cosines.isfinite(), cosines.clamp(-1, 1), torch.nan)


def proved_lens(
    parts: Parts, last_state: Tensor, logits: Tensor, architecture: str, kind: str = "logit"
) -> Lens:
    """The lens that reads the model's own logits [S, V] off its last block's output [S, D].

    UserError where no candidate for the final norm does it.
    """
    slack = 1e-3 if parts.head.weight.dtype == torch.float32 else 3e-2  # halves round the logits
    for norm in parts.norms:
        lens = Lens(parts, norm, kind=kind)
        given = lens.norm(last_state.to(lens.device).float())
        if given.shape[-1] != parts.head.weight.shape[-1] or len(given) != len(logits):
            continue
        read = lens.logits(given)
        if read.shape != logits.shape:
            continue
        scales = (1.0,) if parts.softcap else (*parts.scales, _measured_scale(read, logits))
        for scale in scales:
            if scale > 0 and _relative_gap(scale * read, logits) < slack:
                lens.scale = scale
                return lens
    raise UserError(
        MISREAD.format(
            architecture, "last block, read through its norm, does not give its own logits"
        )
    )


def _measured_scale(read: Tensor, logits: Tensor) -> float:
    """The s that brings s * read nearest to the logits, for a scale that no known setting names."""
    read, logits = read.cpu().double(), logits.cpu().double()
    return ((read * logits).sum() / (read * read).sum()).item()


def _relative_gap(read: Tensor, logits: Tensor) -> float:
    """Largest distance between rows of logits [S, V], as a share of the second ones' length."""
    read, logits = read.cpu().double(), logits.cpu().double()
    return ((read - logits).norm(dim=-1) / logits.norm(dim=-1)).max().item()
