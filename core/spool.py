"""Bytes that are put away until they are asked for: in memory while they are few, then on disk."""

import contextlib
import tempfile
import weakref
from collections.abc import Iterator
from typing import NamedTuple

from core.errors import UserError

IN_MEMORY = 32 * 2**20  # bytes that are held before there is a file


class Place(NamedTuple):
    """Where something was put, and how long it is."""

    start: int
    length: int


class Spool:
    """A file without a name, which is gone with the last use of this.

    UserError where the disk does not take it.
    """

    def __init__(self) -> None:
        self.file = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115
        self.end = 0
        weakref.finalize(self, self.file.close)

    def put(self, content: bytes) -> Place:
        """Put bytes away."""
        place = Place(self.end, len(content))
        with _on_disk():
            self.file.seek(self.end)
            self.file.write(content)
        self.end += len(content)
        return place

    def get(self, place: Place) -> bytes:
        """What was put there."""
        with _on_disk():  # what waits to be written goes there before
            self.file.seek(place.start)
            return self.file.read(place.length)


@contextlib.contextmanager
def _on_disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot use a temporary file: {error.strerror or error}.\n"
            "Free some space, or set TMPDIR to a folder that has it."
        ) from error
