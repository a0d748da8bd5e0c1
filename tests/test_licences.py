"""Claims about docs/licences.md: it lists what the requirements pin, as the packages say it."""

import re
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FAMILIES = {"Apache": "apache", "MIT": "mit", "BSD": "bsd", "MPL": "mpl", "PSF": "python software"}
ROW = re.compile(r"\| ([\w-]+) \| ([\w.]+) \| (.+) \|")
PIN = re.compile(r"([\w-]+)(?:\[.*\])?==(.+)")


def pinned() -> dict[str, str]:
    """Package -> version of both files of requirements."""
    files = [ROOT / name for name in ("requirements.txt", "requirements-dev.txt")]
    return dict(found for file in files for found in PIN.findall(file.read_text()))


LISTED = {name: (version, licence) for name, version, licence in
          ROW.findall((ROOT / "docs" / "licences.md").read_text(encoding="utf-8"))
          if name != "package"}  # fmt: skip


def test_every_requirement_is_listed_at_its_version_and_nothing_else():
    assert {name: version for name, (version, _) in LISTED.items()} == pinned()


@pytest.mark.parametrize("name", LISTED)
def test_the_licence_is_what_the_package_says(name):
    try:
        said = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        pytest.skip("not installed")
    fields = ("License-Expression", "License", "Classifier")
    text = " ".join(part for field in fields for part in said.get_all(field) or ()).lower()
    licence = LISTED[name][1]
    family = next(family for family in FAMILIES if licence.startswith(family))
    assert FAMILIES[family] in text
