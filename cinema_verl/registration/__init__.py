"""How CINEMA gets into verl and Hydra: hooks, search path, command line, moved modules, the one guarded patch."""
