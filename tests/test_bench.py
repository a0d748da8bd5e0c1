"""Claims about the benchmark: it compares the same work, and its figures are what they say."""

import argparse
import json
import math
import sys

import pytest

from core.errors import UserError
from data import Pair, load_rows, plan_cases
from model import load_model
from scripts import bench_answers, bench_others
from scripts.bench_work import encode_cases, start_others
from tasks.spec import parse_spec

# Stands in for vLLM: it repeats a prompt's last token, and says what it was asked
FAKE_VLLM = """
import json, sys
from types import SimpleNamespace as Namespace

class SamplingParams(Namespace):
    pass

class LLM:
    def __init__(self, model, **settings):
        self.dtype, self.cached = settings["dtype"], False

    def reset_prefix_cache(self):
        self.cached = False

    def generate(self, prompts, settings, use_tqdm):
        assert not self.cached and settings.temperature == 0.0, settings
        self.cached = True
        if len(prompts) == 3:
            sys.exit("no room for three")
        return [Namespace(outputs=[self.output(each["prompt_token_ids"], settings)])
                for each in prompts]

    def output(self, ids, settings):
        print("what a library prints", sum(range(100_000 * settings.max_tokens)))
        tokens = ids[-1:] * (1 if ids[-1] in settings.stop_token_ids else settings.max_tokens)
        top = {ids[-1]: Namespace(logprob=-0.5)}
        return Namespace(token_ids=tokens, logprobs=[top] if settings.logprobs else None)
"""


@pytest.fixture(scope="module")
def lm(model):
    return load_model(str(model))


@pytest.fixture(scope="module")
def prompts(lm):
    """Those of posts after two tasks, up to two turns, of two targets."""
    posts, quiz, reviews = (load_rows(parse_spec(name)) for name in ("posts", "quiz", "reviews"))
    plan = plan_cases([Pair(posts, quiz), Pair(posts, reviews)], 2, [0], 2)
    return encode_cases(lm, [case for cases in plan for case in cases], 2)


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A Python with the stand-in for vLLM."""
    (tmp_path / "vllm.py").write_text(FAKE_VLLM)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return sys.executable


def given(**changed):
    """Arguments of bench.py."""
    plain = {"answers": "posts", "grid": ["quiz"], "data_root": None, "max_len": [1], "seed": 0}
    plain |= {"n": 1, "repeats": 1, "clock": "cpu", "rows": [], "vllm": None, "llama": None}
    return argparse.Namespace(**plain | changed)


def test_generate_answers_as_the_tree_does_in_the_order_of_the_prompts(lm, prompts):
    tree, generate = bench_answers.tree_writer(lm), bench_answers.generate_writer(lm)
    assert len(prompts) == 10
    assert generate.write(prompts) == tree.write(prompts)


def test_decoding_is_what_all_answers_take_beyond_their_first_tokens(prompts):
    most = prompts[0].answer
    asked = []

    def write(prompts):
        asked.append([prompt.answer for prompt in prompts])
        return [(7,) * most, (7, 7), ()]

    writer = bench_answers.Writer("made up", write)
    writer.whole.work(prompts[:3])
    writer.first.work(prompts[:3])
    assert asked == [[most] * 3, [1] * 3]
    assert writer.decoded == (most - 1) + 2 + 0  # the token that ends an answer is decoded too
    writer.whole.seconds, writer.first.seconds = [5.0, 6.0], [1.0, 1.0]
    assert writer.decoding == [4 / (most + 1), 5 / (most + 1)]


def test_answers_of_one_token_have_no_speed_of_decoding(prompts):
    writer = bench_answers.Writer("made up", lambda prompts: [()] * len(prompts))
    writer.whole.work(prompts)
    writer.whole.seconds, writer.first.seconds = [2.0], [1.0]
    assert math.isnan(writer.decoding[0])


def test_the_table_of_answers_compares_the_programs(lm, fake, capsys):
    bench_answers.compare_answers(lm, given(vllm=[fake, "folder"]))
    _, head, columns, *rows = capsys.readouterr().out.strip().splitlines()
    assert head.startswith("2 prompts of ")
    assert "decoding, x tree" in columns
    names = ["tree", "generate of transformers", "vLLM, float32"]
    assert [row[:28].strip() for row in rows] == names
    assert [row.split()[-3:] for row in rows[:2]] == [["2", "of", "2"]] * 2
    assert "1.00 (1.00-1.00)" in rows[0]


def test_generate_is_left_out_where_other_rows_are_named(lm):
    def names(*rows):
        return [writer.name for writer in bench_answers.own_writers(lm, rows)]

    assert names() == ["tree", "generate of transformers"]
    assert names("tree") == ["tree"]
    assert names("generate of transformers") == names()


def test_answers_that_end_at_a_text_are_not_compared(model):
    with pytest.raises(UserError, match="chat models"):
        bench_answers.compare_answers(load_model(str(model), prompt_form="plain"), given())


def test_vllm_is_started_in_each_dtype_that_is_named(lm, fake):
    several = start_others(lm, given(vllm=[fake, "x", "float32", "float16"]))
    own = start_others(lm, given(vllm=[fake, "x"]))
    assert [other.name for other in several] == ["vLLM, float32", "vLLM, float16"]
    assert [other.name for other in own] == ["vLLM, float32"]
    for other in several + own:
        other.close()


def test_another_program_answers_the_token_ids_it_is_given(fake):
    other = bench_others.Other(fake, "vllm", "x", 1, "float32")
    assert other.read([[5, 6], [7]]) == [{"6": -0.5}, {"7": -0.5}]
    assert other.answer([[5, 6], [7]], 3, [7]) == [[6, 6, 6], [7]]
    assert other.cpu_seconds > 0
    other.close()


def test_a_program_that_ends_is_named(fake):
    other = bench_others.Other(fake, "vllm", "x", 1, "float32")
    with pytest.raises(SystemExit, match="vLLM, float32 has ended"):
        other.read([[1], [2], [3]])


def test_what_is_asked_passes_as_json():
    asked = bench_others.Asked([[1, 2]], 3, [0], 20)
    assert bench_others.Asked(*json.loads(json.dumps(asked))) == asked
