"""What a run shows while it runs: progress, speed, time left, and the metric so far.

On a terminal a bar for the run, one for the current batch, and a line per target task; elsewhere a
line a minute.
"""

import sys
import time
from collections import defaultdict
from collections.abc import Callable
from threading import Event, Lock, Thread
from typing import Any, NamedTuple, TextIO

from tqdm import tqdm

from core.terminal import make_bar

PAUSE = 60.0  # seconds between two lines where there is no terminal
FRAME = 0.1  # seconds between two states of the bars
STEP = 1.0  # seconds after which what is shown is looked at again, while a forward takes long
RUN_BAR = "{desc} {percentage:3.0f}%|{bar}| {elapsed} passed{postfix}"
BATCH_BAR = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} prompts{postfix}"


class Work(NamedTuple):
    """So many target examples, and an estimate of the tokens that are read of them, in any unit."""

    examples: int = 0
    amount: float = 0.0


NOTHING = Work()


class Progress:
    """Counts work, and the prompts of the batch under way; a context manager."""

    def __init__(
        self,
        left: Work,
        done: Work = NOTHING,
        *,
        tokens: Callable[[], int] = lambda: 0,
        memory: Callable[[], int] = lambda: 0,
        quiet: bool = False,
        stream: TextIO | None = None,
    ):
        """Work that is `left`, and what was `done` before; `tokens` gives the number of tokens
        read so far, `memory` the most that was taken (MiB).
        """
        self.total = Work(*map(sum, zip(done, left)))
        self.done = self.before = done
        self.tokens, self.memory = tokens, memory
        self.stream = stream or sys.stderr
        self.quiet = quiet
        self.on_terminal = self.stream.isatty() and not quiet
        self.begun = self.shown = time.monotonic()  # seconds
        self.first = self.last = tokens()  # when the run began, and the batch under way
        self.batch = Work()
        self.prompts = self.read = 0  # of the batch
        # target task -> history length -> sum of scores, and their number
        self.scores: dict[str, dict[int, list[float]]] = {}
        self.bars: list[tqdm] = []
        self.drawing, self.ended = Lock(), Event()

    def __enter__(self) -> "Progress":
        if not self.quiet:
            Thread(target=self._keep_showing, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.ended.set()
        with self.drawing:
            if self.bars:
                self._show_bars()
            for bar in reversed(self.bars):
                bar.close()

    def _keep_showing(self) -> None:
        """Show the time and the tokens also while one forward takes long."""
        while not self.ended.wait(STEP):
            self._show()

    def begin(self, batch: Work, prompts: int) -> None:
        """Start a batch with so many prompts."""
        self.batch, self.prompts, self.read = batch, prompts, 0
        self.last = self.tokens()
        if self.on_terminal and not self.bars:
            with self.drawing:
                self.bars = [
                    self._bar(1.0, RUN_BAR, 0, initial=self.share()),
                    self._bar(prompts, BATCH_BAR, 1, desc="  this batch"),
                ]
        self._show()

    def advance(self, prompts: int) -> None:
        """Count prompts of the batch as read; a prompt that is read again does not count."""
        self.read = min(self.prompts, self.read + prompts)
        self._show()

    def finish(self) -> None:
        """The batch is done and written."""
        self.done = Work(*map(sum, zip(self.done, self.batch)))
        self.batch, self.prompts, self.read = Work(), 0, 0
        self.last = self.tokens()
        self._show()

    def count(self, task: str, h: int, score: float) -> None:
        """Add an example of a target task to its running metric."""
        entry = self.scores.setdefault(task, defaultdict(lambda: [0.0, 0]))[h]
        entry[0] += score
        entry[1] += 1

    # -- how far it is

    def share(self) -> float:
        """Share of the work that is done, from 0 to 1."""
        return self._amount() / self.total.amount if self.total.amount else 1.0

    def _amount(self) -> float:
        return self.done.amount + self.batch.amount * self._share_of_batch()

    def _share_of_batch(self) -> float:
        """By the tokens read, once finished batches have shown how many there are to an amount of
        work; in the first batch by its prompts.
        """
        finished = self.done.amount - self.before.amount
        expected = self.batch.amount * (self.last - self.first) / finished if finished else 0.0
        if expected:
            return min(1.0, (self.tokens() - self.last) / expected)
        return self.read / self.prompts if self.prompts else 0.0

    def left(self) -> float | None:
        """Seconds that are left, at the speed of this run so far; None where nothing is known."""
        amount = self._amount()
        gained = amount - self.before.amount
        passed = time.monotonic() - self.begun
        return passed * (self.total.amount - amount) / gained if gained > 0 else None

    def speed(self) -> float:
        """Tokens read per second."""
        return (self.tokens() - self.first) / max(1e-9, time.monotonic() - self.begun)

    def metrics(self) -> list[str]:
        """A line per target task: its metric by history length, over all that is finished."""
        return [
            f"{task}: "
            + "  ".join(f"h={h} {total / count:.3f}" for h, (total, count) in sorted(sums.items()))
            for task, sums in list(self.scores.items())
        ]

    # -- what is shown

    def _show(self) -> None:
        with self.drawing:
            now = time.monotonic()
            wait = FRAME if self.on_terminal else PAUSE
            if self.quiet or self.ended.is_set() or now - self.shown < wait:
                return
            self.shown = now
            if not self.on_terminal:
                print("; ".join([self._summary(), *self.metrics()]), file=self.stream, flush=True)
            elif self.bars:
                self._show_bars()

    def _show_bars(self) -> None:
        run, batch, *lines = self.bars
        run.n = self.share()
        examples = f"{self.done.examples}/{self.total.examples} target examples"
        run.set_description_str(examples, refresh=False)
        left, *speed = self._facts()
        run.set_postfix_str(left, refresh=False)
        batch.set_postfix_str(", ".join(speed), refresh=False)  # a line of 80 columns is soon full
        batch.total, batch.n = self.prompts, self.read
        metrics = self.metrics()
        for place in range(len(lines), len(metrics)):
            self.bars.append(self._bar(0, "{desc}", 2 + place))
        for bar, text in zip(self.bars[2:], metrics):
            bar.set_description_str(f"  {text}", refresh=False)
        for bar in self.bars:
            bar.refresh()

    def _bar(self, total: float, form: str, position: int, **settings: Any) -> tqdm:
        """A bar that is drawn when it is told to; only that of the run stays at the end."""
        return make_bar(
            self.stream, total=total, bar_format=form, position=position, leave=position == 0,
            smoothing=0, **settings,
        )  # fmt: skip

    def _facts(self) -> list[str]:
        left = self.left()
        return [
            "first batch" if left is None else f"about {tqdm.format_interval(left)} left",
            f"{self.speed():.0f} tokens/s",
            f"{self.memory():,} MiB",
        ]

    def _summary(self) -> str:
        done = f"{self.done.examples} of {self.total.examples} target examples"
        passed = tqdm.format_interval(time.monotonic() - self.begun)
        return ", ".join([done, f"{passed} passed", *self._facts()])
