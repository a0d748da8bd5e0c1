"""With what a run was made: the toolkit, its packages, the machine, and what that took."""

import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from core import VERSION

PACKAGES = (
    *("torch", "transformers", "tokenizers", "datasets"),
    *("rouge_score", "scipy", "statsmodels", "numpy"),
)


def provenance(started: float) -> dict[str, Any]:
    """With what a run that began at `started` (seconds since 1970) was made."""
    from importlib import metadata  # a twentieth of the time that --help takes

    changes = _git("status", "--porcelain")
    return toolkit() | {
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "git_dirty": None if changes is None else bool(changes),
        "platform": platform.platform(),
        "peak_memory_mib": peak_memory_mib(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(time.time() - started, 1),
    }


def toolkit() -> dict[str, str | None]:
    """Which state of the toolkit this is; no commit where there is no git or no checkout."""
    return {"version": VERSION, "git_commit": _git("rev-parse", "HEAD")}


def peak_memory_mib() -> int:
    """The most memory that this process has taken (MiB)."""
    unit = 2**20 if sys.platform == "darwin" else 2**10  # of ru_maxrss: bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit


def _git(*words: str) -> str | None:
    """What git says of this checkout; None where there is no git or no checkout."""
    command = ["git", "-C", str(Path(__file__).parent), *words]
    try:
        call = subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return None
    return call.stdout.strip() if call.returncode == 0 else None
