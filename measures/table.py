"""What aggregates need of many examples: numbers in columns, by history length.

A column holds a number, or a row of them, for each example. Many are put away on disk, so that
memory does not grow with them; what is taken out is one column of one length.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping
from hashlib import sha256
from typing import Any, NamedTuple
from unicodedata import normalize

import numpy as np

from core.debug_log import Example
from core.spool import Place, Spool
from measures.stats import find_clusters

BLOCK = 256  # examples whose numbers are put away together

Name = Hashable  # of a column
Reader = Callable[[Example], Iterable[tuple[Name, Any]]]  # the columns that an example has


class Group:
    """The columns of some examples, those of one history length."""

    def __init__(self, read: Reader, spool: Spool | None = None):
        self.read, self.n = read, 0
        self.spool = spool or Spool()
        self.order: list[int] | None = None  # in which examples are taken out
        self._counts: dict[Name, int] = {}
        self._waiting: dict[Name, list[Any]] = {}
        self._blocks: dict[Name, list[tuple[Place, tuple[int, ...]]]] = {}

    @classmethod
    def of(cls, examples: Iterable[Example], read: Reader) -> "Group":
        """The group of these examples."""
        group = cls(read)
        for example in examples:
            group.add(example)
        return group

    def add(self, example: Example) -> None:
        """Put the numbers of an example in; ValueError where a row has another length."""
        self.n += 1
        for name, value in self.read(example):
            self._counts[name] = self._counts.get(name, 0) + 1
            waiting = self._waiting.setdefault(name, [])
            waiting.append(value)
            if len(waiting) == BLOCK:
                self._put_away(name)

    def _put_away(self, name: Name) -> None:
        block = np.array(self._waiting.pop(name), dtype=float)  # null becomes NaN
        entry = (self.spool.put(block.tobytes()), block.shape)
        self._blocks.setdefault(name, []).append(entry)

    def has(self, name: Name) -> bool:
        """Has every example this column?"""
        return self.n > 0 and self._counts.get(name) == self.n

    def some(self, name: Name) -> bool:
        """Has any example this column?"""
        return name in self._counts

    def parts(self, *first: Name) -> dict[Name, np.ndarray]:
        """Columns whose names are tuples of these and one more name, by that."""
        names = [name for name in self._counts if isinstance(name, tuple) and name[:-1] == first]
        return {name[-1]: self.values(name) for name in names}

    def values(self, name: Name) -> np.ndarray:
        """A column that every example has, [N] or [N, K]; KeyError where one has not."""
        if not self.has(name):
            raise KeyError(name)
        if name in self._waiting:
            self._put_away(name)
        found = np.concatenate([self._block(*place) for place in self._blocks[name]])
        return found if self.order is None else found[self.order]

    def _block(self, place: Place, shape: tuple[int, ...]) -> np.ndarray:
        return np.frombuffer(self.spool.get(place)).reshape(shape)


ByLen = Mapping[str, Group]  # history length -> its examples, in one order of targets


def all_have(by_len: ByLen, name: Name) -> bool:
    """Has every example of every length this column?"""
    return all(group.has(name) for group in by_len.values())


# -- what belongs together

Identity = tuple[int, int]


class Names(NamedTuple):
    """What examples share: names that are equal for equal things."""

    target: Hashable  # its cluster: the value of the task's column, or else the question
    history: Hashable
    question: Hashable  # the prompt at h = 0, which is the target's own

    @classmethod
    def of(cls, example: Example) -> "Names":
        """The names of an example at h = 0."""
        question = _question(example)
        return cls(example["config"].get("cluster", question), history_name(example), question)


def identity(example: Example) -> Identity:
    """Target and seed: what makes examples of two history lengths a pair."""
    return example["config"]["target_idx"], example["config"].get("seed", 0)


def history_name(example: Example) -> tuple[Any, ...]:
    """What tells an example's history from others': seed and number, or seed and target."""
    target, seed = identity(example)
    number = example["config"].get("history_number")
    return (seed, target, None) if number is None else (seed, None, number)


def _question(example: Example) -> Hashable:
    """A digest of the prompt as prompts are compared; examples made by hand may have none."""
    text = example.get("prompt_text")
    if text is None:
        return example["config"]["target_idx"]
    return sha256(normalize("NFC", text).encode()).digest()


# -- the examples of a pair


class Table:
    """Examples of one pair, put in one by one in any order."""

    def __init__(self, read: Reader):
        self.read = read
        self.spool = Spool()
        self.groups: dict[int, Group] = {}
        self.identities: dict[int, list[Identity]] = {}  # of each length, as put in
        self.names: dict[Identity, Names] = {}

    def add(self, example: Example) -> None:
        """Put an example in."""
        h = example["config"]["history_len"]
        if h not in self.groups:
            self.groups[h], self.identities[h] = Group(self.read, self.spool), []
        self.identities[h].append(identity(example))
        self.groups[h].add(example)
        if not h:
            self.names[identity(example)] = Names.of(example)

    def by_length(self) -> dict[str, Group]:
        """Groups in the order of the lengths, each in the order of the targets, so that lengths can
        be paired.

        Raises ValueError unless they are the same targets, each once under a seed, at every h.
        """
        lengths = sorted(self.groups)
        if 0 not in lengths:
            raise ValueError("there are no examples at h = 0")
        for h, targets in self.identities.items():
            self.groups[h].order = sorted(range(len(targets)), key=targets.__getitem__)
        first, *others = [sorted(self.identities[h]) for h in lengths]
        if any(row != first for row in others):
            raise ValueError("the examples are not the same targets at every history length")
        if len(set(first)) < len(first):
            raise ValueError("a target is there twice at one history length under one seed")
        return {str(h): self.groups[h] for h in lengths}

    def in_order(self) -> list[tuple[Identity, Names]]:
        """Every target with its names, in the order of the groups.

        Where a column parts targets of one question, all of their clusters have one name.
        """
        shared, names = zip(*sorted(self.names.items(), key=lambda entry: entry[0]))
        if all(each.target == each.question for each in names):
            return list(zip(shared, names))
        parts = find_clusters([n.target for n in names], [n.question for n in names]).of.tolist()
        first = dict(zip(reversed(parts), reversed(names)))
        return [(one, n._replace(target=first[part].target))
                for one, n, part in zip(shared, names, parts)]  # fmt: skip
