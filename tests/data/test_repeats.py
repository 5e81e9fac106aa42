"""Repeated texts: counted, and what they cost every method, against loops."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.data.pairs import PairedEmbeddings, load_pairs
from helpers.data.repeats import ceiling, count_repeats, same_texts
from helpers.data.split import make_split


def best_of_all_rankings(text, positive):
    """Every order of the images tried for every text."""
    total, images = 0.0, sorted(set(positive))
    for word in set(text):
        own = [image for t, image in zip(text, positive, strict=True) if t == word]
        total += max(sum(1 / (1 + order.index(image)) for image in own) for order in itertools.permutations(images))
    return total / len(text)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=12))
def test_the_ceiling_is_that_of_the_best_ranking_for_each_text(pairs):
    text, positive = np.array(pairs).T
    assert ceiling(text, positive) == pytest.approx(best_of_all_rankings(text.tolist(), positive.tolist()))


def test_texts_are_the_same_but_for_blanks_at_the_ends():
    assert same_texts(["a dog", " a dog ", "a  dog", "A dog", "a dog"]).tolist() == [0, 0, 1, 2, 0]


def test_repeats_are_counted_within_the_gallery_and_across_the_split():
    captions = [f"text {i}" for i in range(20)]
    data = PairedEmbeddings(np.ones((20, 2)), np.ones((10, 2)), np.arange(20) // 2, captions, [], "")
    split = make_split(data.targets, 10, val_ratio=0.3)
    rows, training = split.val_captions, split.train_captions
    captions[rows[0]] = captions[rows[2]] = "the same"  # two images of the gallery
    captions[rows[1]] = captions[training[0]]
    found = count_repeats(data, split)
    assert (found.captions, found.of_several_images, found.in_training) == (6, 2, 1)
    assert found.ceiling == pytest.approx((4 + 1 + 1 / 2) / 6)
    assert "2 of 6 captions" in str(found)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "several", "training"), [("rsicd", 0.20, 0.38), ("flickr8k", 0.0, 0.02)])
def test_real_captions(real_data, tmp_path, name, several, training):
    data = load_pairs(real_data / name, cache_dir=tmp_path)
    found = count_repeats(data, make_split(data.targets, data.n_images, 0.1, 0))
    assert found.of_several_images / found.captions == pytest.approx(several, abs=0.02)
    assert found.in_training / found.captions == pytest.approx(training, abs=0.02)
    assert 0.8 < found.ceiling <= 1
