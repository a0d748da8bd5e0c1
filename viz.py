"""Figures of finished runs, and their verification. Reads result files only; needs no model.

    python viz.py metric --result_dir results/org@name__quiz --out_dir plots
    python viz.py verify --debug_file results/org@name__quiz/test_vs_posts_test_debug.json

Curves over history length after Gupta et al., LLM Task Interference, EMNLP 2024, arXiv 2402.18216.
"""

import argparse
import re
import sys
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import metrics
import records
from errors import UserError

METRICS = {"accuracy": "Accuracy", "rouge": "ROUGE-L F1"}
# Okabe and Ito without yellow, which is too pale for a line.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
STYLES = [{"color": COLOURS[i % 7], "marker": MARKERS[i % 8]} for i in range(56)]
# Type 42 embeds TrueType fonts; many publishers refuse Type 3, the default.
SETTINGS = {"pdf.fonttype": 42, "savefig.dpi": 200, "font.size": 9, "axes.titlesize": "medium"}
SETTINGS |= {"legend.fontsize": "small", "legend.frameon": False, "lines.markersize": 5}
TOLERANCE = 1e-6  # largest difference that counts as equal
IDENTITY = ("model", "target", "distractor", "metric_name", "n")
BY_LEN = ("metric_by_len", "cos_by_len", "debug_top5_by_len", "stats_by_len")
COLUMNS = ("quantity", "h", "values", "stored", "recomputed", "difference", "verdict")

Record = dict[str, Any]  # a result, a log or an example
Group = dict[str, Record]  # the results of one model and target, by distractor


def load_groups(folder: str | Path) -> dict[tuple[str, str], Group]:
    """Results below a folder by (model, target); UserError where one distractor is there twice."""
    groups: dict[tuple[str, str], Group] = defaultdict(dict)
    origin: dict[tuple[str, ...], Path] = {}
    for path, result in records.find_results(folder):
        key = (result["model"], result["target"], result["distractor"])
        if origin.setdefault(key, path) != path:
            raise UserError(
                f"{origin[key]} and {path} hold the same model, target and distractor.\n"
                "Draw them apart, with a --result_dir for each."
            )
        groups[key[:2]][key[2]] = result | {"curves": read_curves(path, result)}
    return {key: dict(sorted(groups[key].items())) for key in sorted(groups)}


def read_curves(path: Path, result: Record) -> dict[str, np.ndarray]:
    """metric, low, high (fractions), percent_change [H + 1], cosines [H + 1, L]; null is NaN."""
    try:
        stats, names = result["stats_by_len"].values(), ("low", "high", "percent_change")
        curves = {name: [of_len[name] for of_len in stats] for name in names}
        curves["metric"] = list(result["metric_by_len"].values())
        curves["cosines"] = [list(blocks) for blocks in result["cos_by_len"].values()]
        return {name: np.array(values, dtype=float) for name, values in curves.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged: it cannot be drawn ({error!r:.90}).") from error


def figure_stem(model: str, target: str, *parts: str) -> str:
    """File name of a figure, without its ending: `org@name__quiz_test__metric`."""
    names = (model.replace("/", "@"), target, "_".join(parts))
    return "__".join(re.sub(r"[^\w.@-]", "_", name) for name in names)


def save_figures(figures: Iterable[tuple[str, Any]], out_dir: str | Path) -> list[Path]:
    """Write (stem, figure) pairs as PNG and PDF; a generator of them draws under SETTINGS."""
    import matplotlib

    records.check_writable(out_dir)
    paths: list[Path] = []
    with matplotlib.rc_context(SETTINGS):
        for stem, figure in figures:
            for ending, metadata in (("png", None), ("pdf", {"CreationDate": None})):
                path = Path(out_dir) / f"{stem}.{ending}"
                if path in paths:
                    raise UserError(f"two figures would have the same name, {path}.")
                figure.savefig(path, metadata=metadata)
                paths.append(path)
    return paths


def run_metric(arguments: argparse.Namespace) -> int:
    """Draw metric, change and cosines of every model and target below --result_dir."""
    groups = load_groups(arguments.result_dir)
    print(*save_figures(metric_figures(groups), arguments.out_dir), sep="\n")
    return 0


def metric_figures(groups: dict[tuple[str, str], Group]) -> Iterator[tuple[str, Any]]:
    """Stem and figure of each; none of cosines where layers were not read."""
    distractors = sorted({distractor for group in groups.values() for distractor in group})
    styles = {name: STYLES[i % len(STYLES)] for i, name in enumerate(distractors)}
    for (model, target), group in groups.items():
        title = f"{model}\ntarget {target}"
        yield figure_stem(model, target, "metric"), draw_metric(title, group, styles)
        yield figure_stem(model, target, "change"), draw_change(title, group, styles)
        for distractor, result in group.items():
            if result["cos_by_len"]:
                yield figure_stem(model, target, "cosine", distractor), draw_cosines(title, result)


def draw_metric(title: str, group: Group, styles: Group) -> Any:
    """Metric (fraction in [0, 1]) over history length (turns), with its interval as bars."""
    figure, axes = _draw_lines(title, group, styles, "metric", "{} (fraction, 0 to 1)")
    for line, result in zip(axes.lines, group.values()):
        low, high = result["curves"]["low"], result["curves"]["high"]
        axes.vlines(line.get_xdata(), low, high, color=line.get_color(), linewidth=1)
    interval = result["stats_by_len"]["0"].get("interval", "unnamed")
    figure.legends[0].set_title(f"Distractor (bars: interval, {interval})")
    return figure


def draw_change(title: str, group: Group, styles: Group) -> Any:
    """Change of the metric against h = 0 (%) over history length (turns); null is a noted gap."""
    ylabel = "{}: relative change\nagainst h = 0 (%)"
    figure, axes = _draw_lines(title, group, styles, "percent_change", ylabel)
    axes.axhline(0, color="0.4", linewidth=0.8, zorder=1.6)  # over the grid
    # At least 1 % either way, so that a flat line is not blown up to rounding noise.
    axes.set_ylim(min(-1, axes.get_ylim()[0]), max(1, axes.get_ylim()[1]))
    axes.set_xlabel("\n".join([axes.get_xlabel(), *change_notes(group)]))
    return figure


def change_notes(group: Group) -> list[str]:
    """Lines that say which percentage changes are not drawn, and why."""
    notes = defaultdict(dict)  # a dict as an ordered set
    for distractor, result in group.items():
        for stats in result["stats_by_len"].values():
            if stats["percent_change"] is None:
                notes[stats.get("percent_change_reason", "of no stored reason")][distractor] = None
    texts = [f"Gaps because {reason}: {', '.join(names)}" for reason, names in notes.items()]
    return [line for text in texts for line in textwrap.wrap(text, 85)]


def draw_cosines(title: str, result: Record) -> Any:
    """Cosine of each block's lens logits to the final ones over blocks 1..L, a line for each h."""
    from matplotlib import colormaps

    figure, axes = _new_figure(f"{title}, n = {result['n']}\ndistractor {result['distractor']}")
    axes.set(xlabel="Decoder block", ylabel="Cosine to the final logits")
    cosines = result["curves"]["cosines"]  # [H + 1, L]
    every = max(1, cosines.shape[1] // 8)
    for h, line in enumerate(cosines):
        colour = colormaps["viridis"](0.85 * h / max(1, len(cosines) - 1))  # the end is too pale
        style = {"color": colour, "marker": MARKERS[h % 8], "markersize": 3.5, "linewidth": 1.2}
        axes.plot(range(1, len(line) + 1), line, label=h, markevery=(h % every, every), **style)
    axes.set_xlim(left=0.5)
    figure.legend(loc="outside right upper", title="h (turns)", ncols=1 + len(cosines) // 15)
    return figure


def _draw_lines(title: str, group: Group, styles: Group, curve: str, ylabel: str) -> Any:
    """Figure and axes with a line per distractor, moved sideways so that bars stay apart."""
    figure, axes = _new_figure(title)
    for i, (name, result) in enumerate(group.items()):
        values, shift = result["curves"][curve], 0.45 * ((i + 0.5) / len(group) - 0.5)  # turns
        label = f"{name} (n = {result['n']})"
        axes.plot(np.arange(len(values)) + shift, values, label=label, **styles[name])
    axes.set_xlim(-0.5, max(len(result["metric_by_len"]) for result in group.values()) - 0.5)
    axes.set_ylabel(ylabel.format(METRICS.get(result["metric_name"], result["metric_name"])))
    columns = max(1, min(3, 90 // (max(map(len, group)) + 17)))
    figure.set_figheight(3.6 + 0.16 * np.ceil(len(group) / columns))  # inches
    figure.legend(title="Distractor", loc="outside lower center", ncols=columns)
    return figure, axes


def _new_figure(title: str) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 4.0), layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel="History length h (turns)")
    axes.locator_params(axis="x", integer=True, min_n_ticks=1)
    axes.grid(axis="y", color="0.9", linewidth=0.6)
    return figure, axes


def run_verify(arguments: argparse.Namespace) -> int:
    """Verify every --debug_file; 0 where all hold, 1 on a mismatch, 2 where a file is damaged."""
    status = 0
    for path in map(Path, arguments.debug_file):
        try:
            rows = verify(path)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            status = 2
            continue
        widths = [max(map(len, column)) for column in zip(COLUMNS, *rows)]
        for row in (COLUMNS, *rows):
            print("  ".join(map(str.ljust, row, widths)).rstrip())
        wrong = sum(row[-1] != "ok" for row in rows)
        print(f"{path}: {f'MISMATCH in {wrong}' if wrong else 'ok, all'} of {len(rows)} rows")
        status = max(status, int(wrong > 0))
    return status


def verify(path: Path) -> list[tuple[str, ...]]:
    """Rows of COLUMNS: what a log and its result store against what follows from the log."""
    beside = records.result_of_debug(path)
    log, result = records.read_debug(path), records.read_result(beside)
    examples = log["debug_examples"]
    metric_name = "accuracy" if "label_logprobs" in examples[0] else "rouge"
    try:
        rescored = rescore(examples, metric_name)
        aggregates = metrics.aggregate(rescored, metric_name)
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged: it cannot be scored ({error!r:.90}).") from error
    except ValueError as error:
        return [("aggregates", "-", "0", "", f"none: {error!s:.90}", "", "MISMATCH")]
    return compare(flatten(result, examples), flatten(log | aggregates, rescored))


def rescore(examples: list[Record], metric_name: str) -> list[Record]:
    """Copies of the examples with the prediction and score that follow from what each recorded."""
    if metric_name == "rouge":
        pairs = [(example["model_prediction"], example["references"]) for example in examples]
        scores = metrics.rouge_scores(*zip(*pairs))
        return [example | {"score": score} for example, score in zip(examples, scores)]
    rescored = []
    for example in examples:
        labels = example["label_logprobs"]
        score = metrics.label_score(labels, example["expected_answer"])
        rescored.append(example | {"model_prediction": metrics.best_label(labels), "score": score})
    return rescored


def flatten(record: Record, examples: list[Record]) -> dict[tuple, Any]:
    """Every value that is verified, by quantity, history length and place."""
    flat = {(name, "-", ""): record[name] for name in IDENTITY}
    for number, example in enumerate(examples):
        h, place = str(example["config"]["history_len"]), f"of example {number}"
        flat["score", h, place] = example["score"]
        if "label_logprobs" in example:
            flat["model_prediction", h, place] = example["model_prediction"]
    for name in BY_LEN:
        for h, value in record[name].items():
            if isinstance(value, list):
                value = {f"no. {number}": item for number, item in enumerate(value, 1)}
            leaves = value if isinstance(value, dict) else {"": value}
            flat |= {(name, h, place): leaf for place, leaf in leaves.items()}
    return flat


def compare(stored: dict[tuple, Any], recomputed: dict[tuple, Any]) -> list[tuple[str, ...]]:
    """A row of COLUMNS per quantity and history length, about the place that differs most."""
    groups = defaultdict(list)
    for key in stored | recomputed:
        pair = [side.get(key, "(missing)") for side in (stored, recomputed)]
        groups[key[:2]].append((difference(*pair), key[2], *pair))
    rows = []
    for (quantity, h), group in groups.items():
        gap, place, *pair = max(group, key=lambda entry: entry[0])
        wrong = sum(entry[0] > TOLERANCE for entry in group)
        shown = [f"{x:.9g}" if isinstance(x, float) else repr(x)[:70] for x in pair]
        cells = (f"{quantity} {place}".strip(), h, str(len(group)), *shown, f"{gap:.0e}")
        rows.append((*cells, f"MISMATCH ({wrong})" if wrong else "ok"))
    return rows


def difference(stored: Any, recomputed: Any) -> float:
    """Absolute difference of two numbers; of anything else 0 where equal, infinite where not."""
    if isinstance(stored, (int, float)) and isinstance(recomputed, (int, float)):
        return abs(stored - recomputed)
    return 0.0 if stored == recomputed else np.inf


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    metric = commands.add_parser("metric", help="draw metric, change and cosines over h")
    metric.add_argument("--result_dir", required=True, help="folder of results, searched below")
    metric.add_argument("--out_dir", default="plots", help="folder for figures (default: plots)")
    metric.set_defaults(run=run_metric)
    check = commands.add_parser("verify", help="recompute every stored number from debug logs")
    check.add_argument("--debug_file", required=True, nargs="+", help="..._debug.json files")
    check.set_defaults(run=run_verify)
    arguments = parser.parse_args(argv)
    try:
        return arguments.run(arguments)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
