"""Claims about `experiment.py --help` and --version: in groups, a line a flag, and soon there."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

import core
from run.config import GROUPS, RunConfig

ROOT = Path(__file__).parents[1]
SLOW = {"torch", "transformers", "datasets", "huggingface_hub", "pandas", "scipy", "matplotlib"}
FLAG = re.compile(r"  (--\w+)( [\[A-Z].*?)?  +(.+)")


def called(*flags: str) -> tuple[str, set[str]]:
    """What experiment.py prints on a terminal of the code's width, and the modules it loads."""
    code = (
        "import atexit, sys, experiment\n"
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
        f"experiment.main({list(flags)})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True,
        env={"COLUMNS": "100"},
    )  # fmt: skip
    return done.stdout, set(done.stderr.split())


@pytest.fixture(scope="module")
def page():
    return called("--help")[0]


def test_help_loads_nothing_that_is_slow_to_load():
    assert not SLOW & called("--help")[1]


def test_every_setting_has_a_flag_of_one_line_in_the_order_of_the_groups(page):
    groups = page.partition("what is asked:")[2].partition("more of it")[0]
    lines = [line for line in groups.splitlines() if line.startswith(" ")]
    flags = [FLAG.fullmatch(line) for line in lines]
    assert all(flags), [line for line, flag in zip(lines, flags) if not flag]
    names = [flag[1].removeprefix("--") for flag in flags]
    settings = [setting.name for setting in dataclasses.fields(RunConfig)]
    assert [name for name in names if name not in ("fp16", "position", "version")] == settings
    titles = [line.removesuffix(":") for line in page.splitlines() if re.fullmatch(r"\w.*:", line)]
    assert titles[1:4] == list(GROUPS)  # behind argparse's own options


def test_every_choice_is_named(page):
    for setting in dataclasses.fields(RunConfig):
        for choice in setting.metadata.get("choices", ()):
            assert re.search(rf"\b{choice}\b", page), (setting.name, choice)


def test_the_default_ends_the_line(page):
    assert re.search(r"--max_len N .*\(4\)$", page, re.MULTILINE)
    assert re.search(r"--target TASK .*\(quiz reviews posts\)$", page, re.MULTILINE)
    assert not re.search(r"--quiet .*\(False\)$", page, re.MULTILINE)


def test_the_version_is_printed():
    assert called("--version")[0] == f"{core.VERSION}\n"
