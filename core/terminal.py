"""Terminals: what is said there while something takes long, what they cannot show, and locales
that are not UTF-8 and garble names.
"""

import os
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from core.errors import is_text

if TYPE_CHECKING:
    from tqdm import tqdm

SHAPE = (80, 24)  # columns and lines of a terminal that tells neither
PATIENCE = 2.0  # seconds after which a bar is shown
COUNTED = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}, {elapsed} passed"
Thing = TypeVar("Thing")


def say(text: str, quiet: bool = False) -> None:
    """Say on a terminal what takes a while; nothing in a pipe or a file."""
    if sys.stderr.isatty() and not quiet:
        print(text, file=sys.stderr, flush=True)


def counted(things: Iterable[Thing], what: str, total: int | None = None) -> Iterator[Thing]:
    """The same things one by one, counted on a terminal by a bar where they take long."""
    total = len(things) if total is None else total
    if not sys.stderr.isatty():
        yield from things
        return
    settings = {"desc": what, "bar_format": COUNTED, "delay": PATIENCE, "leave": False}
    with make_bar(sys.stderr, total=total, **settings) as bar:
        for thing in things:
            yield thing
            bar.update()


def make_bar(stream: TextIO, **settings: Any) -> "tqdm":
    """A bar of tqdm's, as wide as the terminal at any time."""
    from tqdm import tqdm

    columns, lines = shape_of(stream)
    bar = tqdm(file=stream, ncols=columns, nrows=lines, disable=False, **settings)
    bar.dynamic_ncols = shape_of  # tqdm's own shows nothing where a terminal tells 0 columns
    return bar


def shape_of(stream: TextIO) -> tuple[int, int]:
    """Columns and lines that can be written on, one less than a terminal has of each."""
    try:
        found = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):  # no terminal
        found = (0, 0)
    columns, lines = (each or usual for each, usual in zip(found, SHAPE))
    return columns - 1, lines - 1


def escape_unprintable() -> None:
    """From here on what a terminal cannot show is printed as an escape, such as \\xfc."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a notebook's stream shows everything
            stream.reconfigure(errors="backslashreplace")


def restart_in_utf_8() -> None:
    """Start the program again in Python's UTF-8 mode where the locale garbled its arguments.

    Under an ASCII locale a folder called `modèle` arrives as halves of characters, which no result
    file can hold. For the first line of a program, before anything is done.
    """
    if not sys.flags.utf8_mode and not all(map(is_text, sys.argv)):
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
