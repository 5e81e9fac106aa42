"""The rows of the leaderboard: what each is called, of which kind it is, and how its model is built and used.

A new model is a row here and, where no class of `networks` will do, a class there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from helpers.errors import ConfigError
from helpers.models.kernel import KernelMap
from helpers.models.networks import MLP, Blend, EnsembleMLP, GeomLinear, GeomWithAdapter


@dataclass(frozen=True)
class Shape:
    """What an architecture may depend on; each reads what it needs.

    Attributes:
        text_dim, image_dim: widths of input and output.
        hidden: width of the hidden layers. dropout: after each of them.
        networks: `hidden`, `members`, `whitening` and `blocks` of each part of the ensemble that is
            `networks.EnsembleMLP`, by its name; None for one network.
        rank: directions in which they write; all dimensions where None.
        landmarks: of `kernel.KernelMap`.
        weights: of all parts of the ensemble, `kernel` and `cca` among them; None for networks alone, alike.
    """

    text_dim: int
    image_dim: int
    hidden: int = 1024
    dropout: float = 0.1
    networks: Mapping[str, Mapping[str, Any]] | None = None
    rank: int | None = None
    landmarks: int = 1
    weights: Mapping[str, float] | None = None


Kind = Literal["chance", "closed form", "baseline", "contrastive"]


@dataclass(frozen=True)
class Row:
    """A row of the leaderboard.

    Attributes:
        label: its name in figures and text.
        kind: chance, a closed form, a regression baseline (the same loss trains them all), or a contrastive model.
        build: makes the untrained model; None for chance, which has none.
    """

    label: str
    kind: Kind
    build: Callable[[Shape], nn.Module] | None


def _affine(shape: Shape) -> nn.Module:
    return GeomLinear(shape.text_dim, shape.image_dim)


def _mlp(depth: int) -> Callable[[Shape], nn.Module]:
    return lambda shape: MLP(shape.text_dim, shape.image_dim, (shape.hidden,) * depth, shape.dropout)


def _with_adapter(shape: Shape) -> nn.Module:
    return GeomWithAdapter(shape.text_dim, shape.image_dim, shape.hidden, shape.dropout)


def _kernel(shape: Shape) -> nn.Module:
    return KernelMap(shape.text_dim, shape.image_dim, shape.landmarks)


def _networks(shape: Shape, of_kind: Mapping[str, Any]) -> nn.Module:
    given = {"hidden": shape.hidden, "members": 1, "whitening": 0.0, "blocks": 0} | dict(of_kind)
    rank = shape.image_dim if shape.rank is None else shape.rank
    return EnsembleMLP(shape.text_dim, shape.image_dim, dropout=shape.dropout, rank=rank, **given)


CLOSED_FORMS: Mapping[str, Callable[[Shape], nn.Module]] = MappingProxyType({"kernel": _kernel, "cca": _affine})
"""What may join the networks in the ensemble of the recipe plus."""


def _ensemble(shape: Shape) -> nn.Module:
    networks = {"networks": {}} if shape.networks is None else shape.networks
    weights = shape.weights or dict.fromkeys(networks, 1 / len(networks))
    parts = {
        name: _networks(shape, networks[name]) if name in networks else CLOSED_FORMS[name](shape) for name in weights
    }
    return Blend(parts, weights)


ROWS: Mapping[str, Row] = MappingProxyType(
    {
        "chance": Row("Chance", "chance", None),
        "least_squares": Row("Least squares", "closed form", _affine),
        "procrustes": Row("Whitened Procrustes", "closed form", _affine),
        "cca": Row("Weighted CCA", "closed form", _affine),
        "kernel": Row("Kernel CCA", "closed form", _kernel),
        "linear": Row("LinearProj", "baseline", _mlp(0)),
        "mlp1": Row("MLP1", "baseline", _mlp(1)),
        "mlp2": Row("MLP2", "baseline", _mlp(2)),
        "bigjump": Row("BigJump", "contrastive", _with_adapter),
        "bigjump_plus": Row("BigJump plus", "contrastive", _ensemble),
    }
)
"""The leaderboard by the names of its rows, in the order in which the notebooks introduce them."""
MODEL_ROWS = tuple(ROWS)
BASELINES = tuple(name for name, row in ROWS.items() if row.kind == "baseline")


def build_model(name: str, text_dim: int, image_dim: int, **shape: Any) -> nn.Module:
    """The untrained model of a leaderboard row.

    Args:
        shape: what else `Shape` has; its defaults where left out.

    Raises:
        ConfigError: no row is called `name`, or it has no model.
        TypeError: `Shape` has no such argument.
    """
    row = ROWS.get(name)
    if row is None or row.build is None:
        raise ConfigError(f"No model is called {name!r}.")
    return row.build(Shape(text_dim, image_dim, **shape))


@torch.inference_mode()
def predict(model: nn.Module, text: np.ndarray, rows: np.ndarray | None = None, block: int = 8192) -> np.ndarray:
    """Translate rows of `text` (N, dx) to (n, dy) float32 on the model's device, in blocks, without dropout.

    Args:
        rows: indices to translate; all rows where None.
    """
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    rows = np.arange(len(text)) if rows is None else rows
    out = [
        model(torch.from_numpy(np.asarray(text[rows[lo : lo + block]], dtype=np.float32)).to(device)).float().cpu()
        for lo in range(0, len(rows), block)
    ]
    model.train(training)
    return torch.cat(out).numpy()
