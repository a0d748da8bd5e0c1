"""Claims about viz.py as a program: what it loads, and what it answers to a wrong command line."""

import subprocess
import sys
from pathlib import Path

import pytest
from small_results import label_example, text_example, write_pair

import viz

ROOT = Path(viz.__file__).parent


@pytest.mark.parametrize("make", [label_example, text_example])
def test_verify_loads_neither_torch_nor_transformers(tmp_path, make):
    log = write_pair(tmp_path, make=make, cosines=False)
    assert not {"torch", "transformers"} & loaded_by("verify", "--debug_file", str(log))


def test_metric_loads_neither_torch_nor_scipy_nor_what_scores(tmp_path):
    write_pair(tmp_path, cosines=False)
    loaded = loaded_by("metric", "--result_dir", str(tmp_path), "--out_dir", str(tmp_path))
    assert "matplotlib" in loaded
    assert not {"torch", "transformers", "scipy", "evaluate"} & loaded


def test_help_loads_nothing_heavy():
    assert not {"torch", "transformers", "scipy", "evaluate", "matplotlib"} & loaded_by("--help")


def loaded_by(*argv: str) -> set[str]:
    """Names of the modules that a run of viz.py has loaded when it ends."""
    code = (
        "import atexit, sys, viz\n"
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
        f"assert viz.main({list(argv)!r}) == 0\n"
    )
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stderr.splitlines()[-1].split())


def test_an_unknown_flag_or_no_command_ends_with_status_2():
    for argv in ([], ["metric"], ["verify", "--debug_file", "x", "--no_such_flag"]):
        with pytest.raises(SystemExit) as stopped:
            viz.main(argv)
        assert stopped.value.code == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("metric --reslt_dir x y", "metric: error: unrecognized arguments: --reslt_dir x y. Did you"
         " mean --result_dir?"),
        ("contrast --result_dir x --aganist=y", "--aganist=y. Did you mean --against?"),
        ("layers --result x", "unrecognized arguments: --result x. Did you mean --result_dir?"),
        ("--result_dir x metric", "The command comes first."),
        ("metric", "the following arguments are required: --result_dir"),
    ],
)  # fmt: skip
def test_a_mistyped_flag_is_said_before_what_is_missing(words, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        viz.main(words.split())
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


def test_a_table_of_a_run_that_is_not_finished_says_what_it_leaves_out(tmp_path, capsys):
    log = write_pair(tmp_path, cosines=False)
    command = ["table", "--result_dir", str(tmp_path)]
    assert viz.main(command) == 0
    whole = capsys.readouterr()
    assert whole.err == ""
    of_this, of_another = (f"test_vs_{name}_test_journal.1.jsonl" for name in ("posts", "reviews"))
    log.with_name(of_this).write_text(
        "{}"
    )  # is made again by --overwrite, or was killed at its end
    assert viz.main(command) == 0
    assert capsys.readouterr() == whole
    log.with_name(of_another).write_text("{}")
    assert viz.main(command) == 0
    said = capsys.readouterr()
    assert said.out == whole.out
    assert said.err.startswith(f"note: {tmp_path} has pairs that are not finished, and they are")
