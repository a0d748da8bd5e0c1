"""Claims about terminals: what is said on them, and locales that are not UTF-8."""

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pages
import pytest
import tiny

import experiment
import viz
from core import terminal
from reports import page

ROOT = Path(experiment.__file__).parent
TASK = """
own:
  source: Zeilen_ü.jsonl
  prompt: "Q: {text}"
  reference: label
  labels: [gut, schlecht]
"""
ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
LOCALES = {"ASCII output": {"PYTHONIOENCODING": "ascii"}, "ASCII locale": ASCII}


def python(folder, settings, *words):
    """What a program says and its exit status, under these environment variables."""
    command = [sys.executable, *map(str, words)]
    found = subprocess.run(command, capture_output=True, cwd=folder, env=os.environ | settings)
    return found.returncode, found.stdout + found.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("Größe")
    tiny.save_model(folder / "modèle")
    (folder / "Größe.yaml").write_text(TASK, encoding="utf-8")
    rows = [{"text": f"té{i}", "label": i % 2} for i in range(4)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "Zeilen_ü.jsonl").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("kind", LOCALES)
def test_names_with_other_letters_run_and_are_shown_as_far_as_they_can_be(folder, kind):
    out_dir = f"Ergebnisse_ü_{kind.split()[1]}"
    asked = "--task_file Größe.yaml --target own --distractor reviews --model modèle"
    flags = f"{asked} --max_len 1 --limit 2 --device cpu --no_cosine --quiet".split()
    program = ROOT / "experiment.py"
    status, said = python(folder, LOCALES[kind], program, *flags, "--out_dir", out_dir)
    assert (status, b"Traceback" in said) == (0, False), said.decode()
    [result] = (folder / out_dir).rglob("test_vs_reviews_test.json")
    assert json.loads(result.read_text(encoding="utf-8"))["config"]["model"] == "modèle"
    viz = ROOT / "viz.py"
    for words in (["table", "--result_dir", out_dir], ["table", "--result_dir", "fehlt_ü"]):
        status, said = python(folder, LOCALES[kind], viz, *words)
        assert status == (2 if "fehlt_ü" in words else 0)
        assert b"Traceback" not in said


def test_a_name_that_is_not_utf_8_is_refused_by_that_word(folder):
    words = ["--model", os.fsdecode(b"mod\xe8le"), "--quiet"]
    status, said = python(folder, {}, ROOT / "experiment.py", *words)
    assert status == 2 and b"--model" in said and b"is not UTF-8" in said


class Stream(io.StringIO):
    """Standard error, of a terminal or not."""

    def __init__(self, on_terminal):
        super().__init__()
        self.on_terminal = on_terminal

    def isatty(self):
        return self.on_terminal


@pytest.mark.parametrize("on_terminal", [True, False])
def test_what_takes_a_while_is_said_on_a_terminal_only(monkeypatch, on_terminal):
    monkeypatch.setattr(sys, "stderr", Stream(on_terminal))
    terminal.say("Loading ...")
    terminal.say("Loading what is quiet ...", quiet=True)
    assert sys.stderr.getvalue() == ("Loading ...\n" if on_terminal else "")


@pytest.mark.parametrize("on_terminal", [True, False])
@pytest.mark.parametrize("patience", [0.0, 60.0])
def test_what_takes_long_is_counted_on_a_terminal_only(monkeypatch, on_terminal, patience):
    monkeypatch.setattr(sys, "stderr", Stream(on_terminal))
    monkeypatch.setattr(terminal, "PATIENCE", patience)
    things = list(terminal.counted((time.sleep(0.2) or x for x in "abc"), "Reading", 3))
    assert things == ["a", "b", "c"]
    shown = "Reading  33%" in sys.stderr.getvalue()
    assert shown == (on_terminal and not patience)
    assert (sys.stderr.getvalue() == "") != shown


def test_a_report_says_on_a_terminal_what_it_is_at_and_how_far(tmp_path, monkeypatch, capsys):
    pages.write_pair(tmp_path)
    out = tmp_path / "report.html"
    flags = ["report", "--result_dir", str(tmp_path), "--out", str(out)]
    monkeypatch.setattr(page, "image", lambda drawn: {"measure": drawn.measure})
    monkeypatch.setattr(page, "render", lambda content: "")
    assert viz.main(flags) == 0
    assert capsys.readouterr() == (f"{out}\n", "")
    monkeypatch.setattr(sys, "stderr", Stream(on_terminal=True))
    monkeypatch.setattr(terminal, "PATIENCE", -1.0)
    assert viz.main(flags) == 0
    said = sys.stderr.getvalue()
    steps = ("Reading results", "Reading the logs of 1 results ...", "Reading logs")
    places = [
        said.index(step) for step in (*steps, "Drawing the figures ...", "Drawing the layers")
    ]
    assert places == sorted(places)
    assert capsys.readouterr().out == f"{out}\n"
