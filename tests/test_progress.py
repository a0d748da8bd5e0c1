"""Claims about what a run shows while it runs."""

import io

import pytest
import tiny
from test_experiment import result_of, run

from run import progress
from run.progress import Progress


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when they are told to."""

    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def batches(shown, clock, count=4, seconds=30.0):
    """Batches of two target examples and ten prompts, the prompts one by one."""
    for _ in range(count):
        shown.begin(2, 10)
        for _ in range(10):
            clock.now += seconds / 10
            shown.advance(1)
        shown.count("quiz/test", 0, 1.0)
        shown.count("quiz/test", 1, 0.0)
        shown.finish()


def test_without_a_terminal_a_line_a_minute_is_written(clock):
    stream = io.StringIO()
    tokens = iter(range(0, 10**6, 100))
    with Progress(8, tokens=lambda: next(tokens), stream=stream) as shown:
        batches(shown, clock)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2  # of 120 seconds
    assert lines[0].startswith("2 of 8 target examples, ")
    assert "01:00 passed, about 01:00 left" in lines[0]
    assert lines[0].endswith("; quiz/test: h=0 1.000  h=1 0.000")
    assert "tokens/s" in lines[0]


def test_the_time_left_counts_only_what_this_run_has_done(clock):
    stream = io.StringIO()
    with Progress(108, 100, stream=stream) as shown:
        batches(shown, clock, count=2)
    [line] = stream.getvalue().splitlines()
    assert "about 01:00 left" in line  # four of the eight in a minute


def test_prompts_that_are_read_again_do_not_count(clock):
    shown = Progress(4, stream=io.StringIO())
    shown.begin(2, 10)
    for _ in range(3):
        shown.advance(6)
    assert shown._fraction() == 2
    shown.finish()
    assert shown._fraction() == 2


def test_quiet_writes_nothing(clock):
    for stream in (io.StringIO(), Terminal()):
        with Progress(8, quiet=True, stream=stream) as shown:
            batches(shown, clock)
        assert stream.getvalue() == ""


def test_a_terminal_has_a_bar_for_the_run_one_for_the_batch_and_a_line_per_target(clock):
    stream = Terminal()
    with Progress(10, tokens=lambda: 1210, stream=stream) as shown:
        batches(shown, clock)
        shown.begin(2, 10)
        clock.now += 1
        shown.count("posts/test", 0, 0.25)
        shown.advance(5)
        run_bar, batch, *targets = shown.bars
        assert (run_bar.n, run_bar.total) == (9, 10)
        assert (batch.n, batch.total) == (5, 10)
        assert [bar.desc for bar in targets] == [
            "  quiz/test: h=0 1.000  h=1 0.000",
            "  posts/test: h=0 0.250",
        ]
    assert "8/10 target examples" in stream.getvalue() and "10 tokens/s" in stream.getvalue()


def test_the_running_metric_ends_as_the_metric_of_the_result(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "PAUSE", 0.0)
    model = tiny.save_model(tmp_path / "tiny-llama")
    assert run(tmp_path / "out", model, ["quiz", "posts"], "reviews") == 0
    last = [line for line in capsys.readouterr().err.splitlines() if "target examples, " in line][
        -1
    ]
    for target in ("quiz", "posts"):
        by_len = result_of(tmp_path / "out", target, "reviews")["metric_by_len"]
        shown = "  ".join(f"h={h} {value:.3f}" for h, value in by_len.items())
        assert f"{target}/test: {shown}" in last
    assert run(tmp_path / "quiet", model, "quiz", "reviews", "--quiet") == 0
    assert capsys.readouterr().err == ""
