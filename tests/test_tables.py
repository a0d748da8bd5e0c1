"""Claims about `viz.py table` and `viz.py grid`, on small synthetic results."""

import csv
import errno
import io
import os
import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.patches import Rectangle
from small_results import complains
from statsmodels.stats.multitest import multipletests
from stored import write_pair as store

import viz
from core import records, schema
from measures import metrics
from reports import grid, style, tables

N = 40
UNCHANGED = [1.0] * 20 + [0.0] * 20
WORSE = [0.0] * 18 + [1.0] * 2 + [0.0] * 20
SLIGHTLY = [0.0] * 3 + [1.0] * 17 + [0.0] * 20


@pytest.fixture(autouse=True)
def settings():
    """Figures are made under the settings that they are saved with."""
    with style.sheet():
        yield


def write(
    folder: Path,
    *rows: list[float],
    model: str = "org/name",
    target: str = "quiz/test",
    distractor: str = "posts/test",
    metric_name: str = "accuracy",
    **config: object,
) -> Path:
    """Write a result with these scores, a row per history length; returns its path."""
    examples = [
        {"config": {"history_len": h, "target_idx": i}, "score": score, "top5": []}
        for h, row in enumerate(rows)
        for i, score in enumerate(row)
    ]
    identity = {"schema_version": schema.SCHEMA_VERSION, "model": model, "target": target}
    identity |= {"distractor": distractor, "metric_name": metric_name}
    path = records.result_path(folder, model, target, distractor)
    aggregates = metrics.aggregate(examples, metric_name)
    result = identity | aggregates | {"config": config, "environment": {}}
    store(path, result, {})
    return path


def write_grid(folder: Path) -> None:
    """Two models; the second lacks a pair and has another that is one turn longer."""
    for model in ("org/a", "org/b"):
        write(folder, UNCHANGED, UNCHANGED, WORSE, model=model, distractor="posts/test")
        write(folder, UNCHANGED, UNCHANGED, SLIGHTLY, model=model, distractor="quiz/test")
        if model == "org/a":
            write(folder, UNCHANGED, WORSE, WORSE, model=model, target="reviews/test")
        rows = (UNCHANGED, UNCHANGED, UNCHANGED, WORSE)
        write(folder, *rows, model=model, target="reviews/test", distractor="quiz/test")


def table(*arguments: object) -> int:
    return viz.main(["table", "--result_dir", *map(str, arguments)])


def draw(*arguments: object) -> int:
    return viz.main(["grid", "--result_dir", *map(str, arguments)])


def rows_of(capsys, *arguments: object) -> list[dict[str, str]]:
    assert table(*arguments, "--format", "csv") == 0
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def frame_of(*folders: Path):
    return tables.make_frame(records.load_results(folders))


# --- table


def test_csv_holds_every_stored_number_in_full_precision(tmp_path, capsys):
    path = write(tmp_path, UNCHANGED, SLIGHTLY, WORSE)
    result = records.read_result(path)
    rows = rows_of(capsys, tmp_path)
    assert [row["h"] for row in rows] == ["0", "1", "2"]
    for row, (h, stored) in zip(rows, result["stats_by_len"].items()):
        assert (row["model"], row["target"], row["distractor"]) == (
            "org/name", "quiz/test", "posts/test",
        )  # fmt: skip
        assert float(row["value"]) == result["metric_by_len"][h]
        for name in (*tables.COPIED, "n", "n_targets", "detectable_points"):
            expected = stored[name]
            if expected is None:
                assert row[name] == "", name
                assert stored[f"{name}_reason"] in row["note"]
            else:
                assert type(expected)(row[name]) == expected, name
        assert row["resampled"] == "40 targets"


def write_runs(folder: Path) -> None:
    """Runs of one pair: two seeds, and another history of the first seed."""
    for name, rows, history, seed in (
        ("a", (UNCHANGED, SLIGHTLY), "teacher", 0),
        ("b", (UNCHANGED, WORSE), "teacher", 1),
        ("c", (UNCHANGED, UNCHANGED), "model", 0),
    ):
        write(folder / name, *rows, history=history, seed=[seed])


def test_csv_names_history_and_seed_of_every_row(tmp_path, capsys):
    write_runs(tmp_path)
    rows = rows_of(capsys, tmp_path)
    found = [(row["history"], row["seed"], row["h"], row["change_points"]) for row in rows]
    assert found[1::2] == [
        ("model", "0", "1", "0.0"), ("teacher", "0", "1", "-7.5"), ("teacher", "1", "1", "-45.0")
    ]  # fmt: skip
    assert list(rows[0])[:6] == ["model", "target", "distractor", "history", "seed", "h"]


@pytest.mark.parametrize(
    ("runs", "head"),
    [("a", []), ("ab", ["Seed"]), ("ac", ["History"]), ("abc", ["History", "Seed"])],
)
@pytest.mark.parametrize("form", ["markdown", "latex"])
def test_a_table_to_read_has_history_and_seed_only_where_they_vary(
    tmp_path, capsys, runs, head, form
):
    write_runs(tmp_path)
    assert table(*(tmp_path / name for name in runs), "--format", form) == 0
    text = capsys.readouterr().out
    line = next(line for line in text.splitlines() if "Distractor" in line)
    names = [cell.strip() for cell in re.split(r"[|&]", line.strip("|"))]
    assert names[: 4 + len(head)] == ["Model", "Target", "Distractor", *head, "h"]


def test_p_values_are_corrected_over_the_whole_table(tmp_path, capsys):
    write_grid(tmp_path / "results")
    write(tmp_path / "more", UNCHANGED, WORSE, model="org/c")
    rows = rows_of(capsys, tmp_path / "results", tmp_path / "more")
    tested = [row for row in rows if row["p_value"]]
    assert len(tested) == 2 * (2 + 2 + 3) + 2 + 1
    expected = multipletests([float(row["p_value"]) for row in tested], method="holm")[1]
    assert [float(row["p_holm_table"]) for row in tested] == pytest.approx(expected)


def test_stars_are_for_corrected_p_values_only(tmp_path, capsys):
    five_fewer = [0.0] * 5 + UNCHANGED[5:]  # mid-p = 1 / 2**5 = 0.03125
    write(tmp_path / "one", UNCHANGED, five_fewer)
    (row,) = rows_of(capsys, tmp_path / "one")[1:]
    assert (float(row["p_value"]), row["stars"]) == (pytest.approx(0.03125), "*")
    write(tmp_path / "two", UNCHANGED, UNCHANGED, distractor="quiz/test")
    row, _ = (row for row in rows_of(capsys, tmp_path / "one", tmp_path / "two") if row["h"] == "1")
    assert (float(row["p_holm_table"]), row["stars"]) == (pytest.approx(0.0625), "")


@pytest.mark.parametrize(
    ("corrected", "mark"),
    [
        (0.05, ""),
        (0.049, "*"),
        (0.01, "*"),
        (0.009, "**"),
        (0.001, "**"),
        (0.0009, "***"),
        (None, ""),
    ],
)
def test_the_levels_of_the_stars(corrected, mark):
    assert tables.stars(corrected) == mark


def test_markdown_is_rounded_and_says_what_was_corrected(tmp_path, capsys):
    write(tmp_path, UNCHANGED, WORSE)
    assert table(tmp_path, "--format", "markdown") == 0
    head, rule, first, second, _, note = capsys.readouterr().out.splitlines()
    assert len({line.count("|") for line in (head, rule, first, second)}) == 1
    cells = [cell.strip() for cell in second.strip("|").split("|")]
    assert cells[:6] == [
        "org/name", "quiz/test", "posts/test", "1", "accuracy", "0.050 [0.014, 0.165]"
    ]  # fmt: skip
    assert re.fullmatch(r"-45\.0 \[-60\.2, -30\.7]\*\*\*", cells[6])
    assert cells[8] == cells[9] == "4e-06"  # mid-p: 1 / 2**18
    assert [cell.strip() for cell in first.strip("|").split("|")][6:10] == [""] * 4
    assert "over the 1 comparisons" in note


def test_latex_is_escaped_and_whole(tmp_path):
    odd = "org/50%_of_{it}&more#1$~^"
    write(tmp_path / "results", UNCHANGED, WORSE, model=odd)
    out = tmp_path / "new" / "table.tex"
    assert table(tmp_path / "results", "--format", "latex", "--out", out) == 0
    text = out.read_text()
    assert r"org/50\%\_of\_\{it\}\&more\#1\$\textasciitilde \textasciicircum " in text
    escaped, mathematics, between_cells = r"\\[\\{}%$#&_]", r"\$p < [\d.]+\$", " & "
    plain = re.sub("|".join((escaped, mathematics, between_cells)), "", text)
    assert not re.search(r"[%$#&_^~]", plain)
    assert plain.count("{") == plain.count("}")
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    columns = re.search(r"\\begin{tabular}{([lr]+)}", text)[1]
    for line in body.splitlines():
        if line.endswith(r"\\"):
            assert len(re.findall(r"(?<!\\)&", line)) == len(columns) - 1
    assert not re.search(r"[<>|]", body)  # which the default font encoding prints as others


def test_a_table_can_be_written_to_a_file(tmp_path, capsys):
    write(tmp_path / "results", UNCHANGED, WORSE)
    out = tmp_path / "new" / "table.csv"
    assert table(tmp_path / "results", "--format", "csv", "--out", out) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert out.read_text() == tables.render(frame_of(tmp_path / "results"), "csv")


@pytest.mark.parametrize("command", ["table", "report"])
@pytest.mark.parametrize("folder", ["plots", ".", "/"])
def test_a_folder_in_place_of_a_file_is_two_plain_lines(
    tmp_path, capsys, monkeypatch, command, folder
):
    write(tmp_path / "results", WORSE)
    (tmp_path / "plots").mkdir()
    monkeypatch.chdir(tmp_path)
    assert viz.main([command, "--result_dir", "results", "--out", folder]) == 2
    assert complains(capsys, f"--out {folder} is a folder")
    assert sorted(os.listdir(tmp_path)) == ["plots", "results"]
    assert os.listdir(tmp_path / "plots") == []


def test_a_table_that_cannot_be_written_leaves_the_old_one(tmp_path, capsys, monkeypatch):
    write(tmp_path / "results", WORSE)
    out = tmp_path / "table.csv"
    out.write_text("old")
    monkeypatch.setattr("os.fsync", disk_is_full)
    assert table(tmp_path / "results", "--format", "csv", "--out", out) == 2
    assert complains(capsys, "No space left")
    assert out.read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["results", "table.csv"]


def disk_is_full(descriptor):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_folder_given_twice_counts_once(tmp_path, capsys):
    write(tmp_path / "results", UNCHANGED, WORSE)
    round_about = tmp_path / "results" / ".." / "results"
    assert len(rows_of(capsys, tmp_path / "results", tmp_path, round_about)) == 2


def test_two_results_of_one_pair_are_refused(tmp_path, capsys):
    paths = [write(tmp_path / name, UNCHANGED, WORSE) for name in ("a", "b")]
    assert table(tmp_path / "a", tmp_path / "b") == 2
    text = capsys.readouterr().err
    assert all(str(path) in text for path in paths)
    assert len(text.splitlines()) == 2


# --- grid


def cells_of(axes) -> dict[tuple[int, int], str]:
    """Text of each cell by (row, column)."""
    return {(int(t.get_position()[1]), int(t.get_position()[0])): t.get_text() for t in axes.texts}


def grids_of(folder: Path, h: int | None = None) -> dict[str, tuple]:
    """Axes of the map and of the colour bar, and the figure, by stem."""
    frame = frame_of(folder)
    drawn = grid.grid_figures(frame, grid.choose_length(frame, h))
    return {stem: (*figure.axes, figure) for stem, figure, *_ in drawn}


def test_a_grid_shows_the_change_of_every_pair_at_the_longest_common_length(tmp_path):
    write_grid(tmp_path)
    drawn = grids_of(tmp_path)
    assert list(drawn) == ["org@a__grid__h2", "org@b__grid__h2"]
    axes, _, _ = drawn["org@a__grid__h2"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["posts/test", "quiz/test"]
    assert [label.get_text().split()[0] for label in axes.get_yticklabels()] == [
        "quiz/test", "reviews/test",
    ]  # fmt: skip
    assert axes.images[0].get_array().tolist() == [[-45, -7.5], [-45, 0]]
    assert cells_of(axes) == {
        (0, 0): "-45.0\n***", (0, 1): "(-7.5)", (1, 0): "-45.0\n***", (1, 1): "(+0.0)"
    }  # fmt: skip


def test_a_missing_pair_is_drawn_as_missing_and_never_as_0(tmp_path):
    write_grid(tmp_path)
    axes, _, _ = grids_of(tmp_path)["org@b__grid__h2"]
    assert axes.images[0].get_array().mask.tolist() == [[False, False], [True, False]]
    assert cells_of(axes)[1, 0] == "no\nresult"


def test_cells_that_are_not_significant_are_hatched_and_the_caption_says_so(tmp_path):
    write_grid(tmp_path)
    axes, _, figure = grids_of(tmp_path)["org@a__grid__h2"]
    hatched = [
        patch for patch in axes.patches if isinstance(patch, Rectangle) and patch.get_hatch()
    ]
    assert [(patch.get_y() + 0.5, patch.get_x() + 0.5) for patch in hatched] == [(0, 1), (1, 1)]
    text = " ".join(figure.get_supxlabel().split())
    assert "Holm" in text and "over the 16 comparisons" in text and "Hatched" in text


def test_a_cell_that_only_the_correction_takes_away_is_hatched(tmp_path):
    five_fewer = [0.0] * 5 + UNCHANGED[5:]  # p = 0.03125, and twice that after Holm
    write(tmp_path, UNCHANGED, five_fewer)
    write(tmp_path, UNCHANGED, UNCHANGED, distractor="quiz/test")
    ((axes, _, _),) = grids_of(tmp_path).values()
    assert cells_of(axes)[0, 0] == "(-12.5)"


def test_the_stars_of_a_grid_are_those_of_the_table(tmp_path):
    write_grid(tmp_path)
    frame = frame_of(tmp_path)
    for stem, (axes, _, _) in grids_of(tmp_path).items():
        rows = frame[(frame["h"] == 2) & (frame["model"] == stem.split("__")[0].replace("@", "/"))]
        stars = sorted(text.count("*") for text in cells_of(axes).values() if "no" not in text)
        assert stars == sorted(map(len, rows["stars"]))


def test_colours_are_centred_at_0_and_the_same_for_every_model(tmp_path):
    write_grid(tmp_path)
    limits = {axes.images[0].get_clim() for axes, _, _ in grids_of(tmp_path).values()}
    assert limits == {(-45, 45)}


def test_numbers_are_readable_on_every_colour():
    colours = matplotlib.colormaps[style.DIVERGING]
    for place in np.linspace(-1, 1, 41):
        red, green, blue = (
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
            for c in colours((place + 1) / 2)[:3]
        )
        light = 0.2126 * red + 0.7152 * green + 0.0722 * blue
        contrast = (light + 0.05) / 0.05 if style.ink(place) == "black" else 1.05 / (light + 0.05)
        assert contrast >= 4.5  # WCAG 2, level AA


def test_another_length_can_be_chosen(tmp_path):
    write_grid(tmp_path)
    axes, _, _ = grids_of(tmp_path, h=1)["org@a__grid__h1"]
    assert axes.images[0].get_array().tolist() == [[0, 0], [-45, 0]]


def test_a_pair_with_a_shorter_history_is_missing(tmp_path):
    write_grid(tmp_path)
    axes, _, _ = grids_of(tmp_path, h=3)["org@a__grid__h3"]
    assert sorted(cells_of(axes).values()).count("no\nresult") == 3


@pytest.mark.parametrize("h", [0, -1, 4])
def test_a_length_without_results_is_refused(tmp_path, capsys, h):
    write_grid(tmp_path)
    assert draw(tmp_path, "--h", h, "--out_dir", tmp_path / "plots") == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ") and len(text.splitlines()) <= 2
    assert not (tmp_path / "plots").exists()


def test_a_format_given_twice_is_written_once(tmp_path, capsys):
    write(tmp_path / "results", UNCHANGED, WORSE)
    flags = ("--out_dir", tmp_path / "plots", "--format", "png", "png")
    assert draw(tmp_path / "results", *flags) == 0
    [name] = os.listdir(tmp_path / "plots")
    assert capsys.readouterr().out == f"{tmp_path / 'plots' / name}\n"


def test_a_grid_is_written_in_every_format(tmp_path, capsys):
    write_grid(tmp_path / "results")
    assert draw(tmp_path / "results", "--out_dir", tmp_path / "plots") == 0
    expected = {f"org@{m}__grid__h2.{end}" for m in "ab" for end in ("pdf", "svg", "png")}
    assert {path.name for path in (tmp_path / "plots").iterdir()} == expected
    printed = capsys.readouterr().out.splitlines()
    assert printed == [f"{tmp_path}/plots/org@{m}__grid__h2.{{pdf,svg,png}}" for m in "ab"]


@pytest.mark.parametrize(("targets", "distractors"), [(1, 1), (1, 7), (7, 1), (4, 4)])
def test_nothing_of_a_grid_is_cut_off(tmp_path, targets, distractors):
    for i in range(targets):
        for j in range(distractors):
            names = {"target": f"mmlu.a_long_subject_{i}/validation"}
            names["distractor"] = f"mmlu.a_long_subject_{j}/validation"
            write(tmp_path, UNCHANGED, WORSE, **names)
    ((axes, bar, figure),) = grids_of(tmp_path).values()
    figure.draw_without_rendering()
    whole = figure.bbox
    for part in (axes, bar, *figure.texts):
        box = part.get_tightbbox() if hasattr(part, "get_tightbbox") else part.get_window_extent()
        assert whole.x0 - 1 <= box.x0 and box.x1 <= whole.x1 + 1
        assert whole.y0 - 1 <= box.y0 and box.y1 <= whole.y1 + 1
    cell = axes.get_window_extent().width / distractors
    assert all(text.get_window_extent().width < cell for text in axes.texts)
