"""OmegaConf resolvers that recipes may use."""

from pathlib import Path

from omegaconf import OmegaConf

PACKAGE = Path(__file__).parents[1]


def package_path(relative: str) -> str:
    """`${cinema_package:demo/digits_cold_start}`: absolute path of a file or folder that ships in this package.

    Raises:
        FileNotFoundError: if there is none.
    """
    path = PACKAGE / relative
    if not path.exists():
        raise FileNotFoundError(f"cinema-verl ships no {relative} (looked at {path})")
    return str(path)


# A process may import this twice under Ray's module shipping; the same function registered again is no conflict.
OmegaConf.register_new_resolver("cinema_package", package_path, replace=True)
