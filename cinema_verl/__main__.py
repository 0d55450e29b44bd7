"""`python -m cinema_verl`: the same as the console script `cinema-verl`."""

import sys

from cinema_verl.cli import main

if __name__ == "__main__":
    sys.exit(main())
