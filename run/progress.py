"""What a run shows while it runs: progress, speed, time left, and the metric so far.

On a terminal a bar for the run, one for the current batch, and a line per target task; elsewhere a
line a minute.
"""

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from core import records
from core.keys import WORDING, make_keys, shown
from measures import ties
from measures.wordings import Spread, spreads

HALVES = ("bfloat16", "float16")
PAUSE = 60.0  # seconds between two lines where there is no terminal
FRAME = 0.1  # seconds between two states of the bars
RUN_BAR = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
BATCH_BAR = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} prompts"


class Progress:
    """Counts target examples, and the prompts of the batch under way; a context manager."""

    def __init__(
        self,
        total: int,
        done: int = 0,
        tokens: Callable[[], int] = lambda: 0,
        quiet: bool = False,
        stream: TextIO | None = None,
    ):
        """`total` target examples, of which `done` were finished before; `tokens` gives the number
        of tokens read so far.
        """
        self.total, self.done, self.before, self.tokens = total, done, done, tokens
        self.stream = stream or sys.stderr
        self.quiet = quiet
        self.on_terminal = self.stream.isatty() and not quiet
        self.begun = self.shown = time.monotonic()  # seconds
        self.batch = self.prompts = self.read = 0  # the batch's examples and prompts; those read
        # target task -> history length -> sum of scores, and their number
        self.scores: dict[str, dict[int, list[float]]] = {}
        self.bars: list[tqdm] = []

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        if self.bars:
            self._show_bars()
        for bar in reversed(self.bars):
            bar.close()

    def begin(self, examples: int, prompts: int) -> None:
        """Start a batch of so many target examples and prompts."""
        self.batch, self.prompts, self.read = examples, prompts, 0
        if self.on_terminal and not self.bars:
            self.bars = [
                self._bar(self.total, RUN_BAR, 0, initial=self.done),
                self._bar(prompts, BATCH_BAR, 1, desc="  this batch"),
            ]
        self._show()

    def advance(self, prompts: int) -> None:
        """Count prompts of the batch as read; a prompt that is read again does not count."""
        self.read = min(self.prompts, self.read + prompts)
        self._show()

    def finish(self) -> None:
        """The batch is done and written."""
        self.done += self.batch
        self.batch = self.prompts = self.read = 0
        self._show()

    def count(self, task: str, h: int, score: float) -> None:
        """Add an example of a target task to its running metric."""
        entry = self.scores.setdefault(task, defaultdict(lambda: [0.0, 0]))[h]
        entry[0] += score
        entry[1] += 1

    # -- what is shown

    def _show(self) -> None:
        now = time.monotonic()
        if self.quiet or now - self.shown < (FRAME if self.on_terminal else PAUSE):
            return
        self.shown = now
        if self.on_terminal:
            self._show_bars()
        else:
            print("; ".join([self._summary(), *self.metrics()]), file=self.stream, flush=True)

    def _show_bars(self) -> None:
        run, batch, *lines = self.bars
        run.n = self._fraction()
        run.set_description_str(f"{self.done}/{self.total} target examples", refresh=False)
        run.set_postfix_str(f"{self.speed():.0f} tokens/s", refresh=False)
        batch.total, batch.n = self.prompts, self.read
        metrics = self.metrics()
        for place in range(len(lines), len(metrics)):
            self.bars.append(self._bar(0, "{desc}", 2 + place))
        for bar, text in zip(self.bars[2:], metrics):
            bar.set_description_str(f"  {text}", refresh=False)
        for bar in self.bars:
            bar.refresh()

    def _bar(self, total: int, form: str, position: int, **settings: Any) -> tqdm:
        """A bar that is drawn when it is told to; only that of the run stays at the end."""
        return tqdm(
            total=total, bar_format=form, position=position, leave=position == 0, smoothing=0,
            file=self.stream, dynamic_ncols=True, disable=False, **settings,
        )  # fmt: skip

    def _fraction(self) -> float:
        """Target examples done, a batch under way counted by its prompts."""
        return self.done + (self.batch * self.read / self.prompts if self.prompts else 0)

    def speed(self) -> float:
        """Tokens read per second."""
        return self.tokens() / max(1e-9, time.monotonic() - self.begun)

    def metrics(self) -> list[str]:
        """A line per target task: its metric by history length, over all that is finished."""
        return [
            f"{task}: "
            + "  ".join(f"h={h} {total / count:.3f}" for h, (total, count) in sorted(sums.items()))
            for task, sums in self.scores.items()
        ]

    def _summary(self) -> str:
        passed, gained = time.monotonic() - self.begun, self._fraction() - self.before
        left = passed * (self.total - self._fraction()) / gained if gained else None
        return (
            f"{self.done} of {self.total} target examples, {self.speed():.0f} tokens/s, "
            f"{tqdm.format_interval(passed)} passed, "
            + (f"about {tqdm.format_interval(left)} left" if left is not None else "first batch")
        )


def print_table(paths: Sequence[Path]) -> None:
    """The metric by history length of each pair, and where the results are."""
    results = [records.read_result(path) for path in paths]
    lengths = max((result["metric_by_len"] for result in results), key=len)
    room = max(8, *(len(result["metric_name"]) for result in results))
    columns = ["target", "distractor"]
    more = ("history", WORDING)
    rows = [result | {name: shown(result["config"], name) for name in more} for result in results]
    columns += [name for name in more if len({row[name] for row in rows}) > 1]
    widths = [max(len(name), *(len(row[name]) for row in rows)) for name in columns]
    print(
        "\n"
        + "  ".join(map(str.ljust, columns, widths))
        + f"  {'metric':{room}}  {'n':>5}"
        + "".join(f"{'h=' + h:>8}" for h in lengths)
    )
    for result in rows:
        names = "  ".join(result[name].ljust(width) for name, width in zip(columns, widths))
        numbers = "".join(f"{value:8.3f}" for value in result["metric_by_len"].values())
        skipped = result.get("n_skipped")
        note = f"  ({skipped} skipped)" if skipped else ""
        print(f"{names}  {result['metric_name']:{room}}  {result['n']:5}{numbers}{note}")
    for spread in spreads(dict(zip(make_keys(results), results))):
        print(spread_line(spread))
    made = results[-1]["environment"].get
    if made("dtype") in HALVES and made("rounding"):
        print(rounding_line(results))
    print(
        f"\n{made('engine')} engine, {made('seconds')} s, peak memory {made('peak_memory_mib')} MiB"
    )
    print("Results (each with its debug log beside it):", *paths, sep="\n  ")


def spread_line(spread: Spread) -> str:
    """Mean, lowest and highest over the wordings of the prompts, by history length."""
    names, contrast = spread.key.fields, spread.against is not None
    pair = f"{names['target']} after {names['distractor']} ({names['history']})"
    what = f" less after {spread.against} (points)" if contrast else f" ({spread.metric})"
    form = "h={} {:z.1f} [{:z.1f}, {:z.1f}]" if contrast else "h={} {:.3f} [{:.3f}, {:.3f}]"
    numbers = "  ".join(form.format(h, *spread.at(h)) for h in spread.by_len if h or not contrast)
    return f"\nover {spread.wordings} wordings, {pair}{what}: mean [lowest, highest]\n  {numbers}"


def rounding_line(results: Sequence[Mapping[str, Any]]) -> str:
    """What rounding does in half precision, and to how many predictions it may have done it."""
    made = results[-1]["environment"]
    gaps = ", ".join(
        f"{road.replace('_', ' ')} by {gap:.2g}"
        for road, gap in made["rounding"].items()
        if gap is not None
    )
    close, count = ties.close_calls(results)
    return (
        f"\n{made['dtype']}: roads to one log P differ on a probe, {gaps} nats; "
        f"{close} of {count} label predictions have no larger margin."
    )
