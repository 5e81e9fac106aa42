"""A translator as an ONNX file, for programs without PyTorch: text embeddings in, unit image-space vectors out."""

from __future__ import annotations

import contextlib
import copy
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from helpers.data.vectors import normalise
from helpers.errors import CheckpointError
from helpers.system.devices import exact_float32
from helpers.system.files import atomic_write
from helpers.system.libraries import library
from helpers.system.paths import absolute

INPUT, OUTPUT = "text_embedding", "image_embedding"
TOLERANCE = 1e-4
"""Between ONNX Runtime and PyTorch, of each number of a unit vector; measured are differences below 1e-6."""
LARGEST = 2e9
"""Bytes of weights: a file of Protocol Buffers ends at 2^31, and weights beside it would be a second file to lose."""


class UnitTranslation(nn.Module):
    """What the file computes: the model, then unit length."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, text_embedding: torch.Tensor) -> torch.Tensor:
        return normalise(self.model(text_embedding))  # (B, dx) -> (B, dy)


@exact_float32()
def export(path: str | Path, name: str, model: nn.Module, text_dim: int) -> Path:
    """Write an ONNX file, run it once, and compare; see `Translator.export_onnx`."""
    onnxruntime, _ = library("onnxruntime", "export"), library("onnxscript", "export")  # torch.onnx needs the second
    target = absolute(path)
    translation = UnitTranslation(copy.deepcopy(model).cpu().float()).eval()
    size = sum(tensor.numel() * 4 for tensor in translation.state_dict().values())
    if size > LARGEST:
        raise CheckpointError(f"{target}: {name} has {size / 1e9:.1f} GB of weights, and an ONNX file ends at 2 GB.")
    # Two rows: of one, the exporter would conclude that there is always one.
    example = torch.randn(2, text_dim, generator=torch.Generator().manual_seed(0))
    with _quiet():
        program = torch.onnx.export(
            translation,
            (example,),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes={INPUT: {0: torch.export.Dim("batch")}},
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    for node in (*proto.graph.node, *(node for function in proto.functions for node in function.node)):
        del node.metadata_props[:]  # where this machine keeps its sources
    proto.producer_name = "embedding-translation"
    described = {
        "model": name,
        "input": f"{INPUT}: float32 (batch, {text_dim}), as the text encoder gives it",
        "output": f"{OUTPUT}: float32 (batch, {translation(example).shape[1]}), unit length",
    }
    for key, value in described.items():
        proto.metadata_props.add(key=key, value=value)
    content = proto.SerializeToString()
    _require_equal(onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]), translation, example)
    try:
        atomic_write(target, lambda temporary: temporary.write_bytes(content))
    except OSError as error:
        remedy = "What was there before is intact. Free some space, or give a file that you can write."
        raise CheckpointError(f"{target}: cannot be written ({error.strerror or error}). {remedy}") from error
    return target


@torch.inference_mode()
def _require_equal(session: Any, translation: nn.Module, example: torch.Tensor) -> None:
    """What was written must say what PyTorch says, for one row and for several."""
    for rows in (example, example[:1]):
        found = session.run([OUTPUT], {INPUT: rows.numpy()})[0]
        difference = float(np.abs(found - translation(rows).numpy()).max())
        if not difference <= TOLERANCE:
            raise CheckpointError(f"ONNX Runtime differs from PyTorch by {difference:.1e}: nothing was written.")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of packages that nobody needs here, and of its own insides."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
