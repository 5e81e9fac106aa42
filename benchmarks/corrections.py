"""Published ways to reduce hubness, each as a function from a scene and a setting to ranks.

Training captions form the query bank, training images the gallery bank. No judged caption is looked at but the one that
is ranked, except where a correction is marked `transductive`: such a one needs all queries at once, and is no
competitor. All but QB-Norm's choice subtract one number an image from the cosine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from benchmarks import protocol
from benchmarks.baselines.closed import Setting, grid
from benchmarks.baselines.method import Fitted
from helpers.data.training_data import TrainingData
from helpers.data.vectors import normalise
from helpers.evaluation import hubness, metrics

SHARPNESS = (0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 4.5, 7.0)
"""beta times the spread of the cosines that one row of a bank has: grids in units of the model's own cosines."""


@dataclass(frozen=True)
class Scene:
    """What is ranked and what a correction may know, at unit length.

    The scores of the banks are held whole: 120 MB for 12,000 captions and 2,500 images.

    Attributes:
        queries: (V, d) translated captions. gallery: (G, d) images. positive: (V,) gallery rows.
        query_bank: (Q, d) translated training captions. gallery_bank: (M, d) training images.
    """

    queries: torch.Tensor
    gallery: torch.Tensor
    positive: torch.Tensor
    query_bank: torch.Tensor
    gallery_bank: torch.Tensor

    @classmethod
    def of(
        cls, fitted: Fitted, train: TrainingData, text: torch.Tensor, gallery: torch.Tensor, positive: torch.Tensor
    ) -> Scene:
        """Captions `text` (V, dx) and images `gallery` (G, dy) as a method places them; banks from its training split.

        The gallery bank is a sample as the query bank is, where there are more images than `hubness.QUERY_BANK_SIZE`.
        """
        images = train.images[torch.from_numpy(hubness.sample(np.arange(len(train.images)))).to(train.device)]
        placed = fitted.predict(text), fitted.images(gallery)
        banks = protocol.query_bank(fitted, train), fitted.images(images)
        return cls(*map(normalise, placed), positive, *map(normalise, banks))

    @cached_property
    def attraction(self) -> torch.Tensor:
        """(Q, G) cosines of the query bank with the gallery."""
        return self.query_bank @ self.gallery.T

    @cached_property
    def likeness(self) -> torch.Tensor:
        """(M, G) cosines of the gallery bank with the gallery."""
        return self.gallery_bank @ self.gallery.T

    @cached_property
    def betas(self) -> tuple[float, float]:
        """One over the spread of the cosines of a row of the query bank, and of one of the gallery bank."""
        images = self.gallery_bank.cpu().numpy()
        query, gallery = (hubness.inverse_temperature(bank, images) for bank in (self.query_bank, self.gallery_bank))
        return query / hubness.SHARPNESS, gallery / hubness.SHARPNESS

    def ranks(self, offsets: torch.Tensor | None = None) -> np.ndarray:
        """(V,) ranks where `offsets` (G,) are subtracted from the cosines."""
        return metrics.ranks(self.queries, self.gallery, self.positive, offsets=offsets)


def cosine(scene: Scene, setting: Setting) -> np.ndarray:
    """No correction."""
    return scene.ranks()


def inverted_softmax_offsets(scene: Scene, sharpness: float) -> torch.Tensor:
    """(G,) 1/beta log sum over the query bank of exp(beta cos(q, g))."""
    beta = sharpness * scene.betas[0]
    return (beta * scene.attraction).logsumexp(0) / beta


def inverted_softmax(scene: Scene, setting: Setting) -> np.ndarray:
    """Inverted softmax (Smith et al., 2017): exp(beta cos(q, g)) over its sum over the query bank."""
    return scene.ranks(inverted_softmax_offsets(scene, setting["sharpness"]))


def qb_norm(scene: Scene, setting: Setting) -> np.ndarray:
    """QB-Norm (Bogolin et al., 2022): the inverted softmax, for a query only where that is safe.

    The activation set holds every image that is among the k nearest of some caption of the query bank. A query is
    corrected where its nearest image is in the set.
    """
    nearest = scene.attraction.topk(min(int(setting["nearest"]), len(scene.gallery)), dim=1).indices
    first = (scene.queries @ scene.gallery.T).argmax(1)
    active = torch.isin(first, nearest.unique()).cpu().numpy()
    return np.where(active, inverted_softmax(scene, setting), scene.ranks())


def nnn(scene: Scene, setting: Setting) -> np.ndarray:
    """NNN (Chowdhury et al., 2024): less alpha times the mean of an image's k best scores in the query bank."""
    best = scene.attraction.topk(min(int(setting["nearest"]), len(scene.query_bank)), dim=0).values
    return scene.ranks(setting["alpha"] * best.mean(0))


def dual_is(scene: Scene, setting: Setting) -> np.ndarray:
    """DualIS (Wang et al., 2023): the product of two inverted softmaxes, over the query and over the gallery bank."""
    of_queries = setting["sharpness"] * scene.betas[0]
    of_images = setting["gallery_sharpness"] * scene.betas[1]
    sums = (of_queries * scene.attraction).logsumexp(0) + (of_images * scene.likeness).logsumexp(0)
    return scene.ranks(sums / (of_queries + of_images))


def sinkhorn(scene: Scene, setting: Setting) -> np.ndarray:
    """SN (Pan et al., 2025) with a query bank: Sinkhorn's iterations between bank and gallery."""
    return scene.ranks(_popularity(scene, setting, scene.query_bank, scene.gallery))


def dbsn(scene: Scene, setting: Setting) -> np.ndarray:
    """DBSN (Pan et al., 2025): the query bank is balanced over the gallery and the gallery bank together.

    So a caption of the bank can give its attention to its own image, and the gallery gets what is left.
    """
    both = torch.cat([scene.gallery, scene.gallery_bank])
    return scene.ranks(_popularity(scene, setting, scene.query_bank, both)[: len(scene.gallery)])


def ours(scene: Scene, setting: Setting) -> np.ndarray:
    """`helpers.evaluation.hubness`: SN of two iterations, whose one constant is not searched."""
    images = scene.gallery_bank.cpu().numpy()
    return hubness.corrected_ranks(scene.query_bank, images, scene.queries, scene.gallery, scene.positive)[1]


def judged(scene: Scene, setting: Setting) -> np.ndarray:
    """SN over the judged captions themselves, all of them at once."""
    return scene.ranks(_popularity(scene, setting, scene.queries, scene.gallery))


def _popularity(scene: Scene, setting: Setting, queries: torch.Tensor, gallery: torch.Tensor) -> torch.Tensor:
    beta = setting["sharpness"] * scene.betas[0]
    return hubness.attention(queries, gallery, beta, int(setting["iterations"])).popularity


@dataclass(frozen=True)
class Correction:
    """A way to reduce hubness.

    Attributes:
        ranks: (scene, setting) to ranks (V,).
        settings: to choose from.
        transductive: it looks at the other judged captions.
    """

    name: str
    label: str
    ranks: Callable[[Scene, Setting], np.ndarray]
    settings: tuple[Setting, ...] = ({},)
    transductive: bool = False


ITERATED = grid(sharpness=SHARPNESS, iterations=(2.0, 10.0))
CORRECTIONS = (
    Correction("cosine", "plain cosine", cosine),
    Correction("inverted_softmax", "Inverted softmax", inverted_softmax, grid(sharpness=SHARPNESS)),
    Correction("qb_norm", "QB-Norm", qb_norm, grid(sharpness=SHARPNESS, nearest=(1.0, 10.0))),
    Correction(
        "nnn",
        "NNN",
        nnn,
        grid(
            alpha=(0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.25),
            nearest=(1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0),
        ),
    ),
    Correction("dual_is", "DualIS", dual_is, grid(sharpness=SHARPNESS, gallery_sharpness=(0.01, 0.03, *SHARPNESS))),
    Correction("sn", "SN, query bank", sinkhorn, ITERATED),
    Correction("dbsn", "DBSN", dbsn, ITERATED),
    Correction("ours", "ours", ours),
    Correction("judged", "SN over the judged captions", judged, ITERATED, transductive=True),
)
