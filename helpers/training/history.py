"""The entry that each epoch leaves in the history of a training."""

from __future__ import annotations

from typing import NotRequired, TypedDict


class EpochEntry(TypedDict):
    """What one epoch did, as plain JSON values; an objective of your own may add terms of other names.

    Means over captions: `loss` and its weighted terms, those that the objective has. At the epoch's end: learning
    rates, whether A is free, and MRR on validation. `temperature` and `queue` (entries used as negatives) held
    throughout the epoch.
    """

    epoch: int
    loss: float
    mrr: float
    seconds: float
    geometry_free: bool
    lr_weights: float
    lr_biases: float
    lr_geometry: NotRequired[float]
    temperature: NotRequired[float]
    queue: NotRequired[int]
    infonce: NotRequired[float]
    cosine: NotRequired[float]
    mse: NotRequired[float]
    moment: NotRequired[float]
    agreement: NotRequired[float]
