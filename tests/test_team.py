"""Claims about a run of several processes: its files are those of one, whichever of them dies,
whatever starts them, and however many go on.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import victims
from runs import contents, without_times
from test_resume import argv, finished
from victims import Victim, free_port, team

import experiment
from core import records
from run import lock

ROOT = Path(experiment.__file__).parent


@pytest.fixture(scope="module", autouse=True)
def server():
    """The process that runs are forked from."""
    victims.start()


@pytest.fixture(scope="module")
def one(tmp_path_factory, model):
    """Files of one process."""
    folder = tmp_path_factory.mktemp("one")
    assert Victim(argv(model, folder / "out"), folder / "log").wait() == 0
    return without_times(folder / "out")


def run_team(model, folder, size, *flags, **faults):
    """Exit statuses, and what each process said."""
    members = team(argv(model, folder / "out", *flags), folder / "log", size, **faults)
    return [member.wait() for member in members], [member.said() for member in members]


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_several_processes_give_the_files_of_one(tmp_path, model, one, size):
    statuses, said = run_team(model, tmp_path, size)
    assert statuses == [0] * size, said
    assert without_times(tmp_path / "out") == one
    assert "Results (each with" in said[0]
    assert said[1:] == [""] * (size - 1)
    [path, *_] = (tmp_path / "out").rglob("*test.json")
    assert records.read_result(path)["environment"]["processes"] == size


@pytest.mark.slow
def test_several_seeds_histories_of_its_own_and_sensitivity_are_the_same_too(tmp_path, model):
    flags = [
        "--history",
        "model",
        "--seed",
        "0",
        "1",
        "--sensitivity",
        "--switch_cue",
        "Now.",
        "--limit",
        "3",
    ]
    statuses, said = run_team(model, tmp_path, 2, *flags)
    assert statuses == [0, 0], said
    alone = Victim(argv(model, tmp_path / "one", *flags), tmp_path / "log")
    assert alone.wait() == 0
    assert without_times(tmp_path / "out") == without_times(tmp_path / "one")


@pytest.mark.slow
def test_a_sampled_pool_is_the_same_in_every_process(tmp_path, model):
    flags = ["--model", model, "--target", "quiz", "--history", "random", "--limit", 4]
    flags += ["--max_len", 1, "--max_new_tokens", 2, "--device", "cpu", "--batch_size", 1]
    members = team([*flags, "--out_dir", tmp_path / "out"], tmp_path / "log", 2)
    assert [member.wait() for member in members] == [0, 0], [each.said() for each in members]


@pytest.mark.slow
def test_a_dead_process_harms_no_others_and_any_number_goes_on(tmp_path, model, one):
    out_dir = tmp_path / "out"
    statuses, said = run_team(model, tmp_path, 3, kill_at={1: 8})
    assert statuses == [2, -signal.SIGKILL, 2]
    assert "another process of this run ended early" in said[0]
    assert not any("Traceback" in text for text in said)
    kept = finished(out_dir)
    assert any(kept.values()) and not list(out_dir.rglob("*test.json"))
    statuses, said = run_team(model, tmp_path, 2, kill_at={0: 30})
    for name, keys in finished(out_dir).items():
        assert keys >= kept.get(name, set())
    assert Victim(argv(model, out_dir), tmp_path / "log").wait() == 0
    assert without_times(out_dir) == one


@pytest.mark.slow
def test_what_one_process_began_several_finish(tmp_path, model, one):
    first = Victim(argv(model, tmp_path / "out"), tmp_path / "log", kill_at=40)
    assert first.wait() == -signal.SIGKILL
    assert any(finished(tmp_path / "out").values())
    statuses, said = run_team(model, tmp_path, 2)
    assert statuses == [0, 0] and "Continuing: " in said[0]
    assert without_times(tmp_path / "out") == one


def test_a_second_team_on_an_out_dir_stops(tmp_path, model):
    with lock.claimed(tmp_path / "out"):
        before = contents(tmp_path / "out")
        statuses, said = run_team(model, tmp_path, 2)
        assert statuses == [2, 2]
        assert contents(tmp_path / "out") == before
    assert "is in use by process" in said[0]


def test_several_processes_on_a_machine_refuse_a_device_map(tmp_path, model):
    statuses, said = run_team(model, tmp_path, 2, "--device_map", "auto")
    assert statuses == [2, 2]
    assert "Start one per machine." in said[0]
    assert not (tmp_path / "out").exists()


def test_a_world_without_a_launcher_is_refused(tmp_path, model):
    victim = Victim(argv(model, tmp_path / "out"), tmp_path / "log", environment={"WORLD_SIZE": 2})
    assert victim.wait() == 2
    said = victim.said().splitlines()
    assert said[0].startswith("error: WORLD_SIZE is 2, but RANK, LOCAL_RANK, MASTER_ADDR,")
    assert "torchrun" in said[1] and len(said) == 2


LAUNCHERS = {
    "torchrun --nproc_per_node": "--master_port",
    "accelerate launch --multi_gpu --num_processes": "--main_process_port",
}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_launchers_of_the_docs_start_a_team(tmp_path, model, one, launcher):
    assert launcher in (ROOT / "docs" / "long_runs.md").read_text()
    name, *flags = launcher.split()
    program = Path(sys.executable).with_name(name)
    command = [program, *flags, 2, LAUNCHERS[launcher], free_port(), "experiment.py"]
    done = subprocess.run(
        [*map(str, command), *map(str, argv(model, tmp_path / "out"))],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert without_times(tmp_path / "out") == one


@pytest.mark.slow
def test_an_element_of_the_slurm_array_runs_its_target_after_all_distractors(tmp_path, model):
    slurm = {"SLURM_ARRAY_TASK_ID": "1", "SLURM_SUBMIT_DIR": str(ROOT), "SLURM_GPUS_ON_NODE": "2"}
    chosen = {"MODEL": str(model), "TASKS": "quiz posts", "OUT_DIR": str(tmp_path / "out")}
    flags = [
        "--limit",
        "3",
        "--max_len",
        "1",
        "--max_new_tokens",
        "2",
        "--batch_size",
        "1",
        "--device",
        "cpu",
    ]
    done = subprocess.run(
        ["bash", "scripts/slurm.sh", *map(str, flags)],
        cwd=ROOT, env=os.environ | slurm | chosen, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "out" / "posts" / "tiny-llama__posts"
    results = [folder / f"test_vs_{name}_test.json" for name in ("quiz", "posts")]
    assert all(records.read_result(path)["environment"]["processes"] == 2 for path in results)
