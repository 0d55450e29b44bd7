"""The command lines of data preparation, one module for each subcommand of `cinema-verl`."""
