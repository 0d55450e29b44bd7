"""`cinema-verl decontaminate` from a checkout: see `python data_preprocess/decontaminate.py --help`."""

from cinema_verl.prepare.commands.decontaminate import main

if __name__ == "__main__":
    raise SystemExit(main())
