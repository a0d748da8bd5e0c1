"""Seconds and memory of finishing, verifying and reporting a pair as large as the whole of MMLU.

    python scripts/bench_logs.py --n 14042 --max_len 8

No model runs: a journal is made up, with texts as long as MMLU's and the layers of a model of 30
blocks. Each step runs in a process of its own; memory is its peak, and of `finish` also what it had
before it began, since a run holds libraries and a model besides.
"""

import argparse
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from core import records  # noqa: E402
from measures import scoring  # noqa: E402
from run.journal import Journal, example_entry  # noqa: E402

BLOCKS = 30
LABELS = ("A", "B", "C", "D")
WORDS = 60  # of a question, as in MMLU
ROWS = ("cosines", "cosines_centred", "drift", "margin")
TASK = {"name": "mmlu", "labels": LABELS}
NAMED = {
    "schema_version": records.SCHEMA_VERSION,
    "model": "made/up",
    "target": "mmlu/test",
    "distractor": "mmlu/test",
    "metric_name": "accuracy",
}
MADE = {
    "n_skipped": 0,
    "config": {
        "seed": [0],
        "history": "teacher",
        "tasks": {"target": TASK, "distractor": TASK},
        "compress_logs": False,
    },
    "environment": {"device": "none"},
}


def question(rng: random.Random, words: list[str]) -> str:
    """A question as long as one of MMLU."""
    lines = [" ".join(rng.choices(words, k=WORDS // 2)) + "?"]
    lines += [f"{label}. {' '.join(rng.choices(words, k=WORDS // 8))}" for label in LABELS]
    return "\n".join([*lines, "Answer:"])


def rendered(messages: list[dict[str, str]]) -> str:
    """Messages as ChatML."""
    turns = (f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
    return "".join([*turns, "<|im_start|>assistant\n"])


def entries(target: int, max_len: int, rng: random.Random, words: list[str]) -> Iterator[Any]:
    """The journal's entries of a target."""
    turns = []
    for _ in range(max_len):
        turns.append({"role": "user", "content": question(rng, words)})
        turns.append({"role": "assistant", "content": rng.choice(LABELS)})
    last = {"role": "user", "content": question(rng, words)}
    for h in range(max_len + 1):
        messages = [*turns[: 2 * h], last]
        found = example(target, h, rng) | {"prompt_text": rendered(messages)}
        if h:
            shown = [each["content"] for each in messages[1:-1:2]]
            found["labels_shown"] = {label: shown.count(label) for label in LABELS}
        yield example_entry(found, [*turns, last] if h == max_len else None)


def example(target: int, h: int, rng: random.Random) -> dict[str, Any]:
    """An example but for its prompt; histories make it a little worse."""
    scores = {label: rng.gauss(-2, 1) for label in LABELS}
    expected = LABELS[target % 4]
    scores[expected] += 1 - 0.05 * h
    replies = {name: {"sum": scores[expected], "tokens": 1}
               for name in ("zero_shot", "own", "reference")}  # fmt: skip
    config = {"history_len": h, "target_idx": target, "history_idx": list(range(h)), "seed": 0}
    config |= {"history_role": ["distractor"] * h, "history_kind": "teacher"}
    rows = {name: [round(rng.random(), 7) for _ in range(BLOCKS)] for name in ROWS}
    return {
        "expected_answer": expected,
        "config": config,
        "top5": [f" {label}" for label in LABELS] + ["\n"],
        "label_logprobs": scores,
        **scoring.judge_labels(scores, expected),
        **rows,
        "decision_layer": rng.randint(1, BLOCKS),
        "reply_logprobs": replies,
        "intruded": None,
        "rewritten_messages": 0,
    }


def make(path: Path, n: int, max_len: int) -> Journal:
    """Write the journal of n targets."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 10)))
             for _ in range(3000)]  # fmt: skip
    journal = Journal(path, {}, range(max_len + 1))
    for start in range(0, n, 100):
        targets = range(start, min(n, start + 100))
        journal.append([e for target in targets for e in entries(target, max_len, rng, words)])
    return journal


def finish(path: Path, n: int, max_len: int) -> None:
    """Finish the pair of that journal, as a run does at its end; prints the memory before."""
    from run.results import write_pair

    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
    keys = [(target, 0) for target in range(n)]
    kept = Journal(path, {}, range(max_len + 1)).read_all(keys)
    write_pair(path, NAMED, kept, keys, MADE)


def measured(*command: object) -> str:
    """Run a command of Python -> a line with its seconds and its peak of memory."""
    started = time.time()
    call = subprocess.Popen([sys.executable, *map(str, command)], stdout=subprocess.PIPE, cwd=ROOT)
    said = call.stdout.read().decode().splitlines()
    _, status, used = os.wait4(call.pid, 0)
    if status:
        raise SystemExit(f"{command} ended with status {status}: {said[-1:]}")
    cpu, peak = used.ru_utime + used.ru_stime, used.ru_maxrss // 1024
    before = f" ({peak - int(said[0])} above its start)" if said[:1] and said[0].isdigit() else ""
    return f"{cpu:7.1f} s CPU {time.time() - started:7.1f} s {peak:6} MiB{before}"


def main() -> None:
    """Make a journal and measure each step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=14042, help="targets (%(default)s)")
    parser.add_argument("--max_len", type=int, default=8, help="longest history (%(default)s)")
    parser.add_argument("--folder", type=Path, help="where the files go (a temporary folder)")
    parser.add_argument("--finish", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        path = records.result_path(folder, NAMED["model"], NAMED["target"], NAMED["distractor"])
        if given.finish:
            finish(path, given.n, given.max_len)
            return
        make(path, given.n, given.max_len)
        again = ("--n", given.n, "--max_len", given.max_len, "--folder", folder, "--finish")
        print("finish ", measured(__file__, *again), flush=True)
        size = records.find_log(path).stat().st_size // 2**20
        print(f"{given.n * (given.max_len + 1)} prompts, a log of {size} MiB")
        verify = ("viz.py", "verify", "--debug_file", records.find_log(path))
        print("verify ", measured(*verify), flush=True)
        out = folder / "report.html"
        print("report ", measured("viz.py", "report", "--result_dir", folder, "--out", out))
        print(f"the page has {out.stat().st_size // 2**20} MiB")


if __name__ == "__main__":
    main()
