"""Find pictures by words: `python -m helpers.search RUN "two dogs on a beach"`."""

import sys

from helpers.runs.search import main

if __name__ == "__main__":
    sys.exit(main())
