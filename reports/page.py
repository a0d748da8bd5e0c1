"""One HTML page of every result: verdict, tables, figures, the examples behind them. No torch.

    python viz.py report --result_dir results --out report.html

The page is one file that needs no network: its Content-Security-Policy forbids any, and allows no
script and no style but the ones written here. Equal results give equal bytes.
"""

import base64
import gzip
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from core import records
from core.terminal import counted, say
from reports import (
    answer,
    contrasts,
    curves,
    effects,
    explorer,
    layers,
    limits,
    others,
    position,
    style,
    tables,
    verdict,
    why,
    wordings,
)
from reports.groups import Group, group_results
from reports.meanings import MEANINGS

SCRIPTS = ("report.js", "examples.js", "example.js", "explorer.js")
TEMPLATES = Path(__file__).parent / "templates"
LOOK = style.FigureStyle(paper=True)  # its captions are text of the page
NARROW = replace(LOOK, width="single")
ENLARGED = 1.3  # a screen is read from further away than paper
DPI = 150
MOST_CONTRASTS = 60  # that are drawn
MOST_LAYER_PAIRS = 16  # pairs whose layers are drawn
POLICY = (
    "default-src 'none'; img-src data:; script-src {script}; style-src {style}; "
    "base-uri 'none'; form-action 'none'"
)

Record = dict[str, Any]


def write_report(folders: Iterable[str | Path], out: Path) -> list[str]:
    """Write the page of every result below the folders -> what to tell about it, in lines."""
    results = records.load_results(folders)
    say(f"Reading the logs of {len(results)} results ...")
    page, notes = make_page(results)
    records.write_text(out, page)
    return notes


def make_page(found: tables.Results) -> tuple[str, list[str]]:
    """The page as text, and what it leaves out, in lines."""
    results, frame = list(found.values()), tables.make_frame(found)
    names = names_of(frame)
    held = explorer.make_explorer(results, names)
    said, answered = verdict.make_verdict(frame, results), answer.make_answer(found)
    drawn, undrawn = layer_pairs(results, names, said)
    thinned = _thinned(held["pairs"])
    page = {
        "models": sorted({result["model"] for result in results}),
        "pairs": names,
        "answer": answered,
        "intrusion": answer.intrusion(results, names),
        "verdict": said,
        "power": limits.power(answered["all"]),
        "parts": why.parts(results, names),
        "kinds": why.kinds(found),
        "missing": effects.missing_parts(results),
        "table": verdict.verdict_table(frame),
        "heat": verdict.heat_maps(frame),
        "left_out": limits.left_out(results, names),
        "wordings": wordings.page_tables(found),
        "others": others.other_scores(results, names),
        "settings": verdict.settings(results, names),
        "thinned": thinned,
        "held": held["pairs"],
        "undrawn": undrawn,
        "data": pack(held),
        "start": _first_pair(names, said),
        "layers_read": any(result["layer_stats_by_len"] for result in results),
        "paths": [result["path"] for result in results],
        "meanings": MEANINGS,
    }
    with style.sheet():
        page |= figures(found, page, drawn)
    return render(page), [note for note in (thinned, _undrawn(len(undrawn))) if note]


def figures(
    found: tables.Results, page: dict[str, Any], chosen: Sequence[int]
) -> dict[str, list[dict[str, Any]]]:
    """Every figure of the page by the part that shows it."""
    say("Drawing the figures ...")
    groups = group_results(found)
    inside = sorted(inside_images(groups, page["paths"], chosen), key=lambda each: each["pair"])
    return {
        "contrasts": list(contrast_images(page["answer"]["all"], "distractor")),
        "curves": list(curve_images(groups)),
        "kind_images": list(contrast_images(page["kinds"]["all"], "history")),
        "place_images": list(map(image, position.position_figures(found, NARROW))),
        "why_images": _some(inside, {effects.PARTS_FIGURE}),
        "where_images": _some(inside, set(MEANINGS) - {effects.PARTS_FIGURE}),
    }


def _some(inside: Sequence[dict[str, Any]], measures: set[str]) -> list[dict[str, Any]]:
    """The pairs that have images of these measures, with those images."""
    found = [
        pair | {"images": [each for each in pair["images"] if each["measure"] in measures]}
        for pair in inside
    ]
    return [pair for pair in found if pair["images"]]


def names_of(frame: Any) -> list[str]:
    """What each result is called on the page, in the order of the results."""
    apart = verdict.identity(frame)
    return [verdict.name_of(row, apart) for row in frame.to_dict("records") if row["h"] == 0]


def _first_pair(names: Sequence[str], said: dict[str, Any]) -> int:
    """The pair that the explorer opens with: the one that is hurt most."""
    worst = [pair["name"] for pair in said["hurt"]]
    return names.index(worst[0]) if worst else 0


# -- what is left out, said


def _thinned(pairs: Sequence[dict[str, Any]]) -> str:
    """What the page and the terminal say of a sample; nothing where every example is embedded."""
    whole, embedded = (sum(pair[key] for pair in pairs) for key in ("n", "embedded"))
    if whole == embedded:
        return ""
    return (
        f"The page lists {embedded} of {whole} examples: a random sample alternating flipped and "
        "unflipped ones. The others are in the debug logs. Every number outside the list is of all "
        "examples."
    )


def _undrawn(count: int) -> str:
    if not count:
        return ""
    pairs = f"{count} more {'pair' if count == 1 else 'pairs'}"
    return f"The page leaves out the layers of {pairs}; python viz.py layers draws them."


def layer_pairs(
    results: Sequence[Record], names: Sequence[str], said: dict[str, Any]
) -> tuple[list[int], list[str]]:
    """Numbers of the pairs whose layers are drawn, those that are hurt most before others, and the
    names of those that are not.
    """
    kinds = ("layer_stats_by_len", "effects_by_len")
    read = [i for i, result in enumerate(results) if any(result[kind] for kind in kinds)]
    first = [pair["name"] for pair in said["hurt"]]
    order = sorted(read, key=lambda i: (names[i] not in first, i))
    return sorted(order[:MOST_LAYER_PAIRS]), [names[i] for i in sorted(order[MOST_LAYER_PAIRS:])]


# -- figures


def contrast_images(rows: Sequence[Record], by: str) -> Iterator[dict[str, Any]]:
    """The contrasts with their intervals; of many the table has to do."""
    if len(rows) <= MOST_CONTRASTS:
        yield from map(image, contrasts.contrast_figures(rows, by, LOOK))


def curve_images(groups: Sequence[Group]) -> Iterator[dict[str, Any]]:
    """Figures over h: metric, change, and what else was read."""
    for drawn in curves.metric_figures(groups, NARROW):
        yield {"wide": False, **image(drawn)}
    for drawn in curves.study_figures(groups, LOOK):
        yield {"wide": True, **image(drawn)}


def inside_images(
    groups: Sequence[Group], paths: Sequence[str], chosen: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """Every figure of effects and layers of the chosen pairs, with the number of its pair."""
    lines = [(group, *line) for group in groups for line in group.lines.items()]
    drawn = [line for line in lines if paths.index(line[-1]["path"]) in chosen]
    for group, name, result in counted(drawn, "Drawing the layers of pairs"):
        one = [replace(group, lines={name: result})]
        figures = chain(effects.effect_figures(one, LOOK), layers.layer_figures(one, LOOK))
        images = [image(each) | {"names": {}} for each in figures]  # below that of the pair
        unrestored = effects.is_unrestored(result)
        pair = paths.index(result["path"])
        yield {"pair": pair, "images": images, "unrestored": unrestored}


def image(drawn: style.NamedFigure) -> dict[str, Any]:
    """A figure as a lossless WebP, half the size of a PNG: its data URI, its size in CSS pixels,
    its caption, its measure and what it is named by.
    """
    written = io.BytesIO()
    drawn.figure.savefig(written, format="webp", dpi=DPI, pil_kwargs={"lossless": True})
    width, height = (round(96 * ENLARGED * inches) for inches in drawn.figure.get_size_inches())
    uri = f"data:image/webp;base64,{base64.b64encode(written.getvalue()).decode()}"
    size = {"width": width, "height": height}
    caption = style.unbroken(drawn.caption)
    about = {"caption": caption, "measure": drawn.measure, "names": dict(drawn.names)}
    return {"uri": uri, **size, **about}


# -- the file


def pack(content: dict[str, Any]) -> str:
    """JSON as the page embeds it: base64 of gzip, which no text in it can break out of."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


def render(page: dict[str, Any]) -> str:
    """The HTML of a page, with the hashes of its script and style in its policy."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["brackets"] = tables.brackets
    css = environment.get_template("report.css").render(shades=page["heat"]["shades"])
    script = "\n".join((TEMPLATES / name).read_text(encoding="utf-8") for name in SCRIPTS)
    policy = POLICY.format(script=_hash(script), style=_hash(css))
    inlined = {"style": css, "script": script, "policy": policy}
    return environment.get_template("report.html").render(**page, **inlined)


def _hash(text: str) -> str:
    """A source of a Content-Security-Policy that allows this text alone."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
