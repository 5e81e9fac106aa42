"""Encode pictures and captions: `python -m helpers.encode --images photos --captions captions.txt --out data/mine`."""

import sys

from helpers.encoders.command import main

if __name__ == "__main__":
    sys.exit(main())
