"""Nothing that is fitted or trained sees the validation side: change all of it, and the same comes out."""

import dataclasses

import numpy as np
import pytest
import torch

from helpers import pipeline, training
from helpers.config import BaselineConfig, BigJumpConfig, GeometryConfig, RunConfig
from helpers.data import PairedEmbeddings
from helpers.models import build_model
from helpers.objectives import BigJumpObjective
from helpers.reproducibility import seed_all
from helpers.split import SplitError, check_disjoint, make_split

DX, DY, N_IMAGES = 10, 14, 50
SMALL = {"epochs": 3, "batch_size": 32, "hidden": 16, "mixed_precision": False}


def opened(text, images, targets):
    names = [f"{i}.jpg" for i in range(N_IMAGES)]
    data = PairedEmbeddings(text, images, targets, ["a caption"] * len(text), names, "fingerprint")
    return pipeline.Run(RunConfig(run="leak"), data, make_split(targets, N_IMAGES, val_ratio=0.2))


@pytest.fixture
def run():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(N_IMAGES, DY)).astype(np.float32) + 1
    targets = rng.permutation(np.repeat(np.arange(N_IMAGES), 4))
    text = (images[targets] @ rng.normal(size=(DY, DX)) + rng.normal(size=(len(targets), DX))).astype(np.float32)
    return opened(text, images, targets)


@pytest.fixture
def other(run):
    """The same run with every validation caption and image replaced by something far away."""
    text, images = run.data.text.copy(), run.data.images.copy()
    rng = np.random.default_rng(1)
    text[run.split.val_captions] = 50 + 9 * rng.normal(size=(len(run.split.val_captions), DX))
    images[run.split.val_images] = -80 + 7 * rng.normal(size=(len(run.split.val_images), DY))
    return opened(text, images, run.data.targets)


@pytest.mark.parametrize("fit_on", ["captions", "caption_means"])
def test_closed_forms(run, other, fit_on):
    settings = GeometryConfig(fit_on=fit_on)
    for power in (0.0, 1.0):
        one, two = (pipeline.fit_geometry(each, settings).affine(power) for each in (run, other))
        np.testing.assert_array_equal(one.matrix, two.matrix)
        np.testing.assert_array_equal(one.bias, two.bias)


def losses_of(run, name):
    """Loss and MRR of each epoch, and the model of the best one."""
    data = pipeline.device_data(run, torch.device("cpu"))
    seed_all(0)
    model = build_model(name, DX, DY, hidden=SMALL["hidden"])
    if name == "bigjump":
        history = training.train_bigjump(model, data, BigJumpConfig(**SMALL, queue_size=100, queue_slices=(0, 50, 100)))
    else:
        history = training.train_baseline(model, data, BaselineConfig(**SMALL), name)
    return [entry["loss"] for entry in history], [entry["mrr"] for entry in history], model


@pytest.mark.parametrize("name", ["linear", "mlp1", "mlp2", "bigjump"])
def test_training(run, other, name):
    one, two = losses_of(run, name), losses_of(other, name)
    assert one[0] == two[0] and one[1] != two[1]  # the replaced side does reach the score, and only that
    for part in ("mean", "scale"):
        standardise = [dict(model.named_buffers()) for _, _, model in (one, two)]
        names = [key for key in standardise[0] if key.endswith(part)]
        assert names and all(torch.equal(standardise[0][key], standardise[1][key]) for key in names)


def test_the_bank_of_negatives_holds_training_images_only(run):
    data = pipeline.device_data(run, torch.device("cpu"))
    objective = BigJumpObjective(BigJumpConfig(**SMALL), data)
    expected = torch.nn.functional.normalize(torch.from_numpy(run.data.images[run.split.train_images]), dim=-1)
    torch.testing.assert_close(objective.bank, expected)


def test_a_caption_of_a_validation_image_in_training_is_refused(run):
    split, moved = run.split, run.split.val_captions[0]
    leaky = dataclasses.replace(split, train_captions=np.sort(np.append(split.train_captions, moved)))
    with pytest.raises(SplitError, match="on both sides"):
        check_disjoint(leaky, run.data.targets)
