"""Settings of the notebooks' regression check, and threads for every test."""

import os
import tempfile

# Before torch or a kernel starts: two threads are what the suite is timed on. Results do not depend on the number.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("TQDM_DISABLE", "1")
# The suite makes artefacts of its own and leaves those under runs/ alone.
os.environ.setdefault("HELPERS_RUNS_DIR", tempfile.mkdtemp(prefix="helpers-runs-"))


def pytest_collectstart(collector):
    """Messages on stderr are for the reader: they depend on what was there before, so nbval must not compare them."""
    if collector.__class__.__name__ == "IPyNbFile":
        collector.skip_compare = (*collector.skip_compare, "stderr", "image/png")
