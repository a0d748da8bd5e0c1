"""Synthetic results with conversations, and what their report holds, for the claims about it."""

import base64
import gzip
import html
import json
import re
from collections.abc import Sequence
from pathlib import Path

import stored

import viz
from core import records, schema
from measures import metrics, scoring

TARGETS = 12
LENGTHS = range(3)
HOSTILE = "</script><script>alert(1)</script><!-- <img src=x onerror=alert(1)> & \u2028"
QUESTION = {
    "quiz/test": "Which letter is it in row {}?\nAnswer:",
    "posts/test": "What does post {} say?\nAnswer:",
}
LABELS = ("A", "B")


def chat(messages: Sequence[tuple[str, str]]) -> str:
    """Messages as ChatML, ready for an answer."""
    turns = [f"<|im_start|>{who}\n{text}<|im_end|>\n" for who, text in messages]
    return "".join([*turns, "<|im_start|>assistant\n"])


def history_of(distractor: str, target: int, h: int) -> list[tuple[str, str]]:
    messages = []
    for k in range(h):
        question = QUESTION[distractor].format(100 + 10 * target + k)
        messages += [("user", question), ("assistant", LABELS[(target + k) % 2])]
    return messages


def right(target: int, h: int, seed: int = 0) -> bool:
    """Half are right at h = 0; histories lose many of them and gain a few others."""
    if target % 2 == 0:
        return h == 0 or (target + h + seed) % 3 != 0
    return h > 0 and (target + h + seed) % 5 == 0


def label_example(target: int, h: int, seed: int) -> dict:
    reference = LABELS[target // 2 % 2]
    best = reference if right(target, h, seed) else LABELS[1 - target // 2 % 2]
    logprobs = {label: -0.25 - 0.01 * target if label == best else -2.5 for label in LABELS}
    return {
        "expected_answer": reference,
        "label_logprobs": logprobs,
        **scoring.judge_labels(logprobs, reference),
        "decision_layer": 1 + (target + h) % 4,
    }


def text_example(target: int, h: int, seed: int) -> dict:
    references = ["a red car by the old house", "the red car"]
    text = "a red car by the old house" if right(target, h, seed) else "the car"
    scores = scoring.text_scores(text, references)
    return {
        "model_prediction": text,
        "expected_answer": references[0],
        "references": references,
        **scoring.judge_text(text, references, "rouge", scores),
    }


def messages_of(target: str, distractor: str, i: int, odd: str = "") -> list[tuple[str, str]]:
    """The longest conversation of a target."""
    question = QUESTION[target].format(i) + (f" {odd}" if i == 3 else "")
    return [*history_of(distractor, i, LENGTHS[-1]), ("user", question)]


def examples_of(
    target: str,
    distractor: str,
    *,
    count: int = TARGETS,
    seeds: Sequence[int] = (0,),
    odd: str = "",
) -> list[dict]:
    """The examples of a pair; `odd` stands in the prompt of target 3. `write_pair` takes `messages`
    out of them and makes conversations of it.
    """
    make = label_example if target == "quiz/test" else text_example
    found = []
    for i in range(count):
        messages = messages_of(target, distractor, i, odd)
        for seed in seeds:
            for h in LENGTHS:
                prompt = [("system", "Be brief."), *messages[: 2 * h], messages[-1]]
                found.append(
                    {
                        "prompt_text": chat(prompt),
                        "messages": [{"role": who, "content": said} for who, said in messages],
                        "config": {
                            "history_len": h,
                            "target_idx": i,
                            "history_idx": [100 + 10 * i + k for k in range(h)],
                            "history_role": ["distractor"] * h,
                            "seed": seed,
                        },
                        "top5": [" A", " B", "<b>", " the", "\n"],
                        "cosines": [0.1 + 0.01 * h, 0.5, 0.7, 1.0],
                        "rewritten_messages": 0,
                        "intruded": None,
                        **make(i, h, seed),
                    }
                )
    return found


def write_pair(
    folder: Path,
    target: str = "quiz/test",
    distractor: str = "posts/test",
    *,
    model: str = "org/name",
    examples: list[dict] | None = None,
    history: str = "teacher",
    **more,
) -> Path:
    """Write a result and its log; returns the path of the result."""
    examples = examples or examples_of(target, distractor)
    metric = "accuracy" if "label_logprobs" in examples[0] else "rouge"
    identity = {"schema_version": schema.SCHEMA_VERSION, "model": model}
    identity |= {"target": target, "distractor": distractor, "metric_name": metric}
    seeds = sorted({example["config"]["seed"] for example in examples})
    config = {"seed": seeds, "history": history, "prompt": "chat", "dtype": "float32"}
    labels = LABELS if metric == "accuracy" else []
    config["tasks"] = {
        "target": {"name": target, "prompt": QUESTION.get(target), "labels": labels},
        "distractor": {"name": target, "labels": labels},  # an answer tells nothing of the task
    }
    environment = {"device": "cpu", "git_commit": "0123abc", "packages": {"numpy": "2.4.6"}}
    path = records.result_path(folder, model, target, distractor)
    path = path.with_name(f"{seeds[0]}_{path.name}") if seeds[0] else path
    result = identity | metrics.aggregate(examples, metric) | {"n_skipped": 0}
    result |= {"config": config, "environment": environment} | more
    stored.write_pair(path, result, identity | log_of(examples))
    return path


def log_of(examples: Sequence[dict]) -> dict:
    """The conversations and examples of a log."""
    places = {}
    for example in examples:
        key = example["config"]["target_idx"], example["config"]["seed"]
        places.setdefault(key, (len(places), example["messages"]))
    rows = [
        {name: value for name, value in example.items() if name != "messages"}
        | {"conversation": places[example["config"]["target_idx"], example["config"]["seed"]][0]}
        for example in examples
    ]
    return {"conversations": [each for _, each in places.values()], "debug_examples": rows}


def write_grid(folder: Path, odd: str = "") -> None:
    """Two targets after two distractors each; one pair pools two seeds."""
    for target in QUESTION:
        for distractor in QUESTION:
            write_pair(
                folder, target, distractor, examples=examples_of(target, distractor, odd=odd)
            )


# --- the page


def make_report(results: Path, out: Path) -> int:
    return viz.main(["report", "--result_dir", str(results), "--out", str(out)])


def page_of(results: Path, folder: Path) -> str:
    assert make_report(results, folder / "report.html") == 0
    return (folder / "report.html").read_text()


def no_image(figure) -> dict:
    size = {"uri": "data:,", "width": 1, "height": 1}
    return size | {"caption": "A figure.", "measure": figure.measure, "names": figure.names}


def embedded(page: str) -> dict:
    """What the explorer of a page reads."""
    packed = re.search(r'<script type="text/plain" id="data">([^<]*)</script>', page)[1]
    return json.loads(gzip.decompress(base64.b64decode(packed)))


def table_of(page: str, start: str) -> list[list[str]]:
    """Text of the cells of the first table behind a text, a list per row."""
    table = page[page.index(start) :].partition("</table>")[0]
    rows = re.findall(r"<tr.*?</tr>", table, re.DOTALL)
    return [
        [
            html.unescape(re.sub(r"<[^>]*>", "", cell)).strip()
            for cell in re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL)
        ]
        for row in rows
    ]


def words_of(page: str) -> str:
    """The text of a page in a single line."""
    text = html.unescape(re.sub(r"<(style|script).*?</\1>|<[^>]*>", " ", page, flags=re.DOTALL))
    return " ".join(text.split()).replace(" .", ".")
