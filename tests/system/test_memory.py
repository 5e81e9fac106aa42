"""Memory that a training keeps between its steps."""

import platform
import subprocess
import sys

import pytest
import torch

from helpers.system import memory

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
FRESH = """
import resource
import torch
from helpers.system import memory

BLOCK = 64 * 2**20

def page_faults(blocks=10):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(blocks):
        torch.ones(BLOCK // 4)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
"""


def in_a_fresh_process(code: str) -> None:
    """What earlier tests left free in this one's memory would serve any block."""
    done = subprocess.run([sys.executable, "-c", FRESH + code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@glibc
def test_freed_blocks_serve_the_next_ones():
    in_a_fresh_process("""
before = page_faults()
with memory.reused():
    page_faults()  # the heap grows to what is needed
    within = page_faults()
assert within < before / 2, (within, before)
""")


@pytest.mark.slow
@glibc
def test_what_was_kept_is_given_back_after_an_error_too():
    in_a_fresh_process("""
before = resident()
try:
    with memory.reused():
        block = torch.ones(BLOCK // 4)
        del block
        assert resident() > before + BLOCK / 2
        raise KeyError
except KeyError:
    pass
assert resident() < before + BLOCK / 2
""")


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: pytest.fail("a library was opened"))
    with memory.reused():
        assert torch.ones(3).sum() == 3
