"""No image is a negative of a caption whose very text also describes it, where that is asked for."""

from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.data.split import make_split
from helpers.data.training_data import TrainingData
from helpers.training import infonce, losses, plus
from helpers.training.folds import make_fold
from helpers.training.objectives import BigJumpConfig, BigJumpObjective
from helpers.training.plus_choice import Networks
from helpers.training.plus_objective import PlusObjective
from helpers.training.same_text import SameText
from helpers.training.settings import PlusConfig


def training_data(text_numbers, positive, n_images, dx=5, dy=6, seed=0):
    """Captions of these texts and images; equal texts have equal vectors."""
    generator = torch.Generator().manual_seed(seed)
    text_numbers, positive = torch.tensor(text_numbers), torch.tensor(positive)
    text = torch.randn(int(text_numbers.max()) + 1, dx, generator=generator)[text_numbers]
    images = torch.randn(n_images, dy, generator=generator)
    return TrainingData(text, positive, images, text[:2], images[:2], torch.tensor([0, 1]), None, text_numbers)


def described(text_numbers, positive):
    """For each caption, by loops: the other images of captions that say the same."""
    return [
        {int(v) for s, v in zip(text_numbers, positive, strict=True) if s == t and v != u}
        for t, u in zip(text_numbers, positive, strict=True)
    ]


def reference_infonce(prediction, vectors, batch, queue, temperature, others):
    """The loss as it reads: loops over the entries of batch and queue, what the text describes skipped."""
    z = prediction / prediction.norm(dim=1, keepdim=True)
    total = 0.0
    for i, image in enumerate(batch):
        score = [(z[i] @ vectors[u] / temperature).exp() for u in [*batch, *queue]]
        positive = sum(s for s, u in zip(score, batch, strict=False) if u == image)
        negative = sum(s for s, u in zip(score, [*batch, *queue], strict=True) if u != image and u not in others[i])
        total = total - (positive / (positive + negative)).log()
    return total / len(batch)


cases = given(
    seed=st.integers(0, 10_000),
    n_images=st.integers(2, 12),
    n_texts=st.integers(1, 6),
    block=st.sampled_from([2, 5, 4096, None]),
    gathering=st.sampled_from([0.0, 40.0]),
)


def on_either_device(block, gathering):
    """The CPU's blocks of columns, or all at once, as a GPU has it (None); with and without rows left out."""
    change = {"in_blocks": infonce.at_once} if block is None else {"COLUMN_BLOCK": block}
    return mock.patch.multiple(infonce, **change), mock.patch.dict(losses.GATHERING, cpu=gathering)


@settings(max_examples=60, deadline=None)
@cases
def test_batch_and_queue_leave_out_what_the_text_describes(seed, n_images, n_texts, block, gathering):
    rng = np.random.default_rng(seed)
    texts, positive = rng.integers(n_texts, size=15).tolist(), rng.integers(n_images, size=15).tolist()
    data = training_data(texts, positive, n_images)
    vectors = torch.nn.functional.normalize(data.images.double(), dim=-1)
    rows, queue = torch.from_numpy(rng.permutation(15)[:7]), rng.integers(n_images, size=9)
    prediction = torch.from_numpy(rng.normal(size=(7, 6))).requires_grad_()
    others = [described(texts, positive)[row] for row in rows]
    batch = data.positive[rows]
    expected = reference_infonce(prediction, vectors, batch.tolist(), queue.tolist(), 0.1, others)
    same = SameText.of(data)
    excluded = None if same is None else same.excluded(rows, batch)
    counts = torch.from_numpy(np.bincount(queue, minlength=n_images)).double()
    patches = on_either_device(block, gathering)
    with patches[0], patches[1]:
        got = losses.multi_positive_infonce(prediction, vectors, batch, counts, 0.1, torch.float64, excluded=excluded)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    gradients = (torch.autograd.grad(loss, prediction)[0] for loss in (got, expected))
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


@settings(max_examples=60, deadline=None)
@cases
def test_a_bank_leaves_them_out_too_with_any_weights(seed, n_images, n_texts, block, gathering):
    rng = np.random.default_rng(seed)
    texts, positive = rng.integers(n_texts, size=15).tolist(), rng.integers(n_images, size=15).tolist()
    data = training_data(texts, positive, n_images)
    rows, bank = torch.from_numpy(rng.permutation(15)[:7]), data.images.double()
    batch, prediction = data.positive[rows], torch.from_numpy(rng.normal(size=(7, 6))).requires_grad_()
    weights = losses.sampled_weights(n_images, batch, 0.4).double()
    logits = torch.nn.functional.normalize(prediction, dim=-1) @ bank.T / 0.2 + weights
    naive = torch.stack([
        logits[i, u] - weights[u] - torch.logsumexp(
            torch.stack([logits[i, u] - weights[u]] + [
                logits[i, v] for v in range(n_images) if v != u and v not in described(texts, positive)[row]
            ]), 0
        )
        for i, (row, u) in enumerate(zip(rows.tolist(), batch.tolist(), strict=True))
    ])  # fmt: skip
    expected = -naive.mean()
    same = SameText.of(data)
    excluded = None if same is None else same.excluded(rows, batch)
    patches = on_either_device(block, gathering)
    with patches[0], patches[1]:
        got = losses.bank_infonce(prediction, bank, batch, 0.2, torch.float64, weights, excluded=excluded)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    gradients = (torch.autograd.grad(loss, prediction)[0] for loss in (got, expected))
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


TEXTS, POSITIVE = [0, 0, 1, 2, 0, 1, 3, 2], [0, 1, 2, 3, 4, 2, 5, 0]
"""Text 0 describes images 0, 1 and 4; text 1 image 2 alone, twice; text 2 images 3 and 0."""


def test_the_images_of_a_text_are_found_for_each_caption():
    same = SameText.of(training_data(TEXTS, POSITIVE, 6))
    rows = torch.arange(8)
    table = same.excluded(rows, torch.tensor(POSITIVE))
    others = [set(row) - {own} for row, own in zip(table.tolist(), POSITIVE, strict=True)]
    assert others == described(TEXTS, POSITIVE) and same.most == table.shape[1] == 3
    assert same.excluded(torch.tensor([2, 6]), torch.tensor([2, 5])).shape[1] == 1  # no wider than a batch needs
    assert len(same.images) == 7  # distinct pairs, not captions times images


@pytest.mark.parametrize("texts", [[0, 1, 2, 3, 4, 5, 6, 7], None])
def test_without_repeated_texts_there_is_nothing_to_exclude(texts):
    data = training_data(TEXTS, POSITIVE, 6)
    same_text = None if texts is None else torch.tensor(texts)
    assert SameText.of(replace(data, same_text=same_text)) is None


BIGJUMP = BigJumpConfig(
    mixed_precision=False, queue_schedule=(8,), queue_size=8, temperature_start=0.3, temperature_end=0.3
)


def bigjump_loss(data, exclude, prediction, rows):
    objective = BigJumpObjective(replace(BIGJUMP, exclude_same_text=exclude), data)
    objective.start_epoch(1)
    objective.end_step(torch.tensor([4, 1, 1, 3]))
    return objective.terms(prediction, data.positive[rows], rows)["infonce"]


@pytest.mark.parametrize("exclude", [False, True])
def test_the_published_objective_leaves_them_out_where_it_is_told_to(exclude):
    data, rows = training_data(TEXTS, POSITIVE, 6), torch.tensor([0, 3, 6])
    prediction = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    others = [described(TEXTS, POSITIVE)[row] if exclude else set() for row in rows]
    vectors = torch.nn.functional.normalize(data.images, dim=-1)
    expected = reference_infonce(prediction, vectors, data.positive[rows].tolist(), [4, 1, 1, 3], 0.3, others)
    torch.testing.assert_close(bigjump_loss(data, exclude, prediction, rows), expected)


def test_off_the_texts_change_no_bit():
    data, rows = training_data(TEXTS, POSITIVE, 6), torch.tensor([0, 3, 6])
    prediction = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    unknown = replace(data, same_text=None)
    assert torch.equal(*(bigjump_loss(of, False, prediction, rows) for of in (data, unknown)))
    assert not BigJumpConfig().exclude_same_text


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("temperatures", [[0.3], [0.3, 0.8]])
def test_every_member_of_the_ensemble_leaves_them_out(temperatures, together):
    """Of every kind; alone, as a CPU has it, or all of a kind in one product, as a GPU has it."""
    data, rows = training_data(TEXTS, POSITIVE, 6), torch.tensor([0, 3, 6])
    settings = PlusConfig(hidden=8, negative_share=1.0, dropout=0.0, exclude_same_text=True)
    kinds = {
        f"networks{n}": Networks(temperature=t, whitening=0.0, blocks=0, epochs=1, members=2)
        for n, t in enumerate(temperatures)
    }
    objective = PlusObjective(settings, data, plus.build_networks(data, settings, kinds), kinds)
    prediction, positive = objective.predict(objective.model, rows).detach(), data.positive[rows]
    bank, each, products = objective.negative_bank, [], []
    for members, temperature in zip(prediction.split(2), objective.temperatures.values(), strict=True):
        excluded = objective.same_text.excluded(rows, positive).repeat(2, 1)
        flat, own = members.flatten(0, 1), positive.repeat(2)
        products.append(losses.bank_infonce(flat, bank, own, temperature, excluded=excluded))
        for member in members:
            logits = torch.nn.functional.normalize(member, dim=-1) @ bank.T / temperature
            for i, row in enumerate(rows):
                logits[i, list(described(TEXTS, POSITIVE)[row])] = -torch.inf
            each.append(torch.nn.functional.cross_entropy(logits, positive))
    found = torch.stack(products).mean() if together else objective.terms(prediction, positive, rows)["infonce"]
    torch.testing.assert_close(found, torch.stack(each).mean())


def test_a_fold_knows_the_texts_of_its_own_captions_alone():
    rng = np.random.default_rng(0)
    texts, positive = rng.integers(30, size=120).tolist(), rng.permutation(np.repeat(np.arange(40), 3)).tolist()
    data = training_data(texts, positive, 40)
    fold = make_fold(data, PlusConfig(), 0)
    assert len(fold.same_text) == len(fold.text) < 120
    by_vector = (fold.text[:, None] == fold.text[None, :]).all(-1)  # equal texts have equal vectors
    assert torch.equal(by_vector, fold.same_text[:, None] == fold.same_text[None, :])


@pytest.mark.parametrize("device", ["cpu", "elsewhere"])
def test_the_table_of_a_batch_has_one_width_where_a_step_is_recorded(device, monkeypatch):
    same = SameText.of(training_data(TEXTS, POSITIVE, 6))
    if device == "elsewhere":  # shapes must not depend on values there; meta tensors have no values
        meta = replace(same, images=same.images.to("meta"), first=same.first.to("meta"), count=same.count.to("meta"))
        table = meta.excluded(
            torch.empty(2, dtype=torch.long, device="meta"), torch.empty(2, dtype=torch.long, device="meta")
        )
        assert table.shape == (2, same.most)
    else:
        assert same.excluded(torch.tensor([2]), torch.tensor([2])).shape == (1, 1)


def test_no_text_of_the_validation_split_has_a_part_in_it():
    rng = np.random.default_rng(1)
    targets = np.repeat(np.arange(20), 3)
    text, images = rng.normal(size=(60, 4)).astype(np.float32), rng.normal(size=(20, 5)).astype(np.float32)
    split = make_split(targets, 20, 0.3, 0)
    captions = [f"text {i}" for i in rng.integers(12, size=60)]
    changed = list(captions)
    for row in split.val_captions:
        changed[row] = captions[split.train_captions[0]]
    found = (TrainingData.of(text, images, split, torch.device("cpu"), None, each) for each in (captions, changed))
    one, two = (SameText.of(data) for data in found)
    assert all(torch.equal(getattr(one, name), getattr(two, name)) for name in ("images", "first", "count"))


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_gpu_that_keeps_the_heaviest_images_leaves_out_the_same(share):
    generator = torch.Generator().manual_seed(0)
    bank, positive = torch.randn(300, 8, generator=generator).double(), torch.tensor([3, 3, 8, 299])
    excluded = torch.cat([positive[:, None], torch.randint(300, (4, 40), generator=generator)], 1)
    log_weight = losses.sampled_weights(300, positive, share).double()
    kept = losses.keep_heaviest(bank, positive, log_weight, losses.most_drawn(300, 4, share), excluded)
    found = []
    for rows, places, weights, left_out in ((bank, positive, log_weight, excluded), kept):
        z = torch.randn(4, 8, generator=generator.manual_seed(1)).double().requires_grad_()
        loss = losses.bank_infonce(z, rows, places, 0.1, torch.float64, weights, excluded=left_out)
        found.append((loss.detach(), *torch.autograd.grad(loss, z)))
    assert len(kept[0]) < 300
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)
