"""A training in several processes is the training in one, up to rounding, as the one-process code computes it."""

import pytest
import torch
from in_processes import CASES, IN_FLOAT64, of_losses
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
