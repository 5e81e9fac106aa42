"""Loading of paired embeddings and queries: every bad input, the label fallback, the cache."""

import shutil
import tracemalloc

import numpy as np
import pytest
from data_files import (
    IMAGE_DIM,
    N_CAPTIONS,
    N_IMAGES,
    TARGETS,
    TEXT_DIM,
    DataFiles,
    npy_header,
    tree_bytes,
    write_members,
)

from helpers import data, npz_fields
from helpers.data import DataError, load_paired, load_queries
from helpers.npz import NpzReader


@pytest.fixture
def files(tmp_path):
    return DataFiles(tmp_path / "data")


@pytest.fixture
def load(tmp_path):
    def load_folder(folder, text_dim=TEXT_DIM, image_dim=IMAGE_DIM):
        return load_paired(folder, text_dim=text_dim, image_dim=image_dim, cache_dir=tmp_path / "cache")

    return load_folder


def test_what_was_written_is_loaded(files, load):
    paired = load(files.write())
    for array, key in ((paired.text, "captions/embeddings"), (paired.images, "images/embeddings")):
        assert array.dtype == np.float32
        assert isinstance(array, np.memmap) and not array.flags.writeable
        np.testing.assert_array_equal(array, files.arrays[key])
    assert paired.targets.dtype == np.int64 and not paired.targets.flags.writeable
    assert paired.targets.tolist() == TARGETS.tolist()
    assert paired.captions == files.arrays["captions/text"].tolist()
    assert paired.image_names == files.arrays["images/names"].tolist()
    assert (paired.n_captions, paired.n_images) == (N_CAPTIONS, N_IMAGES)
    assert (paired.text_dim, paired.image_dim) == (TEXT_DIM, IMAGE_DIM)
    assert paired.captions_per_image.tolist() == [3, 2, 3, 0]


@pytest.mark.parametrize("dtype", ["<f2", "<f8", ">f4"])
def test_other_floats_become_float32(files, load, dtype):
    files.arrays["captions/embeddings"] = files.arrays["captions/embeddings"].astype(dtype)
    paired = load(files.write())
    assert paired.text.dtype == np.dtype("<f4")
    np.testing.assert_array_equal(paired.text, files.arrays["captions/embeddings"].astype(np.float32))


def test_metadata_and_column_order_are_optional(files, load):
    files.drop(*[key for key in files.arrays if key.startswith("metadata/")], "captions/ids", "captions/text")
    files.arrays["images/embeddings"] = np.asfortranarray(files.arrays["images/embeddings"])
    np.testing.assert_array_equal(load(files.write()).images, files.arrays["images/embeddings"])


def _set(key, value):
    return lambda files: files.arrays.__setitem__(key, value)


def _change(key, function):
    return lambda files: files.arrays.__setitem__(key, function(files.arrays[key]))


def _put(key, where, value):
    """A fault in the values of one array, such as NaN in one row."""

    def fault(files):
        files.arrays[key][where] = value

    return fault


def _line(number, text):
    return lambda files: files.lines.__setitem__(number, text)


def _one_image(files):
    files.arrays["images/names"] = files.arrays["images/names"][:1]
    files.arrays["images/embeddings"] = files.arrays["images/embeddings"][:1]
    files.drop("metadata/num_images")


def _no_captions(files):
    files.arrays["captions/embeddings"] = files.arrays["captions/embeddings"][:0]
    files.drop("metadata/num_captions")


def _ambiguous(files):
    files.arrays["images/names"][2:] = ["2.jpg", "2.png"]
    files.lines = [line.replace("2.jpg", "2") for line in files.lines]


def _no_pairs(files):
    files.lines = None


def _label(where, value):
    def fault(files):
        files.use_labels()[where] = value

    return fault


def _float_labels(files):
    files.arrays["captions/label"] = files.use_labels().astype(np.float32)


def _narrow_labels(files):
    files.arrays["captions/label"] = files.use_labels()[:, :-1]


def _labels_without_texts(files):
    files.use_labels()
    files.drop("captions/text")


BAD_CONTENT = {
    "key missing": (lambda files: files.drop("images/names"), "missing: images/names. Keys found: metadata/num_cap"),
    "objects": (_set("captions/embeddings", np.array([[1.0], "x"], dtype=object)), "'captions/embeddings' .*pickle"),
    "dims of text array": (
        lambda files: (
            files.drop("metadata/embedding_dim_text"),
            _change("captions/embeddings", lambda array: array[:, 1:])(files),
        ),
        "'captions/embeddings' has width 5 but text_dim is 6. Set text_dim=5, or",
    ),
    "dims of metadata": (
        _set("metadata/embedding_dim_image", np.array([7])),
        "'metadata/embedding_dim_image' says 7, but 'images/embeddings' has width 5 .*image_dim is 5",
    ),
    "count of metadata": (_set("metadata/num_captions", np.array([9])), "says 9, but 'captions/embeddings' has 8 rows"),
    "metadata no integer": (_set("metadata/num_images", np.array([4.0])), "'metadata/num_images' is float64"),
    "dtype": (
        _change("captions/embeddings", lambda a: a.astype(int)),
        "'captions/embeddings' has dtype int64: float16",
    ),
    "one dimension": (_change("images/embeddings", np.ravel), r"'images/embeddings' has shape \(20,\)"),
    "NaN": (_put("captions/embeddings", ([1, 5], 2), np.nan), r"'captions/embeddings' has 2 row\(s\) .*NaN.*: 1, 5 "),
    "infinity": (_put("images/embeddings", (3, 0), -np.inf), r"'images/embeddings' has 1 row\(s\) .*infinity.*: 3 "),
    "beyond float32": (
        _change("images/embeddings", lambda array: array.astype(float) * 1e200),
        r"'images/embeddings' has 4 row\(s\) .*overflow float32: 0, 1, 2, 3 ",
    ),
    "zero vectors": (_put("captions/embeddings", slice(0, 6), 0), r"6 row\(s\) .*norm 0\): 0, 1, 2, 3, 4, \.\.\."),
    "more embeddings than ids": (_change("captions/ids", lambda a: a[1:]), r"'captions/ids' has shape \(7,\).* 8 rows"),
    "more embeddings than texts": (_change("captions/text", lambda a: a[1:]), r"'captions/text' has shape \(7,\)"),
    "more embeddings than names": (_change("images/names", lambda a: a[1:]), r"'images/names' has shape \(3,\).* 4 "),
    "names are bytes": (_change("images/names", lambda a: a.astype("S")), r"'images/names' has dtype \|S5: text"),
    "image named twice": (_put("images/names", slice(1, 3), "0.jpg"), r"'images/names' names 1 image\(s\) .*: 0.jpg"),
    "one image": (_one_image, "'images/embeddings' holds 1 image: at least 2"),
    "no captions": (_no_captions, "'captions/embeddings' holds 0 rows"),
    "more embeddings than lines": (lambda files: files.lines.pop(), "captions.txt: holds 7 captions .* has 8 rows"),
    "unknown image": (_line(3, "nothing.jpg,a caption"), r"captions.txt: 1 caption\(s\) name .*row 2 'nothing.jpg'"),
    "ambiguous stem": (_ambiguous, r"captions.txt: 3 caption\(s\) fit several images: row 1 '2', row 4 '2'"),
    "empty lines": (_line(slice(2, 2), [""] * 2), r"captions.txt: 2 line\(s\) empty: 3, 4"),
    "nothing that pairs": (_no_pairs, "captions.txt: no such file, .* lacks captions/label, .*Put captions.txt beside"),
    "labels without texts": (_labels_without_texts, "captions.txt: no such file, .* lacks captions/text,"),
    "labels of none": (_label(([2, 4],), False), r"'captions/label' has 2 row\(s\) without exactly one .*: 2, 4 "),
    "labels of two": (_label((slice(0, 6),), True), r"'captions/label' has 6 row\(s\) .*: 0, 1, 2, 3, 4, \.\.\."),
    "labels of floats": (_float_labels, "'captions/label' has dtype float32"),
    "labels of another shape": (_narrow_labels, r"'captions/label' has shape \(8, 3\): \(8, 4\) is needed"),
}


def _no_file(files):
    files.npz.unlink()


def _cut_off(files):
    files.npz.write_bytes(files.npz.read_bytes()[:-40])


def _other_file(files):
    files.npz.write_bytes(b"PAR1 and more")


def _damaged(files):
    content = bytearray(files.npz.read_bytes())
    with NpzReader(files.npz) as archive:
        content[archive._members["images/embeddings"].header_offset + 150] ^= 0xFF
    files.npz.write_bytes(content)


def _promises_more(files):
    write_members(files.npz, {key: npy_header((10**9, 6)) + b"few" for key in files.arrays})


def _latin_1(files):
    files.captions.write_bytes(b"image,caption\n0.jpg,caf\xe9\n")


BAD_FILES = {
    "file missing": (_no_file, "train.npz: no such file"),
    "truncated": (_cut_off, "train.npz: starts as an npz, but its end is missing"),
    "not an npz": (_other_file, "train.npz: is not an npz .*np.savez"),
    "damaged": (_damaged, "train.npz: 'images/embeddings' cannot be decompressed"),
    "promises more than the file": (_promises_more, "'captions/embeddings' promises 24000000000 bytes .* holds 3"),
    "not UTF-8": (_latin_1, "captions.txt: line 2 is not UTF-8"),
}


@pytest.mark.parametrize("case", [*BAD_CONTENT, *BAD_FILES])
def test_bad_input_is_a_data_error_and_leaves_earlier_caches_alone(tmp_path, files, load, case):
    load(DataFiles(tmp_path / "good").write())
    before = tree_bytes(tmp_path / "cache")
    assert before
    if case in BAD_CONTENT:
        make, message = BAD_CONTENT[case]
        make(files)
        files.write()
    else:
        make, message = BAD_FILES[case]
        files.write()
        make(files)
    with pytest.raises(DataError, match=message) as caught:
        load(files.folder)
    assert str(files.folder) in str(caught.value)
    assert tree_bytes(tmp_path / "cache") == before


def test_a_caption_file_with_prefixes_bom_and_crlf(files, load):
    files.lines = [files.lines[0], *(f"Images/{line}" for line in files.lines[1:])]
    files.write()
    files.captions.write_bytes(b"\xef\xbb\xbf" + files.captions.read_bytes().replace(b"\n", b"\r\n"))
    paired = load(files.folder)
    assert paired.targets.tolist() == TARGETS.tolist()
    assert paired.captions == files.arrays["captions/text"].tolist()


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64])
def test_labels_stand_in_for_captions_txt(files, load, dtype):
    files.arrays["captions/label"] = files.use_labels().astype(dtype)
    paired = load(files.write())
    assert paired.targets.tolist() == TARGETS.tolist()
    assert paired.captions == files.arrays["captions/text"].tolist()


def test_labels_are_not_read_where_captions_txt_is_there(files, load):
    files.arrays["captions/label"] = np.zeros((1, 1))  # would be an error
    assert load(files.write()).targets.tolist() == TARGETS.tolist()


def test_labels_are_read_in_blocks(tmp_path):
    n_captions, n_images = 4000, 20_000
    targets = np.random.default_rng(0).integers(0, n_images, n_captions)
    label = np.zeros((n_captions, n_images), bool)
    label[np.arange(n_captions), targets] = True
    np.savez_compressed(tmp_path / "a.npz", **{"captions/label": label})
    whole = label.nbytes
    del label
    tracemalloc.start()
    with NpzReader(tmp_path / "a.npz") as archive:
        found = npz_fields.read_label_targets(archive, n_captions, n_images)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(found, targets)
    assert peak < 0.7 * whole  # three blocks or so, whatever the number of captions


def test_a_second_load_decompresses_nothing(files, load, monkeypatch):
    first = load(files.write())

    def fail(*_):
        raise AssertionError("the archive was read")

    monkeypatch.setattr(NpzReader, "_member", fail)
    monkeypatch.setattr(data, "parse_captions", fail)
    second = load(files.folder)
    np.testing.assert_array_equal(first.text, second.text)
    assert (first.captions, first.image_names, first.fingerprint) == (
        second.captions,
        second.image_names,
        second.fingerprint,
    )
    with pytest.raises(DataError, match="'images/embeddings' has width 5 but image_dim is 9. Set image_dim=5"):
        load(files.folder, image_dim=9)


def test_the_fingerprint_depends_on_content_only(files, load, tmp_path):
    original = load(files.write()).fingerprint
    copy = tmp_path / "copy"
    shutil.copytree(files.folder, copy, copy_function=shutil.copyfile)  # new times
    np.savez(copy / "train.npz", **files.arrays)  # and not compressed
    assert load(copy).fingerprint == original

    files.arrays["images/embeddings"][1, 1] += 1
    changed = load(files.write())
    assert changed.fingerprint != original
    np.testing.assert_array_equal(changed.images, files.arrays["images/embeddings"])

    files.captions.write_bytes(files.captions.read_bytes().replace(b"caption 3", b"caption x"))
    reworded = load(files.folder)
    assert reworded.fingerprint not in (original, changed.fingerprint)
    assert reworded.captions[3].startswith("caption x")


def test_another_process_that_wins_the_race_is_believed(files, load, tmp_path, monkeypatch):
    replace = data.os.replace

    def lose(source, target):
        shutil.copytree(source, target)
        replace(source, target)

    monkeypatch.setattr(data.os, "replace", lose)
    assert load(files.write()).targets.tolist() == TARGETS.tolist()
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_damaged_cache_says_what_to_delete(files, load, tmp_path):
    load(files.write())
    (cache,) = (tmp_path / "cache").iterdir()
    (cache / "text.npy").write_bytes(b"")
    with pytest.raises(DataError, match=f"{cache.name}: this cache is damaged .*Delete the folder"):
        load(files.folder)


def test_a_full_disk_is_an_error_before_anything_is_written(files, load, tmp_path, monkeypatch):
    monkeypatch.setattr(data.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(DataError, match="cache: the cache needs .* HELPERS_RUNS_DIR"):
        load(files.write())
    assert not list((tmp_path / "cache").iterdir())


def test_the_cache_is_under_the_runs_by_default(files, tmp_path, monkeypatch):
    monkeypatch.setenv("HELPERS_RUNS_DIR", str(tmp_path / "runs"))
    load_paired(files.write(), text_dim=TEXT_DIM, image_dim=IMAGE_DIM)
    assert len(list((tmp_path / "runs" / ".cache").iterdir())) == 1


def _queries(files):
    files.lines = None
    files.drop("images/names", "images/embeddings", "metadata/num_images", "metadata/embedding_dim_image")
    return files


def test_queries(files):
    _queries(files).write()
    queries = load_queries(files.npz, text_dim=TEXT_DIM)
    assert queries.ids.dtype == np.int64 and queries.ids.tolist() == list(range(N_CAPTIONS))
    assert queries.text.dtype == np.float32
    np.testing.assert_array_equal(queries.text, files.arrays["captions/embeddings"])
    assert queries.captions == files.arrays["captions/text"].tolist()
    files.drop("captions/text")
    files.write()
    assert load_queries(files.npz, text_dim=TEXT_DIM).captions == [""] * N_CAPTIONS


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda files: files.drop("captions/ids"), "missing: captions/ids"),
        (_set("captions/ids", np.array(["a"] * N_CAPTIONS)), "'captions/ids' has dtype <U1: integers"),
        (_set("captions/ids", np.zeros(N_CAPTIONS, int)), r"'captions/ids' holds 1 id\(s\) more than once: 0\."),
        (_put("captions/embeddings", 3, 0), r"'captions/embeddings' has 1 row\(s\) that are zero vectors .*: 3 "),
        (_change("captions/embeddings", lambda array: array[:, 1:]), "says 6, but .* width 5 .*text_dim is 6"),
    ],
)
def test_bad_queries(files, make, message):
    make(_queries(files))
    files.write()
    with pytest.raises(DataError, match=message) as caught:
        load_queries(files.npz, text_dim=TEXT_DIM)
    assert str(files.npz) in str(caught.value)


def test_real_captions_and_photos(real_data, tmp_path):
    folder = real_data / "flickr8k"
    paired = load_paired(folder, text_dim=384, image_dim=1280, cache_dir=tmp_path)
    assert (paired.n_captions, paired.n_images) == (40455, 8091)
    assert set(paired.captions_per_image.tolist()) == {5}
    with NpzReader(folder / "train.npz") as archive:
        ids = archive.read("captions/ids").tolist()
    assert [paired.image_names[row] for row in paired.targets] == [name.partition("#")[0] for name in ids]
