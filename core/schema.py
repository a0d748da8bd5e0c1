"""What a result file holds, by name, and how numbers are stored: for all that write or read one."""

import math
from collections.abc import Iterable

SCHEMA_VERSION = 3
IDENTITY = ("model", "target", "distractor", "metric_name")  # what result and log begin with

# Scores of every generated text
TEXT_SCORES = ("rouge1", "rouge2", "rouge", "exact_match", "f1", "exact_match_strict")
PROPORTIONS = ("accuracy", "exact_match", "exact_match_strict")  # metrics that are 0 or 1
MAX_NEW_TOKENS = 32  # of an answer, where a task says nothing else
# What --effects can measure
EFFECT_PARTS = ("position", "block", "turn", "route", "patch", "attention")

# Aggregates by history length that not every result has: {} where there is nothing of the kind
TEXT_KEYS = ("scores_by_len", "format_failures_by_len", "reads_by_len", "bounded_labels_by_len")
ANSWER_KEYS = (
    *("cue_by_len", "ties_by_len", "sensitivity_by_len"),
    *("effects_by_len", "intrusion_by_len", "reliability_by_len"),
)
LAYER_KEYS = (
    *("cos_by_len", "cos_centred_by_len", "drift_by_len", "margin_by_len", "agree_by_len"),
    *("decision_layer_by_len", "layer_stats_by_len"),
)
SOMETIMES = (*TEXT_KEYS, *ANSWER_KEYS, *LAYER_KEYS)

DECIMALS = 7  # of measures that are stored for every example


def cleaned(values: Iterable[float]) -> list[float | None]:
    """Values as they are stored: rounded, and None for what is not finite."""
    return [round(float(x), DECIMALS) if math.isfinite(x) else None for x in values]
