"""Rows of the benchmark's table: what each does, how its time and memory are taken, the table."""

import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lm.prompts import Prompt

Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass
class Row:
    """One line of the table: a name, what it does with an example's prompts, the tokens it runs."""

    name: str
    work: Callable[[Sequence[Prompt]], object]
    tokens: Callable[[Sequence[Prompt]], int]
    clock: Clock | None = None  # None: the one that all rows have
    seconds: list[float] = field(default_factory=list)  # per example, one number per round
    peak_mib: int = 0


class PeakMemory:
    """Peak memory within a `with`, in MiB: the device's where there is one, else this process's."""

    def __enter__(self) -> "PeakMemory":
        self.on_device = torch.cuda.is_available()
        if self.on_device:
            torch.cuda.reset_peak_memory_stats()
        self.mib, self.running = 0, True
        self.watcher = threading.Thread(target=self._watch)
        self.watcher.start()
        return self

    def _watch(self) -> None:
        while self.running and not self.on_device:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.mib = max(self.mib, pages * 4096 // 2**20)
            time.sleep(0.02)

    def __exit__(self, *error: object) -> None:
        self.running = False
        self.watcher.join()
        if self.on_device:
            self.mib = torch.cuda.max_memory_allocated() // 2**20


def timed(work: Callable[[], object], clock: Clock) -> float:
    """Seconds of one call, with the device drained before and after."""
    synchronise = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    synchronise()
    start = clock()
    with torch.inference_mode():
        work()
    synchronise()
    return clock() - start


def measure(
    rows: Sequence[Row],
    examples: Sequence[Sequence[Prompt]],
    repeats: int,
    clock: Clock = CLOCKS["wall"],
) -> None:
    """Run every row on every example, round after round, and drop the first round."""
    for round_number in range(repeats + 1):
        for row in rows:
            own = row.clock or clock
            with PeakMemory() as peak:
                spent = [timed(lambda: row.work(prompts), own) for prompts in examples]  # noqa: B023
            if round_number:
                row.seconds.append(sum(spent) / len(spent))
                row.peak_mib = max(row.peak_mib, peak.mib)
        print(f"round {round_number} of {repeats} done", file=sys.stderr)


def ratio(over: Sequence[float], under: Sequence[float]) -> str:
    """Seconds of one over those of another: the median over rounds, lowest and highest."""
    found = [a / b for a, b in zip(over, under)]
    return f"{statistics.median(found):.2f} ({min(found):.2f}-{max(found):.2f})"


def print_rows(rows: Sequence[Row], examples: Sequence[Sequence[Prompt]]) -> None:
    """The table: medians over rounds; ratios to the tree and the limit, round by round."""
    tree = next((row for row in rows if row.name == "tree"), rows[0])
    print(
        f"{'':36}{'s/example':>10}{'tokens':>8}{'tokens/s':>9}"
        f"{f'x {tree.name}':>18}{'of limit':>18}{'peak MiB':>9}"
    )
    for row in rows:
        tokens, seconds = sum(map(row.tokens, examples)) // len(examples), row.seconds
        median, limit = statistics.median(seconds), ratio(rows[-1].seconds, seconds)
        print(
            f"{row.name:36}{median:10.2f}{tokens:8}{tokens / median:9.0f}"
            f"{ratio(seconds, tree.seconds):>18}{limit:>18}{row.peak_mib:9}"
        )
