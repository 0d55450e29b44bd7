"""The packages that this one asks for, without the versions: what `make test-newest` lets the resolver choose.

python tools/unpinned.py cpu          # the dependencies, and those of the extra cpu, one a line
"""

import sys
from pathlib import Path

import tomllib
from packaging.requirements import Requirement


def names(project: dict, extras: list[str]) -> list[str]:
    """Names with their extras, in the order of the file.

    Raises:
        KeyError: for an extra that there is not.
    """
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    found = [Requirement(line) for line in lines]
    return list(dict.fromkeys(f"{one.name}[{','.join(sorted(one.extras))}]".replace("[]", "") for one in found))


if __name__ == "__main__":
    with open(Path(__file__).parents[1] / "pyproject.toml", "rb") as file:
        print(*names(tomllib.load(file)["project"], sys.argv[1:]), sep="\n")
