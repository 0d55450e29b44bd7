"""`cinema-verl mix` from a checkout: see `python data_preprocess/mix.py --help`."""

from cinema_verl.prepare.commands.mix import main

if __name__ == "__main__":
    raise SystemExit(main())
