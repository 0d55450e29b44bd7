"""`make test-newest` asks for what the package asks for, without the versions."""

from pathlib import Path

import tomllib
import unpinned
from packaging.requirements import Requirement


def test_every_package_without_its_versions():
    with open(Path(__file__).parents[1] / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)["project"]
    found = [Requirement(line) for line in unpinned.names(project, ["cpu"])]
    asked = [Requirement(line) for line in (*project["dependencies"], *project["optional-dependencies"]["cpu"])]
    assert [(one.name, one.extras) for one in found] == [(one.name, one.extras) for one in asked]
    assert not any(str(one.specifier) for one in found)
