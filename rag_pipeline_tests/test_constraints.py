"""The pins that `make constraints` writes: complete, with hashes, and within the ranges of pyproject.toml."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def pins(file: str) -> list[str]:
    """Return the requirements of a file, each on one line with its hashes."""
    text = (ROOT / file).read_text("utf-8").replace("\\\n", "")
    return [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]


def test_every_pin_of_an_installation_has_hashes() -> None:
    assert [
        line for line in pins("constraints.txt") if not re.search(r"==.*--hash=sha256:[0-9a-f]{64}", line)
    ] == []


@pytest.mark.parametrize(
    ("file", "extra"),
    [
        ("constraints.txt", "dev"),
        ("constraints.txt", "kubernetes"),
        ("constraints-bge-m3.txt", "bge-m3"),
        ("constraints-ray.txt", "ray"),
    ],
)
def test_every_dependency_is_pinned_within_its_range(file: str, extra: str) -> None:
    pinned = [Requirement(line.split(" --hash")[0].strip()) for line in pins(file)]
    for text in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"][extra]]:
        wanted = Requirement(text)
        versions = [one for one in pinned if one.name.lower() == wanted.name.lower()]
        assert versions, f"{wanted.name} is not in {file}: run `make constraints`"
        for one in versions:
            (version,) = one.specifier
            assert wanted.specifier.contains(version.version), f"{one} is not {wanted}: run `make constraints`"
            assert wanted.extras <= one.extras or file != "constraints.txt"
