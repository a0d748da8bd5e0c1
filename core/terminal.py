"""Terminals and locales that are not UTF-8: what they cannot show, and names that they garble."""

import os
import sys

from core.errors import is_text


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
