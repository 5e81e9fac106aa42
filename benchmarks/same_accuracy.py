"""The fast loss trains the same model as its reference implementation: same seed, same data, MRR epoch by epoch.

`python -m benchmarks.same_accuracy --data-dir DIR`. The reference
has a logit for every entry of the queue; both run in the device's mixed precision, so that they differ in rounding.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks import common
from helpers.evaluation import metrics
from helpers.models.build import build_model
from helpers.models.geometry import GeometryConfig
from helpers.runs.recipes import fit_geometry
from helpers.runs.run import Run, open_run
from helpers.system.devices import choose_device, seed_all
from helpers.training.loop import fit
from helpers.training.objectives import BigJumpConfig, BigJumpObjective


class ReferenceObjective(BigJumpObjective):
    """BigJump's terms with InfoNCE as it reads: vectors in the queue, one logit an entry, autograd."""

    capturable = False  # `newest` asks the device how many entries there are

    def infonce(self, prediction: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
        entries = self.queue.newest(self.queue_used).long()  # (Q,)
        z = F.normalize(prediction.float(), dim=-1)
        logits = torch.cat([positive, entries])  # (B + Q,) images of the columns
        scores = (z.to(self.dtype) @ self.negative_bank[logits].T).float() / self.temperature  # (B, B + Q)
        mine = positive[:, None] == logits[None, :]
        positives = scores.masked_fill(~mine, -torch.inf)[:, : len(positive)].logsumexp(1)
        in_queue = torch.arange(len(logits), device=positive.device) >= len(positive)
        everything = scores.masked_fill(mine & in_queue, -torch.inf).logsumexp(1)
        return (everything - positives).mean()


def train(run: Run, objective_type: type, settings: BigJumpConfig) -> tuple[list[float], np.ndarray]:
    """The MRR of each epoch, and the validation ranks of the model kept."""
    data = run.training_data
    affine = fit_geometry(run, GeometryConfig()).affine()
    seed_all(settings.seed)
    model = build_model("bigjump", run.data.text_dim, run.data.image_dim)
    model.geometry.set_affine(affine.matrix, affine.bias)
    history = fit(model.to(data.device), objective_type(settings, data), objective_type.__name__)
    with torch.inference_mode():
        ranks = metrics.ranks(model(data.val_text), data.val_images, data.val_positive)
    return [entry["mrr"] for entry in history], ranks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--epochs", type=int, default=8)
    options = parser.parse_args()
    run = open_run({}, profile="challenge", run="same_accuracy", data_dir=options.data_dir)
    settings = BigJumpConfig(epochs=options.epochs)
    fast_mrr, fast = train(run, BigJumpObjective, settings)
    slow_mrr, slow = train(run, ReferenceObjective, settings)
    difference = metrics.paired_difference(fast, slow, run.split.caption_to_gallery)
    low, high = metrics.bootstrap_interval(1 / slow, run.split.caption_to_gallery)
    print(f"fast {max(fast_mrr):.4f}, reference {max(slow_mrr):.4f} ({low:.4f} to {high:.4f}): {difference}")
    content = {
        "command": f"python -m benchmarks.same_accuracy --data-dir DIR --epochs {options.epochs}",
        "mrr_by_epoch": {"fast": fast_mrr, "reference": slow_mrr},
        "reference_interval": [low, high],
        "difference": difference,
    }
    common.save("same_accuracy", f"{options.epochs}_epochs", choose_device().type, content)


if __name__ == "__main__":
    main()
