"""The recipe plus: its loss, its ensemble, what it derives from the data, and that validation chooses nothing."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy, normalize

from helpers.data.training_data import TrainingData
from helpers.errors import ConfigError, SplitError
from helpers.models import cca, kernel, storage
from helpers.models.build import build_model
from helpers.models.networks import Blend, ByteDropout, EnsembleMLP, fit_standardisation
from helpers.runs import recipes
from helpers.training import closed_forms, folds, infonce, losses, plus, plus_search
from helpers.training.loop import make_optimiser
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
    model = plus.build_networks(data, SMALL, 2)
    assert model.basis.shape == (DY, 8) and model.weight_out.shape[-1] == 8  # of 3 to 5, the next multiple of 8
    unit = normalize(data.images.double(), dim=-1)
    basis = model.basis.double()
    mean, centred = unit.mean(0), unit - unit.mean(0)
    torch.testing.assert_close(basis.T @ basis, torch.eye(basis.shape[1]).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(basis @ (basis.T @ mean), mean, rtol=1e-5, atol=1e-6)
    assert (centred @ basis).square().sum() >= SMALL.basis_share * centred.square().sum()
    before = model.basis.clone()
    plus.train_plus(alone(model), data, SMALL, CHOSEN)
    assert torch.equal(model.basis, before)
    assert not plus.PlusObjective(SMALL, data, model, 0.05, searching=False).negative_bank.requires_grad


def test_the_loss_in_the_whole_basis_is_that_in_the_image_space(data):
    model = plus.build_networks(data, replace(SMALL, basis_share=1.0, negative_share=1.0, dropout=0.0), 2)
    objective = plus.PlusObjective(replace(SMALL, negative_share=1.0), data, model, 0.05, searching=False)
    assert model.basis.shape == (DY, DY)
    rows = torch.arange(30)
    (loss,) = objective.terms(objective.predict(model, rows), data.positive[rows], rows).values()
    translations = normalize(model.member_outputs(data.text[rows]) @ model.basis.T, dim=-1)
    unit = normalize(data.images, dim=-1)
    spread = (unit - unit.mean(0)).square().sum(1).mean().sqrt()
    each = [cross_entropy(member @ unit.T / (0.05 * spread), data.positive[rows]) for member in translations]
    torch.testing.assert_close(loss, torch.stack(each).mean(), rtol=1e-4, atol=1e-5)


def test_members_start_apart_and_no_member_sees_another(data):
    """Each member moves as it would alone: the gradient of one does not depend on the others' weights."""
    alone = replace(SMALL, dropout=0.0, negative_share=1.0)
    model = plus.build_networks(data, alone, members=2)
    assert not torch.equal(model.weight_in[0], model.weight_in[1])
    objective = plus.PlusObjective(alone, data, model, 0.05, searching=False)
    gradients = []
    for factor in (1.0, 3.0):
        with torch.no_grad():
            model.weight_out[1] *= factor
        model.zero_grad()
        rows = torch.arange(20)
        sum(objective.terms(objective.predict(model, rows), data.positive[rows], rows).values()).backward()
        gradients.append(model.weight_in.grad[0].clone())
    torch.testing.assert_close(gradients[0], gradients[1])


def test_biases_are_not_decayed(data):
    model = plus.build_networks(data, SMALL, 2)
    groups = {group["name"]: group for group in make_optimiser(model, SMALL).param_groups}
    assert {id(p) for p in groups["biases"]["params"]} == {id(model.bias_in), id(model.bias_out)}
    assert groups["biases"]["weight_decay"] == 0 < groups["weights"]["weight_decay"]


def test_the_average_weights_steps_by_a_power(data):
    model = plus.build_networks(data, SMALL, 2)
    objective = plus.PlusObjective(SMALL, data, model, 0.05, searching=False)
    optimiser, seen = make_optimiser(model, SMALL), []
    for rows in torch.arange(200).split(40):
        train_step(model, objective, optimiser, rows)
        seen.append(model.weight_out.detach().clone())
    power = SMALL.average_power
    steps = np.arange(1, len(seen) + 1)
    # Weights of the recursion a_t = a_(t-1) + s_t (x_t - a_(t-1)), s_t = 1 - (1 - 1/t)^(power + 1): t^p+1 - (t-1)^p+1.
    weight = steps ** (power + 1) - (steps - 1) ** (power + 1)
    expected = sum(w * x for w, x in zip((weight / weight.sum()).tolist(), seen, strict=True))
    torch.testing.assert_close(objective.average.weight_out.detach(), expected, rtol=1e-4, atol=1e-6)


KERNEL_SETTING = kernel.grid([1.0], [1e-3], [0.3])[0]
CHOSEN = plus.Choice(
    temperature=0.05,
    whitening=0.0,
    blocks=0,
    epochs=3,
    mrr=0.5,
    curves=[],
    closed_forms={
        "cca": {"setting": {"eps": 0.1, "scale": -1.0, "power": 1.0}, "mrr": 0.6},
        "kernel": {"setting": KERNEL_SETTING, "mrr": 0.6},
    },
    alone={"networks": 0.5, "kernel": 0.6, "cca": 0.6},
    weights={"networks": 0.5, "kernel": 0.3, "cca": 0.2},
    path=[{"added": "networks", "mrr": 0.5}],
    members=2,
    left_out=[],
)


def alone(networks):
    """Networks that nothing joins."""
    return Blend({"networks": networks}, {"networks": 1.0})


def test_closed_forms_take_their_share_of_the_mean_and_are_not_trained(data):
    model = plus.build_chosen(data, SMALL, CHOSEN)
    networks, cca_map, kernel_map = (model.parts[name] for name in ("networks", "cca", "kernel"))
    assert networks.members == 2
    with torch.no_grad():  # its length does not count
        cca_map.matrix *= 3
        cca_map.bias *= 3
    before = {name: tensor.clone() for name, tensor in model.state_dict().items() if "networks" not in name}
    plus.train_plus(model, data, SMALL, CHOSEN)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    x = data.val_text
    of_networks = normalize(networks(x), dim=-1)
    (affine,) = cca.maps(data, [CHOSEN.closed_forms["cca"]["setting"]])
    of_cca = normalize(x.double() @ torch.from_numpy(affine.matrix).T + torch.from_numpy(affine.bias), dim=-1).float()
    of_kernel = normalize(closed_forms.fit_kernel(data, KERNEL_SETTING, SMALL.landmarks)(x), dim=-1)
    expected = 0.5 * of_networks + 0.3 * of_kernel + 0.2 * of_cca
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)
    without = plus.build_chosen(data, SMALL, replace(CHOSEN, weights={"networks": 1.0}))
    plus.train_plus(without, data, SMALL, CHOSEN)
    assert list(without.parts) == ["networks"]
    assert torch.equal(without.parts["networks"].weight_out, networks.weight_out)  # they do not depend on the others


@pytest.mark.slow
def test_closed_forms_join_where_the_folds_say_so(data):
    """Captions and images that a linear map joins but for noise, and hardly trained networks."""
    still = replace(SMALL, learning_rate=1e-9, epochs=1)
    choice = plus_search.search(data, still)
    assert choice.weights["networks"] <= 0.5 and sum(choice.weights.values()) == pytest.approx(1)
    assert choice.closed_forms["cca"]["setting"] in cca.GRID
    assert choice.together > 1.5 * choice.path[0]["mrr"]
    assert choice.alone["networks"] == pytest.approx(choice.path[0]["mrr"])
    assert choice.together >= max(choice.alone.values()) - 0.02
    assert plus_search.search(data, replace(still, closed_forms=())).weights == {"networks": 1.0}


def test_the_parts_are_weighed_beside_the_mean_of_nearly_equal_networks():
    def candidate(mrr, value):
        return plus_search.Candidate([0.1, mrr], [], [torch.full((2, DY), value)] * 2, 1.0)

    best, near, far = (plus_search.Network(t, 0.0, 0) for t in (0.04, 0.02, 0.08))
    tried = {far: candidate(0.3, 9.0), near: candidate(0.395, 1.0), best: candidate(0.4, 2.0)}
    means = plus_search.mean_of_near(tried, best)
    assert len(means) == 2
    for mean in means:
        torch.testing.assert_close(mean, torch.full((2, DY), 1.5))


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
def test_a_hopeless_candidate_is_given_up(data, mrr, leader, expected):
    assert plus.out_of_reach(mrr, leader) == expected
    history = [{"epoch": epoch, "mrr": value} for epoch, value in enumerate(mrr, start=1)]
    objective = plus.PlusObjective(SMALL, data, plus.build_networks(data, SMALL, 1), 0.05, True, leader)
    assert objective.is_over(history) == expected


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
    assert len(mrr) == np.ceil(1.5 * choice.epochs)


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
        return mrr and plus_search.Candidate(mrr, [mrr], [], 1.0)

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
    assert choice.members == 1
    assert choice.left_out[-1] == "2 of 3 networks"
    assert any("temperature" in left for left in choice.left_out)
    assert plus_search.search(data, replace(SMALL, budget=60.0)) == plus_search.search(data, SMALL)


@pytest.mark.slow
def test_a_search_reports_the_curve_of_each_candidate_and_the_best_epoch(data):
    choice = plus_search.search(data, SMALL)
    mrr = {(curve["temperature"], curve["whitening"], curve["blocks"]): curve["mrr"] for curve in choice.curves}
    assert list(mrr) == sorted(mrr)
    chosen = mrr[choice.temperature, choice.whitening, choice.blocks]
    assert choice.mrr == max(chosen) == chosen[choice.epochs - 1]


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
    model = plus.build_networks(data, SMALL, 2, whitening=0.5)
    plain = plus.build_networks(data, SMALL, 2)
    assert torch.equal(model.weight_in, plain.weight_in)
    fit_standardisation(model, data.text)
    x = data.text.double()
    values, vectors = torch.linalg.eigh(torch.cov(x.T, correction=0))
    values = values + 0.01 * values.mean()
    white = (x - x.mean(0)) @ (vectors * values**-0.25) @ vectors.T
    expected = white / white.std(0, correction=0)
    torch.testing.assert_close(model.standardise(data.text), expected.float(), rtol=1e-3, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):  # which would lose the small directions beside the large ones
        torch.testing.assert_close(model.standardise(data.text), expected.float(), rtol=1e-3, atol=1e-4)
    plus.train_plus(alone(model), data, SMALL, replace(CHOSEN, whitening=0.5))
    torch.testing.assert_close(model.standardise(data.text), expected.float(), rtol=1e-3, atol=1e-4)  # not trained


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
def test_a_search_ends_on_its_plateau_and_a_training_does_not(data, mrr, over):
    history = [{"epoch": epoch, "mrr": value} for epoch, value in enumerate(mrr, start=1)]
    model = plus.build_networks(data, SMALL, 1)
    assert plus.PlusObjective(SMALL, data, model, 0.05, searching=True).is_over(history) == over
    assert not plus.PlusObjective(SMALL, data, model, 0.05, searching=False).is_over(history)


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
    for given in (data, scaled):
        model = plus.build_chosen(given, settings, CHOSEN)
        plus.train_plus(model, given, settings, CHOSEN)
        outputs.append(model(given.val_text).detach())
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_recipe_learns(data):
    choice = plus_search.search(data, replace(SMALL, epochs=20))
    model = alone(plus.build_networks(data, SMALL, 3))
    still = replace(SMALL, learning_rate=1e-9)
    untrained = plus.train_plus(alone(plus.build_networks(data, still, 3)), data, still, replace(choice, epochs=1))
    assert plus.train_plus(model, data, SMALL, choice)[-1]["mrr"] > untrained[-1]["mrr"] + 0.2


@pytest.mark.parametrize(("captions", "expected"), [(1, 1), (100, 100), (2000, 128), (4860, 303), (36_000, 512)])
def test_batch_size(captions, expected):
    assert plus.batch_size_for(captions, 512) == expected


@pytest.mark.parametrize(("dims", "share"), [(384, 1), (768, 0.5), (1536, 0.25), (192, 2), (10, 3)])
def test_the_learning_rate_falls_with_the_number_of_inputs(dims, share):
    assert plus.learning_rate_for(dims, 1e-3) == pytest.approx(share * 1e-3)


@pytest.mark.parametrize(
    ("dims", "blocks", "expected"),
    [
        ((384, 1280, 450), 0, 4),
        ((1024, 1536, 700), 0, 4),
        ((1024, 1536, 700), 1, 4),
        ((8, 8, 8), 0, 4),
        pytest.param((9000, 9000, 9000), 0, 1, marks=pytest.mark.slow),
    ],
)
def test_members_fill_the_parameter_budget(dims, blocks, expected):
    settings = PlusConfig()
    members = plus.members_for(*dims, settings, blocks)
    assert members == expected
    *widths, rank = dims
    shape = {"hidden": plus.hidden_for(settings, blocks), "members": members, "rank": rank, "whitening": 0.5}
    shape |= {"blocks": blocks, "landmarks": settings.landmarks}
    model = build_model("bigjump_plus", *widths, **shape, weights={"networks": 0.5, "kernel": 0.25, "cca": 0.25})
    count = sum(p.numel() for p in model.parameters()) + model.parts["kernel"].landmarks.numel()
    assert members == 1 or count <= settings.max_parameters


@pytest.mark.slow
def test_too_few_images_say_so():
    with pytest.raises(SplitError, match="3 training images with captions: a fold, .* needs 4 or more"):
        plus_search.search(small_data(n_images=3), SMALL)
    assert 1 <= plus_search.search(small_data(n_images=4), SMALL).epochs <= SMALL.epochs


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
    assert plus_search.search(data, SMALL).epochs >= 1


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


class Stop(Exception):
    """Stands for a crash."""


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
    older = {name: value for name, value in vars(CHOSEN).items() if name != "whitening"}
    unfinished = tmp_path / "models" / ".bigjump_plus" / "choice.json"
    unfinished.parent.mkdir(parents=True)
    unfinished.write_text(json.dumps({"metadata": run.metadata(SMALL), "choice": older}))
    recipes.train(run, "bigjump_plus", SMALL)
    choice = plus.Choice(**storage.load_metadata(tmp_path, "bigjump_plus")["choice"])
    assert choice.whitening in SMALL.whitenings


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
