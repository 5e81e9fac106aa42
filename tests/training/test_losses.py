"""Losses against reference implementations in float64."""

import math
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.training import infonce, losses
from helpers.training.queue import ImageQueue


def reference_infonce(prediction, vectors, batch, queue, temperature):
    """The method as it reads: loops over entries, own-image entries of the queue skipped."""
    z = prediction / prediction.norm(dim=1, keepdim=True)
    total = 0.0
    for i, image in enumerate(batch):
        score = [(z[i] @ vectors[u] / temperature).exp() for u in batch]
        positive = sum(s for s, u in zip(score, batch, strict=True) if u == image)
        negative = sum(s for s, u in zip(score, batch, strict=True) if u != image)
        for u in queue:
            if u != image:
                negative = negative + (z[i] @ vectors[u] / temperature).exp()
        total = total - (positive / (positive + negative)).log()
    return total / len(batch)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n_images=st.integers(2, 12),
    batch_size=st.integers(1, 10),
    pushes=st.lists(st.integers(1, 9), max_size=5),
    newest_size=st.integers(0, 20),
    temperature=st.sampled_from([0.05, 0.1, 1.0]),
    block=st.sampled_from([2, 5, 4096, None]),
)
def test_infonce_loss_and_gradient_equal_the_reference_implementation(
    seed, n_images, batch_size, pushes, newest_size, temperature, block
):
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.nn.functional.normalize(torch.randn(n_images, 6, generator=generator, dtype=torch.float64))
    queue, entries = ImageQueue(capacity=14, n_images=n_images), []
    for size in pushes:
        images = torch.randint(n_images, (size,), generator=generator)
        queue.push(images)
        entries += images.tolist()
    batch = torch.randint(n_images, (batch_size,), generator=generator)
    prediction = torch.randn(batch_size, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    newest = entries[-14:][-newest_size:] if newest_size else []
    expected = reference_infonce(prediction, vectors, batch.tolist(), newest, temperature)
    (expected_gradient,) = torch.autograd.grad(expected, prediction)

    counts = queue.counts(newest_size).double()
    # None: as a GPU has it, all columns at once
    change = {"in_blocks": infonce.at_once} if block is None else {"COLUMN_BLOCK": block}
    with mock.patch.multiple(infonce, **change):
        got = losses.multi_positive_infonce(prediction, vectors, batch, counts, temperature, torch.float64)
    (gradient,) = torch.autograd.grad(got, prediction)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-11)


def test_a_caption_never_counts_its_own_image_as_a_negative():
    vectors = torch.eye(4, dtype=torch.float64)
    prediction = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    positive = torch.tensor([1, 1])
    empty, full_of_positives = torch.zeros(4, dtype=torch.float64), torch.tensor([0.0, 9, 0, 0], dtype=torch.float64)
    loss = [
        losses.multi_positive_infonce(prediction, vectors, positive, c, 0.1, torch.float64)
        for c in (empty, full_of_positives)
    ]
    assert loss[0] == loss[1] == 0


def test_bfloat16_products_stay_close():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(300, 64, generator=generator))
    prediction, positive = torch.randn(40, 64, generator=generator), torch.arange(40)
    counts = torch.ones(300)
    exact = losses.multi_positive_infonce(prediction, vectors, positive, counts, 0.06)
    rounded = losses.multi_positive_infonce(prediction, vectors.bfloat16(), positive, counts, 0.06, torch.bfloat16)
    assert abs(exact - rounded) < 0.02 * exact


def test_info_nce_is_the_batch_only_case():
    generator = torch.Generator().manual_seed(1)
    vectors, prediction = torch.randn(8, 5, generator=generator), torch.randn(8, 5, generator=generator)
    bank = torch.nn.functional.normalize(vectors)
    multi = losses.multi_positive_infonce(prediction, bank, torch.arange(8), torch.zeros(8), 0.1)
    torch.testing.assert_close(multi, losses.in_batch_infonce(prediction, vectors, 0.1))


def test_agreement_against_a_loop_and_zero_for_equal_captions():
    generator = torch.Generator().manual_seed(2)
    prediction = torch.randn(9, 5, generator=generator)
    images = torch.tensor([7, 3, 7, 1, 3, 7, 0, 2, 9])
    z = torch.nn.functional.normalize(prediction)
    expected = np.mean([z[images == u].var(0, unbiased=False).mean().item() for u in (7, 3)])
    assert losses.agreement_loss(prediction, images).item() == pytest.approx(expected, rel=1e-5)
    same = prediction[:1].repeat(4, 1)
    assert losses.agreement_loss(same, torch.tensor([1, 1, 2, 2])).item() == pytest.approx(0, abs=1e-12)
    assert losses.agreement_loss(prediction, torch.arange(9)).item() == 0


def test_moment_cosine_and_mse_by_hand():
    a, b = torch.tensor([[1.0, 0], [3, 0]]), torch.tensor([[0.0, 2], [0, 2]])
    assert losses.moment_loss(a, b, with_std=False).item() == pytest.approx((2**2 + 2**2) / 2)
    assert losses.moment_loss(a, b, with_std=True).item() == pytest.approx((8 + 2) / 2)
    assert losses.cosine_loss(a, b).item() == pytest.approx(1)
    assert losses.mse_loss(a, b).item() == pytest.approx((1 + 4 + 9 + 4) / 4)
    assert math.isfinite(losses.moment_loss(a[:1], b[:1], with_std=True).item())


@settings(max_examples=60, deadline=None)
@given(
    capacity=st.integers(1, 9),
    pushes=st.lists(st.lists(st.integers(0, 5), max_size=15), max_size=8),
    size=st.integers(0, 12),
)
def test_queue_is_a_fifo(capacity, pushes, size):
    queue, entries = ImageQueue(capacity, 6), []
    for images in pushes:
        queue.push(torch.tensor(images, dtype=torch.long))
        entries = (entries + images)[-capacity:]
    newest = entries[-size:] if size else []
    assert len(queue) == len(entries)
    assert sorted(queue.newest(size).tolist()) == sorted(newest)
    assert queue.counts(size).tolist() == [newest.count(i) for i in range(6)]


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (1, [(0, 1)]),
        (7, [(0, 7)]),
        (8, [(0, 8)]),
        (13, [(0, 8), (8, 13)]),
        (32, [(0, 32)]),
        (39, [(0, 32), (32, 39)]),
        (71, [(0, 32), (32, 64), (64, 71)]),
        (90, [(0, 32), (32, 64), (64, 88), (88, 90)]),
    ],
)
def test_blocks_of_columns_keep_to_widths_that_products_like(monkeypatch, n, expected):
    monkeypatch.setattr(infonce, "COLUMN_BLOCK", 32)
    assert list(infonce._column_blocks(n)) == expected


@pytest.mark.parametrize("n", [40, 41, 47, 90])
def test_widths_that_are_no_multiple_change_no_loss(monkeypatch, n):
    monkeypatch.setattr(infonce, "COLUMN_BLOCK", 32)
    generator = torch.Generator().manual_seed(n)
    prediction = torch.randn(6, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    bank, positive = (
        torch.randn(n, 5, generator=generator, dtype=torch.float64),
        torch.tensor([n - 1, 0, 3, 31, 32, n - 1]),
    )
    ours = losses.bank_infonce(prediction, bank, positive, 0.1, torch.float64)
    naive = torch.nn.functional.cross_entropy(
        torch.nn.functional.normalize(prediction, dim=-1) @ bank.T / 0.1, positive
    )
    assert ours.item() == pytest.approx(naive.item(), rel=1e-12)
    found, expected = (torch.autograd.grad(loss, prediction)[0] for loss in (ours, naive))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
