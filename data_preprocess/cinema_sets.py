"""`cinema-verl sets` from a checkout: see `python data_preprocess/cinema_sets.py --help`."""

from cinema_verl.prepare.commands.sets import main

if __name__ == "__main__":
    raise SystemExit(main())
