"""Figures of finished runs, and their verification. Reads result files only; needs no model.

    python viz.py metric --result_dir results/org@name__quiz --out_dir plots
    python viz.py layers --result_dir results/org@name__quiz --out_dir plots
    python viz.py verify --debug_file results/org@name__quiz/test_vs_posts_test_debug.json

Curves over history length after Gupta et al., LLM Task Interference, EMNLP 2024, arXiv 2402.18216.
"""

import argparse
import sys
from itertools import chain
from pathlib import Path

import figures
import layer_figures
import verify
from errors import UserError


def run_metric(arguments: argparse.Namespace) -> int:
    """Draw metric, change and cosines of every model and target below --result_dir."""
    groups = figures.load_groups(arguments.result_dir)
    drawn = chain(figures.metric_figures(groups), layer_figures.cosine_figures(groups))
    print(*figures.save_figures(drawn, arguments.out_dir), sep="\n")
    return 0


def run_layers(arguments: argparse.Namespace) -> int:
    """Draw every layer measure of every pair below --result_dir."""
    groups = figures.load_groups(arguments.result_dir)
    paths = figures.save_figures(layer_figures.layer_figures(groups), arguments.out_dir)
    if not paths:
        raise UserError(f"no result below {arguments.result_dir} has layers (--no_cosine).")
    print(*paths, sep="\n")
    return 0


def run_verify(arguments: argparse.Namespace) -> int:
    """Verify every --debug_file; 0 where all hold, 1 on a mismatch, 2 where a file is damaged."""
    status = 0
    for path in map(Path, arguments.debug_file):
        try:
            rows = verify.verify(path)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            status = 2
            continue
        widths = [max(map(len, column)) for column in zip(verify.COLUMNS, *rows)]
        for row in (verify.COLUMNS, *rows):
            print("  ".join(map(str.ljust, row, widths)).rstrip())
        wrong = sum(row[-1] != "ok" for row in rows)
        print(f"{path}: {f'MISMATCH in {wrong}' if wrong else 'ok, all'} of {len(rows)} rows")
        status = max(status, int(wrong > 0))
    return status


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run, text in (
        ("metric", run_metric, "draw metric, change and cosines over h"),
        ("layers", run_layers, "draw what a history changes at each layer"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("--result_dir", required=True, help="folder of results")
        command.add_argument("--out_dir", default="plots", help="folder for figures (plots)")
        command.set_defaults(run=run)
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
