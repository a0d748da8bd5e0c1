"""Is a switch worse than no switch, over all targets, distractors and lengths? One regression.

Generalised estimating equations (Liang and Zeger 1986) of the score on whether the history is of
another task, with a level for each target task and each history length:

    g(E[score]) = a(target task) + b(h) + c switch        g: logit for 0/1 scores, else identity

Working independence, and errors over clusters, with the small-sample correction of Mancl and
DeRouen (2001). The effect is the average marginal one, in points: the mean over all rows of what is
predicted with a switch less what is predicted without one; its error is by the delta method.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from measures import stats

FEWEST_CLUSTERS = 20  # of fewer, robust errors are too small
MOST_CORRECTED = 500  # clusters up to which the small-sample correction is worth its time

Effect = dict[str, Any]


class Rows(NamedTuple):
    """One entry for each example at each h >= 1."""

    scores: np.ndarray  # [N]
    switch: np.ndarray  # [N], True after a history of another task
    task: list[str]  # the target task
    h: list[int]
    targets: list[tuple]  # names of targets and of histories, which clusters share
    histories: list[tuple]


def switch_effect(rows: Rows, *, binary: bool, apart: Sequence[str] = ()) -> Effect:
    """`points` with `low`, `high` and `p_value`, `n` and `clusters`; null with the `reason`.

    `apart` are settings in which the rows of one task differ from those of another.
    """
    clusters = stats.find_clusters(rows.targets, rows.histories)
    found = {"n": len(rows.scores), "clusters": clusters.count}
    nothing = dict.fromkeys(("points", "low", "high", "p_value"))
    reason = f"its targets were run under other settings: {', '.join(apart)}" if apart else None
    reason = reason or _unfit(rows, clusters)
    if reason:
        return nothing | found | {"reason": reason}
    effect = _fit(rows, clusters, binary)
    if effect is None:
        return nothing | found | {"reason": "the regression does not converge"}
    return effect | found | {"reason": None}


def _unfit(rows: Rows, clusters: stats.Clusters) -> str | None:
    """Why these data cannot bear a regression."""
    if rows.switch.all() or not rows.switch.any():
        return "only histories with a switch, or only without"
    if clusters.count < FEWEST_CLUSTERS:
        count = f"{clusters.count} cluster{'' if clusters.count == 1 else 's'}"
        return f"{count}, and robust errors need {FEWEST_CLUSTERS}"
    groups = [rows.switch, *(np.array(rows.task) == task for task in dict.fromkeys(rows.task))]
    groups += [~rows.switch, *(np.array(rows.h) == h for h in dict.fromkeys(rows.h))]
    if any(np.ptp(rows.scores[group]) == 0 for group in groups):
        return "separation: all scores of one task, length or kind of history are the same"
    return None


def _fit(rows: Rows, clusters: stats.Clusters, binary: bool) -> Effect | None:
    import statsmodels.api as sm
    from scipy.stats import t

    x = _design(rows)
    family = sm.families.Binomial() if binary else sm.families.Gaussian()
    model = sm.GEE(rows.scores, x, groups=clusters.of, family=family)
    corrected = "bias_reduced" if clusters.count <= MOST_CORRECTED else "robust"
    fitted = model.fit(cov_type=corrected)
    with_, without = (_set_switch(x, value) for value in (1.0, 0.0))
    means = [fitted.predict(each) for each in (with_, without)]
    slopes = [m * (1 - m) if binary else np.ones_like(m) for m in means]
    gradient = (slopes[0][:, None] * with_ - slopes[1][:, None] * without).mean(axis=0)
    points = float((means[0] - means[1]).mean())
    variance = float(gradient @ fitted.cov_params() @ gradient)
    if not fitted.converged or not np.isfinite(variance) or variance <= 0:
        return None
    error = variance**0.5
    spare = clusters.count - x.shape[1]
    half = float(t.ppf((1 + stats.CONFIDENCE) / 2, spare)) * error
    return {
        "points": 100 * points,
        "low": 100 * (points - half),
        "high": 100 * (points + half),
        "p_value": float(2 * t.sf(abs(points / error), spare)),
    }


def _design(rows: Rows) -> np.ndarray:
    """Columns: the switch, 1, and each task and length but the first [N, K]."""
    columns = [rows.switch.astype(float), np.ones(len(rows.scores))]
    for names in (rows.task, rows.h):
        levels: Sequence = sorted(set(names))[1:]
        columns += [(np.array(names) == level).astype(float) for level in levels]
    return np.stack(columns, axis=1)


def _set_switch(x: np.ndarray, value: float) -> np.ndarray:
    return np.concatenate([np.full((len(x), 1), value), x[:, 1:]], axis=1)
