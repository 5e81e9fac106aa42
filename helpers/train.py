"""Train one model of a run: `torchrun --nproc-per-node=4 -m helpers.train RUN --model bigjump`."""

import sys

from helpers.runs.one_model import main

if __name__ == "__main__":
    sys.exit(main())
