"""What a refusal looks like: one or two plain lines and status 2, and no file changed."""

import contextlib
import io
import json
from pathlib import Path

from core.errors import UserError


def assert_plain(said):
    """These are one or two lines of an error that a user is meant to see."""
    assert said.startswith("error: ")
    assert 1 <= len(said.splitlines()) <= 2
    assert "Traceback" not in said and "\x1b" not in said


def call(main, *flags):
    """Status and standard error of a command, run here; status 2 goes with a plain message."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()) as said,
    ):
        status = main([str(flag) for flag in flags])
    if status == 2:
        assert_plain(said.getvalue())
    return status, said.getvalue()


def right_or_refused(work):
    """What the work gives, or None where it is refused in one or two plain lines."""
    try:
        return work()
    except UserError as error:
        assert_plain(f"error: {error}")
        return None


def contents(folder):
    """Every file below a folder with its bytes."""
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


@contextlib.contextmanager
def unchanged(folder):
    """No file in the folder is other than it was, and none is new."""
    before = contents(folder)
    yield
    assert contents(folder) == before


def edit_json(path, **values):
    """Change some values of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
