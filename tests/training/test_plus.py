"""The recipe plus: its loss, its ensemble, what it derives from the data, and that validation chooses nothing."""

import copy
import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy, normalize

from helpers.data.training_data import TrainingData
from helpers.errors import ConfigError, SplitError
from helpers.models import cca, kernel, storage
from helpers.models.build import build_model
from helpers.models.networks import Blend, ByteDropout, EnsembleMLP, fit_standardisation
from helpers.runs import recipes
from helpers.training import closed_forms, folds, infonce, loop, losses, plus, plus_search
from helpers.training.loop import make_optimiser
from helpers.training.plus_choice import Choice, Networks, deal_members, epochs_of_training, kind_name
from helpers.training.plus_objective import PlusObjective
from helpers.training.settings import PlusConfig
from helpers.training.state import Progress
from helpers.training.steps import train_step

SMALL = PlusConfig(
    epochs=4, hidden=24, members=3, mixed_precision=False, learning_rate=3e-3, batch_size=64, seed=5, landmarks=40
)
DX, DY = 10, 14


def small_data(n_images=60, captions=4, seed=0, val_images=12):
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(DX, DY))

    def side(n):
        latent = rng.normal(size=(n, DX))
        positive = np.repeat(np.arange(n), captions)
        text = latent[positive] + 0.7 * rng.normal(size=(n * captions, DX))
        images = np.tanh(latent @ mixing) + 2
        return [torch.from_numpy(a) for a in (text.astype(np.float32), positive, images.astype(np.float32))]

    text, positive, images = side(n_images)
    val_text, val_positive, val_images = side(val_images)
    return TrainingData(text, positive, images, val_text, val_images, val_positive)


@pytest.fixture(scope="module")
def data():
    return small_data()


class Stop(Exception):
    """Stands for a crash."""


def a_kind(temperature=0.05, whitening=0.0, blocks=0, epochs=3, members=2):
    """What networks of a kind are."""
    return Networks(temperature=temperature, whitening=whitening, blocks=blocks, epochs=epochs, members=members)


def networks(data, settings=SMALL, **kind):
    """Untrained networks of one kind that nothing joins."""
    return plus.build_networks(data, settings, {"networks": a_kind(**kind)})


def objective_of(data, model, settings=SMALL, **kind):
    """What networks of one kind, `networks(data, settings, **kind)`, are trained on."""
    return PlusObjective(settings, data, model, {"networks": a_kind(**kind)})


@pytest.mark.parametrize("temperature", [1.0, 0.05])
def test_bank_nce_is_cross_entropy_over_all_images(monkeypatch, temperature):
    monkeypatch.setattr(infonce, "COLUMN_BLOCK", 5)
    generator = torch.Generator().manual_seed(0)
    prediction = torch.randn(9, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    bank = torch.randn(13, 6, generator=generator, dtype=torch.float64)
    positive = torch.randint(0, 13, (9,), generator=generator)
    ours = losses.bank_infonce(prediction, bank, positive, temperature, torch.float64)
    (gradient,) = torch.autograd.grad(ours, prediction)
    naive = cross_entropy(normalize(prediction, dim=-1) @ bank.T / temperature, positive)
    (expected,) = torch.autograd.grad(naive, prediction)
    assert ours.item() == pytest.approx(naive.item(), rel=1e-12)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("n", [1, 7, 8, 9, 31, 32, 33, 39, 40, 64, 71])
def test_blocks_of_columns_cover_all_in_widths_that_products_like(monkeypatch, n):
    monkeypatch.setattr(infonce, "COLUMN_BLOCK", 32)
    blocks = list(infonce._column_blocks(n))
    assert [column for lo, hi in blocks for column in range(lo, hi)] == list(range(n))
    assert all(hi - lo == 32 for lo, hi in blocks[: n // 32])
    assert sum((hi - lo) % 8 > 0 for lo, hi in blocks) == (n % 8 > 0)


def test_sampled_negatives_sum_to_all_on_average():
    torch.manual_seed(0)
    positive, scores = torch.tensor([3, 3, 7]), torch.randn(40).exp()
    sums = torch.stack([(losses.sampled_weights(40, positive, 0.25).exp() * scores).sum() for _ in range(4000)])
    assert abs(sums.mean() - scores.sum()) < 4 * sums.std() / 4000**0.5
    weights = losses.sampled_weights(40, positive, 0.25)
    assert weights[3] == weights[7] == 0
    assert set(weights.tolist()) <= {0.0, float(torch.tensor(4.0).log()), -float("inf")}
    assert torch.equal(losses.sampled_weights(40, positive, 1.0), torch.zeros(40))


def test_images_of_weight_zero_are_left_out_of_the_loss():
    generator = torch.Generator().manual_seed(2)
    prediction = torch.randn(6, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    bank, positive = torch.randn(900, 5, generator=generator, dtype=torch.float64), torch.tensor([3, 3, 8, 1, 0, 899])
    log_weight = losses.sampled_weights(900, positive, 0.1).double()  # few enough to be gathered
    ours = losses.bank_infonce(prediction, bank, positive, 0.3, torch.float64, log_weight)
    logits = normalize(prediction, dim=-1) @ bank.T / 0.3
    positive_logit = logits[torch.arange(6), positive]
    others = (logits + log_weight).scatter(1, positive[:, None], -torch.inf)
    naive = (torch.cat([positive_logit[:, None], others], 1).logsumexp(1) - positive_logit).mean()
    assert ours.item() == pytest.approx(naive.item(), rel=1e-12)
    found, expected = (torch.autograd.grad(loss, prediction)[0] for loss in (ours, naive))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("p", [0.0, 0.25, 0.5, 0.9])
def test_dropout_keeps_its_share_and_the_mean(p):
    torch.manual_seed(0)
    dropout, x = ByteDropout(p), torch.ones(3, 1001, 67)
    out = dropout(x)
    kept = round(256 * (1 - p)) / 256
    assert (out != 0).float().mean().item() == pytest.approx(kept, abs=0.004)
    assert out.mean().item() == pytest.approx(1, abs=0.02)
    assert torch.equal(dropout.eval()(x), x)
    columns = (out != 0).float().mean((0, 1))
    assert columns.std() < 0.03  # no position is favoured


def test_subtracting_one_vector_from_all_images_changes_no_loss():
    generator = torch.Generator().manual_seed(1)
    prediction, bank = torch.randn(7, 5, generator=generator).double(), torch.randn(11, 5, generator=generator).double()
    positive = torch.arange(7)
    shifted = losses.bank_infonce(prediction, bank - bank.mean(0), positive, 0.1, torch.float64)
    assert float(shifted) == pytest.approx(
        float(losses.bank_infonce(prediction, bank, positive, 0.1, torch.float64)), rel=1e-12
    )


def test_the_ensemble_is_the_mean_of_its_members_unit_vectors():
    model = EnsembleMLP(DX, DY, 8, 0.3, members=3, rank=6).eval()
    basis, _ = torch.linalg.qr(torch.randn(DY, 6))
    model.basis.copy_(basis)
    x = torch.randn(5, DX)
    expected = 0
    for k in range(3):
        hidden = torch.nn.functional.gelu(x @ model.weight_in[k] + model.bias_in[k])
        expected = expected + normalize((hidden @ model.weight_out[k] + model.bias_out[k]) @ basis.T, dim=-1) / 3
    torch.testing.assert_close(model(x), expected)
    assert (model(x).norm(dim=-1) <= 1 + 1e-6).all()


def low_rank_data():
    """Images in a space of four dimensions beside their mean, but for noise."""
    data = small_data()
    generator = torch.Generator().manual_seed(4)
    few = torch.randn(len(data.images), 4, generator=generator) @ torch.randn(4, DY, generator=generator)
    noise = 0.03 * torch.randn(data.images.shape, generator=generator)
    return replace(data, images=3 + few + noise)


def test_networks_write_in_the_principal_directions_of_the_images_and_their_mean():
    data = low_rank_data()
    model = networks(data)
    part = model.parts["networks"]
    assert part.basis.shape == (DY, 8) and part.weight_out.shape[-1] == 8  # of 3 to 5, the next multiple of 8
    unit = normalize(data.images.double(), dim=-1)
    basis = part.basis.double()
    mean, centred = unit.mean(0), unit - unit.mean(0)
    torch.testing.assert_close(basis.T @ basis, torch.eye(basis.shape[1]).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(basis @ (basis.T @ mean), mean, rtol=1e-5, atol=1e-6)
    assert (centred @ basis).square().sum() >= SMALL.basis_share * centred.square().sum()
    before = part.basis.clone()
    plus.train_plus(model, data, SMALL, CHOSEN)
    assert torch.equal(part.basis, before)
    assert not objective_of(data, model).negative_bank.requires_grad


FLAT_AND_DEEP = {"networks": a_kind(), "networks_blocks1_whitened50": a_kind(0.2, 0.5, blocks=1, members=1)}


@pytest.mark.parametrize("kinds", [{"networks": a_kind()}, FLAT_AND_DEEP])
def test_the_loss_is_the_mean_over_all_members_each_at_the_temperature_of_its_kind(data, kinds):
    """And in the whole basis it is that in the image space."""
    settings = replace(SMALL, basis_share=1.0, negative_share=1.0, dropout=0.0)
    model = plus.build_networks(data, settings, kinds)
    objective = PlusObjective(settings, data, model, kinds)
    rows = torch.arange(30)
    (loss,) = objective.terms(objective.predict(model, rows), data.positive[rows], rows).values()
    unit = normalize(data.images, dim=-1)
    spread = (unit - unit.mean(0)).square().sum(1).mean().sqrt()
    each = []
    for name, kind in kinds.items():
        part = model.parts[name]
        assert part.basis.shape == (DY, DY) and part.members == kind["members"]
        for member in normalize(part.member_outputs(data.text[rows]) @ part.basis.T, dim=-1):
            each.append(cross_entropy(member @ unit.T / (kind["temperature"] * spread), data.positive[rows]))
    torch.testing.assert_close(loss, torch.stack(each).mean(), rtol=1e-4, atol=1e-5)


def test_members_start_apart_and_no_member_sees_another(data):
    """Each member moves as it would alone: the gradient of one does not depend on the others' weights."""
    settings = replace(SMALL, dropout=0.0, negative_share=1.0)
    model = networks(data, settings)
    part = model.parts["networks"]
    assert not torch.equal(part.weight_in[0], part.weight_in[1])
    objective = objective_of(data, model, settings)
    gradients = []
    for factor in (1.0, 3.0):
        with torch.no_grad():
            part.weight_out[1] *= factor
        model.zero_grad()
        rows = torch.arange(20)
        sum(objective.terms(objective.predict(model, rows), data.positive[rows], rows).values()).backward()
        gradients.append(part.weight_in.grad[0].clone())
    torch.testing.assert_close(gradients[0], gradients[1])


def test_biases_are_not_decayed(data):
    model = networks(data)
    part = model.parts["networks"]
    groups = {group["name"]: group for group in make_optimiser(model, SMALL).param_groups}
    assert {id(p) for p in groups["biases"]["params"]} == {id(part.bias_in), id(part.bias_out)}
    assert groups["biases"]["weight_decay"] == 0 < groups["weights"]["weight_decay"]


def test_the_average_weights_steps_by_a_power(data):
    model = networks(data)
    objective = objective_of(data, model)
    optimiser, seen = make_optimiser(model, SMALL), []
    for rows in torch.arange(200).split(40):
        train_step(model, objective, optimiser, rows)
        seen.append(model.parts["networks"].weight_out.detach().clone())
    power = SMALL.average_power
    steps = np.arange(1, len(seen) + 1)
    # Weights of the recursion a_t = a_(t-1) + s_t (x_t - a_(t-1)), s_t = 1 - (1 - 1/t)^(power + 1): t^p+1 - (t-1)^p+1.
    weight = steps ** (power + 1) - (steps - 1) ** (power + 1)
    expected = sum(w * x for w, x in zip((weight / weight.sum()).tolist(), seen, strict=True))
    average = objective.average.parts["networks"].weight_out.detach()
    torch.testing.assert_close(average, expected, rtol=1e-4, atol=1e-6)


KERNEL_SETTING = kernel.grid([1.0], [1e-3], [0.3])[0]
CHOSEN = Choice(
    networks={"networks": a_kind()},
    curves=[],
    closed_forms={
        "cca": {"setting": {"eps": 0.1, "scale": -1.0, "power": 1.0}, "mrr": 0.6},
        "kernel": {"setting": KERNEL_SETTING, "mrr": 0.6},
    },
    alone={"networks": 0.5, "kernel": 0.6, "cca": 0.6},
    weights={"networks": 0.5, "kernel": 0.3, "cca": 0.2},
    path=[{"added": "networks", "mrr": 0.5}],
    left_out=[],
)


def test_closed_forms_take_their_share_of_the_mean_and_are_not_trained(data):
    model = plus.build_chosen(data, SMALL, CHOSEN)
    part, cca_map = model.parts["networks"], model.parts["cca"]
    assert part.members == 2
    with torch.no_grad():  # its length does not count
        cca_map.matrix *= 3
        cca_map.bias *= 3
    before = {name: tensor.clone() for name, tensor in model.state_dict().items() if "networks" not in name}
    plus.train_plus(model, data, SMALL, CHOSEN)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    x = data.val_text
    of_networks = normalize(part(x), dim=-1)
    (affine,) = cca.maps(data, [CHOSEN.closed_forms["cca"]["setting"]])
    of_cca = normalize(x.double() @ torch.from_numpy(affine.matrix).T + torch.from_numpy(affine.bias), dim=-1).float()
    of_kernel = normalize(closed_forms.fit_kernel(data, KERNEL_SETTING, SMALL.landmarks)(x), dim=-1)
    expected = 0.5 * of_networks + 0.3 * of_kernel + 0.2 * of_cca
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)
    without = plus.build_chosen(data, SMALL, replace(CHOSEN, weights={"networks": 1.0}))
    plus.train_plus(without, data, SMALL, CHOSEN)
    assert list(without.parts) == ["networks"]
    assert torch.equal(without.parts["networks"].weight_out, part.weight_out)  # they do not depend on the others


@pytest.mark.slow
def test_closed_forms_join_where_the_folds_say_so(data):
    """Captions and images that a linear map joins but for noise, and hardly trained networks."""
    still = replace(SMALL, learning_rate=1e-9, epochs=1)
    choice = plus_search.search(data, still)
    of_networks = sum(weight for name, weight in choice.weights.items() if name in choice.networks)
    assert 0 < of_networks <= 0.5 and sum(choice.weights.values()) == pytest.approx(1)
    assert choice.closed_forms["cca"]["setting"] in cca.GRID
    assert choice.together > 1.5 * choice.path[0]["mrr"]
    assert choice.alone[choice.path[0]["added"]] == pytest.approx(choice.path[0]["mrr"])
    assert choice.together >= max(choice.alone.values()) - 0.02
    without = plus_search.search(data, replace(still, closed_forms=()))
    assert set(without.weights) == set(without.networks) and sum(without.weights.values()) == pytest.approx(1)


BOTH = replace(
    CHOSEN, networks=FLAT_AND_DEEP, weights={"networks": 0.3, "networks_blocks1_whitened50": 0.2, "kernel": 0.5}
)


def ending(flat, deep):
    """The choice of two kinds of networks that are trained so many epochs, and of nothing else."""
    (name, other), epochs = FLAT_AND_DEEP, (flat, deep)
    kinds = {of: Networks(**{**FLAT_AND_DEEP[of], "epochs": n}) for of, n in zip((name, other), epochs, strict=True)}
    return replace(CHOSEN, networks=kinds, weights={name: 0.5, other: 0.5})


AS_LONG = replace(SMALL, longer=1.0)
"""Each kind trains as many epochs as its choice says."""


def same(one, other):
    """Whether two modules hold the same bits."""
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("epochs", [(3, 3), (2, 4)])
def test_kinds_side_by_side_train_as_each_does_alone(data, epochs):
    """Where nothing is drawn and no gradient is cut; AdamW undoes that the mean makes gradients smaller."""
    settings = replace(AS_LONG, dropout=0.0, negative_share=1.0, clip_norm=1e6)
    choice = ending(*epochs)
    together = plus.build_chosen(data, settings, choice)
    start = copy.deepcopy(together)
    plus.train_plus(together, data, settings, choice)
    for name, kind in choice.networks.items():
        alone = Blend({name: start.parts[name]}, {name: 1.0})
        before = alone(data.val_text).detach()
        plus.train_plus(alone, data, settings, replace(choice, networks={name: kind}, weights={name: 1.0}))
        found = normalize(together.parts[name](data.val_text), dim=-1)
        torch.testing.assert_close(found, alone(data.val_text), rtol=0, atol=1e-4)
        assert (found - before).abs().max() > 0.1


def test_a_kind_whose_epochs_are_over_stands_still_while_the_other_goes_on(data):
    choice, after_epoch = ending(2, 4), []
    model = plus.build_chosen(data, AS_LONG, choice)
    given = plus.derived(AS_LONG, data)
    objective = PlusObjective(given, data, model, choice.networks)
    judged = objective.judged

    def watched(model):
        average = judged(model)
        after_epoch.append([copy.deepcopy(of.parts) for of in (model, average)])
        return average

    objective.judged = watched
    loop.fit(model, objective, "both")
    assert len(after_epoch) == given.epochs == 4
    for before, after, moves in zip(after_epoch, after_epoch[1:], (True, False, False), strict=False):
        for parts_before, parts in zip(before, after, strict=True):  # the weights, and their running average
            assert same(parts_before["networks"], parts["networks"]) != moves
            assert not same(parts_before["networks_blocks1_whitened50"], parts["networks_blocks1_whitened50"])
    both_ended = plus.build_chosen(data, AS_LONG, ending(2, 2))
    plus.train_plus(both_ended, data, AS_LONG, ending(2, 2))
    assert same(model.parts["networks"], both_ended.parts["networks"])


@pytest.mark.parametrize("after", [1, 3])
def test_two_kinds_resume_too_before_and_after_one_of_them_has_ended(data, monkeypatch, tmp_path, after):
    choice, save, path = ending(2, 4), Progress.save, tmp_path / "state.safetensors"

    def train(progress=None):
        model = plus.build_chosen(data, AS_LONG, choice)
        return model, plus.train_plus(model, data, AS_LONG, choice, progress)

    def crash(progress, state):
        save(progress, state)
        if len(state.history) == after:
            raise Stop

    progress = Progress(path, {}, every=0)
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "save", crash)
        with pytest.raises(Stop):
            train(progress)
    torch.manual_seed(99)
    (resumed, history), (model, expected) = train(progress), train()
    assert [entry["loss"] for entry in history] == [entry["loss"] for entry in expected]
    assert same(resumed, model)


def test_each_kind_trains_half_as_long_again_as_one_network_did(data):
    choice = ending(1, 2)
    assert [epochs_of_training(SMALL, epochs) for epochs in (1, 2)] == [2, 3]
    found = []
    for settings, made in ((SMALL, choice), (AS_LONG, ending(2, 3))):
        found.append(plus.build_chosen(data, settings, made))
        history = plus.train_plus(found[-1], data, settings, made)
    assert len(history) == 3 and same(*found)


def test_networks_that_are_trained_keep_their_weights_among_themselves(data):
    model = plus.build_chosen(data, SMALL, BOTH)
    assert list(model.parts) == list(BOTH.weights)
    trained = plus.trained_part(model)
    assert trained.weights == pytest.approx({"networks": 0.6, "networks_blocks1_whitened50": 0.4})
    assert all(trained.parts[name] is model.parts[name] for name in trained.parts)


@pytest.mark.parametrize("choice", [CHOSEN, BOTH])
def test_an_ensemble_of_any_choice_is_stored_and_loaded(data, tmp_path, choice):
    model = plus.build_chosen(data, SMALL, choice)
    plus.train_plus(model, data, SMALL, choice)
    shape = {"text_dim": DX, "image_dim": DY, **plus.shape_of(model, SMALL, choice)}
    storage.save_model(tmp_path, "bigjump_plus", model, {"architecture": shape})
    loaded, stored = storage.load_model(tmp_path, "bigjump_plus")
    assert stored["architecture"] == shape
    assert list(loaded.state_dict()) == list(model.state_dict()) and same(loaded, model)
    assert torch.equal(loaded(data.val_text), model.eval()(data.val_text))


def half_right(folds, bases, settings, network, *_):
    """Flat networks that know every even caption and nothing of the others, and deep ones the other way round."""
    translations = []
    for fold in folds:
        known = torch.arange(len(fold.val_text)) % 2 == network.blocks
        right, unknown = fold.val_images[fold.val_positive], fold.val_images.mean(0)
        translations.append(torch.where(known[:, None], right, unknown))
    return plus_search.Candidate([0.1, 0.5, 0.4 + network.blocks / 5], translations, 1.0)


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        (4, {"networks": (2, 2), "networks_blocks1": (3, 2)}),
        (3, {"networks_blocks1": (3, 2), "networks": (2, 1)}),
        (1, {"networks_blocks1": (3, 1)}),
    ],
)
def test_kinds_that_complement_each_other_are_chosen_as_far_as_there_are_networks(data, monkeypatch, members, expected):
    monkeypatch.setattr(plus_search, "train_candidate", half_right)
    few = {"temperatures": (0.05,), "whitenings": (0.0,), "blocks": (0, 1), "closed_forms": ()}
    settings = replace(SMALL, **few, members=members)
    choice = plus_search.search(data, settings)
    assert {name: (kind["epochs"], kind["members"]) for name, kind in choice.networks.items()} == expected
    assert choice.weights == dict.fromkeys(sorted(expected), pytest.approx(1 / len(expected)))
    assert choice.left_out == [] and set(choice.alone) == {"networks", "networks_blocks1"}
    assert choice.together == pytest.approx(1.0 if len(expected) == 2 else choice.alone["networks_blocks1"], abs=1e-6)
    model = plus.build_chosen(data, settings, choice)
    history = plus.train_plus(model, data, settings, choice)
    assert len(history) == epochs_of_training(settings, 3)
    built = build_model("bigjump_plus", DX, DY, **plus.shape_of(model, settings, choice))
    assert {name: of.shape for name, of in built.state_dict().items()} == {
        name: of.shape for name, of in model.state_dict().items()
    }


def candidate(mrr, value=0.0, given_up=False):
    """What a candidate may have become on two folds."""
    return plus_search.Candidate([0.1, mrr], [torch.full((2, DY), value)] * 2, 1.0, given_up)


def test_the_parts_are_weighed_beside_the_mean_of_nearly_equal_networks_of_their_kind():
    best, near, far = (plus_search.Network(t, 0.0, 0) for t in (0.04, 0.02, 0.08))
    white, deep = plus_search.Network(0.04, 0.5, 0), plus_search.Network(0.04, 0.0, 1)
    tried = {far: candidate(0.3, 9.0), near: candidate(0.395, 1.0), best: candidate(0.4, 2.0)}
    tried |= {white: candidate(0.4, 7.0), deep: candidate(0.3, 5.0)}
    for network, expected in ((best, 1.5), (white, 7.0), (deep, 5.0)):
        means = plus_search.mean_of_near(tried, network)
        assert len(means) == 2
        for mean in means:
            torch.testing.assert_close(mean, torch.full((2, DY), expected))


def test_of_each_kind_the_best_is_taken_the_best_kind_first_and_none_that_was_given_up():
    flat, cold = plus_search.Network(0.04, 0.0, 0), plus_search.Network(0.02, 0.0, 0)
    white, deep = plus_search.Network(0.04, 0.5, 0), plus_search.Network(0.04, 0.0, 1)
    tried = {flat: candidate(0.3), cold: candidate(0.35), white: candidate(0.34, given_up=True), deep: candidate(0.4)}
    found = plus_search.best_of_kinds(tried)
    assert list(found.items()) == [("networks_blocks1", deep), ("networks", cold)]
    only = {flat: candidate(0.3), cold: candidate(0.35, given_up=True), deep: candidate(0.4)}
    assert plus_search.best_of_kinds(only) == {"networks_blocks1": deep, "networks": flat}


@pytest.mark.parametrize(
    ("whitening", "blocks", "name"),
    [
        (0.0, 0, "networks"),
        (0.5, 0, "networks_whitened50"),
        (0.0, 1, "networks_blocks1"),
        (0.25, 2, "networks_blocks2_whitened25"),
    ],
)
def test_a_kind_is_named_by_what_it_is(whitening, blocks, name):
    assert kind_name(whitening, blocks) == name


@given(shares=st.lists(st.integers(1, 5), min_size=1, max_size=4), times=st.integers(1, 4))
def test_networks_are_dealt_in_proportion_to_the_weights(shares, times):
    weights = {str(number): share / sum(shares) for number, share in enumerate(shares)}
    expected = {str(number): times * share for number, share in enumerate(shares)}
    assert deal_members(weights, times * sum(shares)) == expected


@given(weights=st.lists(st.integers(1, 1000), min_size=1, max_size=5), more=st.integers(0, 20))
def test_every_kind_has_a_network_and_a_heavier_one_no_fewer(weights, more):
    dealt = deal_members(dict(enumerate(weights)), len(weights) + more)
    assert list(dealt) == list(range(len(weights)))
    assert min(dealt.values()) >= 1 and sum(dealt.values()) == len(weights) + more
    assert all(dealt[a] >= dealt[b] for a in dealt for b in dealt if weights[a] > weights[b])


@pytest.mark.parametrize(
    ("most", "left", "expected"),
    [
        (8, math.inf, {"a": 5, "b": 2, "c": 1}),
        (8, 8.0, {"a": 5, "b": 2, "c": 1}),
        (8, 4.5, {"a": 2, "b": 1, "c": 1}),
        (2, math.inf, {"a": 1, "b": 1}),  # fewer networks than kinds
        (8, 2.5, {"a": 1, "b": 1}),
        (8, 0.0, {"a": 1}),  # always one
        (8, -9.0, {"a": 1}),
        (1, math.inf, {"a": 1}),
    ],
)
def test_as_many_networks_are_trained_as_there_is_time_for_and_the_lightest_kinds_go_first(most, left, expected):
    weights = {"c": 0.1, "cca": 0.2, "a": 0.45, "b": 0.25}
    assert plus_search.affordable(weights, dict.fromkeys("cab", 1.0), most, left) == expected


def test_a_slow_kind_takes_more_of_the_time():
    weights = {"a": 0.5, "b": 0.5}
    assert plus_search.affordable(weights, {"a": 1.0, "b": 3.0}, 4, 8.0) == {"a": 2, "b": 2}
    assert plus_search.affordable(weights, {"a": 1.0, "b": 3.0}, 4, 7.0) == {"a": 2, "b": 1}


@pytest.mark.parametrize(
    ("captions", "at_most", "expected"),
    [(100, 6000, 100), (100, 40, 40), (6000, 6000, 6000), (60_000, 6000, 3162), (10**7, 6000, 1500), (10**7, 40, 40)],
)
def test_a_kernel_map_has_all_landmarks_of_few_captions_and_fewer_of_many(captions, at_most, expected):
    assert closed_forms.landmarks_for(captions, at_most) == expected
    work = captions * expected**2
    assert work <= closed_forms.KERNEL_WORK or expected in (at_most, closed_forms.SEARCH_LANDMARKS)


@pytest.mark.parametrize(
    ("mrr", "leader", "expected"),
    [
        ([0.3, 0.35], [0.3, 0.4], False),  # too early to say
        ([0.3, 0.36, 0.375], [0.32, 0.38, 0.4], True),
        ([0.3, 0.35, 0.395], [0.3, 0.38, 0.4], False),  # hardly behind
        ([0.1, 0.2, 0.35], [0.3, 0.38, 0.4], False),  # far behind, and catching up
        ([0.1, 0.2, 0.24], [0.3, 0.38, 0.4], True),
        ([0.1, 0.2, 0.24], [0.3, 0.38], False),  # the leader was not trained so long
        ([0.1, 0.2, 0.24], [], False),  # the first
    ],
)
def test_a_candidate_is_hopeless_where_it_is_far_behind_and_hardly_catches_up(mrr, leader, expected):
    assert plus_search.out_of_reach(mrr, leader) == expected


def tried_on_folds(data, settings=SMALL, **given):
    """What becomes of a candidate on two folds, and the folds."""
    made = [folds.make_fold(data, settings, fold) for fold in range(2)]
    bases = [plus.basis_for(fold, settings) for fold in made]
    return plus_search.train_candidate(made, bases, settings, plus_search.Network(0.05, 0.0, 0), "one", **given), made


def test_the_curve_of_a_candidate_is_the_mean_over_folds_and_its_translations_are_the_best(data):
    too_fast = replace(SMALL, learning_rate=0.03, epochs=8, patience=8)  # so that the last epoch is not the best
    found, made = tried_on_folds(data, too_fast)
    assert len(found.mrr) == 8 and found.mrr[found.epochs - 1] == max(found.mrr) and not found.given_up
    each = []
    for translations, fold in zip(found.translations, made, strict=True):
        scores = normalize(translations, dim=-1) @ normalize(fold.val_images, dim=-1).T
        own = scores.gather(1, fold.val_positive[:, None])
        each.append(float((1 / (1 + (scores > own).sum(1))).mean()))
    assert np.mean(each) == pytest.approx(max(found.mrr), abs=1e-3)


def test_a_hopeless_candidate_is_given_up_and_one_without_time_ends_after_an_epoch(data):
    still = replace(SMALL, learning_rate=1e-9, patience=9, epochs=6)
    hopeless, _ = tried_on_folds(data, still, leader=[0.99] * 6)
    assert hopeless.given_up and len(hopeless.mrr) == 3
    first, _ = tried_on_folds(data, still)
    assert not first.given_up and len(first.mrr) == 6 and first.mrr[:3] == hopeless.mrr
    late, _ = tried_on_folds(data, still, at_most=0.0)
    assert not late.given_up and late.mrr == first.mrr[:1]


@pytest.mark.slow
def test_validation_changes_neither_choice_nor_weights(data):
    results = []
    for val_images in (data.val_images, torch.flip(data.val_images, [0]) * 3):
        given = replace(data, val_images=val_images)
        choice = plus_search.search(given, SMALL)
        model = plus.build_chosen(given, SMALL, choice)
        history = plus.train_plus(model, given, SMALL, choice)
        results.append((choice, model.state_dict(), [entry["mrr"] for entry in history]))
    (choice, weights, mrr), (other_choice, other_weights, other_mrr) = results
    assert choice == other_choice and mrr != other_mrr
    assert all(torch.equal(weights[name], other_weights[name]) for name in weights)
    assert len(mrr) == np.ceil(1.5 * max(kind["epochs"] for kind in choice.networks.values()))


def test_folds_hold_out_training_images_and_differ(data):
    made = [folds.make_fold(data, SMALL, fold) for fold in range(3)]
    for fold_data in made:
        assert len(fold_data.images) + len(fold_data.val_images) == len(data.images)
        both = torch.cat([fold_data.images, fold_data.val_images])
        assert torch.equal(both[both[:, 0].argsort()], data.images[data.images[:, 0].argsort()])
        torch.testing.assert_close(
            fold_data.images[fold_data.positive].mean(0), fold_data.images.mean(0)
        )  # 4 captions an image
    assert not torch.equal(made[0].val_images, made[1].val_images)


@pytest.mark.parametrize(
    ("images", "captioned", "group_size"), [(60, 60, 1), (25, 25, 1), (60, 33, 1), (60, 60, 2), (60, 60, 5)]
)
def test_folds_of_one_order_share_no_image(images, captioned, group_size):
    data = small_data(n_images=images)
    kept = data.positive < captioned
    groups = np.random.default_rng(0).permutation(images) // group_size
    data = replace(data, text=data.text[kept], positive=data.positive[kept], groups=groups if group_size > 1 else None)
    held = folds.held_out(data, SMALL)
    seen = []
    for fold in range(10):
        fold_data = folds.make_fold(data, SMALL, fold)
        seen.append({tuple(image.tolist()) for image in fold_data.val_images})
        assert len(seen[-1]) == held
    of_one_order = captioned // held
    for lo in range(0, 10 // of_one_order * of_one_order, of_one_order):
        assert len(set.union(*seen[lo : lo + of_one_order])) == of_one_order * held
    assert len(set(map(frozenset, seen))) == 10


def test_groups_stay_together_in_folds(data):
    """Groups of three; the last image has no caption and goes where the rest of its group goes."""
    groups = np.arange(len(data.images)) // 3
    positive = data.positive[data.positive < len(data.images) - 1]
    grouped = replace(data, positive=positive, text=data.text[: len(positive)], groups=groups)
    group_of = {tuple(image.tolist()): group for image, group in zip(data.images, groups, strict=True)}
    held = []
    for fold in range(8):
        fold_data = folds.make_fold(grouped, SMALL, fold)
        sides = [
            {group_of[tuple(image.tolist())] for image in part} for part in (fold_data.images, fold_data.val_images)
        ]
        assert not sides[0] & sides[1] and len(fold_data.images) + len(fold_data.val_images) == len(data.images)
        assert len(fold_data.val_images) in (9, 12)  # ten of those with captions, in whole groups
        held.append(tuple(sorted(sides[1])))
    assert len(set(held)) > 1
    alone = folds.make_fold(replace(data, groups=np.arange(len(data.images))), SMALL, 0)
    assert torch.equal(alone.val_images, folds.make_fold(data, SMALL, 0).val_images)
    with pytest.raises(SplitError, match="near-duplicates that are too large.*group_duplicates to False"):
        folds.make_fold(replace(data, groups=np.zeros(len(data.images), dtype=int)), SMALL, 0)


def walked(settings, curve):
    """The walk over candidates whose MRR by epoch is `curve(network)`; what it chose and tried."""

    def attempt(network, tried):
        mrr = curve(network)
        return mrr and plus_search.Candidate(mrr, [], 1.0)

    return plus_search.choose_candidate(settings, attempt)


def test_the_search_walks_towards_the_better_temperature():
    settings = replace(SMALL, temperatures=(0.01, 0.02, 0.04, 0.06, 0.08), whitenings=(0.0,), blocks=(0,))
    chosen, tried = walked(settings, lambda network: [0.1, 0.5 - abs(network.temperature - 0.08), 0.2])
    assert chosen == (0.08, 0.0, 0)
    assert {network.temperature for network in tried} == {0.02, 0.04, 0.06, 0.08}  # 0.01 is not looked at
    assert walked(replace(settings, temperatures=(0.3,)), lambda _: [0.1])[0] == (0.3, 0.0, 0)


@pytest.mark.parametrize(("soft", "expected"), [(0.4019, 0.04), (0.4021, 0.08)])
def test_the_search_leaves_the_middle_temperature_for_a_clear_gain_alone(soft, expected):
    curves = {0.02: [0.3], 0.04: [0.4], 0.08: [soft]}
    chosen, _ = walked(replace(SMALL, temperatures=tuple(curves)), lambda network: curves[network.temperature])
    assert chosen.temperature == expected


@pytest.mark.parametrize(("white", "expected"), [(0.4019, 0.0), (0.4021, 0.5)])
def test_whitening_is_chosen_at_the_middle_temperature_for_a_clear_gain(white, expected):
    settings = replace(SMALL, temperatures=(0.02, 0.04, 0.08), blocks=(0,))
    chosen, tried = walked(settings, lambda at: [(white if at.whitening else 0.4) - (at.temperature != 0.04)])
    assert chosen == (0.04, expected, 0)
    assert set(tried) == {(0.04, 0.0, 0), (0.04, 0.5, 0), (0.02, expected, 0), (0.08, expected, 0)}


def test_a_deeper_network_that_is_better_has_its_own_temperature():
    settings = replace(SMALL, temperatures=(0.01, 0.02, 0.04, 0.06, 0.08), whitenings=(0.0,), blocks=(0, 1))
    best_at = {0: 0.04, 1: 0.01}
    chosen, tried = walked(settings, lambda at: [0.3 + 0.1 * at.blocks - abs(at.temperature - best_at[at.blocks])])
    assert chosen == (0.01, 0.0, 1)
    assert {at.temperature for at in tried if at.blocks} == {0.01, 0.02, 0.04}


def test_what_the_budget_has_no_time_for_is_not_chosen():
    settings = replace(SMALL, temperatures=(0.02, 0.04, 0.08))
    chosen, tried = walked(settings, lambda at: [0.4] if at == (0.04, 0.0, 0) else None)
    assert chosen == (0.04, 0.0, 0) and list(tried) == [chosen]


@pytest.mark.slow
def test_a_budget_bounds_the_search_and_says_what_it_left_out(data):
    choice = plus_search.search(data, replace(SMALL, budget=1e-6))
    assert len(choice.curves) == 1 and len(choice.curves[0]["mrr"]) == 1  # one candidate, and one epoch of it
    assert [kind["members"] for kind in choice.networks.values()] == [1]
    assert choice.left_out[-1] == "2 of 3 networks"
    assert any("temperature" in left for left in choice.left_out)
    assert plus_search.search(data, replace(SMALL, budget=60.0)) == plus_search.search(data, SMALL)


@pytest.mark.slow
def test_a_search_reports_the_curve_of_each_candidate_and_the_best_epoch(data):
    choice = plus_search.search(data, SMALL)
    mrr = {(curve["temperature"], curve["whitening"], curve["blocks"]): curve["mrr"] for curve in choice.curves}
    assert list(mrr) == sorted(mrr)
    assert choice.networks and sum(kind["members"] for kind in choice.networks.values()) == SMALL.members
    for name, kind in choice.networks.items():
        chosen = mrr[kind["temperature"], kind["whitening"], kind["blocks"]]
        assert name == kind_name(kind["whitening"], kind["blocks"])
        assert max(chosen) == chosen[kind["epochs"] - 1]
        assert max(chosen) == max(
            max(curve["mrr"])
            for curve in choice.curves
            if (curve["whitening"], curve["blocks"]) == (kind["whitening"], kind["blocks"]) and not curve["given_up"]
        )


def test_a_residual_network_is_what_its_formula_says():
    model = EnsembleMLP(DX, DY, 8, 0.3, members=2, rank=6, blocks=2).eval()
    x = torch.randn(5, DX)

    def norm(rows):
        return (rows - rows.mean(-1, keepdim=True)) / (rows.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()

    for k, found in enumerate(model.member_outputs(x)):
        h = x @ model.weight_in[k] + model.bias_in[k]
        for at in (0, 2):
            inside = norm(h) @ model.block_weights[at][k] + model.block_biases[at][k]
            h = h + torch.nn.functional.gelu(inside) @ model.block_weights[at + 1][k] + model.block_biases[at + 1][k]
        expected = torch.nn.functional.gelu(norm(h)) @ model.weight_out[k] + model.bias_out[k]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_whitened_input_is_an_affine_map_of_it_that_every_member_shares(data):
    model, plain = networks(data, whitening=0.5), networks(data).parts["networks"]
    part = model.parts["networks"]
    assert torch.equal(part.weight_in, plain.weight_in)
    fit_standardisation(model, data.text)
    x = data.text.double()
    values, vectors = torch.linalg.eigh(torch.cov(x.T, correction=0))
    values = values + 0.01 * values.mean()
    white = (x - x.mean(0)) @ (vectors * values**-0.25) @ vectors.T
    expected = white / white.std(0, correction=0)
    torch.testing.assert_close(part.standardise(data.text), expected.float(), rtol=1e-3, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):  # which would lose the small directions beside the large ones
        torch.testing.assert_close(part.standardise(data.text), expected.float(), rtol=1e-3, atol=1e-4)
    plus.train_plus(model, data, SMALL, replace(CHOSEN, networks={"networks": a_kind(whitening=0.5)}))
    torch.testing.assert_close(part.standardise(data.text), expected.float(), rtol=1e-3, atol=1e-4)  # not trained


@pytest.mark.parametrize(
    ("mrr", "over"),
    [
        ([0.3], False),
        ([0.3, 0.4, 0.39], False),
        ([0.3, 0.4, 0.39, 0.4], True),  # two epochs without a gain
        ([0.3, 0.4, 0.401, 0.4019], True),  # gains below half a percent, together too
        ([0.3, 0.4, 0.401, 0.4021], False),
        ([0.3, *[0.4] * 2], False),
        ([*np.linspace(0.1, 0.4, 17), *[0.4] * 4], False),  # later, a quarter of the epochs
        ([*np.linspace(0.1, 0.4, 17), *[0.4] * 5], True),
        ([0.0, 0.0], True),
    ],
)
def test_a_search_ends_on_its_plateau(mrr, over):
    assert plus_search.is_over(mrr, SMALL.patience) == over


def test_units_of_both_spaces_do_not_count(data):
    scaled = replace(
        data,
        text=data.text * 32,
        val_text=data.val_text * 32,
        images=data.images * 8,
        val_images=data.val_images * 8,
    )
    settings = replace(SMALL, epochs=2)
    outputs = []
    for side in (data, scaled):
        model = plus.build_chosen(side, settings, CHOSEN)
        plus.train_plus(model, side, settings, CHOSEN)
        outputs.append(model(side.val_text).detach())
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_recipe_learns(data):
    choice = plus_search.search(data, replace(SMALL, epochs=20))
    model, other = (plus.build_networks(data, SMALL, choice.networks) for _ in range(2))
    untrained = plus.train_plus(other, data, replace(SMALL, learning_rate=1e-9), choice)
    assert plus.train_plus(model, data, SMALL, choice)[-1]["mrr"] > untrained[-1]["mrr"] + 0.2


@pytest.mark.parametrize(("captions", "expected"), [(1, 1), (100, 100), (2000, 128), (4860, 303), (36_000, 512)])
def test_batch_size(captions, expected):
    assert plus.batch_size_for(captions, 512) == expected


@pytest.mark.parametrize(("dims", "share"), [(384, 1), (768, 0.5), (1536, 0.25), (192, 2), (10, 3)])
def test_the_learning_rate_falls_with_the_number_of_inputs(dims, share):
    assert plus.learning_rate_for(dims, 1e-3) == pytest.approx(share * 1e-3)


@pytest.mark.parametrize(
    ("dims", "kinds", "expected"),
    [
        ((384, 1280, 450), [(0.0, 0)], 4),
        ((1024, 1536, 700), [(0.5, 0)], 4),
        ((1024, 1536, 700), [(0.0, 1)], 4),
        ((1024, 1536, 700), [(0.0, 0), (0.5, 0), (0.5, 1)], 4),
        ((8, 8, 8), [(0.5, 0), (0.5, 1)], 4),
        pytest.param((9000, 9000, 9000), [(0.0, 0)], 1, marks=pytest.mark.slow),
    ],
)
def test_members_fill_the_parameter_budget(dims, kinds, expected):
    settings = PlusConfig()
    members = plus.members_for(*dims, settings, kinds)
    assert members == expected
    *widths, rank = dims
    parts = {}
    for whitening, blocks in kinds:
        hidden, count = plus.hidden_for(settings, blocks), 1 if parts else members - len(kinds) + 1
        of_kind = {"hidden": hidden, "members": count, "whitening": whitening, "blocks": blocks}
        parts[kind_name(whitening, blocks)] = of_kind
    weights = dict.fromkeys([*parts, "kernel", "cca"], 1 / (len(parts) + 2))
    model = build_model(
        "bigjump_plus", *widths, networks=parts, rank=rank, landmarks=settings.landmarks, weights=weights
    )
    count = sum(p.numel() for p in model.parameters()) + model.parts["kernel"].landmarks.numel()
    assert members == 1 or count <= settings.max_parameters


@pytest.mark.slow
def test_too_few_images_say_so():
    with pytest.raises(SplitError, match="3 training images with captions: a fold, .* needs 4 or more"):
        plus_search.search(small_data(n_images=3), SMALL)
    choice = plus_search.search(small_data(n_images=4), SMALL)
    assert all(1 <= kind["epochs"] <= SMALL.epochs for kind in choice.networks.values())


@pytest.mark.parametrize(("n", "expected"), [(4, 2), (12, 4), (20, 6), (45, 10), (100, 10), (250, 25), (7282, 728)])
def test_held_out_images_are_never_one_alone(n, expected):
    positive = torch.arange(n).repeat(2)
    data = TrainingData(positive, positive, positive, positive, positive, positive)
    assert folds.held_out(data, PlusConfig()) == expected


@pytest.mark.slow
def test_images_without_captions_are_negatives_and_never_held_out():
    data = small_data(n_images=14)
    kept = data.positive < 6
    data = replace(data, text=data.text[kept], positive=data.positive[kept])
    for fold in range(10):
        fold_data = folds.make_fold(data, SMALL, fold)
        assert len(fold_data.val_images) == 2 == len(fold_data.val_positive.unique()) and len(fold_data.images) == 12
        assert set(fold_data.positive.tolist()) | {*range(4, 12)} == set(range(12))
        for side in (
            (fold_data.text, fold_data.images[fold_data.positive]),
            (fold_data.val_text, fold_data.val_images[fold_data.val_positive]),
        ):
            for text, image in zip(*side, strict=True):
                row = int((data.text == text).all(1).nonzero()[0])
                assert torch.equal(data.images[data.positive[row]], image)
    assert all(kind["epochs"] >= 1 for kind in plus_search.search(data, SMALL).networks.values())


@pytest.mark.parametrize("image", [torch.ones(DY), torch.randn(DY, generator=torch.Generator().manual_seed(0))])
def test_equal_images_are_an_error_that_says_so(image):
    data = small_data(n_images=33)  # of a number of equal vectors that is no power of two, the mean rounds
    with pytest.raises(SplitError, match="same direction"):
        plus_search.search(replace(data, images=image.expand_as(data.images).clone()), SMALL)


@pytest.mark.parametrize(
    ("name", "value"),
    [("members", 2.5), ("epochs", 10.5), ("temperatures", 0.03), ("temperatures", ["a"]), ("dropout", "0.1"),
     ("mixed_precision", 1), ("patience", True)],
)  # fmt: skip
def test_a_setting_of_another_type_is_named(name, value):
    with pytest.raises(ConfigError, match=name):
        PlusConfig(**{name: value})


def test_whole_numbers_and_lists_will_do_for_floats_and_tuples():
    assert PlusConfig(average_power=3, temperatures=[1, 2]).temperatures == (1, 2)


def run_in(folder: Path) -> SimpleNamespace:
    """What training asks of a run."""
    return SimpleNamespace(
        directory=folder,
        data=SimpleNamespace(text_dim=DX, image_dim=DY),
        training_data=small_data(seed=3),
        has=lambda name: False,
        stored=lambda name: {},
        metadata=lambda settings, **more: {"architecture": {"text_dim": DX, "image_dim": DY}, "settings": 1, **more},
    )


@pytest.mark.slow
def test_a_choice_of_another_version_is_searched_again(tmp_path):
    run = run_in(tmp_path)
    older = {name: value for name, value in vars(CHOSEN).items() if name != "networks"}
    unfinished = tmp_path / "models" / ".bigjump_plus" / "choice.json"
    unfinished.parent.mkdir(parents=True)
    unfinished.write_text(json.dumps({"metadata": run.metadata(SMALL), "choice": older}))
    recipes.train(run, "bigjump_plus", SMALL)
    choice = Choice(**storage.load_metadata(tmp_path, "bigjump_plus")["choice"])
    assert {kind["whitening"] for kind in choice.networks.values()} <= set(SMALL.whitenings)


@pytest.mark.slow
def test_an_interrupted_run_goes_on_without_searching_again(monkeypatch, tmp_path):
    def train(folder):
        return recipes.train(run_in(tmp_path / folder), "bigjump_plus", SMALL)

    whole = train("whole")
    assert len(whole) > 1
    real, saved = Progress.save, []

    def crash(progress, state):
        real(progress, state)
        saved.append(1)
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "save", crash)
        patch.setattr(recipes, "Progress", partial(Progress, every=0))
        with pytest.raises(Stop):
            train("crashed")
    monkeypatch.setattr(plus_search, "search", lambda *_: pytest.fail("searched again"))
    resumed = train("crashed")
    assert [entry["loss"] for entry in resumed] == [entry["loss"] for entry in whole]
    weights = [load_file(tmp_path / f / "models" / "bigjump_plus.safetensors") for f in ("whole", "crashed")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    left = {path.name for path in (tmp_path / "crashed" / "models").iterdir()}
    assert left == {"bigjump_plus.safetensors"}
