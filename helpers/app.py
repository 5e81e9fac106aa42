"""A local page to search a run's pictures by words: `python -m helpers.app demo --open`."""

import sys

from helpers.serving.app.main import main

if __name__ == "__main__":
    sys.exit(main())
