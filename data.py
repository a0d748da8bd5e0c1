"""Tasks, their rows as turns, and the histories drawn from them. Never imports torch.

A task is data: where its rows live, and how one row becomes a turn (one user prompt, one reference
answer). The same template renders a row wherever it stands, in the history or as the target, so
that the two can never differ in form.
"""

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from errors import UserError

# What ships with the project and needs no Hub: a small model, and the tasks in samples/
BUNDLED = "bundled/SmolLM2-135M-Instruct"
SAMPLES = Path(__file__).parent / "samples"
LETTERS = ("A", "B", "C", "D")

# {"role": "user" | "assistant", "content": text}, as chat templates take it
Message = dict[str, str]


@dataclass(frozen=True)
class Task:
    """Where a task's rows come from and how a row becomes a turn."""

    name: str
    source: str  # a Hub dataset id, or the name of a .jsonl file in samples/
    config: str | None  # the Hub's configuration name
    default_split: str  # always one that has references
    prompt: str  # str.format template over the row's columns
    reference: str  # column of the reference: an index into `labels`, or a text or list of texts
    labels: tuple[str, ...]  # () for a generation task
    citation: str
    subject: str | None = None  # the column that `name.subject` selects on

    @property
    def metric_name(self) -> str:
        """`accuracy` for label tasks, `rouge` for generation tasks."""
        return "accuracy" if self.labels else "rouge"

    @property
    def embedded(self) -> bool:
        """True for the tasks that ship in samples/."""
        return self.source.endswith(".jsonl")


@dataclass(frozen=True)
class Turn:
    """One user prompt and its references: a history shows the first; () where none is known."""

    prompt: str
    references: tuple[str, ...]


@dataclass(frozen=True)
class TaskSpec:
    """A task as the command line names it: `name`, `name/split` or `name.subject/split`."""

    task: Task
    subject: str | None
    split: str

    @property
    def dataset(self) -> str:
        """Task name with its subject, without the split: `mmlu.abstract_algebra`."""
        return self.task.name + (f".{self.subject}" if self.subject else "")

    def __str__(self) -> str:
        return f"{self.dataset}/{self.split}"


@dataclass(frozen=True)
class TaskRows:
    """The rows of one task and split, rendered as turns."""

    spec: TaskSpec
    turns: tuple[Turn, ...]

    @cached_property
    def distinct(self) -> int:
        """Number of different prompts among the rows."""
        return len({turn.prompt for turn in self.turns})

    @cached_property
    def fingerprint(self) -> str:
        """Changes with any prompt or reference: other data, or another template, is another run."""
        text = json.dumps([(turn.prompt, turn.references) for turn in self.turns])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


CHOICE_PROMPT = (
    "Answer the question with the letter of the right choice.\n"
    "Question: {question}\n"
    "A. {choices[0]}\nB. {choices[1]}\nC. {choices[2]}\nD. {choices[3]}\nAnswer:"
)
REVIEW_PROMPT = "Movie review sentiment, negative or positive.\nReview: {text}\nSentiment:"
POST_PROMPT = (
    "Answer the question about the post in a few words.\n"
    "Post: {Tweet}\nQuestion: {Question}\nAnswer:"
)

MMLU = (
    "Hendrycks et al., Measuring Massive Multitask Language Understanding, ICLR 2021, "
    "arXiv 2009.03300"
)
ROTTEN_TOMATOES = "Pang and Lee, Seeing Stars, ACL 2005, arXiv cs/0506075"
TWEETQA = "Xiong et al., TWEETQA, ACL 2019, arXiv 1907.06292"
EMBEDDED = "Written for this project, CC0"


def _choices(name: str, source: str, config: str | None, split: str, citation: str) -> Task:
    return Task(
        name, source, config, split, CHOICE_PROMPT, "answer", LETTERS, citation, subject="subject"
    )


def _reviews(name: str, source: str, split: str, citation: str) -> Task:
    return Task(
        name, source, None, split, REVIEW_PROMPT, "label", ("negative", "positive"), citation
    )


def _posts(name: str, source: str, split: str, citation: str) -> Task:
    return Task(name, source, None, split, POST_PROMPT, "Answer", (), citation)


TASKS = {
    task.name: task
    for task in (
        _choices("mmlu", "cais/mmlu", "all", "test", MMLU),
        _reviews(
            "rotten_tomatoes", "cornell-movie-review-data/rotten_tomatoes", "test", ROTTEN_TOMATOES
        ),
        # the Hub's test split has no answers
        _posts("tweetqa", "ucsbnlp/tweet_qa", "validation", TWEETQA),
        _choices("quiz", "quiz.jsonl", None, "test", EMBEDDED),
        _reviews("reviews", "reviews.jsonl", "test", EMBEDDED),
        _posts("posts", "posts.jsonl", "test", EMBEDDED),
    )
}


def parse_spec(text: str) -> TaskSpec:
    """`name[.subject][/split]` -> TaskSpec; subject and split are checked when rows are loaded."""
    dataset, _, split = text.partition("/")
    name, _, subject = dataset.partition(".")
    if name not in TASKS:
        raise UserError(f"unknown task '{name}' in '{text}'. Known tasks: {', '.join(TASKS)}.")
    task = TASKS[name]
    if subject and not task.subject:
        raise UserError(
            f"task '{name}' has no subjects, so '{text}' names nothing. "
            f"Write '{name}/{task.default_split}'."
        )
    if "/" in split:
        raise UserError(f"'{text}' is not a task. Write name, name/split or name.subject/split.")
    return TaskSpec(task, subject or None, split or task.default_split)


def load_rows(spec: TaskSpec, data_root: str | None = None) -> TaskRows:
    """Rows of a task as turns, in the order of the source: an index means the same row everywhere.

    `data_root` is a folder in the Hub's layout (`data_root/org/name`); without it the rows come
    from the Hub or its cache. UserError for an unknown split or subject, and where the source
    cannot be reached.
    """
    table = _read_sample(spec) if spec.task.embedded else _read_dataset(spec, data_root)
    rows = list(table)
    if spec.subject:
        subjects = sorted({row[spec.task.subject] for row in rows})
        rows = [row for row in rows if row[spec.task.subject] == spec.subject]
        if not rows:
            raise UserError(
                f"'{spec.dataset}': no such subject in {spec.task.name}/{spec.split}. "
                f"Known: {', '.join(subjects)}."
            )
    return TaskRows(spec, tuple(_turn(spec.task, row) for row in rows))


def _turn(task: Task, row: dict) -> Turn:
    try:
        prompt = task.prompt.format(**row)
    except (KeyError, IndexError) as error:
        raise UserError(f"'{task.name}' rows do not have the form of {task.source}.") from error
    value = row.get(task.reference)
    if task.labels:
        references = (task.labels[value],) if value in range(len(task.labels)) else ()
    else:
        texts = [value] if isinstance(value, str) else value or []
        references = tuple(text.strip() for text in texts if text and text.strip())
    return Turn(prompt, references)


def _read_sample(spec: TaskSpec) -> list[dict]:
    if spec.split != spec.task.default_split:
        raise UserError(
            f"task '{spec.task.name}' has no split '{spec.split}'. "
            f"Known splits: {spec.task.default_split}."
        )
    with open(SAMPLES / spec.task.source, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _read_dataset(spec: TaskSpec, data_root: str | None) -> list[dict]:
    import datasets  # slow to import, and not needed for the embedded tasks
    import huggingface_hub

    source = spec.task.source
    if data_root is not None:
        folder = Path(data_root) / source
        if not folder.is_dir():
            raise UserError(
                f"--data_root {data_root} has no folder {source}, where '{spec}' should be."
            )
        source = str(folder)
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    huggingface_hub.logging.set_verbosity_error()  # its retries end in an error of our own
    # Local files are streamed: the cache of datasets takes them for unchanged when they are not.
    streaming = data_root is not None
    try:
        return list(
            datasets.load_dataset(source, spec.task.config, split=spec.split, streaming=streaming)
        )
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        if str(error).startswith(("Unknown split", "Bad split", "Split name")):
            raise UserError(
                f"task '{spec.task.name}' has no split '{spec.split}'. {error}"
            ) from error
        cause = error.__cause__ or error
        reason = f"{type(cause).__name__}: {str(cause).splitlines()[0]}"
        embedded = ", ".join(name for name, task in TASKS.items() if task.embedded)
        raise UserError(
            f"cannot load '{spec}' from {source}: {reason}\n"
            "Without the Hub: --data_root DIR reads DIR/org/name, HF_HUB_OFFLINE=1 uses what is "
            f"cached, and {embedded} are always there."
        ) from error


def require_references(rows: TaskRows) -> None:
    """UserError unless every row has a reference, to be scored by or shown as an answer."""
    missing = sum(not turn.references for turn in rows.turns)
    if missing:
        raise UserError(
            f"'{rows.spec}' has no reference answer in {missing} of {len(rows.turns)} rows. Use "
            f"a split with references, such as {rows.spec.dataset}/{rows.spec.task.default_split}."
        )


def target_order(count: int, seed: int, limit: int | None) -> list[int]:
    """Row indices of the targets: a seeded shuffle of all rows, then the first `limit`."""
    order = list(range(count))  # data sets come sorted by label
    random.Random(f"targets/{seed}").shuffle(order)
    return order[:limit]


def draw_history(
    rows: TaskRows, target: Turn, max_len: int, seed: int, number: int
) -> tuple[int, ...]:
    """Indices of the `max_len` distractor rows of a history; the h-turn history is its first h.

    The draw depends on the seed, the distractor and the number alone, so that every process and
    every target task gets the same one. Rows that ask what the target asks are passed over,
    wherever they come from. Needs `rows.distinct > max_len`.
    """
    rng = random.Random(f"history/{seed}/{rows.spec}/{number}")
    chosen: dict[int, None] = {}  # a dict keeps the order of drawing
    prompts = {target.prompt}
    while len(chosen) < max_len:
        index = rng.randrange(len(rows.turns))
        prompt = rows.turns[index].prompt
        if prompt not in prompts:
            prompts.add(prompt)
            chosen[index] = None
    return tuple(chosen)


def conversation(target: Turn, history: Sequence[Turn] = ()) -> list[Message]:
    """Chat messages: each history turn with its first reference, then the target's prompt."""
    messages = []
    for turn in history:
        messages += [
            {"role": "user", "content": turn.prompt},
            {"role": "assistant", "content": turn.references[0]},
        ]
    return [*messages, {"role": "user", "content": target.prompt}]


@dataclass(frozen=True, eq=False)
class Pair:
    """One target task and one distractor task."""

    target: TaskRows
    distractor: TaskRows

    def __str__(self) -> str:
        return f"{self.target.spec} after {self.distractor.spec}"


@dataclass(frozen=True, eq=False)
class Case:
    """One target example of a pair with its longest history; h turns are the first h of it."""

    pair: Pair
    target_idx: int
    history_number: int  # cases of the same number share their history
    history_idx: tuple[int, ...]

    @property
    def target(self) -> Turn:
        """The turn that is scored."""
        return self.pair.target.turns[self.target_idx]

    @property
    def labels(self) -> tuple[str, ...]:
        """The target task's labels; () for a generation task."""
        return self.pair.target.spec.task.labels

    def messages(self, h: int) -> list[Message]:
        """The conversation with a history of h turns."""
        return conversation(
            self.target, [self.pair.distractor.turns[i] for i in self.history_idx[:h]]
        )


def plan_cases(
    pairs: Sequence[Pair],
    max_len: int,
    seed: int,
    limit: int | None = None,
    num_histories: int | None = None,
) -> list[list[Case]]:
    """For each place in the order of targets, one case per pair that has a target there.

    A history belongs to the place, not to the target's row: all pairs of a distractor share it.
    With `num_histories` place i takes history i mod num_histories, and such places come together.
    """
    orders = {pair: target_order(len(pair.target.turns), seed, limit) for pair in pairs}
    places = range(max(map(len, orders.values())))
    numbers = {place: place % (num_histories or len(places)) for place in places}
    plan = []
    for place in sorted(places, key=numbers.__getitem__):
        cases = []
        for pair, order in orders.items():
            if place < len(order):
                drawn = (pair.distractor, pair.target.turns[order[place]], max_len, seed)
                history = draw_history(*drawn, numbers[place])
                cases.append(Case(pair, order[place], numbers[place], history))
        plan.append(cases)
    return plan
