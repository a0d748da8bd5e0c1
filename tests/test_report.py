"""Claims about `viz.py report`: its numbers, what it embeds, and that nothing on it runs wild."""

import base64
import contextlib
import hashlib
import html
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pages import (
    HOSTILE,
    LENGTHS,
    QUESTION,
    TARGETS,
    embedded,
    examples_of,
    label_example,
    make_report,
    messages_of,
    no_image,
    page_of,
    right,
    table_of,
    words_of,
    write_grid,
    write_pair,
)  # fmt: skip
from small_results import complains, edit

import viz
from core import records
from measures import contrasts, scoring
from reports import explorer, tables, why
from reports import page as report_page
from reports.meanings import MEANINGS
from run.config import parse_args

ROOT = Path(viz.__file__).parent
FLIPPED = [i for i in range(TARGETS) if len({right(i, h) for h in LENGTHS}) > 1]


@pytest.fixture(autouse=True)
def quick(request, monkeypatch):
    """Figures take most of the time; who does not ask for `drawn` gets a dot."""
    if "drawn" not in request.fixturenames and "slow" not in request.keywords:
        monkeypatch.setattr(report_page, "image", no_image)


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """Folder of results with a hostile row."""
    folder = tmp_path_factory.mktemp("grid")
    write_grid(folder, HOSTILE)
    return folder


@pytest.fixture(scope="module")
def page(tmp_path_factory, grid):
    """The page of that grid, without its figures."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        patch.setattr(report_page, "image", no_image)
        return page_of(grid, tmp_path_factory.mktemp("page"))


def joined(data: dict, places: list[int]) -> str:
    """A prompt, put together as the page does."""
    return "".join(data["strings"][place] for place in places)


# --- numbers


def test_every_number_of_the_table_is_the_one_that_viz_table_prints(grid, page, capsys):
    assert viz.main(["table", "--result_dir", str(grid)]) == 0
    lines = capsys.readouterr().out.splitlines()
    lines = [line for line in lines if line.startswith("|") and "---" not in line]
    printed = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [row[1:] for row in printed] == table_of(page, '<table class="data sortable"')
    assert {row[0] for row in printed[1:]} == {"org/name"}
    assert len(printed) == 1 + 4 * len(LENGTHS)


def test_cells_are_sorted_by_the_number_in_full_precision(grid, page):
    body = page[page.index('id="verdicts"') :].partition("</table>")[0]
    keys = re.findall(r'data-sort="([^"]*)"', body)
    frame = tables.make_frame(records.load_results([grid]))
    p_values = frame["p_holm_table"].dropna()
    assert {repr(p) for p in p_values} <= set(keys)
    assert "nan" not in keys


def test_heat_maps_have_the_changes_and_stars_of_the_table_at_every_h(grid, page):
    frame = tables.make_frame(records.load_results([grid]))
    for h in LENGTHS[1:]:
        head, *rows = table_of(page, f'data-heat="{h}"')
        for row in frame[frame["h"] == h].to_dict("records"):
            number = f"{row['change_points']:+.1f}"
            cell = next(line for line in rows if line[0].startswith(row["target"]))[
                head.index(f"after {row['distractor']}")
            ]
            assert cell == (number + row["stars"] if row["stars"] else f"({number})")


# --- the order of the questions, and what fills a part

QUESTIONS = ["hurt", "why", "where", "limits", "examples", "numbers", "settings", "meanings"]


def with_effects(examples: list[dict]) -> list[dict]:
    """Examples with the numbers of `--effects position`."""
    for example in examples:
        h, i = example["config"]["history_len"], example["config"]["target_idx"]
        if h:
            numbers = {
                "none": 1.0,
                "hidden": 1.0 - 0.1 * h,
                "filler": 0.8 - 0.1 * h,
                "full": -0.1 * i,
            }
            example["effects"] = numbers
    return examples


def part_of(page: str, name: str) -> str:
    """The HTML of a section."""
    return page[page.index(f'<section id="{name}"') :].partition("</section>")[0]


def empty_lines(page: str) -> list[list[str]]:
    """The words of the commands in each line about a part without data."""
    lines = re.findall(r'<p class="empty">(.*?)</p>', page, re.DOTALL)
    return [re.findall(r"<span>(.*?)</span>", line) for line in lines]


def test_the_page_answers_the_questions_in_their_order(page):
    assert re.findall(r'<section id="(\w+)"', page) == QUESTIONS
    assert re.findall(r'<a href="#(\w+)">', page.partition("</nav>")[0]) == QUESTIONS[:-1]
    first = part_of(page, "hurt")
    assert re.search(r'<h2>Did the switch hurt\?</h2>\s*<p class="headline">(.*?)</p>', first)


def test_a_part_without_data_is_one_line_that_names_the_flag_that_fills_it(tmp_path):
    examples = examples_of("quiz/test", "posts/test")
    for example in examples:
        del example["cosines"], example["decision_layer"]
    write_pair(tmp_path, examples=examples)
    page = page_of(tmp_path, tmp_path)
    assert empty_lines(page) == [
        ["--distractor"], ["--scoring", "both"], ["--effects", "position"],
        ["--history", "teacher", "wrong:1", "shuffled"], ["--wording", "3"],
        ["--effects", "block", "turn", "route", "patch", "attention"], ["--no_cosine"],
    ]  # fmt: skip
    for line in empty_lines(page):
        parse_args(line if line != ["--distractor"] else [*line, "quiz"])
    for name in ("why", "where"):
        assert not re.search("<table|<figure|<select", part_of(page, name))


def test_where_all_is_measured_no_line_says_what_to_run(tmp_path):
    for distractor in ("posts/test", "quiz/dev"):
        for history in ("teacher", "wrong:1"):
            examples = with_effects(examples_of("quiz/test", "posts/test"))
            folder = tmp_path / history.replace(":", "")
            write_pair(folder, distractor=distractor, examples=examples, history=history)
    said = empty_lines(page_of(tmp_path, tmp_path))
    assert said.pop(1) == ["--wording", "3"]
    assert said == [
        ["--scoring", "both"],
        ["--effects", "block", "turn", "route", "patch", "attention"],
    ]


def test_position_length_and_content_are_the_stored_ones_at_the_longest_history(tmp_path):
    path = write_pair(tmp_path, examples=with_effects(examples_of("quiz/test", "posts/test")))
    page = page_of(tmp_path, tmp_path)
    head, row = table_of(page, 'id="parts"')
    stored = records.read_json(path)["effects_by_len"]["2"]["contrasts"]
    assert head[1:] == ["h", "Change of", "Position", "Length", "Content", "Total", "n"]
    assert row[:2] == ["quiz/test after posts/test", "2"]
    for name, cell in zip(("position", "length", "content", "total"), row[3:]):
        assert float(cell.partition(" ")[0]) == pytest.approx(stored[name]["mean"], abs=0.005)
    assert "moves by -1.55 (n = 12), of which -0.20 from position" in words_of(page)


def effect_parts(**means):
    parts = {name: {"mean": mean, "low": None, "high": None, "p_holm": None}
             for name, mean in means.items()}  # fmt: skip
    config = {"target_labels": ["a", "b"]}
    by_len = {"0": {}, "1": {"contrasts": parts}}
    return {"n": 9, "metric_name": "accuracy", "config": config, "effects_by_len": by_len}


def test_the_change_that_is_taken_apart_has_all_parts_and_finite_ones():
    whole = effect_parts(position=0.25, length=0.25, content=0.5, seen=0.75, total=1.0)
    without = effect_parts(position=2.0, seen=3.0, total=5.0)  # no filler was run
    infinite = effect_parts(position=0.1, length=None, content=None, seen=None, total=None)
    found = why.parts([without, whole, infinite], ["without", "whole", "infinite"])
    assert "that of whole" in found["sentence"]
    assert [row["cells"][-1] for row in found["rows"]] == ["5.00", "1.00", ""]
    assert why.parts([infinite], ["infinite"])["sentence"] == ""


def test_where_no_share_is_restored_the_page_says_why(tmp_path):
    for distractor, full in (("posts/test", 1.0), ("quiz/dev", -3.0)):
        examples = with_effects(examples_of("quiz/test", "posts/test"))
        for example in examples:
            if "effects" in example:
                patched = {key: [0.5, 1.0] for key in ("patched_last", "patched_target")}
                patched |= {key: [0.5, full] for key in ("reverse_last", "reverse_target")}
                blocks = {"windows": [[1, 1], [2, 2]], "full": full}
                example["effects"] |= patched | blocks
        write_pair(tmp_path, distractor=distractor, examples=examples)
    page = page_of(tmp_path, tmp_path)
    parts = page.split('<div data-where="')[1:]
    assert [part.count("no share can be given") for part in parts] == [1, 0]
    assert "meaning-effect_restored" in parts[1].partition("</section>")[0]


def test_kinds_of_history_are_compared_with_the_usual_one(tmp_path):
    for history in ("teacher", "wrong:1"):
        seeds = (0,) if history == "teacher" else (3,)
        examples = examples_of("quiz/test", "posts/test", seeds=seeds)
        for example in examples:
            example["config"]["seed"] = 0
        write_pair(tmp_path / history.replace(":", ""), examples=examples, history=history)
    page = page_of(tmp_path, tmp_path)
    rows = contrasts.contrasts(records.load_results([tmp_path]), "history", "teacher")
    _, *shown = table_of(page, 'id="kinds"')
    assert {(row[1], row[2], row[3]) for row in shown} == {("wrong:1", "teacher", h) for h in "12"}
    for row in shown:
        [one] = [each for each in rows if each["h"] == int(row[3])]
        assert float(re.split(r"[ *]", row[4])[0]) == round(one["difference_points"], 1)


# --- meanings


def test_no_two_figures_of_a_part_have_one_heading(tmp_path):
    for target in QUESTION:
        for history in ("teacher", "filler"):
            for distractor in QUESTION:
                write_pair(tmp_path / history, target, distractor, history=history)
    text = page_of(tmp_path, tmp_path)
    for part in ("hurt", "why"):
        figures = re.findall(r"<figure.*?<h4>(.*?)</h4>", part_of(text, part), re.DOTALL)
        headings = [words_of(heading) for heading in figures]
        assert headings and len(set(headings)) == len(headings)
    assert "Accuracy , quiz/test, filler" in words_of(text)
    assert "Contrast , teacher" in words_of(text)


def test_brackets_and_marks_are_explained_where_there_are_any(tmp_path):
    few = examples_of("quiz/test", "posts/test", count=3)
    write_pair(tmp_path, examples=few)
    write_pair(tmp_path, distractor="quiz/test", examples=few)
    text = words_of(page_of(tmp_path, tmp_path))
    assert "Cannot be computed: (a) " in text and "Brackets: 95% intervals." in text


def test_every_measure_on_the_page_opens_its_meaning(tmp_path):
    for target in QUESTION:
        for distractor in QUESTION:
            write_pair(
                tmp_path, target, distractor, examples=with_effects(examples_of(target, distractor))
            )
    page = page_of(tmp_path, tmp_path)
    opened = set(re.findall(r'popovertarget="meaning-(\w+)"', page))
    assert opened <= set(re.findall(r'<p popover id="meaning-(\w+)">', page)) == set(MEANINGS)
    figures = re.findall(r"<figure.*?</figure>", page, re.DOTALL)
    assert len(figures) > 10 and all("popovertarget" in figure for figure in figures)
    counts = r"h|h = \d|Targets skipped|Layer values left out|n"
    for head in re.findall(r'<th class="number">(.*?)</th>', page, re.DOTALL):
        assert "popovertarget" in head or re.fullmatch(rf"({counts})(<button.*)?", head), head


@pytest.mark.parametrize("meaning", MEANINGS.values(), ids=MEANINGS)
def test_a_meaning_is_short(meaning):
    assert len(meaning.sentence) <= 200 and meaning.sentence.endswith(".")
    assert meaning.sentence.count(". ") <= 1


# --- settings, and what was left out


def test_settings_that_all_share_are_shown_once_and_others_by_target(page):
    part = page[page.index('<section id="settings">') :]
    assert part.count("float32") == 1
    assert part.count("0123abc") == 1
    for target, prompt in QUESTION.items():
        assert part.count(f"target {target}") == 2  # as a target and as distractor
        assert html.escape(prompt.partition("\n")[0]) in part


def test_skipped_targets_and_format_failures_are_never_hidden(tmp_path):
    examples = examples_of("quiz/test", "posts/test")
    for example in examples:
        example["format_failure"] = example["config"]["target_idx"] == 5
    write_pair(tmp_path, examples=examples, n_skipped=2, skipped_target_idx=[17, 23])
    assert make_report(tmp_path, tmp_path / "r.html") == 0
    page = (tmp_path / "r.html").read_text()
    said = words_of(page)
    assert "2 targets did not fit the model's context or memory and were skipped" in said
    assert "3 answers contained no single label or number to score and count" in said
    row = table_of(page, 'aria-label="Left out"')[1]
    assert row[1:6] == ["12", "2 (rows 17, 23)", "1", "1", "1"]


def test_a_target_that_two_pairs_skip_is_one_target(tmp_path):
    for distractor in QUESTION:
        write_pair(tmp_path, distractor=distractor, n_skipped=1, skipped_target_idx=[17])
    said = words_of(page_of(tmp_path, tmp_path))
    assert "1 target did not fit the model's context or memory" in said


def test_format_failures_beside_a_likelihood_are_not_said_to_count_as_wrong(tmp_path):
    examples = examples_of("quiz/test", "posts/test")
    for example in examples:
        scores, expected = example["label_logprobs"], example["expected_answer"]
        example |= scoring.judge_labels(scores, expected, "both", "neither")
    write_pair(tmp_path, examples=examples)
    said = words_of(page_of(tmp_path, tmp_path))
    assert f"{len(examples)} format failures in the generated text; the metric uses" in said
    assert "count as wrong" not in said


# --- the file


def test_a_hostile_row_is_text_everywhere(page):
    assert len(re.findall(r"<script", page)) == 2
    assert "onerror" not in page
    assert "<!--" not in page
    data = embedded(page)
    assert any(HOSTILE in text for text in data["strings"])


def test_a_hostile_name_is_escaped(tmp_path):
    write_pair(tmp_path, model="org/<img src=x onerror=alert(1)>")
    assert make_report(tmp_path, tmp_path / "r.html") == 0
    page = (tmp_path / "r.html").read_text()
    assert "<img src=x" not in page
    assert "org/&lt;img src=x onerror=alert(1)&gt;" in page


def test_the_page_loads_nothing_and_allows_only_its_own_script_and_style(page):
    assert not re.search(r"https?://|url\(|@import|<link|<iframe", page)
    assert set(re.findall(r'\ssrc="(data:)?', page)) <= {"data:"}
    policy = html.unescape(re.search(r'Security-Policy" content="([^"]*)"', page)[1])
    assert policy.startswith("default-src 'none'; img-src data:; ")
    for tag, rule in (("script", "script-src"), ("style", "style-src")):
        [text] = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{rule} 'sha256-{digest}';" in policy
    assert not re.search(r"\s(style|on\w+)=", page.partition("<body>")[2].partition("<script>")[0])


def test_equal_results_give_equal_bytes(tmp_path, drawn):
    make_report(drawn.parent / "results", tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == drawn.read_bytes()


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A report with its figures."""
    folder = tmp_path_factory.mktemp("drawn")
    write_pair(folder / "results")
    with contextlib.redirect_stdout(io.StringIO()):
        assert make_report(folder / "results", folder / "report.html") == 0
    return folder / "report.html"


def test_figures_are_those_of_viz_without_loss(drawn):
    from PIL import Image

    page = drawn.read_text()
    uris = re.findall(r'<img src="data:image/webp;base64,([^"]*)" width="(\d+)"', page)
    assert len(uris) == 4  # metric, change, cosine, decision layer
    for uri, width in uris:
        picture = Image.open(io.BytesIO(base64.b64decode(uri)))
        assert picture.size[0] >= 1.2 * int(width)
        assert b"VP8L" in base64.b64decode(uri)[:32]


# --- the examples


def test_every_prompt_is_embedded_exactly_and_every_answer_with_it(grid, page):
    data = embedded(page)
    results = list(records.load_results([grid]).values())
    assert len(data["rows"]) == 4 * TARGETS
    for row in data["rows"]:
        log = records.read_debug(records.debug_path(Path(results[row["pair"]]["path"])))
        found = [e for e in log["debug_examples"] if e["config"]["target_idx"] == row["target"]]
        for h, example in enumerate(found):
            at = row["at"][h]
            assert joined(data, row["prompts"][h]) == example["prompt_text"]
            assert data["strings"][at["answer"]] == example["model_prediction"]
            assert [data["strings"][place] for place in at["top5"]] == example["top5"]
            assert at.get("layer") == example.get("decision_layer")
            assert at["score"] == round(example["score"], 3)
            assert at.get("logprobs") == pytest.approx(example.get("label_logprobs"), abs=5e-4)


def test_every_conversation_is_embedded_message_by_message(page):
    data = embedded(page)
    for row in data["rows"]:
        pair = data["pairs"][row["pair"]]
        said = [(role, data["strings"][place]) for role, place in row["messages"]]
        odd = HOSTILE if row["target"] == 3 else ""
        assert said == messages_of(pair["target"], pair["distractor"], row["target"], odd)


def test_a_prompt_of_a_template_that_changes_its_messages_is_embedded_exactly(tmp_path):
    examples = examples_of("quiz/test", "posts/test")
    for example in examples:
        example["prompt_text"] = example["prompt_text"].upper()
    write_pair(tmp_path, examples=examples)
    make_report(tmp_path, tmp_path / "r.html")
    data = embedded((tmp_path / "r.html").read_text())
    prompts = [joined(data, places) for row in data["rows"] for places in row["prompts"]]
    assert prompts == [example["prompt_text"] for example in examples]


def test_turns_that_prompts_share_are_embedded_once(page):
    data = embedded(page)
    assert len(set(data["strings"])) == len(data["strings"])
    turns = [text for text in data["strings"] if text.startswith(("Which letter", "What does"))]
    histories = 2 * TARGETS * LENGTHS[-1]  # of each distractor, for both targets
    assert len(turns) == histories + 2 * TARGETS


def test_intruded_answers_are_marked_and_counted_over_all_examples(tmp_path):
    examples = examples_of("posts/test", "quiz/test")
    for example in examples:
        place = example["config"]
        example["intruded"] = place["history_len"] > 0 and place["target_idx"] % 3 == 0
    write_pair(tmp_path, "posts/test", "quiz/test", examples=examples)
    data = embedded(page_of(tmp_path, tmp_path))
    assert data["pairs"][0]["intruded"] == [0, 4, 4]
    for row in data["rows"]:
        marked = [at.get("intruded", False) for at in row["at"]]
        assert marked == [h > 0 and row["target"] % 3 == 0 for h in LENGTHS]


def test_flips_are_counted_over_all_examples_and_both_ways(page):
    data = embedded(page)
    for pair in data["pairs"]:
        lost = [sum(right(i, 0) and not right(i, h) for i in range(TARGETS)) for h in LENGTHS]
        gained = [sum(right(i, h) and not right(i, 0) for i in range(TARGETS)) for h in LENGTHS]
        if not pair["graded"]:
            assert (pair["lost"], pair["gained"]) == (lost, gained)
            assert pair["flipped"] == len(FLIPPED)


@pytest.mark.parametrize(
    ("score", "at_0", "graded", "expected"),
    [
        (1.0, 1.0, False, "right"), (0.0, 0.0, False, "wrong"), (0.0, 1.0, False, "lost"),
        (1.0, 0.0, False, "gained"), (0.25, 0.75, True, "lost"), (0.75, 0.25, True, "gained"),
        (0.2, 0.7, True, "lost"), (0.26, 0.75, True, "scored"), (0.0, 0.0, True, "scored"),
    ],
)  # fmt: skip
def test_a_flip_is_a_change_of_half_a_score_or_more(score, at_0, graded, expected):
    assert explorer.state(score, at_0, graded) == expected


def test_a_page_of_many_examples_holds_a_sample_and_says_so(grid, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(explorer, "MOST_ROWS", 16)
    page = page_of(grid, tmp_path)
    printed = capsys.readouterr().out
    assert "The page lists 16 of 48 examples: a random sample" in printed
    assert printed.splitlines()[0] in words_of(page)
    assert "quiz/test after posts/test: 4 of 12" in page
    data = embedded(page)
    assert [pair["embedded"] for pair in data["pairs"]] == [4] * 4
    assert [pair["n"] for pair in data["pairs"]] == [TARGETS] * 4
    quiz = [row for row in data["rows"] if data["pairs"][row["pair"]]["target"] == "quiz/test"]
    states = [{at["state"] for at in row["at"]} for row in quiz]
    assert sum(bool({"lost", "gained"} & each) for each in states) == len(quiz) // 2
    order = [row["target"] for row in data["rows"] if row["pair"] == 0]
    assert order == sorted(order)


def test_where_all_fits_nothing_is_said_to_be_left_out(grid, tmp_path, capsys):
    page = page_of(grid, tmp_path)
    assert capsys.readouterr().out == f"{tmp_path / 'report.html'}\n"
    assert "random sample" not in page


def test_long_texts_cut_the_examples_of_all_pairs_alike(grid, tmp_path, monkeypatch):
    monkeypatch.setattr(explorer, "MOST_LETTERS", 1500)
    counts = [pair["embedded"] for pair in embedded(page_of(grid, tmp_path))["pairs"]]
    assert 0 < min(counts) <= max(counts) < TARGETS
    assert max(counts) - min(counts) <= 1


def test_few_flips_are_all_kept(tmp_path):
    states = {i: ["right", "lost" if i < 3 else "right"] for i in range(100)}
    chosen = explorer.choose(states, 20, "key")
    assert len(chosen) == 20 == len(set(chosen))
    assert {0, 1, 2} <= set(chosen)
    assert len(explorer.choose(states, 500, "key")) == 100


@pytest.mark.parametrize("room", [40, 500])
def test_any_beginning_of_the_chosen_is_half_flipped_while_there_are_flips(room):
    states = {i: ["right", "lost" if i < 10 else "right"] for i in range(100)}
    chosen = explorer.choose(states, room, "key")
    for end in range(2, 21, 2):
        assert sum(row < 10 for row in chosen[:end]) == end // 2


def test_a_cue_is_embedded_with_its_prompt_and_answer(tmp_path):
    examples = examples_of("quiz/test", "posts/test")
    for example in examples:
        h, i = example["config"]["history_len"], example["config"]["target_idx"]
        if h:
            text = example["prompt_text"].replace(f"row {i}?", f"row {i}? CUE")
            example["cued"] = label_example(i, h - 1, 0) | {"prompt_text": text}
    write_pair(tmp_path, examples=examples)
    make_report(tmp_path, tmp_path / "r.html")
    data = embedded((tmp_path / "r.html").read_text())
    row = data["rows"][4]
    expected = [e["cued"] for e in examples if e["config"]["target_idx"] == 4 and "cued" in e]
    for h, cued in enumerate(expected):
        assert joined(data, row["cued"][h]) == cued["prompt_text"]
        assert data["strings"][row["at"][h + 1]["cued"]["answer"]] == cued["model_prediction"]


@pytest.mark.slow
def test_a_3_x_3_grid_of_200_examples_and_four_turns_is_under_5_mb(tmp_path, monkeypatch):
    monkeypatch.setattr("pages.LENGTHS", range(5))
    fill = " ".join(f"{i * 7919 % 10007}" for i in range(60))  # digits compress badly
    for target in ("quiz/test", "posts/test", "quiz/dev"):
        for distractor in QUESTION | {"quiz/dev": ""}:
            base = distractor if distractor in QUESTION else "quiz/test"
            kind = "posts/test" if target == "posts/test" else "quiz/test"
            examples = examples_of(kind, base, count=200)
            for example in examples:
                example["cosines"] = [0.01 * k + 0.001 * example["score"] for k in range(32)]
                example["drift"] = example["agree"] = example["cosines"]
                mark, more = r"(row|post) (\d+)", rf"\1 \2 {distractor} {fill} \2"
                example["prompt_text"] = re.sub(mark, more, example["prompt_text"])
                example["messages"] = [
                    message | {"content": re.sub(mark, more, message["content"])}
                    for message in example["messages"]
                ]
            write_pair(tmp_path, target, distractor, examples=examples)
    assert make_report(tmp_path, tmp_path / "r.html") == 0
    assert (tmp_path / "r.html").stat().st_size < 5_000_000


# --- what cannot be reported


def cut_log(path: Path) -> None:
    log = records.debug_path(path)
    log.write_text(log.read_text()[:-40])


def other_log(path: Path) -> None:
    log = json.loads(records.debug_path(path).read_text())
    records.write_json(records.debug_path(path), log | {"model": "org/other"})


def edited_log(path: Path) -> None:
    edit(records.debug_path(path), "debug_examples", 4, "config", "seed", value=[0])


def edited_result(path: Path) -> None:
    edit(path, "stats_by_len", "1", "clusters", value={})


def cut_result(path: Path) -> None:
    path.write_text(path.read_text()[:-40])


@pytest.mark.parametrize("damage", [cut_log, other_log, edited_log, edited_result, cut_result])
def test_damage_is_two_plain_lines_and_leaves_the_old_page(tmp_path, capsys, damage):
    path = write_pair(tmp_path / "results")
    out = tmp_path / "report.html"
    out.write_text("old")
    damage(path)
    assert make_report(tmp_path / "results", out) == 2
    assert complains(capsys, path.parent.name)
    assert out.read_text() == "old"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["report.html", "results"]


def test_a_run_without_histories_has_a_page_too(tmp_path):
    examples = examples_of("quiz/test", "posts/test")
    write_pair(tmp_path, examples=[e for e in examples if e["config"]["history_len"] == 0])
    assert make_report(tmp_path, tmp_path / "r.html") == 0
    page = (tmp_path / "r.html").read_text()
    assert "These results have no history (h = 0 only)." in page
    assert "no prompt has a history" in page
    for absent in ("No switch", 'id="heat"', "must be at least"):
        assert absent not in page.partition("<script>")[0]
    assert len(embedded(page)["rows"]) == TARGETS


def test_no_results_are_two_plain_lines(tmp_path, capsys):
    assert make_report(tmp_path, tmp_path / "report.html") == 2
    assert complains(capsys, "no results below")
    assert not (tmp_path / "report.html").exists()


def test_a_page_that_cannot_be_written_is_two_plain_lines(tmp_path, capsys):
    write_pair(tmp_path / "results")
    (tmp_path / "file").write_text("")
    assert make_report(tmp_path / "results", tmp_path / "file" / "report.html") == 2
    assert complains(capsys, "file")


def test_a_report_loads_neither_torch_nor_transformers(tmp_path):
    examples = examples_of("quiz/test", "posts/test")
    for example in examples:
        del example["cosines"], example["decision_layer"]
    write_pair(tmp_path, examples=examples)
    arguments = ["report", "--result_dir", str(tmp_path), "--out", str(tmp_path / "r.html")]
    code = (
        "import sys, viz\n"
        f"assert viz.main({arguments!r}) == 0\n"
        "print(*sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not {"torch", "transformers", "evaluate"} & set(done.stderr.split())
