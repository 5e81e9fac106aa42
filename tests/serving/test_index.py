"""PictureIndex: the order of a naive oracle, hubness reduction as a coordinate, what is added, and `why`."""

import contextlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from judged import BANK, DX, DY, make_gallery, make_queries, make_run, names_of

from helpers.errors import CheckpointError, DataError
from helpers.models.build import build_model
from helpers.serving.index import PictureIndex
from helpers.serving.translator import Translator

CAPTIONS = [f"caption {row // 2}" for row in range(BANK)]  # each text twice
APPROXIMATE = ("hnsw", "int8", "binary")  # ivfpq wants more vectors


@pytest.fixture
def translator(tmp_path):
    return make_run(tmp_path / "run")


@pytest.fixture
def index(translator):
    return PictureIndex.build(translator, make_gallery(30), names_of(30), bank_captions=CAPTIONS)


def oracle(translator, queries, gallery, popularity):
    """(N, M) scores in float64, as their definition has them."""
    unit = gallery / np.linalg.norm(gallery.astype(float), axis=1, keepdims=True)
    return translator.translate(queries).astype(float) @ unit.T - popularity


@pytest.mark.parametrize("k", [1, 7, 30, 400])
@pytest.mark.parametrize("hubness", [True, False])
def test_a_flat_index_has_the_order_of_the_definition_and_of_translator_search(translator, index, k, hubness):
    queries, gallery = make_queries(9), make_gallery(30)
    scores = oracle(translator, queries, gallery, translator.popularity(gallery) if hubness else 0)
    rows, found = index.search(queries, k, hubness=hubness)
    assert rows.dtype == np.int64 and found.dtype == np.float32
    assert rows.shape == found.shape == (9, min(k, 30))
    np.testing.assert_array_equal(rows, np.argsort(-scores, axis=1)[:, :k])
    np.testing.assert_allclose(found, -np.sort(-scores, axis=1)[:, :k], atol=1e-6)
    for ours, theirs in zip((rows, found), translator.search(queries, gallery, k, hubness=hubness), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_hubness_reduction_is_on_where_the_index_was_built_with_it(translator, index):
    queries = make_queries(4)
    np.testing.assert_array_equal(index.search(queries)[1], index.search(queries, hubness=True)[1])
    plain = PictureIndex.build(translator, make_gallery(30), names_of(30), hubness=False)
    np.testing.assert_array_equal(plain.search(queries)[1], index.search(queries, hubness=False)[1])
    with pytest.raises(ValueError, match="built without hubness reduction"):
        plain.search(queries, hubness=True)
    with pytest.raises(ValueError, match="built without hubness reduction"):
        plain.folded(queries, hubness=True)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), n=st.integers(1, 40), k=st.integers(1, 50), scale=st.floats(0.25, 1000))
def test_one_more_coordinate_subtracts_the_popularity(data, n, k, scale):
    """Of any gallery and popularity, [q, 1] . [g, -p] ranks as Translator.search does, and [q, 0] as cosines."""
    seed = data.draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    model = build_model("procrustes", DX, DY)
    model.set_affine(rng.normal(size=(DY, DX)), np.zeros(DY))
    translator = Translator("procrustes", model, DX, DY)
    gallery, queries = scale * rng.normal(size=(n, DY)), rng.normal(size=(5, DX))
    popularity = (data.draw(st.floats(0, 3)) * rng.normal(size=n)).astype(np.float32)
    index = PictureIndex.build(translator, gallery, names_of(n), hubness=popularity)
    stored = np.concatenate([index.vectors, -popularity[:, None]], axis=1)
    for reduced, given_popularity in ((True, popularity), (False, False)):
        expected, scores = translator.search(queries, gallery, k, hubness=given_popularity)
        by_coordinate = index.folded(queries, hubness=reduced).astype(float) @ stored.T.astype(float)
        np.testing.assert_allclose(np.take_along_axis(by_coordinate, expected, axis=1), scores, atol=2e-6)
        rows, found = index.search(queries, k, hubness=reduced)
        np.testing.assert_allclose(found, -np.sort(-by_coordinate, axis=1)[:, :k], atol=2e-6)
        np.testing.assert_array_equal(np.sort(rows), np.sort(expected))


def test_one_query_gives_one_row_of_results(translator, index):
    query = make_queries(1)[0]
    for of in (query, translator.translate(query), query.tolist(), torch.from_numpy(query)):
        rows, scores = index.search(of, 3)
        assert rows.shape == scores.shape == (3,)
        np.testing.assert_array_equal(rows, index.search(query[None], 3)[0][0])
    rows, scores = translator.search(query, make_gallery(30), 3)
    assert rows.shape == scores.shape == (3,)
    assert translator.translate(query).shape == translator.raw(query).shape == (DY,)
    assert index.folded(query).shape == (DY + 1,)


def test_translated_queries_are_told_by_their_width_or_by_the_caller(tmp_path, translator, index):
    queries = make_queries(5)
    unit = translator.translate(queries)
    np.testing.assert_array_equal(index.search(unit * 3)[0], index.search(queries)[0])
    square = build_model("procrustes", DY, DY)
    square.set_affine(np.roll(np.eye(DY), 1, axis=0), np.zeros(DY))
    same_width = PictureIndex.build(
        Translator("procrustes", square, DY, DY), make_gallery(30), names_of(30), hubness=False
    )
    as_text, as_image = same_width.search(unit), same_width.search(unit, translated=True)
    np.testing.assert_array_equal(as_image[0], index.search(queries, hubness=False)[0])
    assert not np.array_equal(as_text[0], as_image[0])


@contextlib.contextmanager
def default_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    "around", [lambda: torch.autocast("cpu", torch.bfloat16), default_dtype, lambda: torch.device("meta")]
)
def test_what_the_caller_has_set_changes_nothing(translator, index, around):
    queries, gallery = make_queries(9), make_gallery(30)
    expected, why = index.search(queries, 8), index.why(3)
    with around():
        again = PictureIndex.build(translator, gallery, names_of(30), bank_captions=CAPTIONS)
        found = again.search(queries, 8)
        assert again.why(3) == why
        again.add(gallery[:2], ["a", "b"])
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    index.add(gallery[:2], ["a", "b"])
    np.testing.assert_array_equal(again.popularity, index.popularity)


@pytest.mark.parametrize("of", [lambda x: x.astype(np.float16), lambda x: torch.from_numpy(x).bfloat16()])
def test_galleries_and_queries_of_any_real_type_are_taken(translator, of):
    gallery, queries = of(make_gallery(30)), of(make_queries(3))
    index = PictureIndex.build(translator, gallery, names_of(30))
    np.testing.assert_array_equal(index.search(queries)[0], translator.search(queries, gallery, hubness=True)[0])


def test_a_memory_mapped_gallery_is_only_read(translator, tmp_path):
    np.save(tmp_path / "gallery.npy", make_gallery(30).astype(np.float16))
    mapped = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    index = PictureIndex.build(translator, mapped, names_of(30))
    np.testing.assert_array_equal(
        index.search(make_queries(3))[0], translator.search(make_queries(3), mapped, hubness=True)[0]
    )


@pytest.mark.parametrize("kind", APPROXIMATE)
@pytest.mark.parametrize("hubness", [True, False])
def test_every_score_of_an_approximate_index_is_exact(translator, kind, hubness):
    pytest.importorskip("faiss")
    queries, gallery = make_queries(9), make_gallery(300)
    index = PictureIndex.build(translator, gallery, names_of(300), kind=kind)
    scores = oracle(translator, queries, gallery, index.popularity if hubness else 0)
    rows, found = index.search(queries, 5, hubness=hubness)
    np.testing.assert_allclose(found, np.take_along_axis(scores, rows, axis=1), atol=1e-6)
    assert (np.diff(found) <= 0).all()
    assert all(len(set(row)) == 5 for row in rows.tolist())


@pytest.mark.parametrize("kind", APPROXIMATE)
@pytest.mark.parametrize("k", [1, 30, 31])
def test_an_approximate_index_of_a_small_gallery_misses_nothing(translator, kind, k):
    pytest.importorskip("faiss")
    index = PictureIndex.build(translator, make_gallery(30), names_of(30), kind=kind)
    expected = translator.search(make_queries(40), make_gallery(30), k, hubness=True)
    for found, of in zip(index.search(make_queries(40), k), expected, strict=True):
        np.testing.assert_allclose(found, of, atol=1e-6)


@pytest.mark.slow
def test_ivfpq_finds_most_and_its_scores_are_exact(translator):
    pytest.importorskip("faiss")
    queries, gallery = make_queries(50), make_gallery(1200)
    index = PictureIndex.build(translator, gallery, names_of(1200), kind="ivfpq")
    rows, found = index.search(queries, 10)
    expected, _ = translator.search(queries, gallery, 10, hubness=True)
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(rows, expected, strict=True)]) > 0.9
    scores = oracle(translator, queries, gallery, index.popularity)
    np.testing.assert_allclose(found, np.take_along_axis(scores, rows, axis=1), atol=1e-6)
    everything, _ = index.search(queries[:2], 1200)  # more than the lists that are looked into hold
    assert all(sorted(row) == list(range(1200)) for row in everything.tolist())


def test_ivfpq_refuses_a_gallery_that_is_too_small_to_learn_from(translator):
    pytest.importorskip("faiss")
    with pytest.raises(DataError, match="30 pictures: an ivfpq index needs 1000 or more. Take the kind flat"):
        PictureIndex.build(translator, make_gallery(30), names_of(30), kind="ivfpq")


def test_no_query_gives_no_row(index):
    rows, scores = index.search(np.empty((0, DX)), 3)
    assert rows.shape == scores.shape == (0, 3)


@pytest.mark.parametrize("k", [0, -1, 2.0, "3", None, True])
def test_k_that_is_no_integer_from_one_on_is_an_error(index, k):
    with pytest.raises(ValueError, match="must be an integer of at least 1"):
        index.search(make_queries(1), k)


@pytest.mark.parametrize("shape", [(3, DX + 1), (DX + 1,), (1, 2, DX), ()])
def test_queries_of_another_shape_are_an_error(index, shape):
    with pytest.raises(ValueError, match=r"Queries have shape .*; \(N, 6\) of texts or \(N, 8\) of translations"):
        index.search(np.ones(shape))


@pytest.mark.parametrize("value", [np.nan, np.inf, 0])
def test_translated_queries_without_a_direction_are_an_error(index, value):
    queries = np.ones((4, DY))
    queries[2] = value
    with pytest.raises(ValueError, match=r"1 translated queries are zero or not finite, first rows: \[2\]"):
        index.search(queries)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (names_of(29), "29 names for 30 pictures"),
        (["0.jpg", *names_of(29)], r"1 name\(s\) of pictures are there already: 0.jpg"),
    ],
)
def test_names_that_do_not_fit_are_an_error(translator, names, message):
    with pytest.raises(DataError, match=message):
        PictureIndex.build(translator, make_gallery(30), names)


def test_an_unknown_kind_is_an_error_that_says_which_there_are(translator):
    with pytest.raises(DataError, match="'annoy': no kind of index. There are: flat, hnsw, ivfpq, int8, binary"):
        PictureIndex.build(translator, make_gallery(3), names_of(3), kind="annoy")


@pytest.mark.parametrize("value", [0, np.nan, np.inf])
def test_a_gallery_without_directions_is_an_error(translator, index, value):
    gallery = make_gallery(4)
    gallery[1] = value
    for hubness in (True, False, np.zeros(4)):
        with pytest.raises(ValueError, match="The gallery holds"):
            PictureIndex.build(translator, gallery, names_of(4), hubness=hubness)
    with pytest.raises(ValueError, match="The gallery holds"):
        index.add(gallery, list("abcd"))


def test_what_is_added_is_found_and_changes_no_other_score(translator, index):
    before, queries = index.popularity.copy(), make_queries(6)
    new = make_gallery(4, seed=9)
    index.add(new, ["a.jpg", "b.jpg", "c.jpg", "d.jpg"], ["one", "two", "three", "four"])
    assert len(index) == 34 and index.names[30:] == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    assert index.captions == [""] * 30 + ["one", "two", "three", "four"]
    np.testing.assert_array_equal(index.popularity[:30], before)
    rows, scores = index.search(queries, 34)
    expected = oracle(translator, queries, np.concatenate([make_gallery(30), new]), index.popularity)
    np.testing.assert_array_equal(rows, np.argsort(-expected, axis=1))
    assert index.search(translator.translate(queries), 1)[0].shape == (6, 1)


def test_an_added_copy_of_a_picture_is_as_popular_as_the_picture(index):
    index.add(make_gallery(30)[[3, 3, 17]] * 2, ["a", "b", "c"])
    np.testing.assert_allclose(index.popularity[30:], index.popularity[[3, 3, 17]], atol=1e-6)


def test_added_pictures_are_about_as_popular_as_if_they_had_been_there(translator):
    gallery = make_gallery(300)
    index = PictureIndex.build(translator, gallery[:290], names_of(290))
    index.add(gallery[290:], [f"new {row}" for row in range(10)])
    whole = translator.popularity(gallery)
    assert np.abs(index.popularity[290:] - whole[290:]).max() < 0.1 * whole.std()


def test_it_does_not_matter_in_how_many_calls_pictures_are_added(translator):
    built = [PictureIndex.build(translator, make_gallery(30), names_of(30)) for _ in range(2)]
    new = make_gallery(3, seed=9)
    built[0].add(new, ["a", "b", "c"])
    for vector, name in zip(new, "abc", strict=True):
        built[1].add(vector, [name])
    np.testing.assert_allclose(built[0].popularity, built[1].popularity, atol=1e-6)


@pytest.mark.parametrize("kind", APPROXIMATE)
def test_approximate_indexes_find_what_is_added(translator, kind):
    pytest.importorskip("faiss")
    index = PictureIndex.build(translator, make_gallery(30), names_of(30), kind=kind)
    new = translator.translate(make_queries(3))
    index.add(new, ["a", "b", "c"])
    assert index.search(make_queries(3), 1, hubness=False)[0][:, 0].tolist() == [30, 31, 32]


@pytest.mark.parametrize(
    ("names", "message"),
    [(["new", "new"], "1 name.*: new"), (["0.jpg", "new"], "already: 0.jpg"), (["new"], "1 names for 2")],
)
def test_names_that_are_there_already_are_not_added(index, names, message):
    with pytest.raises(DataError, match=message):
        index.add(make_gallery(2), names)
    assert len(index) == len(index.vectors) == 30


def test_why_gives_the_nearest_training_captions_each_text_once(translator, index):
    bank = translator.query_bank().text
    cosines = translator.translate(bank) @ index.vectors[4]
    best = {}
    for place in np.argsort(-cosines):
        best.setdefault(CAPTIONS[place], cosines[place])
    found = index.why(4, 6)
    assert [text for text, _ in found] == list(best)[:6]
    np.testing.assert_allclose([score for _, score in found], list(best.values())[:6], atol=1e-6)
    assert len(index.why(4, 1000)) == BANK // 2
    index.add(make_gallery(30)[4], ["copy"])
    assert [text for text, _ in index.why(30, 6)] == [text for text, _ in found]


def test_why_says_what_it_lacks(translator, index):
    with pytest.raises(IndexError, match="There is no row 30 among 30 pictures"):
        index.why(30)
    without = PictureIndex.build(translator, make_gallery(30), names_of(30))
    with pytest.raises(CheckpointError, match="built without the texts of its run's query bank"):
        without.why(0)


def test_blocks_change_nothing(monkeypatch, translator, index):
    queries = make_queries(9)
    expected, popularity = index.search(queries, 12), index.popularity
    for name, size in (("exact_search.GALLERY_BLOCK", 5), ("index.RESCORED", 2)):
        monkeypatch.setattr(f"helpers.serving.{name}", size)
    again = PictureIndex.build(translator, make_gallery(30), names_of(30))
    np.testing.assert_allclose(again.popularity, popularity, atol=1e-6)
    np.testing.assert_array_equal(again.search(queries, 12)[0], expected[0])
    again.add(make_gallery(30)[5], ["copy"])
    np.testing.assert_allclose(again.popularity[30], again.popularity[5], atol=1e-6)


class Encoder:
    dim = DX

    def encode(self, texts):
        return np.stack([np.full(DX, len(text)) + np.eye(DX)[len(text) % DX] for text in texts])


def test_words_are_encoded_and_searched(translator, index):
    translator.__dict__["text_encoder"] = Encoder()
    texts = ["a dog", "two dogs on a beach"]
    expected = index.search(Encoder().encode(texts), 4)
    for found, of in zip(index.search_text(texts, 4), expected, strict=True):
        np.testing.assert_array_equal(found, of)
    np.testing.assert_array_equal(index.search_text("a dog", 4)[0], expected[0][0])
    assert index.search_text([], 4)[0].shape == (0, 4)
    by_translator = translator.search_text("a dog", make_gallery(30), 4, hubness=True)
    np.testing.assert_array_equal(by_translator[0], expected[0][0])
    assert translator.search_text(texts, make_gallery(30), 4)[0].shape == (2, 4)
