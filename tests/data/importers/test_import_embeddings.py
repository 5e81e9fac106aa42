"""Embeddings that exist already: every container, paired for certain or not at all."""

import json
import tracemalloc

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from data_files import tree_bytes

from helpers.data import load_pairs
from helpers.data.importers import import_embeddings
from helpers.data.split import TEST, TRAINING, VALIDATION
from helpers.errors import DataError

NAMES = ["c.jpg", "a.jpg", "b.jpg"]  # in the order in which the captions name them
IMAGE = np.array([0, 0, 1, 2, 2])
TEXTS = [f"caption {row}, with a comma" for row in range(5)]
RNG = np.random.default_rng(0)
TEXT = RNG.standard_normal((5, 6), dtype=np.float32)
IMAGES = RNG.standard_normal((3, 4), dtype=np.float32)  # rows of NAMES
SPLIT = ["train", "val", "test"]


@pytest.fixture
def captions(tmp_path):
    path = tmp_path / "captions.txt"
    path.write_text("".join(f"{NAMES[image]},{text}\n" for image, text in zip(IMAGE, TEXTS, strict=True)))
    return path


def loaded(folder, tmp_path):
    """What a folder holds, by names: {(caption, image name): (text vector, image vector)}."""
    data = load_pairs(folder, cache_dir=tmp_path / "cache")
    rows = zip(data.captions, data.targets, data.text, strict=True)
    return {(text, data.image_names[image]): (vector, data.images[image]) for text, image, vector in rows}


def assert_right(folder, tmp_path, rounding=0.0):
    found = loaded(folder, tmp_path)
    assert list(found) == [(text, NAMES[image]) for text, image in zip(TEXTS, IMAGE, strict=True)]
    for row, (text, image) in enumerate(found.values()):
        np.testing.assert_allclose(text, TEXT[row], rtol=rounding)
        np.testing.assert_allclose(image, IMAGES[IMAGE[row]], rtol=rounding)


def save_npy(folder, **arrays):
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return [folder / f"{name}.npy" for name in arrays]


def test_one_image_vector_a_caption_as_clip_retrieval_writes_them(tmp_path, captions):
    noise = 1e-4 * RNG.standard_normal((5, 4), dtype=np.float32)  # of one image, encoded in several batches
    sources = save_npy(tmp_path, text_emb_0=TEXT, img_emb_0=IMAGES[IMAGE] + noise)
    made = import_embeddings(sources, tmp_path / "out", captions=captions)
    found = loaded(made.folder, tmp_path)
    assert list(found) == [(text, NAMES[image]) for text, image in zip(TEXTS, IMAGE, strict=True)]
    for row, (_, image) in enumerate(found.values()):
        np.testing.assert_array_equal(image, (IMAGES[IMAGE] + noise)[[0, 0, 2, 3, 3]][row])
    assert (made.n_captions, made.n_images, made.text_dim, made.image_dim) == (5, 3, 6, 4)
    by_position = "caption i describes image i, by position: 5 pairs"
    assert str(made) == f"{tmp_path / 'out'}: 5 captions (6) of 3 images (4)\n{by_position}"
    unknown = {"kind": "unknown"}
    recorded = json.loads((made.folder / "encoders.json").read_text())
    assert recorded == {"text": unknown | {"dim": 6}, "images": unknown | {"dim": 4}, "preset": None}


@pytest.mark.parametrize("form", ["lines", "list", "windows"])
def test_image_vectors_with_names(tmp_path, captions, form):
    order, names = [2, 0, 1], tmp_path / "names.txt"
    named = [NAMES[row] for row in order] + ["nobody names it.jpg"]
    names.write_text({"lines": "\n".join(named), "list": json.dumps(named),
                      "windows": "\ufeff" + "".join(f"pictures\\{name}\r\n" for name in named)}[form],
                     encoding="utf-8", newline="")  # fmt: skip
    sources = save_npy(tmp_path, text=TEXT.astype(np.float64), images=np.vstack([IMAGES[order], np.ones((1, 4))]))
    made = import_embeddings(sources, tmp_path / "out", captions=captions, names=names)
    assert made.without_caption == 1 and str(made).endswith("of 4 images (4), of which 1 have no caption")
    found = loaded(made.folder, tmp_path)
    prefix = "pictures/" if form == "windows" else ""
    for row, ((text, name), (vector, image)) in enumerate(found.items()):
        assert (text, name) == (TEXTS[row], prefix + NAMES[IMAGE[row]])
        np.testing.assert_array_equal(vector, TEXT[row])
        np.testing.assert_array_equal(image, IMAGES[IMAGE[row]])


def test_images_without_a_picture_where_they_should_lie_are_named(tmp_path, captions):
    (tmp_path / "photos").mkdir()
    for name in NAMES[1:]:
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).touch()
    names = tmp_path / "names.txt"
    names.write_text("\n".join(NAMES))
    sources = save_npy(tmp_path, text=TEXT, images=IMAGES)
    given = {"captions": captions, "names": names, "pictures": {"folder": "../photos"}}
    made = import_embeddings(sources, tmp_path / "out", **given)
    assert made.missing == [NAMES[0]] and str(made).endswith(f"; 1 have no picture in the folder: {NAMES[0]}")


def test_one_vector_an_image_needs_names_unless_its_order_can_be_but_one(tmp_path, captions):
    sources = save_npy(tmp_path, text=TEXT, images=IMAGES)
    with pytest.raises(
        DataError, match="3 rows .* another order than that of the alphabet.*Give the names of the rows"
    ):
        import_embeddings(sources, tmp_path / "out", captions=captions)
    assert not (tmp_path / "out").exists()
    captions.write_text(captions.read_text().replace("c.jpg", "0.jpg"))
    made = import_embeddings(sources, tmp_path / "out", captions=captions)
    assert [name for _, name in loaded(made.folder, tmp_path)] == ["0.jpg", "0.jpg", "a.jpg", "b.jpg", "b.jpg"]
    assert made.by_position.endswith("the i-th of the captions' images in alphabetical order, by position: 3 images")


def test_rows_in_another_order_than_the_captions_are_noticed(tmp_path, captions):
    sources = save_npy(tmp_path, text=TEXT, images=IMAGES[[0, 1, 2, 0, 1]])
    with pytest.raises(DataError, match=r"2 pair\(s\) of rows belong to one image .*: 0 and 1, 3 and 4"):
        import_embeddings(sources, tmp_path / "out", captions=captions)


def test_pairs_without_captions_are_told_by_their_rows(tmp_path):
    sources = save_npy(tmp_path, text=TEXT[:3], images=IMAGES)
    made = import_embeddings(sources, tmp_path / "out")
    assert list(loaded(made.folder, tmp_path)) == [("row 0", "0"), ("row 1", "1"), ("row 2", "2")]
    assert str(made).endswith("\ncaption i describes image i, by position: 3 pairs")
    with pytest.raises(DataError, match="5 rows for 3 images, and nothing says which image each caption describes"):
        import_embeddings(save_npy(tmp_path, text=TEXT, images=IMAGES), tmp_path / "out")


SIDES = {  # what lies beside the vectors of captions, and of images, whose rows stand in the order 2, 0, 1
    "names": ({"image_name": np.array(NAMES)[IMAGE]}, {"names": np.array(NAMES)[[2, 0, 1]]}),
    "ids": ({"image_id": 10 * IMAGE}, {"ids": 10 * np.array([2, 0, 1])}),
    "ids of the images on both sides": ({"ids": 10 * IMAGE}, {"ids": 10 * np.array([2, 0, 1])}),
    "rows": ({"caption_image": np.array([1, 2, 0])[IMAGE]}, {}),
    "rows beside ids of their own": ({"caption_image": np.array([1, 2, 0])[IMAGE], "ids": np.arange(5)}, {}),
    "rows and names": ({"image_row": np.array([1, 2, 0])[IMAGE], "file_name": np.array(NAMES)[IMAGE]}, {}),
}


@pytest.mark.parametrize("case", SIDES)
def test_names_ids_and_rows_beside_the_vectors_pair_them_in_any_order(tmp_path, case):
    of_captions, of_images = SIDES[case]
    np.savez(tmp_path / "text.npz", embeddings=TEXT, **of_captions)
    np.savez(tmp_path / "images.npz", embeddings=IMAGES[[2, 0, 1]], **of_images)
    made = import_embeddings([tmp_path / "text.npz", tmp_path / "images.npz"], tmp_path / "out")
    pairs = [image for _, image in loaded(made.folder, tmp_path).values()]
    np.testing.assert_array_equal(pairs, IMAGES[IMAGE])
    assert made.by_position == ""


def test_equal_counts_are_paired_by_ids_and_not_by_position(tmp_path):
    np.savez(tmp_path / "text.npz", embeddings=TEXT[:3], ids=np.array([7, 8, 9]))
    np.savez(tmp_path / "images.npz", embeddings=IMAGES, ids=np.array([9, 7, 8]))
    made = import_embeddings([tmp_path / "text.npz", tmp_path / "images.npz"], tmp_path / "out")
    pairs = [image for _, image in loaded(made.folder, tmp_path).values()]
    np.testing.assert_array_equal(pairs, IMAGES[[1, 2, 0]])
    np.savez(tmp_path / "text.npz", embeddings=TEXT[:3], ids=np.arange(3))  # the captions' own: other ones
    made = import_embeddings([tmp_path / "text.npz", tmp_path / "images.npz"], tmp_path / "out")
    assert made.by_position == "caption i describes image i, by position: 3 pairs"


def test_rows_of_a_safetensors_file_and_of_a_table_count(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    [images] = save_npy(tmp_path, images=IMAGES)
    safetensors.numpy.save_file({"text": TEXT, "caption_image": IMAGE}, tmp_path / "text.safetensors")
    parquet.write_table(arrow.table({"text": list(TEXT), "image_index": IMAGE}), tmp_path / "text.parquet")
    for source in ("text.safetensors", "text.parquet"):
        made = import_embeddings([tmp_path / source, images], tmp_path / "out")
        pairs = [image for _, image in loaded(made.folder, tmp_path).values()]
        np.testing.assert_array_equal(pairs, IMAGES[IMAGE])
        assert made.by_position == ""


def test_rows_of_a_captions_file_that_contradict_the_rows_of_the_vectors_are_an_error(tmp_path, captions):
    np.savez(tmp_path / "a.npz", text=TEXT, images=IMAGES, targets=IMAGE)
    made = import_embeddings([tmp_path / "a.npz"], tmp_path / "out", captions=captions)
    assert_right(made.folder, tmp_path)
    np.savez(tmp_path / "a.npz", text=TEXT, images=IMAGES, targets=[0, 1, 1, 2, 2])
    with pytest.raises(
        DataError, match=r"'targets': of 2 caption\(s\) it tells another image than the names do: 1, 2 "
    ):
        import_embeddings([tmp_path / "a.npz"], tmp_path / "out", captions=captions)


def test_captions_in_another_order_than_their_vectors_are_an_error(tmp_path, captions):
    np.savez(tmp_path / "a.npz", text_emb=TEXT, images=IMAGES[IMAGE], captions=np.array(TEXTS)[[1, 0, 2, 3, 4]])
    with pytest.raises(DataError, match="2 of 5 captions stand in another row than beside the vectors .*: 0, 1 "):
        import_embeddings([tmp_path / "a.npz"], tmp_path / "out", captions=captions)


def two_npz(text, **beside):
    def make(folder):
        np.savez(folder / "text.npz", embeddings=text, **beside)
        np.savez(folder / "images.npz", embeddings=IMAGES, names=np.array(NAMES))
        return [folder / "text.npz", folder / "images.npz"]

    return make


@pytest.mark.parametrize("keys", ["ours", "plain"])
def test_an_npz_with_everything(tmp_path, keys):
    plain = {"text_embeddings": TEXT.astype(np.float16), "image_embeddings": IMAGES, "texts": np.array(TEXTS)}
    plain |= {"names": np.array(NAMES), "targets": IMAGE, "split": np.array(SPLIT)}
    ours = (
        "captions/embeddings",
        "images/embeddings",
        "captions/text",
        "images/names",
        "captions/image",
        "images/split",
    )
    arrays = plain if keys == "plain" else dict(zip(ours, plain.values(), strict=True))
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    made = import_embeddings([tmp_path / "a.npz"], tmp_path / "out")
    assert_right(made.folder, tmp_path, rounding=1e-3)
    assert made.has_split and str(made).endswith("; with its own split")
    with np.load(made.folder / "train.npz") as written:
        assert written["captions/embeddings"].dtype == np.float16  # as it was, at half the size


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("files", [1, 2])
def test_safetensors(tmp_path, captions, dtype, files):
    tensors = {"text_features": torch.from_numpy(TEXT).to(dtype)}
    tensors["image_features"] = torch.from_numpy(IMAGES[IMAGE]).to(dtype)
    if files == 1:
        safetensors.torch.save_file(tensors, tmp_path / "a.safetensors")
        sources = [tmp_path / "a.safetensors"]
    else:
        sources = [tmp_path / f"{name}.safetensors" for name in tensors]
        for source, tensor in zip(sources, tensors.values(), strict=True):
            safetensors.torch.save_file({"embedding": tensor}, source)
    folder = import_embeddings(sources, tmp_path / "out", captions=captions).folder
    assert_right(folder, tmp_path, rounding=1e-2 if dtype in (torch.float16, torch.bfloat16) else 1e-7)


def columns(**more):
    made = {"caption": TEXTS, "image": [NAMES[image] for image in IMAGE], "text_embedding": list(TEXT)}
    return made | {"image_embedding": list(IMAGES[IMAGE])} | more


@pytest.mark.parametrize("kind", ["file", "folder", "fixed", "half"])
def test_parquet_with_everything(tmp_path, kind):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = arrow.table(columns(split=[SPLIT[image] for image in IMAGE]))
    if kind == "fixed":
        vectors = arrow.FixedSizeListArray.from_arrays(TEXT.ravel(), 6)
        table = table.set_column(table.schema.get_field_index("text_embedding"), "text_embedding", vectors)
    if kind == "half":
        half = arrow.array(list(TEXT.astype(np.float16)), arrow.list_(arrow.float16()))
        table = table.set_column(table.schema.get_field_index("text_embedding"), "text_embedding", half)
    source = tmp_path / "a.parquet"
    parquet.write_table(table, source, row_group_size=2)
    if kind == "folder":
        source = tmp_path / "parts"
        source.mkdir()
        parquet.write_table(table.slice(0, 3), source / "part-0.parquet")
        parquet.write_table(table.slice(3), source / "part-1.parquet")
    made = import_embeddings([source], tmp_path / "out")
    assert_right(made.folder, tmp_path, rounding=1e-3 if kind == "half" else 0)
    assert load_pairs(made.folder, cache_dir=tmp_path / "cache").given_split.tolist() == [TRAINING, VALIDATION, TEST]


def test_a_table_of_captions_and_one_of_images(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    given = columns()
    order = [2, 0, 1]
    sources = [tmp_path / "captions.parquet", tmp_path / "images.parquet"]
    told = {"caption": given["caption"], "file_name": given["image"], "embedding": given["text_embedding"]}
    parquet.write_table(arrow.table(told), sources[0])
    images = {"file_name": [NAMES[row] for row in order], "embedding": [IMAGES[row] for row in order]}
    parquet.write_table(arrow.table(images), sources[1])
    assert_right(import_embeddings(sources, tmp_path / "out").folder, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["one", "parts", "shards", "shuffled"])
def test_datasets_saved_to_disk(tmp_path, kind):
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict(columns())
    expected = None
    if kind == "parts":
        parts = {"train": [0, 1], "validation": [2], "test": [3, 4]}
        data = datasets.DatasetDict({name: data.select(rows) for name, rows in parts.items()})
        expected = [TRAINING, VALIDATION, TEST]
    if kind == "shuffled":
        data = data.select([4, 3, 2, 1, 0]).select([4, 3, 2, 1, 0])
    data.save_to_disk(str(tmp_path / "saved"), **({"num_shards": 2} if kind == "shards" else {}))
    made = import_embeddings(tmp_path / "saved", tmp_path / "out")
    assert_right(made.folder, tmp_path)
    given = load_pairs(made.folder, cache_dir=tmp_path / "cache").given_split
    assert expected == (given if given is None else given.tolist())


def test_vectors_are_read_block_by_block(tmp_path):
    rows, width = 20_000, 512
    text = np.lib.format.open_memmap(tmp_path / "text.npy", "w+", np.float32, (rows, width))
    text[:] = 1.0
    text.flush()
    del text
    sources = [tmp_path / "text.npy", *save_npy(tmp_path, images=np.ones((rows, 2), np.float32))]
    tracemalloc.start()
    import_embeddings(sources, tmp_path / "out")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * 2**20 < rows * width * 4 / 3


def npy_of(array):
    return lambda folder: save_npy(folder, text=array, images=IMAGES)


def table_of(**changes):
    def make(folder):
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        given = {name: value for name, value in columns(**changes).items() if value is not None}
        parquet.write_table(arrow.table(given), folder / "a.parquet")
        return [folder / "a.parquet"]

    return make


def npz_of(**arrays):
    def make(folder):
        np.savez(folder / "a.npz", **arrays)
        return [folder / "a.npz"]

    return make


def written(name, content):
    def make(folder):
        (folder / name).write_bytes(content)
        return [folder / name]

    return make


BAD = {
    "nothing there": (lambda folder: [folder / "a.npy"], "a.npy: no such file or folder"),
    "three": (lambda folder: ["a", "b", "c"], "3 sources of embeddings: give one that holds both sides, or"),
    "unknown ending": (written("a.h5", b""), "embeddings are read from .npy, .npz, .parquet"),
    "pickle": (npy_of(np.array([[1, "a"]], dtype=object)), "text.npy: cannot be read .*objects.* as a plain array"),
    "cut npy": (written("a.npy", b"\x93NUMPY"), "a.npy: cannot be read"),
    "integers": (npy_of(np.ones((3, 4), int)), r"text.npy: is int64 of shape \(3, 4\): floats"),
    "cut safetensors": (written("a.safetensors", b"\x00" * 20), "a.safetensors: cannot be read"),
    "no vectors": (npz_of(names=np.array(NAMES)), "holds no vectors: .* Found: names"),
    "names unknown": (npz_of(left=TEXT, right=IMAGES), "no array of captions .* found: left, right. Name it text_emb"),
    "one side": (npz_of(text=TEXT), "no array of images with a known name; arrays of vectors found: text"),
    "NaN": (npy_of(np.full((3, 4), np.nan, np.float32)), r"'captions/embeddings' has 3 row\(s\) that hold NaN"),
    "rows outside": (npz_of(text=TEXT, images=IMAGES, targets=IMAGE + 1),
                     r"'targets' has 2 row\(s\) outside of 0, ..., 2, .*: 3, 4 "),
    "fewer texts": (npz_of(text=TEXT[:3], images=IMAGES, captions=np.array(TEXTS)), "holds 5 texts for 3 vectors"),
    "fewer names": (npz_of(text=TEXT[:3], images=IMAGES, names=np.array(NAMES[:2])), "3 rows for 2 names of images"),
    "widths that differ": (table_of(text_embedding=[[1.0] * (2 + (row == 3)) for row in range(5)]),
                           r"1 row\(s\) of another width than the first's 2: 3 "),
    "null vectors": (table_of(text_embedding=[None, None, *[[1.0, 2.0]] * 3]),
                     r"2 row\(s\) of another width than the first's 2: 0, 1 "),
    "null captions": (table_of(caption=["a", None, "c", "d", "e"]), r"1 row\(s\) with an empty caption.*: 1\."),
    "null images": (table_of(image=["a", "b", None, "d", "e"]), r"1 row\(s\) without the name of an image: 2\."),
    "other counts": (two_npz(TEXT), "5 rows for 3 images, and nothing says which image each caption describes"),
    "fewer keys": (two_npz(TEXT, image_id=IMAGE[:4]), "5 rows for 4 names of their images. Name the image of each"),
    "fewer rows": (two_npz(TEXT, caption_image=IMAGE[:4]), "has 4 rows of images for 5 captions. One for each"),
    "rows of floats": (two_npz(TEXT[:3], caption_image=np.array(["a", "b", "c"])), "'caption_image' is <U1: whole num"),
    "a data folder": (lambda folder: [written("train.npz", b"")(folder)[0].parent], "is a data folder already. Use it"),
    "an empty folder": (lambda folder: [folder], "holds neither parquet files nor a dataset that save_to_disk wrote"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_imported_is_said_and_nothing_is_written(tmp_path, case):
    make, message = BAD[case]
    folder = tmp_path / "in"
    folder.mkdir()
    if case == "an empty folder":
        pytest.importorskip("pyarrow")
    sources = make(folder)
    with pytest.raises(DataError, match=message):
        import_embeddings(sources, tmp_path / "out")
    assert not (tmp_path / "out" / "train.npz").exists()


def test_a_saved_dataset_names_files_of_its_own_folder_alone(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "state.json").write_text('{"_data_files": [{"filename": "../a.arrow"}]}')
    with pytest.raises(DataError, match="state.json: names 1 files, one or more of this folder are needed"):
        import_embeddings([tmp_path], tmp_path / "out")


def test_a_saved_dataset_has_its_splits_in_its_own_folder(tmp_path):
    datasets = pytest.importorskip("datasets")
    other = datasets.Dataset.from_dict({"caption": ["a", "b"], "text_embedding": [[1.0, 2.0]] * 2})
    other.save_to_disk(str(tmp_path / "elsewhere"))
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["../elsewhere"]}')
    with pytest.raises(DataError, match="splits are no folders of its own"):
        import_embeddings([tmp_path / "set"], tmp_path / "out")


def test_captions_that_do_not_fit_the_rows_are_said(tmp_path, captions):
    for text, images, message in (
        (TEXT[:4], IMAGES, "4 rows for 5 captions. One for each caption is needed"),
        (TEXT, np.ones((4, 2), np.float32), "4 rows for 5 captions of 3 images. One row a caption or one an image"),
    ):
        with pytest.raises(DataError, match=message):
            import_embeddings(save_npy(tmp_path, text=text, images=images), tmp_path / "out", captions=captions)
    names = tmp_path / "names.txt"
    names.write_text("a.jpg\n\nb.jpg\n")
    sources = save_npy(tmp_path, text=TEXT, images=IMAGES)
    with pytest.raises(DataError, match=r"names.txt: 1 name\(s\) are empty: 2 "):
        import_embeddings(sources, tmp_path / "out", captions=captions, names=names)
    names.write_text("a.jpg\nx.jpg\nb.jpg\n")
    with pytest.raises(DataError, match=r"captions.txt: 1 caption\(s\) name an image .*'c.jpg'"):
        import_embeddings(sources, tmp_path / "out", captions=captions, names=names)


def test_the_same_files_make_the_same_bytes(tmp_path, captions):
    sources = save_npy(tmp_path, text=TEXT, images=IMAGES[IMAGE])
    one, two = (import_embeddings(sources, tmp_path / name, captions=captions).folder for name in ("one", "two"))
    assert tree_bytes(one) == tree_bytes(two)


@pytest.mark.slow
def test_real_embeddings_come_back(real_data, tmp_path):
    folder = real_data / "flickr8k"
    made = import_embeddings(folder / "train.npz", tmp_path / "out", captions=folder / "captions.txt")
    assert (made.n_captions, made.n_images) == (40455, 8091)
    one, two = load_pairs(folder, cache_dir=tmp_path / "1"), load_pairs(made.folder, cache_dir=tmp_path / "2")
    np.testing.assert_array_equal(one.text, two.text)
    assert [one.image_names[row] for row in one.targets] == [two.image_names[row] for row in two.targets]
    np.testing.assert_array_equal(one.images[one.targets[::97]], two.images[two.targets[::97]])
