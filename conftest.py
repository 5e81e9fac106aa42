"""Settings of the notebooks' regression check, and how the suite is shared out over processes and threads."""

import os
import shutil
import sys
import tempfile

import pytest

# Before torch or a kernel starts: two threads are what the suite is timed on. Results do not depend on the number.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("TQDM_DISABLE", "1")
# The committed outputs are of a CPU; a GPU draws other dropout masks, so digits differ by more than rounding there.
os.environ.setdefault("HELPERS_DEVICE", "cpu")
# Makes a grammar as it is imported, three seconds a process, for a check of jsonschema's that no notebook needs.
sys.modules.setdefault("rfc3987_syntax", None)


def pytest_configure(config):
    """One thread for each process of `-n`, and one runs folder.

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


def pytest_collection_modifyitems(items):
    """What takes longest first, so that processes of `-n` end together: notebooks, files with slow tests, others."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path.suffix != ".ipynb", item.path not in slow))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With `-n`: a file's tests in one process, and the notebooks, each of which builds on the last, in one as well.

    Each process takes the next file as it ends one, in the order of the collection.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return "notebooks" if nodeid.startswith("notebooks/") else nodeid.partition("::")[0]

    config.option.loadscopereorder = False
    return ByFile(config, log)
