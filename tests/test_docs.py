"""Claims about README.md and docs/: what they name is there, what they show is what one gets."""

import dataclasses
import re
import shlex
from pathlib import Path

import pytest

import viz
from run.config import RunConfig, parse_args

ROOT = Path(viz.__file__).parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PARSERS = {"experiment.py": parse_args, "viz.py": viz.make_parser().parse_args}


def commands(page: Path) -> list[tuple[str, list[str]]]:
    """The doors and arguments of every command line in the shell examples of a page."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").replace("$seed", "0").splitlines()
    found = []
    for line in lines:
        for door in PARSERS:
            _, called, arguments = line.partition(f" {door}")
            if called:
                found.append((door, shlex.split(arguments.partition(";")[0], comments=True)))
    return found


EXAMPLES = [
    pytest.param(door, arguments, id=f"{page.name} {door} {' '.join(arguments)}")
    for page in PAGES
    for door, arguments in commands(page)
]


@pytest.mark.parametrize(("door", "arguments"), EXAMPLES)
def test_a_command_of_the_docs_is_understood(door, arguments):
    PARSERS[door](arguments)


def test_the_flags_of_the_readme_are_flags():
    rows = re.findall(r"^\| (`--.*?) \|", PAGES[0].read_text(encoding="utf-8"), re.MULTILINE)
    named = {flag for row in rows for flag in re.findall(r"--(\w+)", row)}
    assert named and named <= {field.name for field in dataclasses.fields(RunConfig)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_links_to_what_is_there(page):
    for link in re.findall(r"\]\((?!http)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link


def test_the_readme_is_read_to_the_end_and_names_every_page():
    text = PAGES[0].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 200
    assert [page.name for page in PAGES[1:] if f"docs/{page.name}" not in text] == []


def test_the_example_of_the_statistics_is_what_the_table_prints(capsys):
    text = (ROOT / "docs" / "statistics.md").read_text(encoding="utf-8")
    shown = [_cells(line) for line in text.partition("```\n|")[2].partition("```")[0].splitlines()]
    assert viz.main(["table", "--result_dir", str(ROOT / "results" / "_reference")]) == 0
    lines = capsys.readouterr().out.splitlines()
    printed = [_cells(line) for line in lines if line.startswith("|")]
    printed = [cells[1:] for cells in printed if not cells[0].startswith(":")]  # without the model
    assert shown == printed


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]
