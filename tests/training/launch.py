"""Start some processes as torchrun does, each of which runs one function of `in_processes`, and collect what they say.

python launch.py FUNCTION ARGUMENTS OUT      (in each of the processes)
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch


def start(count: int, function: str, out: Path, **arguments: Any) -> list[subprocess.Popen[str]]:
    """The processes, which have begun; each will leave OUT/RANK.pt."""
    out.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(count):
        of_rank = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        given = {**of_rank, "MASTER_ADDR": "localhost", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
        environment = os.environ | {name: str(value) for name, value in given.items()}
        command = [sys.executable, __file__, function, json.dumps(arguments), str(out)]
        started.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    return started


def answers(count: int, function: str, out: Path, **arguments: Any) -> list[Any]:
    """What the function returns in each of `count` processes."""
    started = start(count, function, out, **arguments)
    said = [process.communicate(timeout=120)[1] for process in started]
    assert not any(process.returncode for process in started), "\n".join(said)
    return [torch.load(out / f"{rank}.pt", weights_only=True) for rank in range(count)]


if __name__ == "__main__":
    from helpers.system import processes
    from helpers.system.console import run_command

    function, arguments, out = sys.argv[1:]
    torch.set_num_threads(1)
    of_tests = importlib.import_module("in_processes")

    def work() -> None:
        found = getattr(of_tests, function)(**json.loads(arguments))
        torch.save(found, Path(out) / f"{processes.rank()}.pt")

    processes.leave(run_command(lambda: processes.together(work)))
