"""Task-switch sensitivity: how much less likely a history makes an answer.

The measures of Gupta et al., LLM Task Interference, EMNLP 2024, arXiv 2402.18216.
"""

from collections.abc import Hashable, Iterator
from typing import Any

import numpy as np

from core.debug_log import Example, Logprob
from measures.stats import Clusters, mean_and_interval
from measures.table import ByLen, all_have

# Name -> the reply whose log-likelihood is compared without and with the history
VARIANTS = {"tau": "zero_shot", "confidence": "own", "loss": "reference"}
LOGPROBS = "reply_logprobs"  # of an example, and first in the names of columns


def columns(example: Example) -> Iterator[tuple[Hashable, Any]]:
    """The log-likelihoods of an example's replies, under (LOGPROBS, reply)."""
    for reply, logprob in example.get(LOGPROBS, {}).items():
        yield (LOGPROBS, reply), _values(logprob)


def sensitivity_by_len(by_len: ByLen, at_0: Clusters, later: Clusters) -> dict[str, Any]:
    """How much less likely a history makes an answer, by history length; {} where not read.

    With l(r | c) the log-likelihood of reply r after context c, u the target's prompt, h its
    history, r_0 and r_h the replies without and with it, and ref the reference, per example:

        tau         l(r_0 | u) - l(r_0 | u, h)    over 0: the history makes r_0 less likely
        confidence  l(r_0 | u) - l(r_h | u, h)
        loss        l(ref | u) - l(ref | u, h)

    The signs are those that the code of Gupta et al. (arXiv 2402.18216) computes; the docstring
    there has the ratios upside down. Beside them stands the reference's own log-likelihood.

    An entry holds `sum` and `per_token`, each a mean over examples with its interval. A reply of no
    token, with whatever it is compared, is left out of both and counted.
    """
    if not all(all_have(by_len, (LOGPROBS, reply)) for reply in VARIANTS.values()):
        return {}
    without = {reply: by_len["0"].values((LOGPROBS, reply)) for reply in VARIANTS.values()}
    found = {}
    for h, group in by_len.items():
        now = {reply: group.values((LOGPROBS, reply)) for reply in without}
        found[h] = {
            name: _both(without[reply] - now[reply], later) for name, reply in VARIANTS.items()
        }
        found[h]["reference_logprob"] = _both(now["reference"], later if int(h) else at_0)
    return found


def _values(logprob: Logprob) -> tuple[float, float]:
    """A reply's log-likelihood (nats), as a sum and per token; NaN for a reply of no token."""
    total, tokens = logprob["sum"], logprob["tokens"]
    return (total, total / tokens) if tokens else (np.nan, np.nan)


def _both(rows: np.ndarray, clusters: Clusters) -> dict[str, dict[str, Any]]:
    means, stats = mean_and_interval(rows, clusters)  # [N, 2]
    return {
        unit: {
            "mean": means[k],
            **{key: stats[key][k] for key in ("low", "high", "excluded")},
            "interval": stats["interval"],
        }
        for k, unit in enumerate(("sum", "per_token"))
    }
