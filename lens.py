"""The lens: a block's hidden state read through the model's own final norm and unembedding.

The parts are found by structure and proved by an identity, never guessed: the last block seen
through the lens must give the model's own logits. All of it is float32, whatever the model's dtype.
Logit lens: nostalgebraist, "interpreting GPT: the logit lens", 2020.
"""

import copy
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from errors import UserError

ROWS_AT_ONCE = 8192  # vocabulary rows that are held in float32 together


@dataclass(frozen=True)
class Parts:
    """What the lens reads of a causal LM; `norms` are the candidates for its final norm."""

    blocks: nn.ModuleList
    norms: tuple[nn.Module, ...]
    head: nn.Module
    softcap: float | None  # final logits are softcap * tanh(logits / softcap)


def find_parts(lm: nn.Module) -> Parts:
    """The parts of a causal LM, found by structure; UserError where there are none to find."""
    config = lm.config.get_text_config()
    head = lm.get_output_embeddings()
    depth = getattr(config, "num_hidden_layers", None)
    stacks = [
        (name, module)
        for name, module in lm.base_model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth
    ]
    if head is None or not stacks:
        missing = "output embeddings" if head is None else f"list of {depth} blocks"
        raise UserError(
            f"{type(lm).__name__}: its layers cannot be read (no {missing}). Run with --no_cosine."
        )
    name, blocks = min(stacks, key=lambda found: found[0].count("."))
    parent = lm.base_model.get_submodule(name.rpartition(".")[0])
    norms = [child for child in parent.children() if "norm" in type(child).__name__.lower()]
    return Parts(
        blocks,
        (*reversed(norms), nn.Identity()),
        head,
        getattr(config, "final_logit_softcapping", None),
    )


def block_output(output: Tensor | tuple) -> Tensor:
    """Hidden state [B, T, D] that a block returned; some families wrap it in a tuple."""
    return output if torch.is_tensor(output) else output[0]


class Lens:
    """Reads block outputs through the final norm and the unembedding of one model."""

    def __init__(self, parts: Parts, norm: nn.Module):
        """`norm` is one of `parts.norms`; a float32 copy of it is kept."""
        self.parts = parts
        self.norm = copy.deepcopy(norm).float()

    @property
    def device(self) -> torch.device:
        """Where the unembedding lives, and where states must be brought."""
        return self.parts.head.weight.device

    @property
    def bias(self) -> Tensor | None:
        """Output bias [V] of the unembedding, where it has one."""
        return getattr(self.parts.head, "bias", None)

    def logits(self, states: Tensor) -> Tensor:
        """Block outputs [..., D] -> lens logits [..., V] with output bias and soft-cap, float32."""
        return self._project(self.norm(states.float()))

    def _project(self, normed: Tensor) -> Tensor:
        weights = self.parts.head.weight.split(ROWS_AT_ONCE)
        logits = torch.cat([normed @ rows.float().T for rows in weights], dim=-1)
        if self.bias is not None:
            logits = logits + self.bias.float()
        cap = self.parts.softcap
        return cap * torch.tanh(logits / cap) if cap else logits

    def cosines(self, states: Tensor) -> Tensor:
        """Block outputs [S, L, D] -> cosine of each block's lens logits with the last one's [S, L].

        cos(W a, W b) = a'Ga / (|a|_G |b|_G) with G = W'W, so no logits are made, unless a soft-cap
        bends them.
        """
        normed = self.norm(states.float())
        if self.parts.softcap:
            final = self._project(normed[:, -1])
            layers = [self._project(layer) for layer in normed.unbind(1)]
            cosines = [torch.cosine_similarity(layer, final, dim=-1) for layer in layers]
            return torch.stack(cosines, dim=1).clamp(-1, 1)
        if self.bias is not None:  # the bias is one more column of W
            normed = torch.cat([normed, normed.new_ones(*normed.shape[:-1], 1)], dim=-1)
        mapped = normed @ self.gram  # [S, L, D]
        lengths = (mapped * normed).sum(-1).clamp_min(0).sqrt()  # |a|_G, [S, L]
        products = (mapped * normed[:, -1:]).sum(-1)
        return (products / (lengths * lengths[:, -1:])).clamp(-1, 1)

    @cached_property
    def gram(self) -> Tensor:
        """G = W'W, [D, D], of the unembedding; [D + 1, D + 1] where the bias is a column of it."""
        weight = self.parts.head.weight
        total = 0
        for start in range(0, len(weight), ROWS_AT_ONCE):
            rows = weight[start : start + ROWS_AT_ONCE].float()
            if self.bias is not None:
                bias = self.bias[start : start + ROWS_AT_ONCE, None].float()
                rows = torch.cat([rows, bias], dim=1)
            total = total + rows.T @ rows
        return total


def proved_lens(parts: Parts, last_state: Tensor, logits: Tensor, architecture: str) -> Lens:
    """The lens that reads the model's own logits [S, V] off its last block's output [S, D].

    A constant scale of the logits matters to no cosine and is let through. UserError where no
    candidate for the final norm does it.
    """
    slack = (
        1e-4 if last_state.dtype == torch.float32 else 1e-3
    )  # half precision rounds the model's own logits
    for norm in parts.norms:
        lens = Lens(parts, norm)
        read = lens.logits(last_state.to(lens.device))
        if (
            read.shape == logits.shape
            and (torch.cosine_similarity(read, logits.float(), dim=-1) > 1 - slack).all()
        ):
            return lens
    raise UserError(
        f"{architecture}: its last block, read through its norm, does not give its own logits,\n"
        "so its cosines would be wrong. Run with --no_cosine."
    )
