"""The split: exactly the published permutation, no leak, and indices that point to the captions' own images."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.duplicates import near_duplicates
from helpers.split import SplitError, check_disjoint, make_split, save_split

TARGETS = np.repeat(np.arange(40), 3)
NAMES = {
    "train_images",
    "val_images",
    "train_captions",
    "val_captions",
    "train_caption_image",
    "caption_to_gallery",
}


@pytest.mark.parametrize("n_images,val_ratio,split_seed", [(40, 0.1, 42), (40, 0.25, 0), (25, 0.29, 7), (3, 0.99, 1)])
def test_the_first_of_a_seeded_permutation_validate(n_images, val_ratio, split_seed):
    expected = np.random.default_rng(split_seed).permutation(n_images)[: int(val_ratio * n_images)]
    split = make_split(np.arange(n_images), n_images, val_ratio, split_seed)
    assert split.val_images.tolist() == sorted(expected.tolist())
    assert split.train_images.tolist() == sorted(set(range(n_images)) - set(expected.tolist()))


def test_the_split_of_the_defaults_stays_what_it_is():
    assert make_split(TARGETS, 40).val_images.tolist() == make_split(TARGETS, 40, 0.1, 42).val_images.tolist()
    assert make_split(np.arange(25_000), 25_000).val_images[:5].tolist() == sorted(
        np.random.default_rng(42).permutation(25_000)[:2500].tolist()
    )[:5]


@settings(deadline=None)
@given(
    n_images=st.integers(2, 40),
    counts=st.lists(st.integers(1, 4), min_size=40, max_size=40),
    val_ratio=st.floats(0.05, 0.95),
    split_seed=st.integers(0, 1000),
)
def test_captions_follow_their_image_and_no_image_is_on_both_sides(n_images, counts, val_ratio, split_seed):
    if not 0 < int(val_ratio * n_images) < n_images:
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
        (np.arange(9), 9, 1.0, "leaves 9 for validation and 0 for training"),
        (np.full(5, np.random.default_rng(42).permutation(20)[0]), 20, 0.1, "0 training and 5 validation captions"),
        (np.full(5, np.random.default_rng(42).permutation(20)[-1]), 20, 0.1, "5 training and 0 validation captions"),
    ],
)
def test_a_side_without_images_or_captions_is_an_error(targets, n_images, val_ratio, message):
    with pytest.raises(SplitError, match=message):
        make_split(targets, n_images, val_ratio)


def _leaky_image(split):
    return replace(split, val_images=np.sort(np.append(split.val_images, split.train_images[0])))


def _leaky_caption(split):
    return replace(split, train_captions=np.append(split.train_captions, split.val_captions[0]))


def _caption_on_the_wrong_side(split):
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
        (_leaky_image, "1 images on both sides"),
        (_leaky_caption, "1 captions on both sides"),
        (_caption_on_the_wrong_side, "1 images of captions on both sides"),
        (_gallery_index_shifted, "does not point to the captions' own images"),
        (_training_index_shifted, "does not point to the captions' own images"),
    ],
)
def test_a_leak_made_by_hand_is_found(damage, message):
    split = make_split(TARGETS, 40)
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
    ]
    assert len({split.digest, *(other.digest for other in others)}) == 6


def test_a_saved_split_comes_back_without_pickle(tmp_path):
    split = make_split(TARGETS, 40)
    save_split(tmp_path / "run" / "split.npz", split)
    with np.load(tmp_path / "run" / "split.npz", allow_pickle=False) as archive:
        assert set(archive.files) == NAMES
        for name in NAMES:
            np.testing.assert_array_equal(archive[name], getattr(split, name))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["split.npz"]


def test_near_duplicates_across_the_split_are_found():
    rng = np.random.default_rng(0)
    images = (5 + rng.normal(size=(60, 20))).astype(np.float32)  # the offset alone makes every cosine large
    split = make_split(np.arange(60), 60, val_ratio=0.2)
    twin, close, train = split.val_images[3], split.val_images[7], split.train_images
    images[twin] = images[train[10]]
    images[close] = images[train[2]] + 0.1 * rng.normal(size=20)
    pairs, cosine = near_duplicates(images, split.val_images, train)
    assert pairs.tolist() == [[twin, train[10]], [close, train[2]]]
    assert cosine[0] == pytest.approx(1, abs=1e-6) and 0.9 < cosine[1] < 1
    assert len(near_duplicates(images, split.val_images, train, threshold=1.1)[0]) == 0
