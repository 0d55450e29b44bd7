"""Where Hydra finds `+recipe=cinema`, in wheel and editable installs, from any working directory."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

import cinema_verl.utils.resolvers  # noqa: F401  resolves the paths in composed recipes

PROVIDER = "cinema_verl"
RECIPES = "pkg://cinema_verl.recipes"


class CinemaSearchPath(SearchPathPlugin):
    """Append the recipes that ship inside this package (`hydra.plugins.search_path_plugin.SearchPathPlugin`).

    Hydra finds this class twice: in its scan of `hydra_plugins`, in every Hydra application, and through
    `cinema_verl.plugin` where verl is imported. It keeps one, and the path is appended once.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append(PROVIDER, RECIPES)
