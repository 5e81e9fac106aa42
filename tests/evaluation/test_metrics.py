"""Ranks against a sorting oracle, the invariances of MRR, intervals, and the challenge's protocol."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from helpers.data import vectors
from helpers.evaluation import metrics


def sorted_ranks(scores, targets):
    """Mean of the best and the worst place that a sort of the row could give to the own item."""
    out = []
    for row, target in zip(scores.tolist(), targets.tolist(), strict=True):
        descending = sorted(row, reverse=True)
        best = 1 + descending.index(row[target])
        worst = len(row) - descending[::-1].index(row[target])
        out.append((best + worst) / 2)
    return np.array(out)


def tensors(*values):
    return [torch.from_numpy(np.array(value)) for value in values]


def mrr(*parts, **options):
    return float(np.mean(1 / metrics.ranks(*tensors(*parts), **options)))


@st.composite
def retrievals(draw, element, width):
    """Predictions, gallery and targets whose scores are exact in float32, with many ties and duplicates."""
    n, m = draw(st.integers(1, 7)), draw(st.integers(1, 9))
    predictions, gallery = (draw(arrays(np.float32, (rows, width), elements=element)) for rows in (n, m))
    return predictions, gallery, draw(arrays(np.int64, n, elements=st.integers(0, m - 1)))


WHOLE = st.sampled_from([-2.0, -1.0, 0.0, 1.0, 2.0])
SIGNS = st.sampled_from([-1.0, 1.0])  # rows of four have length 2: normalising them is exact


@settings(deadline=None)
@given(case=st.integers(1, 3).flatmap(lambda width: retrievals(WHOLE, width)))
def test_ranks_by_dot_product_equal_the_sort(case):
    predictions, gallery, targets = case
    found = metrics.ranks(*tensors(*case), cosine=False)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, sorted_ranks(predictions @ gallery.T, targets))


@settings(deadline=None)
@given(case=retrievals(SIGNS, 4), length=st.sampled_from([0.25, 1.0, 8.0]))
def test_ranks_by_cosine_equal_the_sort(case, length):
    predictions, gallery, targets = case
    longer = gallery * np.where(np.arange(len(gallery)) % 2, length, 1)[:, None].astype(np.float32)
    found = metrics.ranks(*tensors(predictions, longer, targets))
    np.testing.assert_array_equal(found, sorted_ranks(predictions @ gallery.T / 4, targets))


@pytest.mark.parametrize("cosine", [True, False])
@pytest.mark.parametrize("copies", [2, 3, 50])
def test_duplicates_share_the_mean_of_their_places(cosine, copies):
    rng = np.random.default_rng(0)
    distinct = rng.normal(size=(40, 33)).astype(np.float32)
    gallery = np.repeat(distinct, copies, axis=0)[rng.permutation(40 * copies)]
    targets = np.array([np.flatnonzero((gallery == row).all(1))[-1] for row in distinct])
    perfect = distinct if cosine else distinct / np.linalg.norm(distinct, axis=1, keepdims=True) ** 2 * 1000
    if not cosine:
        gallery = gallery / np.linalg.norm(gallery, axis=1, keepdims=True)
    found = metrics.ranks(*tensors(perfect, gallery, targets), cosine=cosine)
    np.testing.assert_array_equal(found, np.full(40, (1 + copies) / 2))


def test_predictions_that_are_all_alike_get_the_middle_rank():
    rng = np.random.default_rng(0)
    gallery = np.repeat(rng.normal(size=(1, 20)), 9, axis=0).astype(np.float32)
    predictions = rng.normal(size=(5, 20)).astype(np.float32)
    predictions[0] = 0
    np.testing.assert_array_equal(metrics.ranks(*tensors(predictions, gallery, np.arange(5))), np.full(5, 5.0))


def real_case(seed, n=30, m=40, width=8):
    rng = np.random.default_rng(seed)
    gallery = rng.normal(size=(m, width))
    targets = rng.integers(0, m, n)
    predictions = gallery[targets] + rng.normal(size=(n, width))
    return predictions, gallery, targets, rng


@pytest.mark.parametrize("cosine", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_a_common_rotation_changes_nothing(seed, cosine):
    predictions, gallery, targets, rng = real_case(seed)
    rotation = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    expected = mrr(predictions, gallery, targets, cosine=cosine)
    assert mrr(predictions @ rotation, gallery @ rotation, targets, cosine=cosine) == pytest.approx(expected)
    assert mrr(predictions @ rotation, gallery, targets, cosine=cosine) != pytest.approx(expected)


@pytest.mark.parametrize("cosine", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_positive_scales_of_the_predictions_change_nothing(seed, cosine):
    predictions, gallery, targets, rng = real_case(seed)
    scales = np.exp(rng.normal(size=(len(predictions), 1)))
    expected = mrr(predictions, gallery, targets, cosine=cosine)
    assert mrr(predictions * scales, gallery, targets, cosine=cosine) == pytest.approx(expected)
    assert mrr(-predictions, gallery, targets, cosine=cosine) < expected


def test_scales_of_the_gallery_matter_to_the_dot_product_only():
    predictions, gallery, targets, rng = real_case(0)
    longer = gallery * np.exp(rng.normal(size=(len(gallery), 1)))
    assert mrr(predictions, longer, targets) == pytest.approx(mrr(predictions, gallery, targets))
    by_dot = [mrr(predictions, images, targets, cosine=False) for images in (gallery, longer)]
    assert by_dot[0] != pytest.approx(by_dot[1])


@settings(deadline=None)
@given(case=retrievals(SIGNS, 4), seed=st.integers(0, 1000), cosine=st.booleans())
def test_the_order_of_the_gallery_changes_nothing(case, seed, cosine):
    predictions, gallery, targets = case
    order = np.random.default_rng(seed).permutation(len(gallery))
    permuted = tensors(predictions, gallery[order], np.argsort(order)[targets])
    np.testing.assert_array_equal(
        metrics.ranks(*permuted, cosine=cosine), metrics.ranks(*tensors(*case), cosine=cosine)
    )


@settings(deadline=None)
@given(case=retrievals(SIGNS, 4), queries=st.integers(1, 9), rows=st.integers(1, 9), cosine=st.booleans())
def test_blocks_give_the_same_ranks(case, queries, rows, cosine):
    expected = metrics.ranks(*tensors(*case), cosine=cosine)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "QUERY_BLOCK", queries)
        patch.setattr(metrics, "GALLERY_BLOCK", rows)
        np.testing.assert_array_equal(metrics.ranks(*tensors(*case), cosine=cosine), expected)


def test_a_memory_mapped_gallery_gives_the_same_ranks(tmp_path):
    predictions, gallery, targets, _ = real_case(0)
    np.save(tmp_path / "gallery.npy", gallery)
    mapped = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    found = metrics.ranks(torch.from_numpy(predictions), mapped, torch.from_numpy(targets))
    np.testing.assert_array_equal(found, metrics.ranks(*tensors(predictions, gallery, targets)))


@pytest.mark.parametrize("cosine", [True, False])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("block", [1, 4096])
def test_nan_and_inf_are_errors_that_give_their_number(monkeypatch, value, cosine, block):
    monkeypatch.setattr(metrics, "QUERY_BLOCK", block)
    predictions, gallery, targets, _ = real_case(0)
    damaged = predictions.copy()
    damaged[[4, 7], 3] = value
    with pytest.raises(ValueError, match=r"2 of 30 queries have NaN or Inf scores, first: \[4, 7\]"):
        mrr(damaged, gallery, targets, cosine=cosine)
    damaged = gallery.copy()
    damaged[(targets[0] + 1) % len(gallery), 3] = value
    with pytest.raises(ValueError, match="30 of 30 queries have NaN or Inf scores"):
        mrr(predictions, damaged, targets, cosine=cosine)


@pytest.mark.parametrize("seed", range(3))
def test_torchmetrics_agrees(seed):
    from torchmetrics.retrieval import RetrievalMRR  # seconds, which no collection need wait for

    predictions, gallery, targets, _ = real_case(seed)
    unit = [torch.nn.functional.normalize(rows) for rows in tensors(predictions, gallery)]
    scores = unit[0] @ unit[1].T + 2
    relevant = torch.nn.functional.one_hot(torch.from_numpy(targets), len(gallery)).bool()
    query = torch.arange(len(targets))[:, None].expand_as(scores)
    theirs = RetrievalMRR()(scores.flatten().float(), relevant.flatten(), indexes=query.flatten())
    assert mrr(predictions, gallery, targets) == pytest.approx(theirs.item())


def test_summary_by_hand():
    found = metrics.summarise(np.array([5.5, 1, 20, 2]))
    assert found == pytest.approx(
        {
            "mrr": (2 / 11 + 1 + 1 / 20 + 1 / 2) / 4,
            "recall_at_1": 1 / 4,
            "recall_at_5": 2 / 4,
            "recall_at_10": 3 / 4,
            "ndcg": (1 / np.log2(6.5) + 1 + 1 / np.log2(21) + 1 / np.log2(3)) / 4,
            "median_rank": (2 + 5.5) / 2,
            "p75_rank": 5.5 + 0.25 * (20 - 5.5),
        }
    )


@pytest.mark.parametrize("gallery_size", [1, 2, 100])
def test_chance_deals_every_rank_alike(gallery_size):
    found = metrics.chance_ranks(5 * gallery_size, gallery_size)
    harmonic = sum(1 / rank for rank in range(1, gallery_size + 1))
    assert sorted(found) == np.repeat(np.arange(1, gallery_size + 1), 5).tolist()
    assert np.mean(1 / found) == pytest.approx(harmonic / gallery_size)


def test_chance_where_ranks_cannot_be_dealt_evenly():
    found = metrics.chance_ranks(12_345, 250)
    assert (found.min(), found.max()) == (1, 250)
    assert np.mean(1 / found) == pytest.approx(sum(1 / rank for rank in range(1, 251)) / 250, rel=0.02)
    other = metrics.chance_ranks(12_345, 250, seed=1)
    assert not np.array_equal(found, other) and np.array_equal(np.sort(found), np.sort(other))


VALUES = np.random.default_rng(3).random(200)


def width(interval):
    return interval[1] - interval[0]


def test_interval_is_reproducible_and_holds_the_mean():
    groups = np.arange(200) // 4
    first, again, other = (metrics.bootstrap_interval(VALUES, groups, seed=seed) for seed in (0, 0, 1))
    assert first == again != other
    assert first[0] < VALUES.mean() < first[1]
    narrower = metrics.bootstrap_interval(VALUES, groups, level=0.5)
    assert first[0] < narrower[0] < narrower[1] < first[1]


def test_interval_over_independent_rows_is_that_of_the_normal_law():
    found = metrics.bootstrap_interval(VALUES, np.arange(200), samples=4000)
    assert width(found) == pytest.approx(2 * 1.96 * VALUES.std() / np.sqrt(200), rel=0.1)


@settings(max_examples=50, deadline=None)
@given(
    values=st.lists(st.sampled_from([0.0, 1.0, -1.0, 2.0, 0.5, 1e-30, 3e38, 1.0000001]), min_size=1, max_size=3),
    width=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
def test_a_gpu_tells_copies_by_their_values_too(values, width, seed):
    block = torch.tensor(values)[torch.randint(len(values), (60, width), generator=torch.Generator().manual_seed(seed))]
    equal = (block[:, None] == block[None, :]).all(2).numpy()
    for digests in (vectors._digests(block.numpy()), vectors._digests_on_gpu(block)):
        np.testing.assert_array_equal(digests[:, None] == digests[None, :], equal)


def test_statistics_of_the_gallery_change_no_rank():
    rng = np.random.default_rng(0)
    gallery = np.repeat(rng.normal(size=(20, 6)) + 50, 2, axis=0)  # copies, and nearly one direction
    case = tensors(rng.normal(size=(30, 6)), gallery, rng.integers(0, 40, 30))
    known = vectors.GalleryStatistics.of(case[1])
    assert known.common is not None and len(np.unique(known.group)) == 20
    np.testing.assert_array_equal(metrics.ranks(*case, statistics=known), metrics.ranks(*case))


def test_copies_inside_a_group_are_no_evidence():
    copies, groups = np.repeat(VALUES, 5), np.repeat(np.arange(200), 5)
    grouped = metrics.bootstrap_interval(copies, groups)
    assert grouped == pytest.approx(metrics.bootstrap_interval(VALUES, np.arange(200)))
    assert width(grouped) > 1.8 * width(metrics.bootstrap_interval(copies, np.arange(1000)))


def test_interval_does_not_depend_on_the_blocks_in_which_samples_are_drawn():
    groups = np.arange(50_000)  # 80 samples a block
    found = metrics.bootstrap_interval(np.repeat(VALUES, 250), groups, samples=200)
    assert found[0] < VALUES.mean() < found[1]
    assert width(found) == pytest.approx(2 * 1.96 * VALUES.std() / np.sqrt(50_000), rel=0.3)


def test_one_group_leaves_nothing_to_resample():
    assert metrics.bootstrap_interval(VALUES, np.full(200, 7)) == pytest.approx((VALUES.mean(), VALUES.mean()))


def test_groups_weigh_as_many_rows_as_they_hold():
    values, groups = np.array([1.0, 0, 0, 0]), np.array([0, 1, 1, 1])
    # Two of four ways to draw two groups are mixed; their mean is 1/4, and not 1/2 as that of the groups' means.
    assert metrics.bootstrap_interval(values, groups, level=0.2) == (0.25, 0.25)
    assert metrics.bootstrap_interval(values, groups) == (0, 1)


def test_paired_difference_by_hand():
    rng = np.random.default_rng(0)
    groups, a, b = np.arange(90) // 3, rng.integers(1, 9, 90), rng.integers(1, 9, 90)
    assert metrics.paired_difference(a, a, groups) == {"difference": 0, "low": 0, "high": 0}
    always = metrics.paired_difference(np.ones(90), np.full(90, 2), groups)
    assert always == pytest.approx({"difference": 0.5, "low": 0.5, "high": 0.5})
    forth, back = metrics.paired_difference(a, b, groups), metrics.paired_difference(b, a, groups)
    assert forth["difference"] == pytest.approx(np.mean(1 / a) - np.mean(1 / b))
    assert (forth["low"], forth["high"]) == pytest.approx((-back["high"], -back["low"]))
    assert forth["low"] < forth["difference"] < forth["high"]


@settings(deadline=None)
@given(
    m=st.integers(2, 8),
    captions_per_image=st.integers(1, 3),
    seed=st.integers(0, 10_000),
)
def test_challenge_equals_loops_where_one_gallery_holds_all_images(m, captions_per_image, seed):
    rng = np.random.default_rng(seed)
    gallery, by_image = rng.integers(-2, 3, (2, m, 3)).astype(np.float32)
    total = 0.0
    for i in range(m):
        scores = [float(by_image[i] @ gallery[j]) for j in range(m)]
        rank = 1 + sum(s > scores[i] for s in scores) + sum(scores[j] == scores[i] for j in range(m) if j != i) / 2
        total += 0 if rank == m else 1 / rank
    targets = rng.permutation(np.repeat(np.arange(m), captions_per_image))
    found = metrics.challenge_mrr(by_image[targets], gallery, targets, gallery_size=m, rounds=3, seed=seed)
    assert found == pytest.approx(total / m)


def test_the_last_rank_of_the_challenge_counts_nothing():
    gallery, targets = np.eye(3, dtype=np.float32), np.arange(3)
    best_last = np.array([[0, 1, 2], [2, 0, 1], [1, 2, 0]], np.float32)
    assert metrics.challenge_mrr(best_last, gallery, targets, gallery_size=3) == 0
    second = np.array([[1, 0, 2], [2, 1, 0], [0, 2, 1]], np.float32)
    assert metrics.challenge_mrr(second, gallery, targets, gallery_size=3) == pytest.approx(0.5)


def test_the_challenge_does_not_normalise():
    gallery = np.array([[1, 0], [10, 10]], np.float32)
    targets = np.arange(2)
    assert mrr(gallery, gallery, targets) == 1
    assert metrics.challenge_mrr(gallery, gallery, targets) == 0.5  # the long image wins both; the last rank is 0


def hands_of(monkeypatch, predictions, gallery, targets, **options):
    """Predictions and images of each gallery that the protocol deals."""
    hands, ranks = [], metrics.ranks

    def watch(hand_predictions, images, positive, **more):
        assert positive.tolist() == list(range(len(images)))
        hands.append((hand_predictions.numpy(), images.numpy()))
        return ranks(hand_predictions, images, positive, **more)

    monkeypatch.setattr(metrics, "ranks", watch)
    metrics.challenge_mrr(predictions, gallery, targets, **options)
    return hands


def test_galleries_hold_distinct_images_and_a_remainder_is_left_out(monkeypatch):
    gallery = np.stack([np.arange(250), np.ones(250)], axis=1).astype(np.float32)
    targets = np.repeat(np.arange(250), 3)
    predictions = np.stack([targets, np.tile(np.arange(3), 250)], axis=1).astype(np.float32)
    hands = hands_of(monkeypatch, predictions, gallery, targets, rounds=4)
    assert [len(images) for _, images in hands] == [100] * 8
    for first, second in zip(hands[::2], hands[1::2], strict=True):
        assert len(np.unique(np.concatenate([first[1][:, 0], second[1][:, 0]]))) == 200
    for captions, images in hands:
        np.testing.assert_array_equal(captions[:, 0], images[:, 0])  # a caption of its own image
    assert {int(which) for captions, _ in hands for which in captions[:, 1]} == {0, 1, 2}
    assert not np.array_equal(hands[0][1], hands[2][1])  # dealt anew in each round


def test_the_challenge_is_reproducible():
    predictions, gallery, targets, _ = real_case(0, n=400, m=120)
    options = {"gallery_size": 20, "rounds": 2}
    found = [metrics.challenge_mrr(predictions, gallery, targets, **options, seed=seed) for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]


def test_images_in_the_order_of_five_captions_each_are_no_trap():
    gallery = np.eye(120, dtype=np.float32)
    targets = np.repeat(np.arange(120), 5)
    perfect = gallery[targets]
    # 100 captions in a row hold 20 images five times: four copies of the own image compete with it.
    places = []
    for lo in range(0, 600, 100):
        images = targets[lo : lo + 100]
        order = np.argsort(-(perfect[lo : lo + 100] @ gallery[images].T), axis=1, kind="stable")
        places += [1 + order[i].tolist().index(i) for i in range(100)]
    assert np.mean(np.array(places) == 1) == pytest.approx(0.2)
    assert np.mean(1 / np.array(places)) == pytest.approx(0.457, abs=1e-3)
    assert metrics.challenge_mrr(perfect, gallery, targets) == 1.0


def test_mean_by_image_leaves_out_images_without_captions():
    values, groups = np.array([1.0, 0.5, 0.0, 0.25]), np.array([4, 0, 4, 0])
    assert metrics.mean_by_image(values, groups).tolist() == [0.375, 0.5]


@pytest.mark.parametrize("offset", [0.0, 1e2, 1e3, 1e4, 1e5])
@pytest.mark.parametrize("everywhere", [True, False])
def test_what_all_images_have_in_common_changes_no_rank(offset, everywhere):
    """With a large offset cosines differ by less than float32 rounds, which must not look like success."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((60, 64))
    shift, targets = np.full(64, offset) if everywhere else np.eye(64)[7] * offset, np.arange(120) % 60
    predictions = (images[targets] + 2 * rng.standard_normal((120, 64)) + shift).astype(np.float32)
    gallery = (images + shift).astype(np.float32)
    unit = gallery / np.linalg.norm(gallery.astype(np.float64), axis=1, keepdims=True)
    found = metrics.ranks(*tensors(predictions, gallery, targets))
    expected = sorted_ranks(predictions.astype(np.float64) @ unit.T, targets)
    assert np.mean(found == expected) > 0.97 and abs(np.mean(1 / found) - np.mean(1 / expected)) < 0.01


def test_unrelated_pairs_with_a_massive_dimension_stay_at_chance():
    rng = np.random.default_rng(0)
    gallery = rng.standard_normal((60, 256)) + 0.5
    gallery[:, 7] += 1e4
    predictions = gallery.mean(0) + 0.1 * rng.standard_normal((600, 256))
    targets = np.arange(600) % 60
    chance = np.mean(1 / np.arange(1, 61))
    assert mrr(predictions.astype(np.float32), gallery.astype(np.float32), targets) == pytest.approx(chance, abs=0.03)


def naive_image_to_text(predictions, gallery, targets):
    """By loops in float64: for each image, its best caption's place among the captions of the others."""
    scores = gallery.astype(np.float64) @ predictions.astype(np.float64).T
    out = []
    for image in sorted(set(targets.tolist())):
        best = max(scores[image, i] for i in range(len(targets)) if targets[i] == image)
        others = [scores[image, i] for i in range(len(targets)) if targets[i] != image]
        out.append(1 + sum(s > best for s in others) + 0.5 * sum(s == best for s in others))
    return np.array(out)


@settings(deadline=None)
@given(case=retrievals(SIGNS, 4), length=st.sampled_from([0.25, 1.0, 8.0]))
def test_captions_found_for_an_image_equal_the_loops(case, length):
    predictions, gallery, targets = case
    longer = predictions * np.where(np.arange(len(predictions)) % 2, length, 1)[:, None].astype(np.float32)
    found = metrics.image_to_text_ranks(*tensors(longer, gallery, targets))
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, naive_image_to_text(predictions, gallery, targets))


@pytest.mark.parametrize(("queries", "block"), [(3, 5), (2048, 7), (4, 8192)])
def test_captions_are_found_alike_in_blocks_of_any_size(monkeypatch, queries, block):
    rng = np.random.default_rng(0)
    gallery, targets = rng.normal(size=(20, 6)).astype(np.float32), rng.permutation(np.repeat(np.arange(18), 3))
    predictions = (gallery[targets] + 2 * rng.normal(size=(54, 6))).astype(np.float32)
    predictions[40] = predictions[3]  # a text that stands with two images
    unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in (predictions, gallery)]
    expected = metrics.image_to_text_ranks(*tensors(predictions, gallery, targets))
    monkeypatch.setattr(metrics, "QUERY_BLOCK", queries)
    monkeypatch.setattr(metrics, "GALLERY_BLOCK", block)
    found = metrics.image_to_text_ranks(*tensors(predictions, gallery, targets))
    np.testing.assert_array_equal(found, expected)
    assert len(found) == 18  # images without captions are not asked for
    np.testing.assert_allclose(found, naive_image_to_text(*unit, targets), atol=0.5)


def test_a_text_that_stands_with_another_image_ties_by_its_values():
    rng = np.random.default_rng(0)
    gallery = rng.normal(size=(30, 33)).astype(np.float32)
    predictions = rng.normal(size=(60, 33)).astype(np.float32)
    targets = np.repeat(np.arange(30), 2)
    predictions[:2] = gallery[0]  # its own twice, which is no tie
    predictions[7] = predictions[41] = gallery[0]  # and of two other images
    assert metrics.image_to_text_ranks(*tensors(predictions, gallery, targets))[0] == 2


def test_a_broken_translation_is_no_rank_of_captions():
    predictions = np.ones((3, 2), np.float32)
    predictions[1, 0] = np.nan
    with pytest.raises(ValueError, match="NaN or Inf"):
        metrics.image_to_text_ranks(*tensors(predictions, np.eye(2, dtype=np.float32), [0, 1, 1]))


def test_chance_of_finding_a_caption_is_that_of_random_orders():
    targets = np.array([0, 0, 0, 1, 2, 2, 2, 2, 2, 3, 3, 4, 4, 4, 5, 5])
    rng, ranks = np.random.default_rng(0), []
    for _ in range(20_000):
        order = rng.permutation(targets)
        ranks.append([1 + np.argmax(order == image) for image in range(6)])
    mrr, recall = metrics.chance_image_to_text(targets)
    assert mrr == pytest.approx(np.mean(1 / np.array(ranks)), abs=0.004)
    assert recall == pytest.approx(np.mean(np.array(ranks) <= 10), abs=0.004)
    assert metrics.chance_image_to_text(np.array([0, 0])) == (1.0, 1.0)
