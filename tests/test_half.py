"""Claims about half precision: what is read in float32, and what is said of the rest."""

import copy

import pytest
import tiny
import torch
import transformers
from engines import MOST, prompts_of_a_conversation, runtime, tokens
from runs import examples_of, result_of, run
from test_lens import own_logits

import viz
from lm.engine import PlainEngine
from lm.prompts import Request
from lm.tree_engine import TreeEngine

HALVES = (torch.bfloat16, torch.float16)
BENT = ("llama", "gemma2", "cohere", "granite", "phi")  # soft-cap, scales, bias
ENGINES = (PlainEngine, TreeEngine)


def with_float32_head(lm):
    """The same model in its half precision, but for an unembedding in float32."""
    other = copy.deepcopy(lm)
    other.set_output_embeddings(copy.deepcopy(lm.get_output_embeddings()).float())
    return other


def logits_in_float32(lm, ids):
    """Logits [T, V] of half-precision states by an unembedding in float32 of the test's own."""
    with torch.no_grad():
        states = lm.base_model(torch.tensor([ids])).last_hidden_state[0]
        return own_logits(with_float32_head(lm), states.float())


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("family", BENT)
def test_label_scores_are_those_of_a_float32_unembedding(family, dtype):
    ids = tokens(20)
    want = Request({4, 8, 300}, is_prompt=True)
    reading = PlainEngine(runtime(family, dtype, layers=False)).read({ids: want})[ids]
    expected = logits_in_float32(tiny.model(family, dtype), ids)[-1].log_softmax(-1)
    assert reading.logprobs == pytest.approx({t: expected[t].item() for t in (4, 8, 300)}, abs=1e-4)
    assert list(reading.top_tokens) == expected.topk(5).indices.tolist()


@pytest.mark.parametrize("engine", ENGINES)
def test_labels_that_half_precision_cannot_tell_apart_do_not_tie(engine):
    lm = tiny.fresh_model("llama", torch.bfloat16)
    rows = lm.get_output_embeddings().weight
    with torch.no_grad():
        rows[4] = 40 * rows[4]
        rows[8] = rows[4]
        rows[8, 0] = torch.nextafter(rows[4, 0], torch.tensor(9, dtype=rows.dtype))
    subject = runtime(layers=False)
    subject.model = lm
    ids = next(t for t in map(tokens, (20,) * 30, range(30)) if _ties(lm, t))
    found = engine(subject).read({ids: Request({4, 8}, is_prompt=True)})[ids].logprobs
    assert found[4] != found[8]


def _ties(lm, ids):
    with torch.no_grad():
        logits = lm(torch.tensor([ids])).logits[0, -1]
    return logits[4] == logits[8]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("family", BENT)
def test_answers_take_the_best_of_the_float32_logits(engine, family):
    ids = tokens(11)
    subject = runtime(family, torch.bfloat16, layers=False)
    answer = engine(subject).read({ids: Request(is_prompt=True, answer=MOST)})[ids].answer
    for k, token in enumerate(answer):
        logits = logits_in_float32(subject.model, (*ids, *answer[:k]))[-1]
        assert logits[token] >= logits.max() - 0.3  # what the blocks' own rounding may do


@pytest.mark.parametrize("engine", ENGINES)
def test_float32_is_read_by_the_models_own_unembedding(engine, monkeypatch):
    monkeypatch.setattr("lm.forward.Unembedding", None)
    assert engine(runtime()).read(prompts_of_a_conversation())


# --- a whole run in float16


def test_float16_runs_on_a_cpu_and_says_that_it_is_slow(tmp_path, capsys):
    model = tiny.save_model(tmp_path / "tiny-llama")
    for name, flags in (("half", ["--fp16"]), ("full", [])):
        assert run(tmp_path / name, model, ["quiz", "posts"], "reviews", *flags) == 0
    assert capsys.readouterr().err.count("float16 is slow on a CPU, slower than float32.\n") == 1
    for target in ("quiz", "posts"):
        result = result_of(tmp_path / "half", target, "reviews")
        assert result["environment"]["dtype"] == result["config"]["dtype"] == "float16"
    pairs = zip(*(examples_of(tmp_path / name, "quiz", "reviews") for name in ("half", "full")))
    for half, full in pairs:
        assert half["prompt_text"] == full["prompt_text"]
        assert half["label_logprobs"] == pytest.approx(full["label_logprobs"], abs=0.1)
        assert half["cosines"] == pytest.approx(full["cosines"], abs=0.01)


def test_what_float16_cannot_hold_stops_the_run(tmp_path, capsys):
    """The largest number of float16 is 65504."""
    model = tiny.save_model(tmp_path / "tiny-llama")
    lm = transformers.AutoModelForCausalLM.from_pretrained(model)
    lm.base_model.layers[1].mlp.down_proj.weight.data *= 1e6
    lm.save_pretrained(model)
    assert run(tmp_path / "full", model, "quiz", "reviews") == 0
    capsys.readouterr()
    assert run(tmp_path / "half", model, "quiz", "reviews", "--fp16") == 2
    assert "error: the model gave non-finite logits in float16. Try another --dtype." in (
        capsys.readouterr().err
    )
    assert not list((tmp_path / "half").rglob("*.json"))


# --- what is said of the rest


def test_ties_and_close_calls_are_counted_by_length_and_verified(tmp_path, capsys):
    model = tiny.save_model(tmp_path / "tiny-llama")
    assert run(tmp_path / "half", model, "quiz", ["reviews", "posts"], "--dtype", "bfloat16") == 0
    said = capsys.readouterr().out
    close = 0
    for name in ("reviews", "posts"):
        result = result_of(tmp_path / "half", "quiz", name)
        gaps = result["environment"]["rounding"]
        assert set(gaps) == {"tree_and_plain", "batch_and_single"}
        for h, counted in result["ties_by_len"].items():
            margins = []
            for example in examples_of(tmp_path / "half", "quiz", name):
                if example["config"]["history_len"] == int(h):
                    *_, second, best = sorted(example["label_logprobs"].values())
                    margins.append(best - second)
            expected = [sum(m == 0 for m in margins), sum(m <= max(gaps.values()) for m in margins)]
            assert [counted["tied"], counted["close"]] == expected
            close += counted["close"]
    assert f"; {close} of 24 label predictions have no larger margin." in said
    logs = map(str, (tmp_path / "half").rglob("*_debug.json"))
    assert viz.main(["verify", "--debug_file", *logs]) == 0
    assert "ties_by_len" in capsys.readouterr().out


def test_in_float32_nothing_is_said_of_rounding(tmp_path, capsys):
    model = tiny.save_model(tmp_path / "tiny-llama")
    assert run(tmp_path / "full", model, "quiz", "reviews") == 0
    assert "roads to" not in capsys.readouterr().out
    counts = result_of(tmp_path / "full", "quiz", "reviews")["ties_by_len"].values()
    assert all(each["tied"] == 0 for each in counts)
