"""Figures of what a history does: how much is position, length and content, through which blocks,
by which turn, what patching restores, and where the answer position looks.

    python viz.py effects --result_dir results --out_dir plots

Hidden: kept from the target's tokens. Seen: let in there only. Patched: states of another run put
in. Restored: the share of the change that this takes back.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from core.errors import UserError
from core.keys import in_words
from core.schema import EFFECT_PARTS, PROPORTIONS
from reports import style
from reports.groups import Group, Record
from reports.style import FigureStyle, NamedFigure

HEIGHTS = {"single": 1.9, "double": 2.3}  # inches, of a panel
HATCHES = ("", "///", "...")  # so that bars are told apart in grey
PARTS = {  # of the total change -> what is said of them
    "position": "position: the target stands further on",
    "length": "length: it reads a filler of as many tokens",
    "content": "content: it reads this history, not the filler",
}
WITHOUT_FILLER = {
    "position": "position: the target stands further on",
    "seen": "length and content: it reads the history",
}
ROUTES = {
    "direct": "from the answer position",
    "through_target": "from the target's other tokens",
    "both": "from both",
}
WINDOWED = {
    "hidden_by_window": (
        "hidden",
        "the history hidden in a window of blocks, less the full run",
    ),
    "seen_by_window": (
        "seen",
        "the history seen in a window of blocks only, against the run in which all is hidden",
    ),
}
TURNS = {"hidden_by_turn": "Turn", "hidden_by_user": "User text", "hidden_by_answer": "Answer"}
PATCHED = {
    "patched_last": "answer position, after each block",
    "patched_target": "all of the target, after each window",
    "reverse_last": "reverse: answer position",
    "reverse_target": "reverse: all of the target",
}
SHARES = (-0.5, 1.5)  # of the axis: intervals may reach further
LOOKED_AT = {
    "first": "first token", "system": "system text", "user": "user texts of the history",
    "answer": "answers of the history", "marks": "marks of the template", "target": "target text",
    "sink": "attention sinks (no token)",
}  # fmt: skip

PARTS_FIGURE = "effect_parts"
# A part of --effects -> what it stores, beside the numbers of the whole history
STORED = {
    "block": "hidden_by_window", "turn": "hidden_by_turn", "route": "routes", "patch": "restored",
    "attention": "attention",
}  # fmt: skip

Stats = Mapping[str, Any]


def effect_figures(
    groups: Iterable[Group], look: FigureStyle = style.PLAIN
) -> Iterator[NamedFigure]:
    """Every effect that a result holds, for every result."""
    for group in groups:
        for result in group.lines.values():
            if result["effects_by_len"]:
                yield from _figures(result, look)


def _figures(result: Record, look: FigureStyle) -> Iterator[NamedFigure]:
    """The figures of one result; UserError where it lacks what is drawn."""
    by_len = {int(h): stats for h, stats in result["effects_by_len"].items() if int(h)}
    try:
        longest = by_len[max(by_len)]  # some numbers are there for the longest history alone
        yield draw_parts(result, by_len, look)
        for name in WINDOWED:
            if name in longest:
                yield draw_windows(result, by_len, name, look)
        if "routes" in longest:
            yield draw_routes(result, by_len, look)
        if "hidden_by_turn" in longest:
            yield draw_turns(result, by_len, look)
        restored = [h for h, stats in by_len.items() if _has_shares(stats.get("restored", {}))]
        if restored:
            yield draw_restored(result, max(restored), by_len, look)
        if "attention" in longest:
            yield draw_attention(result, max(by_len), by_len, look)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{result['path']} is damaged: its effects cannot be drawn ({error!r:.90})."
        ) from error


def missing_parts(results: Iterable[Record]) -> list[str]:
    """The parts of --effects that none of the results holds, in their order."""
    held = [stats for result in results for stats in result["effects_by_len"].values()]
    there = {part for part, key in STORED.items() if any(key in stats for stats in held)}
    if any("length" in stats.get("contrasts", {}) for stats in held):
        there.add("position")
    return [part for part in EFFECT_PARTS if part not in there]


def is_unrestored(result: Record) -> bool:
    """Were states patched, without a share to draw at any length?"""
    found = [s["restored"] for s in result["effects_by_len"].values() if "restored" in s]
    return bool(found) and not any(map(_has_shares, found))


def _has_shares(restored: Mapping[str, Stats]) -> bool:
    return any(share is not None for stats in restored.values() for share in stats["share"])


# -- position, length, content; routes


def draw_parts(result: Record, by_len: Mapping[int, Stats], look: FigureStyle) -> NamedFigure:
    """The change against h = 0 by h, as bars of its parts on each other, and their sum."""
    contrasts = [stats["contrasts"] for stats in by_len.values()]
    parts = PARTS if "length" in contrasts[0] else WITHOUT_FILLER
    figure, axes = style.new_figure(look)
    tops = {True: np.zeros(len(by_len)), False: np.zeros(len(by_len))}  # of bars up, and down
    for number, (name, label) in enumerate(parts.items()):
        values = np.array([each[name]["mean"] for each in contrasts], dtype=float)
        base = np.where(values > 0, tops[True], tops[False])
        axes.bar(list(by_len), values, 0.6, base, label=label, **_filling(number))
        for up, top in tops.items():
            top += np.where((values > 0) == up, values, 0)
    total = [each["total"] for each in contrasts]
    points = list(by_len), total, "total: with the history, less without it", "black"
    whiskers = ["whiskers: 95% interval of the total"] if _points(axes, *points) else []
    axes.axhline(0, **style.ZERO)
    style.over_turns(axes, [0, *by_len])
    axes.set_ylabel(f"Change of the\n{unit_of(result)}")
    notes = [*whiskers, "above 0: in favour of the reference"]
    about = "what the history changes: position, length and content"
    return _finished(figure, axes, result, look, PARTS_FIGURE, about=about, notes=notes)


def draw_routes(result: Record, by_len: Mapping[int, Stats], look: FigureStyle) -> NamedFigure:
    """What the history hidden from each group of tokens changes, by h."""
    figure, axes = style.new_figure(look)
    whiskers = []
    for number, (name, label) in enumerate(ROUTES.items()):
        places = np.array(list(by_len)) + 0.25 * (number - 1)
        stats = [each["routes"][name] for each in by_len.values()]
        axes.bar(places, [each["mean"] for each in stats], 0.24, label=label, **_filling(number))
        if _points(axes, places, stats, None, "0.3"):
            whiskers = ["whiskers: 95% intervals"]
    axes.axhline(0, **style.ZERO)
    style.over_turns(axes, [0, *by_len])
    axes.set_ylabel(f"Change of the\n{unit_of(result)}")
    notes = [*whiskers, "below 0: what is hidden had favoured the reference"]
    about = "the history hidden from one route or both, at all blocks, against the full run"
    return _finished(figure, axes, result, look, "effect_routes", about=about, notes=notes)


def _filling(number: int) -> dict[str, Any]:
    return {
        "color": style.COLOURS[number], "hatch": HATCHES[number], "edgecolor": "white",
        "linewidth": 0.5,
    }  # fmt: skip


def _points(
    axes: Any, places: Sequence[float], stats: Sequence[Stats], label: str | None, colour: str
) -> bool:
    """Means with their intervals -> are there any intervals?"""
    mean, low, high = (np.array([s[k] for s in stats], float) for k in ("mean", "low", "high"))
    ends = [mean - low, high - mean]
    mark = {"marker": "D", "markersize": 4} if label else {"marker": "none"}
    axes.errorbar(
        places, mean, ends, label=label, color=colour, linestyle="none", capsize=2, **mark
    )
    return bool(np.isfinite(ends).any())


# -- by block


def draw_windows(
    result: Record, by_len: Mapping[int, Stats], name: str, look: FigureStyle
) -> NamedFigure:
    """The change by window of blocks: a line with its interval for each h, and a map over h."""
    stem, about = WINDOWED[name]
    by_len = {h: stats for h, stats in by_len.items() if name in stats}
    figure, (lines, heat) = style.new_figure(look, *((1, 2) if look.wide else (2, 1)))
    windows = [f"{first}-{last}" for first, last in by_len[min(by_len)]["windows"]]
    places = range(len(windows))
    for number, (h, stats) in enumerate(by_len.items()):
        colour = style.colour_of(number, len(by_len))
        mark = style.MARKERS[number % len(style.MARKERS)]
        rows = (np.array(stats[name][key], float) for key in ("mean", "low", "high"))
        mean, low, high = rows
        lines.plot(places, mean, label=h, color=colour, marker=mark)
        lines.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)
    lines.axhline(0, **style.ZERO)
    lines.set_ylabel(f"Change of the\n{unit_of(result)}")
    rows = {h: stats[name]["mean"] for h, stats in by_len.items()}
    _map(figure, {heat: rows}, f"Change of the\n{unit_of(result)}")
    heat.set_ylabel(style.TURNS)
    for axes in (lines, heat):
        axes.set_xticks(places, windows, rotation=45)
        axes.set_xlabel(f"{style.BLOCKS}s of the window")
    notes = ["bands: 95% intervals, Student's t"]
    kind = f"effect_{stem}_by_window"
    return _finished(
        figure, lines, result, look, kind, about=about, notes=notes, heading=style.TURNS
    )


def _map(figure: Any, panels: Mapping[Any, Mapping[int, Sequence[Any]]], label: str) -> None:
    """Maps of one scale, a panel each, with a row for each length, its numbers written into it."""
    tables = {axes: _table(list(rows.values())) for axes, rows in panels.items()}
    limit = max(np.nanmax(np.abs(values), initial=0) for values in tables.values()) or 1
    for axes, values in tables.items():
        image = axes.imshow(
            values, aspect="auto", origin="lower", cmap=style.DIVERGING, vmin=-limit, vmax=limit
        )
        axes.set_yticks(range(len(values)), panels[axes])
        axes.grid(False)
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                text = {"ha": "center", "va": "center", "fontsize": 6}
                axes.text(column, row, f"{value:.2f}", color=style.ink(value / limit), **text)
    figure.colorbar(image, ax=axes, label=label)


def _table(rows: Sequence[Sequence[Any]]) -> np.ndarray:
    """Rows of unequal length, the shorter ones filled up with NaN."""
    values = np.full((len(rows), max(map(len, rows))), np.nan)
    for row, given in zip(values, rows):
        row[: len(given)] = np.array(given, float)
    return values


# -- by turn


def draw_turns(result: Record, by_len: Mapping[int, Stats], look: FigureStyle) -> NamedFigure:
    """Maps of what each turn hidden changes, its user text alone, and its answer alone."""
    hidden = [name for name in TURNS if name in by_len[max(by_len)]]  # turns may have no answers
    figure, panels = style.new_figure(look, *((1, len(hidden)) if look.wide else (len(hidden), 1)))
    maps = {}
    for axes, name in zip(panels, hidden):
        maps[axes] = {h: s[name]["mean"] for h, s in by_len.items() if name in s}
        axes.set_title(f"{TURNS[name]} hidden")
        axes.set_xticks(range(max(by_len)), range(1, max(by_len) + 1))
        axes.set_xlabel("Turn, from the first")
    _map(figure, maps, f"Change of the\n{unit_of(result)}")
    panels[0].set_ylabel(style.TURNS)
    notes = ["below 0: the turn had favoured the reference"]
    about = "each turn hidden at all blocks, against the full run"
    return _finished(figure, None, result, look, "effect_turns", about=about, notes=notes)


# -- patching


def draw_restored(
    result: Record, h: int, by_len: Mapping[int, Stats], look: FigureStyle
) -> NamedFigure:
    """The share of the change that patched states restore, by block."""
    figure, axes = style.new_figure(look)
    ends = [last for _, last in by_len[h]["windows"]]
    for number, (name, label) in enumerate(PATCHED.items()):
        rows = (by_len[h]["restored"][name][key] for key in ("share", "low", "high"))
        share, low, high = (np.array(row, float) for row in rows)
        blocks = np.arange(1, len(share) + 1) if name.endswith("last") else ends
        looks = style.STYLES[number] | {"markevery": max(1, len(share) // 8)}
        axes.plot(blocks, share, label=label, **looks)
        axes.fill_between(blocks, low, high, color=looks["color"], alpha=0.12, linewidth=0)
    for level in (0, 1):
        axes.axhline(level, **style.ZERO)
    axes.set(xlabel=style.BLOCKS, ylabel="Share restored")
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, SHARES[0]), min(high, SHARES[1]))
    notes = [
        "1: the number of the other run; reverse: states of the run with history put into h = 0",
        "bands: 95% intervals of the ratio of means (Fieller), cut where they leave the axis",
    ]
    if h < max(by_len):
        notes.append(f"no share at h > {h}: the change is not clearly away from 0 there")
    about = f"states of h = 0 put into the run with h = {h}"
    return _finished(figure, axes, result, look, "effect_restored", about=about, notes=notes)


# -- attention


def draw_attention(
    result: Record, h: int, by_len: Mapping[int, Stats], look: FigureStyle
) -> NamedFigure:
    """Attention of the answer position by part, over blocks, and of each turn as a map."""
    means = {part: np.array(s["mean"], float) for part, s in by_len[h]["attention"].items()}
    flat = by_len[h]["attention_if_uniform"]
    figure, (lines, heat) = style.new_figure(look, *((1, 2) if look.wide else (2, 1)))
    blocks = np.arange(1, len(means["first"]) + 1)
    for number, (part, label) in enumerate(LOOKED_AT.items()):
        names = [name for name in means if name.partition("_")[0] == part]
        looks = style.STYLES[number] | {"markevery": max(1, len(blocks) // 8), "linestyle": "-"}
        if not names:  # turns may have no answers, and few models have sinks
            continue
        lines.plot(blocks, sum(means[name] for name in names), label=label, **looks)
        level = sum(flat[name] for name in names)
        lines.axhline(level, color=looks["color"], linewidth=0.8, linestyle=":")
    lines.set(xlabel=style.BLOCKS, ylabel="Attention")
    turns = np.array([means[f"user_{k}"] + means.get(f"answer_{k}", 0) for k in range(1, h + 1)])
    extent = (0.5, len(blocks) + 0.5, 0.5, h + 0.5)
    image = heat.imshow(turns, aspect="auto", origin="lower", extent=extent)
    heat.set(xlabel=style.BLOCKS, ylabel="Turn, from the first")
    heat.locator_params(axis="y", integer=True, min_n_ticks=1)
    heat.grid(False)
    figure.colorbar(image, ax=heat, label="Attention to the turn's texts")
    notes = ["dotted: if every token had the same weight; all parts sum to 1"]
    about = f"attention of the answer position, mean over heads, at h = {h}"
    return _finished(figure, lines, result, look, "effect_attention", about=about, notes=notes)


# -- what all have


def unit_of(result: Record) -> str:
    """What the numbers are."""
    labelled = result["metric_name"] in PROPORTIONS and result["config"].get("target_labels")
    return "margin (nats)" if labelled else "reference's log P (nats)"


def _finished(
    figure: Any, axes: Any, result: Record, look: FigureStyle, stem: str, *,
    about: str, notes: Sequence[str], heading: str = "",
) -> NamedFigure:  # fmt: skip
    """The figure with its legend, where there are lines, its title and its caption."""
    model, pair = in_words(result["names"])
    size = f"n = {result['n']}"
    if axes is not None:
        style.add_legend(figure, axes, look, heading, notes)
    titles = [f"{model}, {size}", pair, *([about] if axes is not None else [about, *notes])]
    style.finish(figure, look, titles, HEIGHTS[look.width])
    caption = style.as_sentences([f"{about}, {model}, {pair}, {size}", *notes])
    names = {field: name for field, name in result["names"].items() if field != "distractor"}
    kind = f"{stem}_{result['distractor']}"
    return NamedFigure(style.figure_stem(names, kind), figure, caption, stem, result["names"])
