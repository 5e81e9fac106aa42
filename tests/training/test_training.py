"""The training loop: schedules, batches, what is frozen when, reproducibility, and what the history records."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.data.split import make_split
from helpers.data.training_data import TrainingData
from helpers.models.build import build_model, predict
from helpers.models.geometry import fit_cross_space, pair_statistics
from helpers.models.networks import Standardise
from helpers.system.devices import seed_all
from helpers.training import loop, steps
from helpers.training.loop import epoch_order, learning_rate_factor, make_optimiser, micro_unfreeze, validation_mrr
from helpers.training.objectives import BaselineConfig, BigJumpConfig, temperature_at
from helpers.training.settings import OptimiserConfig

N_IMAGES, PER_IMAGE, DX, DY = 60, 5, 12, 16
BIGJUMP = BigJumpConfig(
    epochs=4,
    batch_size=64,
    hidden=24,
    learning_rate=3e-3,
    queue_size=300,
    queue_schedule=(0, 0, 100, 300),
    mixed_precision=False,
)
BASELINE = BaselineConfig(epochs=4, batch_size=64, hidden=24, learning_rate=1e-2, mixed_precision=False)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def paired():
    """Captions that are a bent view of their image, the images, and whose they are."""
    rng = np.random.default_rng(0)
    images = 1 + rng.normal(size=(N_IMAGES, DY))
    targets = np.repeat(np.arange(N_IMAGES), PER_IMAGE)
    text = np.tanh(images @ rng.normal(size=(DY, DX)) / 4)[targets] + 0.1 * rng.normal(size=(len(targets), DX))
    return text.astype(np.float32), images.astype(np.float32), targets


@pytest.fixture(scope="module")
def split(paired):
    return make_split(paired[2], N_IMAGES, val_ratio=0.25)


@pytest.fixture(scope="module")
def data(paired, split):
    return TrainingData.of(paired[0], paired[1], split, torch.device("cpu"))


@pytest.fixture(scope="module")
def affine(data):
    stats = pair_statistics(data.text.numpy(), data.images.numpy(), data.positive.numpy())
    return fit_cross_space(stats, eps=1e-2).affine()


@pytest.fixture
def bigjump(affine):
    """BigJump at its start."""
    seed_all(BIGJUMP.seed)
    model = build_model("bigjump", DX, DY, hidden=BIGJUMP.hidden)
    model.geometry.set_affine(affine.matrix, affine.bias)
    return model


def train(model, data, **changes):
    return loop.train_bigjump(model, data, replace(BIGJUMP, **changes))


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def watch_geometry(monkeypatch, model, mrr=None):
    """A and b after each epoch; with `mrr`, validation reports these values in turn."""
    seen, measure, reported = [], loop.validation_mrr, iter(mrr or ())

    def measured(trained, data):
        seen.append((trained.geometry.matrix.detach().clone(), trained.geometry.bias.clone()))
        return next(reported) if mrr else measure(trained, data)

    monkeypatch.setattr(loop, "validation_mrr", measured)
    return [(model.geometry.matrix.detach().clone(), model.geometry.bias.clone())], seen


def epochs_in_which_a_moves(start, seen):
    matrices = [matrix for matrix, _ in [*start, *seen]]
    return [e for e, (old, new) in enumerate(zip(matrices, matrices[1:], strict=False), 1) if not torch.equal(old, new)]


def test_training_and_validation_are_gathered_by_their_own_indices(paired, split, data):
    text, images, targets = paired
    np.testing.assert_array_equal(data.text, text[split.train_captions])
    np.testing.assert_array_equal(data.images[data.positive], images[targets[split.train_captions]])
    np.testing.assert_array_equal(data.val_text, text[split.val_captions])
    np.testing.assert_array_equal(data.val_images[data.val_positive], images[targets[split.val_captions]])
    assert (len(data.images), len(data.val_images)) == (45, 15)


def test_before_training_bigjump_is_the_geometry(bigjump, affine, data):
    text = data.val_text.numpy()
    found = predict(bigjump, text)
    np.testing.assert_allclose(found, text @ affine.matrix.T + affine.bias, rtol=1e-4, atol=1e-5)
    start = build_model("procrustes", DX, DY)
    start.set_affine(affine.matrix, affine.bias)
    np.testing.assert_array_equal(found, predict(start, text))


@pytest.mark.parametrize(("unfreeze_epoch", "moves"), [(0, []), (1, [1, 2, 3, 4]), (3, [3, 4]), (4, [4]), (9, [])])
def test_a_moves_from_the_unfreeze_epoch_on_and_b_never(monkeypatch, bigjump, data, unfreeze_epoch, moves):
    start, seen = watch_geometry(monkeypatch, bigjump)
    history = train(bigjump, data, unfreeze_epoch=unfreeze_epoch, refreeze_drop=1.0)
    assert epochs_in_which_a_moves(start, seen) == moves
    assert [entry["epoch"] for entry in history if entry["geometry_free"]] == moves
    assert all(torch.equal(bias, start[0][1]) for _, bias in [*seen, (None, bigjump.geometry.bias)])


def test_a_is_frozen_again_after_a_fall_and_stays_so(monkeypatch, bigjump, data):
    start, seen = watch_geometry(monkeypatch, bigjump, mrr=[0.5, 0.5, 0.52, 0.514, 0.6, 0.6])
    history = train(bigjump, data, epochs=6, unfreeze_epoch=2, refreeze_drop=0.005)
    assert epochs_in_which_a_moves(start, seen) == [2, 3, 4]
    assert [entry["geometry_free"] for entry in history] == [False, True, True, True, False, False]


@pytest.mark.parametrize(
    ("unfreeze_epoch", "mrr", "free"),
    [
        (3, [], False),
        (3, [0.5], False),
        (3, [0.5, 0.6], True),  # epoch 3 begins
        (3, [0.6, 0.3], True),  # a fall before A was free does not count
        (3, [0.5, 0.6, 0.6, 0.7], True),
        (3, [0.5, 0.6, 0.595], True),
        (3, [0.5, 0.6, 0.585], False),
        (3, [0.5, 0.6, 0.585, 0.9, 0.9], False),  # never again
        (3, [0.5, 0.6, 0.595, 0.59, 0.585], False),  # below the best, however slowly
        (3, [0.5, 0.6, 0.61, 0.605, 0.602], True),
        (1, [], True),
        (1, [0.5, 0.4], False),
        (0, [0.5, 0.6, 0.7, 0.8], False),
    ],
)
def test_micro_unfreeze(bigjump, unfreeze_epoch, mrr, free):
    history = [{"epoch": epoch, "mrr": value} for epoch, value in enumerate(mrr, 1)]
    chosen = replace(BIGJUMP, unfreeze_epoch=unfreeze_epoch, refreeze_drop=0.01)
    bigjump.geometry.matrix.grad = torch.ones(DY, DX)
    micro_unfreeze(bigjump, chosen, len(mrr) + 1, history)
    assert bigjump.geometry.matrix.requires_grad == free
    if unfreeze_epoch:
        assert (bigjump.geometry.matrix.grad is not None) == free  # a stale gradient would move a frozen A


def test_micro_unfreeze_leaves_baselines_alone():
    model = build_model("linear", DX, DY)
    micro_unfreeze(model, BIGJUMP, 9, [{"epoch": epoch, "mrr": 0.5} for epoch in range(1, 9)])
    assert all(p.requires_grad for p in model.parameters())


def test_temperature_by_hand():
    found = [temperature_at(epoch, 25, 0.10, 0.06) for epoch in range(1, 26)]
    assert found[0] == pytest.approx(0.10) and found[12] == pytest.approx(0.08) and found[24] == pytest.approx(0.06)
    assert found[6] == pytest.approx(0.06 + 0.04 * (1 + math.sqrt(0.5)) / 2)  # a quarter of the way
    assert found == sorted(found, reverse=True)
    assert temperature_at(1, 1, 0.10, 0.06) == pytest.approx(0.10)
    assert temperature_at(7, 25, 0.07, 0.07) == pytest.approx(0.07)


def test_learning_rate_by_hand():
    chosen = OptimiserConfig(epochs=5, warmup_epochs=1.0, final_lr_ratio=0.1)
    found = [learning_rate_factor(step, 4, chosen) for step in range(20)]
    assert found[:4] == pytest.approx([0.25, 0.5, 0.75, 1])
    assert found[4] == pytest.approx(1) and found[19] == pytest.approx(0.1)
    assert found[9] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 3)) / 2)  # 5 of 15 steps
    assert found[4:] == sorted(found[4:], reverse=True)
    assert learning_rate_factor(20, 4, chosen) == pytest.approx(0.1)  # after the end
    at_once = OptimiserConfig(epochs=5, warmup_epochs=0, final_lr_ratio=0.5)
    assert [learning_rate_factor(step, 4, at_once) for step in (0, 19)] == pytest.approx([1, 0.5])


@settings(deadline=None)
@given(
    epochs=st.integers(1, 6),
    steps=st.integers(1, 9),
    warmup=st.floats(0, 8),
    final=st.floats(0, 1),
)
def test_learning_rate_rises_then_falls_and_never_exceeds_its_peak(epochs, steps, warmup, final):
    chosen = OptimiserConfig(epochs=epochs, warmup_epochs=warmup, final_lr_ratio=final)
    found = [learning_rate_factor(step, steps, chosen) for step in range(epochs * steps)]
    assert all(0 <= factor <= 1 + 1e-12 for factor in found) and found[0] > 0
    peak = int(np.argmax(found))
    rise, fall = np.diff(found[: peak + 1]), np.diff(found[peak:])
    assert (rise >= 0).all() and (fall <= 1e-12).all()


@settings(deadline=None)
@given(
    counts=st.lists(st.integers(1, 7), min_size=1, max_size=15),
    captions_per_image=st.integers(1, 8),
    seed=st.integers(0, 1000),
)
def test_an_epoch_is_a_permutation_and_splits_no_image_needlessly(counts, captions_per_image, seed):
    rng = np.random.default_rng(seed)
    positive = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    order = epoch_order(positive, captions_per_image, rng)
    assert sorted(order.tolist()) == list(range(len(positive)))
    if captions_per_image > 1:
        image = positive[order]
        runs = np.bincount(image[np.flatnonzero(np.r_[True, image[1:] != image[:-1]])], minlength=len(counts))
        assert (runs <= -(-np.array(counts) // captions_per_image)).all()


@settings(deadline=None)
@given(n_images=st.integers(2, 12), groups=st.integers(1, 3), k=st.integers(2, 4), seed=st.integers(0, 1000))
def test_every_caption_shares_its_batch_with_captions_of_its_image(n_images, groups, k, seed):
    rng = np.random.default_rng(seed)
    positive = rng.permutation(np.repeat(np.arange(n_images), groups * k))
    for batch in np.array_split(positive[epoch_order(positive, k, rng)], n_images * groups):
        assert batch.tolist() == [batch[0]] * k


def test_epochs_differ_and_so_do_the_images_that_meet():
    positive, rng = np.repeat(np.arange(30), 5), np.random.default_rng(0)
    for captions_per_image in (1, 5):
        first, second = (epoch_order(positive, captions_per_image, rng) for _ in range(2))
        assert not np.array_equal(first, second)
        meetings = [{tuple(np.unique(positive[batch])) for batch in order.reshape(-1, 10)} for order in (first, second)]
        assert meetings[0] != meetings[1]


@pytest.mark.parametrize(("batch_size", "sizes"), [(64, [64, 64, 64, 33]), (225, [225]), (1000, [225])])
def test_an_epoch_trains_on_every_caption_once(monkeypatch, bigjump, data, batch_size, sizes):
    seen, step = [], steps.train_step

    def watched(model, objective, optimiser, rows):
        seen.append(rows.tolist())
        return step(model, objective, optimiser, rows)

    monkeypatch.setattr(steps, "train_step", watched)
    train(bigjump, data, epochs=2, batch_size=batch_size, captions_per_image=5)
    assert [len(rows) for rows in seen] == sizes * 2
    epochs = [sum(seen[: len(sizes)], []), sum(seen[len(sizes) :], [])]
    assert [sorted(rows) for rows in epochs] == [list(range(225))] * 2 and epochs[0] != epochs[1]
    for rows in epochs:
        image = data.positive[rows].reshape(-1, 5)  # five captions an image, and all of them together
        assert torch.equal(image, image[:, :1].expand(-1, 5))


@pytest.mark.parametrize("clip_norm", [0.01, 0.5])
def test_the_whole_gradient_is_clipped_before_the_step(data, bigjump, clip_norm):
    objective = loop.BigJumpObjective(replace(BIGJUMP, clip_norm=clip_norm, infonce_weight=100.0), data)
    bigjump.geometry.matrix.requires_grad_(True)
    steps.train_step(bigjump, objective, torch.optim.SGD(bigjump.parameters(), lr=0.0), torch.arange(50))
    gradients = [p.grad for p in bigjump.parameters() if p.grad is not None]
    assert any(gradient is bigjump.geometry.matrix.grad for gradient in gradients)
    assert torch.nn.utils.get_total_norm(gradients).item() == pytest.approx(clip_norm, rel=1e-3)


def test_groups_of_the_optimiser(bigjump):
    chosen = replace(BIGJUMP, learning_rate=2e-4, weight_decay=0.3, geometry_lr_ratio=0.05)
    groups = {group["name"]: group for group in make_optimiser(bigjump, chosen).param_groups}
    metadata = {name: (group["lr"], group["weight_decay"]) for name, group in groups.items()}
    assert metadata == {"weights": (2e-4, 0.3), "biases": (2e-4, 0.0), "geometry": (pytest.approx(1e-5), 0.0)}
    assert [p is bigjump.geometry.matrix for p in groups["geometry"]["params"]] == [True]
    names = {id(p): name for name, p in bigjump.named_parameters()}
    held = {group: {names[id(p)].rpartition(".")[2] for p in groups[group]["params"]} for group in groups}
    assert held == {"weights": {"weight"}, "biases": {"bias"}, "geometry": {"matrix"}}
    assert sum(len(group["params"]) for group in groups.values()) == len(names)


def test_a_baseline_has_no_group_for_a_geometry():
    groups = make_optimiser(build_model("mlp2", DX, DY, hidden=8), BASELINE).param_groups
    assert [(group["name"], len(group["params"])) for group in groups] == [("weights", 3), ("biases", 3)]


def from_seed(seed, data, affine):
    seed_all(seed)
    model = build_model("bigjump", DX, DY, hidden=BIGJUMP.hidden)
    model.geometry.set_affine(affine.matrix, affine.bias)
    history = train(model, data, seed=seed)
    return weights(model), [{k: v for k, v in entry.items() if k != "seconds"} for entry in history]


def test_the_seed_decides_every_bit(data, affine):
    first, again, other = (from_seed(seed, data, affine) for seed in (1, 1, 2))
    assert same(first[0], again[0]) and first[1] == again[1]
    assert not same(first[0], other[0]) and first[1] != other[1]


def test_the_best_epoch_is_what_is_left(monkeypatch, bigjump, data):
    states, measure = [], loop.validation_mrr

    def remember(model, data):
        states.append(weights(model))
        return measure(model, data)

    monkeypatch.setattr(loop, "validation_mrr", remember)
    history = train(bigjump, data, epochs=8, learning_rate=0.1)  # too fast: the last epoch is not the best
    mrr = [entry["mrr"] for entry in history]
    assert mrr[-1] < max(mrr)
    assert measure(bigjump, data) == max(mrr)
    assert same(weights(bigjump), states[int(np.argmax(mrr))])
    bigjump.eval()
    train(bigjump, data, epochs=1)
    assert not bigjump.training


@pytest.mark.parametrize("best", [1, 2, 3])
def test_any_epoch_can_be_the_best(monkeypatch, bigjump, data, best):
    states, mrr = [], [0.5, 0.5, 0.5]  # of equals the first stays
    mrr[best - 1] += 0.1

    def report(model, _):
        states.append(copy.deepcopy(weights(model)))
        return mrr[len(states) - 1]

    monkeypatch.setattr(loop, "validation_mrr", report)
    train(bigjump, data, epochs=3)
    assert [same(weights(bigjump), state) for state in states] == [epoch == best for epoch in (1, 2, 3)]


RECORDED = {"epoch", "loss", "lr_weights", "lr_biases", "geometry_free", "mrr", "seconds"}


def test_the_history_of_bigjump(bigjump, data):
    history = train(bigjump, data, epochs=5, warmup_epochs=1.0, final_lr_ratio=0.1)
    terms = ("infonce", "cosine", "moment", "agreement")
    for epoch, entry in enumerate(history, 1):
        assert entry.keys() == RECORDED | {"temperature", "queue", "lr_geometry", *terms}
        assert entry["epoch"] == epoch
        assert entry["loss"] == pytest.approx(sum(entry[term] for term in terms), rel=1e-5)
        assert entry["lr_geometry"] == pytest.approx(BIGJUMP.geometry_lr_ratio * entry["lr_weights"])
        assert entry["lr_biases"] == entry["lr_weights"]
        assert entry["temperature"] == temperature_at(epoch, 5, 0.10, 0.06)
    assert [entry["queue"] for entry in history] == [0, 0, 100, 300, 300]
    assert history[0]["lr_weights"] == pytest.approx(3e-3) and history[-1]["lr_weights"] == pytest.approx(3e-4)


def test_the_queue_is_no_longer_than_what_was_pushed(bigjump, data):
    history = train(bigjump, data, epochs=3, queue_size=5000, queue_schedule=[0, 5000])
    assert [entry["queue"] for entry in history] == [0, 225, 450]  # 225 training captions an epoch


def test_the_queue_reaches_the_loss(bigjump, data):
    changes = {"epochs": 1, "batch_size": 300, "learning_rate": 1e-12}
    alone = train(bigjump, data, **changes, queue_schedule=[0])[0]["infonce"]
    objective = loop.BigJumpObjective(replace(BIGJUMP, **changes, queue_schedule=[300]), data)
    objective.queue.push(torch.arange(45).repeat(6))
    crowded = loop.fit(bigjump, objective, "bigjump")[0]
    assert crowded["queue"] == 270
    assert crowded["infonce"] > alone + 0.3  # more than twice the negatives: up to log(2.2)


@pytest.mark.parametrize("infonce_weight", [0.0, 0.5])
def test_the_history_of_a_baseline(data, infonce_weight):
    seed_all(0)
    chosen = replace(BASELINE, infonce_weight=infonce_weight)
    history = loop.train_baseline(build_model("mlp1", DX, DY, hidden=24), data, chosen, "mlp1")
    terms = ["cosine", "mse", "moment", *(["infonce"] if infonce_weight else [])]
    for entry in history:
        assert entry.keys() == RECORDED | set(terms)
        assert entry["loss"] == pytest.approx(sum(entry[term] for term in terms), rel=1e-5)
        assert entry["geometry_free"] is False


def test_weights_of_the_terms_multiply(data, bigjump):
    positive, target = data.positive[:20], data.images[data.positive[:20]]
    prediction = bigjump(data.text[:20]).detach()
    names = {"cosine_weight": "cosine", "moment_weight": "moment", "infonce_weight": "infonce"}
    for make, chosen, more in (
        (loop.CombinedObjective, BASELINE, {"mse_weight": "mse"}),
        (loop.BigJumpObjective, BIGJUMP, {"agreement_weight": "agreement"}),
    ):
        names_here = names | more
        once, thrice = (make(replace(chosen, **dict.fromkeys(names_here, w)), data) for w in (1.0, 3.0))
        for objective in (once, thrice):
            objective.start_epoch(1)
        one, three = (objective.terms(prediction, positive, torch.arange(20)) for objective in (once, thrice))
        assert set(one) == set(names_here.values())
        for name in one:
            assert one[name] > 0
            torch.testing.assert_close(three[name], 3 * one[name])
    assert one["cosine"].item() == pytest.approx(1 - torch.cosine_similarity(prediction, target).mean().item())


def test_terms_are_means_over_captions_however_small_the_last_batch(data, bigjump):
    bigjump.adapter[-2].p = 0.0  # no dropout
    expected = 1 - torch.cosine_similarity(bigjump(data.text), data.images[data.positive]).mean().item()
    history = train(bigjump, data, epochs=1, batch_size=64, cosine_weight=1.0, learning_rate=1e-12)  # 64, 64, 64, 33
    assert history[0]["cosine"] == pytest.approx(expected, rel=1e-5)


def test_bigjump_compares_means_only(data, bigjump):
    objective = loop.BigJumpObjective(replace(BIGJUMP, moment_weight=2.0), data)
    target = data.images[data.positive[:20]]
    term = objective.terms(3 * target, data.positive[:20], torch.arange(20))["moment"]
    assert term.item() == pytest.approx(2 * (2 * target.mean(0)).square().mean().item(), rel=1e-5)


@pytest.mark.parametrize("name", ["mlp1", "bigjump"])
def test_the_input_is_standardised_on_training_captions(data, name):
    seed_all(0)
    model = build_model(name, DX, DY, hidden=24)
    one_epoch = replace(BIGJUMP if name == "bigjump" else BASELINE, epochs=1)
    if name == "bigjump":
        loop.train_bigjump(model, data, one_epoch)
    else:
        loop.train_baseline(model, data, one_epoch, name)
    (layer,) = [layer for layer in model.modules() if isinstance(layer, Standardise)]
    torch.testing.assert_close(layer.mean, data.text.mean(0))
    torch.testing.assert_close(layer(data.text).std(0, correction=0), torch.ones(DX))


@pytest.mark.parametrize("where", ["text", "images"])
def test_a_loss_that_is_not_finite_is_an_error_that_names_the_epoch(bigjump, data, where):
    damaged = replace(data, **{where: getattr(data, where).clone()})
    getattr(damaged, where)[3, 2] = float("nan")
    with pytest.raises(FloatingPointError, match="bigjump: the loss is nan in epoch 1; lower the learning rate"):
        train(bigjump, damaged)


@pytest.mark.parametrize("batch_size", [64, 225])
def test_a_learning_rate_beyond_reason_is_the_same_error(data, batch_size):
    seed_all(0)
    chosen = replace(BASELINE, learning_rate=1e30, warmup_epochs=0, batch_size=batch_size)  # 225: one step an epoch
    with pytest.raises(FloatingPointError, match="mlp1: the loss is .* in epoch .; lower the learning rate"):
        loop.train_baseline(build_model("mlp1", DX, DY, hidden=24), data, chosen, "mlp1")


def test_bigjump_improves_on_its_start(bigjump, data):
    start = validation_mrr(bigjump, data)
    history = train(bigjump, data, epochs=15, batch_size=32, queue_schedule=[0], temperature_end=0.10)
    assert validation_mrr(bigjump, data) > start + 0.02
    losses = [entry["loss"] for entry in history]  # comparable, since queue and temperature stand still
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("name", ["linear", "mlp1", "mlp2"])
def test_baselines_learn(data, name):
    seed_all(0)
    model = build_model(name, DX, DY, hidden=24)
    start = validation_mrr(model, data)
    history = loop.train_baseline(model, data, replace(BASELINE, epochs=12, batch_size=32), name)
    assert validation_mrr(model, data) > start + 0.2
    assert history[-1]["loss"] < 0.7 * history[0]["loss"]


@pytest.mark.parametrize("mode", [True, False])
def test_validation_mrr_is_measured_without_dropout(bigjump, data, mode):
    torch.nn.init.normal_(bigjump.adapter[-1].weight)
    bigjump.train(mode)
    found = [validation_mrr(bigjump, data) for _ in range(2)]
    scores = torch.nn.functional.normalize(torch.from_numpy(predict(bigjump, data.val_text.numpy())))
    scores = scores @ torch.nn.functional.normalize(data.val_images).T
    rank = 1 + (scores > scores.gather(1, data.val_positive[:, None])).sum(1)
    assert found == [pytest.approx((1 / rank).mean().item())] * 2


def test_bfloat16_products_train_alike(bigjump, data):
    start = validation_mrr(bigjump, data)
    train(bigjump, data, epochs=6, mixed_precision=True)
    assert validation_mrr(bigjump, data) > start - 0.02
    assert {tensor.dtype for tensor in bigjump.state_dict().values()} == {torch.float32}


def test_a_frozen_geometry_that_is_computed_once_changes_nothing(monkeypatch, data, affine):
    """Against A x + b at every step; A is frozen for two epochs, then free."""
    once = from_seed(0, data, affine)
    monkeypatch.setattr(loop.BigJumpObjective, "predict", lambda self, model, rows: model(self.data.text[rows]))
    each_step = from_seed(0, data, affine)
    for name, values in once[0].items():
        torch.testing.assert_close(values, each_step[0][name], rtol=1e-4, atol=1e-5)


def test_training_data_are_float32_whatever_is_given(paired, split):
    text, images = (30 + paired[0]).astype(np.float16), paired[1].astype(np.float64)
    data, exact = (
        TrainingData.of(a, b, split, torch.device("cpu"))
        for a, b in ((text, images), (text.astype(np.float32), paired[1]))
    )
    for name in ("text", "images", "val_text", "val_images"):
        assert getattr(data, name).dtype == torch.float32 and torch.equal(getattr(data, name), getattr(exact, name))


def test_validation_in_blocks_is_the_same(data, monkeypatch):
    model = build_model("mlp1", DX, DY, hidden=8)
    whole = validation_mrr(model, data)
    monkeypatch.setattr(loop, "TRANSLATION_BLOCK", 7)
    assert validation_mrr(model, data) == pytest.approx(whole, abs=1e-6)


def test_seeding_switches_tf32_off():
    torch.set_float32_matmul_precision("high")
    seed_all(0)
    assert torch.get_float32_matmul_precision() == "highest"
