"""How CINEMA gets into verl and Hydra: hooks, recipes' search path, the checked command line, the one guarded patch."""
