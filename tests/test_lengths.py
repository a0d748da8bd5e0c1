"""Claims about listed history lengths: they give what a run of every length gives at them."""

import signal

import pytest
import victims
from runs import contents, path_of, result_of
from victims import Victim

import experiment
import viz
from core import records
from core.errors import UserError
from measures import metrics
from reports import curves, explorer, grid, style, tables
from reports.groups import load_groups
from run.config import RunConfig, check_settings, parse_args

SMALL = ["--limit", "4", "--max_new_tokens", "4", "--device", "cpu"]
EVERY = ("--max_len", 3)
SOME = ("--lengths", 3, 0, 2)
KEPT = ["0", "2", "3"]
CUE = ("--switch_cue", "Now another task.")
EFFECTS = ("--effects", "--effect_lengths", "all")


def argv(model, out_dir, *flags, target="reviews", distractor="quiz"):
    tasks = ["--target", target, "--distractor", distractor]
    return list(map(str, ["--model", model, "--out_dir", out_dir, *tasks, *SMALL, *flags]))


def run(model, out_dir, *flags, **tasks):
    return experiment.main(argv(model, out_dir, *flags, **tasks))


def log_of(out_dir, target="reviews", distractor="quiz"):
    return records.read_debug(records.debug_path(path_of(out_dir, target, distractor)))


@pytest.fixture(scope="module")
def folders(tmp_path_factory, model):
    """Folders of one pair at every length, and at some."""
    found = {}
    for name, flags in (("every", EVERY), ("some", SOME)):
        found[name] = tmp_path_factory.mktemp(name)
        assert run(model, found[name], *flags, *CUE, *EFFECTS) == 0
    return found


# --- the numbers


@pytest.mark.parametrize("engine", ["tree", "plain"])
@pytest.mark.parametrize("prompt", ["chat", "plain"])
@pytest.mark.parametrize("target", ["reviews", "posts"])
def test_some_lengths_give_what_every_length_gives_at_them(tmp_path, model, engine, prompt, target):
    flags = ("--engine", engine, "--prompt", prompt)
    for name, lengths in (("every", EVERY), ("some", SOME)):
        assert run(model, tmp_path / name, *lengths, *flags, target=target) == 0
    every, some = (log_of(tmp_path / name, target) for name in ("every", "some"))
    assert some["conversations"] == every["conversations"]
    there = [e for e in every["debug_examples"] if str(e["config"]["history_len"]) in KEPT]
    for found, expected in zip(some["debug_examples"], there, strict=True):
        for name in ("prompt_text", "config", "score", "model_prediction", "conversation", "top5"):
            assert found[name] == expected[name]
        assert found["cosines"] == pytest.approx(expected["cosines"], abs=1e-5)
        assert found["drift"] == pytest.approx(expected["drift"], abs=1e-5)
        known = found.get("label_logprobs", {}), expected.get("label_logprobs", {})
        assert known[0] == pytest.approx(known[1], abs=1e-5)
    results = [result_of(tmp_path / name, target, "quiz") for name in ("every", "some")]
    assert [results[0]["metric_by_len"][h] for h in KEPT] == [*results[1]["metric_by_len"].values()]
    assert list(results[1]["stats_by_len"]) == list(results[1]["cos_by_len"]) == KEPT


def test_cue_and_effects_at_some_lengths_are_those_at_every_length(folders):
    every, some = (log_of(folders[name])["debug_examples"] for name in ("every", "some"))
    there = [e for e in every if str(e["config"]["history_len"]) in KEPT]
    for found, expected in zip(some, there, strict=True):
        h = found["config"]["history_len"]
        assert ("cued" in found) == ("effects" in found) == bool(h)
        if h:
            assert found["cued"]["prompt_text"] == expected["cued"]["prompt_text"]
            assert found["spans"] == expected["spans"]
            assert len(found["effects"]["hidden_by_turn"]) == h
            for name in ("none", "hidden", "filler", "full", "hidden_by_turn", "patched_last"):
                assert found["effects"][name] == pytest.approx(expected["effects"][name], abs=1e-3)
    result = result_of(folders["some"], "reviews", "quiz")
    assert list(result["effects_by_len"]) == list(result["cue_by_len"]) == KEPT


# --- what a run is


def test_the_result_says_which_lengths_were_run(folders):
    config = result_of(folders["some"], "reviews", "quiz")["config"]
    assert (config["max_len"], config["lengths"]) == (3, [0, 2, 3])
    config = result_of(folders["every"], "reviews", "quiz")["config"]
    assert (config["max_len"], config["lengths"]) == (3, None)


def test_every_length_in_a_list_is_the_same_run_as_max_len(folders, model, capsys):
    before = contents(folders["every"])
    assert run(model, folders["every"], "--lengths", 2, 1, 3, *CUE, *EFFECTS) == 0
    assert "All results exist already" in capsys.readouterr().out
    assert contents(folders["every"]) == before


def test_other_lengths_are_other_settings(folders, model, capsys):
    assert run(model, folders["some"], "--lengths", 0, 1, 3, *CUE, *EFFECTS) == 2
    said = capsys.readouterr().err
    assert "was made with other settings: lengths [0, 2, 3] there, [0, 1, 3] now" in said
    assert run(model, folders["some"], *EVERY, *CUE, *EFFECTS) == 2


def test_a_run_at_some_lengths_that_is_killed_goes_on(tmp_path, model):
    victims.start()
    flags = (*SOME, "--batch_size", 1)
    assert run(model, tmp_path / "whole", *flags) == 0
    victim = Victim(argv(model, tmp_path / "out", *flags), tmp_path / "log", kill_at=25)
    assert victim.wait() == -signal.SIGKILL
    assert list(tmp_path.rglob("*_journal.jsonl"))
    again = Victim(argv(model, tmp_path / "out", *flags), tmp_path / "log")
    assert again.wait() == 0
    assert "Continuing: " in again.said()
    assert log_of(tmp_path / "out") == log_of(tmp_path / "whole")


# --- lists


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--lengths 0 -1", "--lengths -1: must be 0 or more."),
        ("--lengths 0 2 2", "--lengths: each length can be given only once."),
        ("--lengths 0 --effects", "no history to hide"),
        ("--lengths 0 1 --history shuffled", "a history of one turn"),
        ("--lengths 0 20000", "h = 20000: a history has 10000 turns at most"),
        ("--max_len 10001", "h = 10001: a history has 10000 turns at most"),
        ("--position --max_len 1000000000", "h = 1000000000: a history has 10000 turns at most"),
    ],
)
def test_a_list_that_makes_no_sense_is_refused_in_one_line(flags, words):
    with pytest.raises(UserError, match=words) as refused:
        check_settings(parse_args(flags.split()))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--lengths 0 two", "argument --lengths: invalid int value: 'two'"),
        ("--lengths", "argument --lengths: expected at least one argument"),
        ("--lengths 0 2 --max_len 2", "--lengths and --max_len contradict each other"),
    ],
)
def test_a_list_that_cannot_be_read_is_refused_with_status_2(capsys, flags, words):
    with pytest.raises(SystemExit) as ended:
        parse_args(flags.split())
    assert ended.value.code == 2 and words in capsys.readouterr().err


def test_lengths_are_sorted_and_0_is_always_run():
    assert RunConfig(lengths=(8, 2)).run_lengths == (0, 2, 8)
    assert RunConfig(lengths=(0,)).run_lengths == (0,)
    assert RunConfig(max_len=2).run_lengths == (0, 1, 2)


def test_examples_without_h_0_have_no_baseline(folders):
    examples = log_of(folders["some"])["debug_examples"]
    with pytest.raises(ValueError, match="no examples at h = 0"):
        metrics.aggregate([e for e in examples if e["config"]["history_len"]], "accuracy")


# --- what reads results


def test_verify_recomputes_results_at_some_lengths(folders):
    path = records.debug_path(path_of(folders["some"], "reviews", "quiz"))
    assert viz.main(["verify", "--debug_file", str(path)]) == 0


@pytest.mark.parametrize("command", ["metric", "layers", "effects", "grid", "table", "report"])
def test_every_command_reads_results_at_some_lengths(folders, tmp_path, command):
    where = ["--result_dir", str(folders["some"])]
    drawn = ["--out_dir", str(tmp_path), "--format", "png"]
    more = ["--out", str(tmp_path / "out")] if command in ("table", "report") else drawn
    assert viz.main([command, *where, *more]) == 0
    assert list(tmp_path.iterdir())


def test_lines_stand_at_the_true_h_with_ticks_at_the_lengths_run(folders):
    groups = load_groups([folders["some"]])
    with style.sheet():
        for drawn in (*curves.metric_figures(groups), *curves.study_figures(groups)):
            for axes in drawn.figure.axes:
                lines = [line for line in axes.lines if len(line.get_xdata()) > 1]
                lines = [line for line in lines if line.get_transform() == axes.transData]
                assert list(axes.get_xticks()) == [0, 2, 3]
                assert {tuple(line.get_xdata()) for line in lines} <= {(0, 2, 3), (2, 3)}


def test_ticks_that_stand_too_close_have_no_number():
    with style.sheet():
        _, axes = style.new_figure(style.PLAIN)
        style.over_turns(axes, [0, 1, 2, 4, 8, 16, 32])
        names = [label.get_text() for label in axes.get_xticklabels()]
    assert names == ["0", "", "2", "4", "8", "16", "32"]


def test_results_of_other_lengths_are_compared_at_those_that_both_have(
    folders, tmp_path, model, capsys
):
    run(model, tmp_path / "own", "--lengths", 0, 1, 3, distractor="reviews")
    assert run(model, tmp_path / "other", "--lengths", 0, 2, 3) == 0
    dirs = [str(tmp_path / "own"), str(tmp_path / "other")]
    capsys.readouterr()
    assert viz.main(["contrast", "--result_dir", *dirs, "--format", "csv"]) == 0
    [row] = capsys.readouterr().out.splitlines()[1:]
    assert row.split(",")[6] == "3"
    frame = tables.make_frame(records.load_results(dirs))
    assert grid.choose_length(frame, None) == 3
    with pytest.raises(UserError, match="no result with such a history"):
        grid.choose_length(frame, 4)
    with pytest.raises(UserError, match="share no h of 1 or more"):
        grid.choose_length(frame[frame["h"] < 3], None)


def test_the_report_lists_the_lengths_of_each_pair(folders):
    result = next(iter(records.load_results([folders["some"]]).values()))
    data = explorer.make_explorer([result], ["one"])
    assert data["pairs"][0]["lengths"] == [0, 2, 3]
    log = log_of(folders["some"])
    for row in data["rows"]:
        own = [e for e in log["debug_examples"] if e["config"]["target_idx"] == row["target"]]
        for places, example in zip(row["prompts"], own, strict=True):
            whole = "".join(data["strings"][place] for place in places)
            assert whole == example["prompt_text"]
        for places, example in zip(row["cued"], own[1:], strict=True):
            whole = "".join(data["strings"][place] for place in places)
            assert whole == example["cued"]["prompt_text"]
