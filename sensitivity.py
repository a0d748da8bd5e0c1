"""Task-switch sensitivity: how much less likely a history makes an answer.

With l(r | c) the log-likelihood of reply r after context c, u the target's prompt, h its history,
r_0 and r_h the replies without and with it, and ref the reference, per example:

    tau         l(r_0 | u) - l(r_0 | u, h)    over 0: the history makes r_0 less likely
    confidence  l(r_0 | u) - l(r_h | u, h)
    loss        l(ref | u) - l(ref | u, h)

The signs are those that the code of Gupta et al. (arXiv 2402.18216) computes; the docstring there
has the ratios upside down. Each is given as a sum over the reply's tokens and as a mean per token.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stats import Clusters, mean_and_interval

# Name -> the reply whose log-likelihood is compared without and with the history
VARIANTS = {"tau": "zero_shot", "confidence": "own", "loss": "reference"}
Logprob = Mapping[str, float]  # sum over the tokens, and their number


def aggregate(
    by_len: Mapping[str, Sequence[dict[str, Any]]], at_0: Clusters, later: Clusters
) -> dict[str, Any]:
    """Each variant, and the reference's log-likelihood, by history length; {} where not read.

    An entry holds `sum` and `per_token`, each a mean over examples with its interval. A reply of no
    token has no mean per token, and is left out there and counted.
    """
    if not all("reply_logprobs" in each for group in by_len.values() for each in group):
        return {}
    without = [each["reply_logprobs"] for each in by_len["0"]]
    found = {}
    for h, group in by_len.items():
        now = [each["reply_logprobs"] for each in group]
        found[h] = {
            name: _both(
                [
                    np.array(_values(before[reply])) - _values(here[reply])
                    for before, here in zip(without, now)
                ],
                later,
            )
            for name, reply in VARIANTS.items()
        }
        references = [_values(here["reference"]) for here in now]
        found[h]["reference_logprob"] = _both(references, later if int(h) else at_0)
    return found


def _values(logprob: Logprob) -> tuple[float, float]:
    """A reply's log-likelihood (nats), as a sum and per token."""
    total, tokens = logprob["sum"], logprob["tokens"]
    return total, total / tokens if tokens else np.nan


def _both(rows: Sequence[Any], clusters: Clusters) -> dict[str, dict[str, Any]]:
    means, stats = mean_and_interval(np.array(rows, dtype=float), clusters)  # [N, 2]
    return {
        unit: {
            "mean": means[k],
            **{key: stats[key][k] for key in ("low", "high", "excluded")},
            "interval": stats["interval"],
        }
        for k, unit in enumerate(("sum", "per_token"))
    }
