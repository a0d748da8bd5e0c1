"""Claims about runs that are killed, interrupted or out of disk: nothing finished is lost, and what
comes out in the end is what an uninterrupted run gives.
"""

import errno
import json
import platform
import random
import signal
import subprocess
import time

import pytest
import tiny
import victims
from runs import contents, without_times
from victims import Victim

import experiment
from core import records
from core.errors import UserError
from run import journal, lock

KILLS = 20  # at random times, and as many at random moments at which files change
TARGETS = ("quiz", "posts")
LIMIT, MAX_LEN = 6, 2
FLAGS = f"--distractor reviews quiz --limit {LIMIT} --max_len {MAX_LEN} --max_new_tokens 4"
FLAGS = [*FLAGS.split(), "--batch_size", 2, "--device", "cpu", "--target", *TARGETS]


@pytest.fixture(scope="module", autouse=True)
def server():
    """The process that runs are forked from."""
    victims.start()


@pytest.fixture(scope="module")
def whole(tmp_path_factory, model):
    """Folder of an uninterrupted run, and how long it took (s)."""
    folder = tmp_path_factory.mktemp("whole")
    Victim(argv(model, folder / "first"), folder / "log").wait()  # the fork server starts
    begun = time.monotonic()
    assert Victim(argv(model, folder / "out"), folder / "log").wait() == 0
    return folder / "out", time.monotonic() - begun


def argv(model, out_dir, *flags):
    return ["--model", model, "--out_dir", out_dir, *FLAGS, *flags]


def finished(out_dir):
    """Target examples that the journals below a folder hold, by pair."""
    found = {}
    for path in out_dir.rglob("*_journal*.jsonl"):
        whole = [line for line in path.read_bytes().splitlines(True)[1:] if line.endswith(b"\n")]
        entries = [json.loads(line) for line in whole]
        keys = [journal.case_key(entry["example"]) for entry in entries if "example" in entry]
        found[path.name] = {key for key in keys if keys.count(key) == MAX_LEN + 1}
    return found


# --- killed


def resumed(model, out_dir, log):
    """Run again what was killed; the files it leaves."""
    assert Victim(argv(model, out_dir), log).wait() == 0, log.read_text()
    return without_times(out_dir)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(KILLS))
def test_a_run_killed_at_any_time_goes_on_to_the_same_files(tmp_path, model, whole, seed):
    folder, seconds = whole
    victim = Victim(argv(model, tmp_path / "out"), tmp_path / "log")
    time.sleep(random.Random(seed).uniform(0.2, 1) * seconds)
    victim.send(signal.SIGKILL)
    victim.wait()
    assert resumed(model, tmp_path / "out", tmp_path / "log") == without_times(folder)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(KILLS))
def test_a_run_killed_between_two_changes_of_files_goes_on_to_the_same(
    tmp_path, model, whole, seed
):
    moment = random.Random(seed).randrange(140)
    first = Victim(argv(model, tmp_path / "out"), tmp_path / "log", kill_at=moment)
    assert first.wait() == -signal.SIGKILL
    kept = finished(tmp_path / "out")
    second = Victim(argv(model, tmp_path / "out"), tmp_path / "log", kill_at=moment + 7)
    second.wait()
    for name, keys in finished(tmp_path / "out").items():
        assert keys >= kept.get(name, set())
    assert resumed(model, tmp_path / "out", tmp_path / "log") == without_times(whole[0])


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_comes_to_its_end(tmp_path, model, whole):
    ends = []
    for attempt in range(1, 30):
        victim = Victim(argv(model, tmp_path / "out"), tmp_path / "log", kill_at=7 * attempt)
        ends.append(victim.wait())
        if ends[-1] == 0:
            break
    assert ends == [-signal.SIGKILL] * (len(ends) - 1) + [0] and len(ends) > 3
    assert without_times(tmp_path / "out") == without_times(whole[0])


# --- interrupted


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_keeps_what_is_finished_and_says_how_to_go_on(
    tmp_path, model, whole, number, status
):
    out_dir = tmp_path / "out"
    victim = Victim(argv(model, out_dir), tmp_path / "log", kill_at=45, by=number)
    assert victim.wait() == status
    assert f"kept in {out_dir}.\nRun the same command to continue." in victim.said()
    assert "Traceback" not in victim.said()
    assert not list(out_dir.rglob("*.json")) and not (out_dir / lock.LOCK).exists()
    again = Victim(argv(model, out_dir), tmp_path / "log")
    assert again.wait() == 0
    assert "Continuing: " in again.said()
    assert without_times(out_dir) == without_times(whole[0])


# --- what a journal belongs to


@pytest.fixture(scope="module")
def begun(tmp_path_factory, model):
    """Folder of a run that was killed after its second batch."""
    folder = tmp_path_factory.mktemp("begun")
    victim = Victim(argv(model, folder / "out"), folder / "log", kill_at=45)
    assert victim.wait() == -signal.SIGKILL
    assert any(finished(folder / "out").values())
    assert not list((folder / "out").rglob("*.json"))
    (folder / "out" / lock.LOCK).unlink()  # so that files can be compared
    return folder / "out"


@pytest.fixture
def copy(tmp_path, begun):
    """The same in a folder of its own."""
    subprocess.run(["cp", "-r", begun, tmp_path / "out"], check=True)
    return tmp_path / "out"


OTHER = {
    "--limit 5": "limit 6 there, 5 now",
    "--seed 1": "seed [0] there, [1] now",
    "--max_len 3": "max_len 2 there, 3 now",
    "--engine plain": "engine 'tree' there, 'plain' now",
    "--prompt plain": "prompt 'chat' there, 'plain' now",
    "--dtype bfloat16": "dtype 'float32' there, 'bfloat16' now",
}


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("flags", OTHER)
def test_a_journal_of_other_settings_is_refused_before_a_model_is_loaded(
    copy, model, capsys, flags
):
    before = contents(copy)
    assert experiment.main([*map(str, argv(model, copy)), *flags.split()]) == 2
    said = capsys.readouterr().err
    assert f"_journal.jsonl was started with other settings: {OTHER[flags]}." in said
    assert len(said.splitlines()) == 2
    assert contents(copy) == before


def test_a_journal_of_another_state_of_the_model_is_refused(copy, model, tmp_path, capsys):
    other = tiny.save_model(tmp_path / "other" / "tiny-llama", rope_theta=5000.0)
    flags = [str(flag) for flag in argv(model, copy)]
    subprocess.run(["cp", "-r", str(model), tmp_path / "kept"], check=True)
    try:
        subprocess.run(["cp", "-rT", str(other), str(model)], check=True)
        assert experiment.main(flags) == 2
    finally:
        subprocess.run(["cp", "-rT", tmp_path / "kept", str(model)], check=True)
    assert "was started with other settings: revision 'files " in capsys.readouterr().err


def test_a_grid_is_not_finished_with_another_state_of_the_model(
    tmp_path, model, whole, tmp_path_factory
):
    subprocess.run(["cp", "-r", whole[0], tmp_path / "out"], check=True)
    other = tiny.save_model(tmp_path / "other" / "tiny-llama", rope_theta=5000.0)
    subprocess.run(["cp", "-r", str(model), tmp_path / "kept"], check=True)
    try:
        subprocess.run(["cp", "-rT", str(other), str(model)], check=True)
        more = Victim(
            argv(model, tmp_path / "out", "--distractor", "quiz", "posts"), tmp_path / "l"
        )
        assert more.wait() == 2
    finally:
        subprocess.run(["cp", "-rT", tmp_path / "kept", str(model)], check=True)
    assert "was made with other weights of the model: revision 'files " in more.said()


def test_two_pairs_of_one_file_name_are_refused(tmp_path, model, capsys):
    tasks = "{0}:\n  source: rows.csv\n  split: {1}\n  prompt: '{{q}}'\n  reference: a\n"
    (tmp_path / "rows.csv").write_text("q,a\n" + "".join(f"q{i},a{i}\n" for i in range(9)))
    (tmp_path / "own.yaml").write_text(
        tasks.format("foo", "bar_test") + tasks.format("foo_bar", "test")
    )
    flags = ["--task_file", tmp_path / "own.yaml", "--distractor", "foo", "foo_bar"]
    flags = [*argv(model, tmp_path / "out"), *flags, "--target", "quiz"]
    assert experiment.main([*map(str, flags)]) == 2
    said = capsys.readouterr().err
    assert "'quiz/test after foo/bar_test' and 'quiz/test after foo_bar/test' would" in said


def test_overwrite_begins_again_where_settings_differ(copy, model, tmp_path):
    victim = Victim(argv(model, copy, "--limit", 2, "--overwrite"), tmp_path / "log")
    assert victim.wait() == 0
    assert "Going on" not in victim.said()
    assert {records.read_result(path)["n"] for path in copy.rglob("*test.json")} == {2}


def test_overwrite_goes_on_where_settings_are_the_same(copy, model, whole, tmp_path):
    victim = Victim(argv(model, copy, "--overwrite"), tmp_path / "log")
    assert victim.wait() == 0
    assert "Continuing: " in victim.said()
    assert without_times(copy) == without_times(whole[0])


def test_batch_size_may_change_on_the_way(copy, model, whole, tmp_path):
    assert Victim(argv(model, copy, "--batch_size", 3), tmp_path / "log").wait() == 0
    for path in whole[0].rglob("*test.json"):
        expected = records.read_result(path)
        found = records.read_result(copy / path.relative_to(whole[0]))
        assert found["metric_by_len"] == expected["metric_by_len"]
        for h, row in expected["cos_by_len"].items():
            assert found["cos_by_len"][h] == pytest.approx(row, abs=1e-5)


# --- damage


def journals(out_dir):
    return sorted(out_dir.rglob("*_journal.jsonl"))


def test_a_torn_last_line_is_cut_off_and_made_again(copy, model, whole, tmp_path):
    for path in journals(copy):
        path.write_bytes(path.read_bytes()[:-10])
    assert resumed(model, copy, tmp_path / "log") == without_times(whole[0])


def test_a_line_that_was_changed_does_not_count(copy, model, whole, tmp_path):
    for path in journals(copy):
        text = path.read_text()
        assert '"score": 0.0' in text
        path.write_text(text.replace('"score": 0.0', '"score": 1.0'))
    victim = Victim(argv(model, copy), tmp_path / "log")
    assert victim.wait() == 0
    assert "damaged journal lines are ignored" in victim.said()
    assert without_times(copy) == without_times(whole[0])


def test_a_journal_that_does_not_say_its_settings_is_refused(copy, model, capsys):
    path = journals(copy)[0]
    path.write_text(path.read_text().replace('"limit": 6', '"limit": 7'))
    before = contents(copy)
    assert experiment.main([*map(str, argv(model, copy))]) == 2
    said = capsys.readouterr().err
    assert f"{path} is damaged: its first line does not say" in said
    assert "Delete it" in said and len(said.splitlines()) == 2
    assert contents(copy) == before


# --- two runs at once


def test_a_second_run_on_an_out_dir_stops_and_names_the_first(tmp_path, model, capsys):
    out_dir = tmp_path / "out"
    with lock.claimed(out_dir):
        before = contents(out_dir)
        second = Victim(argv(model, out_dir), tmp_path / "log")
        assert second.wait() == 2
        assert f"error: --out_dir {out_dir} is in use by process " in second.said()
        assert len(second.said().splitlines()) == 2
        assert contents(out_dir) == before
    assert list(tmp_path.iterdir()) == [tmp_path / "log"]


def test_a_file_system_without_locks_has_a_lock_file_that_a_dead_run_does_not_keep(
    tmp_path, monkeypatch
):
    def none(*arguments):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", none)
    with (
        lock.claimed(tmp_path),
        pytest.raises(UserError, match="is in use by"),
        lock.claimed(tmp_path),
    ):
        pass
    assert list(tmp_path.iterdir()) == []
    dead = subprocess.Popen(["true"])
    dead.wait()
    (tmp_path / lock.LOCK).write_text(f"{dead.pid}\n{platform.node()}\n")
    with lock.claimed(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x" * 300, "file/out"])
def test_an_out_dir_that_cannot_be_is_said_plainly(tmp_path, model, capsys, name):
    (tmp_path / "file").touch()
    assert experiment.main([*map(str, argv(model, tmp_path / name))]) == 2
    assert "error: cannot write in " in capsys.readouterr().err


# --- no room


@pytest.mark.parametrize("room", [0, 3000, 60_000])
def test_a_full_disk_loses_no_finished_example(tmp_path, model, whole, room):
    out_dir = tmp_path / "out"
    full = Victim(argv(model, out_dir), tmp_path / "log", full_after=room)
    assert full.wait() == 2
    said = full.said().splitlines()
    assert (
        len(said) == 2 and "No space left on device. What was finished before is kept." in said[0]
    )
    assert "run the same command to continue" in said[1]
    for path in journals(out_dir):
        assert not path.read_bytes() or path.read_bytes().endswith(b"\n")
    assert any(finished(out_dir).values()) == (room == 60_000)
    assert resumed(model, out_dir, tmp_path / "log") == without_times(whole[0])


def test_a_result_that_cannot_be_written_leaves_the_journals(tmp_path, model, whole, monkeypatch):
    def full(path, content):
        raise records.UserError(f"cannot write {path}: No space left on device.")

    out_dir = tmp_path / "out"
    monkeypatch.setattr(records, "write_json", full)
    assert experiment.main([*map(str, argv(model, out_dir))]) == 2
    monkeypatch.undo()
    assert {len(keys) for keys in finished(out_dir).values()} == {6}
    assert resumed(model, out_dir, tmp_path / "log") == without_times(whole[0])
