"""Figures, tables and pages of finished runs, and their verification. Reads results, not models.

    python viz.py metric --result_dir results/org@name__quiz --out_dir plots
    python viz.py layers --result_dir results/org@name__quiz --out_dir plots
    python viz.py effects --result_dir results/org@name__quiz --out_dir plots
    python viz.py table --result_dir results --format latex --out table.tex
    python viz.py contrast --result_dir results --out_dir plots
    python viz.py grid --result_dir results --h 4 --out_dir plots
    python viz.py report --result_dir results --out report.html
    python viz.py export --result_dir results --format parquet --out prompts.parquet
    python viz.py verify --debug_file results/org@name__quiz/test_vs_posts_test_debug.json

Curves over history length after Gupta et al., LLM Task Interference, EMNLP 2024, arXiv 2402.18216.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

from core import frames, log_files, records
from core.errors import UserError
from core.flags import Parser
from core.terminal import escape_unprintable, restart_in_utf_8
from measures import contrasts
from reports import contrasts as contrast_report
from reports import curves, effects, grid, layers, page, position, style, tables, verify, wordings
from reports.groups import BY, load_groups


def run_metric(arguments: argparse.Namespace) -> int:
    """Draw metric, change and cosines of the results below --result_dir."""
    groups, look = load_groups(arguments.result_dir, arguments.by), look_of(arguments)
    drawn = chain(
        curves.metric_figures(groups, look),
        curves.study_figures(groups, look),
        layers.cosine_figures(groups, look),
    )
    save(drawn, arguments)
    return 0


def run_layers(arguments: argparse.Namespace) -> int:
    """Draw every layer measure of every result below --result_dir."""
    drawn = layers.layer_figures(load_groups(arguments.result_dir), look_of(arguments))
    return save_some(drawn, arguments, "has layers: all were run with --no_cosine.")


def run_effects(arguments: argparse.Namespace) -> int:
    """Draw what histories do, of every result below --result_dir that was run with --effects."""
    drawn = effects.effect_figures(load_groups(arguments.result_dir), look_of(arguments))
    return save_some(drawn, arguments, "has effects. Run experiment.py with --effects.")


def save_some(
    drawn: Iterable[style.NamedFigure], arguments: argparse.Namespace, lacking: str
) -> int:
    """Write figures; UserError where no result has any."""
    if not save(drawn, arguments):
        raise UserError(f"no result below {', '.join(arguments.result_dir)} {lacking}")
    return 0


def look_of(arguments: argparse.Namespace) -> style.FigureStyle:
    """The figure style that the command line asks for."""
    return style.FigureStyle(arguments.width, arguments.paper)


def save(
    drawn: Iterable[style.NamedFigure],
    arguments: argparse.Namespace,
    formats: Sequence[str] | None = None,
) -> int:
    """Write figures as the command line says, each printed once it is there -> their number."""
    formats = formats or arguments.format
    count = 0
    for line in style.save_figures(drawn, arguments.out_dir, formats, arguments.paper):
        print(line, flush=True)
        count += 1
    return count


def run_table(arguments: argparse.Namespace) -> int:
    """Print or write one table of every result below the folders."""
    out = arguments.out
    if out is not None:
        check_file(out)
    results = records.load_results(arguments.result_dir)
    if arguments.contrast:
        write(contrast_report.render(contrasts.contrasts(results), arguments.format), out)
        return 0
    frame = tables.make_frame(results)
    below = wordings.render(results, arguments.format)
    write(tables.render(frame, arguments.format) + below, out)
    return 0


def check_file(out: Path) -> None:
    """UserError unless a file of this name can be written."""
    if out.is_dir():
        raise UserError(f"--out {out} is a folder. Name a file.")
    records.check_writable(out.parent, make=False)


def run_grid(arguments: argparse.Namespace) -> int:
    """Draw heat maps of target by distractor, or by what --by says."""
    results = records.load_results(arguments.result_dir)
    if arguments.contrast:
        frame = contrast_report.make_frame(contrasts.contrasts(results), results)
    else:
        frame = tables.make_frame(results)
    h = grid.choose_length(frame, arguments.h, arguments.by)
    save(grid.grid_figures(frame, h, arguments.by, look_of(arguments)), arguments)
    return 0


def run_contrast(arguments: argparse.Namespace) -> int:
    """Print or write the table of contrasts; under --out_dir also draw them."""
    if arguments.out is not None:
        check_file(arguments.out)
    reading = contrasts.SCORE
    if arguments.measure != reading.name:
        reading = contrasts.Reading(arguments.measure, arguments.block)
    results = records.load_results(arguments.result_dir)
    rows = contrasts.contrasts(results, arguments.by, arguments.against, reading)
    write(contrast_report.render(rows, arguments.format, arguments.by), arguments.out)
    if arguments.out_dir is not None:
        against = arguments.against
        drawn = contrast_report.contrast_figures(rows, arguments.by, look_of(arguments), against)
        if arguments.by == "history":
            drawn = chain(drawn, position.position_figures(results, look_of(arguments)))
        save(drawn, arguments, style.FORMATS)
    return 0


def write(text: str, out: Path | None) -> None:
    """Print a text, or write it and print where."""
    if out is None:
        print(text, end="")
    else:
        records.write_text(out, text)
        print(out)


def run_report(arguments: argparse.Namespace) -> int:
    """Write one page of all results below the folders, and print what it leaves out."""
    check_file(arguments.out)
    print(*page.write_report(arguments.result_dir, arguments.out), arguments.out, sep="\n")
    return 0


def run_export(arguments: argparse.Namespace) -> int:
    """Write a row for every prompt of the results below the folders."""
    out = arguments.out or Path(f"prompts.{arguments.format}")
    check_file(out)
    frame = log_files.load_examples(*arguments.result_dir, flat=True)
    if arguments.format == "parquet":
        records.write_bytes(out, frame.to_parquet(index=False))
    else:
        table = frames.with_texts_for_lists(frame)
        records.write_text(out, table.to_csv(index=False, lineterminator="\n"))
    print(out)
    return 0


def run_verify(arguments: argparse.Namespace) -> int:
    """Verify every --debug_file; 0 where all hold, 1 on a mismatch, 2 where a file is damaged."""
    status = 0
    for path in map(Path, arguments.debug_file):
        try:
            if path.is_dir():
                raise UserError(f"{path} is a folder. Name the logs in it: {path}/*/*_debug.json")
            if not path.is_file():
                raise UserError(f"there is no debug log {path}.")
            rows = verify.verify(path)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            status = 2
            continue
        wrong = [row for row in rows if row[-1] != "ok"]
        print_rows(wrong if arguments.brief else rows)
        values = sum(int(row[verify.COLUMNS.index("values")]) for row in rows)
        found = f"MISMATCH in {len(wrong)} of {len(rows)} quantities" if wrong else "ok"
        print(f"{path}: {found}, {values:,} values compared", flush=True)
        if wrong and (why := verify.made_otherwise(path, rows)):
            print(why)
        status = max(status, int(bool(wrong)))
    return status


def print_rows(rows: Sequence[Sequence[str]]) -> None:
    """Print rows of `verify.COLUMNS` below their names; nothing without any."""
    widths = [max(map(len, column)) for column in zip(verify.COLUMNS, *rows)]
    for row in (verify.COLUMNS, *rows) if rows else ():
        print("  ".join(map(str.ljust, row, widths)).rstrip())


# -- the command line


def add_folders(command: argparse.ArgumentParser) -> None:
    """Where results are."""
    command.add_argument(
        "--result_dir", required=True, nargs="+", help="folders of results, searched below"
    )


def add_looks(command: argparse.ArgumentParser, out_dir: str | None = "plots") -> None:
    """Where figures go, and how they look."""
    command.add_argument(
        "--out_dir", default=out_dir, help=f"folder for the figures ({out_dir or 'none drawn'})"
    )
    widths = "; ".join(f"{name}: {inches} in" for name, inches in style.WIDTHS.items())
    command.add_argument(
        "--width", choices=style.WIDTHS, default=style.PLAIN.width,
        help=f"width of a figure, in columns of a page; {widths} (%(default)s)",
    )  # fmt: skip
    command.add_argument(
        "--paper", action="store_true", help="put titles and notes into a caption, STEM.txt"
    )


def add_figures(command: argparse.ArgumentParser) -> None:
    """What all commands have that draw figures alone."""
    add_folders(command)
    add_looks(command)
    command.add_argument(
        "--format", choices=style.FORMATS, default=style.FORMATS, nargs="+",
        help="file formats (all three)",
    )  # fmt: skip


def add_by(command: argparse.ArgumentParser, what: str) -> None:
    """What the lines or columns of a figure are."""
    text = f"what the {what} are; each combination of the others gets its own figure (%(default)s)"
    command.add_argument("--by", default=BY[0], metavar="FIELD", help=text)


def add_own_task(command: argparse.ArgumentParser) -> None:
    """What the numbers of a table or map are compared with."""
    text = "compare with the target's own task instead of h = 0"
    command.add_argument("--contrast", action="store_true", help=text)


def add_length(command: argparse.ArgumentParser) -> None:
    """The history length of a map."""
    text = "history length (default: longest that all pairs have)"
    command.add_argument("--h", type=int, help=text)


def add_form(command: argparse.ArgumentParser, forms: Sequence[str]) -> None:
    """The form of a table, and where it goes."""
    command.add_argument("--format", choices=forms, default="markdown", help="(%(default)s)")
    command.add_argument("--out", type=Path, metavar="FILE", help="file to write (default: print)")


def add_sides(command: argparse.ArgumentParser) -> None:
    """What is compared with what."""
    command.add_argument(
        "--by", default="distractor", metavar="FIELD",
        help="what is compared: distractor, model, history, seed, or a setting that differs "
        "(%(default)s)",
    )  # fmt: skip
    command.add_argument(
        "--against", metavar="NAME",
        help="the side that the others are compared with (the target's own task where it was run, "
        "else each with each)",
    )  # fmt: skip
    command.add_argument(
        "--measure", choices=contrasts.MEASURES, default=contrasts.SCORE.name, help="(%(default)s)"
    )
    command.add_argument("--block", type=int, default=1, help="of a layer measure (%(default)s)")


def add_page(command: argparse.ArgumentParser) -> None:
    """Where the page goes."""
    page = Path("report.html")
    text = "file to write (%(default)s)"
    command.add_argument("--out", type=Path, default=page, metavar="FILE", help=text)


def add_prompts(command: argparse.ArgumentParser) -> None:
    """The form of the prompts, and where they go."""
    forms = ("parquet", "csv")
    command.add_argument("--format", choices=forms, default=forms[0], help="(%(default)s)")
    command.add_argument("--out", type=Path, metavar="FILE", help="file to write (prompts.FORMAT)")


def add_logs(command: argparse.ArgumentParser) -> None:
    """What is verified, and how much of it is shown."""
    command.add_argument("--debug_file", required=True, nargs="+", help="debug logs")
    text = "print only the quantities that differ"
    command.add_argument("--brief", action="store_true", help=text)


COMMANDS = {  # name -> what runs it, its line of help, what adds its flags
    "metric": (
        run_metric, "draw metric, change and cosines over h", add_figures,
        partial(add_by, what="lines"),
    ),
    "layers": (run_layers, "draw what a history changes at each layer", add_figures),
    "effects": (run_effects, "draw what --effects measured", add_figures),
    "table": (
        run_table, "one row per result and h", add_folders, add_own_task,
        partial(add_form, forms=tables.FORMATS),
    ),
    "grid": (
        run_grid, "draw heat maps of the change, target by distractor", add_figures,
        partial(add_by, what="columns"), add_length, add_own_task,
    ),
    "contrast": (
        run_contrast, "was it the switch? compare histories on the same targets", add_folders,
        add_sides, partial(add_form, forms=contrast_report.FORMATS),
        partial(add_looks, out_dir=None),
    ),
    "report": (
        run_report, "one HTML page with all results and their examples", add_folders, add_page,
    ),
    "export": (run_export, "write a row per prompt for other programs", add_folders, add_prompts),
    "verify": (run_verify, "recompute every stored number from debug logs", add_logs),
}  # fmt: skip


def make_parser() -> Parser:
    """The command line of COMMANDS; each one's function is under `run`."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = Parser(description=__doc__, formatter_class=plain)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (run, text, *adding) in COMMANDS.items():
        command = commands.add_parser(name, help=text)
        command.set_defaults(run=run)
        for add in adding:
            add(command)
    return parser


def say_unfinished(folders: Iterable[str]) -> None:
    """Name folders with pairs that are not finished, since no number is of them."""
    for folder in folders:
        if records.lacks_results(Path(folder)):
            print(
                f"note: {folder} has pairs that are not finished, and they are left out: the "
                "command that began them continues them.",
                file=sys.stderr,
            )


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    escape_unprintable()
    arguments = make_parser().parse_args(argv)
    try:
        status = arguments.run(arguments)
        say_unfinished(getattr(arguments, "result_dir", ()))
        return status
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    restart_in_utf_8()
    sys.exit(main())
