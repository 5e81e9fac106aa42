"""Near-duplicate images: found like a naive search finds them, and never divided by the split that is asked not to."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.data import duplicates
from helpers.data.duplicates import Grouped, duplicate_groups, near_duplicates
from helpers.data.pairs import load_pairs
from helpers.data.split import make_split
from helpers.runs.run import open_run


def naive_groups(images, threshold=0.9):
    """Full matrix of cosines in float64, and union-find written out."""
    centred = images.astype(np.float64) - images.mean(0, dtype=np.float64)
    unit = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-300)
    parent = list(range(len(images)))

    def root(i):
        while parent[i] != i:
            i = parent[i]
        return i

    for i in range(len(images)):
        for j in range(i):
            if unit[i] @ unit[j] >= threshold or np.array_equal(images[i], images[j]):
                parent[max(root(i), root(j))] = min(root(i), root(j))
    names = {}
    return [names.setdefault(root(i), len(names)) for i in range(len(images))]


def clumped(seed, n=50, clumps=14, width=9, spread=0.25):
    """Images around centres, many within the threshold of another of their clump and some not, with an offset."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(clumps, width))
    images = centres[rng.integers(clumps, size=n)] + spread * rng.normal(size=(n, width))
    copies = rng.integers(n, size=(2, 4))
    images[copies[0]] = images[copies[1]]
    return (20 + images).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), spread=st.floats(0.05, 0.5), block=st.integers(3, 60))
def test_groups_equal_a_naive_search(seed, spread, block):
    images = clumped(seed, spread=spread)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "BLOCK", block)
        assert duplicate_groups(images).tolist() == naive_groups(images)


def test_the_oracle_is_asked_about_chains():
    """Links are transitive: some images share a group although they are no near-duplicates of one another."""
    images = clumped(0)
    group = duplicate_groups(images)
    centred = images - images.mean(0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    direct = unit @ unit.T >= 0.9
    assert ((group[:, None] == group) & ~direct).any() and 5 < group.max() + 1 < len(images) - 5


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), split_seed=st.integers(0, 1000), test_ratio=st.sampled_from([0.0, 0.2]))
def test_no_near_duplicate_is_left_across_the_split(seed, split_seed, test_ratio):
    images = clumped(seed, n=120, clumps=40, spread=0.15)
    group = duplicate_groups(images)
    split = make_split(np.arange(120), 120, 0.2, split_seed, test_ratio, group)
    assert len(near_duplicates(images, split.val_images, split.train_images)[0]) == 0
    assert len(near_duplicates(images, split.test_images, np.append(split.train_images, split.val_images))[0]) == 0
    for side in (split.train_images, split.val_images, split.test_images):
        assert not set(group[side]) & set(np.delete(group, side))


def test_a_plain_split_of_the_same_images_does_divide_some():
    images = clumped(0, n=120, clumps=40, spread=0.15)
    split = make_split(np.arange(120), 120, 0.2)
    assert len(near_duplicates(images, split.val_images, split.train_images)[0]) > 5


def test_the_grouping_follows_the_images_and_not_their_order():
    images = clumped(3)
    order = np.random.default_rng(0).permutation(len(images))
    group, shuffled = duplicate_groups(images), duplicate_groups(images[order])
    np.testing.assert_array_equal(group[order][:, None] == group[order], shuffled[:, None] == shuffled)
    np.testing.assert_array_equal(duplicate_groups(images), group)


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e25])
def test_equal_vectors_are_always_found(scale):
    rng = np.random.default_rng(0)
    images = (scale * rng.normal(size=(40, 6))).astype(np.float32)
    images[33] = images[2]
    assert duplicate_groups(images, threshold=1.1).tolist() == [2 if i == 33 else i - (i > 33) for i in range(40)]
    centre = np.zeros((3, 6), np.float32)  # at the mean itself, where there is no direction to compare
    images = np.concatenate([images, -images, centre])
    group = duplicate_groups(images)
    assert len(set(group[-3:])) == 1 and (group == group[-1]).sum() == 3


def test_images_that_are_all_alike_are_one_group():
    assert duplicate_groups(np.full((30, 4), 2.5, np.float32)).tolist() == [0] * 30


def test_zeros_of_either_sign_are_equal():
    images = np.eye(6, 4, dtype=np.float32)
    images[5] = -images[4]
    assert duplicate_groups(images)[[4, 5]].tolist() == [4, 4]


def test_groups_do_not_depend_on_the_number_of_threads():
    images, before = clumped(1, n=400, clumps=100, width=64, spread=0.2), torch.get_num_threads()
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(duplicate_groups(images).tolist())
    torch.set_num_threads(before)
    assert found[0] == found[1]


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


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_the_nearest_is_found_in_blocks_of_any_size(monkeypatch, block):
    monkeypatch.setattr(duplicates, "BLOCK", block)
    images = clumped(5, n=80)
    rows, others = np.arange(0, 80, 3), np.setdiff1d(np.arange(80), np.arange(0, 80, 3))
    centred = images.astype(np.float64) - images.mean(0, dtype=np.float64)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    scores = unit[rows] @ unit[others].T
    pairs, cosine = near_duplicates(images, rows, others)
    assert set(pairs[:, 0]) == set(rows[scores.max(1) >= 0.9]) and len(pairs) > 5
    np.testing.assert_allclose((unit[pairs[:, 0]] * unit[pairs[:, 1]]).sum(1), cosine, atol=1e-5)
    np.testing.assert_allclose(np.sort(scores.max(1)[scores.max(1) >= 0.9])[::-1], cosine, atol=1e-5)


@pytest.mark.slow
def test_flickr8k_holds_one_photo_under_two_names_and_the_option_never_divides_it(real_data, tmp_path, monkeypatch):
    monkeypatch.setenv("HELPERS_RUNS_DIR", str(tmp_path))
    folder = real_data / "flickr8k"
    data = load_pairs(folder)
    _, where, times = np.unique(data.images, axis=0, return_inverse=True, return_counts=True)
    twins = np.flatnonzero(times[where.ravel()] > 1)
    assert len(twins) == 2 and len({data.image_names[i] for i in twins}) == 2
    np.testing.assert_array_equal(data.images[twins[0]], data.images[twins[1]])
    group = duplicate_groups(data.images)
    assert group[twins[0]] == group[twins[1]] and (group == group[twins[0]]).sum() == 2
    divided = 0
    for split_seed in range(12):
        plain, grouped = (make_split(data.targets, data.n_images, 0.1, split_seed, 0.1, g) for g in (None, group))
        divided += len({_side(plain, image) for image in twins}) == 2
        assert len({_side(grouped, image) for image in twins}) == 1
        assert (len(grouped.val_images), len(grouped.test_images)) == (809, 809)
    assert divided > 0  # without the option it happens
    how = {"split_seed": 3, "group_duplicates": True}
    opened = open_run(how, profile="challenge", run="twins", data_dir=folder)
    assert len({_side(opened.split, image) for image in twins}) == 1
    expected = make_split(data.targets, data.n_images, 0.1, 3, groups=group)
    assert opened.split.digest == expected.digest


def _side(split, image):
    return next(name for name in ("train_images", "val_images", "test_images") if image in getattr(split, name))


def test_groups_are_counted_without_images_that_stand_alone():
    found = Grouped.of(np.array([0, 1, 1, 2, 3, 3, 3, 4]))
    assert found == Grouped(images=8, groups=2, grouped=5, largest=3)
    assert str(found) == "groups of near-duplicates: 2, which hold 5 of 8 images, the largest 3"
    assert str(Grouped.of(np.arange(1200))) == "no near-duplicates among 1,200 images"
