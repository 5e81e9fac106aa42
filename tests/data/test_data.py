"""Loading of paired embeddings and queries: what comes back, the label fallback, the cache."""

import json
import os
import shutil
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import safetensors.numpy
from data_files import IMAGE_DIM, N_CAPTIONS, N_IMAGES, TARGETS, TEXT_DIM, tree_bytes

from helpers.data import load_pairs, load_queries
from helpers.data.npz import NpzReader
from helpers.data.split import TEST, TRAINING, VALIDATION
from helpers.errors import DataError

ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
not_for_root = pytest.mark.skipif(ROOT, reason="root may read and write everything")


def test_what_was_written_is_loaded(files, load):
    paired = load(files.write())
    for array, key in ((paired.text, "captions/embeddings"), (paired.images, "images/embeddings")):
        assert array.dtype == np.float32
        assert isinstance(array, np.memmap) and array.flags.aligned and not array.flags.writeable
        np.testing.assert_array_equal(array, files.arrays[key])
    assert paired.targets.dtype == np.int64 and not paired.targets.flags.writeable
    assert paired.targets.tolist() == TARGETS.tolist()
    assert paired.captions == files.arrays["captions/text"].tolist()
    assert paired.image_names == files.arrays["images/names"].tolist()
    assert (paired.n_captions, paired.n_images) == (N_CAPTIONS, N_IMAGES)
    assert (paired.text_dim, paired.image_dim) == (TEXT_DIM, IMAGE_DIM)
    assert paired.captions_per_image.tolist() == [3, 2, 3, 0]


def test_widths_are_those_of_the_file_where_none_are_given(files, load):
    files.drop(*[key for key in files.arrays if key.startswith("metadata/")])
    files.arrays["captions/embeddings"] = np.ones((N_CAPTIONS, 3), np.float32)
    paired = load(files.write(), None, None)
    assert (paired.text_dim, paired.image_dim) == (3, IMAGE_DIM)
    assert load_queries(files.npz).text.shape == (N_CAPTIONS, 3)


@pytest.mark.parametrize("dtype", ["<i8", ">i4", "u1"])
def test_rows_of_images_pair_the_captions_before_any_name_or_label(files, load, dtype):
    files.arrays["captions/label"] = np.eye(N_IMAGES, dtype=bool)[(TARGETS + 1) % N_IMAGES]
    files.lines = ["image,caption", "no such image,and too few lines"]
    files.arrays["captions/image"] = TARGETS.astype(dtype)
    files.arrays["captions/text"] = np.array(["\na", "", *files.arrays["captions/text"][2:]])
    first, second = load(files.write()), load(files.folder)
    for paired in (first, second):
        assert paired.targets.dtype == np.int64 and paired.targets.tolist() == TARGETS.tolist()
        assert paired.captions == files.arrays["captions/text"].tolist()


def test_the_split_of_the_data_is_loaded_with_them(files, load):
    assert load(files.write()).given_split is None
    files.arrays["images/split"] = np.array(["train", "val", "restval", "test"])
    for _ in range(2):  # from the file, then from its cache
        given = load(files.write()).given_split
        assert given.dtype == np.int8 and given.tolist() == [TRAINING, VALIDATION, TRAINING, TEST]


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


def _peak_of_loading(folder, **widths):
    """What a load returns, and the most bytes that it held beyond what was there before."""
    tracemalloc.start()
    data = load_pairs(folder, cache_dir=folder / "cache", **widths)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return data, peak


@pytest.mark.slow
def test_labels_are_never_held_whole(files):
    n_captions, n_images = 4000, 20_000
    targets = np.random.default_rng(0).integers(0, n_images, n_captions)
    label = np.zeros((n_captions, n_images), bool)
    label[np.arange(n_captions), targets] = True
    whole = label.nbytes
    files.lines = None
    files.arrays = {
        "captions/embeddings": np.ones((n_captions, 1), np.float32),
        "captions/text": np.full(n_captions, "a text"),
        "captions/label": label,
        "images/embeddings": np.ones((n_images, 1), np.float32),
        "images/names": np.arange(n_images).astype(str),
    }
    files.write()
    files.arrays.clear()
    del label
    data, peak = _peak_of_loading(files.folder)
    np.testing.assert_array_equal(data.targets, targets)
    assert peak < whole / 5


def test_vectors_are_never_held_whole(files):
    files.drop(*[key for key in files.arrays if key.startswith("metadata/")])
    files.arrays["captions/embeddings"] = np.ones((N_CAPTIONS, 10**6), np.float32)
    files.write()
    data, peak = _peak_of_loading(files.folder)
    assert peak < data.text.nbytes / 2
    assert (data.text == 1).all()


def _damage_the_images(path):
    """Other bytes in the last of the images, at the same size and time of the file."""
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo("images/embeddings.npy")
    content[entry.header_offset + entry.compress_size] ^= 0xFF
    path.write_bytes(content)
    os.utime(path, ns=times)


def test_a_second_load_reads_no_vectors_from_the_archive(files, load):
    files.arrays["images/embeddings"] = np.random.default_rng(0).random((N_IMAGES, 9000), dtype=np.float32)
    files.drop("metadata/embedding_dim_image")
    first = load(files.write(), image_dim=9000)
    _damage_the_images(files.npz)
    second = load(files.folder, image_dim=9000)
    np.testing.assert_array_equal(first.text, second.text)
    np.testing.assert_array_equal(first.images, second.images)
    assert (first.captions, first.image_names, first.fingerprint) == (
        second.captions,
        second.image_names,
        second.fingerprint,
    )
    with pytest.raises(DataError, match="'images/embeddings' has width 9000 but image_dim is 9. Set image_dim=9000"):
        load(files.folder, image_dim=9)
    with NpzReader(files.npz) as archive, pytest.raises(DataError, match="'images/embeddings' cannot be decompressed"):
        archive.read("images/embeddings")


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


@pytest.fixture
def cache_of(files, load, tmp_path):
    """The cache file of the loaded `files`."""

    def path():
        (found,) = (tmp_path / "cache").iterdir()
        return found

    load(files.write())
    return path


def test_a_cache_is_one_ordinary_safetensors_file(files, cache_of):
    tensors = safetensors.numpy.load_file(cache_of())
    np.testing.assert_array_equal(tensors["text"], files.arrays["captions/embeddings"])
    np.testing.assert_array_equal(tensors["images"], files.arrays["images/embeddings"])
    assert tensors["targets"].tolist() == TARGETS.tolist()
    assert json.loads(tensors["captions"].tobytes()) == files.arrays["captions/text"].tolist()
    assert json.loads(tensors["image_names"].tobytes()) == files.arrays["images/names"].tolist()


def test_loads_at_the_same_time_see_whole_caches_only(files, load, tmp_path):
    files.write()
    with ThreadPoolExecutor(8) as threads:
        for data in threads.map(load, [files.folder] * 32):
            np.testing.assert_array_equal(data.images, files.arrays["images/embeddings"])
            assert data.captions == files.arrays["captions/text"].tolist()
    assert len(list((tmp_path / "cache").iterdir())) == 1


def _with_header(header):
    text = json.dumps(header).encode()
    return lambda old: len(text).to_bytes(8, "little") + text + old[-100:]


DAMAGES = {
    "empty": lambda old: b"",
    "three bytes": lambda old: old[:3],
    "cut in the header": lambda old: old[:40],
    "cut in the vectors": lambda old: old[:-400],
    "last byte lost": lambda old: old[:-1],
    "zeros": lambda old: bytes(len(old)),
    "a header of 2^63 bytes": lambda old: bytes(7) + b"\x80" + old[8:],
    "a list as header": _with_header([1, 2]),
    "no tensors": _with_header({}),
    "a tensor without a type": _with_header({"text": {"shape": [1], "data_offsets": [0, 4]}}),
    "another name": lambda old: old.replace(b'"images"', b'"imagos"'),
    "another type": lambda old: old.replace(b'"F32"', b'"F99"'),
    "another shape": lambda old: old.replace(b"[8, 6]", b"[8, 7]"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_made_anew(files, load, cache_of, damage):
    good = cache_of().read_bytes()
    bad = DAMAGES[damage](good)
    assert bad != good
    cache_of().write_bytes(bad)
    assert load(files.folder).targets.tolist() == TARGETS.tolist()
    assert cache_of().read_bytes() == good


def test_a_cache_that_cannot_be_made_is_told_in_one_line(files, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for folder in (tmp_path / "file", tmp_path / "file" / "cache"):
        with pytest.raises(DataError, match=f"{folder}.*cannot be written .*HELPERS_RUNS_DIR.*--runs-dir") as caught:
            load_pairs(files.write(), text_dim=TEXT_DIM, image_dim=IMAGE_DIM, cache_dir=folder)
        assert "\n" not in str(caught.value)


@not_for_root
def test_a_folder_that_may_not_be_written_serves_the_caches_that_it_has(files, load, cache_of):
    cache_of().parent.chmod(0o500)
    assert load(files.folder).targets.tolist() == TARGETS.tolist()
    files.arrays["images/embeddings"][1, 1] += 1
    with pytest.raises(DataError, match="cannot be written .*HELPERS_RUNS_DIR"):
        load(files.write())
    cache_of().parent.chmod(0o700)


@not_for_root
def test_a_cache_that_may_not_be_read_is_made_anew(files, load, cache_of):
    cache_of().chmod(0)
    assert load(files.folder).targets.tolist() == TARGETS.tolist()
    assert load(files.folder).targets.tolist() == TARGETS.tolist()


def test_a_full_disk_is_an_error_before_anything_is_written(files, load, tmp_path, monkeypatch):
    full = shutil.disk_usage(tmp_path)._replace(free=100)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: full)
        with pytest.raises(DataError, match="cache of 0 MB cannot be written .No space.*Free some.*HELPERS_RUNS_DIR"):
            load(files.write())
    assert not list((tmp_path / "cache").iterdir())


def test_a_disk_that_runs_full_is_an_error_that_leaves_nothing(files, load, tmp_path):
    resource = pytest.importorskip("resource")  # a limit of file sizes fails as a full disk or a quota does
    load(files.write())
    before = tree_bytes(tmp_path / "cache")
    files.arrays["images/embeddings"][1, 1] += 1
    files.write()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        with pytest.raises(DataError, match="cannot be written .*too large.* Free some space"):
            load(files.folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert tree_bytes(tmp_path / "cache") == before


def test_the_cache_is_under_the_runs_by_default(files, tmp_path, monkeypatch):
    monkeypatch.setenv("HELPERS_RUNS_DIR", str(tmp_path / "runs"))
    load_pairs(files.write(), text_dim=TEXT_DIM, image_dim=IMAGE_DIM)
    assert len(list((tmp_path / "runs" / ".cache").iterdir())) == 1


def test_queries(files):
    files.use_queries()
    files.write()
    queries = load_queries(files.npz, text_dim=TEXT_DIM)
    assert queries.ids.dtype == np.int64 and queries.ids.tolist() == list(range(N_CAPTIONS))
    assert queries.text.dtype == np.float32
    np.testing.assert_array_equal(queries.text, files.arrays["captions/embeddings"])
    assert queries.captions == files.arrays["captions/text"].tolist()
    files.drop("captions/text")
    files.write()
    assert load_queries(files.npz, text_dim=TEXT_DIM).captions == [""] * N_CAPTIONS


@pytest.mark.slow
def test_real_captions_and_photos(real_data, tmp_path):
    folder = real_data / "flickr8k"
    paired = load_pairs(folder, cache_dir=tmp_path)
    assert (paired.n_captions, paired.n_images) == (40455, 8091)
    assert set(paired.captions_per_image.tolist()) == {5}
    with NpzReader(folder / "train.npz") as archive:
        ids = archive.read("captions/ids").tolist()
    assert [paired.image_names[row] for row in paired.targets] == [name.partition("#")[0] for name in ids]
