"""A training in several processes is the training in one, up to rounding, as the one-process code computes it."""

import functools
import signal

import pytest
import torch
from in_processes import CASES, IN_FLOAT64, everything
from launch import answers, start

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def one(tmp_path_factory, one_thread):
    return everything(str(tmp_path_factory.mktemp("one")))


@pytest.fixture(scope="module")
def found_by(tmp_path_factory):
    """What each of so many processes found; they are started once."""

    @functools.cache
    def found(count):
        folder = tmp_path_factory.mktemp("several")
        return answers(count, "everything", folder, folder=str(folder))

    return found


@pytest.fixture(params=[2, 4])
def several(request, found_by):
    return found_by(request.param)


def test_losses_and_their_gradients_are_those_of_one_process(one, several):
    found = (of_process["losses"] for of_process in several)
    for (dtype, _), expected, got in zip(CASES, one["losses"], zip(*found, strict=True), strict=True):
        tolerance = 1e-6 if dtype == "float32" else 1e-12
        for name in expected if dtype == "float32" else IN_FLOAT64:
            gradient = torch.full_like(expected[name]["gradient"], torch.nan)
            for of_process in got:
                loss = of_process[name]["loss"]
                torch.testing.assert_close(loss, expected[name]["loss"], rtol=tolerance, atol=tolerance)
                gradient[of_process[name]["rows"]] = of_process[name]["gradient"]
            torch.testing.assert_close(gradient, expected[name]["gradient"], rtol=tolerance, atol=tolerance)


def test_closed_forms_are_those_of_one_process(one, several):
    for of_process in several:
        for name, found in of_process["closed forms"].items():
            near = 1e-4 if name in ("kernel", "cca") else 1e-9  # these are float32
            torch.testing.assert_close(found, one["closed forms"][name], rtol=near, atol=near)


@pytest.mark.parametrize("kind", ["mlp1", "bigjump", "plus"])
def test_a_training_without_dropout_is_that_of_one_process(one, several, kind):
    expected, got = one["trainings"][kind], several[0]["trainings"][kind]
    for entry, of_one in zip(got["history"], expected["history"], strict=True):
        assert entry == pytest.approx(of_one, rel=2e-4)
        assert entry["mrr"] == pytest.approx(of_one["mrr"], abs=0.001)
    for name, weights in got["weights"].items():
        torch.testing.assert_close(weights, expected["weights"][name], rtol=1e-3, atol=1e-3)


def same_bits(one, other):
    assert one["history"] == other["history"]
    assert all(torch.equal(weights, other["weights"][name]) for name, weights in one["weights"].items())


def test_all_processes_end_with_the_same_bits(several):
    for kind, expected in several[0]["trainings"].items():
        for of_process in several[1:]:
            same_bits(of_process["trainings"][kind], expected)


@pytest.mark.parametrize("kind", ["bigjump", "plus"])
def test_an_interrupted_training_goes_on_to_the_same_bits(several, kind):
    trainings = several[0]["trainings"]
    same_bits(trainings[f"{kind} with dropout"], trainings[f"{kind} resumed"])
    assert trainings[f"{kind} with dropout"]["history"] != trainings[kind]["history"]


def test_a_killed_process_ends_all_with_one_line_and_the_training_goes_on(found_by, tmp_path):
    how = {"kind": "bigjump", "dropout": 0.5, "folder": str(tmp_path)}
    dying = start(2, "trained", tmp_path, **how, dies_in=2)
    said = [process.communicate(timeout=60)[1] for process in dying]
    assert [process.returncode for process in dying] == [1, -signal.SIGKILL]
    (line,) = [line for line in said[0].splitlines() if line.startswith("error:")]
    assert "rank 1 of 2 (" in line and f"process {dying[1].pid}) ended without a word" in line
    assert "Traceback" not in said[0]
    same_bits(answers(2, "trained", tmp_path / "on", **how)[0], found_by(2)[0]["trainings"]["bigjump with dropout"])
