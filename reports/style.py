"""How figures look and where they go: style sheet, widths of a paper, room for text, files.

Every figure is drawn under `paper.mplstyle`. Its height follows from the height of its panels, so
that a long legend never takes room from the curves.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from core import records
from core.errors import UserError

SHEET = Path(__file__).with_name("paper.mplstyle")
WIDTHS = {"single": 3.5, "double": 7.2}  # inches: one and two columns of a page
FORMATS = ("pdf", "svg", "png")
UNDATED = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}  # the same file every time
# Okabe and Ito without yellow, which is too pale for a line.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000")
DIVERGING = "PuOr_r"  # a colour map told apart by the colour-blind; orange is a rise
BLOCKS = "Decoder block"  # the axis of layers
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<")
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)))
# Unlike lengths, so that lines of one colour or marker differ in the rest.
STYLES = [
    {"color": COLOURS[i % 7], "marker": MARKERS[i % 9], "linestyle": DASHES[i % 5]}
    for i in range(315)
]
ZERO = {"color": "0.4", "linewidth": 0.8, "zorder": 1.6}  # a line at 0, over the grid
ROOMY = 12.0  # inches: more than any figure is high before its height is fitted
TURNS = "History length h (turns)"
CLOSEST = 0.05  # of the axis between two numbered lengths
HANDLE = 0.6  # inches beside a label of the legend: the line, and room on both sides
POINTS = 72  # in an inch
PAIR = re.compile(r"\b[hnp] [=<>]=? (?=[\d.])")
SMALL = "legend.fontsize"  # the setting that small text has its size from

METRICS = {
    "accuracy": "Accuracy",
    "rouge": "ROUGE-L F1",
    "rouge1": "ROUGE-1 F1",
    "rouge2": "ROUGE-2 F1",
    "exact_match": "Exact match",
    "f1": "Token F1",
}


def in_sentence(metric: str) -> str:
    """A metric's name within a sentence: `accuracy`, `ROUGE-L F1`."""
    name = METRICS.get(metric, metric)
    return name if name[1].isupper() else name[0].lower() + name[1:]


@dataclass(frozen=True)
class FigureStyle:
    """The width of figures, and whether they are for a paper."""

    width: str = "double"  # of WIDTHS
    paper: bool = False  # titles and notes go into a caption

    @property
    def inches(self) -> float:
        """Width of a figure."""
        return WIDTHS[self.width]

    @property
    def wide(self) -> bool:
        """True where panels go side by side, False where they go below each other."""
        return self.width == "double"


PLAIN = FigureStyle()


class NamedFigure(NamedTuple):
    """A figure, the name of its files without their ending, what it shows in sentences, its
    measure, a name in `meanings.MEANINGS` that the report shows with it, and the fields of keys
    that tell it from others of this measure.
    """

    stem: str
    figure: Any
    caption: str
    measure: str = ""
    names: Mapping[str, str] = {}


def sheet() -> AbstractContextManager:
    """The settings of the style sheet and matplotlib's defaults, whatever the user's own are."""
    import matplotlib

    return matplotlib.rc_context(fname=SHEET)


def interval(methods: Iterable[str]) -> str:
    """`95% interval (Wilson or Student's t)`, of intervals that results call `95% Wilson`."""
    levels, _, made = zip(*(method.partition(" ") for method in methods))
    return f"{levels[0]} interval ({' or '.join(dict.fromkeys(made))})"


def line_styles(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colour, marker and dashes of each line; those of one place in the order are always alike."""
    return {name: STYLES[i % len(STYLES)] for i, name in enumerate(dict.fromkeys(names))}


def figure_stem(names: dict[str, str], *kind: str) -> str:
    """File name of a figure, without its ending: `org@name__quiz_test__metric`.

    `names` are those fields of a result's key that name the figure.
    """
    written = {"model": lambda model: model.replace("/", "@")}
    written |= dict.fromkeys(("target", "distractor", "history"), str)
    parts = [written.get(field, f"{field}_{{}}".format)(name) for field, name in names.items()]
    return "__".join(re.sub(r"[^\w.@-]+", "_", part) for part in (*parts, *kind))


def luminance(colour: Any) -> float:
    """Relative luminance of a colour by WCAG 2, from 0 (black) to 1: what a grey print shows."""
    from matplotlib.colors import to_rgb

    channels = np.array(to_rgb(colour))
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


# -- room


def new_figure(
    look: FigureStyle, rows: int = 1, columns: int = 1, **shared: bool
) -> tuple[Any, Any]:
    """A figure of the look's width, and its axes; `finish` gives it its height."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(look.inches, ROOMY))
    return figure, figure.subplots(rows, columns, **shared)


def over_turns(axes: Any, lengths: Sequence[int]) -> None:
    """History length on x to scale, with ticks at whole turns; at the lengths alone if some
    between them are not there.

    Of ticks that stand too close together only the first has a number.
    """
    axes.set_xlabel(TURNS)
    if is_every(lengths):
        axes.locator_params(axis="x", integer=True, min_n_ticks=1)
        return
    names, last = [], -max(lengths)
    for h in lengths:
        apart = h - last >= max(lengths) * CLOSEST
        names.append(str(h) if apart else "")
        last = h if apart else last
    axes.set_xticks(lengths, names)


def down_turns(axes: Any, lengths: Sequence[int]) -> None:
    """History length on y, where every length has a row of its own, numbered from 0."""
    axes.set_ylabel(TURNS)
    if is_every(lengths):
        axes.locator_params(axis="y", integer=True, min_n_ticks=1)
    else:
        axes.set_yticks(range(len(lengths)), list(map(str, lengths)))


def is_every(lengths: Sequence[int]) -> bool:
    """Is every history length up to the longest there?"""
    return list(lengths) == list(range(max(lengths) + 1))


def finish(figure: Any, look: FigureStyle, titles: Sequence[str], height: float) -> None:
    """Write the title unless in a paper, and make the panels, alike in size, `height` inches high.

    Called last, since all that stands around the panels must be there. The places are then fixed:
    to lay out the figure again for every file would take most of the time.
    """
    if not look.paper:
        figure.suptitle(
            "\n".join(wrap(line, look.inches - 0.3, "figure.titlesize") for line in titles)
        )
    panels = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    rows = panels[0].get_gridspec().nrows
    layout = figure.get_layout_engine()
    layout.execute(figure)
    now = panels[0].get_window_extent().height / figure.dpi
    figure.set_figheight(figure.get_figheight() + rows * (height - now))
    layout.execute(figure)
    figure.set_layout_engine("none")


def add_legend(
    figure: Any, axes: Any, look: FigureStyle, heading: str, notes: Sequence[str]
) -> None:
    """The lines of `axes` below the figure, with what marks mean unless that is in a caption."""
    handles, labels = axes.get_legend_handles_labels()
    room = look.inches - 0.2
    labels = [wrap(label, room - HANDLE) for label in labels]
    widest = max(text_inches(line) for label in labels for line in label.splitlines())
    columns = min(len(labels), max(1, int(room / (widest + HANDLE))))
    lines = [heading, *([] if look.paper else [wrap(note, room) for note in notes])]
    place = {"loc": "outside lower center", "alignment": "left", "ncols": columns}
    figure.legend(handles, labels, title="\n".join(lines), **place)


def text_inches(text: str, size: str = SMALL) -> float:
    """Width of a line of text of this size, a setting of the style sheet."""
    from matplotlib import rcParams
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=rcParams[size])
    return text_to_path.get_text_width_height_descent(text, font, ismath=False)[0] / POINTS


def wrap(text: str, inches: float, size: str = SMALL) -> str:
    """Text in lines of at most this width; a name that is too long breaks behind / . _ or -."""
    lines = [""]
    for word in unbroken(text).split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if text_inches(longer, size) <= inches:
            lines[-1] = longer
            continue
        lines.append("")
        for piece in re.split(r"(?<=[/._-])", word):
            if lines[-1] and text_inches(lines[-1] + piece, size) > inches:
                lines.append("")
            lines[-1] += piece
    return "\n".join(filter(None, lines)).replace("\N{NO-BREAK SPACE}", " ")


def as_sentences(parts: Iterable[str]) -> str:
    """A caption: each part with a capital at its beginning and a full stop."""
    sentences = (f"{part[:1].upper()}{part[1:].rstrip('.')}." for part in parts)
    return " ".join(sentences).replace("\N{NO-BREAK SPACE}", " ")


def unbroken(text: str) -> str:
    """Text of which no line ends within `n = 6` or `p < 0.05`."""
    return PAIR.sub(lambda pair: pair[0].replace(" ", "\N{NO-BREAK SPACE}"), text)


# -- files


def save_figures(
    figures: Iterable[NamedFigure],
    out_dir: str | Path,
    formats: Sequence[str] = FORMATS,
    captions: bool = False,
) -> Iterator[str]:
    """Write figures, with STEM.txt beside each where captions are asked for -> once it is written,
    each one's path with its endings: `plots/STEM.{pdf,png}`.

    A generator of them draws under the style sheet.
    """
    records.check_writable(out_dir)
    endings = [*dict.fromkeys(formats), *(["txt"] if captions else [])]
    written = f".{{{','.join(endings)}}}" if len(endings) > 1 else f".{endings[0]}"
    stems: set[str] = set()
    with sheet():
        for stem, figure, caption, *_ in figures:
            path = Path(out_dir, stem)
            if stem in stems:
                raise UserError(f"two figures would have the same name, {path}.")
            stems.add(stem)
            for ending in dict.fromkeys(formats):
                figure.savefig(f"{path}.{ending}", metadata=UNDATED.get(ending))
            if captions:
                Path(f"{path}.txt").write_text(f"{caption}\n", encoding="utf-8")
            yield f"{path}{written}"


def ink(place: float) -> str:
    """Black or white, whichever is read better on the colour at `place` in [-1, 1].

    Above a luminance of 0.179 black has the higher contrast, by WCAG 2.
    """
    from matplotlib import colormaps

    return "black" if luminance(colormaps[DIVERGING]((place + 1) / 2)) > 0.179 else "white"


def colour_of(place: int, count: int) -> tuple[float, ...]:
    """Colour of a history length by its place among so many, dark for h = 0; the pale end of the
    map is left out.
    """
    from matplotlib import colormaps

    return colormaps["viridis"](0.85 * place / max(1, count - 1))


def turns(h: int | str) -> str:
    """`1 turn`, `2 turns`."""
    return f"{h} turn{'' if int(h) == 1 else 's'}"
