"""Run the notebooks in order: `python -m helpers.series --profile demo --run demo`."""

import sys

from helpers.runs.series import main

if __name__ == "__main__":
    sys.exit(main())
