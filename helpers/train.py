"""Train one model of a run: `torchrun --nproc-per-node=4 -m helpers.train RUN --model bigjump`."""

from helpers.runs.one_model import main
from helpers.system.processes import leave

if __name__ == "__main__":
    leave(main())
