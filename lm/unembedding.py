"""The unembedding of a model in float32, whatever the model's dtype, some of its rows at a time.

In half precision logits of a size of 20 lie 0.125 apart, so that the two best labels of one prompt
in six are equal. The products of half-precision numbers are exact in float32.
"""

from collections.abc import Iterator, Sequence

import torch
from accelerate.utils import align_module_device
from torch import Tensor, nn

ROWS_AT_ONCE = 8192  # vocabulary rows that are held in float32 together
HALVES = (torch.bfloat16, torch.float16)


def in_half_precision(head: nn.Module) -> bool:
    """Is this a linear unembedding of which float32 would read more than its own dtype?"""
    return type(head) is nn.Linear and head.weight.dtype in HALVES


class Unembedding:
    """Rows W and bias of an output layer, read in float32."""

    def __init__(self, head: nn.Module):
        self.head = head

    @property
    def device(self) -> torch.device:
        """Where it is computed."""
        head = self.head
        return torch.device(
            head._hf_hook.execution_device if head.weight.is_meta else head.weight.device
        )

    def logits(self, given: Tensor) -> Tensor:
        """What the unembedding is given [..., D], in float32 -> W x + b [..., V]."""
        given = self.with_bias_column(given)
        return torch.cat([given @ rows.T for rows in self.rows()], dim=-1)

    def rows(self) -> Iterator[Tensor]:
        """All rows, some at a time."""
        with align_module_device(self.head):
            for start in range(0, len(self.head.weight), ROWS_AT_ONCE):
                yield self._rows_at(slice(start, start + ROWS_AT_ONCE))

    def rows_of(self, tokens: Sequence[int]) -> Tensor:
        """The rows of a few tokens [R, D]; [R, D + 1] with the bias."""
        with align_module_device(self.head):
            return self._rows_at(list(tokens))

    def _rows_at(self, which: slice | list[int]) -> Tensor:
        """Rows of the unembedding [R, D]; [R, D + 1] where its bias is one more column."""
        rows = self.head.weight[which].float()
        if not self.has_bias:
            return rows
        return torch.cat([rows, self.head.bias[which, None].float()], dim=-1)

    @property
    def has_bias(self) -> bool:
        """Is its bias one more column of its rows?"""
        return getattr(self.head, "bias", None) is not None

    def with_bias_column(self, given: Tensor) -> Tensor:
        """[..., D] -> [..., D + 1] where the unembedding has a bias column."""
        if not self.has_bias:
            return given
        return torch.cat([given, given.new_ones(*given.shape[:-1], 1)], dim=-1)
