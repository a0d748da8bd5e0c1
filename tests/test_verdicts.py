"""Checks of a model that it has passed are not run again, while nothing they depend on changes."""

import json
import os
import time

import pytest
import torch
from runs import path_of, run
from torch.nn.modules.module import register_module_forward_hook

from core import records, schema
from lm import checks, loading, proof, verdicts
from model import load_model

PROBES = ("check_causal", "Probe", "exact_parts")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A folder for verdicts that is empty at first."""
    monkeypatch.setattr(verdicts, "folder", lambda: tmp_path / "verdicts")
    return tmp_path / "verdicts"


@pytest.fixture
def probes(monkeypatch):
    """The names of the checks that are run, in their order."""
    import model as door

    ran = []

    def noted(name, work):
        def note(*args, **kwargs):
            ran.append(name)
            return work(*args, **kwargs)

        return note

    for place, name in zip((checks, proof, door), PROBES):
        monkeypatch.setattr(place, name, noted(name, getattr(place, name)))
    return ran


def load(folder, **settings):
    lm = load_model(str(folder), device="cpu", **settings)
    assert lm.exact_effects == schema.EFFECT_PARTS
    return lm


def test_a_model_that_has_passed_is_not_checked_again(copy, probes):
    first = load(copy)
    assert probes == list(PROBES)
    second = load(copy)
    assert probes == list(PROBES)
    assert second.proof == first.proof and second.engine.name == first.engine.name


def test_checks_cost_no_forward_then(copy):
    counts = []
    for _ in range(2):
        seen: list = []
        hook = register_module_forward_hook(lambda module, *rest, seen=seen: seen.append(module))
        lm = load(copy)
        hook.remove()
        counts.append(seen.count(lm.model))
    assert counts[0] > 20 and counts[1] == 1  # that of the lens, which is made from it


def touched(folder):
    file = folder / "model.safetensors"
    stat = file.stat()
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))


def grown(folder):
    config = folder / "config.json"
    stat = config.stat()
    config.write_text(config.read_text() + " ")
    os.utime(config, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def edited(folder):
    """Other weights in the middle of a file whose size, time and ends are as they were."""
    file = folder / "model.safetensors"
    content, stat = bytearray(file.read_bytes()), file.stat()
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize("change", [touched, grown, edited])
def test_other_files_are_checked_anew(copy, probes, change, monkeypatch):
    monkeypatch.setattr(loading, "HASHED_ENDS", 64)
    load(copy)
    change(copy)
    load(copy)
    assert probes == 2 * list(PROBES)


@pytest.mark.parametrize(
    "settings", [{"dtype": "bfloat16"}, {"recheck": True}, {"trust_remote_code": True}]
)
def test_another_dtype_and_recheck_check_anew(copy, probes, settings):
    load(copy)
    load(copy, **settings)
    assert probes == 2 * list(PROBES)


@pytest.mark.parametrize(
    "what", ["torch", "transformers", "bitsandbytes", "code", "switch", "device"]
)
def test_other_versions_and_other_code_check_anew(copy, probes, monkeypatch, what, tmp_path):
    monkeypatch.setattr(verdicts, "_version", lambda name: "1")
    load(copy)
    if what in ("torch", "transformers", "bitsandbytes"):
        other = {what: "0"}
        monkeypatch.setattr(verdicts, "_version", lambda name: other.get(name, "1"))
    if what == "code":
        (tmp_path / "lens.py").write_text("")
        monkeypatch.setattr(verdicts, "_own_code", lambda: [tmp_path / "lens.py"])
    if what == "switch":
        monkeypatch.setenv("TRANSFORMERS_SDPA_FORCE_GQA", "0")
    if what == "device":
        monkeypatch.setattr(verdicts, "_kind", lambda device: "another")
    load(copy)
    assert probes == 2 * list(PROBES)


def test_another_number_of_threads_and_another_precision_check_anew(copy, probes):
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    load(copy)
    try:
        torch.set_num_threads(threads + 1)
        load(copy)
        assert probes == 2 * list(PROBES)
        torch.set_float32_matmul_precision("medium")
        load(copy)
        assert probes == 3 * list(PROBES)
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
    load(copy)
    assert probes == 3 * list(PROBES)


def test_a_processor_that_can_other_things_checks_anew(copy, probes, monkeypatch):
    load(copy)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_tile": None})
    load(copy)
    assert probes == 2 * list(PROBES)


def test_another_engine_has_a_proof_of_its_own(copy, probes):
    load(copy)
    assert load(copy, engine="plain").engine.name == "plain"
    assert probes == [*PROBES, "Probe"]
    load(copy), load(copy, engine="plain")
    assert probes == [*PROBES, "Probe"]


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"facts": 1}', "changed"])
def test_a_damaged_file_is_ignored(copy, probes, home, content):
    first = load(copy)
    [file] = home.iterdir()
    if content == "changed":
        kept = json.loads(file.read_text())
        kept["passed"]["engine auto"]["tree_gap"] = 0.5
        content = json.dumps(kept)
    file.write_text(content)
    assert load(copy).proof == first.proof
    assert probes == 2 * list(PROBES)
    load(copy)  # it was written anew
    assert probes == 2 * list(PROBES)


def test_the_verdicts_that_were_used_longest_ago_give_way(home, monkeypatch):
    monkeypatch.setattr(verdicts, "MOST_KEPT", 3)
    facts = [{"model": str(number)} for number in range(5)]

    def checked(number, ago):
        verdict = verdicts.Verdict(facts[number])
        found = verdict.once("probe", lambda: "run")
        os.utime(verdict.file, (time.time() - ago,) * 2)
        return found

    for number in range(3):
        checked(number, ago=100 - number)
    (home / "notes.json").write_text("{}")  # is none of ours
    verdicts.Verdict(facts[0])  # is used again
    checked(3, ago=0)
    kept = [number for number, about in enumerate(facts) if verdicts.Verdict(about).passed]
    assert kept == [0, 2, 3]
    assert (home / "notes.json").exists()


def test_where_nothing_can_be_written_the_checks_are_run_each_time(copy, probes, home):
    home.write_text("no folder")
    load(copy), load(copy)
    assert probes == 2 * list(PROBES)


def test_a_model_that_fails_is_not_kept(copy, probes, home, monkeypatch):
    monkeypatch.setattr(proof, "largest_gap", lambda first, second: 1.0)
    for count in (1, 2):
        assert load_model(str(copy), device="cpu").engine.name == "plain"
        assert probes.count("Probe") == count
    [file] = home.iterdir()
    assert list(json.loads(file.read_text())["passed"]) == ["causal"]


def test_a_run_has_the_same_numbers_with_a_verdict_and_without(model, tmp_path, probes):
    found = []
    for place in ("cold", "warm"):
        assert run(tmp_path / place, model, "quiz", "reviews", "--effects", "--limit", "2") == 0
        path = path_of(tmp_path / place, "quiz", "reviews")
        result, log = records.read_result(path), records.read_debug(records.debug_path(path))
        found.append((result["environment"].pop("rounding"), records.digest(result), log))
    assert probes == list(PROBES)
    assert found[0] == found[1]
