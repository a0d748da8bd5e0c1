"""Claims about --history chats:FILE: a history is turns of a real conversation, as said."""

import json
import shutil
from pathlib import Path

import pytest
from drawn import QUIZ, REVIEWS
from fake_server import MODEL, serving
from runs import SMALL
from transformers import AutoTokenizer

import data
import experiment
import viz
from core import json_stream, records
from core.errors import UserError
from run.config import RunConfig
from run.histories import chat_rows, require_chats
from tasks.chats import read_chats
from tasks.kinds import parse_kind


def user(text):
    return {"role": "user", "content": text}


def reply(text):
    return {"role": "assistant", "content": text}


def chat(number, turns=3):
    """Messages of a chat that no other has."""
    texts = [(f"{number} asks {k}?", f"{number} says {k}.") for k in range(turns)]
    return [message for one, two in texts for message in (user(one), reply(two))]


def write(path, *rows, ending="\n", encoding="utf-8"):
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + ending for row in rows)
    path.write_bytes(text.encode(encoding))
    return path


def chats_in(path, **row):
    [found] = read_chats(write(path, row))
    return found


def run(out_dir, model, path, *flags):
    """Exit status of a run with the chats of a file before reviews."""
    flags = ["--history", f"chats:{path}", "--target", "reviews", "--out_dir", out_dir, *flags]
    return experiment.main([str(flag) for flag in ("--model", model, *SMALL, *flags)])


def log_in(folder):
    [path] = folder.rglob("*_debug.json")
    return records.read_debug(path)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A file as a user has it: 8 chats, some with a system message or other keys."""
    rows = [{"messages": chat(k), "id": k, "language": "English"} for k in range(6)]
    rows.append({"conversation": [{"role": "system", "content": "Be kind."}, *chat(6)]})
    rows.append({"conversations": [
        {"from": {"user": "human", "assistant": "gpt"}[each["role"]], "value": each["content"]}
        for each in chat(7)
    ]})  # fmt: skip
    return write(tmp_path_factory.mktemp("chats") / "wild chat.v1.jsonl", *rows)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, model, file):
    out_dir = tmp_path_factory.mktemp("finished")
    assert run(out_dir, model, file) == 0
    return out_dir


def test_a_run_goes_on_with_the_same_chats_at_another_place(
    tmp_path, model, file, finished, monkeypatch, capsys
):
    run_batch, batches = experiment.run_batch, []

    def interrupted(*given):
        batches.append(given)
        if len(batches) == 2:
            raise KeyboardInterrupt
        return run_batch(*given)

    monkeypatch.setattr(experiment, "run_batch", interrupted)
    assert run(tmp_path / "out", model, file, "--batch_size", 1) == 130
    assert run(tmp_path / "out", model, shutil.copy(file, tmp_path / file.name)) == 0
    assert "Continuing: 1 target examples are finished" in capsys.readouterr().err
    logs = [log_in(folder)["debug_examples"] for folder in (tmp_path / "out", finished)]
    for name in ("prompt_text", "config", "score"):
        assert [example[name] for example in logs[0]] == [example[name] for example in logs[1]]


# --- what a run shows


def messages_of(row):
    """The user and assistant messages of a line of the file, as a template takes them."""
    if "conversations" in row:
        names = {"human": "user", "gpt": "assistant"}
        return [{"role": names[m["from"]], "content": m["value"]} for m in row["conversations"]]
    messages = row.get("messages") or row["conversation"]
    return [message for message in messages if message["role"] != "system"]


def test_a_prompt_is_the_template_on_the_messages_of_the_file_and_the_target(finished, model, file):
    tokenizer, lines = AutoTokenizer.from_pretrained(model), file.read_text().splitlines()
    for example in log_in(finished)["debug_examples"]:
        config, said = example["config"], []
        if config["history_len"]:
            row = json.loads(lines[config["chat_line"] - 1])
            said = messages_of(row)[: 2 * config["history_len"]]
        asked = [*said, user(REVIEWS.turns[config["target_idx"]].prompt)]
        text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        assert example["prompt_text"] == text


def test_each_target_has_a_chat_of_its_own_and_h_turns_are_its_first(finished):
    by_target = {}
    for example in log_in(finished)["debug_examples"]:
        config = example["config"]
        assert config["history_kind"] == "chats"
        assert (config["distractor_dataset"], config["distractor_split"]) == (
            "chats",
            "wild chat.v1",
        )
        assert ("chat_line" in config) == bool(config["history_len"])
        by_target.setdefault(config["target_idx"], []).append(config)
    lines = [{each["chat_line"] for each in configs[1:]} for configs in by_target.values()]
    assert all(len(each) == 1 for each in lines)
    assert len(set.union(*lines)) == len(by_target) == 4


def test_h_0_is_the_prompt_of_any_other_run_and_verify_agrees(finished, tmp_path, model, capsys):
    flags = ["--model", model, "--target", "reviews", "--distractor", "quiz", "--out_dir", tmp_path]
    assert experiment.main([str(flag) for flag in (*flags, *SMALL)]) == 0
    one, other = (
        [e for e in log_in(folder)["debug_examples"] if not e["config"]["history_len"]]
        for folder in (finished, tmp_path)
    )
    assert [e["prompt_text"] for e in one] == [e["prompt_text"] for e in other]
    for mine, theirs in zip(one, other):
        assert mine["label_logprobs"] == pytest.approx(theirs["label_logprobs"], abs=1e-5)
    [path] = finished.rglob("*_debug.json")
    assert viz.main(["verify", "--debug_file", str(path)]) == 0
    assert "MISMATCH" not in capsys.readouterr().out


def test_the_result_is_named_after_the_file_and_says_what_was_left_out(finished, file):
    [path] = finished.rglob("*_debug.json")
    assert path.name == "test_vs_chats_wild chat.v1_debug.json"
    result = records.read_result(records.result_of_debug(path))
    assert result["distractor"] == "chats/wild chat.v1"
    assert result["config"]["history"] == "chats"
    assert result["config"]["chats"] == {
        "file": str(file), "chats": 8, "long_enough": 8, "cut_at_a_fault": 0, "first_fault": None,
        "system_messages_left_out": 1, "repeated": 0,
    }  # fmt: skip


def test_text_like_a_special_token_is_read_as_text_as_in_rows(tmp_path, model):
    rows = [[user("a <|end|><|user|> b"), reply("c <s> d")], *(chat(k, 1) for k in range(3))]
    path = write(tmp_path / "x.jsonl", *({"messages": messages} for messages in rows))
    assert run(tmp_path / "out", model, path, "--max_len", 1) == 0
    log, seen = log_in(tmp_path / "out"), 0
    for example in log["debug_examples"]:
        if example["config"].get("chat_line") == 1:
            seen += 1
            assert example["escaped_special_tokens"] == 3
            said = log["conversations"][example["conversation"]]
            assert said[0]["content"] == "a < |end|>< |user|> b" in example["prompt_text"]
            assert said[1]["content"] == "c < s> d" in example["prompt_text"]
    assert seen == 1


# --- how chats are drawn


def plan(path, max_len=2, seed=0, targets=REVIEWS, **settings):
    pair = data.Pair(targets, chat_rows(str(path), max_len), parse_kind(f"chats:{path}"))
    return [case for [case] in data.plan_cases([pair], max_len, [seed], **settings)]


def test_the_draw_is_seeded_and_is_the_same_for_every_target_task(file):
    def lines(**settings):
        return [case.history[0].turn.line for case in plan(file, limit=8, **settings)]

    assert sorted(lines()) == list(range(1, 9)) != lines()
    assert lines() == lines(targets=QUIZ) != lines(seed=1)
    assert [case.messages(1)[:2] for case in plan(file, limit=8)] == [
        case.messages(1)[:2] for case in plan(file, max_len=3, limit=8)
    ]


def test_a_chat_that_asks_what_a_target_asks_is_no_history_and_no_other_is_two(tmp_path):
    targets = REVIEWS.turns
    asking = [user(targets[0].prompt), reply("x"), *chat(0, 1)]
    rows = [{"messages": chat(k)} for k in range(len(targets))]
    path = write(tmp_path / "a.jsonl", {"messages": asking}, *rows)
    for seed in range(5):
        lines = [case.history[0].turn.line for case in plan(path, seed=seed)]
        assert sorted(lines) == list(range(2, len(targets) + 2)), seed


def test_a_chat_that_is_there_twice_is_one_history(tmp_path):
    rows = [{"messages": chat(k)} for k in (0, 1, 0, 2)]
    rows.append({"messages": [*chat(1, 2), *chat(5, 1)]})  # differs behind what is shown
    found = chat_rows(str(write(tmp_path / "a.jsonl", *rows)), 2)
    assert [turn.line for turn in found.turns] == [1, 1, 2, 2, 4, 4]
    assert (found.facts["chats"], found.facts["long_enough"], found.facts["repeated"]) == (5, 3, 2)
    config = RunConfig(history=(f"chats:{tmp_path / 'a.jsonl'}",), max_len=2, limit=4)
    pair = data.Pair(REVIEWS, found, parse_kind(config.history[0]))
    with pytest.raises(UserError, match="3 of 5 chats, repeats counted once, have 2 turns or more"):
        require_chats(pair, config)


def test_chats_that_ask_what_a_target_asks_do_not_count_as_histories(tmp_path):
    asking = [user(REVIEWS.turns[0].prompt), reply("x"), *chat(0, 1)]
    path = write(tmp_path / "a.jsonl", {"messages": asking}, {"messages": chat(1)})
    config = RunConfig(history=(f"chats:{path}",), max_len=2, limit=2)
    pair = data.Pair(REVIEWS, chat_rows(str(path), 2), parse_kind(config.history[0]))
    said = "1 of 2 chats have 2 turns or more and ask nothing that the target asks, and 2 histories"
    with pytest.raises(UserError, match=said):
        require_chats(pair, config)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_len": 3, "limit": 3}, None),
        ({"max_len": 4, "limit": 3}, "2 of 5 chats have 4 turns or more, and 3 histories need one"),
        ({"max_len": 4, "limit": 3, "num_histories": 2}, None),
        ({"max_len": 3}, f"4 of 5 chats have 3 turns or more, and {len(REVIEWS.turns)} histories"),
        ({"max_len": 9, "limit": 1}, "0 of 5 chats"),
    ],
)
def test_too_few_chats_are_refused_with_the_counts(tmp_path, settings, words):
    path = write(
        tmp_path / "a.jsonl", *({"messages": chat(k, n)} for k, n in enumerate([3, 3, 4, 5, 2]))
    )
    config = RunConfig(history=(f"chats:{path}",), **settings)
    pair = data.Pair(REVIEWS, chat_rows(str(path), config.longest), parse_kind(config.history[0]))
    if words is None:
        return require_chats(pair, config)
    with pytest.raises(UserError, match=words):
        require_chats(pair, config)


# --- files


def test_forms_of_shareGPT_wildchat_and_lmsys_are_read_alike(tmp_path):
    said = (("Hi?", "Hello."), ("And?", "That."))
    names = {"user": "human", "assistant": "gpt"}
    messages = [user("Hi?"), reply("Hello."), user("And?"), reply("That.")]
    sharegpt = [{"from": names[m["role"]], "value": m["content"]} for m in messages]
    wild = [m | {"language": "English", "toxic": False, "redacted": False} for m in messages]
    path = tmp_path / "a.jsonl"
    assert chats_in(path, id="x", conversations=sharegpt).turns == said
    assert chats_in(path, conversation_hash="x", turn=2, conversation=wild).turns == said
    assert chats_in(path, conversation_id="x", conversation=messages, model="m").turns == said
    assert chats_in(path, messages=messages, conversations=None).turns == said


@pytest.mark.parametrize(
    ("messages", "turns", "fault"),
    [
        (chat(0, 2), 2, None),
        ([*chat(0, 2), user("left open")], 2, None),
        ([], 0, None),
        ([{"role": "system", "content": ""}, *chat(0, 2)], 2, None),
        ([{"role": "developer", "content": "x"}, *chat(0, 2)], 2, None),
        ([*chat(0, 1), {"role": "system", "content": "x"}, *chat(0, 1)], 1, "3 is of the system"),
        (chat(0, 2)[1:], 0, "1 is of the assistant, and the user should speak"),
        ([*chat(0, 1), reply("more"), *chat(0, 1)], 1, "3 is of the assistant"),
        ([user("a"), user("b"), reply("c")], 0, "2 is of the user, and the assistant should speak"),
        ([*chat(0, 1), {"role": "tool", "content": "x"}], 1, "3 has an unknown role, 'tool'"),
        ([*chat(0, 1), {"content": "x"}], 1, "3 has an unknown role, 'none'"),
        ([*chat(0, 1), user(" \n"), reply("x")], 1, "3 is empty"),
        ([user("x"), reply(None)], 0, "2 is empty"),
        ([user("x"), {"role": "assistant"}], 0, "2 is empty"),
        ([user("x"), "y"], 0, "2 is no object"),
        ([user("x"), reply(7)], 0, "2 holds what is no text (int)"),
        ([user("x"), reply("\ud800")], 0, "2 contains a lone surrogate"),
        (
            [user([{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]), reply("c")],
            1,
            None,
        ),
        ([user(["a", "b"]), reply([{"text": "c"}])], 1, None),
        ([user([{"type": "image_url", "image_url": {}}]), reply("c")], 0, "no text (image_url)"),
        ([user([{"type": "image"}, {"type": "text", "text": "a"}]), reply("c")], 0, "(image)"),
        ([user([{"type": "text", "text": None}]), reply("c")], 0, "no text (NoneType)"),
        ([user("a\0b <|im_end|> [INST]"), reply("c\r\nd")], 1, None),
    ],
)
def test_turns_end_before_a_message_that_is_none(tmp_path, messages, turns, fault):
    found = chats_in(tmp_path / "a.jsonl", messages=messages)
    assert len(found.turns) == turns
    assert fault in found.fault if fault else found.fault is None
    assert found.has_system == (bool(messages) and messages[0]["role"] in ("system", "developer"))


def test_texts_are_as_they_were_said(tmp_path):
    texts = ("  a\0b <|im_end|> [INST]\n", "c\r\nd ")
    assert chats_in(tmp_path / "a", messages=[user(texts[0]), reply(texts[1])]).turns == (texts,)
    parts = [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]
    assert chats_in(tmp_path / "a", messages=[user(parts), reply("c")]).turns == (("a b", "c"),)


@pytest.mark.parametrize(
    "settings", [{"encoding": "utf-8-sig"}, {"ending": "\r\n"}, {"ending": "\n \n\n"}]
)
def test_marks_line_ends_and_empty_lines_are_passed_over(tmp_path, settings):
    path = write(tmp_path / "a.jsonl", *({"messages": chat(k)} for k in range(3)), **settings)
    assert [found.turns[0][0] for found in read_chats(path)] == [f"{k} asks 0?" for k in range(3)]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_one_list_of_chats_is_read_as_a_line_to_each(tmp_path, indent, encoding, monkeypatch):
    half = [user("b"), reply("\ud800"), *chat(1)]  # ends the chat, and not the run
    rows = [{"messages": chat(0), "score": float("nan")}, {"messages": half}, {"messages": chat(2)}]
    lines = write(tmp_path / "a.jsonl", *rows)
    listed = tmp_path / "a.json"
    listed.write_text("\n " + json.dumps(rows, indent=indent), encoding=encoding)
    monkeypatch.setattr(json_stream, "CHUNK", 100)  # characters
    found, expected = list(read_chats(listed)), list(read_chats(lines))
    assert [each.turns for each in found] == [each.turns for each in expected]
    assert [(each.line, each.fault) for each in found] == [(e.line, e.fault) for e in expected]
    assert (found[1].where, expected[1].where) == ("entry 2", "line 2")


def test_a_list_of_chats_is_never_held_whole(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"messages": chat(k, 20)} for k in range(300)]))
    monkeypatch.setattr(json_stream, "CHUNK", 1000)
    held, more = [], json_stream._Text._more

    def watched(text):
        found = more(text)
        held.append(len(text.held))
        return found

    monkeypatch.setattr(json_stream._Text, "_more", watched)
    assert len(list(read_chats(path))) == 300
    assert max(held) < 5000 < path.stat().st_size / 50


GOOD = json.dumps({"messages": chat(0)})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (f"{GOOD}\n\n{{x\n", "line 3: Expecting property name"),
        (f"{GOOD}\n[1]\n", "line 2 is not an object"),
        (f"{GOOD}\n[\n{GOOD}]", "line 2: Expecting value"),
        (f"[{GOOD},\n{{x}}]", "entry 2: Expecting property name"),
        (f"[{GOOD}, [1]]", "entry 2: it is no object"),
        (f"[{GOOD}, {{}}]", "entry 2 has no list of messages"),
        (f"[{GOOD}, {GOOD}", "entry 2: it is cut off"),
        (f"[{GOOD}] {GOOD}", "something follows behind its end"),
        ('[{"messages": [], "messages": []}]', "entry 1: 'messages' is there twice"),
        (f"[\n{GOOD}\n".encode() + b', {"messages": "\xff"}]', "line 3: not UTF-8"),
        (f"[{GOOD.replace('0 says 1.', '')}]", "entry 1: message 4 is empty"),
        ("[]", "0 of 0 chats"),
        (f"{GOOD}\n{{}}\n", "line 2 has no list of messages, conversation or conversations"),
        ('{"messages": "hello"}', "line 1 has no list"),
        (f"{GOOD}\n" + '{"messages": [], "messages": []}', "line 2: 'messages' is there twice"),
        (f"{GOOD}\n".encode() + b'{"messages": "\xff"}\n', "line 2: not UTF-8"),
        (GOOD.encode("utf-16"), "is not UTF-8|not UTF-8"),
        ("", "0 of 0 chats"),
        (GOOD, "1 of 1 chats have 2 turns or more, and 4 histories need one each"),
        (GOOD.replace("asks 1", "") .replace("0 says 1.", ""), "line 1: message 4 is empty"),
        ("[" * 100000, "entry 1"),
        ('{"messages": ' + "[" * 100000, "line 1"),
        (None, "No such file"),
    ],
)  # fmt: skip
def test_a_file_that_is_none_of_chats_is_refused_in_two_lines(
    tmp_path, model, capsys, content, words
):
    path = tmp_path / "a.jsonl"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert run(tmp_path / "out", model, path) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --history chats: ")
    assert str(path) in error
    assert any(word in error for word in words.split("|"))
    assert error.count("\n") <= 2
    assert not any(each.is_file() for each in (tmp_path / "out").rglob("*"))


def test_a_chat_with_a_fault_is_cut_there_and_the_run_says_so(tmp_path, model, capsys):
    broken = [*chat(9, 2), reply("again"), *chat(8, 2)]
    path = write(
        tmp_path / "a.jsonl", *({"messages": m} for m in (chat(0), chat(1), chat(2), broken))
    )
    assert run(tmp_path / "out", model, path) == 0
    said = f"{path}: 1 of 4 chats are cut before a message that is no turn, the first in line 4: "
    assert said + "message 5 is of the assistant" in capsys.readouterr().err
    assert run(tmp_path / "two", model, path, "--max_len", 3) == 2
    assert "3 of 4 chats have 3 turns or more, and 4 histories" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--distractor quiz", "--history chats replaces the distractor: leave out --distractor"),
        ("--mix interleaved", "leave out --mix"),
    ],
)
def test_settings_that_do_not_go_with_chats_are_refused(
    tmp_path, model, file, capsys, flags, words
):
    try:
        status = run(tmp_path, model, file, *flags.split())
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    assert words in capsys.readouterr().err


def test_chats_are_run_by_themselves(tmp_path, model, file, capsys):
    kinds = ["--history", "teacher", f"chats:{file}"]
    assert run(tmp_path, model, file, *kinds) == 2
    assert "run it by itself" in capsys.readouterr().err
    assert run(tmp_path, model, file, "--history", "chats:") == 2
    assert "chats:FILE" in capsys.readouterr().err


def test_a_changed_file_is_another_run(finished, model, file, tmp_path, capsys):
    other = write(
        tmp_path / file.name, *(["{}"] * 0), file.read_text().replace("says 0", "said 0"), ending=""
    )
    assert run(finished, model, file) == 0
    assert "All results exist already" in capsys.readouterr().out
    assert run(finished, model, other) == 2
    assert "distractor_rows" in capsys.readouterr().err


def test_a_model_behind_a_server_is_sent_them_too(tmp_path, file):
    with serving() as (url, _):
        assert run(tmp_path, MODEL, file, "--server", url, "--device", "auto") == 0
    log = log_in(tmp_path)
    example = max(log["debug_examples"], key=lambda each: each["config"]["history_len"])
    said = log["conversations"][example["conversation"]]
    row = json.loads(file.read_text().splitlines()[example["config"]["chat_line"] - 1])
    assert said[:-1] == messages_of(row)[:4]


def test_a_dry_run_reads_the_file_too(tmp_path, model, file, capsys):
    assert run(tmp_path, model, file, "--dry_run") == 0
    out = capsys.readouterr().out
    assert "reviews/test after chats/wild chat.v1 (chats)" in out
    assert "system messages are left out, of 1 of 8 chats" in out


def test_a_path_is_not_a_name(tmp_path):
    assert str(parse_kind("chats:/a/b: c.jsonl")) == "chats"
    assert parse_kind("chats:/a/b: c.jsonl").argument == "/a/b: c.jsonl"
    assert Path(parse_kind("chats:x.jsonl").argument).stem == "x"
