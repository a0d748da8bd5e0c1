"""The command line: what is no flag is said first, with the one that was meant."""

import argparse
import re
import sys
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from core.errors import did_you_mean

NUMBER = re.compile(r"-[0-9.].*")


class Parser(argparse.ArgumentParser):
    """A command line whose flags are written in full; ends the program with status 2 on others."""

    def __init__(self, **settings: Any):
        super().__init__(allow_abbrev=False, **settings)

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        """As argparse does it, which would speak of required flags first."""
        words = list(sys.argv[1:] if args is None else args)
        own = words[:1] if self._subparsers else list(takewhile(lambda word: word != "--", words))
        for place, word in enumerate(own):
            if self._is_unknown(word):
                values = takewhile(lambda each: not is_flag(each), words[place + 1 :])
                self.error(self._say_unknown([word, *values]))
        return super().parse_known_args(words, namespace)

    def _is_unknown(self, word: str) -> bool:
        return is_flag(word) and word.partition("=")[0] not in self._option_string_actions

    def _say_unknown(self, words: Sequence[str]) -> str:
        meant = did_you_mean(words[0].partition("=")[0], self._option_string_actions)
        more = " The command comes first." if self._subparsers else ""
        return f"unrecognized arguments: {' '.join(words)}.{meant}{more} --help lists all flags."


def is_flag(word: str) -> bool:
    """Does argparse take a word for a flag, not for a value?"""
    return len(word) > 1 and word[0] == "-" and " " not in word and not NUMBER.fullmatch(word)
