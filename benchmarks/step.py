"""One BigJump training step: ours, a reference implementation, the queues of other libraries, and the bare products.

`python -m benchmarks.step --size challenge`. Weights and rows do not matter to the time, so the data are random.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F

from benchmarks import common
from helpers.data.training_data import TrainingData
from helpers.data.vectors import normalise
from helpers.models.build import build_model
from helpers.models.networks import fit_standardisation
from helpers.system.devices import COLUMN_MULTIPLE, autocast, matmul_dtype, seed_all
from helpers.training import losses
from helpers.training.loop import make_optimiser
from helpers.training.objectives import BigJumpConfig, BigJumpObjective
from helpers.training.steps import Steps

MANY = 1000
"""Steps, as an epoch has them: worth a graph on a GPU."""


def random_data(size: common.Size, device: str) -> TrainingData:
    """Training data of the given size: unit-variance captions, images with a common offset."""
    generator = torch.Generator().manual_seed(0)
    images = 0.5 + torch.randn(size.images, size.image_dim, generator=generator)
    text = torch.randn(size.captions, size.text_dim, generator=generator)
    positive = torch.arange(size.captions) * size.images // size.captions
    parts = (text, positive, images, text[:10], images[:10], torch.arange(10))
    return TrainingData(*(part.to(device) for part in parts))


def settings_of(size: common.Size, mixed_precision: bool = True) -> BigJumpConfig:
    """The published defaults at this size, with the whole queue in use from the first epoch."""
    return BigJumpConfig(
        batch_size=size.batch, queue_size=size.queue, queue_schedule=(size.queue,), mixed_precision=mixed_precision
    )


class Setting:
    """A model with a random start, its optimiser, and batches to step through."""

    def __init__(self, size: common.Size, data: TrainingData, settings: BigJumpConfig) -> None:
        seed_all(0)  # deterministic kernels, as in every training
        self.model = build_model("bigjump", size.text_dim, size.image_dim).to(data.device)
        torch.nn.init.normal_(self.model.geometry.matrix, std=size.text_dim**-0.5)
        fit_standardisation(self.model, data.text)
        self.model.geometry.matrix.requires_grad_(True)  # the state of all epochs but the first two
        self.data, self.settings = data, settings
        self.optimiser = make_optimiser(self.model, settings)
        self.order = torch.randperm(size.captions, generator=torch.Generator().manual_seed(1)).to(data.device)
        self.dtype = matmul_dtype(data.device, settings.mixed_precision)
        self._at = 0

    def batch(self) -> torch.Tensor:
        """Rows of the next batch."""
        rows = self.order[self._at : self._at + self.settings.batch_size]
        self._at = (self._at + self.settings.batch_size) % (len(self.order) - self.settings.batch_size)
        return rows


def full_queue(size: common.Size, data: TrainingData) -> tuple[Setting, BigJumpObjective]:
    """A setting and its objective as they stand once the queue has filled."""
    setting = Setting(size, data, settings_of(size))
    objective = BigJumpObjective(setting.settings, data)
    for lo in range(0, size.queue, size.batch):
        rows = torch.arange(lo, min(lo + size.batch, size.queue)) % size.captions
        objective.queue.push(data.positive[setting.order[rows]])
    objective.start_epoch(setting.settings.epochs)
    return setting, objective


def ours(size: common.Size, data: TrainingData, updates: int = MANY) -> tuple[Callable[[], object], int]:
    """The step as an epoch takes it, with a full queue, and how many images stand in queue or batch.

    Alone, so without the memory that an epoch keeps from step to step (`helpers.system.memory`).

    Args:
        updates: that the epoch would have; with one alone a GPU records no graph.
    """
    setting, objective = full_queue(size, data)
    present = int((objective.queue.counts(size.queue) > 0).sum())
    step = Steps(setting.model, objective, setting.optimiser, expected=updates)
    return lambda: step(setting.batch()), max(present, size.batch)


def reference_implementation(size: common.Size, data: TrainingData, mixed_precision: bool) -> Callable[[], object]:
    """The method as it reads: a queue of image vectors, one logit a queue entry, autograd throughout."""
    setting = Setting(size, data, settings_of(size, mixed_precision))
    model, s, dtype = setting.model, setting.settings, setting.dtype
    queue_images = torch.randint(size.images, (size.queue,), device=data.device)
    queue = normalise(data.images[queue_images]).to(dtype)  # (Q, dy), 403 MB in float32 at challenge size
    pointer = 0

    def step() -> None:
        nonlocal pointer
        rows = setting.batch()
        positive, target = data.positive[rows], data.images[data.positive[rows]]
        with autocast(data.device, dtype):
            prediction = model(data.text[rows])
        z, y = F.normalize(prediction.float(), dim=-1), normalise(target)
        batch_logits = (z @ y.T) / s.temperature_end  # (B, B)
        queue_logits = (z.to(dtype) @ queue.T).float() / s.temperature_end  # (B, Q)
        queue_logits = queue_logits.masked_fill(positive[:, None] == queue_images[None, :], -torch.inf)
        positives = batch_logits.masked_fill(positive[:, None] != positive[None, :], -torch.inf).logsumexp(1)
        infonce = (torch.cat([batch_logits, queue_logits], 1).logsumexp(1) - positives).mean()
        loss = infonce + s.cosine_weight * losses.cosine_loss(prediction, target)
        loss = loss + s.moment_weight * losses.moment_loss(prediction, target, with_std=False)
        loss = loss + s.agreement_weight * losses.agreement_loss(prediction, positive)
        setting.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), s.clip_norm)
        setting.optimiser.step()
        place = torch.arange(pointer, pointer + len(rows), device=data.device) % size.queue
        queue[place], queue_images[place] = y.to(dtype), positive
        pointer = (pointer + len(rows)) % size.queue

    return step


def matmul_lower_bound(size: common.Size, data: TrainingData, columns: int) -> Callable[[], object]:
    """The bare matrix products that one step needs, in the step's own precision, with operands at hand.

    `columns` images are scored: those that stand in the queue or the batch.

    Scores and their gradient; forward, weight gradient and input gradient of the adapter (its first layer needs no
    input gradient); forward and weight gradient of A.
    """
    dtype = matmul_dtype(data.device, True)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=data.device).to(dtype)

    m = -(-columns // COLUMN_MULTIPLE) * COLUMN_MULTIPLE  # other widths would make the bound too high
    b, dx, dy, hidden = size.batch, size.text_dim, size.image_dim, settings_of(size).hidden
    bank, z, weights = random(m, dy), random(b, dy), random(b, m)
    x, h, w1, w2, a = random(b, dx), random(b, hidden), random(hidden, dx), random(dy, hidden), random(dy, dx)

    def products() -> None:
        z @ bank.T, weights @ bank
        x @ w1.T, h @ w2.T, x @ a.T
        z.T @ h, z @ w2, h.T @ x, z.T @ x

    return common.replayed(products, data.device)


def crossbatch_memory(size: common.Size, data: TrainingData) -> Callable[[], object]:
    """pytorch-metric-learning: NTXentLoss behind a CrossBatchMemory of image vectors, each image its own label."""
    from pytorch_metric_learning.losses import CrossBatchMemory, NTXentLoss

    loss_of = CrossBatchMemory(NTXentLoss(temperature=0.06), embedding_size=size.image_dim, memory_size=size.queue)
    return _library_step(
        size, data, lambda z, y, positive: loss_of(z, positive, enqueue_mask=_no_row(positive)), loss_of, fill=True
    )


def memory_bank(size: common.Size, data: TrainingData) -> Callable[[], object]:
    """lightly: NTXentLoss with a memory bank; it knows no labels, so own images stay among the negatives."""
    from lightly.loss import NTXentLoss  # needs a torchvision that fits the installed torch

    loss_of = NTXentLoss(temperature=0.06, memory_bank_size=(size.queue, size.image_dim)).to(data.device)
    return _library_step(size, data, lambda z, y, positive: loss_of(z, y), loss_of, fill=False)


def _no_row(positive: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(positive, dtype=torch.bool)


def _library_step(size: common.Size, data: TrainingData, loss: Callable, module: object, *, fill: bool) -> Callable:
    setting = Setting(size, data, settings_of(size))
    if fill:  # the memory as a long training would have filled it
        entries = torch.randint(size.images, (size.queue,), device=data.device)
        module.embedding_memory = normalise(data.images[entries])
        module.label_memory, module.has_been_filled = entries, True

    def step() -> None:
        rows = setting.batch()
        positive = data.positive[rows]
        with autocast(data.device, setting.dtype):
            prediction = setting.model(data.text[rows])
            value = loss(normalise(prediction), normalise(data.images[positive]), positive)
        setting.optimiser.zero_grad(set_to_none=True)
        value.backward()
        setting.optimiser.step()

    return step


def main() -> None:
    options = common.arguments(__doc__)
    size = common.SIZES[options.size]
    data = random_data(size, options.device)
    step, present = ours(size, data)
    candidates = {
        "matmul_lower_bound": matmul_lower_bound(size, data, present),
        "ours": step,
        "reference_bfloat16": reference_implementation(size, data, mixed_precision=True),
        "reference_float32": reference_implementation(size, data, mixed_precision=False),
    }
    if options.device == "cuda":  # as all but ours and the bare products are launched
        candidates["ours_one_by_one"], _ = ours(size, data, updates=1)
    unavailable = {}
    for name, make in (("pytorch_metric_learning", crossbatch_memory), ("lightly", memory_bank)):
        try:  # RuntimeError: no memory, or a torchvision that does not fit torch
            candidates[name] = make(size, data)
            candidates[name]()
        except (ImportError, RuntimeError) as error:
            candidates.pop(name, None)
            unavailable[name] = str(error)
            print(f"{name} is left out: {error}")
    seconds = common.interleaved(candidates, size.repeats, options.device)
    rows = [
        {
            "candidate": name,
            "median_seconds": statistics.median(times),
            "seconds": times,
            "over_ours": common.median_ratio(times, seconds["ours"]),
            "over_lower_bound": common.median_ratio(times, seconds["matmul_lower_bound"]),
        }
        for name, times in seconds.items()
    ]
    for row in rows:
        print(f"{row['candidate']:24s} {row['median_seconds']:8.4f} s   {row['over_ours']:6.2f} x ours")
    common.save(
        "step", options.size, options.device, {"images_scored": present, "rows": rows, "unavailable": unavailable}
    )


if __name__ == "__main__":
    main()
