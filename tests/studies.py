"""Small runs of what a study varies, and what their logs must hold whatever it was."""

import json
import shutil

from runs import MAX_LEN, SMALL, assert_same_examples, path_of

import experiment
from core import records
from data import TaskRows, Turn
from reports import verify
from tasks.task import Task, TaskSpec

LENGTHS = [str(h) for h in range(MAX_LEN + 1)]
CUE = "Now for something else."


def run_study(out_dir, model, flags=""):
    """Exit status of one run, by default of two targets after reviews."""
    flags = flags.split("|")
    tasks = [] if "--target" in flags[0] else ["--target", "quiz", "posts"]
    if "--distractor" not in flags[0] and "--history random" not in flags[0]:
        tasks += ["--distractor", "reviews"]
    cue = ["--switch_cue", flags[1]] if len(flags) > 1 else []
    flags = [*tasks, *SMALL, "--no_cosine", *flags[0].split(), *cue]
    return experiment.main(["--model", str(model), "--out_dir", str(out_dir), *flags])


def of_h(examples, *lengths):
    return [example for example in examples if example["config"]["history_len"] in lengths]


def history_of(example, tables):
    """The turns that a log says stand in the history of an example."""
    config = example["config"]
    places = zip(config["history_role"], config["history_idx"], strict=True)
    return [tables[role].turns[idx] for role, idx in places]


def assert_same_numbers(found, expected):
    """The same examples, of runs that read no layers."""
    assert_same_examples(*([e | {"cosines": []} for e in each] for each in (found, expected)))


def assert_verified(path):
    assert {row[-1] for row in verify.verify(records.debug_path(path))} == {"ok"}


def mismatches(folder, tmp_path, edit):
    """The quantities of quiz after reviews that do not verify once an edit has been made.

    The digests are left out: any edit changes them.
    """
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    log = records.debug_path(path_of(tmp_path, "quiz", "reviews"))
    content = json.loads(log.read_text())
    edit(content["debug_examples"])
    log.write_text(json.dumps(content))
    wrong = [row for row in verify.verify(log) if row[-1] != "ok"]
    return {row[0].split()[0] for row in wrong} - {records.DIGEST, records.DIGEST_OF_LOG}


def made_up(name, texts, most=8):
    task = Task(name, "a file", "{x}", "y", max_new_tokens=most)
    turns = tuple(Turn(text, ("reference",)) for text in texts)
    return TaskRows(TaskSpec(task, None, "test"), turns)
