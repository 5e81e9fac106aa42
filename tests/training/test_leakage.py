"""Nothing that is fitted or trained sees the validation split, and nothing that chooses sees the test split.

Each test changes all of a side and expects the same bits. Identical images under two names are in test_duplicates.
"""

import dataclasses

import numpy as np
import pytest
import torch

from helpers.data.pairs import PairedEmbeddings
from helpers.data.split import check_disjoint, make_split
from helpers.errors import SplitError
from helpers.evaluation import leaderboard
from helpers.evaluation.settings import EvaluationConfig
from helpers.models import geometry, storage
from helpers.models.build import BASELINES, MODEL_ROWS, build_model
from helpers.models.geometry import GeometryConfig
from helpers.runs import recipes
from helpers.runs.leaderboard import evaluate, evaluate_test
from helpers.runs.manifest import TIMINGS, artefact_digests
from helpers.runs.run import Run
from helpers.runs.settings import RunConfig
from helpers.system.devices import seed_all
from helpers.training import loop, steps
from helpers.training.objectives import BaselineConfig, BigJumpConfig, BigJumpObjective
from helpers.training.settings import PlusConfig

DX, DY, N_IMAGES = 10, 14, 50
SMALL = {"epochs": 3, "batch_size": 32, "hidden": 16, "mixed_precision": False}


def opened(text, images, targets, test_ratio=0.0, name="leak"):
    names = [f"{i}.jpg" for i in range(N_IMAGES)]
    data = PairedEmbeddings(text, images, targets, ["a caption"] * len(text), names, "fingerprint")
    split = make_split(targets, N_IMAGES, val_ratio=0.2, test_ratio=test_ratio)
    return Run(RunConfig(run=name), data, split)


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


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cca", "kernel"])
def test_a_closed_form_and_the_choice_of_its_setting(run, other, tmp_path, monkeypatch, name):
    monkeypatch.setenv("HELPERS_RUNS_DIR", str(tmp_path))
    one, two = (
        (recipes.save_closed_form(r, name, PlusConfig()), storage.weights_digest(r.directory, name))
        for r in (run, other)
    )
    assert one == two


@pytest.mark.parametrize("fit_on", ["captions", "caption_means"])
def test_closed_forms(run, other, fit_on):
    settings = GeometryConfig(fit_on=fit_on)
    for power in (0.0, 1.0):
        one, two = (recipes.fit_geometry(each, settings).affine(power) for each in (run, other))
        np.testing.assert_array_equal(one.matrix, two.matrix)
        np.testing.assert_array_equal(one.bias, two.bias)


@pytest.mark.parametrize("fit_on", ["captions", "caption_means"])
def test_means_covariances_whitenings_and_spectra(run, other, fit_on):
    def fitted(each):
        found = recipes.fit_geometry(each, GeometryConfig(fit_on=fit_on))
        stats = found.statistics
        spectra = {name: geometry.spectrum(getattr(stats, name)) for name in ("cov_x", "cov_y")}
        roots = {f"{side} {name}": value for side in ("white_x", "white_y")
                 for name, value in vars(getattr(found, side)).items()}  # fmt: skip
        return {**vars(stats), **roots, **spectra, "correlations": found.correlations}

    one, two = fitted(run), fitted(other)
    assert len(one) == 11 and [name for name in one if not np.array_equal(one[name], two[name])] == []


def losses_of(run, name):
    """Loss and MRR of each epoch, and the model of the best one."""
    data = run.training_data
    seed_all(0)
    model = build_model(name, DX, DY, hidden=SMALL["hidden"])
    if name == "bigjump":
        history = loop.train_bigjump(model, data, BigJumpConfig(**SMALL, queue_size=100, queue_schedule=(0, 50, 100)))
    else:
        history = loop.train_baseline(model, data, BaselineConfig(**SMALL), name)
    return [entry["loss"] for entry in history], [entry["mrr"] for entry in history], model


@pytest.mark.parametrize("name", ["linear", "mlp1", "mlp2", "bigjump"])
def test_training(run, other, name):
    one, two = losses_of(run, name), losses_of(other, name)
    assert one[0] == two[0] and one[1] != two[1]  # the replaced side does reach the score, and only that
    for part in ("mean", "scale"):
        standardise = [dict(model.named_buffers()) for _, _, model in (one, two)]
        names = [key for key in standardise[0] if key.endswith(part)]
        assert names and all(torch.equal(standardise[0][key], standardise[1][key]) for key in names)


@pytest.mark.parametrize("test_ratio", [0.0, 0.2])
def test_the_negative_bank_holds_training_images_only(run, test_ratio):
    run = opened(run.data.text, run.data.images, run.data.targets, test_ratio)
    data = run.training_data
    objective = BigJumpObjective(BigJumpConfig(**SMALL), data)
    expected = torch.nn.functional.normalize(torch.from_numpy(run.data.images[run.split.train_images]), dim=-1)
    torch.testing.assert_close(objective.negative_bank, expected)


def test_the_queue_holds_training_images_only(run):
    data = run.training_data
    settings = BigJumpConfig(**SMALL, queue_size=500, queue_schedule=(500,))
    objective = BigJumpObjective(settings, data)
    model = build_model("bigjump", DX, DY, hidden=SMALL["hidden"])
    optimiser = loop.make_optimiser(model, settings)
    for rows in torch.arange(len(data.positive)).split(settings.batch_size):
        steps.train_step(model, objective, optimiser, rows)
    queued = run.split.train_images[objective.queue.newest(500).numpy()]
    expected = np.bincount(run.data.targets[run.split.train_captions], minlength=N_IMAGES)
    np.testing.assert_array_equal(np.bincount(queued, minlength=N_IMAGES), expected)
    assert not expected[run.split.val_images].any()


def test_a_caption_of_a_validation_image_in_training_is_refused(run):
    split, moved = run.split, run.split.val_captions[0]
    leaky = dataclasses.replace(split, train_captions=np.sort(np.append(split.train_captions, moved)))
    with pytest.raises(SplitError, match="in both splits"):
        check_disjoint(leaky, run.data.targets)


@pytest.mark.parametrize("side", ["val_captions", "test_captions"])
def test_a_caption_of_the_test_split_elsewhere_is_refused(run, side):
    split = make_split(run.data.targets, N_IMAGES, val_ratio=0.2, test_ratio=0.2)
    moved = {"val_captions": split.test_captions[0], "test_captions": split.val_captions[0]}[side]
    leaky = dataclasses.replace(split, **{side: np.append(getattr(split, side), moved)})
    with pytest.raises(SplitError, match="in both splits, validation and test"):
        check_disjoint(leaky, run.data.targets)


def huge(run):
    """Every test caption and image far away, and the captions' images dealt anew among the test images."""
    text, images, targets = run.data.text.copy(), run.data.images.copy(), run.data.targets.copy()
    captions, rows, _ = run.split.part("test")
    rng = np.random.default_rng(2)
    text[captions] = 1e30 * rng.normal(size=(len(captions), DX))
    images[rows] = -1e30 * rng.normal(size=(len(rows), DY))
    targets[captions] = rng.permutation(targets[captions])
    return text, images, targets


def whole(run):
    """Fit, train, choose and judge everything as the notebooks do; the leaderboard without timings."""
    recipes.save_geometry(run, recipes.fit_geometry(run, GeometryConfig()), GeometryConfig())
    for name in ("cca", "kernel"):
        recipes.save_closed_form(run, name, PlusConfig())
    for name in BASELINES:
        recipes.train(run, name, BaselineConfig(**SMALL))
    bigjump = BigJumpConfig(**SMALL, queue_size=100, queue_schedule=(0, 50, 100), unfreeze_epoch=2, refreeze_drop=0.0)
    history = recipes.train(run, "bigjump", bigjump)
    history += recipes.train(run, "bigjump_plus", PlusConfig(**SMALL, members=2))
    settings = EvaluationConfig(bootstrap_samples=50, gallery_size=5, gallery_rounds=2, latency_repeats=1)
    rows, ranks = evaluate(run, settings)
    differences = leaderboard.differences_to_best(ranks, run.split.caption_to_gallery, settings)
    rows = [{key: value for key, value in row.items() if key not in TIMINGS} for row in rows]
    return rows, differences, [{key: value for key, value in entry.items() if key != "seconds"} for entry in history]


@pytest.mark.slow
def test_the_test_split_changes_no_bit_of_what_is_trained_and_chosen(run, tmp_path, monkeypatch):
    monkeypatch.setenv("HELPERS_RUNS_DIR", str(tmp_path))
    one = opened(run.data.text, run.data.images, run.data.targets, 0.2, "one")
    two = opened(*huge(one), 0.2, "two")
    assert not np.array_equal(one.data.targets, two.data.targets) and one.split.digest == two.split.digest
    assert whole(one) == whole(two)
    digests = artefact_digests(one.directory)
    assert len(digests) == len(MODEL_ROWS[1:]) + 3  # models; query bank, corrections and leaderboard
    assert digests == artefact_digests(two.directory)
    assert storage.load_metadata(one.directory, "bigjump")["split"] != run.split.digest


@pytest.mark.slow
def test_the_test_leaderboard_judges_the_test_split_alone(run, tmp_path, monkeypatch):
    monkeypatch.setenv("HELPERS_RUNS_DIR", str(tmp_path))
    with_test = opened(run.data.text, run.data.images, run.data.targets, 0.2, "one")
    rows, _, _ = whole(with_test)
    settings = EvaluationConfig(bootstrap_samples=50, gallery_size=5, gallery_rounds=2, latency_repeats=1)
    before = evaluate_test(with_test, settings)
    assert [row["mrr"] for row in before] != [row["mrr"] for row in rows]
    text, images = run.data.text.copy(), run.data.images.copy()
    text[with_test.split.val_captions], images[with_test.split.train_images] = 1e3, -1e3
    changed = opened(text, images, run.data.targets, 0.2, "one")
    # The two corrections rightly come from the training images.
    plain = [[{k: v for k, v in row.items() if "hubness" not in k and "corrected" not in k} for row in table]
             for table in (before, evaluate_test(changed, settings))]  # fmt: skip
    assert plain[0] == plain[1]
