"""The number of threads changes nothing: closed forms, trained weights and scores come out bit for bit alike.

In float32: in bfloat16 an Intel processor (with AMX) was seen to order its sums by the number of threads.
"""

import dataclasses
import re

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from helpers.data import synthetic
from helpers.data.training_data import TrainingData
from helpers.evaluation import hubness, metrics
from helpers.models import geometry
from helpers.models.build import build_model
from helpers.models.networks import fit_standardisation
from helpers.system.devices import one_blas_thread, seed_all
from helpers.training.loop import epoch_order, make_optimiser, validation_mrr
from helpers.training.objectives import BaselineConfig, BigJumpConfig, BigJumpObjective, CombinedObjective
from helpers.training.plus_choice import Networks
from helpers.training.plus_objective import PlusObjective
from helpers.training.settings import PlusConfig
from helpers.training.steps import train_step

# Kernels run on one thread below some 32768 elements, so smaller data would pass whatever the code did.
DX, DY, HIDDEN, BATCH, STEPS = 192, 320, 256, 256, 4
COMMON = {"batch_size": BATCH, "hidden": HIDDEN, "learning_rate": 1e-3, "mixed_precision": False}
THREADS = (1, 2, 3)
KINDS = {
    "networks": Networks(temperature=0.05, whitening=0.0, blocks=0, epochs=1, members=2),
    "networks_blocks1": Networks(temperature=0.1, whitening=0.0, blocks=1, epochs=1, members=1),
}
"""Of the recipe plus."""


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def pairs(n_images=600, per_image=3, dx=DX, dy=DY):
    rng = np.random.default_rng(0)
    images = (rng.normal(size=(n_images, dy)) + 1).astype(np.float32)
    targets = rng.permutation(np.repeat(np.arange(n_images), per_image))
    text = images[targets] @ rng.normal(size=(dy, dx)) / 10 + rng.normal(size=(len(targets), dx))
    return text.astype(np.float32), images, targets


def trained(name, threads):
    """Every loss, gradient and weight of a few steps, and the validation MRR after them."""
    torch.set_num_threads(threads)
    text, images, positive = (torch.from_numpy(array) for array in pairs())
    data = TrainingData(text, positive, images, text[:300], images, positive[:300])
    seed_all(0)
    kinds = {of: {"members": kind["members"], "blocks": kind["blocks"]} for of, kind in KINDS.items()}
    model = build_model(name, DX, DY, hidden=HIDDEN, networks=kinds)
    if name == "bigjump":
        objective = BigJumpObjective(BigJumpConfig(**COMMON, queue_schedule=(400,)), data)
        model.geometry.set_affine(np.random.default_rng(1).normal(size=(DY, DX)), np.zeros(DY))
        model.geometry.matrix.requires_grad_(True)
    elif name == "bigjump_plus":
        settings = PlusConfig(**COMMON)
        objective = PlusObjective(settings, data, model, KINDS)
    else:
        objective = CombinedObjective(BaselineConfig(**COMMON, infonce_weight=0.1), data)
    fit_standardisation(model, text)
    optimiser = make_optimiser(model, objective.settings)
    objective.start_epoch(1)
    model.train()
    order = torch.from_numpy(epoch_order(positive.numpy(), 2, np.random.default_rng(2)))
    found = {}
    for step, rows in enumerate(order.split(BATCH)[:STEPS]):
        found |= {f"{step} {term}": value for term, value in train_step(model, objective, optimiser, rows).items()}
        found |= {f"{step} gradient of {n}": p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
    found |= model.state_dict()
    return found | {"mrr": torch.tensor(validation_mrr(objective.judged(model), data))}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["linear", "mlp1", "mlp2", "bigjump", "bigjump_plus"])
def test_training(name):
    one, *others = (trained(name, threads) for threads in THREADS)
    for other in others:
        assert [key for key in one if not torch.equal(one[key], other[key])] == []


def closed_form(limit):
    text, images, targets = pairs()
    torch.set_num_threads(limit)
    with threadpool_limits(limits=limit, user_api="blas"):
        fitted = geometry.fit_cross_space(geometry.pair_statistics(text, images, targets), 1e-2)
        affine = fitted.affine(0.0)
        return {**dataclasses.asdict(fitted.statistics), "A": affine.matrix, "b": affine.bias,
                "spectrum": geometry.spectrum(fitted.statistics.cov_y)}  # fmt: skip


def test_closed_forms():
    one, two = closed_form(1), closed_form(2)
    assert [key for key in one if not np.array_equal(one[key], two[key])] == []


def test_popularity():
    text, images, _ = pairs(dx=DY)
    found = []
    for limit in THREADS:
        torch.set_num_threads(limit)
        bank = torch.from_numpy(text)
        found.append(hubness.attention(bank, images, hubness.inverse_temperature(bank, images)).popularity)
    assert all(torch.equal(found[0], other) for other in found)


def test_intervals():
    rng = np.random.default_rng(0)
    values, groups = rng.random(9000), rng.integers(0, 3000, 9000)
    found = set()
    for limit in THREADS:
        with threadpool_limits(limits=limit, user_api="blas"):
            found.add(metrics.bootstrap_interval(values, groups, samples=400))
    assert len(found) == 1


def test_synthetic_data(tmp_path):
    files = []
    for limit in (1, 2):
        with threadpool_limits(limits=limit, user_api="blas"):
            folder = synthetic.write_synthetic(tmp_path / str(limit), n_images=300, text_dim=256, image_dim=384)
        files.append((folder / "train.npz").read_bytes())
    assert files[0] == files[1]


def blas_threads():
    """Of NumPy's and SciPy's BLAS; what other libraries bring, such as faiss, has no part in a closed form."""
    ours = [library for library in threadpool_info() if re.search("numpy|scipy", library["filepath"])]
    return {library["num_threads"] for library in ours if library["user_api"] == "blas"}


def test_blas_has_its_threads_back_afterwards():
    with threadpool_limits(limits=2, user_api="blas"):
        before = blas_threads()
        with pytest.raises(KeyError), one_blas_thread():
            assert blas_threads() <= {1}
            raise KeyError
        assert blas_threads() == before
