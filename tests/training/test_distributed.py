"""A training in several processes is the training in one, up to rounding, as the one-process code computes it."""

import pytest
import torch
from in_processes import CASES, IN_FLOAT64, of_closed_forms, of_losses, of_trainings
from launch import answers

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.mark.parametrize("count", [2, 4])
def test_losses_and_their_gradients_are_those_of_one_process(tmp_path, count):
    found = answers(count, "of_losses", tmp_path)
    for (dtype, _), expected, got in zip(CASES, of_losses(), zip(*found, strict=True), strict=True):
        tolerance = 1e-6 if dtype == "float32" else 1e-12
        for name in expected if dtype == "float32" else IN_FLOAT64:
            gradient = torch.full_like(expected[name]["gradient"], torch.nan)
            for of_process in got:
                loss = of_process[name]["loss"]
                torch.testing.assert_close(loss, expected[name]["loss"], rtol=tolerance, atol=tolerance)
                gradient[of_process[name]["rows"]] = of_process[name]["gradient"]
            torch.testing.assert_close(gradient, expected[name]["gradient"], rtol=tolerance, atol=tolerance)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return of_trainings(str(tmp_path_factory.mktemp("one")))


@pytest.fixture(scope="module", params=[2, 4])
def several(request, tmp_path_factory):
    """What each of several processes found, and a second time."""
    out = tmp_path_factory.mktemp("several")
    return [answers(request.param, "of_trainings", out / name, folder=str(out / name)) for name in ("once", "again")]


@pytest.mark.parametrize("kind", ["mlp1", "bigjump", "plus"])
def test_a_training_is_that_of_one_process(one, several, kind):
    for entry, of_one in zip(several[0][0][kind]["history"], one[kind]["history"], strict=True):
        assert entry == pytest.approx(of_one, rel=2e-4)
        assert entry["mrr"] == pytest.approx(of_one["mrr"], abs=0.001)
    for name, weights in several[0][0][kind]["weights"].items():
        torch.testing.assert_close(weights, one[kind]["weights"][name], rtol=1e-3, atol=1e-3)


def test_all_processes_end_with_the_same_bits_and_so_they_do_the_next_time(several):
    for kind, expected in several[0][0].items():
        for of_process in (*several[0], *several[1]):
            assert of_process[kind]["history"] == expected["history"], kind
            for name, weights in of_process[kind]["weights"].items():
                assert torch.equal(weights, expected["weights"][name]), (kind, name)


@pytest.mark.parametrize("kind", ["bigjump", "plus"])
def test_an_interrupted_training_goes_on_to_the_same_bits(several, kind):
    whole, resumed = (several[0][0][f"{kind} {how}"] for how in ("with dropout", "resumed"))
    assert whole["history"] == resumed["history"]
    assert all(torch.equal(weights, resumed["weights"][name]) for name, weights in whole["weights"].items())
    assert whole["history"] != several[0][0][kind]["history"]  # without dropout


@pytest.mark.parametrize("count", [2, 4])
def test_closed_forms_are_those_of_one_process(tmp_path, count):
    expected = of_closed_forms()
    for of_process in answers(count, "of_closed_forms", tmp_path):
        for name, found in of_process.items():
            near = 1e-4 if name in ("kernel", "cca") else 1e-9  # these are float32
            torch.testing.assert_close(found, expected[name], rtol=near, atol=near, msg=lambda m, name=name: name + m)
