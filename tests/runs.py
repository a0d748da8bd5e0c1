"""Small runs of a tiny model on the embedded tasks, and what they have written."""

import json

import pytest

import experiment
from core import records

LIMIT, MAX_LEN = 4, 2
SMALL = f"--limit {LIMIT} --max_len {MAX_LEN} --max_new_tokens 4 --device cpu".split()
MADE_WITH = ("started", "seconds", "peak_memory_mib", "processes")  # of `environment`


def run(out_dir, model, target, distractor, *flags):
    """Exit status of one run."""
    spec = ["--target", *listed(target), "--distractor", *listed(distractor)]
    flags = ["--model", model, "--out_dir", out_dir, *spec, *SMALL, *flags]
    return experiment.main([str(flag) for flag in flags])


def listed(names):
    return [names] if isinstance(names, str) else names


def path_of(out_dir, target, distractor):
    return out_dir / f"tiny-llama__{target}" / f"test_vs_{distractor}_test.json"


def result_of(out_dir, target, distractor):
    return records.read_result(path_of(out_dir, target, distractor))


def examples_of(out_dir, target, distractor):
    log = records.read_debug(records.debug_path(path_of(out_dir, target, distractor)))
    return log["debug_examples"]


def examples_in(folder):
    """Those of the one log below a folder."""
    [path] = folder.rglob("*_debug.json")
    return records.read_debug(path)["debug_examples"]


def contents(folder):
    """Every file below a folder with its bytes."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def without_times(folder):
    """Every file below a folder, as text, without what no two runs have in common."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = json.loads(path.read_text())
        for name in MADE_WITH:
            content.get("environment", {}).pop(name, None)
        found[str(path.relative_to(folder))] = json.dumps(content)
    return found


def without_numbers(examples):
    """What of the examples is no number computed by a model."""
    return [
        {key: example[key] for key in ("prompt_text", "config", "expected_answer")}
        for example in examples
    ]


def assert_same_examples(found, expected):
    """The same prompts and predictions, with numbers as equal as float32 lets them be."""
    assert without_numbers(found) == without_numbers(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one["top5"], one["score"]) == (other["top5"], other["score"])
        assert one["model_prediction"] == other["model_prediction"]
        assert one["cosines"] == pytest.approx(other["cosines"], abs=1e-5)
        if "label_logprobs" in other:
            assert one["label_logprobs"] == pytest.approx(other["label_logprobs"], abs=1e-5)
