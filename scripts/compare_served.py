"""Compare a run behind a server with the same run of a local model, prompt by prompt.

python scripts/compare_served.py SERVED_DIR LOCAL_DIR
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from core import records  # noqa: E402  the project is no package


def examples_of(folder: str) -> tuple[dict[tuple, dict], float]:
    """Examples by pair, target and history length, and the seconds of the run."""
    found, seconds = {}, 0.0
    for path, result in records.find_results(folder):
        seconds = result["environment"]["seconds"]
        for example in records.read_debug(records.debug_path(path))["debug_examples"]:
            place = example["config"]
            key = result["target"], result["distractor"], place["target_idx"], place["history_len"]
            found[key] = example
    return found, seconds


def main(served: str, local: str) -> None:
    """Print how far the two runs are apart."""
    (there, seconds_there), (here, seconds_here) = examples_of(served), examples_of(local)
    shared = [(there[key], here[key]) for key in here if key in there]
    gaps, bounded = [], 0
    for one, other in shared:
        known, own = one.get("label_logprobs") or {}, other.get("label_logprobs") or {}
        gaps += [abs(known[label] - own[label]) for label in known if label in own]
        bounded += len(own) - len(known)
    labelled = [pair for pair in shared if "label_logprobs" in pair[1]]
    written = [pair for pair in shared if "label_logprobs" not in pair[1]]
    for name, pairs in (("labels", labelled), ("texts", written)):
        same = sum(one["model_prediction"] == other["model_prediction"] for one, other in pairs)
        print(f"{name}: {same} of {len(pairs)} predictions are the same")
    if gaps:
        worst, mean = max(gaps), sum(gaps) / len(gaps)
        print(f"label log-probabilities: {worst:.1e} nats apart at most, {mean:.1e} on average")
        print(f"labels that the server did not list: {bounded}")
    targets = len({key[2:3] + key[:1] for key in here})
    print(
        f"seconds a target: {seconds_there / targets:.2f} served, {seconds_here / targets:.2f} here"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
