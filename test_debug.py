"""Smoke check: a tiny real run that asserts on what it got. Works with python and with pytest.

    python test_debug.py

Qwen2.5-0.5B-Instruct on rotten_tomatoes where the Hub or its cache answers within seconds, else the
bundled model on the sample reviews.
"""

import json
import sys
import tempfile
import threading
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

import experiment
import viz
from lm import bundled
from tasks import spec

HUB_MODEL, HUB_TASK = "Qwen/Qwen2.5-0.5B-Instruct", "rotten_tomatoes"
MAX_LEN, LIMIT = 2, 3


def hub_answers(seconds: float = 3.0) -> bool:
    """True where the Hub, or a mirror named by HF_ENDPOINT, offers model and data set in time."""
    from huggingface_hub import constants

    offered: list[bool] = []
    asking = threading.Thread(
        target=lambda: offered.append(all(map(_offers, offers()))),
        daemon=True,  # the timeout of urlopen is for each step: a slow Hub takes many
    )
    if not constants.HF_HUB_OFFLINE:
        asking.start()
        asking.join(seconds)
    return offered == [True]


def offers() -> list[str]:
    """Paths at which the Hub tells of the model and of the data set."""
    return [f"models/{HUB_MODEL}", f"datasets/{spec.builtin_tasks()[HUB_TASK].source}"]


def _offers(path: str) -> bool:
    from huggingface_hub import constants

    try:
        with urlopen(f"{constants.ENDPOINT}/api/{path}", timeout=10) as answer:
            return path.endswith(json.load(answer)["id"])
    except (OSError, HTTPException, ValueError, LookupError, TypeError):
        return False  # no network, a refusal, or an answer that is not of a Hub


def cached() -> bool:
    """True where the cache holds both the model and the data set."""
    from huggingface_hub import try_to_load_from_cache

    source = spec.builtin_tasks()[HUB_TASK].source
    model = try_to_load_from_cache(HUB_MODEL, "model.safetensors")
    rows = try_to_load_from_cache(source, "README.md", repo_type="dataset")
    return isinstance(model, str) and isinstance(rows, str)


def choose() -> tuple[str, str]:
    """Model and task of the run."""
    if cached() or hub_answers():
        return HUB_MODEL, HUB_TASK
    print(f"The Hub does not answer: testing the bundled model instead of {HUB_MODEL}.")
    return bundled.BUNDLED, "reviews"


def test_debug() -> None:
    """Run, and check the numbers, the files and viz on them."""
    model, task = choose()
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--model", model, "--target", task, "--distractor", task, "--out_dir", folder]
        assert experiment.main([*flags, "--max_len", str(MAX_LEN), "--limit", str(LIMIT)]) == 0
        [debug] = Path(folder).rglob("*_debug.json")
        result = json.loads(debug.with_name(debug.name.replace("_debug", "")).read_text())
        examples = json.loads(debug.read_text())["debug_examples"]
        check(result, examples)
        assert viz.main(["verify", "--debug_file", str(debug)]) == 0
        plots = str(Path(folder) / "plots")
        assert viz.main(["metric", "--result_dir", folder, "--out_dir", plots]) == 0
        assert list(Path(plots).glob("*.png"))


def check(result: dict, examples: list[dict]) -> None:
    """Assert what must hold of any run."""
    lengths = [str(h) for h in range(MAX_LEN + 1)]
    assert list(result["metric_by_len"]) == list(result["cos_by_len"]) == lengths
    assert result["n"] == LIMIT and len(examples) == LIMIT * len(lengths)
    assert all(0 <= value <= 1 for value in result["metric_by_len"].values())
    assert all(abs(cosines[-1] - 1) < 1e-3 for cosines in result["cos_by_len"].values())
    for example in examples:
        scores = example["label_logprobs"]
        assert example["model_prediction"] == max(scores, key=scores.get)
        assert all(value < 0 for value in scores.values())
        assert example["prompt_text"].count("Review:") == example["config"]["history_len"] + 1
    assert len({example["prompt_text"] for example in examples}) == len(examples)


if __name__ == "__main__":
    test_debug()
    print("test_debug: all checks hold")
    sys.exit(0)
