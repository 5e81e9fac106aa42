"""The recipe `plus`: an ensemble trained on the NCE over the training images, its settings chosen on the training side.

A closed form, weighted CCA, joins the networks where it alone is ahead of them on inner splits, since then linear maps
say most of what there is to say. Inner splits also say whether captions are partly whitened first, which helps where a
few directions of the text space dominate it.

The loss sees each image less the mean of all: for the rank of an image nothing changes, since every score of a caption
moves alike, but the gradient no longer fights the large common offset of an image encoder's space.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from helpers import cca, losses, metrics
from helpers.config import PlusConfig
from helpers.models import EnsembleMLP
from helpers.objectives import Objective, TrainingData
from helpers.progress import Progress
from helpers.reproducibility import seed_all
from helpers.split import SplitError
from helpers.training import fit

CLEAR_GAIN = 0.005
"""Share of the MRR by which an epoch or a temperature of a search must be better to count as progress."""
REFERENCE_DIM = 384
"""Input dimensions at which `PlusConfig.learning_rate` holds."""


class PlusObjective(Objective):
    """NCE of each member over fresh samples of the training images, and a running average of the weights.

    The t-th step's weights enter the average in proportion to t^power, so that the window is a share of the training
    so far, whatever the number of steps (Karras et al., 2024). The average is what validation sees.
    """

    def __init__(
        self, settings: PlusConfig, data: TrainingData, model: EnsembleMLP, temperature: float, searching: bool
    ) -> None:
        super().__init__(settings, data)
        images = metrics.normalise(data.images)  # (M, dy)
        images = images - images.mean(0)
        self.bank = images.to(self.dtype)
        spread = float(images.square().sum(1).mean().sqrt())
        if spread == 0:
            raise SplitError(f"All {len(images)} training images have the same direction: nothing tells them apart.")
        self.temperature = temperature * spread
        self.keeps_last, self.searching = not searching, searching
        self.model, self.average, self.updates = model, copy.deepcopy(model), 0

    def predict(self, model: EnsembleMLP, rows: torch.Tensor) -> torch.Tensor:
        """(K, B, dy): every member's own translation."""
        return model.member_outputs(self.data.text[rows])

    def terms(self, prediction: torch.Tensor, own: torch.Tensor) -> dict[str, torch.Tensor]:
        """The mean over members of their NCE, against one draw of negatives."""
        weights = losses.sampled_weights(len(self.bank), own, self.settings.bank_share)
        each = [losses.bank_nce(member, self.bank, own, self.temperature, self.dtype, weights) for member in prediction]
        return {"nce": torch.stack(each).mean()}

    @torch.no_grad()
    def end_step(self, own: torch.Tensor) -> None:
        self.updates += 1
        share = 1 - (1 - 1 / self.updates) ** (self.settings.average_power + 1)
        torch._foreach_lerp_(list(self.average.parameters()), [p.detach() for p in self.model.parameters()], share)

    def judged(self, model: EnsembleMLP) -> EnsembleMLP:
        self.average.standardise.load_state_dict(model.standardise.state_dict())
        return self.average

    def is_over(self, history: list[dict]) -> bool:
        """In a search: nothing clearly better for `patience` epochs, or a quarter of all epochs if that is more.

        A plateau rises by chance now and then, so a gain below `CLEAR_GAIN` does not prolong the search.
        """
        best, at = 0.0, 0
        for entry in history:
            if entry["mrr"] > (1 + CLEAR_GAIN) * best:
                best, at = entry["mrr"], entry["epoch"]
        return self.searching and len(history) - at >= max(self.settings.patience, len(history) // 4)

    def state_tensors(self) -> dict[str, torch.Tensor]:
        return {"updates": torch.tensor(self.updates), **self.average.state_dict()}

    def load_state_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        self.updates = int(tensors["updates"])
        self.average.load_state_dict({name: tensor for name, tensor in tensors.items() if name != "updates"})


@dataclass(frozen=True)
class Choice:
    """What inner splits of the training images chose.

    Attributes:
        temperature: in units of the spread of the unit image vectors.
        whitening: power of the whitening of the input; with 0 it is standardised alone.
        epochs: passes over the training captions.
        mrr: of one network alone, mean over the inner splits at that point; an inner gallery is smaller than the real.
        curves: for each candidate, its temperature, its whitening and its mean MRR by epoch.
        cca_setting: of the closed form, see `cca.GRID`.
        cca_mrr: of the closed form alone, mean over the inner splits.
        cca_weight: its share in the ensemble's mean; 0 leaves it out.
        cca_curve: for each candidate, the weight and the mean MRR; see `_choose_cca`.
    """

    temperature: float
    whitening: float
    epochs: int
    mrr: float
    curves: list[dict]
    cca_setting: cca.Setting
    cca_mrr: float
    cca_weight: float
    cca_curve: list[dict]


def batch_size_for(n_captions: int, at_most: int) -> int:
    """Captions a step: sixteen steps an epoch or more, as long as that leaves 128 captions a step."""
    return int(min(at_most, max(128, n_captions // 16), n_captions))


def learning_rate_for(text_dim: int, at_reference: float) -> float:
    """AdamW's rate: inversely proportional to the number of inputs.

    Inputs are standardised and each of Adam's steps has about the size of the rate in every weight, so what a step
    changes in a hidden unit grows with the number of inputs (Yang et al., 2021). At most three times the reference:
    with very few inputs the output layer, which has as many inputs as ever, sets the limit.
    """
    return at_reference * min(3.0, REFERENCE_DIM / text_dim)


def members_for(text_dim: int, image_dim: int, settings: PlusConfig) -> int:
    """MLPs in the ensemble: as many as `max_parameters` holds, up to `members`, and at least one.

    Room for the closed form and for the whitening is kept, whether they are used or not.
    """
    each = (text_dim + 1) * settings.hidden + (settings.hidden + 1) * image_dim
    left = settings.max_parameters - (text_dim + 1) * image_dim - text_dim**2
    return max(1, min(settings.members, left // each))


def derived(settings: PlusConfig, data: TrainingData) -> PlusConfig:
    """The settings with batch size and learning rate for this training side."""
    return replace(
        settings,
        batch_size=batch_size_for(len(data.text), settings.batch_size),
        learning_rate=learning_rate_for(data.text.shape[1], settings.learning_rate),
    )


def build_ensemble(
    data: TrainingData,
    settings: PlusConfig,
    members: int,
    whitening: float = 0.0,
    cca_weight: float = 0.0,
    cca_setting: cca.Setting | None = None,
) -> EnsembleMLP:
    """An untrained ensemble from the seed of the settings, on the device of the data.

    Its closed form is fitted here, where `cca_weight` is not 0.
    """
    seed_all(settings.seed)
    dims = data.text.shape[1], data.images.shape[1]
    model = EnsembleMLP(*dims, settings.hidden, settings.dropout, members, cca_weight, whitening)
    if cca_weight:
        (affine,) = cca.maps(data, [cca_setting])
        model.cca.set_affine(affine.matrix, affine.bias)
    return model.to(data.device)


def build_chosen(data: TrainingData, settings: PlusConfig, choice: Choice) -> EnsembleMLP:
    """The untrained ensemble that `search` chose, of as many members as `members_for` says."""
    members = members_for(data.text.shape[1], data.images.shape[1], settings)
    return build_ensemble(data, settings, members, choice.whitening, choice.cca_weight, choice.cca_setting)


def held_out(data: TrainingData, settings: PlusConfig) -> int:
    """Images that an inner split holds out: `inner_ratio` of those with captions, and ten where that is a third.

    One image alone would be found by every caption, so it is two at least.

    Raises:
        SplitError: two images with captions cannot be held out and two more be left to train on.
    """
    n = len(data.own.unique())
    if n < 4:
        raise SplitError(
            f"{n} training images with captions: the recipe plus needs 4 or more, to choose its settings by. Leave "
            "more to the training side (val_ratio, test_ratio)."
        )
    return max(int(settings.inner_ratio * n), min(10, n // 3), 2)


def inner_split(data: TrainingData, settings: PlusConfig, fold: int) -> TrainingData:
    """The training side divided once more by image: validation of what this gives are training images.

    Images without captions stay on the side that is trained on, as negatives: held out they would test nothing.

    Raises:
        SplitError: too few training images, see `held_out`.
    """
    own = data.own.cpu().numpy()
    captioned = np.unique(own)
    order = np.random.default_rng(settings.seed + 1000 + fold).permutation(len(captioned))
    validates = np.zeros(len(data.images), dtype=bool)
    validates[captioned[order[: held_out(data, settings)]]] = True
    place = np.where(validates, np.cumsum(validates), np.cumsum(~validates)) - 1  # of each image within its side

    def rows(of: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.flatnonzero(of)).to(data.device)

    def owners(of: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(place[own[of]]).to(data.device)

    held = validates[own]  # (N,)
    return TrainingData(
        text=data.text[rows(~held)],
        own=owners(~held),
        images=data.images[rows(~validates)],
        val_text=data.text[rows(held)],
        val_images=data.images[rows(validates)],
        val_own=owners(held),
    )


def search(data: TrainingData, settings: PlusConfig) -> Choice:
    """Choose whitening, temperature, number of epochs and the closed form's share on inner splits of training images.

    Validation plays no part. One member is trained for each candidate and inner split: each whitening at the middle
    temperature, then other temperatures at the whitening that did best. MRR rises and falls once along the
    temperatures, so the search walks from the middle one and goes on while it gets clearly better (`CLEAR_GAIN`): few
    images cannot tell near ones apart, and chance would choose among them. For the same reason inner splits are added
    (up to five) until they hold out `inner_images` together.

    Raises:
        SplitError: too few training images, see `held_out`.
    """
    n_folds = min(5, math.ceil(settings.inner_images / held_out(data, settings)))
    folds = [inner_split(data, settings, fold) for fold in range(n_folds)]
    temperatures, (whitening, *others) = settings.temperatures, settings.whitenings
    tried: dict[tuple[int, float], _Tried] = {}

    def best(index: int, whitening: float) -> float:
        if (index, whitening) not in tried:
            tried[index, whitening] = _try(folds, settings, temperatures[index], whitening)
        return max(tried[index, whitening].mrr)

    index, last = len(temperatures) // 2, len(temperatures) - 1
    for other in others:
        if best(index, other) > (1 + CLEAR_GAIN) * best(index, whitening):
            whitening = other
    for step in (-1, 1):
        while 0 <= index + step <= last and best(index + step, whitening) > (1 + CLEAR_GAIN) * best(index, whitening):
            index += step
    best(index, whitening)  # not looked at yet where it is the only candidate
    mrr = tried[index, whitening].mrr
    epoch = int(np.argmax(mrr))
    curves = [{"temperature": temperatures[i], "whitening": w, "mrr": one.mrr} for (i, w), one in sorted(tried.items())]
    alone = temperatures[index], whitening, epoch + 1, mrr[epoch], curves
    alike = [one.translations for (_, w), one in tried.items() if w == whitening]
    means = [torch.stack(of_fold).mean(0) for of_fold in zip(*alike, strict=True)]
    return Choice(*alone, *_choose_cca(folds, means, settings))


@dataclass(frozen=True)
class _Tried:
    """One candidate: MRR by epoch, averaged over the inner splits, and what each network makes of its captions.

    `translations` are (V, dy) unit vectors for each inner split, each from the best epoch of its network.
    """

    mrr: list[float]
    translations: list[torch.Tensor]


def _try(folds: list[TrainingData], settings: PlusConfig, temperature: float, whitening: float) -> _Tried:
    runs, translations = [], []
    for number, inner in enumerate(folds, start=1):
        given = derived(settings, inner)
        model = build_ensemble(inner, given, 1, whitening)
        objective = PlusObjective(given, inner, model, temperature, searching=True)
        label = f"inner split {number}/{len(folds)}, temperature {temperature:g}, whitening {whitening:g}"
        runs.append([entry["mrr"] for entry in fit(model, objective, label)])
        with torch.inference_mode():
            translations.append(model(inner.val_text))
    common = min(map(len, runs))
    return _Tried(np.mean([run[:common] for run in runs], axis=0).tolist(), translations)


def _choose_cca(
    folds: list[TrainingData], translations: list[torch.Tensor], settings: PlusConfig
) -> tuple[cca.Setting, float, float, list[dict]]:
    """Setting and MRR of the best closed form alone, its weight beside the networks, and the MRR of each weight.

    It joins only where it is better alone than the networks: a small inner gallery flatters it, since networks are the
    further ahead of it the more images there are to tell apart. An ensemble wants less of it than one network does, so
    `translations` are means over the networks of the search, the nearest thing to an ensemble that is at hand.
    """
    setting, alone = cca.best_setting(folds)
    mrr = np.zeros(len(settings.cca_weights))
    for inner, networks in zip(folds, translations, strict=True):
        (affine,) = cca.maps(inner, [setting])
        closed = cca.translate(affine, inner)
        mixed = (torch.lerp(networks, closed, weight) for weight in settings.cca_weights)
        mrr += [np.mean(1 / cca.validation_ranks(queries, inner)) / len(folds) for queries in mixed]
    best = int(mrr.argmax()) if alone > mrr[0] else 0
    curve = [{"weight": w, "mrr": float(m)} for w, m in zip(settings.cca_weights, mrr, strict=True)]
    return setting, alone, settings.cca_weights[best], curve


def train_plus(
    model: EnsembleMLP, data: TrainingData, settings: PlusConfig, choice: Choice, progress: Progress | None = None
) -> list[dict]:
    """Train the ensemble as chosen; the last epoch's average is kept, whatever validation says. See `training.fit`."""
    given = replace(derived(settings, data), epochs=choice.epochs)
    objective = PlusObjective(given, data, model, choice.temperature, searching=False)
    return fit(model, objective, "bigjump_plus", progress)
