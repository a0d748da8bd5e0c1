"""Claims about what a run shows while it runs."""

import io
import json
import os
import random
import re

import pytest
import tiny
from runs import result_of, run

import data
import experiment
from run import progress, summary
from run.progress import Progress, Work


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
        shown.begin(Work(2, 2.0), 10)
        for _ in range(10):
            clock.now += seconds / 10
            shown.advance(1)
        shown.count("quiz/test", 0, 1.0)
        shown.count("quiz/test", 1, 0.0)
        shown.finish()


def test_without_a_terminal_a_line_a_minute_is_written(clock):
    stream = io.StringIO()
    with Progress(Work(8, 8.0), tokens=lambda: 100, memory=lambda: 1234, stream=stream) as shown:
        batches(shown, clock)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2  # of 120 seconds
    assert lines[0].startswith("2 of 8 target examples, ")
    assert "01:00 passed, about 01:00 left" in lines[0]
    assert lines[0].endswith("MiB; quiz/test: h=0 1.000  h=1 0.000")
    assert "0 tokens/s, 1,234 MiB" in lines[0]


def test_the_time_left_counts_only_what_this_run_has_done(clock):
    stream = io.StringIO()
    with Progress(Work(8, 8.0), Work(100, 100.0), stream=stream) as shown:
        batches(shown, clock, count=2)
    [line] = stream.getvalue().splitlines()
    assert "about 01:00 left" in line  # four of the eight in a minute


def test_prompts_that_are_read_again_do_not_count(clock):
    shown = Progress(Work(4, 4.0), stream=io.StringIO())
    shown.begin(Work(2, 2.0), 10)
    for _ in range(3):
        shown.advance(6)
    assert shown.share() == 0.5
    shown.finish()
    assert shown.share() == 0.5


def test_quiet_writes_nothing(clock):
    for stream in (io.StringIO(), Terminal()):
        with Progress(Work(8, 8.0), quiet=True, stream=stream) as shown:
            batches(shown, clock)
        assert stream.getvalue() == ""


def test_a_terminal_has_a_bar_for_the_run_one_for_the_batch_and_a_line_per_target(clock):
    stream = Terminal()
    read = iter(range(0, 10**6, 10))
    with Progress(Work(10, 10.0), tokens=lambda: next(read), stream=stream) as shown:
        batches(shown, clock)
        shown.tokens = lambda: shown.last + 100  # half of what a batch has had
        shown.begin(Work(2, 2.0), 10)
        shown.first = shown.last - 800
        clock.now += 1
        shown.count("posts/test", 0, 0.25)
        shown.advance(5)
        run_bar, batch, *targets = shown.bars
        assert (run_bar.n, run_bar.total) == (0.9, 1)
        assert (batch.n, batch.total) == (5, 10)
        assert [bar.desc for bar in targets] == [
            "  quiz/test: h=0 1.000  h=1 0.000",
            "  posts/test: h=0 0.250",
        ]
    assert "8/10 target examples" in stream.getvalue() and " tokens/s, 0 MiB" in stream.getvalue()


@pytest.fixture
def pseudo_terminal():
    """The stream of a terminal of no told size, and what is read off it."""
    seen, written = os.openpty()
    with open(written, "w") as stream:
        yield stream, lambda: os.read(seen, 10**6).decode()
    os.close(seen)


def test_a_terminal_that_tells_no_size_has_bars_of_80_columns_with_all_in_them(
    clock, pseudo_terminal
):
    stream, screen = pseudo_terminal
    with Progress(Work(4, 4.0), stream=stream, memory=lambda: 12345) as shown:
        shown.begin(Work(2, 2.0), 10)
        clock.now += 30.0
        shown.advance(10)
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[A", "", screen()))
    run = [line for line in lines if line.startswith("0/4 target examples  50%|")][-1]
    batch = [line for line in lines if "10/10 prompts" in line][-1]
    assert len(batch) == len(run) == 79
    assert "passed, about 00:30 left" in run
    assert batch.endswith("10/10 prompts, 0 tokens/s, 12,345 MiB")


@pytest.mark.parametrize("order", ["growing", "falling", "mixed"])
def test_the_time_left_is_right_within_a_quarter_from_a_third_on(clock, order):
    """Batches of very different work, of which a token takes as long as any, give or take."""
    rng = random.Random(0)
    sizes = [rng.choice((100, 300, 3000)) for _ in range(60)]
    sizes = {"mixed": sizes, "growing": sorted(sizes), "falling": sorted(sizes)[::-1]}[order]
    tokens = [round(size * rng.uniform(0.9, 1.1)) for size in sizes]
    read, begun, seen = 0, clock.now, []
    total = Work(len(sizes), 4.0 * sum(sizes))  # in characters, say
    with Progress(total, tokens=lambda: read, stream=io.StringIO()) as shown:
        for size, count in zip(sizes, tokens):
            shown.begin(Work(1, 4.0 * size), 5)
            for _ in range(10):
                read += count / 10
                clock.now += count / 1000
                seen.append((clock.now, shown.left()))
            shown.finish()
    whole = clock.now - begun
    late = [(now, left) for now, left in seen if whole / 3 <= now - begun < 0.98 * whole]
    assert len(late) > 30
    for now, left in late:
        assert left == pytest.approx(begun + whole - now, rel=0.25, abs=0.01 * whole)


def test_the_estimate_of_a_run_fits_the_tokens_that_it_reads(tmp_path, monkeypatch):
    """A run whose long questions come last, on a clock that goes by the tokens read."""
    texts = ["word " * (5 if k < 8 else 60) for k in range(16)]
    rows = [{"text": f"{k} {text}", "label": "ab"[k % 2]} for k, text in enumerate(texts)]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = "own:\n  source: own.jsonl\n  prompt: '{text}'\n  reference: label\n  labels: [a, b]\n"
    (tmp_path / "own.yaml").write_text(task)
    monkeypatch.setattr(data, "target_order", lambda count, seed, limit: list(range(count)))
    seen = []

    class Timed(Progress):
        def advance(self, prompts):
            super().advance(prompts)
            seen.append((self.tokens(), self.left()))

    class Clock:
        @staticmethod
        def monotonic():
            return shown[0].tokens() / 1000 if shown else 0.0

    shown = []
    monkeypatch.setattr(progress, "time", Clock)
    monkeypatch.setattr(
        experiment, "Progress", lambda *a, **k: shown.append(Timed(*a, **k)) or shown[0]
    )
    model = tiny.save_model(tmp_path / "tiny-llama")
    more = ["--task_file", tmp_path / "own.yaml", "--limit", 16, "--batch_size", 1]
    assert run(tmp_path / "out", model, "own", "quiz", *more) == 0
    end = seen[-1][0]
    late = [(tokens, left) for tokens, left in seen if end / 3 <= tokens < 0.95 * end]
    assert len(late) > 5
    for tokens, left in late:
        assert left == pytest.approx((end - tokens) / 1000, rel=0.25)


def test_the_end_of_a_run_names_commands_for_its_folder_and_an_early_end_says_what_is_kept(
    tmp_path, capsys
):
    folder = tmp_path / "my runs"
    assert run(folder, tiny.save_model(tmp_path / "tiny-llama"), "quiz", "reviews") == 0
    assert f"  python viz.py report --result_dir '{folder}'\n" in capsys.readouterr().out
    assert "nothing is kept" in summary.what_is_kept(str(folder))
    (folder / "org@name__quiz").mkdir()
    (folder / "org@name__quiz" / "test_vs_posts_test_journal.1.jsonl").touch()
    assert f"kept in {folder}.\n" in summary.what_is_kept(str(folder))


def test_what_a_run_took_is_said_with_its_date_also_where_nothing_was_left_to_run(tmp_path, capsys):
    model = tiny.save_model(tmp_path / "tiny-llama")
    lines = []
    for _ in range(2):
        assert run(tmp_path / "out", model, "quiz", "reviews") == 0
        out = capsys.readouterr().out
        lines += [line for line in out.splitlines() if line.startswith("Run of ")]
    made = result_of(tmp_path / "out", "quiz", "reviews")["environment"]
    minute = made["started"][:16].replace("T", " ")
    assert lines[0] == lines[1]
    assert lines[0].startswith(f"Run of {minute} UTC: {made['engine']} engine, ")
    assert "All results exist already" in out
    last = made | {"started": "2030-01-01T00:00:00Z", "seconds": 7}
    line = summary.made_line([made, last, made])
    assert line.startswith("\n2 runs, the last of 2030-01-01 00:00 UTC: ") and "7 s" in line


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


def test_the_next_commands_compare_what_differs_between_results_of_one_target():
    def row(target, distractor, history="teacher"):
        return {"target": target, "distractor": distractor, "history": history}

    assert summary.contrasts_of([row("a", "a"), row("b", "b")]) == []
    assert summary.contrasts_of([row("a", "a"), row("a", "b")]) == ["contrast --by distractor"]
    kinds = [row("a", "a"), row("a", "a", "filler")]
    assert summary.contrasts_of(kinds) == ["contrast --by history"]
