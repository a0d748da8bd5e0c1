"""What tells results apart: identity, histories, seed, and whatever other setting differs."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

NOT_RECORDED = "not recorded"  # a setting that a result does not hold
WORDING = "wording"  # a setting that a result of the first wording does not hold
UNMIXED = "distractor"  # --mix: turns of the distractor alone
FIELDS = ("model", "target", "distractor", "history", "seed")  # of every key
ALWAYS = ("model", "target", "distractor")  # fields of a key that are named even where all agree
USUAL = "teacher"  # the history that is named only where there are others
# Settings that are in a key's own fields already, or only say where and how a run was carried out
KNOWN = {
    *("model", "target", "distractor", "history", "mix", "switch_cue", "num_histories"),
    *("batch_size", "device", "device_map", "data_root", "task_file", "allow_pickle"),
    *("out_dir", "overwrite", "quiet", "trust_remote_code", "compress_logs"),
}
# Lists that are told by a key's seed, by `max_len` where they change a number, or change none
LISTS = {"seed", "lengths", "effects"}


class Key(tuple[str, ...]):
    """Who was asked what, after which histories, from which seed, and under which settings.

    A tuple of texts with the name of each: FIELDS, and settings in which results differ that agree
    in the rest.
    """

    names: tuple[str, ...]

    def __new__(cls, fields: dict[str, str]) -> "Key":
        """The key of these fields."""
        key = super().__new__(cls, fields.values())
        key.names = tuple(fields)
        return key

    @property
    def fields(self) -> dict[str, str]:
        """Every field by its name."""
        return dict(zip(self.names, self))

    @property
    def settings(self) -> tuple[str, ...]:
        """Names of the settings in it."""
        return self.names[len(FIELDS) :]

    def without(self, field: str) -> "Key":
        """The key with one field left blank: equal for results that differ in it alone."""
        return Key(self.fields | {field: ""})


def make_keys(results: Sequence[dict[str, Any]]) -> list[Key]:
    """The key of each result; settings are in it where they alone tell two of these apart."""
    bases = [_base_key(result) for result in results]
    worded = [shown(result["config"], WORDING) for result in results]
    alike = defaultdict(list)  # a wording's rows differ from another's, and are no setting
    for base, wording, result in zip(bases, worded, results):
        alike[base, wording].append(result["config"])
    names = dict.fromkeys(
        name for configs in alike.values() for name in differing(configs, frozenset(KNOWN))
    )
    if len(set(worded)) > 1:
        names[WORDING] = None
    return [
        Key(base.fields | {name: shown(result["config"], name) for name in names})
        for base, result in zip(bases, results)
    ]


def differing(configs: Sequence[dict[str, Any]], known: frozenset[str]) -> list[str]:
    """Settings that are not the same in all, the `known` ones left out, and those that hold what
    follows from others (objects) or are told by others (LISTS).
    """
    names = dict.fromkeys(name for config in configs for name in config if name not in known)
    told = [
        name
        for name in names
        if name not in LISTS and not any(isinstance(config.get(name), dict) for config in configs)
    ]
    return [name for name in told if len({shown(config, name) for config in configs}) > 1]


def shown(config: dict[str, Any], name: str) -> str:
    """A setting's value as a text."""
    value = config.get(name, 1 if name == WORDING else NOT_RECORDED)
    return "none" if value is None else str(value)


def _base_key(result: dict[str, Any]) -> Key:
    seed = result["config"].get("seed", NOT_RECORDED)
    return Key(
        {name: str(result[name]) for name in FIELDS[:3]}
        | {"history": history_label(result["config"])}
        | {"seed": " ".join(map(str, seed)) if isinstance(seed, list) else str(seed)}
    )


def history_label(config: dict[str, Any]) -> str:
    """How histories were made, in a few words: `teacher`, `model, interleaved`, `teacher, cue`."""
    words = [str(config.get("history", NOT_RECORDED))]
    if config.get("mix", UNMIXED) != UNMIXED:
        words.append(str(config["mix"]))
    if config.get("switch_cue") is not None:
        words.append("cue")
    count = config.get("num_histories")
    if count is not None:
        words.append(f"{count} {'history' if count == 1 else 'histories'}")
    return ", ".join(words)


def by_text(name: str) -> tuple[int, str]:
    """Sorts texts by length first, so that numbers in them come in their order."""
    return len(name), name


def dataset(name: str) -> str:
    """A task's name without its split: `mmlu.anatomy` of `mmlu.anatomy/test`."""
    return name.partition("/")[0]


def same_task(target: str, distractor: str) -> bool:
    """Are two tasks one, so that nothing is switched?

    Two subjects of a data set are two tasks, as in the paper; a subject and the whole are one.
    """
    one, other = dataset(target), dataset(distractor)
    return one == other or other == one.partition(".")[0] or one == other.partition(".")[0]


def named_fields(rows: Iterable[Mapping[str, Any]]) -> set[str]:
    """The fields by which figures of these rows are named: model and tasks, what is not the same
    in all, and any history but the usual one.
    """
    values: dict[str, set] = defaultdict(set)
    for field, name in (pair for row in rows for pair in row.items()):
        values[field].add(name)
    varying = {field for field, found in values.items() if len(found) > 1}
    odd = values["history"] - {USUAL, NOT_RECORDED}
    return {*ALWAYS, *varying, *(["history"] if odd else [])}


def in_words(names: dict[str, str]) -> list[str]:
    """The names of a figure in two lines: the model, and the rest."""
    rest = ", ".join(
        f"{field}\N{NO-BREAK SPACE}{name}" for field, name in names.items() if field != "model"
    )
    return [line for line in (names.get("model"), rest) if line]
