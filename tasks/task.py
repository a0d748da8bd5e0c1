"""What a task is: where its rows come from, how one becomes a turn, how an answer is scored."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from core.schema import MAX_NEW_TOKENS
from tasks.cells import OPTIONS, Field, parse_field, template_parts

EMBEDDED_ROWS = Path(__file__).parent
EMBEDDED = ("quiz", "reviews", "posts")  # built-in tasks whose rows ship here


@dataclass(frozen=True)
class Task:
    """Where a task's rows come from, how a row becomes a turn, and how an answer is scored."""

    name: str
    source: str  # a Hub data set id, or the path of a local file, relative to `folder`
    prompt: str  # template over the row's columns
    reference: str  # column of the reference: a label or its index, or a text or list of texts
    split: str = "test"  # the default one, which has references
    config: str | None = None  # the Hub's configuration name
    revision: str | None = None  # the Hub's branch, tag or commit
    subject: str | None = None  # the column that `name.subject` selects on
    labels: tuple[str, ...] = ()  # () for a generation task
    index_from: int | None = None  # numbers in the reference column are an index from this one
    options: str | None = None  # the list that {options} shows; a column of that name, if None
    cluster: str | None = None  # column whose equal values make rows one cluster
    metric: str = "rouge"
    extract: str | None = None  # "number": what is scored of a text is the number it ends in
    max_new_tokens: int = MAX_NEW_TOKENS  # of a generated answer
    citation: str = ""
    prompts: tuple[str, ...] = ()  # the same in other words, with the same columns
    folder: Path | None = field(default=None, compare=False)  # of a local file; None: on the Hub
    places: Mapping[str, str] = field(default_factory=dict, compare=False)  # key -> file and line

    @property
    def embedded(self) -> bool:
        """True for the tasks whose rows ship with the project."""
        return self.folder == EMBEDDED_ROWS

    @cached_property
    def parts(self) -> tuple[tuple[str, Field | None], ...]:
        """The prompt as texts, each with the field behind it."""
        return template_parts(self.prompt)

    @cached_property
    def columns(self) -> dict[str, str]:
        """Column -> the key that names it, for every column that must be there in all splits."""
        fields = [(field, "prompt") for _, field in self.parts if field]
        if self.options and (Field(OPTIONS), "prompt") in fields:
            fields = [pair for pair in fields if pair[0] != Field(OPTIONS)]
            fields.append((self.options_field, "options"))
        named = (("subject", self.subject), ("cluster", self.cluster))
        fields += [(parse_field(name, dots=True), key) for key, name in named if name]
        return {field.column: key for field, key in reversed(fields)}

    @cached_property
    def options_field(self) -> Field:
        """The list that {options} shows."""
        return parse_field(self.options or OPTIONS, dots=True)

    def place(self, key: str) -> str:
        """File and line of a key, to begin a message with."""
        return f"{self.places[key]}: task '{self.name}': " if key in self.places else ""

    def describe(self) -> dict[str, Any]:
        """Everything that defines the task, for a result file; of its wordings the one it has."""
        left_out = ("prompts", "folder", "places")
        return {k: v for k, v in asdict(self).items() if k not in left_out}

    @property
    def wordings(self) -> tuple[str, ...]:
        """Every wording of the prompt, `prompt` itself first."""
        return (self.prompt, *self.prompts)

    def worded(self, number: int) -> "Task":
        """The task with one of its wordings, from 1, as its prompt."""
        return self if number == 1 else replace(self, prompt=self.wordings[number - 1], prompts=())


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
