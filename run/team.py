"""The processes of a run, as `torchrun` or `accelerate launch` start them.

Each has a model of its own and takes its share of the target examples. Processes only meet at
barriers; results travel through journals.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from core.errors import UserError

OF_LAUNCHER = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # environment variables
MEETING = timedelta(minutes=10)  # for all processes to find each other
BARRIER_TIMEOUT = timedelta(days=30)  # a process that waits for a slow one must not give it up


@dataclass(frozen=True)
class Team:
    """This process among all of its run; alone unless a launcher has started several."""

    rank: int = 0
    size: int = 1
    group: Any = None  # of torch.distributed, where there are several

    @property
    def is_first(self) -> bool:
        """True for the process that checks, merges and writes."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait for all processes; UserError where one of them has ended early."""
        if self.size == 1:
            return
        import torch

        try:
            torch.distributed.barrier(self.group)
        except RuntimeError as error:
            raise UserError(
                "another process of this run ended early; what was finished is kept.\n"
                "Run the same command to continue, with any number of processes."
            ) from error

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """The first process finishes this block before the others begin it."""
        if not self.is_first:
            self.wait()
        yield
        if self.is_first:
            self.wait()

    def share(self, work: Sequence[Any]) -> Sequence[Any]:
        """This process's share of the work."""
        return work[self.rank :: self.size]


def rank_here() -> int:
    """Number of this process in its run by the launcher's environment; 0 where it is alone."""
    return int(os.environ.get("RANK", "0")) if _size() > 1 else 0


def _size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def joined(device: str, device_map: str | None) -> Iterator[Team]:
    """The team that the launcher's environment describes.

    With several processes on a machine each takes an accelerator of its own, where there are any.
    UserError where they would each spread a model over all of them.
    """
    size = _size()
    if size == 1:
        yield Team()
        return
    lacking = [name for name in OF_LAUNCHER if name not in os.environ]
    if lacking:
        raise UserError(
            f"WORLD_SIZE is {size}, but {', '.join(lacking)} are not set.\nStart several processes "
            "with torchrun or accelerate launch; to run one, unset WORLD_SIZE."
        )
    if device_map and os.environ.get("LOCAL_WORLD_SIZE") != "1":
        raise UserError(
            "--device_map gives one process all devices of its machine, but this run has several "
            "processes there.\nStart one per machine."
        )
    import torch
    from accelerate import PartialState

    try:
        # gloo: a few barriers need no accelerator, and it notices at once when a process is gone
        state = PartialState(cpu=device == "cpu", backend="gloo", timeout=MEETING)
        group = torch.distributed.new_group(backend="gloo", timeout=BARRIER_TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the {size} processes of this run did not find each other: {str(error)[:200]}"
        ) from error
    try:
        yield Team(state.process_index, state.num_processes, group)
    finally:
        torch.distributed.destroy_process_group()
