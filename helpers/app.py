"""A page in your browser that finds a run's pictures by words: `python -m helpers.app demo --open`."""

import sys

from helpers.runs.app import main

if __name__ == "__main__":
    sys.exit(main())
