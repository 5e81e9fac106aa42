"""What a run was made from and what it made, so that anyone can make it again and compare."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch

from helpers.data.pairs import CAPTIONS_FILE, QUERY_FILE, TRAIN_FILE
from helpers.errors import ConfigError
from helpers.system import paths
from helpers.system.devices import choose_device
from helpers.system.files import write_json

MANIFEST = "manifest.json"
PACKAGES = ("torch", "numpy", "scipy", "safetensors", "papermill", "ipykernel")
TIMINGS = frozenset({"seconds", "cpu_ms_per_query", "gpu_ms_per_query"})
"""Keys whose values differ between two runs that are otherwise the same."""
UNFINISHED = (".progress.safetensors", ".choice.json")
"""How the names of files end that a training keeps until its model is stored."""


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
    except ConfigError:
        earlier = {}
    inputs = [data_dir / name for name in (TRAIN_FILE, CAPTIONS_FILE, QUERY_FILE)]
    content = {
        "parameters": earlier | dict(parameters),
        "environment": environment(),
        "inputs": {path.name: _digest(path) for path in inputs if path.exists()},
        "artefacts": artefact_digests(run_dir),
    }
    write_json(run_dir / MANIFEST, content)


def read_manifest(run_dir: Path) -> dict[str, Any]:
    """The manifest of a run.

    Raises:
        ConfigError: there is none, or it is damaged.
    """
    path = run_dir / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {name: content[name] for name in ("parameters", "environment", "inputs", "artefacts")}
    except OSError:
        raise ConfigError(f"{path}: no such file. Run the series; it writes one at its end.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: damaged ({error}). Run the series again.") from error


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
    a training keeps while it goes on, nor what begins with a dot: a process that was killed while it wrote leaves such
    files, Jupyter such folders.
    """
    found = sorted(path for path in run_dir.rglob("*") if path.suffix in (".safetensors", ".json", ".csv"))
    names = {path.relative_to(run_dir): path for path in found}
    return {
        name.as_posix(): _digest(path)
        for name, path in names.items()
        if not any(part.startswith(".") for part in name.parts)
        and path.name not in (MANIFEST, "run.json")
        and not path.name.endswith(UNFINISHED)
    }


def changed(run_dir: Path, recorded: Mapping[str, str]) -> list[str]:
    """Artefacts of a run, with the digests that its manifest lists, that are gone or others now."""
    return [name for name in recorded if not (run_dir / name).exists() or _digest(run_dir / name) != recorded[name]]


def differences(expected: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """Names that only one of the two has, or whose digests differ."""
    return sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))


def _digest(path: Path) -> str:
    """SHA-256 of a file's content without timings; of its bytes, where it is not what its name says."""
    sha = hashlib.sha256()
    try:
        for part in _content(path):
            sha.update(part)
        return sha.hexdigest()
    except (ValueError, KeyError, safetensors.SafetensorError):
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def _content(path: Path) -> Iterator[bytes]:
    if path.suffix == ".json":
        yield _without_timings(path.read_text(encoding="utf-8"))
    elif path.suffix == ".safetensors":
        with safetensors.safe_open(path, framework="np") as file:
            for name in sorted(file.keys()):
                values = file.get_tensor(name)
                yield f"{name} {values.dtype} {values.shape}".encode() + values.tobytes()
            for text in (file.metadata() or {}).values():
                yield _without_timings(text)
    else:
        raise ValueError("bytes are its content")


def _without_timings(text: str) -> bytes:
    def drop(mapping: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in mapping.items() if key not in TIMINGS}

    return json.dumps(json.loads(text, object_hook=drop), sort_keys=True).encode()


def _git_revision() -> str | None:
    """The commit, with `-dirty` where tracked files differ from it; None outside a repository."""
    command = ["git", "-C", str(paths.PROJECT_ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
