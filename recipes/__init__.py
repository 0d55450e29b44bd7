"""The Hydra search-path root: `recipe/*.yaml` and the groups they choose from. Ships as `cinema_verl.recipes`."""
