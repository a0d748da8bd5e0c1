"""Runs in processes of their own that can be killed, each begun in milliseconds.

A fork server has everything imported; a child of it runs `experiment.main` and may kill itself at
one of the moments at which files change: before or after a call of `os`, or in the middle of a
write.
"""

import contextlib
import errno
import os
import signal
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import forked
import rouge_score.rouge_scorer  # noqa: F401
import torch

import experiment
from lm import loading  # noqa: F401

WATCHED = ("write", "fsync", "replace", "unlink", "truncate")


def start() -> None:
    """Start the server process; for a test module, before its first run."""
    forked.start({"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}, preload=["victims"])


class Victim:
    """A process that runs experiment.main."""

    def __init__(
        self,
        argv: Sequence[object],
        log: Path,
        *,
        kill_at: int | None = None,
        by: int = signal.SIGKILL,
        full_after: int | None = None,
        environment: Mapping[str, object] | None = None,
    ):
        """Starts it; what it prints goes to `log`.

        It sends itself the signal `by` at the moment `kill_at`, counted from 0; writing fails for
        want of room once os.write was given `full_after` bytes.
        """
        self.log = log
        faults = (kill_at, by, full_after, {k: str(v) for k, v in (environment or {}).items()})
        self.process = forked.CONTEXT.Process(target=_run, args=([*map(str, argv)], log, *faults))
        self.process.start()

    def wait(self) -> int:
        """Its exit status, negative where a signal ended it."""
        self.process.join()
        return self.process.exitcode

    def send(self, number: int) -> None:
        """Send it a signal, where it still runs."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    def said(self) -> str:
        """What it has printed."""
        return self.log.read_text() if self.log.exists() else ""


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def team(argv: Sequence[object], log: Path, size: int, **faults: Mapping) -> list[Victim]:
    """Processes of one run, as a launcher starts them; `faults` by name and rank."""
    shared = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1"}
    shared |= {"MASTER_PORT": free_port(), "OMP_NUM_THREADS": 1}
    return [
        Victim(
            argv,
            log.with_suffix(f".{rank}"),
            environment=shared | {"RANK": rank, "LOCAL_RANK": rank},
            **{name: by_rank.get(rank) for name, by_rank in faults.items()},
        )
        for rank in range(size)
    ]


def _run(
    argv: list[str],
    log: Path,
    kill_at: int | None,
    by: int,
    full_after: int | None,
    environment: dict[str, str],
) -> None:
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background ignores it
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    torch.set_num_threads(1)
    if kill_at is not None:
        moments = iter(range(kill_at + 1))
        for name in WATCHED:
            setattr(os, name, _deadly(getattr(os, name), moments, kill_at, by))
    if full_after is not None:
        os.write = _filling(os.write, full_after)
    raise SystemExit(experiment.main(argv))


def _deadly(call: Callable, moments: Iterator[int], last: int, by: int) -> Callable:
    """The call with a moment before, after and, of a write, in the middle of it; the last one ends
    in a signal to this process.
    """

    def die_at_last() -> None:
        if next(moments, None) == last:
            os.kill(os.getpid(), by)

    def watched(*arguments, **options):
        die_at_last()
        if call.__name__ == "write" and len(arguments[1]) > 5000:
            descriptor, text = arguments
            written = call(descriptor, text[: len(text) // 2])
            die_at_last()
            return written
        result = call(*arguments, **options)
        die_at_last()
        return result

    return watched


def _filling(call: Callable, room: int) -> Callable:
    left = room

    def write(descriptor: int, text: bytes) -> int:
        nonlocal left
        if not left:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = call(descriptor, text[:left])
        left -= written
        return written

    return write
