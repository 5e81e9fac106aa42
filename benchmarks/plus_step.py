"""Training steps of the recipe plus: one network, as its search trains, and the ensemble, beside their products.

`python -m benchmarks.plus_step --size challenge`. Weights and rows do not matter to the time, so the data are random.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable

import torch

from benchmarks import common
from benchmarks.step import MANY, random_data
from helpers.data.training_data import TrainingData
from helpers.models.networks import fit_standardisation
from helpers.system import memory
from helpers.system.devices import COLUMN_MULTIPLE, matmul_dtype
from helpers.training import plus
from helpers.training.loop import make_optimiser
from helpers.training.plus_choice import Networks
from helpers.training.plus_objective import PlusObjective
from helpers.training.settings import PlusConfig
from helpers.training.steps import Steps

RANK_SHARE = 2 / 3
"""Of the image dimensions: directions that the networks write in, nearly as on Flickr8k. Random data need more."""
STEPS = 4
"""Of one timed call: memory is kept from step to step, so that a step alone would not show what it saves."""


def rank_of(size: common.Size) -> int:
    """Directions that the networks write in."""
    return round(RANK_SHARE * size.image_dim / COLUMN_MULTIPLE) * COLUMN_MULTIPLE


def training(data: TrainingData, settings: PlusConfig, members: int, rank: int) -> Callable[[], None]:
    """The next `STEPS` steps of an ensemble of `members`."""
    basis, _ = torch.linalg.qr(torch.randn(data.images.shape[1], rank, generator=torch.Generator().manual_seed(2)))
    middle = settings.temperatures[len(settings.temperatures) // 2]
    kinds: dict[str, Networks] = {
        "networks": {"temperature": middle, "whitening": 0.0, "blocks": 0, "epochs": 1, "members": members}
    }
    model = plus.build_networks(data, settings, kinds, basis=basis.numpy())
    fit_standardisation(model, data.text)
    objective = PlusObjective(settings, data, model, kinds)
    optimiser = make_optimiser(model, settings)
    batches = itertools.cycle(torch.randperm(len(data.positive)).to(data.device).split(settings.batch_size))

    step = Steps(model, objective, optimiser, expected=MANY)

    def steps() -> None:
        for rows in itertools.islice(batches, STEPS):
            step(rows)

    return steps


def matmul_lower_bound(data: TrainingData, settings: PlusConfig, members: int, rank: int) -> Callable[[], None]:
    """The bare matrix products of `STEPS` steps, in their precision, with operands at hand.

    Of each member: forward, weight gradients, and the input gradient of the second layer (the first needs none);
    scores against the images that are drawn on average, and their gradient.
    """
    dtype = matmul_dtype(data.device, settings.mixed_precision)
    drawn = round(len(data.images) * settings.negative_share) + settings.batch_size
    dx, h, b = data.text.shape[1], settings.hidden, settings.batch_size

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=data.device).to(dtype)

    x, hidden, out = random(members, b, dx), random(members, b, h), random(members, b, rank)
    first, second = random(members, dx, h), random(members, h, rank)
    bank, weights = random(drawn, rank), random(b, drawn)

    def products() -> None:
        for _ in range(STEPS):
            x @ first, hidden @ second
            x.mT @ hidden, hidden.mT @ out, out @ second.mT
            for member in out:
                member @ bank.T, weights @ bank

    return common.replayed(products, data.device)


def main() -> None:
    options = common.arguments(__doc__)
    size = common.SIZES[options.size]
    data = random_data(size, options.device)
    settings, rank = plus.derived(PlusConfig(), data), rank_of(size)
    members = {"network": 1, "ensemble": plus.members_for(size.text_dim, size.image_dim, rank, settings)}
    candidates: dict[str, Callable[[], None]] = {}
    for name, count in members.items():
        steps = training(data, settings, count, rank)
        candidates[name] = memory.reused()(steps)  # entered anew at each call
        candidates[f"{name}, memory given back"] = steps
        candidates[f"{name}, matmul lower bound"] = matmul_lower_bound(data, settings, count, rank)
    seconds = common.interleaved(candidates, size.repeats, options.device)
    steps_per_epoch = math.ceil(len(data.positive) / settings.batch_size)
    rows = [
        {
            "candidate": name,
            "step_seconds": statistics.median(times) / STEPS,
            "epoch_seconds": statistics.median(times) / STEPS * steps_per_epoch,
            "over_lower_bound": common.median_ratio(times, seconds[f"{name.partition(',')[0]}, matmul lower bound"]),
        }
        for name, times in seconds.items()
    ]
    for row in rows:
        print(f"{row['candidate']:30s} {row['step_seconds']:8.4f} s a step   {row['over_lower_bound']:5.2f} x products")
    metadata = {"members": members, "rank": rank, "batch": settings.batch_size, "steps_per_epoch": steps_per_epoch}
    common.save("plus_step", options.size, options.device, {**metadata, "rows": rows})


if __name__ == "__main__":
    main()
