"""Claims about `at:K` and --position: only the place of the one distractor turn differs."""

import pytest
import tiny
from drawn import POSTS, QUIZ, REVIEWS, plan
from runs import examples_of, path_of, run

import data
import viz
from core import records
from core.errors import UserError
from model import load_model
from reports import page, position, style
from run.config import RunConfig, check_settings, parse_args
from run.examples import run_cases
from tasks.kinds import parse_kind

H = 5
PLACES = range(1, H + 1)


def of_place(target, distractor, place, max_len=H):
    return plan(target, distractor, f"at:{place}", max_len)


def rows(case, role, h=H):
    return [past.idx for past in case.history[:h] if past.role == role]


# --- what is drawn


@pytest.mark.parametrize(("target", "distractor"), [(REVIEWS, QUIZ), (POSTS, REVIEWS)])
def test_all_places_have_the_same_rows_in_the_same_order(target, distractor):
    first = of_place(target, distractor, 1)
    for place in PLACES:
        for case, other in zip(of_place(target, distractor, place), first, strict=True):
            assert case.target_idx == other.target_idx
            roles = ["target"] * (place - 1) + ["distractor"] + ["target"] * (H - place)
            assert [past.role for past in case.history] == roles
            for role in ("target", "distractor"):
                assert rows(case, role) == rows(other, role)
            turns = {"target": target.turns, "distractor": distractor.turns}
            assert all(past.turn == turns[past.role][past.idx] for past in case.history)


def test_a_history_has_the_first_own_rows_that_a_teacher_of_the_own_task_shows():
    own = plan(REVIEWS, REVIEWS, "teacher", H)
    other = plan(REVIEWS, QUIZ, "teacher", 1)
    for place in PLACES:
        for case, same, distractor in zip(of_place(REVIEWS, QUIZ, place), own, other):
            assert tuple(rows(case, "target")) == same.history_idx[: H - 1]
            assert tuple(rows(case, "distractor")) == distractor.history_idx
            for h in range(place):  # the distractor turn has not come yet
                assert case.messages(h) == same.messages(h)


@pytest.mark.parametrize("target", [REVIEWS, QUIZ])
def test_a_shorter_run_has_the_beginning_of_a_longer_ones_histories(target):
    for long, short in zip(of_place(target, QUIZ, 2, 7), of_place(target, QUIZ, 2, 3)):
        assert long.history[:3] == short.history


def test_no_question_is_there_twice_and_never_the_targets_own():
    overlapping = data.TaskRows(QUIZ.spec, QUIZ.turns[:12])
    for target, distractor in ((QUIZ, overlapping), (overlapping, QUIZ), (QUIZ, QUIZ)):
        for case in of_place(target, distractor, 3):
            asked = [case.target.question, *(past.turn.question for past in case.history)]
            assert len(set(asked)) == H + 1


# --- refused


@pytest.mark.parametrize("text", ["at", "at:", "at:0", "at:-1", "at:x", "at:1.5", "at:01"])
def test_a_place_that_is_none_is_an_unknown_kind(text):
    with pytest.raises(UserError, match="at:K"):
        parse_kind(text)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--history at:1 at:5", "--history at:5: the longest history has 4 turns."),
        ("--history at:3 --lengths 0 2", "--history at:3: the longest history has 2 turns."),
        ("--position --mix interleaved", "leave out --mix"),
    ],
)
def test_places_that_cannot_be_are_refused(flags, words):
    with pytest.raises(UserError, match=words):
        check_settings(parse_args(flags.split()))


@pytest.mark.parametrize(
    ("flags", "words"),
    [("--position --history teacher", "give one of them"), ("--position --max_len 0", "h = 0")],
)
def test_position_that_contradicts_other_flags_ends_with_status_2(capsys, flags, words):
    with pytest.raises(SystemExit) as ended:
        parse_args(flags.split())
    assert ended.value.code == 2 and words in capsys.readouterr().err


def test_position_is_short_for_all_places():
    assert parse_args(["--position"]) == parse_args(["--history", "at:1", "at:2", "at:3", "at:4"])
    listed = parse_args(["--position", "--lengths", "0", "3"])
    assert listed.history == ("at:1", "at:2", "at:3")


# --- run


@pytest.fixture(scope="module")
def swept(tmp_path_factory, model):
    """Results of both places of two turns."""
    out_dir = tmp_path_factory.mktemp("swept")
    assert run(out_dir, model, "reviews", "quiz", "--position") == 0
    return out_dir


def by_length(out_dir, target, distractor):
    found = {}
    for example in examples_of(out_dir, target, distractor):
        found.setdefault(example["config"]["history_len"], []).append(example)
    return found


def test_before_its_distractor_turn_a_place_has_the_numbers_of_the_own_task(swept, tmp_path, model):
    assert run(tmp_path, model, "reviews", "reviews") == 0
    own = by_length(tmp_path, "reviews", "reviews")
    second = by_length(swept / "at:2", "reviews", "quiz")
    for found, expected in zip([*second[0], *second[1]], [*own[0], *own[1]], strict=True):
        assert found["prompt_text"] == expected["prompt_text"]
        assert found["label_logprobs"] == pytest.approx(expected["label_logprobs"], abs=1e-5)
        assert set(found["config"]["history_role"]) <= {"target"}


def test_at_one_h_places_differ_in_the_order_of_turns_alone(swept):
    first, second = (by_length(swept / f"at:{k}", "reviews", "quiz")[2] for k in (1, 2))
    encode = tiny.tokenizer()
    for one, two in zip(first, second, strict=True):
        assert one["prompt_text"] != two["prompt_text"]
        texts = [each["prompt_text"] for each in (one, two)]
        assert sorted(texts[0]) == sorted(texts[1])
        assert len({len(encode(text, add_special_tokens=False).input_ids) for text in texts}) == 1
        for name in ("history_idx", "history_role"):
            assert one["config"][name] == two["config"][name][::-1]
        assert (one["config"]["history_kind"], two["config"]["history_kind"]) == ("at:1", "at:2")


def test_places_of_one_run_read_what_they_share_once(model):
    cases = [of_place(REVIEWS, QUIZ, place, 3)[0] for place in (2, 3)]
    read = []
    for together in ([cases], [[case] for case in cases]):
        lm = load_model(str(model), device="cpu")
        before = lm.tokens_read
        for batch in together:
            run_cases(batch, RunConfig(max_len=3), lm, lambda done: None)
        read.append(lm.tokens_read - before)
    shared = len(tiny.tokenizer()(cases[0].messages(1)[0]["content"]).input_ids)
    assert read[0] < read[1] - shared


def test_results_of_places_are_verified(swept):
    for folder in ("at:1", "at:2"):
        log = records.debug_path(path_of(swept / folder, "reviews", "quiz"))
        assert viz.main(["verify", "--debug_file", str(log)]) == 0


# --- figures


def test_the_figure_stands_on_the_stored_numbers(swept):
    results = records.load_results([swept])
    with style.sheet():
        [drawn] = position.position_figures(results)
    lines = {line.get_label(): line for line in drawn.figure.axes[0].lines}
    stored = {
        place: records.read_result(path_of(swept / f"at:{place}", "reviews", "quiz"))
        for place in (1, 2)
    }
    value = {k: [*result["metric_by_len"].values()] for k, result in stored.items()}
    assert [*lines["1"].get_xydata().tolist()] == [[0, value[1][1]]]
    assert [*lines["2"].get_xydata().tolist()] == [[0, value[2][2]], [1, value[1][2]]]
    [dotted] = [c for c in drawn.figure.axes[0].collections if c.get_linestyle()[0][1]]
    assert dotted.get_segments()[0][:, 1].tolist() == [value[2][1]] * 2


def test_contrast_and_report_draw_it(swept, tmp_path, capsys):
    where = ["--result_dir", str(swept)]
    assert viz.main(["contrast", *where, "--by", "history", "--out_dir", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "| at:2      | at:1      |" in said  # what is compared has its column, the same or not
    assert len(list(tmp_path.glob("*__position.png"))) == 1
    text, _ = page.make_page(records.load_results([swept]))
    assert "turns since the one distractor turn" in text


def test_other_kinds_have_no_such_figure(tmp_path, model):
    assert run(tmp_path, model, "reviews", "quiz", "--history", "teacher", "at:1") == 0
    with style.sheet():
        assert not list(position.position_figures(records.load_results([tmp_path])))
