"""How tasks are written down: by name on the command line, and in full in YAML files.

A task file maps names to tasks. The built-in tasks are one, builtin.yaml beside this file, read by
the same code as a user's --task_file. Nothing in a task file can run code: values are plain texts
and numbers, and a prompt template reaches the columns of its row and nothing else.
"""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any
from unicodedata import normalize

import yaml

from core.errors import UNPRINTABLE, UserError, did_you_mean, is_text
from core.schema import TEXT_SCORES
from tasks.cells import parse_field, template_parts
from tasks.task import EMBEDDED_ROWS, Task, TaskSpec

FORMATS = (".csv", ".tsv", ".json", ".jsonl", ".parquet")  # of local files
NAME = re.compile(r"[A-Za-z0-9_-]+")  # becomes part of file names
HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def parse_spec(text: str, tasks: Mapping[str, Task] | None = None) -> TaskSpec:
    """`name[.subject][/split]` -> TaskSpec; subject and split are checked when rows are loaded."""
    known = builtin_tasks() if tasks is None else tasks
    dataset, _, split = text.partition("/")
    name, _, subject = dataset.partition(".")
    if name not in known:
        where = f" in '{text}'" if name != text else ""
        raise UserError(
            f"unknown task '{name}'{where}.{did_you_mean(name, known)} Known tasks: "
            f"{', '.join(known)}."
        )
    task = known[name]
    if subject and not task.subject:
        raise UserError(
            f"task '{name}' has no subjects, so '{text}' names nothing. "
            f"Write '{name}/{task.split}'."
        )
    if "/" in split:
        raise UserError(f"'{text}' is not a task. Write name, name/split or name.subject/split.")
    return TaskSpec(task, subject or None, split or task.split)


# -- task files


def read_tasks(path: Path, taken: Mapping[str, Task] | None = None) -> dict[str, Task]:
    """Tasks of a YAML file by name; UserError with file, line and key for whatever is wrong.

    `taken` are the tasks whose names a file may not use again.
    """
    root = _compose(path)
    if not isinstance(root, yaml.MappingNode):
        what = "is empty" if root is None else "does not map names to tasks"
        raise UserError(
            f"{path}, line 1: the task file {what}. It needs NAME: with the task's keys below."
        )
    tasks: dict[str, Task] = {}
    for name, body in root.value:
        where, text = _place(path, name), str(name.value)
        if not isinstance(name, yaml.ScalarNode) or not NAME.fullmatch(text):
            raise UserError(
                f"{where}: {text[:40]!r} is not a task name: use letters, digits, _ and - only."
            )
        if text in tasks or text in (taken or {}):
            raise UserError(f"{where}: a task '{text}' exists already. Choose another name.")
        tasks[text] = _Entry(path, name, body).task()
    return tasks


def _compose(path: Path) -> yaml.Node | None:
    """The YAML file as nodes, without constructing any object from it."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read --task_file {path}: it is not UTF-8 text.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read --task_file {path}: {reason}.") from error
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise UserError(f"{path}, line {mark.line + 1}: not YAML: {error.problem}.") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(f"{path}, line {line}: not YAML: {error.reason}.") from error
    except RecursionError as error:
        raise UserError(f"{path}: not a task file: nested too deep.") from error


def _place(path: Path, node: yaml.Node) -> str:
    return f"{path}, line {node.start_mark.line + 1}"


class _Entry:
    """One task of a task file, key by key."""

    def __init__(self, path: Path, name: yaml.ScalarNode, body: yaml.Node):
        self.path, self.name = path, name.value
        self.places = {"": _place(path, name)}  # "": the task itself
        if not isinstance(body, yaml.MappingNode):
            raise self.fault("", f"needs keys below it, at least {', '.join(REQUIRED)}")
        self.nodes: dict[str, yaml.Node] = {}
        for key, value in body.value:
            text = str(key.value)
            self.places.setdefault(text, _place(path, key))
            if text in self.nodes:
                self.places[text] = _place(path, key)
                raise self.fault(text, "is given twice")
            if text not in READ:
                near = get_close_matches(text, READ, n=1)
                known = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(READ)}"
                raise self.fault(text, f"is unknown; {known}")
            self.nodes[text] = value

    def fault(self, key: str, reason: str) -> UserError:
        """The error about a key, with its line."""
        about = f"key '{key}' " if key else ""
        return UserError(f"{self.places[key]}: task '{self.name}': {about}{reason}.")

    def task(self) -> Task:
        """The task, once every key is found right."""
        for key in REQUIRED:
            if key not in self.nodes:
                raise self.fault("", f"lacks the key '{key}'")
        values = {key: READ[key](self, key) for key in self.nodes}
        local = values["source"].endswith(FORMATS)
        self.check_wordings(values)
        self.check_source(values, local)
        self.check_scoring(values)
        folder = self.path.parent if local else None
        return Task(name=self.name, folder=folder, places=self.places, **values)

    def check_source(self, values: dict[str, Any], local: bool) -> None:
        """A file that is there, or a Hub id with its default split."""
        source = values["source"]
        there = self.path.parent / source
        if local:
            if not there.is_file():
                raise self.fault("source", f"names a file that does not exist: {there}")
            for key in ("config", "revision"):
                if key in values:
                    raise self.fault(key, "is for data sets of the Hub only")
        elif there.is_file() or not HUB_ID.fullmatch(source):
            forms = ", ".join(FORMATS)
            raise self.fault("source", f"is neither a Hub id (org/name) nor a file of {forms}")
        elif "split" not in values:
            raise self.fault("", "lacks the key 'split', which a data set of the Hub needs")

    def check_wordings(self, values: dict[str, Any]) -> None:
        """Wordings that differ, and show the same columns."""
        every = [values["prompt"], *values.get("prompts", ())]
        if len(set(every)) < len(every):
            raise self.fault("prompts", "holds a wording twice, or that of 'prompt'")
        shown, *others = [{str(field) for _, field in template_parts(t) if field} for t in every]
        for number, other in enumerate(others, 1):
            if other != shown:
                names = [", ".join(sorted(each)) for each in (other, shown)]
                raise self.fault(
                    "prompts", f"no. {number} shows {names[0]}, and 'prompt' shows {names[1]}"
                )

    def check_scoring(self, values: dict[str, Any]) -> None:
        """Labels, extraction and metric fit together; sets the metric where none is named."""
        if "labels" in values:
            for key in ("extract", "max_new_tokens"):
                if key in values:
                    raise self.fault(key, "is for generation tasks, which have no labels")
        elif "index_from" in values:
            raise self.fault("index_from", "is for label tasks, and there are no labels")
        judged = next((key for key in ("labels", "extract") if key in values), None)
        fitting = ("accuracy",) if judged else TEXT_SCORES
        metric = values.setdefault("metric", "accuracy" if judged else "rouge")
        if metric not in fitting:
            kind = f"with '{judged}'" if judged else "without labels and 'extract'"
            names = " or ".join(fitting)
            raise self.fault("metric", f"of a task {kind} can be {names}, not '{metric}'")

    # -- values by kind

    def text(self, key: str) -> str:
        """A text that is not empty."""
        return self.scalar_text(key, self.nodes[key])

    def scalar_text(self, key: str, node: yaml.Node) -> str:
        """The text of a node; numbers and yes/no are texts only in quotes."""
        if not isinstance(node, yaml.ScalarNode) or not node.tag.endswith(":str"):
            shown = f", not {node.value!r}; put it in quotes" if self._is_plain(node) else ""
            raise self.fault(key, f"must be a text{shown}")
        if not node.value.strip():
            raise self.fault(key, "is empty")
        if not is_text(node.value):
            raise self.fault(key, "contains a lone surrogate, which is not valid text")
        return node.value

    @staticmethod
    def _is_plain(node: yaml.Node) -> bool:
        return isinstance(node, yaml.ScalarNode) and bool(node.value)

    def count(self, key: str, least: int = 1) -> int:
        """A whole number of at least 1."""
        node = self.nodes[key]
        is_number = isinstance(node, yaml.ScalarNode) and re.fullmatch(
            "0|[1-9][0-9]{0,8}", node.value
        )
        if not is_number or int(node.value) < least:
            raise self.fault(key, f"must be a whole number of {least} or more")
        return int(node.value)

    def index(self, key: str) -> int:
        """A whole number of at least 0."""
        return self.count(key, least=0)

    def split_name(self, key: str) -> str:
        """The name of a split, which becomes part of file names."""
        text = self.text(key)
        if "/" in text or UNPRINTABLE.search(text):
            raise self.fault(key, "must be a name, without / and control characters")
        return text

    def template(self, key: str) -> str:
        """A prompt template that names a column."""
        return self.template_of(key, self.nodes[key])

    def templates(self, key: str) -> tuple[str, ...]:
        """One or more templates."""
        node = self.nodes[key]
        if not isinstance(node, yaml.SequenceNode) or not node.value:
            raise self.fault(key, "must be a list of prompts, each behind a dash")
        return tuple(self.template_of(key, item) for item in node.value)

    def template_of(self, key: str, node: yaml.Node) -> str:
        """The template of a node."""
        text = self.scalar_text(key, node)
        try:
            parts = template_parts(text)
        except ValueError as error:
            raise self.fault(key, f"is not a template: {error}") from error
        if not any(field for _, field in parts):
            raise self.fault(key, "names no column, such as {question}")
        return text

    def field(self, key: str) -> str:
        """A column, or a place in one: `answers.text`, `answers[0]`."""
        text = self.text(key)
        try:
            parse_field(text, dots=True)
        except ValueError as error:
            raise self.fault(key, str(error)) from error
        return text

    def texts(self, key: str) -> tuple[str, ...]:
        """Two or more different texts, without spaces around them."""
        node = self.nodes[key]
        if not isinstance(node, yaml.SequenceNode):
            raise self.fault(key, "must be a list, such as [negative, positive]")
        found = tuple(self.scalar_text(key, item) for item in node.value)
        if len(found) < 2 or len({normalize("NFC", text) for text in found}) < len(found):
            raise self.fault(key, "must be two or more different texts")
        if any(text != text.strip() for text in found):
            raise self.fault(key, "must be texts without spaces around them")
        return found

    def extraction(self, key: str) -> str:
        """The one thing that can be extracted."""
        if self.text(key) != "number":
            raise self.fault(key, f"can be 'number' only, not '{self.text(key)}'")
        return "number"


READ = {
    "source": _Entry.text,
    "config": _Entry.text,
    "revision": _Entry.text,
    "split": _Entry.split_name,
    "subject": _Entry.field,
    "prompt": _Entry.template,
    "prompts": _Entry.templates,
    "options": _Entry.field,
    "reference": _Entry.text,
    "labels": _Entry.texts,
    "index_from": _Entry.index,
    "cluster": _Entry.field,
    "extract": _Entry.extraction,
    "metric": _Entry.text,
    "max_new_tokens": _Entry.count,
    "citation": _Entry.text,
}
REQUIRED = ("source", "prompt", "reference")


@cache
def builtin_tasks() -> Mapping[str, Task]:
    """The tasks of builtin.yaml by name."""
    return read_tasks(EMBEDDED_ROWS / "builtin.yaml")
