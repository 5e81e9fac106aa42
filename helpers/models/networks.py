"""The networks that translate: MLPs, a fixed affine map, BigJump's affine map with a residual adapter, an ensemble.

A new one is a class here and a row in `build.ROWS`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from helpers.models import geometry
from helpers.models.geometry import GeometryConfig
from helpers.system import processes


class Standardise(nn.Module):
    """(x - mean) / std of each dimension, so that a learning rate means the same for every encoder.

    Encoders differ widely in scale (sentence embeddings of unit length, raw transformer means) and in offset, and a
    network on raw vectors trains faster or slower accordingly. Affine, so that it changes nothing that a closed form
    could express. Identity until `fit` is called.

    Attributes:
        mean, scale: (dx,) buffers, stored with the weights.
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))

    def fit(self, x: torch.Tensor) -> None:
        """Take mean and spread from training rows x (N, dx)."""
        self.mean.copy_(mean_of_all(x))
        self.scale.copy_(_inverse_spread(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) * self.scale  # (B, dx)


def mean_of_all(x: torch.Tensor) -> torch.Tensor:
    """(dx,) mean of rows x (N, dx) over the rows of all processes."""
    if processes.size() == 1:
        return x.mean(0)
    sums = processes.total_array(x.sum(0, dtype=torch.float64).cpu().numpy())
    return torch.from_numpy(sums / processes.total_number(len(x))).to(x)


def _inverse_spread(x: torch.Tensor) -> torch.Tensor:
    """(dx,) one over the standard deviation of rows x (N, dx).

    A dimension that hardly varies is not blown up: spreads count as at least a tenth of their median.
    """
    alone = processes.size() == 1
    std = x.std(0, correction=0) if alone else mean_of_all((x - mean_of_all(x)).square()).sqrt()
    varying = std[std > 0]
    floor = 0.1 * varying.median() if len(varying) else std.new_ones(())
    return 1 / std.clamp(min=floor)


class Whiten(Standardise):
    """Standardise after a partial whitening, x -> C^(-power/2) x, for encoders with a few dominant directions.

    Standardising tames single dimensions that dominate, but not directions across them.

    Attributes:
        matrix: C^(-power/2), (dx, dx), symmetric. A parameter that is never trained. Identity until `fit` is called.
    """

    EPS = GeometryConfig().eps

    def __init__(self, width: int, power: float) -> None:
        super().__init__(width)
        self.power = power
        self.matrix = nn.Parameter(torch.eye(width), requires_grad=False)

    @torch.no_grad()
    def fit(self, x: torch.Tensor) -> None:
        mean, cov = geometry.covariance(x.cpu().numpy())
        self.mean.copy_(torch.from_numpy(mean))
        self.matrix.copy_(torch.from_numpy(geometry.partial_whitening(cov, self.EPS, self.power)))
        self.scale.copy_(_inverse_spread((x - self.mean) @ self.matrix))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # In bfloat16 the rounding of a dominant direction would be larger than what the small ones hold.
        with torch.autocast(x.device.type, enabled=False):
            return ((x.float() - self.mean) @ self.matrix) * self.scale  # (B, dx)


class MLP(nn.Sequential):
    """Standardised input, then linear layers with ReLU and dropout between them; none hidden makes it LinearProj.

    Args:
        text_dim, image_dim: widths of input and output.
        hidden: widths of the hidden layers.
        dropout: after each hidden activation.
    """

    def __init__(self, text_dim: int, image_dim: int, hidden: tuple[int, ...], dropout: float) -> None:
        layers: list[nn.Module] = [Standardise(text_dim)]
        widths = (text_dim, *hidden)
        for before, after in zip(widths, widths[1:], strict=False):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout)]
        super().__init__(*layers, nn.Linear(widths[-1], image_dim))

    @property
    def standardise(self) -> Standardise:
        """The first layer."""
        first = self[0]
        assert isinstance(first, Standardise)
        return first


class GeomLinear(nn.Module):
    """A x + b from a closed form.

    Attributes:
        matrix: A, (dy, dx). A parameter, frozen unless training unfreezes it.
        bias: b, (dy,). A buffer: no optimiser can reach it.
    """

    bias: torch.Tensor

    def __init__(self, text_dim: int, image_dim: int) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.zeros(image_dim, text_dim), requires_grad=False)
        self.register_buffer("bias", torch.zeros(image_dim))

    def set_affine(self, matrix: np.ndarray, bias: np.ndarray) -> None:
        """Copy A (dy, dx) and b (dy,) in, rounded to float32."""
        with torch.no_grad():
            self.matrix.copy_(torch.as_tensor(np.asarray(matrix)))
            self.bias.copy_(torch.as_tensor(np.asarray(bias)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.matrix, self.bias)  # (B, dy)


class GeomWithAdapter(nn.Module):
    """y^ = A x + b + adapter(x); the adapter's last layer starts at zero, so training starts at the geometry."""

    def __init__(self, text_dim: int, image_dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.geometry = GeomLinear(text_dim, image_dim)
        self.adapter = MLP(text_dim, image_dim, (hidden,), dropout)
        for parameter in self.adapter[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: torch.Tensor, geometry: torch.Tensor | None = None) -> torch.Tensor:
        """Translate x (B, dx); `geometry` is A x + b (B, dy) where it is known already."""
        return (self._geometry(x) if geometry is None else geometry) + self.adapter(x)  # (B, dy)

    def _geometry(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.is_autocast_enabled(x.device.type):
            return self.geometry(x)
        # In bfloat16 the rounding of what all captions share would be larger than what tells them apart.
        centre = self.adapter.standardise.mean
        with torch.autocast(x.device.type, enabled=False):
            shared = self.geometry(centre)  # (dy,)
        return nn.functional.linear(x - centre, self.geometry.matrix) + shared


class ByteDropout(nn.Module):
    """Dropout that draws eight elements from one random number, so that drawing costs next to nothing.

    On a CPU nn.Dropout draws each element by itself and takes a tenth of the ensemble's training step. A byte resolves
    1/256, so `p` counts rounded to that.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.threshold = min(255, round(256 * p))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or not self.threshold:
            return x
        if x.device.type != "cpu":  # drawing is one kernel there
            return nn.functional.dropout(x, self.threshold / 256)
        bits = torch.randint(-(2**63), 2**63 - 1, ((x.numel() + 7) // 8,))
        kept = bits.view(torch.uint8)[: x.numel()].view(x.shape) >= self.threshold
        return x * kept * (256 / (256 - self.threshold))


class EnsembleMLP(nn.Module):
    """K MLPs of one hidden layer, trained side by side in batched products, whose unit outputs are averaged.

    They write coordinates in an orthonormal basis that is not trained: less work, with fewer directions than the image
    space has, than to write into the space itself.

    Args:
        text_dim, image_dim: widths of input and output.
        hidden: width of each member's hidden layer.
        dropout: before the output layer.
        members: K.
        rank: r, directions of the basis.
        whitening: power of the whitening of the input, see `Whiten`; with 0 it is standardised alone.
        blocks: residual blocks between the hidden layer and the output, each h + V gelu(U norm(h)); the hidden layer
            is linear then, and the output sees gelu(norm(h)).

    Attributes:
        basis: (dy, r), orthonormal columns. A parameter that is never trained; the first r dimensions until it is set.
    """

    def __init__(
        self,
        text_dim: int,
        image_dim: int,
        hidden: int,
        dropout: float,
        members: int,
        rank: int,
        whitening: float = 0.0,
        blocks: int = 0,
    ) -> None:
        super().__init__()
        self.standardise = Whiten(text_dim, whitening) if whitening else Standardise(text_dim)
        self.dropout = ByteDropout(dropout)

        def uniform(fan_in: int, *shape: int) -> nn.Parameter:  # as in nn.Linear
            return nn.Parameter(torch.empty(members, *shape).uniform_(-(fan_in**-0.5), fan_in**-0.5))

        self.weight_in, self.bias_in = uniform(text_dim, text_dim, hidden), uniform(text_dim, 1, hidden)
        self.weight_out, self.bias_out = uniform(hidden, hidden, rank), uniform(hidden, 1, rank)
        square = [uniform(hidden, hidden, hidden) for _ in range(2 * blocks)]
        self.block_weights = nn.ParameterList(square)  # U and V of each block in turn
        self.block_biases = nn.ParameterList([uniform(hidden, 1, hidden) for _ in square])
        self.basis = nn.Parameter(torch.eye(image_dim, rank), requires_grad=False)

    @property
    def members(self) -> int:
        return len(self.weight_in)

    def member_outputs(self, x: torch.Tensor) -> torch.Tensor:
        """Each member's own translation of x (B, dx), of any length, in the basis: (K, B, r)."""
        x = self.standardise(x).expand(self.members, -1, -1)  # (K, B, dx)
        hidden = torch.baddbmm(self.bias_in, x, self.weight_in)  # (K, B, h)
        layers = list(zip(self.block_weights, self.block_biases, strict=True))
        for (up, up_bias), (down, down_bias) in zip(layers[::2], layers[1::2], strict=True):
            inside = torch.baddbmm(up_bias, nn.functional.layer_norm(hidden, hidden.shape[-1:]), up)
            hidden = hidden + torch.baddbmm(down_bias, nn.functional.gelu(inside), down)
        if layers:
            hidden = nn.functional.layer_norm(hidden, hidden.shape[-1:])
        return torch.baddbmm(self.bias_out, self.dropout(nn.functional.gelu(hidden)), self.weight_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Mean over members of their unit vectors, (B, dy): of length 1 at most, shorter where members disagree."""
        return nn.functional.normalize(self.member_outputs(x), dim=-1).mean(0) @ self.basis.T


class Blend(nn.Module):
    """Weighted mean of the unit translations of several translators.

    Args:
        parts: by name.
        weights: of the same names, positive, of sum 1.
    """

    def __init__(self, parts: Mapping[str, nn.Module], weights: Mapping[str, float]) -> None:
        super().__init__()
        self.parts, self.weights = nn.ModuleDict(parts), dict(weights)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Translate x (B, dx) to (B, dy), of length 1 at most."""
        unit = {name: nn.functional.normalize(part(x), dim=-1) for name, part in self.parts.items()}
        return torch.stack([self.weights[name] * of_part for name, of_part in unit.items()]).sum(0)


def fit_standardisation(model: nn.Module, text: torch.Tensor) -> None:
    """Fit every `Standardise` of a model on training captions (N, dx), on the device of the model."""
    for module in model.modules():
        if isinstance(module, Standardise):
            module.fit(text)
