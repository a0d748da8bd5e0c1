"""`python data.py FILE`: a task file for FILE, guessed from its columns, and its first prompt."""

import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from core.errors import UNPRINTABLE, UserError
from core.flags import Parser
from core.terminal import escape_unprintable
from tasks.guess import MARK, Column, Guess, guess
from tasks.sources import Table, list_splits, read_table
from tasks.spec import FORMATS, HUB_ID, NAME, builtin_tasks, read_tasks
from tasks.task import Task, TaskSpec

GAP = "FILL_IN"
PLAIN = re.compile(r"[^\W\d][\w ./-]*(?<! )")  # YAML needs no quotes
SPLITS = ("test", "validation", "train")  # in the order in which they are tried
WHOLE_SETS = ["default", "all", "main"]  # configurations that hold everything
MOST_NAMES = 8  # of columns that are left out
EXAMPLE = 60  # characters of an example of a column
UNWRITABLE = yaml.reader.Reader.NON_PRINTABLE  # also in comments

Lines = list[str]
LoadRows = Callable[[TaskSpec, str | None], Any]  # data.load_rows


def main(load_rows: LoadRows, argv: Sequence[str] | None = None) -> None:
    """Print a draft of a task file, and end with status 0, or 2 where there is none to be had."""
    parser = Parser(
        prog="python data.py", description="Print a task file for your data, to be read and mended."
    )
    parser.add_argument("file", metavar="FILE", help=f"{' '.join(FORMATS)}, or a Hub id: org/name")
    parser.add_argument("--config", help="configuration of a Hub data set (the first)")
    parser.add_argument("--split", help="split of a Hub data set (the first with answers)")
    parser.add_argument("--data_root", metavar="DIR", help="read the Hub's data from DIR/org/name")
    flags = parser.parse_args(argv)
    escape_unprintable()
    try:
        text = draft(flags.file, flags.config, flags.split, flags.data_root)
        print(text)
        if f"{{{GAP}}}" in text or f": {GAP}" in text:
            print("# Fill in the gaps: what is asked, and where the right answer stands.")
        else:
            print(*first_prompt(text, flags.file, load_rows, flags.data_root), sep="\n")
    except UserError as error:
        print("error:", " ".join(str(error).splitlines()), file=sys.stderr)
        sys.exit(2)
    sys.exit(0)


def draft(source: str, config: str | None, split: str | None, data_root: str | None) -> str:
    """A task file for a file or a data set of the Hub, as text."""
    if source.endswith(FORMATS):
        if not Path(source).is_file():
            raise UserError(f"there is no file {source}.")
        place = [f"  source: {scalar(source)}"]
        found = guess(_rows_of(source, Path.cwd()))
    elif HUB_ID.fullmatch(source) and not Path(source).exists():
        place, found = _from_hub(source, config, split, data_root)
    else:
        raise UserError(f"{source} is neither a file of {', '.join(FORMATS)} nor a Hub id.")
    return compose(source, place, found)


def compose(source: str, place: Lines, found: Guess) -> str:
    """A task file as text; `place` are the lines that say where its rows are."""
    name = _name(source)
    return "\n".join(
        [
            f"# {source}: {found.count} rows. Every guess is marked: read it, and",
            "# save this file in this folder (python data.py ... > own.yaml). With your --model,",
            "# try the task after itself and after another one; to run it, leave out --dry_run:",
            f"#   python experiment.py --task_file own.yaml --target {name} \\",
            f"#       --distractor {name} reviews --out_dir runs/{name} --dry_run",
            *_left_out(found),
            *_columns(found),
            f"{scalar(_name(source))}:",
            *place,
            *_keys(found),
        ]
    )


def _rows_of(source: str, folder: Path | None, **of_hub: Any) -> Table:
    data_root = of_hub.pop("data_root", None)
    task = Task(source, source, "", "", folder=folder, **of_hub)
    table = read_table(TaskSpec(task, None, task.split), data_root)
    if not any(table.rows):
        raise UserError(f"{source} has no rows.")
    return table


def _from_hub(
    source: str, config: str | None, split: str | None, data_root: str | None
) -> tuple[Lines, Guess]:
    """Where the rows of a data set of the Hub are, and what its columns seem to be."""
    configs, splits = list_splits(source, config, data_root)
    known = [name for name in WHOLE_SETS if name in configs] or configs or WHOLE_SETS
    chosen = config or known[0]
    in_order = sorted(splits, key=lambda name: SPLITS.index(name) if name in SPLITS else 9)
    where = {"data_root": data_root, "config": chosen if len(configs) > 1 else config}
    for name in [split] if split else in_order:
        found = guess(_rows_of(source, None, split=name, **where))
        if found.reference is not None:
            break
    else:
        name = split or in_order[0]
    others = f"  # guess: of {', '.join(configs)}"[:100] if not config else ""
    lines = [f"  source: {scalar(source)}"]
    if where["config"]:
        lines.append(f"  config: {scalar(where['config'])}{others}")
    return [*lines, f"  split: {scalar(name)}  # guess: of {', '.join(splits)}"[:100]], found


def _name(source: str) -> str:
    """The name of the task: that of the file or data set, where no built-in task has it."""
    path = Path(source)
    stem = path.stem if source.endswith(FORMATS) else path.name
    name = "_".join(NAME.findall(stem)) or "own"
    return f"{name}_own" if name in builtin_tasks() else name


# -- the text


def scalar(text: str) -> str:
    """A text as YAML, in quotes where it could be taken for something else."""
    if PLAIN.fullmatch(text) and yaml.safe_load(text) == text:
        return text
    return yaml.safe_dump(text, default_style='"', allow_unicode=True, width=10**6).strip()


def _left_out(found: Guess) -> Lines:
    """The columns that cannot be named in a task file, and why."""
    if not found.left_out:
        return []
    names = [repr(name)[:EXAMPLE] for name in found.left_out[:MOST_NAMES]]
    more = len(found.left_out) - len(names)
    listed = ", ".join([*names, *([f"{more} more"] if more else [])])
    return [
        f"# Left out: {_in_comment(listed)}. To use them, rename these columns:",
        "# in a task file a name is not empty, no number, and without . [ ] { } ! and :",
    ]


def _columns(found: Guess) -> Lines:
    """The columns with an example each, where something is left to be filled in."""
    if found.reference is not None and found.asked:
        return []
    examples = [f"#   {column}: {_example(column)}" for column in found.columns]
    return ["# The columns, and what stands in them:", *map(_in_comment, examples)]


def _example(column: Column) -> str:
    return repr(column.known[0])[:EXAMPLE] if column.known else "nothing"


def _keys(found: Guess) -> Lines:
    """The keys of a task behind its source."""
    prompt = [f"    {line}" for line in _prompt(found)]
    named = ", ".join(map(str, found.asked)) or "nothing"
    lines = [f"  prompt: |-  # guess: it shows {named}; say it in your own words", *prompt]
    if found.reference is None:
        return [*lines, f"  reference: {GAP}  # the column with the right answer"]
    if found.has_lists:
        lines.append(f"  options: {scalar(str(found.options[0]))}  # guess: the lists of options")
    lines.append(f"  reference: {scalar(str(found.reference))}  # guess: {_why(found)}")
    if found.subject is not None:
        lines.append(f"  subject: {scalar(str(found.subject))}  # guess: TASK.SUBJECT selects rows")
    return lines + (_of_labels(found) if found.labels else _of_texts(found))


def _why(found: Guess) -> str:
    missing = sum(text is None or text in ("", "-1") for text in found.reference.texts)
    if not missing or found.reference.is_texts:
        return found.why
    return f"{found.why}; {missing} of {found.count} rows have none: take them out"


def _of_labels(found: Guess) -> Lines:
    names = ", ".join(map(scalar, found.labels))
    why = "a letter for each option" if found.options else "the classes, as the file names them"
    if not found.options and not found.reference.names:
        why = "the different values of that column"
        if found.reference.is_whole:
            why = "the numbers themselves; name them, in this order, if they stand for words"
    lines = [f"  labels: [{names}]  # guess: {why}"]
    if found.index_from is not None:
        lines.append(f"  index_from: {found.index_from}  # guess: {_why_from(found)}")
    return lines


def _why_from(found: Guess) -> str:
    if found.index_from == 0 and "0" not in found.reference.texts:
        return "no row shows whether the first option is 0 or 1; look it up"
    return "numbers count the options so"


def _of_texts(found: Guess) -> Lines:
    if found.options:
        return ["  metric: exact_match  # guess: the answer is the text of an option"]
    if found.extracts_number:
        lines = ["  extract: number  # guess: the answers are numbers"]
    else:
        lines = ["  metric: rouge  # guess: the answers are texts; exact_match, f1 are others"]
    room = found.answer_tokens
    return [*lines, f"  max_new_tokens: {room}  # guess: room for nearly all answers"]


def _prompt(found: Guess) -> Lines:
    """The prompt's lines; columns in braces."""
    lines = [f"{_title(column)}: {{{column.field}}}" for column in found.asked]
    if not lines:
        lines = [f"{{{GAP}}}"]
    if found.has_lists:
        lines.append("{options}")
    elif found.options:
        lines += [f"{letter}. {{{c.field}}}" for letter, c in zip("ABCDEFGHI", found.options)]
    return [*_instruction(found), *lines, f"{_ending(found)}:"]


def _instruction(found: Guess) -> Lines:
    if found.options and found.labels:
        return ["Answer with the letter of the right choice."]
    if found.options:
        return ["Answer with one of the choices."]
    if found.labels:
        return [f"Choose one: {', '.join(found.labels)}.".replace("{", "{{").replace("}", "}}")]
    if found.extracts_number and any(MARK in (text or "") for text in found.reference.texts):
        return [f"End with {MARK} and the number."]
    return []


def _ending(found: Guess) -> str:
    """The last word of the prompt, before the answer."""
    held = found.reference
    if held is None or found.options or held.field.keys or held.name.startswith("answer"):
        return "Answer"
    return _title(found.reference)


def _title(column: Column) -> str:
    return column.field.column.replace("_", " ").strip().capitalize()


def _in_comment(text: str) -> str:
    return UNPRINTABLE.sub("?", UNWRITABLE.sub("?", " ".join(text.splitlines())))


def first_prompt(
    text: str, source: str, load_rows: LoadRows, data_root: str | None = None
) -> Lines:
    """The first prompt of a task file as comments, with the answer; UserError where the file or
    its rows cannot be read.
    """
    if source.endswith(FORMATS):  # beside the file as it is read here
        text = text.replace(
            f"source: {scalar(source)}", f"source: {scalar(str(Path(source).absolute()))}"
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "own.yaml")
        path.write_text(text, encoding="utf-8")
        try:
            [task] = read_tasks(path).values()
            turn = load_rows(TaskSpec(task, None, task.split), data_root).turns[0]
        except UserError as error:
            said = str(error).replace(f"{path}, ", "")
            raise UserError(f"it cannot be run as it is; {said}") from error
    prompt = [f"#   {_in_comment(line)}" for line in turn.prompt.splitlines()]
    answers = " | ".join(turn.references) or "none"
    return ["# The first prompt:", *prompt, _in_comment(f"# Its right answer: {answers}")]
