"""Texts as they are compared: words of any script, in Unicode's normal form C.

In scripts that are written without spaces a character, with the marks on it, stands for a word.
"""

import string
from unicodedata import normalize

import regex

SCRIPTS = ("Han", "Hiragana", "Katakana", "Bopomofo", "Thai", "Lao", "Khmer", "Myanmar", "Tibetan")
UNSPACED = "[" + "".join(rf"\p{{{name}}}" for name in SCRIPTS) + "\u30fc]"  # with the long sound
UNSPACED_WORD = rf"[{UNSPACED}&&[\p{{L}}\p{{N}}]]\p{{M}}*"
SPACED = rf"[[\p{{L}}\p{{M}}\p{{N}}\u200C\u200D]--{UNSPACED}]+"  # with the joiners inside words
SYMBOL = r"[\p{So}--\p{ASCII}]"  # emoji among them
WORD = regex.compile(rf"{UNSPACED_WORD}|{SPACED}|{SYMBOL}", regex.V1)
PIECE = regex.compile(rf"{UNSPACED_WORD}|[^{UNSPACED[1:-1]}]+|.", regex.V1)
IS_UNSPACED = regex.compile(UNSPACED, regex.V1)
INSIDE = rf"[\w--{UNSPACED}]"  # a letter, mark, digit or _ that goes on with a word
PUNCTUATION = regex.compile(rf"[\p{{P}}{regex.escape(string.punctuation)}]", regex.V1)
ARTICLES = regex.compile(r"\b(?:a|an|the)\b")


class RougeWords:
    """ROUGE's tokenizer: words in lower case, on ASCII what rouge_score's own gives."""

    def tokenize(self, text: str) -> list[str]:
        """The words of a text, in order."""
        return WORD.findall(normalize("NFC", text).lower())


def bare(text: str) -> str:
    """A text in normal form C without the space around it."""
    return normalize("NFC", text).strip()


def normalised_words(text: str) -> list[str]:
    """Words as SQuAD compares them: lower case, without punctuation of any script and articles."""
    return ARTICLES.sub(" ", PUNCTUATION.sub("", normalize("NFC", text).lower())).split()


def pieces(words: list[str]) -> list[str]:
    """The same words, those of scripts without spaces by their characters."""
    return [piece for word in words for piece in PIECE.findall(word)]


def label_pattern(label: str, any_case: bool) -> regex.Pattern:
    """What finds a label in a text as a word of its own.

    In a script without spaces it needs no border, and such a script is a border for others. A plus
    or hash behind it makes it another word, as C++ is not C.
    """
    label = bare(label)
    before = "" if IS_UNSPACED.match(label[0]) else rf"(?<!{INSIDE})"
    behind = "" if IS_UNSPACED.match(label[-1]) else rf"(?!{INSIDE}|[+#])"
    case = regex.IGNORECASE if any_case else 0
    return regex.compile(f"{before}{regex.escape(label)}{behind}", regex.V1 | case)
