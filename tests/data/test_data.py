"""Loading of paired embeddings and queries: what comes back, the label fallback, the cache."""

import errno
import os
import shutil
import tracemalloc

import numpy as np
import pytest
from data_files import IMAGE_DIM, N_CAPTIONS, N_IMAGES, TARGETS, TEXT_DIM

from helpers.data import fields, pairs
from helpers.data.npz import NpzReader
from helpers.data.pairs import load_paired, load_queries
from helpers.errors import DataError


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
        found = fields.read_label_targets(archive, n_captions, n_images)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(found, targets)
    assert peak < 0.7 * whole  # three blocks or so, whatever the number of captions


def test_a_second_load_decompresses_nothing(files, load, monkeypatch):
    first = load(files.write())

    def fail(*_):
        raise AssertionError("the archive was read")

    monkeypatch.setattr(NpzReader, "_member", fail)
    monkeypatch.setattr(pairs, "parse_captions", fail)
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
    replace = pairs.os.replace

    def lose(source, target):
        shutil.copytree(source, target)
        replace(source, target)

    monkeypatch.setattr(pairs.os, "replace", lose)
    assert load(files.write()).targets.tolist() == TARGETS.tolist()
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_damaged_cache_says_what_to_delete(files, load, tmp_path):
    load(files.write())
    (cache,) = (tmp_path / "cache").iterdir()
    (cache / "text.npy").write_bytes(b"")
    with pytest.raises(DataError, match=f"{cache.name}: this cache is damaged .*Delete the folder"):
        load(files.folder)


def test_a_full_disk_is_an_error_before_anything_is_written(files, load, tmp_path, monkeypatch):
    monkeypatch.setattr(pairs.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(DataError, match="cache: the cache needs .* HELPERS_RUNS_DIR"):
        load(files.write())
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system cannot reserve space for a file")
def test_a_quota_is_an_error_and_leaves_nothing(files, load, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    with monkeypatch.context() as patch:
        patch.setattr(pairs.os, "posix_fallocate", refuse)
        with pytest.raises(DataError, match=r"cache: no room for .* MB .*Disk quota exceeded.* HELPERS_RUNS_DIR"):
            load(files.write())
    assert not list((tmp_path / "cache").iterdir())


def test_the_cache_is_under_the_runs_by_default(files, tmp_path, monkeypatch):
    monkeypatch.setenv("HELPERS_RUNS_DIR", str(tmp_path / "runs"))
    load_paired(files.write(), text_dim=TEXT_DIM, image_dim=IMAGE_DIM)
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


def test_real_captions_and_photos(real_data, tmp_path):
    folder = real_data / "flickr8k"
    paired = load_paired(folder, text_dim=384, image_dim=1280, cache_dir=tmp_path)
    assert (paired.n_captions, paired.n_images) == (40455, 8091)
    assert set(paired.captions_per_image.tolist()) == {5}
    with NpzReader(folder / "train.npz") as archive:
        ids = archive.read("captions/ids").tolist()
    assert [paired.image_names[row] for row in paired.targets] == [name.partition("#")[0] for name in ids]
