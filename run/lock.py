"""The lock of an out_dir: one run at a time writes there."""

import contextlib
import os
import platform
import warnings
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

from core.errors import UserError
from core.records import check_writable

LOCK = ".lock"  # in an out_dir, while a run writes there


@contextlib.contextmanager
def claimed(out_dir: str | Path) -> Iterator[None]:
    """Within this context no other process can claim the folder; UserError where one has.

    A missing folder is made, and removed again if nothing was written into it.
    """
    folder = Path(out_dir).absolute()
    made = [path for path in (folder, *folder.parents) if not os.path.exists(path)]
    check_writable(folder)
    lock = folder / LOCK
    holder = FileLock(lock, timeout=0)
    try:
        with warnings.catch_warnings(action="ignore"):  # of a file system without locks
            holder.acquire()
    except Timeout as error:
        raise UserError(
            f"--out_dir {out_dir} is in use by {_said_in(lock)}.\n"
            f"Use another --out_dir or wait. If that run is certainly over, delete {lock}."
        ) from error
    except OSError as error:
        raise UserError(f"cannot lock {lock}: {error.strerror}.") from error
    # Where there are no locks, the file itself is one: filelock writes it, and takes it away.
    native = not isinstance(holder, SoftFileLock)
    try:
        if native:
            with contextlib.suppress(OSError):  # on a full disk the lock holds without a name
                lock.write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
        yield
    finally:
        if native:
            with contextlib.suppress(OSError):
                lock.unlink()
        holder.release()
        with contextlib.suppress(OSError):  # where there is something in it
            for path in made:
                path.rmdir()


def _said_in(lock: Path) -> str:
    """Who holds a lock, as far as that can be read."""
    try:
        return lock.read_text(encoding="utf-8") or "another process"
    except (OSError, ValueError):
        return "another process"
