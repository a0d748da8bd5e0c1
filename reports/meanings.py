"""What each measure is, in one sentence that the page opens at its name."""

from typing import NamedTuple


class Meaning(NamedTuple):
    """A measure's name, and what it is."""

    name: str
    sentence: str


def _all(**meanings: tuple[str, str]) -> dict[str, Meaning]:
    return {key: Meaning(*each) for key, each in meanings.items()}


SCORES = _all(
    accuracy=("Accuracy", "The share of targets that are answered right."),
    rouge=(
        "ROUGE-L F1",
        "How much of the longest common sequence of words answer and reference share, from 0 to 1.",
    ),
    rouge1=("ROUGE-1 F1", "How many single words answer and reference share, from 0 to 1."),
    rouge2=("ROUGE-2 F1", "How many pairs of neighbouring words both share, from 0 to 1."),
    exact_match=(
        "Exact match",
        "The share of answers that equal a reference, without case, punctuation and articles.",
    ),
    exact_match_strict=(
        "Exact match, strict",
        "The share of answers that equal a reference but for case and space.",
    ),
    f1=("Token F1", "How many words answer and reference share in any order, from 0 to 1."),
    value=("Value", "The metric at this history length: a fraction from 0 to 1."),
    likelihood=("Likelihood", "Accuracy where the most likely label counts as the answer."),
    generate=("Generate", "Accuracy where the label in the text that the model writes counts."),
    format_failure_rate=(
        "Format failures",
        "The share of written answers without exactly one label, or without the number sought.",
    ),
)
COMPARED = _all(
    contrast=(
        "Contrast",
        "The metric after one history less the metric after another, on the same targets.",
    ),
    difference=(
        "Difference",
        "The metric after the first history less the metric after the other, on the same targets; "
        "below 0 the first history is worse for the target. A point is a hundredth of the metric.",
    ),
    change=(
        "Change",
        "The metric after the history less the metric of the same targets without a history "
        "(h = 0). A point is a hundredth of the metric.",
    ),
    percent=("Change (%)", "The change as a share of the metric at h = 0, as in the paper."),
    p=("p", "How often chance alone would give so large a difference if the histories were alike."),
    p_holm=(
        "p (Holm)",
        "p made larger, so that a table where nothing differs shows even one star in at most 5% "
        "of cases.",
    ),
    n=("n", "The number of examples: a target under one seed is one."),
    detectable=(
        "Detectable",
        "The smallest difference that as many examples find in 80% of runs, at an uncorrected "
        "level of 5%; a smaller one is often missed.",
    ),
    intrusion=(
        "Intrusion",
        "The share of answers with the form of an answer to the distractor: one of its labels, "
        "or text that is nearer to its answers in the history than to the reference.",
    ),
    intrusion_margin=(
        "Intrusion margin",
        "Log-odds (nats) of the distractor's most likely label against the target's: what counts "
        "is the change against h = 0, not the sign.",
    ),
    sensitivity=(
        "Sensitivity",
        "How much less likely the history makes an answer, in nats per token: the zero-shot answer "
        "(tau), the answer given (confidence: without the history less with it), the reference "
        "(loss).",
    ),
    cue=("Cue", "What a sentence that announces the switch changes, on the same targets."),
    wordings=(
        "Wordings",
        "Each number under every wording of the prompts, on the same targets: the mean, the lowest "
        "and the highest. It is a spread, no interval.",
    ),
    place=(
        "Place of the switch",
        "The metric by the number of own-task turns since the one turn of the distractor.",
    ),
    flip=(
        "Flip",
        "A score that moves by 0.5 or more against h = 0; for right and wrong, any change.",
    ),
)
EFFECTS = _all(
    position=(
        "Position",
        "What changes because the target stands further from the start: the history hidden from "
        "it at every block, less no history.",
    ),
    length=(
        "Length",
        "What changes because there is more text to read: a neutral filler of as many tokens, less "
        "the hidden history.",
    ),
    content=(
        "Content",
        "What changes because the history says this: the history, less the filler.",
    ),
    seen=(
        "Length and content",
        "What changes because the target reads the history: seen less hidden.",
    ),
    total=("Total", "The history less no history: the sum of position, length and content."),
    effect_parts=(
        "Position, length, content",
        "The change against no history of the reference's margin (label tasks) or log-probability "
        "(written answers), in three parts that add up to it.",
    ),
    effect_hidden_by_window=(
        "Blocks: hidden in a window",
        "What changes if the target cannot see the history in some neighbouring blocks; below 0 "
        "the history had favoured the reference there.",
    ),
    effect_seen_by_window=(
        "Blocks: seen in a window only",
        "What changes if the target sees the history in these blocks only, against never.",
    ),
    effect_turns=(
        "Turns",
        "What changes if one turn is hidden from the target at every block; below 0 that turn had "
        "favoured the reference.",
    ),
    effect_routes=(
        "Routes",
        "What changes if the history is hidden from the answer position, from the target's other "
        "tokens, or from both.",
    ),
    effect_restored=(
        "Patched and restored",
        "The share of the change that is taken back when hidden states of the run without history "
        "are put into the run with it.",
    ),
    effect_attention=(
        "Attention",
        "How the answer position spreads its attention over the parts of the prompt; it shows "
        "where it looks, not what it takes from there.",
    ),
)
LAYERS = _all(
    lens=(
        "Lens",
        "A block's hidden state at the last position, read through the model's own final norm and "
        "unembedding.",
    ),
    drift=(
        "Drift",
        "Cosine between a block's hidden state and that of the same target without a history; 1 "
        "is no change.",
    ),
    margin=(
        "Margin",
        "Log-odds (nats) that the lens gives the reference label against the best other label.",
    ),
    decision_layer=(
        "Decision layer",
        "The first block from which on the lens keeps the final prediction.",
    ),
    agree=("Agreement", "The share of examples where lens and model name the same token."),
    cosine=(
        "Cosine",
        "Cosine between the lens logits of a block and the final logits; an offset of all logits "
        "moves it, so its size alone says nothing.",
    ),
    cosine_centred=(
        "Centred cosine",
        "The cosine of logits less their mean, so that an offset of all logits does not move it.",
    ),
)
KINDS = _all(
    teacher=("teacher", "The history shows the reference answers."),
    model=("model", "The history shows the model's own answers."),
    wrong=("wrong", "Answers of the history are replaced by wrong ones with this probability."),
    shuffled=("shuffled", "The right answers of the history stand at the wrong turns."),
    one_label=("one_label", "Every turn of the history has this label."),
    without_target_label=(
        "without_target_label",
        "No turn of the history has the label that is right for the target.",
    ),
    balanced=("balanced", "The history shows every label equally often."),
    user_only=("user_only", "The history has no answers."),
    random=("random", "The history is text sampled from the model itself."),
    at=("at", "One turn is of the distractor, at this place; all others are of the target's task."),
    filler=("filler", "The history is neutral text of as many tokens, with no task."),
    chats=("chats", "The history is turns of a real conversation."),
)
RELIABILITY = _all(
    histories=("Histories", "How many histories each target was run after."),
    mean=("Mean", "The metric: the mean over targets and over their histories."),
    aptitude=("Aptitude", "The 90th percentile of a target's scores over its histories."),
    unreliability=(
        "Unreliability",
        "The 90th less the 10th percentile of a target's scores over its histories.",
    ),
)
MEANINGS = SCORES | COMPARED | EFFECTS | LAYERS | KINDS | RELIABILITY
