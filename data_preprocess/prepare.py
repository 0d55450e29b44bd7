"""`cinema-verl prepare` from a checkout: see `python data_preprocess/prepare.py --help`."""

from cinema_verl.prepare.commands.prepare import main

if __name__ == "__main__":
    raise SystemExit(main())
