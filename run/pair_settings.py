"""The settings of a pair as its files hold them, and by them where its result goes.

Never imports torch; where a model is needed it is passed in.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core import records
from core.schema import SCHEMA_VERSION
from data import Pair
from lm.interface import Model
from run.config import RunConfig

# Flags that say where and how to run; all others decide what is measured.
NOT_SETTINGS = {
    *("out_dir", "overwrite", "batch_size", "device", "device_map", "data_root", "task_file"),
    *("quiet", "dry_run", "server", "concurrency", "max_tokens_total"),
    *("allow_pickle", "recheck", "compress_logs"),
    "wording",  # a result holds its own wording, where it is not the first
}
# What may change while a run is under way: settings that change no number of what is finished.
MAY_CHANGE = {*NOT_SETTINGS, "on_overflow"}
# Of the settings that change no number
RECORDED = ("batch_size", "allow_pickle", "compress_logs", "device_map", "data_root", "task_file")


def requested(config: RunConfig, pair: Pair) -> dict[str, Any]:
    """The settings that decide a pair's numbers, as asked for (`auto` not yet resolved).

    `lengths` is null where every one up to `max_len` is run.
    """
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k not in NOT_SETTINGS}
    for role, rows in (("target", pair.target), ("distractor", pair.distractor)):
        settings |= {role: str(rows.spec), f"{role}_rows": rows.fingerprint}
    if pair.wording > 1:
        settings["wording"] = pair.wording
    task, lengths = pair.target.spec.task, list(config.run_lengths)
    return settings | {
        "max_len": config.longest,
        "lengths": None if lengths == list(range(config.longest + 1)) else lengths,
        "served": config.served,
        "seed": list(config.seed),
        "effects": config.effect_parts,
        "history": str(pair.kind),
        "target_metric": task.metric,
        "target_labels": list(task.labels),
        "target_cluster": task.cluster,
        "max_new_tokens": task.max_new_tokens,
    }


def told_by_task(task: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Of a distractor's description what its rows do not say, and a history or its intrusion may
    depend on.
    """
    told = {"distractor_labels": list(task["labels"])}
    return told | ({"distractor_tokens": task["max_new_tokens"]} if kind == "model" else {})


def describe_config(pair: Pair, config: RunConfig, lm: Model) -> dict[str, Any]:
    """Every resolved setting of a pair; `requested` holds what was asked for, such as `auto`."""
    target, distractor = pair.target.spec.task, pair.distractor.spec.task
    asked = requested(config, pair)
    return asked | {
        "requested": {name: asked[name] for name in ("prompt", "dtype", "engine")},
        **lm.describe(target.labels, target.max_new_tokens),
        "tasks": {"target": target.describe(), "distractor": distractor.describe()},
        **({"chats": dict(pair.distractor.facts)} if pair.distractor.facts else {}),
        **{name: getattr(config, name) for name in RECORDED},
    }


def measured(pair: Pair, config: RunConfig, lm: Model) -> dict[str, Any]:
    """The resolved settings that decide a pair's numbers, as its journal keeps them.

    Of chats those are the rows, wherever their file lies.
    """
    settings = describe_config(pair, config, lm)
    kept = {k: v for k, v in settings.items() if k not in {"requested", "chats", *MAY_CHANGE}}
    return kept | {"schema_version": SCHEMA_VERSION}


def result_path(config: RunConfig, pair: Pair) -> Path:
    """Where a pair's result goes: with several kinds of history into a folder for each, and of
    another wording than the first into one for that.
    """
    target, distractor = str(pair.target.spec), str(pair.distractor.spec)
    kind = str(pair.kind).replace("/", "_") if len(config.history) > 1 else ""
    wording = "" if pair.wording == 1 else f"wording_{pair.wording}"
    folder = Path(config.out_dir, wording, kind)
    return records.result_path(folder, config.model, target, distractor)


def changed_settings(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Settings that differ; one asked for as `auto` may match the word or what it became."""
    asked = {**found, **found.get("requested", {})}
    return [
        f"{name} {found.get(name)!r} there, {value!r} now"
        for name, value in wanted.items()
        if value not in (found.get(name), asked.get(name))
    ]
