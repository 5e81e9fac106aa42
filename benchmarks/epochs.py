"""A whole training of BigJump, validation after every epoch included, and what share of it is matrix products.

`python -m benchmarks.epochs --size challenge --device cuda`. The data are random and on the device before the clock
starts. On the CPU, where the challenge's size takes hours, one epoch with the whole queue in use stands for a training.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import replace

import torch

from benchmarks import common
from benchmarks.step import Setting, matmul_lower_bound, random_data, settings_of
from helpers.data.training_data import TrainingData
from helpers.training.loop import train_bigjump
from helpers.training.objectives import BigJumpConfig

PRODUCTS = 50
"""Calls of the bare products that are timed in a row."""


def with_validation(data: TrainingData, size: common.Size) -> TrainingData:
    """The data with `size.queries` random captions of `size.gallery` random images to validate on."""
    generator = torch.Generator().manual_seed(1)
    images = 0.5 + torch.randn(size.gallery, size.image_dim, generator=generator)
    text = torch.randn(size.queries, size.text_dim, generator=generator)
    parts = (text, images, torch.arange(size.queries) % size.gallery)
    names = ("val_text", "val_images", "val_positive")
    return replace(data, **{name: part.to(data.device) for name, part in zip(names, parts, strict=True)})


def settings_for(size: common.Size, device: str) -> BigJumpConfig:
    """The published defaults at this size; on the CPU at the challenge's, one epoch with the whole queue."""
    if device == "cpu" and size == common.SIZES["challenge"]:
        return replace(settings_of(size), epochs=1, unfreeze_epoch=1)
    schedule = tuple(min(size.queue, entries) for entries in BigJumpConfig().queue_schedule)
    return replace(settings_of(size), queue_schedule=schedule)


def trained(size: common.Size, data: TrainingData, settings: BigJumpConfig) -> list[float]:
    """Seconds of each epoch of a training."""
    model = Setting(size, data, settings).model
    model.geometry.matrix.requires_grad_(False)
    return [entry["seconds"] for entry in train_bigjump(model, data, settings)]


def product_seconds(size: common.Size, data: TrainingData) -> float:
    """Of the bare products of one step against all images, which the first epochs need not score."""
    products = matmul_lower_bound(size, data, size.images)

    def several() -> None:
        for _ in range(PRODUCTS):
            products()

    seconds = common.interleaved({"products": several}, 3, data.device.type)["products"]
    return statistics.median(seconds) / PRODUCTS


def main() -> None:
    options = common.arguments(__doc__)
    size = common.SIZES[options.size]
    data = with_validation(random_data(size, options.device), size)
    settings = settings_for(size, options.device)
    trained(size, data, replace(settings, epochs=1))  # what a process does once: libraries, kernels, memory
    started = time.perf_counter()
    epochs = trained(size, data, settings)
    seconds = time.perf_counter() - started
    steps = len(epochs) * -(-size.captions // size.batch)
    products = product_seconds(size, data) * steps
    print(f"{len(epochs)} epochs, {steps} steps: {seconds:.2f} s, {products / seconds:.0%} of it matrix products")
    metadata = {"epochs": len(epochs), "steps": steps, "seconds": seconds, "epoch_seconds": epochs}
    common.save("epochs", options.size, options.device, {**metadata, "product_seconds": products})


if __name__ == "__main__":
    main()
