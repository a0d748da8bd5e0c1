"""The number that a text ends in, or none where it could be read in two ways.

English is the rule where the form alone does not tell: 1,234 has a group and 1.234 a decimal point.
Other forms are read where they are plain: 1.234,56 and 12,34,567, groups by thin spaces and by
apostrophes, 2.5e3, 1.5 * 10^3, 1/2, 3 1/2, -$5 and $-5, 5 million, digits of any script. A date,
a time, 3,5, 1 234 with a plain space, 5k, 2^5 and the 12 of B12 are not read.

No library fits: those for numbers in text know one locale or one price, and guess.
"""

from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple
from unicodedata import decimal, normalize

import regex

from measures.texts import INSIDE

Number = Decimal | Fraction

LARGEST_EXPONENT = 300  # beyond it nobody meant a number, and writing it out would fill the memory
MANY = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}  # powers of ten
MANY |= {"百": 2, "千": 3, "万": 4, "萬": 4, "亿": 8, "億": 8, "백": 2, "천": 3, "만": 4, "억": 8}
# Unit -> the words for it; two units that are here and differ cannot be compared
UNITS = {
    "%": "percent pct", "$": "usd dollar dollars", "€": "eur euro euros", "£": "gbp",
    "¥": "jpy yen",
    "¢": "cent cents", "mm": "millimeter millimeters millimetre millimetres",
    "cm": "centimeter centimeters centimetre centimetres", "m": "meter meters metre metres",
    "km": "kilometer kilometers kilometre kilometres", "mi": "mile miles", "ft": "foot feet",
    "inch": "inches", "mg": "milligram milligrams", "g": "gram grams", "oz": "ounce ounces",
    "kg": "kilogram kilograms kilo kilos", "ml": "milliliter milliliters millilitre millilitres",
    "l": "liter liters litre litres", "ms": "millisecond milliseconds",
    "s": "sec secs second seconds", "min": "mins minute minutes", "h": "hr hrs hour hours",
    "day": "days", "week": "weeks", "month": "months", "year": "years",
}  # fmt: skip
UNIT_OF = {word: unit for unit, words in UNITS.items() for word in (unit, *words.split())}

DOZEN = ("dozen", "dozens")  # as a number of things it has no one reading

# What is written in several ways -> the one way that NUMBER reads
REWRITTEN = [
    (r"[\p{Nd}--[0-9]]", lambda found: str(decimal(found[0]))),
    (r"(?<=\d)[\u066B\uFF0E](?=\d)", "."),
    (r"(?<=\d)\uFF0C(?=\d)", ","),
    (r"(?<=\d)[\u066C\u2019](?=\d)", "'"),
    (r"[\u2212\u2013\u2011\u2012\uFF0D\uFE63]", "-"),
    (r"\{,\}", ","),
    (r"(?<=\d)(?:\\,|[\u00A0\u2009\u202F])(?=\d{3}(?!\d))", "\u202f"),
    (r"\\,|[\u00A0\u2009]|\u202F(?!\d)", " "),
    (r"\\([$%])", r"\1"),
    (r"\\times|\\cdot|[\u00D7\u00B7]", "*"),
    (r"(?<=\b(?:[cmk]?m|ft|in))(?:\^[23]|[²³])", ""),  # of an area or a volume
    (r"(?<=\d)\\[dt]?frac\{(\d+)\}\{(\d+)\}", r" \1/\2"),
    (r"\\[dt]?frac\{(\d+)\}\{(\d+)\}", r"\1/\2"),
    (r"(?<=\d)(?=[¼-¾⅐-⅞])", " "),
    (r"[¼-¾⅐-⅞]", lambda found: normalize("NFKC", found[0]).replace("\u2044", "/")),
    (r"[⁺⁻]?[⁰¹²³⁴-⁹]+", lambda found: "^" + normalize("NFKC", found[0]).replace("\u2212", "-")),
    (r"(?<=\d)\*\*(?=-?\d)|\^\{(?=[-+]?\d+\})", "^"),
]
REWRITES = [(regex.compile(pattern, regex.V1), by) for pattern, by in REWRITTEN]

WORD_BEHIND = r"[百千万萬亿億백천만억]|\p{Sc}|%|\p{L}+"
DIGITS = r"\d+(?:\.\d+)?|(?<![\w.])\.\d+"
NUMBER = regex.compile(
    rf"""
    (?P<bullet> ^\ *-\ +(?=[\p{{Sc}}\d]) )?                  # an item of a list, or a minus
    (?P<sign> (?<![\w)\]}}])[-+] | (?<=[=:\#≈]\ *)-\ + )?     # behind a word it is none: 10-3
    (?: (?P<money>\p{{Sc}})\ ?(?P<minus>-)? )?
    (?:
      (?<!{INSIDE}|[\^√±])
      (?: (?:(?P<whole>\d{{1,18}})\ )?(?P<top>\d{{1,18}})/(?P<bottom>\d{{1,18}})
        | (?P<top>\d{{1,18}})\ /\ (?P<bottom>\d{{1,18}})
        | (?: (?P<times>{DIGITS})\ ?\*\ ?)? 10\^(?P<ten>[-+]?\d+)\}}?
        | (?P<commas> [1-9]\d{{0,2}}(?:,\d{{3}})+(?:\.\d+)? | [1-9]\d?(?:,\d\d)+,\d{{3}}(?:\.\d+)? )
        | (?P<points> [1-9]\d{{0,2}}(?:\.\d{{3}})+,\d+ | [1-9]\d{{0,2}}(?:\.\d{{3}}){{2,}} )
        | (?P<marks> [1-9]\d{{0,2}}(?P<mark>['_\u202f])\d{{3}}(?:(?P=mark)\d{{3}})*(?:[.,]\d+)? )
        | (?:\d\d?,){{2,}}(?P<digits>\d\d?)                    # 1,2,3 is a list
        | (?P<digits> (?:{DIGITS})(?:[eE][-+]?\d+)? )
      )
      (?! \d | [.,':/^_\u202f]\d | [eE^]\d | \^ | -\d+-\d | \ ?(?:π|\\pi) | (?:[kKMB]|bn|mn)\b
        | (?<=(?<![\d.,])\d{{1,3}})\ \d{{3}}(?!\d) )
    | (?P<unread> \d(?:[.,':/^_\u202f-]?\d)*(?:\ \d{{3}}(?!\d))* )
    )
    (?= (?P<behind> (?:[\ -]?(?:{WORD_BEHIND})){{0,3}} ) )
    """,
    regex.V1 | regex.VERBOSE | regex.MULTILINE,
)
BEHIND = regex.compile(WORD_BEHIND)
MARK = regex.compile(r"####\s*")


class Quantity(NamedTuple):
    """A number, and its unit where that is a known one."""

    value: Number
    unit: str | None

    def __str__(self) -> str:
        return f"{self.value:f}" if isinstance(self.value, Decimal) else str(self.value)

    def comparable(self, other: "Quantity") -> bool:
        """False where both have units, and different ones."""
        return self.unit == other.unit or None in (self.unit, other.unit)


def find_quantity(text: str) -> Quantity | None:
    """The number behind the last `####` that has one, or else the last of a text.

    None without any, and where it could be read in two ways.
    """
    for pattern, by in REWRITES:
        text = pattern.sub(by, text)
    marked = [NUMBER.match(text, mark.end()) for mark in MARK.finditer(text)]
    found = [number for number in marked if number] or list(NUMBER.finditer(text))
    return _quantity(found[-1]) if found else None


def _quantity(found: regex.Match) -> Quantity | None:
    words = BEHIND.findall(found["behind"])
    powers = 0
    while words and words[0].lower() in MANY:
        powers += MANY[words.pop(0).lower()]
    value = None if words and words[0].lower() in DOZEN else _value(found, powers)
    if value is None:
        return None
    if "-" in f"{found['sign'] or ''}{found['minus'] or ''}":
        value = value.copy_negate() if isinstance(value, Decimal) else -value
    unit = found["money"] or (words[0] if words else "")
    return Quantity(value, UNIT_OF.get(unit.lower()) or found["money"])


def _value(found: regex.Match, powers: int) -> Number | None:
    """The number without its sign, times a power of ten; None where it is not read."""
    if found["unread"] or found["bullet"]:
        return None
    if found["top"]:
        top, bottom = int(found["top"]), int(found["bottom"])
        return (int(found["whole"] or 0) + Fraction(top, bottom)) * 10**powers if bottom else None
    if found["ten"]:
        return _decimal(found["times"] or "1", powers + int(found["ten"][:9]))
    if found["points"]:
        return _decimal(found["points"].replace(".", "").replace(",", "."), powers)
    if found["marks"]:
        return _decimal(regex.sub("['_\u202f]", "", found["marks"]).replace(",", "."), powers)
    digits, _, exponent = (found["commas"] or found["digits"]).lower().partition("e")
    return _decimal(digits.replace(",", ""), powers + int(exponent[:9] or 0))


def _decimal(digits: str, power: int) -> Decimal | None:
    return Decimal(f"{digits}e{power}") if abs(power) <= LARGEST_EXPONENT else None
