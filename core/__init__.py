"""What everything stands on: errors, result files, the way to the Hub. Imports nothing of ours."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

VERSION = "1.0.0"  # of the toolkit, as --version and every result say it

# OpenMP reads this when torch is loaded. Its threads spin for each other by default, which makes a
# forward 2 to 20 times slower where another process shares the cores; see docs/speed.md.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@contextmanager
def without_collection() -> Iterator[None]:
    """No search for garbage while modules and models are loaded: all of it stays, and looking
    through it again and again takes a fifth of the time that torch and transformers need.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
