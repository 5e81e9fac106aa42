"""From a picture to what a network sees, by Pillow and torch alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}


@dataclass(frozen=True)
class Preprocessing:
    """The central square of a picture, scaled to `size`, and normalised.

    Attributes:
        size: pixels of the side that the network sees.
        crop: the square's side as a share of the picture's shorter side; 0.875 is that of ImageNet's evaluation,
            224 of 256.
        interpolation: one of `FILTERS`; Pillow's, so it averages over what it leaves out.
        mean, std: of each channel, for values from 0 to 1.
    """

    size: int
    crop: float
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def pixels(self, picture: Image.Image) -> torch.Tensor:
        """(3, size, size) uint8 of an RGB picture: crop and scaling in one step, so no other size is ever made."""
        side = self.crop * min(picture.size)
        left, top = (picture.width - side) / 2, (picture.height - side) / 2
        box = (left, top, left + side, top + side)
        scaled = picture.resize((self.size, self.size), FILTERS[self.interpolation], box=box)
        return torch.from_numpy(np.array(scaled)).permute(2, 0, 1)

    def normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, size, size) float32 of uint8, on its device."""
        mean, std = (torch.tensor(v, device=pixels.device).view(3, 1, 1) for v in (self.mean, self.std))
        return (pixels.float() / 255 - mean) / std

    def describe(self) -> dict[str, Any]:
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Preprocessing:
        """From a timm model's data configuration."""
        mean, std = tuple(config["mean"]), tuple(config["std"])
        return cls(int(config["input_size"][-1]), float(config["crop_pct"]), config["interpolation"], mean, std)
