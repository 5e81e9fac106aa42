"""The split: exactly the published permutation, no leak, and indices that point to the captions' own images."""

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.data.split import SPLITS, TEST, TRAINING, VALIDATION, check_disjoint, make_split
from helpers.errors import SplitError

TARGETS = np.repeat(np.arange(40), 3)


@pytest.mark.parametrize(
    ("n_images", "val_ratio", "split_seed"), [(40, 0.1, 42), (40, 0.25, 0), (25, 0.29, 7), (3, 0.99, 1)]
)
def test_the_first_of_a_seeded_permutation_validate(n_images, val_ratio, split_seed):
    expected = np.random.default_rng(split_seed).permutation(n_images)[: int(val_ratio * n_images)]
    split = make_split(np.arange(n_images), n_images, val_ratio, split_seed)
    assert split.val_images.tolist() == sorted(expected.tolist())
    assert split.train_images.tolist() == sorted(set(range(n_images)) - set(expected.tolist()))


def test_the_split_of_the_defaults_stays_what_it_is():
    assert make_split(TARGETS, 40).val_images.tolist() == make_split(TARGETS, 40, 0.1, 42).val_images.tolist()
    assert (
        make_split(np.arange(25_000), 25_000).val_images[:5].tolist()
        == sorted(np.random.default_rng(42).permutation(25_000)[:2500].tolist())[:5]
    )


@settings(deadline=None)
@given(
    n_images=st.integers(2, 40),
    counts=st.lists(st.integers(1, 4), min_size=40, max_size=40),
    val_ratio=st.floats(0.05, 0.95),
    split_seed=st.integers(0, 1000),
)
def test_captions_follow_their_image_and_no_image_is_in_two_splits(n_images, counts, val_ratio, split_seed):
    if not 1 < int(val_ratio * n_images) < n_images:
        with pytest.raises(SplitError):
            make_split(np.arange(n_images), n_images, val_ratio, split_seed)
        return
    targets = np.repeat(np.arange(n_images), counts[:n_images])
    targets = np.random.default_rng(split_seed + 1).permutation(targets)
    split = make_split(targets, n_images, val_ratio, split_seed)
    train, val = set(split.train_images.tolist()), set(split.val_images.tolist())
    assert not train & val and train | val == set(range(n_images))
    assert split.train_captions.tolist() == [row for row, image in enumerate(targets) if image in train]
    assert split.val_captions.tolist() == [row for row, image in enumerate(targets) if image in val]
    for row, position in zip(split.val_captions, split.caption_to_gallery, strict=True):
        assert split.val_images[position] == targets[row]
    for row, position in zip(split.train_captions, split.train_caption_image, strict=True):
        assert split.train_images[position] == targets[row]


@pytest.mark.parametrize(
    ("targets", "n_images", "val_ratio", "message"),
    [
        (np.arange(9), 9, 0.1, "9 images leaves 0 for validation and 9 for training"),
        (np.arange(1), 1, 0.5, "1 images leaves 0 for validation"),
        (np.arange(19), 19, 0.1, "19 images leaves 1 for validation and 18 for training; two are needed to rank"),
        (np.arange(9), 9, 1.0, "leaves 9 for validation and 0 for training"),
        (np.full(5, np.random.default_rng(42).permutation(20)[0]), 20, 0.1, "0 training and 5 validation captions"),
        (np.full(5, np.random.default_rng(42).permutation(20)[-1]), 20, 0.1, "5 training and 0 validation captions"),
    ],
)
def test_a_split_without_images_or_captions_is_an_error(targets, n_images, val_ratio, message):
    with pytest.raises(SplitError, match=message):
        make_split(targets, n_images, val_ratio)


# The digest of the published split, written down: whatever is added to the split must leave it alone.
DIGEST_OF_TARGETS = "5d0886b0fb82ddc3785fc448874166e02b0aa5b8c18a45733658ed553c920318"


def test_the_digest_without_a_test_split_stays_what_it_was():
    split = make_split(TARGETS, 40)
    assert split.digest == make_split(TARGETS, 40, test_ratio=0.0, groups=None).digest == DIGEST_OF_TARGETS
    assert make_split(TARGETS, 40, groups=np.arange(40)[::-1]).digest == split.digest  # every image on its own
    assert not split.has_test
    for name in ("test_images", "test_captions", "caption_to_test_gallery"):
        assert getattr(split, name).shape == (0,) and getattr(split, name).dtype == np.int64


@pytest.mark.parametrize(("n_images", "val_ratio", "test_ratio"), [(40, 0.1, 0.1), (40, 0.25, 0.7), (25, 0.29, 0.08)])
@pytest.mark.parametrize("split_seed", [0, 42])
def test_the_next_of_the_permutation_test(n_images, val_ratio, test_ratio, split_seed):
    targets = np.random.default_rng(1).permutation(np.repeat(np.arange(n_images), 3))
    split = make_split(targets, n_images, val_ratio, split_seed, test_ratio)
    without = make_split(targets, n_images, val_ratio, split_seed)
    n_val, n_test = int(val_ratio * n_images), int(test_ratio * n_images)
    order = np.random.default_rng(split_seed).permutation(n_images)
    assert split.test_images.tolist() == sorted(order[n_val : n_val + n_test].tolist())
    assert split.train_images.tolist() == sorted(order[n_val + n_test :].tolist())
    for name in ("val_images", "val_captions", "caption_to_gallery"):
        np.testing.assert_array_equal(getattr(split, name), getattr(without, name))
    rows = np.concatenate([split.train_captions, split.val_captions, split.test_captions])
    assert sorted(rows.tolist()) == list(range(len(targets)))
    np.testing.assert_array_equal(split.test_images[split.caption_to_test_gallery], targets[split.test_captions])
    assert split.has_test and split.digest != without.digest


def test_a_split_is_named():
    split = make_split(TARGETS, 40, test_ratio=0.2)
    for name, fields in {
        "training": ("train_captions", "train_images", "train_caption_image"),
        "validation": ("val_captions", "val_images", "caption_to_gallery"),
        "test": ("test_captions", "test_images", "caption_to_test_gallery"),
    }.items():
        part = split.part(name)
        assert all(found is getattr(split, field) for found, field in zip(part, fields, strict=True))
        np.testing.assert_array_equal(part.images[part.positive], TARGETS[part.captions])
    with pytest.raises(KeyError):
        split.part("practice")


ONLY = np.random.default_rng(42).permutation(20)


@pytest.mark.parametrize(
    ("targets", "ratios", "groups", "message"),
    [
        (np.arange(20), (0.5, 0.5), None, r"val_ratio \+ test_ratio = 0.5 \+ 0.5 of 20 images leaves 0 for training"),
        (np.arange(20), (0.7, 0.9), None, r"val_ratio \+ test_ratio = 0.7 \+ 0.9 of 20 images leaves 0 for training"),
        (np.arange(21), (0.5, 0.5), None, "leaves 1 for training. Their sum must stay below 1"),
        (np.arange(20), (0.1, 0.04), None, "test_ratio = 0.04 of 20 images leaves 0 for the test. Set it to 0"),
        (np.arange(20), (0.1, 0.05), None, "test_ratio = 0.05 of 20 images leaves 1 for the test"),
        (ONLY[[0, 9]], (0.1, 0.1), None, "1 training, 1 validation and 0 test captions"),
        (ONLY[[2, 9]], (0.1, 0.1), None, "1 training, 0 validation and 1 test captions"),
        (ONLY[[0, 2]], (0.1, 0.1), None, "0 training, 1 validation and 1 test captions"),
        (np.arange(20), (0.1, 0.0), np.zeros(20), "20 training, 0 validation images: groups of near-duplicates"),
        (np.arange(20), (0.9, 0.0), np.zeros(20), "20 training, 0 validation images: groups of near-duplicates"),
        (np.arange(20), (0.5, 0.3), np.arange(20) // 10, "10 training, 10 validation, 0 test images: groups"),
    ],
)
def test_ratios_that_cannot_be(targets, ratios, groups, message):
    with pytest.raises(SplitError, match=message):
        make_split(targets, max(20, len(targets)), ratios[0], 42, ratios[1], groups)


def naive_splits(order, groups, wanted):
    """The rule, written out: walk the permutation, place whole groups that fit, then mend a shortfall once."""
    placed = {}
    for split, target in wanted:
        missing = target
        for image in order:
            members = [i for i in order if groups[i] == groups[image]]
            if image not in placed and len(members) <= missing:
                placed |= dict.fromkeys(members, split)
                missing -= len(members)
        free = [[i for i in order if groups[i] == group] for group in dict.fromkeys(groups[i] for i in order)]
        free = sorted((members for members in free if members[0] not in placed), key=len)  # stable
        if missing and len(free) > 1 and len(free[0]) - missing < missing:
            placed |= dict.fromkeys(free[0], split)
    return placed


@settings(deadline=None, max_examples=200)
@given(
    groups=st.lists(st.integers(0, 12), min_size=8, max_size=40),
    val_ratio=st.floats(0.05, 0.6),
    test_ratio=st.sampled_from([0.0, 0.15, 0.3]),
    split_seed=st.integers(0, 1000),
)
def test_groups_stay_together_by_the_stated_rule(groups, val_ratio, test_ratio, split_seed):
    n = len(groups)
    n_val, n_test = int(val_ratio * n), int(test_ratio * n)
    groups = np.array(groups)
    try:
        split = make_split(np.arange(n), n, val_ratio, split_seed, test_ratio, groups)
    except SplitError:
        return
    together = [set(groups[split.part(name).images].tolist()) for name in SPLITS]
    assert not together[0] & together[1] and not together[0] & together[2] and not together[1] & together[2]
    order = np.random.default_rng(split_seed).permutation(n).tolist()
    placed = naive_splits(order, groups.tolist(), [("val", n_val), ("test", n_test)])
    assert split.val_images.tolist() == sorted(i for i, where in placed.items() if where == "val")
    assert split.test_images.tolist() == sorted(i for i, where in placed.items() if where == "test")
    largest = np.bincount(groups).max()
    assert abs(len(split.val_images) - n_val) < largest
    without = make_split(np.arange(n), n, val_ratio, split_seed, 0.0, groups)
    np.testing.assert_array_equal(split.val_images, without.val_images)


def test_two_large_groups_are_dealt_one_to_a_split():
    split = make_split(np.arange(20), 20, 0.9, 0, groups=np.arange(20) // 10)
    assert (len(split.train_images), len(split.val_images)) == (10, 10)


def test_the_count_is_met_where_single_images_are_left():
    groups = np.r_[np.repeat(np.arange(20), 2), np.arange(20, 80)]
    for split_seed in range(20):
        split = make_split(np.arange(100), 100, 0.15, split_seed, 0.11, groups)
        assert (len(split.val_images), len(split.test_images)) == (15, 11)


def test_a_split_of_the_data_is_taken_as_it_is():
    given = np.random.default_rng(0).permutation(np.repeat([TRAINING, VALIDATION, TEST], [20, 12, 8]))
    split = make_split(TARGETS, 40, 0.5, 7, 0.9, given=given)
    for name, which in zip(SPLITS, (TRAINING, VALIDATION, TEST), strict=True):
        part = split.part(name)
        assert part.images.tolist() == np.flatnonzero(given == which).tolist()
        assert part.captions.tolist() == [row for row, image in enumerate(TARGETS) if given[image] == which]
    assert split.digest == make_split(TARGETS, 40, given=given.astype(np.int8)).digest
    assert not make_split(TARGETS, 40, test_ratio=0.2, given=np.minimum(given, VALIDATION)).has_test


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            np.repeat([0, 1, 2], [30, 0, 10]),
            "30 training, 0 validation, 10 test images: the data's own split .*'random'",
        ),
        (np.repeat([0, 1, 2], [38, 1, 1]), "38 training, 1 validation, 1 test images: .* two or more"),
        (np.repeat([0, 1], [0, 40]), "0 training, 40 validation images"),
        (np.repeat([0, 1], [36, 4]), "108 training and 0 validation captions: .*the data's own split .*'random'"),
        (np.repeat([0, 3], [36, 4]), "A split of .* for 40 images"),
        (np.repeat([0, 1], [10, 4]), "A split of .* for 40 images"),
    ],
)
def test_a_split_of_the_data_that_cannot_be_used_says_what_to_do(given, message):
    targets = TARGETS[TARGETS < 36] if "captions" in message else TARGETS
    with pytest.raises(SplitError, match=message):
        make_split(targets, 40, given=given)


def test_a_split_of_the_data_is_not_changed_by_groups():
    with pytest.raises(SplitError, match="group_duplicates to False to take it as it is, or split to 'random'"):
        make_split(TARGETS, 40, groups=np.arange(40), given=np.arange(40) % 2)


def _leaky_image(split):
    return replace(split, val_images=np.sort(np.append(split.val_images, split.train_images[0])))


def _leaky_caption(split):
    return replace(split, train_captions=np.append(split.train_captions, split.val_captions[0]))


def _caption_in_the_wrong_split(split):
    sibling = np.flatnonzero(np.isin(TARGETS, split.val_images))[0]
    return replace(
        split,
        val_captions=split.val_captions[split.val_captions != sibling],
        train_captions=np.append(split.train_captions, sibling),
    )


def _gallery_index_shifted(split):
    return replace(split, caption_to_gallery=np.roll(split.caption_to_gallery, 1))


def _training_index_shifted(split):
    return replace(split, train_caption_image=np.roll(split.train_caption_image, 1))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_leaky_image, "1 images in both splits, training and validation: "),
        (_leaky_caption, "1 captions in both splits"),
        (_caption_in_the_wrong_split, "1 images of captions in both splits"),
        (_gallery_index_shifted, "does not point to the captions' own images"),
        (_training_index_shifted, "does not point to the captions' own images"),
    ],
)
def test_a_leak_made_by_hand_is_found(damage, message):
    split = make_split(TARGETS, 40)
    check_disjoint(split, TARGETS)
    with pytest.raises(SplitError, match=message):
        check_disjoint(damage(split), TARGETS)


def _add(name, other):
    return lambda split: replace(split, **{name: np.append(getattr(split, name), getattr(split, other)[0])})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_add("test_images", "train_images"), "1 images in both splits, training and test"),
        (_add("test_images", "val_images"), "1 images in both splits, validation and test"),
        (_add("train_images", "val_images"), "1 images in both splits, training and validation"),
        (_add("test_captions", "train_captions"), "1 captions in both splits, training and test"),
        (_add("test_captions", "val_captions"), "1 captions in both splits, validation and test"),
        (lambda split: replace(split, caption_to_test_gallery=np.roll(split.caption_to_test_gallery, 1)), "own images"),
    ],
)
def test_a_leak_of_the_test_split_made_by_hand_is_found(damage, message):
    split = make_split(TARGETS, 40, test_ratio=0.2)
    check_disjoint(split, TARGETS)
    with pytest.raises(SplitError, match=message):
        check_disjoint(damage(split), TARGETS)


def test_the_digest_tells_splits_apart():
    split = make_split(TARGETS, 40)
    assert split.digest == make_split(TARGETS.astype(np.int32), 40).digest
    others = [
        make_split(TARGETS, 40, split_seed=43),
        make_split(TARGETS, 40, val_ratio=0.2),
        make_split(TARGETS[:-1], 40),
        replace(split, val_captions=split.val_captions[:-1], train_captions=np.append(split.train_captions, 119)),
        replace(split, train_images=split.val_images, val_images=split.train_images),
        make_split(TARGETS, 40, test_ratio=0.1),
        make_split(TARGETS, 40, test_ratio=0.2),
        make_split(TARGETS, 40, groups=np.arange(40) // 2),
    ]
    assert len({split.digest, *(other.digest for other in others)}) == 9


@pytest.mark.parametrize("n_images", range(3, 40))
def test_the_ratio_that_an_error_advises_does(n_images):
    targets = np.arange(n_images)
    with pytest.raises(SplitError) as caught:
        make_split(targets, n_images, val_ratio=1e-6)
    advised = float(re.search(r"between ([0-9.]+) and 1", str(caught.value))[1])
    assert len(make_split(targets, n_images, advised).val_images) == 2
    if n_images >= 5:
        with pytest.raises(SplitError) as caught:
            make_split(targets, n_images, advised, test_ratio=1e-6)
        advised_test = float(re.search(r"or to ([0-9.]+) or more", str(caught.value))[1])
        assert len(make_split(targets, n_images, advised, test_ratio=advised_test).test_images) == 2
