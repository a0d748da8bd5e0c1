"""How one example is scored: labels, numbers and texts. Used by the run and by viz alike."""

from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

from core.debug_log import Example
from core.schema import TEXT_SCORES
from measures import texts
from measures.quantities import Number, find_quantity


def label_score(label_logprobs: dict[str, float], expected: str) -> float:
    """1.0 where the label with the highest log-probability is the expected one, else 0.0."""
    return float(bool(label_logprobs) and best_label(label_logprobs) == expected)


def best_label(label_logprobs: dict[str, float]) -> str:
    """The label with the highest log-probability; of equal ones the first."""
    return max(label_logprobs, key=label_logprobs.__getitem__)


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=texts.RougeWords())


def text_scores(prediction: str, references: Sequence[str]) -> dict[str, float]:
    """TEXT_SCORES of a text, each with its best reference.

    ROUGE-1, -2 and -L (`rouge`) are F1 without stemming (Lin 2004); exact match and token F1 are
    those of SQuAD (Rajpurkar et al. 2016), by characters in scripts without spaces. The strict
    exact match normalises nothing but Unicode's form and the space around a text.
    """
    found = [_text_scores(prediction, reference) for reference in references]
    return {name: max(scores[name] for scores in found) for name in TEXT_SCORES}


def best_rouge(text: str, references: Sequence[str]) -> float:
    """ROUGE-L F1 of a text with the best of these references."""
    return max(_scorer().score(each, text)["rougeL"].fmeasure for each in references)


def _text_scores(prediction: str, reference: str) -> dict[str, float]:
    rouge = _scorer().score(reference, prediction)
    same = texts.bare(prediction) == texts.bare(reference) != ""
    words, expected = map(texts.normalised_words, (prediction, reference))
    if not words and not expected:  # of an article or punctuation nothing is left to compare
        words, expected = ([texts.bare(text).lower()] for text in (prediction, reference))
    return {
        "rouge1": rouge["rouge1"].fmeasure,
        "rouge2": rouge["rouge2"].fmeasure,
        "rouge": rouge["rougeL"].fmeasure,
        "exact_match": float(words == expected),
        "f1": token_f1(texts.pieces(words), texts.pieces(expected)),
        "exact_match_strict": float(same),
    }


def token_f1(words: Sequence[str], expected: Sequence[str]) -> float:
    """F1 of the words as bags; 0 where one of them is empty."""
    if not words or not expected:
        return 0.0
    shared = (Counter(words) & Counter(expected)).total()
    return 2 * shared / (len(words) + len(expected))


def find_number(text: str) -> Number | None:
    """The number that a text ends in, or the one behind `####`; None without one that is plain."""
    found = find_quantity(text)
    return found.value if found else None


def judge_labels(
    label_logprobs: dict[str, float],
    expected: str,
    how: str = "likelihood",
    text: str = "",
    *,
    labels: Sequence[str] = (),
    label_bounds: dict[str, float] | None = None,
) -> Example:
    """What of an example follows from its label log-probabilities and, where it was read, its text.

    `how` likelihood scores the likeliest label, generate the label in the text; both scores the
    likeliest label and keeps the other beside it. A text without exactly one label is wrong, and a
    format failure besides. So is an example of a server that lists none of the labels: those it
    does not list are in `label_bounds`, which is None where all are known. `labels` are those that
    a text may hold, by default the scored ones.
    """
    best = best_label(label_logprobs) if label_logprobs else ""
    likeliest: Example = {"model_prediction": best, "score": float(best == expected)}
    if how == "likelihood" and label_bounds is not None:
        likeliest["format_failure"] = not label_logprobs
    if how == "likelihood":
        return likeliest
    label = find_label(text, labels or tuple(label_logprobs))
    score = float(label == expected)
    written = {"generated_text": text, "generated_label": label, "generated_score": score}
    written["format_failure"] = label is None
    if how == "both":
        return likeliest | written
    return {"model_prediction": text if label is None else label, "score": score} | written


def find_label(text: str, labels: Sequence[str]) -> str | None:
    """The label that a text holds as a word of its own; None where it holds none or several."""
    found = labels_in(text, labels)
    return found.pop() if len(found) == 1 else None


def labels_in(text: str, labels: Sequence[str]) -> set[str]:
    """The labels that a text holds as words of their own.

    In a Chinese, Japanese or Thai text, which has no spaces, a label may stand anywhere.
    Labels of one letter must be in their own case, since `a` is also a word, and so must labels
    that differ in case alone; others in any. Where one label is a part of another, as in `likely`
    and `not likely`, the longer one is read first.
    """
    found, lower = set(), [texts.bare(label).lower() for label in labels]
    text = texts.bare(text)
    for label in sorted(labels, key=len, reverse=True):
        any_case = len(label) > 1 and lower.count(texts.bare(label).lower()) == 1
        text, count = texts.label_pattern(label, any_case).subn("\0", text)
        found |= {label} if count else set()
    return found


def judge_text(
    text: str, references: Sequence[str], metric_name: str, scores: dict[str, float]
) -> Example:
    """What of an example follows from a generated text and its `text_scores`.

    Under `accuracy` it is right where its number is that of a reference. A text without a number
    that can be read is wrong, and a format failure besides; so is one in other known units.
    """
    if metric_name != "accuracy":
        return {"score": scores[metric_name], "scores": scores}
    found, known = find_quantity(text), filter(None, map(find_quantity, references))
    comparable = [each for each in known if found is not None and found.comparable(each)]
    return {
        "score": float(any(found.value == each.value for each in comparable)),
        "scores": scores,
        "extracted": None if found is None else str(found),
        "format_failure": not comparable,
    }
