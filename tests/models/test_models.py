"""The architectures, standardised input, the start of BigJump, and prediction in blocks."""

import numpy as np
import pytest
import torch
from torch import nn

from helpers.errors import ConfigError
from helpers.models.build import MODEL_ROWS, build_model, predict
from helpers.models.networks import MLP, GeomLinear, GeomWithAdapter, Standardise, fit_standardisation

DX, DY = 6, 9
X = torch.randn(11, DX, generator=torch.Generator().manual_seed(0))


def linear_layers(model):
    return [layer for layer in model.modules() if isinstance(layer, nn.Linear)]


@pytest.mark.parametrize("name", [name for name in MODEL_ROWS if name != "chance"])
def test_every_row_but_chance_maps_text_to_the_width_of_images(name):
    assert build_model(name, DX, DY, hidden=5)(X).shape == (11, DY)


@pytest.mark.parametrize("name", ["chance", "mlp3", "", "BigJump"])
def test_an_unknown_name_is_an_error(name):
    with pytest.raises(ConfigError, match=f"No model is called '{name}'"):
        build_model(name, DX, DY)


SHAPES = {"linear": [(9, 6)], "mlp1": [(5, 6), (9, 5)], "mlp2": [(5, 6), (5, 5), (9, 5)]}


@pytest.mark.parametrize("name", SHAPES)
def test_baselines_are_linear_layers_with_relu_and_dropout_between(name):
    model = build_model(name, DX, DY, hidden=5, dropout=0.3)
    assert [tuple(layer.weight.shape) for layer in linear_layers(model)] == SHAPES[name]
    between = [nn.Linear, nn.ReLU, nn.Dropout] * (len(SHAPES[name]) - 1)
    assert [type(layer) for layer in model] == [Standardise, *between, nn.Linear]
    assert all(layer.p == 0.3 for layer in model if isinstance(layer, nn.Dropout))


def test_an_mlp_by_hand():
    model = MLP(2, 1, (2,), dropout=0.5).eval()
    first, last = linear_layers(model)
    for tensor, value in (
        (first.weight, [[1, 0], [0, -1]]),
        (first.bias, [0, 1]),
        (last.weight, [[2, 3]]),
        (last.bias, [10]),
    ):
        tensor.data = torch.tensor(value, dtype=torch.float32)
    assert model(torch.tensor([[4.0, 0.5], [-4.0, 2.0]])).tolist() == [[10 + 2 * 4 + 3 * 0.5], [10]]


def test_standardisation_is_the_identity_until_it_is_fitted():
    layer = Standardise(DX)
    assert torch.equal(layer(X), X)
    x = 40 * X * torch.arange(1, DX + 1) + 1000
    layer.fit(x)
    torch.testing.assert_close(layer(x).mean(0), torch.zeros(DX), atol=1e-4, rtol=0)
    torch.testing.assert_close(layer(x).std(0, correction=0), torch.ones(DX))
    assert not list(layer.parameters()) and set(layer.state_dict()) == {"mean", "scale"}


def test_a_dimension_that_hardly_varies_is_not_blown_up():
    x = X.clone()
    x[:, 0], x[:, 1] = 7, 1e-6 * x[:, 1] + 7
    layer = Standardise(DX)
    layer.fit(x)
    assert layer(x)[:, :2].abs().max() < 1e-3
    assert layer(x + 0.1 * x.std(0).median()).abs().max() < 10
    layer.fit(torch.full((4, DX), 3.0))  # nothing varies
    assert torch.equal(layer(torch.full((4, DX), 4.0)), torch.ones(4, DX))


@pytest.mark.parametrize("name", ["mlp2", "bigjump", "procrustes"])
def test_every_standardisation_of_a_model_is_fitted(name):
    model = build_model(name, DX, DY, hidden=5)
    fit_standardisation(model, X + 5)
    means = [layer.mean for layer in model.modules() if isinstance(layer, Standardise)]
    assert len(means) == (name != "procrustes")
    for mean in means:
        torch.testing.assert_close(mean, X.mean(0) + 5)


@pytest.mark.parametrize("name", ["least_squares", "procrustes"])
def test_the_closed_forms_hold_nothing_that_an_optimiser_can_reach(name):
    model = build_model(name, DX, DY)
    assert isinstance(model, GeomLinear)
    assert [p.requires_grad for p in model.parameters()] == [False]
    assert [key for key, _ in model.named_parameters()] == ["matrix"]
    assert [key for key, _ in model.named_buffers()] == ["bias"]


def affine(seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(DY, DX)), rng.normal(size=DY)


def test_set_affine_copies_in_float32():
    model, (matrix, bias) = GeomLinear(DX, DY), affine()
    model.set_affine(matrix, bias)
    assert np.array_equal(model.matrix.detach().numpy(), matrix.astype(np.float32))
    assert np.array_equal(model.bias.numpy(), bias.astype(np.float32))
    np.testing.assert_allclose(model(X).detach().numpy(), X.numpy() @ matrix.T + bias, rtol=1e-5, atol=1e-5)
    kept = model.matrix.detach().clone()
    matrix[:] = 0
    assert torch.equal(model.matrix, kept)
    with pytest.raises(RuntimeError):
        model.set_affine(matrix.T, bias)


@pytest.mark.parametrize("training", [True, False])
def test_bigjump_starts_exactly_at_the_affine_map(training):
    torch.manual_seed(0)
    model = GeomWithAdapter(DX, DY, hidden=16, dropout=0.5).train(training)
    model.geometry.set_affine(*affine())
    plain = GeomLinear(DX, DY)
    plain.set_affine(*affine())
    fit_standardisation(model, X)
    assert torch.equal(model(X), plain(X))
    first, last = linear_layers(model)
    assert first.weight.abs().min() > 0  # only the last layer starts at zero: with both it could not learn
    nn.init.ones_(last.bias)
    torch.testing.assert_close(model(X), plain(X) + 1)


def test_gradients_reach_the_adapter_and_leave_the_geometry():
    model = GeomWithAdapter(DX, DY, hidden=16, dropout=0.0)
    model.geometry.set_affine(*affine())
    model(X).square().sum().backward()
    first, last = linear_layers(model)
    assert last.weight.grad.abs().max() > 0
    assert model.geometry.matrix.grad is None
    trainable = {p for p in model.parameters() if p.requires_grad}
    assert trainable == {first.weight, first.bias, last.weight, last.bias}


@pytest.mark.parametrize("block", [1, 4, 11, 100])
def test_prediction_does_not_depend_on_the_blocks(block):
    model = GeomLinear(DX, DY)
    rng = np.random.default_rng(0)
    matrix, bias, text = (rng.integers(-4, 5, shape) for shape in ((DY, DX), DY, (11, DX)))  # exact in float32
    model.set_affine(matrix, bias)
    found = predict(model, text, block=block)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, text @ matrix.T + bias)


def test_prediction_of_some_rows_in_their_order():
    model = build_model("mlp2", DX, DY, hidden=5, dropout=0.9)
    text, rows = X.double().numpy(), np.array([7, 0, 7, 3])
    with torch.no_grad():
        expected = model.eval()(X[rows]).numpy()
    model.train()
    found = predict(model, text, rows, block=3)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)  # without dropout
    assert model.training  # and dropout is back
    predict(model.eval(), text, rows)
    assert not model.training


@pytest.mark.parametrize("offset", [0, 30])
def test_bfloat16_does_not_round_away_what_tells_captions_apart(offset):
    generator = torch.Generator().manual_seed(0)
    model = build_model("bigjump", 64, 48, hidden=8)
    x = offset + torch.randn(200, 64, generator=generator)
    matrix = torch.randn(48, 64, generator=generator)
    model.geometry.set_affine(matrix.numpy(), -offset * matrix.sum(1).numpy())
    fit_standardisation(model, x)
    model.geometry.matrix.requires_grad_(True)
    exact = model(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = model(x)
    exact.square().sum().backward()
    gradient, model.geometry.matrix.grad = model.geometry.matrix.grad, None
    rounded.float().square().sum().backward()
    for found, expected in ((rounded, exact), (model.geometry.matrix.grad, gradient)):
        assert torch.linalg.norm(found - expected) < 0.01 * torch.linalg.norm(expected)
