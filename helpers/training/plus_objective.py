"""What the networks of the recipe `plus` are trained on: InfoNCE over the training images.

The loss sees each image less the mean of all: for the rank of an image nothing changes, since every score of a caption
moves alike, but the gradient no longer fights the large common offset of an image encoder's space. And it sees the
principal directions that hold nearly all of the rest: the networks write in that basis, which saves a third of the
work.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch

from helpers.data.training_data import TrainingData
from helpers.data.vectors import normalise
from helpers.errors import SplitError
from helpers.models.networks import Blend, EnsembleMLP
from helpers.system import processes
from helpers.training import losses
from helpers.training.objectives import Objective
from helpers.training.plus_choice import Networks
from helpers.training.same_text import SameText
from helpers.training.settings import PlusConfig


def centred_images(data: TrainingData) -> torch.Tensor:
    """Training images (M, dy) at unit length, less their mean, which is that of all processes' images.

    Raises:
        SplitError: all have the same direction.
    """
    images = normalise(data.images)
    images = images - processes.mean_of_rows(images)
    if float(processes.mean_of_rows(images.square().sum(1))) < 1e-12:  # float32 leaves a rest of equal vectors
        n = processes.total_number(len(images))
        raise SplitError(f"All {n} training images have the same direction: nothing tells them apart.")
    return images


class PlusObjective(Objective[PlusConfig, Blend]):
    """InfoNCE of each network over fresh samples of the training images, and a running average of the weights.

    Networks of several kinds train side by side; those whose epochs are over stand still from then on.

    Args:
        model: of networks alone; all write in one basis.
        kinds: what its parts are, by name.
        keeps_last: the last epoch is kept, whatever validation says, in place of the best.

    The t-th step's weights enter the average in proportion to t^power, so that the window is a share of the training
    so far, whatever the number of steps (Karras et al., 2024). The average is what validation sees.
    """

    capturable = True

    def __init__(
        self,
        settings: PlusConfig,
        data: TrainingData,
        model: Blend,
        kinds: Mapping[str, Networks],
        keeps_last: bool = True,
    ) -> None:
        super().__init__(settings, data)
        images = centred_images(data)  # (M, dy)
        basis = next(iter(networks_in(model).values())).basis
        self.negative_bank = (images @ basis).to(self.dtype)  # (M, r)
        spread = float(processes.mean_of_rows(images.square().sum(1)).sqrt())
        self.temperatures = {name: kind["temperature"] * spread for name, kind in kinds.items()}
        self.members = {name: kind["members"] for name, kind in kinds.items()}
        self.last_epochs = {name: kind["epochs"] for name, kind in kinds.items()}
        self.active = list(kinds)
        self.keeps_last = keeps_last
        self.same_text = SameText.of(data) if settings.exclude_same_text else None
        self.model, self.average = model, copy.deepcopy(model)
        # On a GPU, where a replayed step cannot ask the host; MPS has no float64, which the share below wants.
        counter = data.device if data.device.type == "cuda" else "cpu"
        self.updates = torch.zeros((), dtype=torch.long, device=counter)

    def start_epoch(self, epoch: int) -> dict[str, float]:
        self.active = [name for name, last in self.last_epochs.items() if epoch <= last]
        return {}

    def predict(self, model: Blend, rows: torch.Tensor) -> torch.Tensor:
        """Every member's own translation (K, B, r), in the basis, of the kinds that still train, in turn."""
        text, networks = self.data.text[rows], networks_in(model)
        return torch.cat([networks[name].member_outputs(text) for name in self.active])

    def terms(self, prediction: torch.Tensor, positive: torch.Tensor, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """The sum of the members' InfoNCE, against one draw of negatives, over the number of all members.

        Those that stand still count as 0: were they left out of the number, the gradients of the others would jump, and
        with them Adam's steps.
        """
        bank, share = self.negative_bank, self.settings.negative_share
        weights = losses.sampled_weights(len(bank), positive, share)
        drawn = (self.dtype, weights, losses.most_drawn(len(bank), len(positive), share))
        excluded = None if self.same_text is None else self.same_text.excluded(rows, positive)
        counts = [self.members[name] for name in self.active]
        found = []
        for name, members in zip(self.active, prediction.split(counts), strict=True):
            temperature, count = self.temperatures[name], len(members)
            if positive.device.type == "cpu":  # a member's block of scores fits the caches
                found += [losses.bank_infonce(one, bank, positive, temperature, *drawn, excluded) for one in members]
                continue
            together, positives = members.flatten(0, 1), positive.repeat(count)  # (K B, r), (K B,)
            left_out = None if excluded is None else excluded.repeat(count, 1)
            found.append(count * losses.bank_infonce(together, bank, positives, temperature, *drawn, left_out))
        return {"infonce": torch.stack(found).sum() / sum(self.members.values())}

    @torch.no_grad()
    def end_step(self, positive: torch.Tensor) -> None:
        self.updates += 1
        power = self.settings.average_power + 1
        averages, weights = (
            [p.detach() for name in self.active for p in networks_in(of)[name].parameters()]
            for of in (self.average, self.model)
        )
        if self.updates.is_cuda:
            share = (1 - (1 - 1 / self.updates.double()) ** power).float()
            torch._foreach_lerp_(averages, weights, [share] * len(weights))
        else:
            torch._foreach_lerp_(averages, weights, 1 - (1 - 1 / int(self.updates)) ** power)

    def judged(self, model: Blend) -> Blend:
        for name, part in networks_in(model).items():
            networks_in(self.average)[name].standardise.load_state_dict(part.standardise.state_dict())
        return self.average

    def state_tensors(self) -> dict[str, torch.Tensor]:
        return {"updates": self.updates, **self.average.state_dict()}

    def load_state_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        self.updates.copy_(tensors["updates"])
        self.average.load_state_dict({name: tensor for name, tensor in tensors.items() if name != "updates"})


def networks_in(model: Blend) -> dict[str, EnsembleMLP]:
    """The parts of an ensemble that are networks, by name."""
    return {name: part for name, part in model.parts.items() if isinstance(part, EnsembleMLP)}
