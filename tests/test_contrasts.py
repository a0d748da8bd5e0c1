"""Claims about contrasts: the same targets, paired, tested by what other libraries test."""

import csv
import io
import itertools
import json

import matplotlib
import numpy as np
import pytest
import scipy.stats
import stored
from statsmodels.stats.contingency_tables import mcnemar

import viz
from core import records, schema
from core.errors import UserError
from measures import contrasts, metrics, regression, stats
from reports import answer, style
from reports import contrasts as contrast_report
from reports.contrasts import contrast_figures, render
from reports.grid import grid_figures

matplotlib.use("agg")
OWN, OTHER = "quiz/dev", "posts/test"
TURNS = [{"role": ("user", "assistant")[i % 2], "content": ""} for i in range(9)]
BASE = [1.0, 0.0] * 15
WORSE = [0.0] * 20 + [1.0, 0.0] * 5
BETTER = [1.0] * 20 + [0.0] * 10


def write(
    folder, *rows, target="quiz/test", distractor=OTHER, model="org/name", metric="accuracy",
    seed=0, targets=None, shared=None, cued=None, scale=1, **config,
):  # fmt: skip
    """Write a result and its log: a row of scores for each h; returns the result's path."""
    examples = []
    for h, row in enumerate(rows):
        for place, score in enumerate(row):
            idx = place if targets is None else targets[place]
            number = {} if shared is None else {"history_number": place % shared}
            made = {"history_len": h, "target_idx": idx, "history_idx": [], "seed": seed} | number
            examples.append(
                {"prompt_text": f"{idx}", "model_prediction": "", "expected_answer": "", "top5": []}
                | {"config": made, "score": float(score), "conversation": 0}
                | {"margin": [0.0, scale * score]}
            )
            if cued is not None:
                examples[-1]["cued"] = {"score": float(cued[h][place])}
    names = {"model": model, "target": target, "distractor": distractor, "metric_name": metric}
    names["schema_version"] = schema.SCHEMA_VERSION
    settings = {"history": "teacher", "seed": [seed], "prompt": "chat", "limit": None} | config
    path = records.result_path(folder, model, target, distractor)
    found = metrics.aggregate(examples, metric) | {"config": settings, "environment": {}}
    log = {"debug_examples": examples, "conversations": [TURNS]}
    stored.write_pair(path, names | found, names | log)
    return path


def rows_of(*folders, **options):
    return contrasts.contrasts(records.load_results(folders), **options)


def pair(tmp_path, own, other, base=BASE, **more):
    write(tmp_path, base, own, distractor=OWN, **more)
    write(tmp_path, base, other, **more)
    return rows_of(tmp_path)


# --- one distractor against another


def test_another_distractor_is_compared_with_the_targets_own_task(tmp_path):
    (row,) = pair(tmp_path, BETTER, WORSE)
    assert tuple(row) == (*contrasts.COLUMNS, "why_null", "settings")
    assert (row["distractor"], row["against"], row["h"], row["n"]) == (OTHER, OWN, 1, 30)
    assert row["difference_points"] == pytest.approx(100 * (np.mean(WORSE) - np.mean(BETTER)))
    assert row["high"] < 0 and row["p_value"] < 0.05 and "h = 0 is shared" in row["note"]


def test_without_the_own_task_every_pair_is_compared(tmp_path):
    for name in ("posts/test", "reviews/test", "tweetqa/test"):
        write(tmp_path, BASE, WORSE, distractor=name)
    assert [(row["distractor"], row["against"]) for row in rows_of(tmp_path)] == [
        ("posts/test", "reviews/test"), ("posts/test", "tweetqa/test"),
        ("reviews/test", "tweetqa/test"),
    ]  # fmt: skip
    named = rows_of(tmp_path, against="tweetqa")
    assert [row["against"] for row in named] == ["tweetqa/test"] * 2


@pytest.mark.parametrize("metric", ["accuracy", "rouge"])
def test_a_distractor_against_itself_is_exactly_0_with_p_1(tmp_path, metric):
    (row,) = pair(tmp_path, WORSE, WORSE, metric=metric)
    assert (row["difference_points"], row["p_value"], row["p_holm"]) == (0, 1, 1)


@pytest.mark.parametrize(("metric", "shared"), [("accuracy", None), ("rouge", None), ("rouge", 9)])
def test_swapping_the_sides_changes_every_sign_and_nothing_else(tmp_path, metric, shared):
    rng = np.random.default_rng(3)
    one, two = rng.random((2, 30)).round() if metric == "accuracy" else rng.random((2, 30))
    for name, row in (("posts/test", one), ("reviews/test", two)):
        write(tmp_path, BASE, row, distractor=name, metric=metric, shared=shared)
    (there,) = rows_of(tmp_path, against="posts")
    (back,) = rows_of(tmp_path, against="reviews")
    for name in ("p_value", "n", "clusters", "detectable_points", "metric", "h"):
        assert there[name] == back[name], name
    ends = [there["difference_points"], there["low"], there["high"]]
    assert ends == pytest.approx([-back["difference_points"], -back["high"], -back["low"]])


def test_accuracy_is_tested_by_mcnemar(tmp_path):
    (row,) = pair(tmp_path, BETTER, WORSE)
    gained, lost = (int((np.subtract(WORSE, BETTER) == sign).sum()) for sign in (1, -1))
    exact = mcnemar([[0, gained], [lost, 0]], exact=True).pvalue
    seen = scipy.stats.binom.pmf(gained, gained + lost, 0.5)
    assert row["p_value"] == pytest.approx(exact - seen)


def test_scores_are_tested_by_every_flip_of_signs(tmp_path):
    one, two = np.random.default_rng(4).random((2, 9)).round(2)
    (row,) = pair(tmp_path, one, two, base=[0.5] * 9, metric="rouge")
    changes = two - one
    sums = [abs(np.dot(signs, changes)) for signs in itertools.product((-1, 1), repeat=9)]
    assert row["p_value"] == np.mean(np.array(sums) >= abs(changes.sum()) - 1e-12)


def test_targets_that_share_a_history_on_either_side_are_one_cluster(tmp_path):
    write(tmp_path, BASE, BETTER, distractor=OWN, shared=10)
    write(tmp_path, BASE, WORSE, shared=15)
    assert rows_of(tmp_path)[0]["clusters"] == 5  # the same by 10 or by 15


def test_p_values_are_corrected_over_all_that_was_scanned(tmp_path):
    write(tmp_path, BASE, BASE, BETTER, distractor=OWN)
    write(tmp_path, BASE, WORSE, WORSE)
    write(tmp_path, BASE, BASE, BASE, distractor="reviews/test")
    rows = rows_of(tmp_path)
    assert len(rows) == 4
    smallest = min(rows, key=lambda row: row["p_value"])
    assert smallest["p_holm"] == pytest.approx(min(1, 4 * smallest["p_value"]))


# --- other things that can be compared


def test_changes_of_two_models_have_the_room_that_their_baselines_leave(tmp_path):
    """A metric that would be 0.5 at h with the change of the other can change by 50 points."""
    write(tmp_path, [1.0, 0.0] * 4, [0.0, 0.0, 1.0, 1.0] * 2, model="org/a")
    write(tmp_path, [0.0, 1.0] * 4, [0.0, 1.0] * 4, model="org/b")
    (row,) = rows_of(tmp_path, by="model")
    assert 50 < stats.detectable_mean(100 * np.std([-1, 0, 0, 1] * 2, ddof=1), 8) < 100
    assert row["detectable_points"] is None and "too few scores" in row["note"]


def test_models_are_compared_by_their_changes(tmp_path):
    write(tmp_path, BASE, BETTER, model="org/a", revision="1")
    write(tmp_path, BETTER, BETTER, model="org/b", revision="2")
    (row,) = rows_of(tmp_path, by="model")
    assert (row["model"], row["against"]) == ("org/a", "org/b")
    assert row["difference_points"] == pytest.approx(100 * (np.mean(BETTER) - np.mean(BASE)))
    assert "difference of the changes" in row["note"]


def test_histories_are_compared_and_a_cue_by_its_own_scores(tmp_path):
    write(tmp_path / "teacher", BASE, WORSE)
    write(tmp_path / "cue", BASE, WORSE, cued=[BASE, BETTER], switch_cue="New task.")
    (row,) = rows_of(tmp_path, by="history", against="teacher")
    assert (row["history"], row["against"]) == ("teacher, cue", "teacher")
    assert row["difference_points"] == pytest.approx(100 * np.mean(np.subtract(BETTER, WORSE)))


def test_seeds_are_compared_on_the_same_targets(tmp_path):
    write(tmp_path / "0", BASE, WORSE, seed=0)
    write(tmp_path / "1", BASE, BETTER, seed=1)
    (row,) = rows_of(tmp_path, by="seed")
    assert (row["seed"], row["against"], row["n"]) == ("0", "1", 30)


def test_any_setting_that_differs_can_be_compared(tmp_path):
    write(tmp_path / "chat", BASE, WORSE)
    write(tmp_path / "plain", BASE, BETTER, prompt="plain")
    (row,) = rows_of(tmp_path, by="prompt")
    assert row["against"] == "plain" and row["note"].startswith("prompt chat against plain")


def test_a_layer_measure_is_compared_at_a_block_in_its_own_unit(tmp_path):
    write(tmp_path, BASE, BETTER, distractor=OWN)
    write(tmp_path, BASE, WORSE)
    (row,) = rows_of(tmp_path, reading=contrasts.Reading("margin", 2))
    assert row["difference_points"] == pytest.approx(np.mean(np.subtract(WORSE, BETTER)))
    assert row["metric"] == "margin at block 2"
    text = render([row], "markdown")
    assert "Difference (margin at block 2)" in text and "points" not in text
    with style.sheet():
        (drawn,) = contrast_figures([row], "distractor")
    assert drawn.stem.endswith("contrast__margin_at_block_2")  # no other's file
    with pytest.raises(UserError, match="no margin at block 3: blocks are 1 to 2"):
        rows_of(tmp_path, reading=contrasts.Reading("margin", 3))


# --- what is refused


def test_a_layer_measure_has_its_own_bounds_for_what_can_be_detected(tmp_path, monkeypatch):
    write(tmp_path, BASE, BASE, distractor=OWN, scale=500)
    write(tmp_path, BASE, BASE[::-1], scale=500)  # each mean is 250 points, and all targets differ
    [row] = rows_of(tmp_path, reading=contrasts.Reading("margin", 2))
    assert row["detectable_points"] > 250  # nats, of which there is no end
    monkeypatch.setitem(contrasts.layers.BOUNDS, "margin", (0.0, 500.0))
    [row] = rows_of(tmp_path, reading=contrasts.Reading("margin", 2))
    assert row["detectable_points"] is None and "too few scores" in row["note"]


@pytest.mark.parametrize("base", [None, 0.2])
def test_what_is_detectable_is_the_same_from_either_side(tmp_path, base):
    """From a half a mean can move by 50 points, from a quarter by 75; 53.5 are detectable."""
    half, low = [0.5] * 8, [0, 0, 0, 0, 0, 0, 1, 1]
    zero = [0.5] * 8, [0.5 if base is None else base] * 8
    for name, base, row in zip(("posts/test", "reviews/test"), zero, (half, low)):
        write(tmp_path, base, row, distractor=name, metric="rouge")
    there, back = (rows_of(tmp_path, against=name)[0] for name in ("posts", "reviews"))
    assert (
        there["detectable_points"] == back["detectable_points"] == pytest.approx(53.514, abs=1e-3)
    )


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ({}, {"targets": range(1, 31)}, "other targets: 1 of 30 .* their rows are not the same"),
        ({"seed": 0}, {"seed": 7, "targets": range(5, 35)}, "nothing to compare"),
        ({"limit": 30}, {"limit": 40}, "differ in more than distractor: limit .40 and 30"),
        ({}, {"prompt": "plain"}, "differ in more than distractor: prompt .plain and chat"),
        ({}, {"metric": "rouge"}, "their metrics are"),
        (
            {"target_labels": ["no", "yes"]},
            {"target_labels": ["no", "yes", "maybe"]},
            "differ in more than distractor: target_labels",
        ),
        (
            {"mix": "target_first", "max_len": 3},
            {"mix": "target_first", "max_len": 4},
            "differ in more than distractor: max_len .4 and 3",
        ),
        (
            {"history": "shuffled", "max_len": 3},
            {"history": "shuffled", "max_len": 2},
            "differ in more than distractor: max_len .2 and 3",
        ),
    ],
)
def test_what_differs_in_more_than_what_is_compared_is_refused(tmp_path, first, second, said):
    write(tmp_path, BASE, BETTER, distractor=OWN, **first)
    write(tmp_path, BASE, WORSE, **second)
    with pytest.raises(UserError, match=f"(?s){said}"):
        rows_of(tmp_path)


def test_a_measure_of_layers_is_compared_under_one_lens(tmp_path):
    write(tmp_path, BASE, BETTER, distractor=OWN, lens="raw")
    write(tmp_path, BASE, WORSE, lens="logit")
    assert len(rows_of(tmp_path)) == 1  # of scores, which no lens changes
    with pytest.raises(UserError, match="differ in more than distractor: lens"):
        rows_of(tmp_path, reading=contrasts.Reading("margin", 2))


def test_other_longest_histories_are_compared_where_shorter_ones_are_their_beginnings(tmp_path):
    for mix in ("distractor", "interleaved"):
        write(tmp_path / mix, BASE, BETTER, distractor=OWN, mix=mix, max_len=3)
        write(tmp_path / mix, BASE, WORSE, mix=mix, max_len=4)
        assert [row["h"] for row in rows_of(tmp_path / mix)] == [1]
    write(tmp_path / "kinds", BASE, BETTER, history="teacher", max_len=3)
    write(tmp_path / "kinds" / "more", BASE, WORSE, history="shuffled", max_len=4)
    assert [row["h"] for row in rows_of(tmp_path / "kinds", by="history")] == [1]


def test_skipped_targets_are_named_where_targets_differ(tmp_path):
    write(tmp_path, BASE, BETTER, distractor=OWN)
    path = write(tmp_path, BASE[:28], WORSE[:28])
    records.write_json(path, records.read_json(path) | {"n_skipped": 2})
    with pytest.raises(UserError, match=r"(?s)2 of 30 .* 2 and 0 targets were skipped"):
        rows_of(tmp_path)


def test_a_field_in_which_nothing_differs_is_refused(tmp_path, capsys):
    write(tmp_path, BASE, WORSE)
    assert viz.main(["contrast", "--result_dir", str(tmp_path), "--by", "dtype"]) == 2
    assert len(capsys.readouterr().err.splitlines()) <= 2


# --- table and figure


def shown(capsys, *arguments):
    assert viz.main([*map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_csv_and_json_hold_the_same_numbers_under_the_same_names(tmp_path, capsys):
    pair(tmp_path, BETTER, WORSE)
    command = ("contrast", "--result_dir", tmp_path, "--format")
    (row,) = csv.DictReader(io.StringIO(shown(capsys, *command, "csv")))
    (same,) = json.loads(shown(capsys, *command, "json"))
    assert tuple(row) == tuple(same) == contrasts.COLUMNS
    assert float(row["difference_points"]) == same["difference_points"]
    text = shown(capsys, *command, "markdown")
    assert "Difference: Distractor less Against, in points, on" in text
    assert "over the tests of this table (1)" in text
    assert shown(capsys, "table", "--result_dir", tmp_path, "--contrast") == text


def test_a_line_below_the_table_says_why_an_interval_is_not_there(tmp_path, capsys):
    few = [*BASE[:4], *(1 - score for score in BASE[4:6]), *BASE[6:]]  # two of 30 differ
    write(tmp_path, BASE, BASE, few, distractor=OWN, metric="rouge")
    write(tmp_path, BASE, BASE, BASE, metric="rouge")
    command = ("contrast", "--result_dir", tmp_path, "--format")
    text = shown(capsys, *command, "markdown")
    first, second = (line.split("|") for line in text.splitlines()[2:4])
    assert [cell.strip() for cell in first[5:]] == ["0.0 (a)", "1.000", "1.000", "30", "(b)", ""]
    assert second[5].strip() == "0.0 (a)"
    legend = text.splitlines()[5]
    assert legend.startswith(
        "Cannot be computed: (a) an interval needs 7 targets that differ; (b) "
    )
    assert "Brackets" not in text and "column note" not in text
    assert "(a) an interval needs 7 targets that differ" in shown(capsys, *command, "latex")


def test_contrasts_with_another_side_are_figures_of_another_name(tmp_path, capsys):
    for name in (OWN, OTHER, "reviews/test"):
        write(tmp_path / "in", BASE, WORSE, distractor=name)
    flags = ("contrast", "--result_dir", tmp_path / "in", "--out_dir", tmp_path / "out")
    for against in ([], ["--against", OTHER], ["--against", "reviews"]):
        shown(capsys, *flags, *against)
    names = {path.stem for path in (tmp_path / "out").iterdir()}
    sides = ("", "__against_posts_test", "__against_reviews")
    assert names == {f"org@name__contrast{side}" for side in sides}


def test_a_figure_without_intervals_speaks_of_none(tmp_path):
    write(tmp_path / "few", BASE, BASE, distractor=OWN, metric="rouge")
    write(tmp_path / "few", BASE, BASE, metric="rouge")
    pair(tmp_path / "many", BETTER, WORSE)
    for name, spoken in (("few", False), ("many", True)):
        with style.sheet():
            [drawn] = contrast_figures(rows_of(tmp_path / name), "distractor")
        assert ("Bars: 95% intervals" in drawn.caption) == spoken


def test_what_against_can_name_is_said(tmp_path):
    pair(tmp_path, BETTER, WORSE)
    with pytest.raises(UserError, match=f"one of them xx.\nThere are {OTHER}, {OWN}."):
        rows_of(tmp_path, against="xx")


def test_brackets_are_explained_where_there_are_any(tmp_path, capsys):
    pair(tmp_path, BETTER, WORSE)
    text = shown(capsys, "contrast", "--result_dir", tmp_path)
    assert "Brackets: 95% intervals" in text and "Cannot be computed" not in text


def test_a_figure_has_a_row_for_each_pair_and_h_and_a_line_at_0(tmp_path, capsys):
    write(tmp_path / "in", BASE, BASE, BETTER, distractor=OWN)
    write(tmp_path / "in", BASE, WORSE, WORSE)
    out = tmp_path / "out"
    paths = shown(capsys, "contrast", "--result_dir", tmp_path / "in", "--out_dir", out, "--paper")
    names = {"pdf", "svg", "png", "txt"}
    assert {path.suffix[1:] for path in out.iterdir()} == names and str(out) in paths
    assert all(path.stem == "org@name__contrast" for path in out.iterdir())


def test_what_every_row_of_a_figure_shares_stands_in_its_title_alone(tmp_path):
    write(tmp_path / "teacher", BASE, BETTER)
    write(tmp_path / "filler", BASE, WORSE, history="filler")
    found = contrasts.contrasts(records.load_results([tmp_path]), "history", "teacher")
    with style.sheet():
        [drawn] = contrast_report.contrast_figures(found, "history")
    [axes] = drawn.figure.axes
    [label] = [label.get_text() for label in axes.get_yticklabels()]
    assert label.replace("\N{NO-BREAK SPACE}", " ") == "filler against teacher, h = 1"
    assert f"quiz/test after {OTHER}" in axes.get_title() + str(drawn.figure.get_suptitle())


def test_a_grid_of_contrasts_has_the_own_task_as_its_zero(tmp_path, capsys):
    write(tmp_path / "in", BASE, BETTER, distractor=OWN)
    write(tmp_path / "in", BASE, WORSE)
    arguments = ("grid", "--contrast", "--result_dir", tmp_path / "in", "--out_dir", tmp_path / "o")
    assert "grid_contrast__h1.{pdf,svg,png}" in shown(capsys, *arguments)


def test_in_a_grid_of_contrasts_the_own_task_is_not_marked_as_a_test_that_found_nothing(tmp_path):
    pair(tmp_path, BASE, BASE)
    results = records.load_results([tmp_path])
    frame = contrast_report.make_frame(contrasts.contrasts(results), results)
    with style.sheet():
        [drawn] = grid_figures(frame, 1)
    axes = drawn.figure.axes[0]
    across = [label.get_text() for label in axes.get_xticklabels()]
    texts = {text.get_position()[0]: text.get_text() for text in axes.texts}
    assert texts[across.index(OWN)] == "own\ntask"
    [hatched] = axes.patches
    assert hatched.get_x() + 0.5 == across.index(OTHER)


# --- in words, and over a whole grid


def answer_of(folder):
    return answer.make_answer(records.load_results([folder]))


def intrusion_of(folder):
    results = list(records.load_results([folder]).values())
    return answer.intrusion(results, [f"pair {i}" for i in range(len(results))])


def test_the_answer_begins_with_the_switch_that_hurts_most(tmp_path):
    write(tmp_path, BASE, BASE, BETTER, distractor=OWN)
    write(tmp_path, BASE, BASE, WORSE)
    said = answer_of(tmp_path)["sentence"]
    row = next(row for row in rows_of(tmp_path) if row["h"] == 2)
    low, high = (f"{-row[end]:.1f}" for end in ("high", "low"))
    p = "p < 0.001" if row["p_holm"] < 0.001 else f"p = {row['p_holm']:.3f}"
    assert said == (
        "The switch hurts in 1 of 2 contrasts with the target's own task. After 2 turns of "
        "posts/test, accuracy of quiz/test is 50.0 points lower than after 2 turns of its own task "
        f"(quiz/dev) (95% interval {low} to {high}, n = 30, {p} "
        "after Holm's correction over 2 tests)."
    )


def test_an_answer_without_an_effect_does_not_say_that_there_is_none(tmp_path):
    pair(tmp_path, BASE, BASE)
    assert answer_of(tmp_path)["sentence"].startswith(
        "Nothing here shows that the switch hurts, nor that it does not: the one contrast with the "
        "target's own task is not significant. The lowest: after 1 turn of posts/test, accuracy"
    )


def test_without_the_own_task_the_answer_says_what_to_run(tmp_path):
    write(tmp_path, BASE, WORSE)
    assert answer_of(tmp_path)["sentence"] == answer.ALONE


def test_pairs_that_cannot_be_compared_are_named_and_the_others_compared(tmp_path):
    write(tmp_path, BASE, BETTER, distractor=OWN)
    write(tmp_path, BASE, WORSE)
    write(tmp_path, BASE[1:], WORSE[1:], distractor="reviews/test")
    found = answer_of(tmp_path)
    assert len(found["all"]) == 1 and "have other targets" in found["refused"][0]


def test_intrusion_is_named_where_results_hold_it(tmp_path):
    write(tmp_path, BASE, BETTER, distractor=OWN)
    path = write(tmp_path, BASE, WORSE)
    assert intrusion_of(tmp_path) == {"sentence": "", "rows": [], "lengths": []}
    entry = {"margin": None, "margin_by_block": [], "n": 30, "low": 0.2, "high": 0.6}
    held = {"0": entry | {"rate": 0.1}, "1": entry | {"rate": 0.4}}
    records.write_json(path, records.read_json(path) | {"intrusion_by_len": held})
    found = intrusion_of(tmp_path)
    assert found["sentence"] == (
        "After 1 turn of posts/test, 40% [20%, 60%] of the answers to quiz/test have the form of "
        "an answer to posts/test; without a history 10% have it (n = 30)."
    )
    results = list(records.load_results([tmp_path]).values())
    names = ["quiz/test after posts/test (history filler, cue) (seed 1)", ""]
    said = answer.intrusion(results, names)["sentence"]
    assert said.endswith("10% have it (n = 30, history filler, cue, seed 1).")
    [row] = found["rows"]
    assert (row["name"], row["measure"]) == ("pair 0", "intrusion")
    assert row["cells"] == ["10% [20%, 60%]", "40% [20%, 60%]"]


def grid(effect, binary, seed=5, targets=30):
    """Rows of two tasks after three distractors at two lengths, with a known switch effect."""
    rng = np.random.default_rng(seed)
    found = []
    for task, i, distractor, h in itertools.product("ab", range(targets), "abc", (1, 2)):
        share = {"a": 0.6, "b": 0.45}[task] - effect * (distractor != task)
        score = float(rng.random() < share) if binary else share + 0.2 * rng.normal()
        found.append((score, distractor != task, task, h, (task, i), (distractor, i)))
    scores, switch, *names = zip(*found)
    return regression.Rows(np.array(scores), np.array(switch), *map(list, names))


def over_all(*folders):
    pairs, _ = contrasts.comparable(records.load_results(folders))
    return contrasts.switch_effects(pairs)


def test_the_regression_takes_what_contrasts_may_compare_and_nothing_else(tmp_path):
    write(tmp_path / "a", BASE, BETTER, distractor=OWN)
    write(tmp_path / "a", BASE, WORSE)
    [alone] = over_all(tmp_path / "a")
    assert alone["n"] == 60 and alone["points"] == pytest.approx(-50.0, abs=0.1)
    write(tmp_path / "b", BASE, BETTER, distractor="reviews/test", limit=40)
    write(tmp_path / "c", BASE[1:], BETTER[1:], distractor="reviews/dev")
    write(tmp_path / "d", BASE, BETTER, distractor="posts/dev", dtype="bfloat16")
    assert over_all(*(tmp_path / name for name in "abcd")) == [alone]


def test_the_regression_takes_lengths_that_both_histories_have(tmp_path):
    write(tmp_path, BASE, BETTER, BETTER, distractor=OWN)
    write(tmp_path, BASE, WORSE)
    write(tmp_path, BASE, WORSE, WORSE, target="acts/test")
    write(tmp_path, BASE, BETTER, target="acts/test", distractor="acts/dev")
    [found] = over_all(tmp_path)
    assert found["n"] == 120


def test_targets_that_were_run_under_other_settings_are_not_pooled(tmp_path):
    for target, own, dtype in (
        ("quiz/test", OWN, "float32"),
        ("acts/test", "acts/test", "float16"),
    ):
        write(tmp_path, BASE, BETTER, target=target, distractor=own, dtype=dtype)
        write(tmp_path, BASE, WORSE, target=target, dtype=dtype)
    [found] = over_all(tmp_path)
    assert found["points"] is None
    assert found["reason"] == "its targets were run under other settings: dtype"
    assert "other settings: dtype" in answer_of(tmp_path)["not_estimated"][0]


def test_regressions_that_a_setting_tells_apart_are_named_by_it(tmp_path):
    for prompt in ("chat", "plain"):
        write(tmp_path / prompt, BASE, BETTER, distractor=OWN, prompt=prompt)
        write(tmp_path / prompt, BASE, WORSE, prompt=prompt)
    said = answer_of(tmp_path)["over_all"]
    assert [prompt in text for prompt, text in zip(("prompt chat", "prompt plain"), said)] == [
        True
    ] * 2


def test_the_own_task_in_another_split_is_no_switch(tmp_path):
    write(tmp_path, BASE, BETTER, distractor=OWN)
    write(tmp_path, BASE, WORSE, distractor="quiz/test")
    found = answer_of(tmp_path)
    assert len(found["all"]) == 1 and not found["switch"] and not found["over_all"]
    assert found["sentence"] == answer.ALONE


@pytest.mark.parametrize("binary", [True, False])
def test_one_regression_finds_the_marginal_effect_of_a_switch(binary):
    found = regression.switch_effect(grid(0.2, binary), binary=binary)
    assert found["low"] <= -20 <= found["high"] < 0 and found["p_value"] < 0.05
    assert found["clusters"] == 30  # targets of one number share histories


def test_a_linear_regression_is_that_of_least_squares():
    rows = grid(0.2, False)
    x = np.stack(
        [rows.switch, np.ones(len(rows.h)), np.array(rows.task) == "b", np.array(rows.h) == 2]
    )
    by_hand = np.linalg.lstsq(x.T.astype(float), rows.scores, rcond=None)[0][0]
    assert regression.switch_effect(rows, binary=False)["points"] == pytest.approx(100 * by_hand)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (grid(0.2, True, targets=8), "8 clusters, and robust errors need 20"),
        (grid(0.2, True)._replace(scores=np.ones(360)), "separation"),
        (grid(0.2, True)._replace(switch=np.ones(360, dtype=bool)), "only histories with"),
    ],
)
def test_what_the_data_cannot_bear_is_null_with_its_reason(rows, reason):
    found = regression.switch_effect(rows, binary=True)
    assert found["points"] is found["low"] is found["p_value"] is None
    assert reason in found["reason"]
