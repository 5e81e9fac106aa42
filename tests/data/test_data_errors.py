"""Every bad input of helpers.data: a DataError that names file, key and count, and no harm to earlier caches."""

import zipfile

import numpy as np
import pytest
from data_files import (
    N_CAPTIONS,
    TEXT_DIM,
    DataFiles,
    change,
    npy_header,
    put,
    store,
    tree_bytes,
    write_members,
)

from helpers.data.pairs import load_queries
from helpers.errors import DataError


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


def _rows(*rows):
    return lambda files: store("captions/image", np.array(rows))(files)


def _rows_without_texts(files):
    _rows(*range(8))(files)
    files.drop("captions/text")


def _labels_without_texts(files):
    files.use_labels()
    files.drop("captions/text")


BAD_CONTENT = {
    "rows outside the images": (
        _rows(0, -1, 2, 4, 3, 2, 1, 0),
        r"'captions/image' has 2 row\(s\) outside the images: 1, 3 .*a row of images/embeddings, from 0 to 3",
    ),
    "rows too few": (_rows(0, 1, 2), r"'captions/image' is int64 of shape \(3,\): .*n_captions=8"),
    "rows that are names": (_rows(*"01230123"), "'captions/image' is <U1 of .*: integers"),
    "rows without texts": (_rows_without_texts, "missing where captions/image pairs the captions: captions/text"),
    "split too short": (store("images/split", np.array(["train"])), r"'images/split' is <U5 .*n_images=4"),
    "split of other words": (
        store("images/split", np.array(["train", "dev", "val", ""])),
        r"'images/split' has 2 row\(s\) of no split .*: row 1 'dev', row 3 '' .*train, restval, val, test",
    ),
    "key missing": (lambda files: files.drop("images/names"), "missing: images/names. Keys found: metadata/num_cap"),
    "objects": (store("captions/embeddings", np.array([[1.0], "x"], dtype=object)), "'captions/embeddings' .*pickle"),
    "dims of text array": (
        lambda files: (
            files.drop("metadata/embedding_dim_text"),
            change("captions/embeddings", lambda array: array[:, 1:])(files),
        ),
        "'captions/embeddings' has width 5 but text_dim is 6. Set text_dim=5 .a data_dir",
    ),
    "dims of metadata": (
        store("metadata/embedding_dim_image", np.array([7])),
        "'metadata/embedding_dim_image' says 7, but image_dim is 5",
    ),
    "count of metadata": (
        store("metadata/num_captions", np.array([9])),
        "'metadata/num_captions' says 9, but n_captions is 8",
    ),
    "metadata no integer": (
        store("metadata/num_images", np.array([4.0])),
        "'metadata/num_images' is float64 of .*: integers",
    ),
    "dtype": (
        change("captions/embeddings", lambda a: a.astype(int)),
        "'captions/embeddings' is int64 of .*: float16",
    ),
    "one dimension": (change("images/embeddings", np.ravel), r"'images/embeddings' is float32 of shape \(20,\)"),
    "NaN": (put("captions/embeddings", ([1, 5], 2), np.nan), r"'captions/embeddings' has 2 row\(s\) .*NaN.*: 1, 5 "),
    "infinity": (put("images/embeddings", (3, 0), -np.inf), r"'images/embeddings' has 1 row\(s\) .*infinity.*: 3 "),
    "beyond float32": (
        change("images/embeddings", lambda array: array.astype(float) * 1e200),
        r"'images/embeddings' has 4 row\(s\) .*overflow float32: 0, 1, 2, 3 ",
    ),
    "zero vectors": (put("captions/embeddings", slice(0, 6), 0), r"6 row\(s\) .*norm 0\): 0, 1, 2, 3, 4, \.\.\."),
    "more embeddings than ids": (
        change("captions/ids", lambda a: a[1:]),
        r"'captions/ids' is int64 of shape \(7,\): .*n_captions=8",
    ),
    "more embeddings than texts": (change("captions/text", lambda a: a[1:]), r"'captions/text' is .* of shape \(7,\)"),
    "more embeddings than names": (
        change("images/names", lambda a: a[1:]),
        r"'images/names' is .* of shape \(3,\): .*n_images=4",
    ),
    "names are bytes": (change("images/names", lambda a: a.astype("S")), r"'images/names' is \|S5 of .*: text"),
    "image named twice": (put("images/names", slice(1, 3), "0.jpg"), r"'images/names' holds 1 more than once: 0.jpg"),
    "one image": (_one_image, r"'images/embeddings' holds 1 row\(s\): 2 or more"),
    "no captions": (_no_captions, r"'captions/embeddings' holds 0 row\(s\): 1 or more"),
    "more embeddings than lines": (lambda files: files.lines.pop(), "captions.txt: holds 7 captions .* has 8 rows"),
    "unknown image": (_line(3, "nothing.jpg,a caption"), r"captions.txt: 1 caption\(s\) name .*row 2 'nothing.jpg'"),
    "ambiguous stem": (_ambiguous, r"captions.txt: 3 caption\(s\) fit several images: row 1 '2', row 4 '2'"),
    "empty lines": (_line(slice(2, 2), [""] * 2), r"captions.txt: 2 line\(s\) empty: 3, 4"),
    "nothing that pairs": (
        _no_pairs,
        r"1 required key\(s\) missing where neither captions/image nor captions.txt pairs .*: captions/label",
    ),
    "labels without texts": (
        _labels_without_texts,
        "missing where neither captions/image nor captions.txt pairs .*: captions/text",
    ),
    "labels of none": (_label(([2, 4],), False), r"'captions/label' has 2 row\(s\) without exactly one .*: 2, 4 "),
    "labels of two": (_label((slice(0, 6),), True), r"'captions/label' has 6 row\(s\) .*: 0, 1, 2, 3, 4, \.\.\."),
    "labels of floats": (_float_labels, "'captions/label' is float32 of .*: bool or integers"),
    "labels of another shape": (
        _narrow_labels,
        r"'captions/label' is .* of shape \(8, 3\): .*\(n_captions=8, n_images=4\)",
    ),
}


def _no_file(files):
    files.npz.unlink()


def _cut_off(files):
    files.npz.write_bytes(files.npz.read_bytes()[:-40])


def _other_file(files):
    files.npz.write_bytes(b"PAR1 and more")


def _damaged(files):
    content = bytearray(files.npz.read_bytes())
    with zipfile.ZipFile(files.npz) as archive:
        content[archive.getinfo("images/embeddings.npy").header_offset + 150] ^= 0xFF
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


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda files: files.drop("captions/ids"), "missing: captions/ids"),
        (store("captions/ids", np.array(["a"] * N_CAPTIONS)), "'captions/ids' is <U1 of .*: integers"),
        (store("captions/ids", np.zeros(N_CAPTIONS, int)), r"'captions/ids' holds 1 more than once: 0\."),
        (put("captions/embeddings", 3, 0), r"'captions/embeddings' has 1 row\(s\) that are zero vectors .*: 3 "),
        (change("captions/embeddings", lambda array: array[:, 1:]), "has width 5 but text_dim is 6"),
    ],
)
def test_bad_queries(files, make, message):
    files.use_queries()
    make(files)
    files.write()
    with pytest.raises(DataError, match=message) as caught:
        load_queries(files.npz, text_dim=TEXT_DIM)
    assert str(files.npz) in str(caught.value)


def test_captions_in_another_order_than_the_vectors_are_an_error(files, load):
    files.lines = [files.lines[0], *reversed(files.lines[1:])]
    with pytest.raises(
        DataError, match=r"captions.txt: \d+ of 8 captions stand in another row than in 'captions/text'"
    ):
        load(files.write())


def test_captions_that_were_cleaned_are_no_other_order(files, load):
    files.arrays["captions/text"] = np.char.upper(files.arrays["captions/text"])
    assert len(load(files.write()).captions) == 8
