"""What a run was made from and what it made, so that anyone can make it again and compare."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch

from helpers.data.pairs import CAPTIONS_FILE, ENCODERS_FILE, QUERY_FILE, TRAIN_FILE
from helpers.errors import CheckpointError
from helpers.runs.run import RUN_FILE
from helpers.system import paths
from helpers.system.devices import choose_device
from helpers.system.files import read_json, read_tensors, reading, write_json

MANIFEST = "manifest.json"
PACKAGES = ("torch", "numpy", "scipy", "safetensors", "papermill", "ipykernel")
TIMINGS = frozenset({"seconds", "cpu_ms_per_query", "gpu_ms_per_query"})
"""Keys whose values differ between two runs that are otherwise the same."""


def write_manifest(run_dir: Path, data_dir: Path, parameters: Mapping[str, Mapping[str, object]]) -> None:
    """Write `manifest.json` of a run.

    Args:
        run_dir: the run's folder, with its artefacts in place.
        data_dir: the folder that it read.
        parameters: those given to each notebook, by its name; a notebook that ran earlier keeps its entry, where the
            earlier manifest is readable.
    """
    try:
        earlier = read_manifest(run_dir)["parameters"]
    except CheckpointError:
        earlier = {}
    inputs = [data_dir / name for name in (TRAIN_FILE, CAPTIONS_FILE, QUERY_FILE, ENCODERS_FILE)]
    content = {
        "parameters": earlier | dict(parameters),
        "environment": environment(),
        "inputs": {path.name: _digest(path) for path in inputs if path.exists()},
        "artefacts": artefact_digests(run_dir),
        "near_duplicates": _near_duplicates(run_dir),
    }
    write_json(run_dir / MANIFEST, content)


def _near_duplicates(run_dir: Path) -> dict[str, int] | None:
    """How many groups of near-duplicates the run's split was made with; None where images were not grouped."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return read_json(run_dir / RUN_FILE).get("near_duplicates")
    return None


def read_manifest(run_dir: Path) -> dict[str, Any]:
    """The manifest of a run.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    path = run_dir / MANIFEST
    with reading(path, "damaged", "Run the series, which writes it at its end."):
        content = read_json(path)
        return {name: content[name] for name in ("parameters", "environment", "inputs", "artefacts")}


def environment() -> dict[str, object]:
    """What the bits of a result depend on beside data and parameters."""
    device = choose_device()
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in PACKAGES},
        "device": f"{device.type}: {name}",
        "threads": torch.get_num_threads(),
        "git": _git_revision(),
    }


def artefact_digests(run_dir: Path) -> dict[str, str]:
    """SHA-256 of the content of each artefact, by its path in the run's folder; timings are left out.

    Executed notebooks are no artefacts: they hold the time of day. Neither is `run.json`, which names the run, nor what
    begins with a dot: what a training keeps while it goes on, or a process that was killed while it wrote; nor what a
    search makes and can make again.
    """
    names = {path.relative_to(run_dir): path for path in sorted(run_dir.rglob("*"))}
    return {
        name.as_posix(): _digest(path)
        for name, path in names.items()
        if path.suffix in (".safetensors", ".json", ".csv")
        and path.name not in (MANIFEST, RUN_FILE)
        and not any(part.startswith(".") for part in name.parts)
        and name.parts[0] != "index"
    }


def differences(expected: Mapping[str, object], found: Mapping[str, object]) -> list[str]:
    """Names that only one of the two has, or whose values differ."""
    return sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))


def _digest(path: Path) -> str:
    """SHA-256 of a file's content without timings; of its bytes, where it is not what its name says."""
    if path.suffix in (".json", ".safetensors"):
        with contextlib.suppress(ValueError, LookupError, TypeError, safetensors.SafetensorError):
            tensors, metadata = ({}, read_json(path)) if path.suffix == ".json" else read_tensors(path)
            sha = hashlib.sha256()
            for name in sorted(tensors):
                values = tensors[name].numpy()
                sha.update(f"{name} {values.dtype} {values.shape}".encode() + values.tobytes())
            timeless = json.loads(json.dumps(metadata), object_hook=_without_timings)
            sha.update(json.dumps(timeless, sort_keys=True).encode())
            return sha.hexdigest()
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _without_timings(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in TIMINGS}


def _git_revision() -> str | None:
    """The commit, with `-dirty` where tracked files differ from it; None outside a repository."""
    command = ["git", "-C", str(paths.PROJECT_ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
