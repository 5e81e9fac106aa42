"""CSA, SAIL, FuseMix, STRUCTURE and the residual MLP against their papers' formulas, written out naively."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from benchmarks.baselines import METHODS, canonical, fusemix, heads, residual, sail, structure
from benchmarks.baselines.closed import fold_mrr, grid
from benchmarks.baselines.method import SEARCH_SEED
from helpers.data.training_data import TrainingData
from helpers.evaluation import metrics
from helpers.training.settings import OptimiserConfig

IMAGES = torch.tensor([0, 3, 0, 2, 5, 3])
TWO_SIDED = ["csa_two_sided", "sail_two_sided", "fusemix_two_sided"]


@pytest.fixture(scope="module")
def data() -> TrainingData:
    """Three captions of each of forty images, and fifteen of five more, whose vectors are mixtures of five latents."""
    generator = torch.Generator().manual_seed(0)
    to_text, to_image = torch.randn(5, 9, generator=generator), torch.randn(5, 12, generator=generator)
    latent, val_latent = torch.randn(40, 5, generator=generator), torch.randn(5, 5, generator=generator)

    def captions(of: torch.Tensor) -> torch.Tensor:
        return torch.tanh(of @ to_text) + 0.2 * torch.randn(len(of), 9, generator=generator) + 2

    positive, val_positive = torch.arange(120) % 40, torch.arange(15) % 5
    val = captions(val_latent[val_positive]), val_latent @ to_image + 1, val_positive
    return TrainingData(captions(latent[positive]), positive, latent @ to_image + 1, *val)


def unit(rows: int, width: int, seed: int) -> torch.Tensor:
    return normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def csa_scores(data: TrainingData, eps: float, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """(V, G) similarities of CSA and their numerators, from the eigenvectors of C_x^{-1} C_xy C_y^{-1} C_yx."""
    x = data.text.double().numpy()
    unit_images = normalize(data.images.double()).numpy()
    y = unit_images[data.positive]
    mean_x, mean_y, n = x.mean(0), y.mean(0), len(x)
    x, y = x - mean_x, y - mean_y
    c_x, c_y, c_xy = x.T @ x / n, y.T @ y / n, x.T @ y / n
    c_x += eps * np.trace(c_x) / len(c_x) * np.eye(len(c_x))
    c_y += eps * np.trace(c_y) / len(c_y) * np.eye(len(c_y))
    values, a = np.linalg.eig(np.linalg.solve(c_x, c_xy) @ np.linalg.solve(c_y, c_xy.T))
    order = np.argsort(-values.real)[:rank]
    rho, a = np.sqrt(values.real[order]), a.real[:, order]
    a /= np.sqrt(np.einsum("ik,ij,jk->k", a, c_x, a))  # unit variance of every canonical coordinate
    b = np.linalg.solve(c_y, c_xy.T @ a) / rho
    u = (data.val_text.double().numpy() - mean_x) @ a
    v = (normalize(data.val_images.double()).numpy() - mean_y) @ b
    numerators = np.array([[sum(rho * one * other) for other in v] for one in u])
    lengths = np.linalg.norm(u, axis=1)[:, None] * np.linalg.norm(v, axis=1)[None, :]
    return numerators / lengths, numerators


def ranks_of(scores: np.ndarray, targets: torch.Tensor) -> list[int]:
    return [1 + int((row > row[t]).sum()) for row, t in zip(scores, targets.tolist(), strict=True)]


@pytest.mark.parametrize("rank", [2, 4])
def test_two_sided_csa_ranks_as_the_papers_similarity_and_the_translator_as_its_numerator(data, rank):
    setting = grid(eps=(1e-2,), rank=(rank,))
    similarity, numerator = csa_scores(data, 1e-2, rank)
    two_sided, one_sided = (
        next(solve(data, setting, 0)) for solve in (canonical.solve_csa_two_sided, canonical.solve_csa)
    )
    found = metrics.ranks(two_sided.predict(data.val_text), two_sided.images(data.val_images), data.val_positive)
    assert found.tolist() == ranks_of(similarity, data.val_positive)
    assert two_sided.predict(data.val_text).shape == (15, rank) and two_sided.two_sided
    translation = one_sided.predict(data.val_text).double()
    product = (translation @ normalize(data.val_images.double()).T).numpy()
    difference = product - numerator  # a constant of each caption: the images' mean
    assert np.ptp(difference, axis=1).max() < 1e-4 * np.abs(numerator).max() and not one_sided.two_sided


def test_the_sigmoid_loss_equals_loops():
    z, y, scale, bias = unit(6, 4, 0), unit(6, 4, 1), 5.0, -2.0
    y = y[[0, 1, 0, 3, 4, 1]]  # images of captions of one image are one
    total = 0.0
    for i in range(6):
        for j in range(6):
            label = 1 if IMAGES[i] == IMAGES[j] else -1
            total -= math.log(sigmoid(label * (scale * float(z[i] @ y[j]) + bias)))
    scalars = torch.tensor(scale, dtype=torch.float64), torch.tensor(bias, dtype=torch.float64)
    assert float(sail.sigmoid_loss(z, y, IMAGES, *scalars)) == pytest.approx(total / 36)


def test_a_gated_head_is_what_its_formula_says():
    torch.manual_seed(0)
    head = sail.GatedHead(5, 3, 0).eval()
    x = torch.randn(4, 5)
    centred = x - x.mean(1, keepdim=True)
    normed = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
    gate = (normed @ head.gate.weight.T + head.gate.bias).clamp(0, 6)
    expected = (gate * (normed @ head.value.weight.T + head.value.bias)) @ head.out.weight.T + head.out.bias
    assert head.gate.out_features == 40
    torch.testing.assert_close(head(x), expected)


def test_lion_steps_by_the_sign_of_its_interpolated_momentum():
    start, rate, decay = torch.tensor([[1.0, -2.0, 3.0]]), 0.1, 0.5
    model = torch.nn.Linear(3, 1, bias=False)
    model.weight.data.copy_(start)
    optimiser = sail.lion(model, replace(OptimiserConfig(), learning_rate=rate, weight_decay=decay))
    weights, momentum = start[0].tolist(), [0.0] * 3
    for gradient in ([0.5, -0.5, 0.1], [-0.02, 0.02, -3.0], [0.0, 1.0, 1.0]):
        model.weight.grad = torch.tensor([gradient])
        optimiser.step()
        for k, g in enumerate(gradient):
            update = 0.9 * momentum[k] + 0.1 * g
            weights[k] = weights[k] - rate * decay * weights[k] - rate * float(np.sign(update))
            momentum[k] = 0.99 * momentum[k] + 0.01 * g
    torch.testing.assert_close(model.weight.data, torch.tensor([weights]))


def test_only_matrices_decay():
    model = heads.Heads(sail.GatedHead(5, 3, 4), None, log_scale=1.0, bias=-1.0)
    matrices, rest = heads.decayed_matrices(model, replace(OptimiserConfig(), weight_decay=0.3))
    assert (matrices["weight_decay"], rest["weight_decay"]) == (0.3, 0.0)
    assert {p.ndim for p in matrices["params"]} == {2} and len(matrices["params"]) == 3
    assert len(matrices["params"]) + len(rest["params"]) == len(list(model.parameters()))


def test_fusemix_mixes_captions_and_images_with_one_share_and_trains_on_the_mixtures(data):
    settings = fusemix.FuseMixConfig(hidden=8, dropout=0.0)
    model, objective = fusemix.build_fusemix(settings, data)
    rows = torch.tensor([4, 40, 81, 7, 99])  # odd: the caption in the middle stands in both halves
    torch.manual_seed(3)
    text, images = objective.inputs(rows)
    torch.manual_seed(3)
    share = float(torch.distributions.Beta(1.0, 1.0).sample())
    for k, (i, j) in enumerate(((4, 81), (40, 7), (81, 99))):
        torch.testing.assert_close(text[k], share * data.text[i] + (1 - share) * data.text[j])
        first, second = (data.images[data.positive[row]] for row in (i, j))
        expected = share * first / first.norm() + (1 - share) * second / second.norm()
        torch.testing.assert_close(images[k], expected)
    torch.manual_seed(3)
    loss = objective.terms(objective.predict(model, rows), data.positive[rows], rows)["loss"]
    e = (normalize(model(text)) @ normalize(images).T / settings.temperature).double().exp().tolist()
    terms = [-math.log(e[k][k] / sum(e[k])) for k in range(3)]
    terms += [-math.log(e[k][k] / sum(row[k] for row in e)) for k in range(3)]
    assert loss.item() == pytest.approx(np.mean(terms), rel=1e-4)


def test_the_temperature_of_fusemix_is_trained_within_its_bounds(data):
    model, objective = fusemix.build_fusemix(fusemix.FuseMixConfig(hidden=8), data)
    rows = torch.arange(20)
    objective.terms(objective.predict(model, rows), data.positive[rows], rows)["loss"].backward()
    assert float(model.temperature.grad.abs()) > 0
    for value, kept in ((1e-5, 0.001), (7.0, 0.5), (0.2, 0.2)):
        model.temperature.data.fill_(value)
        objective.end_step(data.positive[rows])
        assert model.temperature.item() == pytest.approx(kept)


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def naive_walk(rows: np.ndarray, temperature: float) -> np.ndarray:
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows - rows.mean(0)
    e = np.array([[math.exp(float(a @ b) / temperature) for b in rows] for a in rows])
    return e / e.sum(1, keepdims=True)


@pytest.mark.parametrize("levels", [1, 3])
def test_the_structure_term_equals_loops(levels):
    text, translated = (torch.randn(7, width, generator=torch.Generator().manual_seed(width)) for width in (5, 4))
    p, q = naive_walk(text.double().numpy(), 0.3), naive_walk(translated.double().numpy(), 0.3)
    total = 0.0
    for level in range(1, levels + 1):
        rows = zip(np.linalg.matrix_power(p, level), np.linalg.matrix_power(q, level), strict=True)
        js = [(kl(a, (a + b) / 2) + kl(b, (a + b) / 2)) / 2 for a, b in rows]
        total += np.mean(js) / level
    assert float(structure.structure_loss(text, translated, 0.3, levels)) == pytest.approx(total / levels, rel=1e-4)


def test_the_structure_term_is_zero_for_a_turned_and_scaled_copy():
    text, turn = torch.randn(6, 5), torch.linalg.qr(torch.randn(5, 5)).Q
    assert float(structure.structure_loss(text, 3 * text @ turn, 0.05, 2)) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("temperature", [0.3, 1e-3])  # at the second, all chances but one vanish
def test_the_structure_term_has_finite_gradients(temperature):
    translated = torch.randn(6, 5, requires_grad=True)
    structure.structure_loss(torch.randn(6, 5), translated, temperature, 2).backward()
    assert translated.grad.isfinite().all() and (temperature < 0.1 or translated.grad.abs().sum() > 0)


def test_gradients_of_the_losses_are_those_of_finite_differences():
    z, y = unit(6, 4, 0).requires_grad_(), unit(6, 4, 1).requires_grad_()
    scale, bias = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (5.0, -2.0))
    assert torch.autograd.gradcheck(
        lambda *parts: sail.sigmoid_loss(parts[0], parts[1], IMAGES, *parts[2:]), (z, y, scale, bias)
    )
    temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(fusemix.pair_infonce, (z, y, temperature))
    p, q = (torch.rand(4, 4, dtype=torch.float64).softmax(1).requires_grad_() for _ in range(2))
    assert torch.autograd.gradcheck(structure.jensen_shannon, (p, q))


def test_the_residual_mlp_is_the_published_one():
    model = residual.ResidualMLP(1024, 1536, 3072, 0.1)
    kinds = ["Linear", "LayerNorm", "GELU", "Dropout"]
    assert [type(layer).__name__ for layer in (*model.stem, *model.block)] == kinds * 3
    shapes = [tuple(p.shape) for p in model.parameters() if p.ndim == 2]
    assert shapes == [(3072, 1024), (3072, 3072), (3072, 3072), (1536, 3072)]
    model = residual.ResidualMLP(9, 6, 12, 0.5).eval()
    torch.nn.init.zeros_(model.block[5].weight)  # the last norm: GELU of zero is zero
    x = torch.randn(7, 9)
    torch.testing.assert_close(model(x), model.head(model.stem(x)))
    settings = METHODS["residual_300"].settings
    kept = (settings.epochs, settings.batch_size, settings.learning_rate, settings.weight_decay, settings.temperature)
    assert kept == (300, 4096, 3e-4, 0.0, 0.01)


def test_captions_of_an_image_share_a_batch_of_the_residual_mlp(data):
    _, objective = residual.build_residual(residual.SymmetricConfig(hidden=8), data)
    assert objective.settings.captions_per_image == 3
    assert objective.settings.batch_size == 30  # a quarter of the captions


@pytest.mark.parametrize("name", [*TWO_SIDED, "sail", "fusemix", "structure", "residual_300", "csa"])
def test_the_final_fit_repeats_the_search_and_a_two_sided_one_moves_the_gallery(data, name):
    method = METHODS[name].tiny()
    if name not in ("csa", "csa_two_sided"):
        method = replace(method, settings=replace(method.settings, epochs=3))
    chosen = method.search(data, data)
    again = method.fit(data, chosen, SEARCH_SEED)
    assert fold_mrr(again, data) == pytest.approx(chosen["fold_mrr"])
    assert again.two_sided == (name in TWO_SIDED)
    assert again.images(data.val_images).shape[1] == again.predict(data.val_text).shape[1]
    if again.two_sided:
        scaled = again.images(7 * data.val_images)
        torch.testing.assert_close(scaled, again.images(data.val_images), atol=1e-4, rtol=1e-3)
    else:
        assert again.images(data.val_images) is data.val_images


def test_variants_are_searched_with_every_rate_and_the_best_is_fitted(data):
    method = METHODS["structure"].tiny()
    variants = ({"hidden": 0, "structure_weight": 1.0}, {"hidden": 4, "structure_weight": 0.5})
    chosen = (method := replace(method, variants=variants, rate_factors=(1.0, 2.0))).search(data, data)
    tried = [
        (tried["learning_rate"] / method.settings.learning_rate, tried["variant"]) for tried in chosen["candidates"]
    ]
    assert tried == [(factor, variant) for factor in (1.0, 2.0) for variant in variants]
    assert chosen["fold_mrr"] == max(tried["fold_mrr"] for tried in chosen["candidates"])
    sizes = {0: 9 * 12 + 12 + 18, 4: 9 * 4 + 4 + 4 * 12 + 12 + 18}
    for variant in variants:
        assert method.fit(data, {**chosen, "variant": variant}, 0).parameters == sizes[variant["hidden"]]
