"""The lens: a block's hidden state read through the model's own final norm and unembedding.

The parts are found by structure and proved by an identity, never guessed: the last block seen through the lens must give the
model's own logits. Everything here is float32, whatever the model's dtype.

Logit lens: nostalgebraist 2020; cosine of lens logits with the final logits: Gupta et al., arXiv 2402.18216, as this toolkit reads it.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from errors import UserError

ROWS_AT_ONCE = 8192  # vocabulary rows that are held in float32 together


@dataclass(frozen=True)
class Parts:
    """The modules of a causal LM that the lens reads: blocks, candidates for the final norm, unembedding, soft-cap."""

    blocks: nn.ModuleList
    norms: tuple[nn.Module, ...]
    head: nn.Module
    softcap: float | None  # final logits are softcap * tanh(logits / softcap)


def find_parts(lm: nn.Module) -> Parts:
    """Find the parts of a Hugging Face causal LM by structure; UserError names the architecture where they are not found."""
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
            f"{type(lm).__name__}: no {missing} found, so its layers cannot be read. Run with --no_cosine."
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
    """Hidden state [B, T, D] that a decoder block returned; some families wrap it in a tuple."""
    return output if torch.is_tensor(output) else output[0]


class Lens:
    """Reads block outputs through the final norm and the unembedding of one model."""

    def __init__(self, parts: Parts, norm: nn.Module):
        """`norm` is one of `parts.norms`; a float32 copy of it is kept."""
        self.parts = parts
        self.norm = copy.deepcopy(norm).float()
        self._gram: Tensor | None = None

    @property
    def device(self) -> torch.device:
        """Where the unembedding lives, and where states must be brought."""
        return self.parts.head.weight.device

    def logits(self, states: Tensor) -> Tensor:
        """Block outputs [..., D] -> lens logits [..., V], with the model's output bias and soft-cap, float32."""
        return self._project(self.norm(states.float()))

    def _project(self, normed: Tensor) -> Tensor:
        weight, bias = (
            self.parts.head.weight,
            self.parts.head.bias if hasattr(self.parts.head, "bias") else None,
        )
        pieces = [nn.functional.linear(normed, rows.float()) for rows in weight.split(ROWS_AT_ONCE)]
        logits = torch.cat(pieces, dim=-1)
        if bias is not None:
            logits = logits + bias.float()
        cap = self.parts.softcap
        return cap * torch.tanh(logits / cap) if cap else logits

    def cosines(self, states: Tensor) -> Tensor:
        """Block outputs [S, L, D] -> cosine of each block's lens logits with the last block's [S, L].

        cos(W a, W b) = a'Ga / (|a|_G |b|_G) with G = W'W, so no logits are made, unless a soft-cap bends them.
        """
        normed = self.norm(states.float())
        if self.parts.softcap:
            final = self._project(normed[:, -1])
            return torch.stack(
                [
                    torch.cosine_similarity(self._project(layer), final, dim=-1)
                    for layer in normed.unbind(1)
                ],
                dim=1,
            )
        if getattr(self.parts.head, "bias", None) is not None:  # the bias is one more column of W
            normed = torch.cat([normed, normed.new_ones(*normed.shape[:-1], 1)], dim=-1)
        mapped = normed @ self.gram  # [S, L, D]
        lengths = (mapped * normed).sum(-1).clamp_min(0).sqrt()  # |a|_G  [S, L]
        products = (mapped * normed[:, -1:]).sum(-1)
        return products / (lengths * lengths[:, -1:])

    @property
    def gram(self) -> Tensor:
        """G = W'W of the unembedding (with the bias as one more column), [D, D] or [D+1, D+1]; made on first use."""
        if self._gram is None:
            weight, bias = self.parts.head.weight, getattr(self.parts.head, "bias", None)
            size = weight.shape[1] + (bias is not None)
            self._gram = torch.zeros(size, size, device=self.device)
            for start in range(0, weight.shape[0], ROWS_AT_ONCE):
                rows = weight[start : start + ROWS_AT_ONCE].float()
                if bias is not None:
                    rows = torch.cat(
                        [rows, bias[start : start + ROWS_AT_ONCE, None].float()], dim=1
                    )
                self._gram += rows.T @ rows
        return self._gram


def proved_lens(parts: Parts, last_state: Tensor, logits: Tensor, architecture: str) -> Lens:
    """The lens whose reading of the last block, [S, D], is the model's own logits, [S, V]; UserError where none is.

    A constant scale on the logits does not matter to a cosine and is let through.
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
        f"{architecture}: its last block through the final norm does not give its own logits, so cosines would be wrong.\n"
        "Run with --no_cosine."
    )
