"""Runs of experiment.py in processes of their own that need no start-up, against a fake Hub.

The Hub's client reads its environment when it is imported. So a server process imports everything
once, in an environment of its own, and each run is forked from it.
"""

import multiprocessing
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import forkserver
from pathlib import Path
from time import monotonic
from unittest import mock

ROOT = Path(__file__).parents[1]
CONTEXT = multiprocessing.get_context("forkserver")
LONGEST = 60  # seconds of a run, far over what any may take
PRELOAD = [
    "experiment",
    "lm.loading",
    "datasets.packaged_modules",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.modeling_llama",
]


@dataclass(frozen=True)
class Outcome:
    """How a run ended, what it said, and how long it took."""

    code: int | None  # what experiment.main returned, None where it did not
    out: str
    err: str
    seconds: float


def start(environment: dict[str, str], preload: Sequence[str] = PRELOAD) -> None:
    """Start the server process for the runs of a test module, in the place of another module's."""
    forkserver._forkserver._stop()  # there is one for a process, and no public way to end it
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))  # it takes no sys.path
    environment = {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **environment}
    with mock.patch.dict(os.environ, kept | environment, clear=True):
        CONTEXT.set_forkserver_preload(list(preload))
        forkserver.ensure_running()


def run(
    flags: Sequence[str],
    folder: Path,
    environment: Mapping[str, str] | None = None,
    constants: Mapping[tuple[str, str], float] | None = None,
) -> Outcome:
    """Run experiment.py with flags; `constants` of modules are set before."""
    folder.mkdir(parents=True, exist_ok=True)
    started = monotonic()
    asked = (list(map(str, flags)), folder, dict(environment or {}), dict(constants or {}))
    process = CONTEXT.Process(target=_main, args=asked)
    process.start()
    process.join(LONGEST)
    seconds = monotonic() - started
    process.kill()
    out, err, code = ((folder / name).read_text() for name in ("out", "err", "code"))
    return Outcome(int(code) if code else None, out, err, seconds)


def _main(
    flags: list[str],
    folder: Path,
    environment: dict[str, str],
    constants: dict[tuple[str, str], float],
) -> None:
    import experiment

    code = folder / "code"
    code.touch()
    for number, name in enumerate(("out", "err"), 1):
        with open(folder / name, "w") as file:
            os.dup2(file.fileno(), number)
    os.environ.update(environment)
    for (module, name), value in constants.items():
        setattr(import_module(module), name, value)
    code.write_text(str(experiment.main(flags)))  # an exit status may get lost between threads
