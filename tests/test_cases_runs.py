"""Claims about data from the field in whole runs: what counts as one target."""

import hub
import pytest
import tiny
from runs import examples_of, listed, result_of
from runs import run as run_builtin
from test_cases_data import refused, task_of, write_jsonl
from test_histories import draw_history

import data
import experiment
import viz
from core import keys, records
from data import Pair
from measures import contrasts
from run.config import RunConfig
from run.pairs import require_rows
from run.planning import drop_overflowing
from tasks import spec

PLACES = 4


def run(folder, model, target="own", distractor="reviews", *flags):
    pair = ["--target", *listed(target), "--distractor", *listed(distractor)]
    where = ["--model", model, "--out_dir", folder / "out", "--task_file", folder / "own.yaml"]
    small = ["--max_len", 1, "--device", "cpu", "--no_cosine", *flags]
    return experiment.main([str(flag) for flag in [*where, *pair, *small]])


def verified(folder):
    logs = map(str, folder.rglob("*_debug.json"))
    return viz.main(["verify", "--debug_file", *logs]) == 0


# --- rows that are one target


def annotations(place):
    """A line per annotator: the same text in several rows."""
    return [
        {"text": f"t{k}", "label": (k + place) % 2, "by": f"b{place}", "doc": f"d{k % 2}"}
        for k in range(PLACES)
    ]


@pytest.fixture
def folder(tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", [row for place in range(3) for row in annotations(place)])
    return tmp_path


def test_rows_with_equal_prompts_are_one_cluster(folder, model):
    task_of(folder, "rows.jsonl", labels=["low", "high"])
    assert run(folder, model) == 0
    for entry in result_of(folder / "out", "own", "reviews")["stats_by_len"].values():
        assert (entry["n"], entry["n_targets"]) == (12, PLACES)
        assert entry["clusters"] == {"unit": "targets", "count": PLACES}
    assert verified(folder)


def test_a_column_names_other_clusters_and_is_in_the_log(folder, model, capsys):
    task_of(folder, "rows.jsonl", labels=["low", "high"], cluster="doc")
    assert run(folder, model) == 0
    for entry in result_of(folder / "out", "own", "reviews")["stats_by_len"].values():
        assert (entry["n_targets"], entry["clusters"]["count"]) == (PLACES, 2)
    rows = data.load_rows(task_of(folder, "rows.jsonl", labels=["low", "high"], cluster="doc"))
    for example in examples_of(folder / "out", "own", "reviews"):
        config = example["config"]
        assert config["cluster"] == rows.turns[config["target_idx"]].cluster
    assert verified(folder)
    task_of(folder, "rows.jsonl", labels=["low", "high"], cluster="by")
    assert run(folder, model) == 2
    assert "other settings: " in capsys.readouterr().err


def test_equal_prompts_are_together_also_where_a_column_parts_them(folder, model):
    rows = [row for place in range(3) for row in annotations(place)]
    rows += [{"text": "alone", "label": 0, "by": "b9"}, {"text": "too", "label": 1, "by": "b9"}]
    write_jsonl(folder / "rows.jsonl", rows)
    task_of(folder, "rows.jsonl", labels=["low", "high"], cluster="by")
    assert run(folder, model, "own", ["own", "reviews"]) == 0
    for entry in result_of(folder / "out", "own", "reviews")["stats_by_len"].values():
        assert (entry["n_targets"], entry["clusters"]["count"]) == (PLACES + 2, 2)
    [row] = contrasts.contrasts(records.load_results([folder / "out"]))
    assert row["clusters"] == 2
    assert verified(folder)


def test_a_cluster_is_told_by_its_text_in_one_form(folder):
    names = ["café", " cafe\u0301", "b", "b "]
    rows = [{"text": f"t{k}", "label": 0, "doc": name} for k, name in enumerate(names)]
    write_jsonl(folder / "rows.jsonl", rows)
    own = task_of(folder, "rows.jsonl", labels=["low", "high"], cluster="doc", index_from=0)
    assert [turn.cluster for turn in data.load_rows(own).turns] == ["café", "café", "b", "b"]
    write_jsonl(folder / "rows.jsonl", [*rows, {"text": "t", "label": 0, "doc": " "}])
    assert "row 5 of 'own'" in refused(data.load_rows, own)
    assert "'doc' is empty" in refused(data.load_rows, own)


def test_a_row_without_its_cluster_is_refused(folder):
    write_jsonl(folder / "rows.jsonl", [*annotations(0), {"text": "t", "label": 0, "doc": None}])
    own = task_of(folder, "rows.jsonl", labels=["low", "high"], cluster="doc")
    assert "row 5 of 'own' has no 'doc'" in refused(data.load_rows, own)


def test_prompts_in_two_normal_forms_are_one_question(folder):
    rows = [{"text": text, "label": 0} for text in ("café", "cafe\u0301", "x", "y")]
    write_jsonl(folder / "rows.jsonl", rows)
    table = data.load_rows(task_of(folder, "rows.jsonl", labels=["low", "high"], index_from=0))
    assert (len(table.turns), table.distinct) == (4, 3)
    for number in range(20):
        assert set(draw_history(table, table.turns[0], 2, 0, number)) == {2, 3}


# --- a whole and its subjects


@pytest.mark.parametrize("mix", ["target_first", "target_last", "interleaved"])
def test_a_row_of_both_tasks_is_shown_in_one_role_only(tmp_path, mix):
    root = hub.write_all(tmp_path)
    whole, part = (
        data.load_rows(spec.parse_spec(name), str(root)) for name in ("mmlu", "mmlu.anatomy")
    )
    for target, distractor in ((whole, part), (part, whole)):
        pair = Pair(target, distractor)
        require_rows(pair, RunConfig(max_len=3, mix=mix))
        for [case] in data.plan_cases([pair], 3, [0], mix=mix):
            asked = [case.target.prompt, *(past.turn.prompt for past in case.history)]
            assert len(set(asked)) == 4
    pair = Pair(whole, part)  # of the 4 rows of the part one may be the target
    assert "has only 4 different rows" in refused(require_rows, pair, RunConfig(max_len=4, mix=mix))


@pytest.mark.parametrize(
    ("target", "distractor", "same"),
    [
        ("mmlu/test", "mmlu/validation", True),
        ("mmlu.a/test", "mmlu.a/test", True),
        ("mmlu/test", "mmlu.a/test", True),
        ("mmlu.a/test", "mmlu.b/test", False),  # two tasks, as in the paper
        ("quiz/test", "reviews/test", False),
    ],
)
def test_a_subject_and_its_whole_are_one_task_and_two_subjects_are_two(target, distractor, same):
    assert keys.same_task(target, distractor) == same
    assert keys.same_task(distractor, target) == same


# --- targets that are too long under one seed


class Context:
    """A model whose context holds what is said to fit."""

    context = 0

    def __init__(self, fits):
        self.fits = fits

    def surely_fits(self, asked):
        return self.fits(asked.messages)

    def tokens_needed(self, asked):
        return 1


def test_a_target_that_is_too_long_under_one_seed_is_left_out_under_all(tmp_path):
    rows = [data.load_rows(spec.parse_spec(name)) for name in ("quiz", "reviews")]
    plan = data.plan_cases([Pair(*rows)], 2, [0, 1, 2], limit=5)
    long = plan[1][2]  # of the last seed
    lm = Context(lambda messages: messages != long.messages(2))
    kept, dropped = drop_overflowing(plan, lm, RunConfig(max_len=2, on_overflow="skip"))
    assert dropped == [long]
    assert kept == [plan[0], [], *plan[2:]]


def test_results_of_several_seeds_hold_every_target_under_each(tmp_path, model):
    flags = ["--seed", "0", "1", "2", "--on_overflow", "skip", "--no_cosine"]
    assert run_builtin(tmp_path / "whole", model, "quiz", "posts", *flags) == 0
    texts = {
        (each["config"]["target_idx"], each["config"]["seed"]): each["prompt_text"]
        for each in examples_of(tmp_path / "whole", "quiz", "posts")
        if each["config"]["history_len"] == 2
    }
    ids = tiny.tokenizer()([f"{text}A" for text in texts.values()], add_special_tokens=False)
    lengths = dict(zip(texts, map(len, ids.input_ids)))
    longest = max(lengths, key=lengths.get)
    context = sorted(lengths.values())[-2]
    short = tiny.save_model(tmp_path / "tiny-llama", max_position_embeddings=context)
    assert run_builtin(tmp_path / "short", short, "quiz", "posts", *flags) == 0
    result = result_of(tmp_path / "short", "quiz", "posts")
    assert result["skipped_target_idx"] == [longest[0]]
    assert (result["n_skipped"], result["n"]) == (1, 9)
    assert verified(tmp_path / "short")
