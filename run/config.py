"""The settings of a run: one frozen dataclass, from which the command line is made."""

import argparse
import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from core import VERSION
from core.errors import UNPRINTABLE, UserError, is_text
from core.flags import Parser
from core.schema import EFFECT_PARTS
from lm.bundled import BUNDLED
from tasks.kinds import AT, FORMS, PLAIN, RANDOM, REPLACING, Kind, parse_kind
from tasks.task import EMBEDDED, Task

DEMO_LIMIT = 10  # target examples where no --model is named, so that a first run takes minutes
MOST_TURNS = 10_000  # of a history; more would fill the memory before they are refused
MIXES = ("distractor", "target_first", "target_last", "interleaved")
AT_LEAST_1 = ("wording", "limit", "num_histories", "max_new_tokens", "batch_size", "concurrency")
AT_LEAST_1 += ("max_tokens_total", "effect_window")
# Flags that need a model in this process, each with the value that does not
LOCAL_ONLY = {
    **dict.fromkeys(("sensitivity", "agree", "recheck"), False),
    **dict.fromkeys(("trust_remote_code", "allow_pickle"), False),
    **dict.fromkeys(("effects", "adapter", "device_map")),
    **dict.fromkeys(("engine", "dtype", "device"), "auto"),
    "lens": "logit",
    "open_thought": "refuse",
}
LISTS = f"""more of it in docs/histories.md:
  --history  {", ".join(FORMS)}
  --mix      {", ".join(MIXES)}"""
# The groups of --help, each by the first of its settings
GROUPS = {
    "what is asked": "model",
    "what is measured": "scoring",
    "how it runs": "on_overflow",
}


def _flag(default: Any, metavar: str, text: str, **options: Any) -> Any:
    """A setting; `metavar` is what --help calls its value, "" of a switch."""
    return field(default=default, metadata={"metavar": metavar, "help": text, **options})


@dataclass(frozen=True)
class RunConfig:
    """Every setting of a run with its default; the command line is made from this.

    Settings stand in the order of --help; a new one has its line of help, of one line there.
    """

    model: str = _flag(BUNDLED, "NAME", "Hub name, folder or GGUF file")
    adapter: str | None = _flag(
        None, "NAME", "PEFT adapter (LoRA) for the model: folder or Hub name", type=str
    )
    server: str | None = _flag(
        None, "URL", "ask a model behind a server, as in http://localhost:8000/v1", type=str
    )
    target: tuple[str, ...] = _flag(
        EMBEDDED, "TASK", "tasks to score: name[.SUBJECT][/split]", nargs="+"
    )
    distractor: tuple[str, ...] = _flag(
        EMBEDDED, "TASK", "tasks that fill the history, a pair for each", nargs="+"
    )
    task_file: str | None = _flag(
        None, "FILE", "YAML file with tasks of your own, see docs/own_tasks.md", type=str
    )
    max_len: int = _flag(4, "N", "longest history in turns; every length from 0 is run")
    lengths: tuple[int, ...] | None = _flag(
        None, "H", "the lengths to run instead of all up to --max_len; 0 is always run",
        nargs="+", type=int,
    )  # fmt: skip
    limit: int | None = _flag(
        None, "N", f"number of targets, drawn at random (all; {DEMO_LIMIT} without --model)",
        type=int,
    )  # fmt: skip
    num_histories: int | None = _flag(
        None, "N", "number of histories, shared by the targets (one for each target)", type=int
    )
    seed: tuple[int, ...] = _flag(
        (0,), "N", "the first draws the targets; each draws histories for them",
        nargs="+", type=int,
    )  # fmt: skip
    history: tuple[str, ...] = _flag(
        ("teacher",), "KIND", "what the history shows: one or several kinds, see below",
        nargs="+",
    )  # fmt: skip
    mix: str = _flag(
        MIXES[0],
        "WHICH",
        "where turns of the target task stand in it, see below",
        choices=MIXES,
    )
    wording: int = _flag(1, "N", "run the first N wordings of each task's prompt, each by itself")
    switch_cue: str | None = _flag(
        None, "TEXT", "a sentence before the target's prompt from h = 1 on", type=str
    )
    prompt: str = _flag(
        "auto", "FORM", "chat, plain, or auto: chat if the tokenizer has a template",
        choices=("auto", "chat", "plain"),
    )  # fmt: skip
    open_thought: str = _flag(
        "refuse", "HOW", "a template opens a thought: refuse, close or keep it",
        choices=("refuse", "close", "keep"),
    )  # fmt: skip
    scoring: str = _flag(
        "likelihood", "HOW", "label tasks by likelihood, text (generate), or both",
        choices=("likelihood", "generate", "both"),
    )  # fmt: skip
    max_new_tokens: int | None = _flag(
        None, "N", "longest generated answer in tokens (each task has its own)", type=int
    )
    sensitivity: bool = _flag(
        False, "", "tau, confidence and loss of generated answers too; slower"
    )
    no_cosine: bool = _flag(False, "", "read no layers")
    lens: str = _flag(
        "logit", "HOW", "read a block through the final norm (logit) or not (raw)",
        choices=("logit", "raw"),
    )  # fmt: skip
    agree: bool = _flag(False, "", "how often a block's likeliest token is the model's; slower")
    effects: tuple[str, ...] | None = _flag(
        None, "PART", f"why, where: all, or {' '.join(EFFECT_PARTS)}",
        nargs="*", choices=EFFECT_PARTS,
    )  # fmt: skip
    effect_window: int | None = _flag(
        None, "N", "width of windows of --effects in blocks (a sixth of the model)", type=int
    )
    effect_lengths: str = _flag(
        "longest", "WHERE", "slow parts of --effects at the longest history, or all",
        choices=("longest", "all"),
    )  # fmt: skip
    on_overflow: str = _flag(
        "stop", "HOW", "a prompt is too long: stop, or skip its target",
        choices=("stop", "skip"),
    )  # fmt: skip
    dtype: str = _flag(
        "auto", "TYPE", "float32, bfloat16, float16; auto: float32 on a CPU",
        choices=("auto", "float32", "bfloat16", "float16"),
    )  # fmt: skip
    engine: str = _flag(
        "auto", "HOW", "tree, plain, or auto: tree if that is exact for the model",
        choices=("auto", "tree", "plain"),
    )  # fmt: skip
    batch_size: int = _flag(4, "N", "target examples that are run together")
    device: str = _flag("auto", "NAME", "torch device; auto is an accelerator if there is one")
    device_map: str | None = _flag(
        None, "HOW", "spread a large model over several devices: auto or balanced", type=str
    )
    recheck: bool = _flag(False, "", "check the model again, also if it was passed before")
    trust_remote_code: bool = _flag(False, "", "run code that comes with the model")
    allow_pickle: bool = _flag(
        False, "", "read weights from pytorch_model.bin if there are no safetensors"
    )
    concurrency: int = _flag(8, "N", "number of requests to a server at a time")
    max_tokens_total: int | None = _flag(
        None, "N", "stop before a server reads and writes more tokens than this", type=int
    )
    data_root: str | None = _flag(
        None, "DIR", "read the Hub's data sets from this folder, as DIR/org/name", type=str
    )
    out_dir: str = _flag("results", "DIR", "folder for the results")
    overwrite: bool = _flag(False, "", "replace results made with other settings")
    compress_logs: bool = _flag(False, "", "write debug logs as _debug.json.gz")
    quiet: bool = _flag(False, "", "show no progress")
    dry_run: bool = _flag(False, "", "load no weights and write nothing; say what would be run")

    @property
    def served(self) -> bool:
        """Is the model asked behind a server?"""
        if self.server is not None:
            return True
        named = self.model != BUNDLED and not os.path.exists(self.model)
        return named and bool(os.environ.get("OPENAI_BASE_URL"))

    @property
    def run_lengths(self) -> tuple[int, ...]:
        """The history lengths that are run, in turns: 0 and longer ones in order."""
        if self.lengths is None:
            return tuple(range(self.max_len + 1))
        return tuple(sorted({0, *self.lengths}))

    @property
    def longest(self) -> int:
        """The longest history, in turns."""
        return self.run_lengths[-1]

    @property
    def effect_parts(self) -> list[str] | None:
        """The parts of --effects that are asked for, in one order; None for none."""
        if self.effects is None:
            return None
        return [part for part in EFFECT_PARTS if part in self.effects]

    def answer_tokens(self, task: Task) -> int:
        """Longest greedy answer in tokens; 0 where labels are scored by likelihood alone."""
        return 0 if task.labels and self.scoring == "likelihood" else task.max_new_tokens


def _make_parser(description: str | None) -> Parser:
    """The command line of RunConfig, its flags in the order and the GROUPS of their settings."""
    parser = Parser(
        usage="python experiment.py [--FLAG VALUE ...]",
        description=description,
        epilog=LISTS,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(
            prog, max_help_position=32
        ),
    )
    titles = {first: title for title, first in GROUPS.items()}
    for setting in dataclasses.fields(RunConfig):
        if setting.name in titles:
            group = parser.add_argument_group(titles[setting.name])
        group.add_argument(f"--{setting.name}", default=None, **_options(setting))
        if setting.name == "dtype":
            group.add_argument("--fp16", action="store_true", help="short for --dtype float16")
        if setting.name == "history":
            text = "short for --history at:1 at:2 ... to the longest history"
            group.add_argument("--position", action="store_true", help=text)
    group.add_argument("--version", action="version", version=VERSION, help="print the version")
    return parser


def _options(setting: dataclasses.Field) -> dict[str, Any]:
    """What argparse is told about a setting; its help ends in the default."""
    options, default = dict(setting.metadata), setting.default
    if default is False:
        del options["metavar"]
        return options | {"action": "store_true"}
    if default is not None:
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
        options.setdefault("type", type(shown))
        options["help"] += f" ({shown})"
    return options


def parse_args(argv: Sequence[str] | None, description: str | None = None) -> RunConfig:
    """Command line -> RunConfig; argparse exits with status 2 on an unknown flag or wrong value."""
    parser = _make_parser(description)
    parsed = vars(parser.parse_args(argv))
    given = {key: value for key, value in parsed.items() if value is not None}
    if given.pop("fp16") and given.setdefault("dtype", "float16") != "float16":
        parser.error(f"--fp16 and --dtype {given['dtype']} contradict each other")
    if "lengths" in given and "max_len" in given:
        parser.error("--lengths and --max_len contradict each other: give one of them")
    if given.pop("position"):
        if "history" in given:
            parser.error("--position is short for a list of --history: give one of them")
        longest = max(given.get("lengths", [given.get("max_len", RunConfig.max_len)]))
        if longest < 1:
            parser.error("--position: there is no place for a turn at h = 0 alone")
        given["history"] = [f"{AT}:{k}" for k in range(1, min(longest, MOST_TURNS) + 1)]
    for name in {text.partition(":")[0] for text in given.get("history", ())} & {*REPLACING}:
        if given.setdefault("distractor", [name]) != [name]:
            parser.error(f"--history {name} replaces the distractor: leave out --distractor")
    if given.get("effects") == []:
        given["effects"] = EFFECT_PARTS
    if "model" not in given:
        given.setdefault("limit", DEMO_LIMIT)
    return RunConfig(
        **{key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    )


def check_settings(config: RunConfig) -> None:
    """UserError for settings that make no sense."""
    numbers = [(name, getattr(config, name), 1) for name in AT_LEAST_1]
    numbers += [("max_len", config.max_len, 0), *(("seed", seed, 0) for seed in config.seed)]
    numbers += [("lengths", h, 0) for h in config.lengths or ()]
    for name, value, least in numbers:
        if value is not None and value < least:
            raise UserError(f"--{name} {value}: must be {least} or more.")
    longest = max(config.lengths or (config.max_len,))
    if longest > MOST_TURNS:
        raise UserError(f"h = {longest}: a history has {MOST_TURNS} turns at most.")
    for name, value in dataclasses.asdict(config).items():
        for text in filter(lambda each: isinstance(each, str), _listed(value)):
            bare = text.replace("\n", " ") if name == "switch_cue" else text
            if not is_text(bare):
                raise UserError(f"--{name} {text!r:.80}: is not UTF-8; rename what it names.")
            if UNPRINTABLE.search(bare):
                raise UserError(f"--{name} {text!r:.80}: contains a control character.")
    if len(set(config.seed)) < len(config.seed):
        raise UserError("--seed: each seed can be given only once.")
    if config.lengths is not None and len(set(config.lengths)) < len(config.lengths):
        raise UserError("--lengths: each length can be given only once.")
    _check_histories(config)
    if config.switch_cue is not None and not config.switch_cue.strip():
        raise UserError("--switch_cue: the sentence is empty.")
    if config.switch_cue is not None and config.longest < 1:
        raise UserError("--switch_cue: there is no history to switch from at h = 0 alone.")
    if config.served:
        _check_server(config)
    elif config.max_tokens_total is not None:
        raise UserError(
            "--max_tokens_total is what a server may read and write: it needs --server."
        )
    if config.effect_window is not None and config.effects is None:
        raise UserError("--effect_window is the width of windows of --effects: give that too.")
    if config.effect_lengths != "longest" and config.effects is None:
        raise UserError("--effect_lengths says where --effects are measured: give that too.")
    if config.effects is not None and config.longest < 1:
        raise UserError("--effects: there is no history to hide at h = 0 alone.")
    if config.no_cosine and (config.agree or config.lens != "logit"):
        name = "--agree" if config.agree else f"--lens {config.lens}"
        raise UserError(f"{name} reads layers and --no_cosine reads none: leave out one of them.")


def _check_histories(config: RunConfig) -> None:
    """UserError for kinds of history that are unknown or do not go together."""
    kinds = list(map(parse_kind, config.history))
    if len(set(kinds)) < len(kinds):
        raise UserError("--history: each kind can be given only once.")
    alone = [kind for kind in kinds if kind.name in REPLACING]
    if alone and len(kinds) > 1:
        raise UserError(f"--history {alone[0]} replaces the distractor: run it by itself.")
    changed = [kind for kind in kinds if kind.name not in PLAIN]
    if changed and config.mix != MIXES[0]:
        raise UserError(f"--history {changed[0]} decides what each turn is: leave out --mix.")
    for kind in kinds:
        if (kind.place or 0) > config.longest:
            raise UserError(f"--history {kind}: the longest history has {config.longest} turns.")
    if Kind("shuffled") in kinds and config.longest == 1:
        raise UserError("--history shuffled: a history of one turn has no other answer to show.")


def _check_server(config: RunConfig) -> None:
    """UserError for settings that a model behind a server cannot have."""
    for kind in (RANDOM, "filler"):  # a server neither samples nor counts tokens
        if kind in config.history:
            raise UserError(f"--history {kind} needs a model that runs in this process.")
    if config.model == BUNDLED:
        raise UserError("--server: name the model that the server has with --model.")
    for name, fitting in LOCAL_ONLY.items():
        if getattr(config, name) != fitting:
            raise UserError(
                f"--{name} needs a model that runs in this process, not one behind a server. "
                "Leave it out."
            )


def _listed(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)
