"""Settings of the notebooks' regression check, and how the suite is shared out over processes and threads."""

import os
import shutil
import tempfile

import pytest

# Before torch or a kernel starts: two threads are what the suite is timed on. Results do not depend on the number.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("TQDM_DISABLE", "1")
# The committed outputs are of a CPU; a GPU draws other dropout masks, so digits differ by more than rounding there.
os.environ.setdefault("HELPERS_DEVICE", "cpu")


def pytest_configure(config):
    """One thread for each process of `-n 2` (the notebooks' kernels, which run last, have two), and one runs folder.

    The suite makes artefacts of its own and leaves those under runs/ alone. Processes of `-n` and kernels inherit the
    folder; who made it removes it.
    """
    if "HELPERS_RUNS_DIR" not in os.environ:
        os.environ["HELPERS_RUNS_DIR"] = tempfile.mkdtemp(prefix="helpers-runs-")
        config.add_cleanup(lambda: shutil.rmtree(os.environ.pop("HELPERS_RUNS_DIR"), ignore_errors=True))
    if "PYTEST_XDIST_WORKER" in os.environ:
        import torch

        torch.set_num_threads(1)


def pytest_collectstart(collector):
    """Messages on stderr are for the reader: they depend on what was there before, so nbval must not compare them."""
    if collector.__class__.__name__ == "IPyNbFile":
        collector.skip_compare = (*collector.skip_compare, "stderr", "image/png")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With `-n`: a file's tests in one process, and the notebooks, each of which builds on the last, in one as well."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return "notebooks" if nodeid.startswith("notebooks/") else nodeid.partition("::")[0]

    config.option.loadscopereorder = False  # the notebooks, which take longest, have both cores to themselves
    return ByFile(config, log)
