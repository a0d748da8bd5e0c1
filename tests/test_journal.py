"""Claims about journals whatever happens to their bytes: what is read is what was written, or it
counts as not there.
"""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import UserError
from run import journal
from run.journal import Journal, example_entry, skipped_entry

SETTINGS = {
    "limit": 3,
    "seed": [0],
    "switch_cue": "é\n\u2028",
    "tasks": {"target": {"labels": ["A"]}},
}
LONGEST = 1
LENGTHS = range(LONGEST + 1)
CASES = settings(max_examples=150, derandomize=True, database=None, deadline=None)


def example(target, h, text="\N{HEBREW LETTER ALEF}\x00 \U0001f600 {x}"):
    config = {"target_idx": target, "seed": 0, "history_len": h}
    return {"prompt_text": text * (h + 1), "score": 0.1 + target, "config": config}


def written(folder, targets=range(3), rank=0):
    """A journal with these targets, each appended by itself."""
    subject = Journal(folder / "test_vs_x_test.json", SETTINGS, LENGTHS, rank)
    for target in targets:
        subject.append(entries(target))
    return subject


def entries(target):
    """The lines of a target: the last one holds its conversation."""
    said = [{"role": "user", "content": f"\x00 {target} \u2028"}]
    shorter = [example_entry(example(target, h)) for h in LENGTHS[:-1]]
    return [*shorter, example_entry(example(target, LONGEST), said)]


def assert_only_what_was_written(kept):
    for (target, seed), examples in kept.examples.items():
        assert seed == 0
        assert examples == [example(target, h) for h in LENGTHS]
        assert kept.conversations[target, seed] == entries(target)[-1]["conversation"]
    assert set(kept.conversations) == set(kept.examples)


def reread(subject):
    """What a run that is taken up finds; None where it refuses the journal in plain words."""
    before = {path: path.read_bytes() for path in journal.find_journals(subject.result)}
    try:
        subject.prepare(overwrite=False)
        return subject.read()
    except UserError as error:
        assert len(str(error).splitlines()) <= 2
        assert {path: path.read_bytes() for path in before} == before
        return None


def goes_on(subject):
    """Append what is missing; then all of it is there."""
    kept = subject.read()
    for target in range(3):
        if (target, 0) not in kept:
            subject.append(entries(target))
    kept = subject.read()
    assert_only_what_was_written(kept)
    assert set(kept.examples) == {(target, 0) for target in range(3)}


# --- damage


@CASES
@given(data=st.data())
def test_a_journal_cut_at_any_byte_goes_on(tmp_path_factory, data):
    subject = written(tmp_path_factory.mktemp("case"))
    text = subject.path.read_bytes()
    end = data.draw(st.integers(0, len(text)))
    subject.path.write_bytes(text[:end])
    kept = reread(subject)
    assert_only_what_was_written(kept)
    whole = [text.find(b"\n") + 1]
    while whole[-1]:
        whole.append(text.find(b"\n", whole[-1]) + 1)
    finished = sum(end >= place for place in whole[2:-1:2])  # the header's line, then two each
    assert len(kept.examples) == finished
    goes_on(subject)


@CASES
@given(data=st.data())
def test_a_journal_with_changed_bytes_is_read_as_written_or_refused(tmp_path_factory, data):
    subject = written(tmp_path_factory.mktemp("case"))
    text = bytearray(subject.path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 40)))
        text[start:end] = data.draw(st.binary(max_size=40))
    subject.path.write_bytes(bytes(text))
    kept = reread(subject)
    if kept is not None:
        assert_only_what_was_written(kept)
        goes_on(subject)


LINES = (
    b"",
    b"{}",
    b"NaN",
    b"[" * 100_000,
    b'{"example": ' * 50_000,
    b'{"example": {"score": 1' + b"0" * 5000 + b'}, "crc32": 0}',
    b'{"example": 1, "crc32": NaN}',
    b'{"example": {"config": {}}, "crc32": 4294967296}',
    b"\xff\xfe\x00",
    b"x" * 10**7,
)


@pytest.mark.parametrize("line", LINES, ids=lambda line: repr(line[:20]))
@pytest.mark.parametrize("place", range(1, 8))
def test_a_strange_line_does_not_count(tmp_path, line, place):
    subject = written(tmp_path)
    lines = subject.path.read_bytes().splitlines(True)
    subject.path.write_bytes(b"".join([*lines[:place], line, b"\n", *lines[place:]]))
    kept = reread(subject)
    assert_only_what_was_written(kept)
    assert len(kept.examples) == 3 and kept.damaged == 1


@CASES
@given(order=st.permutations(range(1, 7)), count=st.integers(0, 6))
def test_lines_in_any_order_or_missing_give_whole_targets_only(tmp_path_factory, order, count):
    subject = written(tmp_path_factory.mktemp("case"))
    header, *lines = subject.path.read_bytes().splitlines(True)
    subject.path.write_bytes(header + b"".join(lines[i - 1] for i in order[:count]))
    kept = reread(subject)
    assert_only_what_was_written(kept)
    left = {(i - 1) // 2 for i in order[count:]}
    assert {target for target, _ in kept.examples} == set(range(3)) - left
    goes_on(subject)


# --- what is in one


def test_every_line_is_json_and_the_first_holds_the_settings(tmp_path):
    header, *lines = written(tmp_path).path.read_text().splitlines()
    assert json.loads(header)["config"] == SETTINGS
    assert json.loads(header)["fingerprint"] == journal.settings_fingerprint(SETTINGS)
    assert [json.loads(line)["example"]["config"]["history_len"] for line in lines] == [0, 1] * 3


def test_processes_add_up_and_the_last_of_equal_lines_counts(tmp_path):
    first, second = written(tmp_path, [0]), written(tmp_path, [0, 2], rank=1)
    first.append([skipped_entry((1, 0), "out of memory"), {"token_budget": 64}])
    second.append([{"token_budget": 32}])
    kept = first.read()
    assert_only_what_was_written(kept)
    assert set(kept.examples) == {(0, 0), (2, 0)}
    assert (kept.skipped, kept.token_budget) == ({(1, 0): "out of memory"}, 32)
    assert all((target, 0) in kept for target in range(3))


def test_a_process_with_other_settings_is_refused_when_all_are_merged(tmp_path):
    first = written(tmp_path)
    other = Journal(first.result, SETTINGS | {"limit": 4}, LENGTHS, rank=1)
    other.append(entries(0))
    with pytest.raises(UserError, match="limit 4 there, 3 now"):
        first.read()


def test_missing_examples_are_waited_for_and_then_said(tmp_path, monkeypatch):
    subject = written(tmp_path, [0])
    monkeypatch.setattr(journal, "LATE_LINES", 0)
    assert subject.read_all([(0, 0)]).examples
    with pytest.raises(UserError, match="1 of 2 target examples are missing"):
        subject.read_all([(0, 0), (1, 0)])
