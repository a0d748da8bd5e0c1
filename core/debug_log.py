"""What a debug log holds: the conversations of a run, and an example for each of its prompts.

A conversation is the longest of one target and history, as messages. The prompt with a history of h
turns is those of its first h turns and its last one, the target's; an example names its
conversation by its place in the log and its own part of it by `history_len`.
"""

from collections.abc import Sequence
from typing import Any, Literal, NotRequired, TypedDict


class Message(TypedDict):
    """One message of a conversation, as chat templates take it."""

    role: Literal["user", "assistant"]
    content: str


Conversation = list[Message]


class ExampleConfig(TypedDict):
    """What a prompt is made of; lists hold an entry per turn of its history."""

    history_len: int
    target_idx: int
    cluster: NotRequired[str]  # of a task that names a column for it
    chat_line: NotRequired[int]  # or entry, of the file that the history's chat comes from
    target_dataset: str
    target_split: str
    distractor_dataset: str
    distractor_split: str
    history_idx: list[int]
    history_role: list[str]  # distractor or target
    history_kind: str  # of tasks/kinds.py
    history_number: int
    seed: int


class Logprob(TypedDict):
    """Log-likelihood of a text (nats): the sum over its tokens, and their number."""

    sum: float
    tokens: int


Row = list[float | None]  # a number per block, None where it is not finite


class Example(TypedDict, total=False):
    """One prompt and what the model made of it; what does not apply is not there."""

    prompt_text: str
    model_prediction: str
    expected_answer: str
    config: ExampleConfig
    score: float
    top5: list[str]
    escaped_special_tokens: int
    label_logprobs: dict[str, float]  # nats; of a server those that it lists
    label_bounds: dict[str, float]  # nats: of a server, what the others are below
    references: list[str]
    scores: dict[str, float]
    extracted: str | None
    format_failure: bool
    generated_text: str
    generated_label: str | None
    generated_score: float
    cosines: Row
    cosines_centred: Row
    drift: Row
    margin: Row
    decision_layer: int | None
    agree: list[int]
    reply_logprobs: dict[str, Logprob]
    distractor_logprobs: dict[str, float]  # of its labels, for a label task
    intrusion_by_block: Row  # lens log-odds of the distractor's likeliest label
    intruded: bool | None  # is this an answer to the previous task? None where that is not told
    rewritten_messages: int  # that do not stand in the prompt as they were said
    cued: "Example"  # the same prompt with the cue, as far as it differs
    spans: dict[str, Any]  # token ranges of system, turns and target, see `lm.spans`
    effects: dict[str, Any]  # with the history hidden, or states patched: docs/effects.md
    conversation: int
    labels_shown: dict[str, int]  # label of the distractor -> answers of the history that are it


def messages_at(conversation: Sequence[Message], h: int, cue: str | None = None) -> Conversation:
    """The messages of the prompt with h turns of history; a cue stands before the target's text.

    A turn begins with its user message, and may have no answer.
    """
    *history, target = conversation
    if cue is not None:
        target = {"role": "user", "content": f"{cue}\n{target['content']}"}
    begins = [place for place, each in enumerate(history) if each["role"] == "user"]
    end = begins[h] if h < len(begins) else len(history)
    return [*history[:end], target]


def count_labels(messages: Sequence[Message], labels: Sequence[str]) -> dict[str, int]:
    """How often each label is shown as an answer."""
    shown = [each["content"] for each in messages if each["role"] == "assistant"]
    return {label: shown.count(label) for label in labels}


def cut_at_messages(prompt_text: str, messages: Sequence[Message]) -> tuple[list[str], int]:
    """A prompt cut where messages begin and end -> pieces that make it up, and how many messages
    do not stand in it.

    Messages are looked for in their order and without the space around them, which many chat
    templates take away. One that a template changes further is not found.
    """
    pieces, start, missing = [], 0, 0
    for message in messages:
        content = message["content"]
        text = content.strip()
        place = prompt_text.find(text, start)
        if place < 0:
            missing += 1
            continue
        whole = place - content.find(text)  # with the space around it, where that is there too
        if whole >= start and prompt_text.startswith(content, whole):
            place, text = whole, content
        pieces += [prompt_text[start:place], text]
        start = place + len(text)
    return [piece for piece in (*pieces, prompt_text[start:]) if piece], missing
