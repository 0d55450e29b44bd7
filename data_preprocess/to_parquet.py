"""`cinema-verl to-parquet` from a checkout: see `python data_preprocess/to_parquet.py --help`."""

from cinema_verl.prepare.commands.to_parquet import main

if __name__ == "__main__":
    raise SystemExit(main())
