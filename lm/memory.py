"""Running out of memory: how it is known, and work that goes on with less of it."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch

from core.errors import OutOfMemory

# In errors that are no torch.OutOfMemoryError: of the CPU, of CUDA and MPS, and of cuBLAS
MEMORY_WORDS = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: RuntimeError) -> bool:
    """Is this what torch or a device's library raises where memory runs out?"""
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in str(error) for words in MEMORY_WORDS
    )


def release_memory() -> None:
    """Give memory that is no longer used back to the device."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def tried(work: Callable[[Sequence[Any]], list], items: Sequence[Any]) -> list | None:
    """`work` on all items together; None where memory runs out of several.

    OutOfMemory where it runs out of a single one.
    """
    try:
        return work(items)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        if len(items) == 1:
            raise OutOfMemory("out of memory on a single prompt") from error
    release_memory()  # behind the except: the error holds on to what the failed forward held
    return None


def run_halving(items: Sequence[Any], work: Callable[[Sequence[Any]], list]) -> list:
    """`work` on all items together; where memory runs out, on halves of them, and says so."""
    results = tried(work, items)
    if results is not None:
        return results
    middle = len(items) // 2
    print(f"out of memory: {middle} prompts at once from now on", file=sys.stderr)
    return run_halving(items[:middle], work) + run_halving(items[middle:], work)
