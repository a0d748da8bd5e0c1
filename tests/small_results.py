"""Small results made with the code that a run uses, and what viz.py says of them."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import stored

import viz
from core import records, schema
from core.debug_log import messages_at
from measures import metrics, scoring

BLOCKS = 4
LENS = range(3)
TARGETS = 6
CONVERSATIONS = [
    [
        *({"role": ("user", "assistant")[k % 2], "content": f"said {k}"} for k in range(4)),
        {"role": "user", "content": f"question {target}"},
    ]
    for target in range(TARGETS)
]


def label_example(h: int, target: int) -> dict:
    logprobs = {"A": -1.0, "B": -0.5 if (target + h) % 3 == 0 else -1.5}
    best = scoring.best_label(logprobs)
    return {
        "model_prediction": best,
        "expected_answer": "A",
        "label_logprobs": logprobs,
        "score": scoring.label_score(logprobs, "A"),
    }


def text_example(h: int, target: int, metric_name: str = "rouge") -> dict:
    prediction = "a red car by the old house"[: 24 - 3 * h - target]
    references = ["a red car by the house", "the car"]
    return judged_text(prediction, references, metric_name)


def f1_example(h: int, target: int) -> dict:
    return text_example(h, target, "f1")


def number_example(h: int, target: int) -> dict:
    prediction = ("so 18", "#### 18", "no idea", "17")[(h + target) % 4]
    return judged_text(prediction, ["9 * 2 = 18\n#### 18"], "accuracy")


def judged_text(prediction: str, references: list[str], metric_name: str) -> dict:
    scores = scoring.text_scores(prediction, references)
    return {
        "model_prediction": prediction,
        "expected_answer": references[0],
        "references": references,
        **scoring.judge_text(prediction, references, metric_name, scores),
    }


def prompt_of(h: int, target: int) -> str:
    messages = messages_at(CONVERSATIONS[target], h)
    return "".join(f"<{each['role']}>{each['content']}" for each in messages)


@cache
def content_of(make, cosines: bool) -> tuple[list[dict], dict]:
    """Examples and their aggregates; made once, since a bootstrap takes its time."""
    examples = []
    for h in LENS:
        for target in range(TARGETS):
            example = make(h, target) | {
                "prompt_text": prompt_of(h, target),
                "conversation": target,
                "rewritten_messages": 0,
                "intruded": None,
                "config": {"history_len": h, "target_idx": target, "history_idx": list(range(h))},
                "top5": [" A", " B", f" {target % 2}"],
            }
            if cosines:
                line = np.linspace(0.1 * h + 0.01 * target, 1, BLOCKS)
                example |= {"cosines": line.tolist(), "cosines_centred": (line / 2).tolist()}
                example["drift"] = (1 - h * line / 9).tolist()
                example |= {"agree": [0, 0, int(target > h), 1], "decision_layer": 3 + target % 2}
                if make is label_example:
                    example["margin"] = [*np.sin(line[:-1] + target).tolist(), None]
            examples.append(example)
    return examples, metrics.aggregate(examples, metric_of(make))


def metric_of(make) -> str:
    return {text_example: "rouge", f1_example: "f1"}.get(make, "accuracy")


def write_pair(
    out_dir: Path,
    model: str = "org/name",
    target: str = "quiz/test",
    distractor: str = "posts/test",
    *,
    make=label_example,
    cosines: bool = True,
) -> Path:
    """Write a result and its debug log; returns the path of the log."""
    examples, aggregates = content_of(make, cosines)
    identity = {"model": model, "target": target, "distractor": distractor}
    identity["metric_name"] = metric_of(make)
    task = {"name": "quiz", "labels": []}
    config = {"tasks": {"target": task, "distractor": task}}
    rest = {"schema_version": schema.SCHEMA_VERSION, "config": config, "environment": {}}
    path = records.result_path(out_dir, model, target, distractor)
    log = identity | {"conversations": CONVERSATIONS, "debug_examples": examples}
    log |= {"schema_version": schema.SCHEMA_VERSION}
    stored.write_pair(path, identity | aggregates | rest, log)
    return records.debug_path(path)


def edit(path: Path, *keys, value) -> None:
    """Replace one value inside a JSON file."""
    content = json.loads(path.read_text())
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(content))


def without(path: Path, *keys) -> None:
    """Delete one value inside a JSON file."""
    content = json.loads(path.read_text())
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    del inner[keys[-1]]
    path.write_text(json.dumps(content))


def seal(path: Path) -> None:
    """Give an edited file the digest of what it holds now."""
    records.write_json(path, records.read_json(path))


def verify(*logs: Path, more: Sequence[str] = ()) -> int:
    return viz.main(["verify", "--debug_file", *map(str, logs), *more])


def mismatches(capsys) -> list[str]:
    """Lines of quantities that do not verify, but for the digests, which any edit changes."""
    lines = [line for line in capsys.readouterr().out.splitlines() if "MISMATCH (" in line]
    return [line for line in lines if "_sha256" not in line]


def draw(results: Path, plots: Path) -> int:
    return viz.main(["metric", "--result_dir", str(results), "--out_dir", str(plots)])


def complains(capsys, *words: str) -> bool:
    """True where stderr is one or two plain lines with these words in them."""
    text = capsys.readouterr().err
    assert "Traceback" not in text
    assert text.startswith("error: ")
    assert len(text.splitlines()) <= 2
    return all(word in text for word in words)


def note_of(figure) -> str:
    """What is written about the lines, in one line."""
    return " ".join(figure.legends[0].get_title().get_text().split())
