"""What a run says at its end: its numbers in a table, where results are, and what reads them."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core import records
from core.keys import WORDING, make_keys, shown
from measures import ties
from measures.wordings import Spread, spreads

HALVES = ("bfloat16", "float16")


def what_is_kept(out_dir: str) -> str:
    """What an interrupted run has left, and how to go on."""
    if records.is_unfinished(Path(out_dir)):
        return f"What was finished is kept in {out_dir}.\nRun the same command to continue."
    return "No batch was finished yet, so nothing is kept.\nRun the same command to begin again."


def print_table(paths: Sequence[Path], out_dir: str) -> None:
    """The metric by history length of each pair, where the results are, and what reads them."""
    results = [records.read_result(path) for path in paths]
    lengths = max((result["metric_by_len"] for result in results), key=len)
    room = max(8, *(len(result["metric_name"]) for result in results))
    columns = ["target", "distractor"]
    more = ("history", WORDING)
    rows = [result | {name: shown(result["config"], name) for name in more} for result in results]
    columns += [name for name in more if len({row[name] for row in rows}) > 1]
    widths = [max(len(name), *(len(row[name]) for row in rows)) for name in columns]
    print(
        "\n"
        + "  ".join(map(str.ljust, columns, widths))
        + f"  {'metric':{room}}  {'n':>5}"
        + "".join(f"{'h=' + h:>8}" for h in lengths)
    )
    for result in rows:
        names = "  ".join(result[name].ljust(width) for name, width in zip(columns, widths))
        numbers = "".join(f"{value:8.3f}" for value in result["metric_by_len"].values())
        skipped = result.get("n_skipped")
        note = f"  ({skipped} skipped)" if skipped else ""
        print(f"{names}  {result['metric_name']:{room}}  {result['n']:5}{numbers}{note}")
    for spread in spreads(dict(zip(make_keys(results), results))):
        print(spread_line(spread))
    made = results[-1]["environment"].get
    if made("dtype") in HALVES and made("rounding"):
        print(rounding_line(results))
    print(made_line([result["environment"] for result in results]))
    print("Results (each with its debug log beside it):", *paths, sep="\n  ")
    print("Next, for example:")
    for command in (*contrasts_of(rows), "report"):
        print(f"  python viz.py {command} --result_dir {shlex.quote(out_dir)}")


def made_line(environments: Sequence[Mapping[str, Any]]) -> str:
    """The last run that made any of these results, and what it took."""
    runs = {made["started"]: made for made in environments}
    last = max(runs)
    which = "Run" if len(runs) == 1 else f"{len(runs)} runs, the last"
    what = "{engine} engine, {seconds} s, peak memory {peak_memory_mib} MiB".format(**runs[last])
    return f"\n{which} of {last[:16].replace('T', ' ')} UTC: {what}"


def contrasts_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The commands that compare these results: by what differs between those of one target."""
    targets = {row["target"] for row in rows}
    by = ("distractor", "history")
    differ = [
        name for name in by if len({(row["target"], row[name]) for row in rows}) > len(targets)
    ]
    return [f"contrast --by {name}" for name in differ]


def spread_line(spread: Spread) -> str:
    """Mean, lowest and highest over the wordings of the prompts, by history length."""
    names, contrast = spread.key.fields, spread.against is not None
    pair = f"{names['target']} after {names['distractor']} ({names['history']})"
    what = f" less after {spread.against} (points)" if contrast else f" ({spread.metric})"
    form = "h={} {:z.1f} [{:z.1f}, {:z.1f}]" if contrast else "h={} {:.3f} [{:.3f}, {:.3f}]"
    numbers = "  ".join(form.format(h, *spread.at(h)) for h in spread.by_len if h or not contrast)
    return f"\nover {spread.wordings} wordings, {pair}{what}: mean [lowest, highest]\n  {numbers}"


def rounding_line(results: Sequence[Mapping[str, Any]]) -> str:
    """What rounding does in half precision, and to how many predictions it may have done it."""
    made = results[-1]["environment"]
    gaps = ", ".join(
        f"{road.replace('_', ' ')} by {gap:.2g}"
        for road, gap in made["rounding"].items()
        if gap is not None
    )
    close, count = ties.close_calls(results)
    return (
        f"\n{made['dtype']}: roads to one log P differ on a probe, {gaps} nats; "
        f"{close} of {count} label predictions have no larger margin."
    )
