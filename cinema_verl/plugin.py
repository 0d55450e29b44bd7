"""Where verl finds CINEMA: importing this module registers everything (`cinema_verl.registration.hooks`).

`import verl` loads the entry points of the group `verl.plugins` in every process: the driver, each Ray worker, each
torchrun rank. It only logs what they raise, at DEBUG (`verl/__init__.py`), and a run without its plugin would train
verl's defaults. So a failure is printed in full here and ends the process.
"""

import sys
import traceback

from cinema_verl import __version__

try:
    from cinema_verl.registration.hooks import install

    install()
except Exception as error:
    traceback.print_exc(file=sys.stderr)
    # SystemExit is not an Exception: verl does not catch it, and Ray carries its text from a worker to the driver.
    raise SystemExit(
        f"\ncinema-verl {__version__} could not be loaded into verl, and a run without it would train something else.\n"
        f"  cause:    {type(error).__name__}: {error}\n"
        f"  to see more:                     cinema-verl doctor\n"
        f"  to run verl without cinema-verl: VERL_USE_EXTERNAL_PLUGINS=none"
    ) from None
