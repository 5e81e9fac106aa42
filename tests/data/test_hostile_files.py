"""Files made to do harm, and files damaged at random: a DataError that names file, place and remedy, or valid data."""

import gzip
import re
import shutil
import struct
import time
import tracemalloc
import zipfile
from functools import cache

import numpy as np
import pytest
from data_files import (
    IMAGE_DIM,
    N_CAPTIONS,
    N_IMAGES,
    TARGETS,
    TEXT_DIM,
    DataFiles,
    change,
    npy_bytes,
    npy_header,
    promise,
    put,
    store,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.data.npz import WHOLE_LIMIT
from helpers.data.pairs import LONGEST_TEXT, load_pairs, load_queries
from helpers.errors import DataError, first_five

TEXT, IMAGES, NAMES, IDS = "captions/embeddings", "images/embeddings", "images/names", "captions/ids"
REMEDY = re.compile("needed|must be|again|save|set |put |make |write |mark |leave |encode|decode|split", re.IGNORECASE)
SECONDS, BYTES = 10, 2**27
MEGABYTE = 2**20


def _double(key, where, value):
    return lambda files: (change(key, lambda array: array.astype(float))(files), put(key, where, value)(files))


def _labels(function):
    return lambda files: store("captions/label", function(files.use_labels()))(files)


def _labelled_texts(text):
    def fault(files):
        files.use_labels()
        files.arrays["captions/text"] = np.array([text] + ["fine"] * (N_CAPTIONS - 1))

    return fault


STRUCTURED = np.dtype([("x", "<f4"), ("y", "<f4")])
NAME_WITH_NUL = np.array(["a\0b", "1.jpg", "2.jpg", "3.jpg"])
HALF_A_PAIR = np.array(["0.jpg", "1.jpg", "2.jpg", "\ud83d.jpg"])

BAD_ARRAYS = {
    "complex": (change(TEXT, lambda a: a.astype(complex)), f"'{TEXT}' is complex128 of .*: float16"),
    "long double": (change(TEXT, lambda a: a.astype(np.longdouble)), f"'{TEXT}' is float(128|96) of"),
    "truth values": (change(IMAGES, lambda a: a > 0), f"'{IMAGES}' is bool of .*: float16"),
    "words": (change(IMAGES, lambda a: a.astype(str)), f"'{IMAGES}' is <U"),
    "dates": (store(TEXT, np.zeros((8, 6), "<M8[s]")), f"'{TEXT}' is datetime64"),
    "structured": (store(IMAGES, np.zeros((4, 5), STRUCTURED)), rf"'{IMAGES}' is \[\('x'"),
    "three dimensions": (change(TEXT, lambda a: a[:, None]), rf"'{TEXT}' is .* of shape \(8, 1, 6\)"),
    "a scalar": (store(TEXT, np.float32(1)), rf"'{TEXT}' is float32 of shape \(\)"),
    "no columns": (lambda files: (change(TEXT, lambda a: a[:, :0])(files), files.drop("metadata/embedding_dim_text")),
                   f"'{TEXT}' has width 0: one or more"),
    "no images": (change(IMAGES, lambda a: a[:0]), rf"'{IMAGES}' holds 0 row\(s\)"),
    "NaN first": (put(TEXT, (0, 0), np.nan), rf"'{TEXT}' has 1 row\(s\) .*: 0 "),
    "NaN last": (put(IMAGES, (-1, -1), np.nan), rf"'{IMAGES}' has 1 row\(s\) .*: 3 "),
    "infinity first": (put(IMAGES, (0, 0), np.inf), rf"'{IMAGES}' has 1 row\(s\) .*: 0 "),
    "infinity last": (put(TEXT, (-1, -1), np.inf), rf"'{TEXT}' has 1 row\(s\) .*: 7 "),
    "one huge value": (_double(TEXT, (7, 5), 1e39), rf"'{TEXT}' has 1 row\(s\) .*overflow float32: 7 "),
    "norm that overflows": (put(TEXT, (2, 0), 1e20), rf"'{TEXT}' has 1 row\(s\) .*overflow float32: 2 "),
    "norm that vanishes": (put(IMAGES, 1, 1e-30), rf"'{IMAGES}' has 1 row\(s\) .*norm 0\): 1 "),
    "value that vanishes": (_double(IMAGES, 2, 1e-60), rf"'{IMAGES}' has 1 row\(s\) .*norm 0\): 2 "),
    "NaN and zeros": (lambda files: (put(TEXT, 1, np.nan)(files), put(TEXT, 4, 0)(files)),
                      rf"'{TEXT}' has 1 row\(s\) that hold NaN.*: 1; 1 row\(s\) that are zero .*: 4 "),
    "names of numbers": (store(NAMES, np.arange(4)), f"'{NAMES}' is int64 of .*: text"),
    "names in a column": (change(NAMES, lambda a: a[:, None]), rf"'{NAMES}' is .* of shape \(4, 1\)"),
    "names that are empty": (store(NAMES, np.array([""] * 4)), f"'{NAMES}' holds 1 more than once"),
    "names that end in NUL": (store(NAMES, np.array(["a", "a\0", "2.jpg", "3.jpg"])), f"'{NAMES}' holds 1 .*once: a."),
    "NUL in a name": (store(NAMES, NAME_WITH_NUL), rf"'{NAMES}' has 1 row\(s\) with NUL .*: 0 "),
    "surrogate in a name": (store(NAMES, HALF_A_PAIR), rf"'{NAMES}' has 1 row\(s\) .*surrogate pair: 3 "),
    "surrogate in a text": (_labelled_texts("\udfff"), r"'captions/text' has 1 row\(s\) .*surrogate pair: 0 "),
    "NUL in a text": (_labelled_texts("a\0b"), r"'captions/text' has 1 row\(s\) with NUL .*: 0 "),
    "no such character": (store(NAMES, np.array([0x110000, 1, 2, 3], "<u4").view("<U1")), f"'{NAMES}' .*do not exist"),
    "ids in a column": (change(IDS, lambda a: a[:, None]), rf"'{IDS}' is .* of shape \(8, 1\)"),
    "metadata of two": (store("metadata/num_images", np.array([4, 4])), "'metadata/num_images' is int64 of shape"),
    "metadata below zero": (store("metadata/num_captions", np.array([-8])), "'metadata/num_captions' says -8, but"),
    "metadata in words": (store("metadata/num_images", np.array(["4"])), "'metadata/num_images' is <U1"),
    "metadata of truth": (store("metadata/embedding_dim_text", np.array([True])), "_dim_text' is bool of .*: integers"),
    "metadata empty": (store("metadata/embedding_dim_image", np.array([], int)), r"embedding_dim_image' .*\(0,\)"),
    "labels that are columns": (_labels(lambda a: TARGETS), r"'captions/label' is .* of shape \(8,\): .*n_captions=8,"),
    "labels of three dimensions": (_labels(lambda a: a[..., None]), r"'captions/label' is .* of shape \(8, 4, 1\)"),
    "labels that are complex": (_labels(lambda a: a.astype(complex)), "'captions/label' is complex128 of .*: bool or"),
    "labels of plus and minus": (_labels(lambda a: a - np.eye(8, 4, 3, dtype=int)),
                                 r"'captions/label' has 1 row\(s\) without exactly one nonzero entry: 0 "),
    "labels transposed": (_labels(lambda a: a.T.copy()), r"'captions/label' .* \(4, 8\): .*n_captions=8, n_images=4"),
}  # fmt: skip


def _repack(files, change):
    """Write the archive anew, after `change` to its members: {name in the zip: content}."""
    with zipfile.ZipFile(files.npz) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members = change(members) or members
    with zipfile.ZipFile(files.npz, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def _member(key, content):
    """Replace one member by bytes, or by a function of what it holds."""

    def change(members):
        name = f"{key}.npy"
        members[name] = content(members[name]) if callable(content) else content

    return lambda files: _repack(files, change)


def _header(text, version=1):
    """An npy header of any text, and no data."""
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text.encode("latin-1")


def _described(descr="'<f4'", shape="(8, 6)"):
    return _header(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}")


def _renamed(rename):
    return lambda files: _repack(files, lambda members: {rename(name): members[name] for name in members})


def _patched(key, offset, value, directory=True):
    """Overwrite bytes of a member's entry in the zip's directory, or of its local header."""

    def fault(files):
        content = bytearray(files.npz.read_bytes())
        with zipfile.ZipFile(files.npz) as archive:
            names = archive.namelist()
            start = archive.start_dir if directory else archive.getinfo(f"{key}.npy").header_offset
        if directory:
            for _ in range(names.index(f"{key}.npy")):
                start = content.index(b"PK\x01\x02", start + 1)
        content[start + offset : start + offset + len(value)] = value
        files.npz.write_bytes(content)

    return fault


def _replaced_by(content):
    return lambda files: files.npz.write_bytes(content)


def _loop(files):
    files.npz.unlink()
    files.npz.symlink_to(files.npz)


def _not_a_folder(files):
    shutil.rmtree(files.folder)
    files.folder.write_bytes(b"")


def _first_bytes_lost(files):
    files.npz.write_bytes(files.npz.read_bytes()[20:])


def _promised(key, shape, descr="<f4", **layout):
    """Replace one member by a promise, which the zip's directory makes as well: little data follows."""

    def fault(files):
        _repack(files, lambda members: members.pop(f"{key}.npy") and None)
        promise(files.npz, key, shape, descr, **layout)

    return fault


def _texts_that_inflate(files):
    files.captions.unlink()
    _member("captions/label", npy_bytes(np.eye(N_IMAGES, dtype=bool)[TARGETS]))(files)
    _promised("captions/text", (N_CAPTIONS,), f"<U{WIDTH}")(files)


WIDTH = WHOLE_LIMIT // (4 * N_CAPTIONS) + 1
LONG_HEADER = b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + bytes(200 * MEGABYTE)
NO_HEADER = "has no valid npy header"

BAD_ARCHIVES = {
    "empty zip": (_replaced_by(b"PK\x05\x06" + bytes(18)), "3 required key.*Keys found: none"),
    "web page": (_replaced_by(b"<!DOCTYPE html><html></html>"), r"is not an npz \(it starts with b'<!DO'\)"),
    "pointer to the file": (_replaced_by(b"version https://git-lfs.github.com/spec/v1\n"), "is not an npz .*b'vers'"),
    "gzip": (lambda files: files.npz.write_bytes(gzip.compress(files.npz.read_bytes())), "is not an npz"),
    "magic alone": (_replaced_by(b"PK\x03\x04"), "its end is missing"),
    "a symbolic link to itself": (_loop, "cannot be read"),
    "folder that is a file": (_not_a_folder, "cannot be read"),
    "first bytes lost": (_first_bytes_lost, r"is not an npz|cannot be decompressed"),
    "names that climb": (_renamed(lambda name: f"../../{name}"), r"missing: .*found: \.\./\.\./metadata"),
    "names from the root": (_renamed(lambda name: f"/{name}"), "missing: .*found: /metadata"),
    "names with backslashes": (_renamed(lambda name: name.replace("/", "\\")), "missing: .*found: metadata"),
    "names without npy": (_renamed(lambda name: name.removesuffix(".npy")), "missing: .*found: none"),
    "encrypted": (_patched(TEXT, 8, b"\x01\x00"), f"'{TEXT}' cannot be decompressed .*encrypted"),
    "strongly encrypted": (_patched(IMAGES, 8, b"\x40\x00"), f"'{IMAGES}' cannot be decompressed"),
    "LZMA": (_patched(TEXT, 10, b"\x0e\x00"), f"'{TEXT}' uses zip compression method 14"),
    "unknown compression": (_patched(NAMES, 10, b"\x63\x00"), f"'{NAMES}' uses zip compression method 99"),
    "another checksum": (_patched(NAMES, 16, b"abcd"), f"'{NAMES}' cannot be decompressed .*CRC"),
    "entry beyond the end": (_patched(TEXT, 42, b"\xff\xff\xff\x0f"), f"'{TEXT}' cannot be decompressed"),
    "entry of another member": (_patched(TEXT, 42, bytes(4)), f"'{TEXT}' cannot be decompressed .*differ"),
    "version of the far future": (_patched(TEXT, 6, b"\xff\x00"), "its end is missing or damaged"),
    "local header damaged": (_patched(TEXT, 0, b"XXXX", False), f"'{TEXT}' cannot be decompressed .*magic"),
    "local name not UTF-8": (
        lambda files: (_patched(TEXT, 6, b"\x00\x08", False)(files), _patched(TEXT, 30, b"\xff", False)(files)),
        f"'{TEXT}' cannot be decompressed",
    ),
    "member empty": (_member(TEXT, b""), f"'{TEXT}' {NO_HEADER}"),
    "member of the magic alone": (_member(TEXT, b"\x93NUMPY"), f"'{TEXT}' {NO_HEADER}"),
    "member of another magic": (_member(IMAGES, lambda old: b"\x93NUMPX" + old[6:]), f"'{IMAGES}' {NO_HEADER}"),
    "member cut in its header": (_member(TEXT, lambda old: old[:40]), f"'{TEXT}' {NO_HEADER}"),
    "member cut in its data": (_member(TEXT, lambda old: old[:-1]), f"'{TEXT}' promises 192 bytes .* holds 191"),
    "member of two arrays": (_member(NAMES, lambda old: 2 * old), f"'{NAMES}' promises 80 bytes"),
    "header without an end": (_member(TEXT, _header("(" * 5000)), f"'{TEXT}' {NO_HEADER}"),
    "header of signs": (_member(TEXT, _header("-" * 9000 + "1")), f"'{TEXT}' "),
    "header that runs code": (_member(TEXT, _header("__import__('os').abort()")), f"'{TEXT}' {NO_HEADER}"),
    "header that is a list": (_member(TEXT, _header("[1, 2]")), f"'{TEXT}' {NO_HEADER}"),
    "header without a shape": (_member(TEXT, _header("{'descr': '<f4'}")), f"'{TEXT}' {NO_HEADER}"),
    "header beyond its limit": (_member(TEXT, _header(" " * 60_000, 2)), f"'{TEXT}' {NO_HEADER}"),
    "header that inflates": (_member(TEXT, LONG_HEADER), f"'{TEXT}' {NO_HEADER}"),
    "dtype unknown": (_member(TEXT, _described("'<q9'")), f"'{TEXT}' {NO_HEADER}"),
    "dtype without size": (_member(NAMES, _described("'<U0'", "(4,)")), f"'{NAMES}' promises 16 bytes .* holds 0"),
    "dtype with a shape": (_member(IDS, _described("('<i8', (2,))", "(8,)") + bytes(128)), f"'{IDS}' {NO_HEADER}"),
    "objects in a structure": (_member(TEXT, _described("[('x', '|O')]")), f"'{TEXT}' is an object array .*pickle"),
    "shape of fractions": (_member(TEXT, _described(shape="(8.0, 6)")), f"'{TEXT}' {NO_HEADER}"),
    "shape beyond int64": (_member(TEXT, _described(shape="(2**40, 2**40)")), f"'{TEXT}' {NO_HEADER}"),
    "shape that overflows": (_member(TEXT, npy_header((2**40, 2**40))), f"'{TEXT}' {NO_HEADER}"),
    "shape that overflows to nothing": (_member(TEXT, npy_header((0, 2**70))), f"'{TEXT}' {NO_HEADER}"),
    "one negative size": (_member(TEXT, npy_header((8, -6))), f"'{TEXT}' {NO_HEADER}"),
    "a hundred dimensions": (_member(TEXT, npy_header((1,) * 100) + bytes(4)), f"'{TEXT}' {NO_HEADER}"),
    "vectors that are promised": (_promised(TEXT, (N_CAPTIONS, TEXT_DIM)), f"'{TEXT}' cannot be decompressed"),
    "texts that inflate": (
        _texts_that_inflate,
        f"'captions/text' has room for {WIDTH} characters a text, of which {LONGEST_TEXT} may be",
    ),
}


def _captions(change):
    return lambda files: files.captions.write_bytes(change(files.captions.read_bytes()))


def _captions_folder(files):
    files.captions.unlink()
    files.captions.mkdir()


def _name(name):
    return _captions(lambda old: old.replace(b"1.jpg", name))


BAD_CAPTIONS = {
    "a folder": (_captions_folder, "captions.txt: cannot be read"),
    "gzip of the file": (_captions(gzip.compress), "captions.txt: line 1 is not UTF-8"),
    "UTF-16 without a mark": (_captions(lambda old: old.decode().encode("utf-16-le")), r"captions.txt: 1 line\(s\)"),
    "UTF-32": (_captions(lambda old: old.decode().encode("utf-32")), "captions.txt: line 1 is not UTF-8"),
    "surrogate in UTF-8": (_captions(lambda old: old + b"0.jpg,\xed\xa0\x80\n"), "captions.txt: line 10 is not UTF-8"),
    "overlong UTF-8": (_captions(lambda old: old + b"0.jpg,\xc0\xaf\n"), "captions.txt: line 10 is not UTF-8"),
    "cut in a character": (_captions(lambda old: old + b"0.jpg,caf\xc3"), "captions.txt: line 10 is not UTF-8"),
    "header twice": (_captions(lambda old: b"image,caption\n" + old), "captions.txt: holds 9 captions"),
    "mark twice": (_captions(lambda old: 2 * b"\xef\xbb\xbf" + old), "captions.txt: holds 9 captions"),
    "a line too many": (_captions(lambda old: old + b"0.jpg,more\n"), "captions.txt: holds 9 captions .* 8 rows"),
    "semicolons": (_captions(lambda old: old.replace(b",", b";")), r"captions.txt: 9 line\(s\) without a sep"),
    "quoted names": (_name(b'"1.jpg"'), r"captions.txt: 2 caption\(s\) name .*row 2 '\"1.jpg\"', row 6"),
    "NUL in a name": (_name(b"1\0.jpg"), r"captions.txt: 2 caption\(s\) name .*row 2 '1\\x00.jpg'"),
    "name of another case": (_name(b"1.JPEG.jpg"), r"captions.txt: 2 caption\(s\) name .*row 2 '1.JPEG.jpg'"),
    "name of 10 MB": (_name(b"x" * 10 * MEGABYTE), r"captions.txt: 2 caption\(s\) name .*xx\.\.\. \(10485768 char"),
    "line of 10 MB without a separator": (
        _captions(lambda old: old + b"x" * 10 * MEGABYTE),
        r"captions.txt: 1 line\(s\) without a separator: 10 ",
    ),
    "very many empty lines": (_captions(lambda old: old + b"\n" * 99_999), r"captions.txt: 99999 line\(s\) empty: 10,"),
}


@pytest.mark.parametrize(
    ("table", "case"),
    [(table, case) for table in ("BAD_ARRAYS", "BAD_ARCHIVES", "BAD_CAPTIONS") for case in globals()[table]],
)
def test_bad_files_are_refused_in_little_memory_and_time(files, load, table, case):
    make, message = globals()[table][case]
    if table == "BAD_ARRAYS":
        make(files)
    files.write()
    if table != "BAD_ARRAYS":
        make(files)
    _refused(lambda: load(files.folder), message, files.folder)


def _refused(load, message, path):
    """A load must raise a DataError that holds `message`, the path and a remedy, within bounds."""
    started = time.monotonic()
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=message) as caught:
            load()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.monotonic() - started < SECONDS
    assert peak < BYTES
    text = str(caught.value)
    assert text.startswith(str(path)) and REMEDY.search(text.removeprefix(str(path)))
    assert len(text) < 12_000


BAD_QUERIES = {
    "ids beyond int64": (change(IDS, lambda a: a.astype(np.uint64)), f"'{IDS}' is uint64 of .*: integers"),
    "ids of truth values": (change(IDS, lambda a: a > 0), f"'{IDS}' is bool of .*: integers"),
    "ids of fractions": (change(IDS, lambda a: a + 0.5), f"'{IDS}' is float64 of .*: integers"),
    "structured ids": (store(IDS, np.zeros(8, STRUCTURED)), rf"'{IDS}' is \[\('x'"),
    "fewer ids": (change(IDS, lambda a: a[:-1]), rf"'{IDS}' is int64 of shape \(7,\): .* \(n_captions=8\)"),
    "ids of all twice": (change(IDS, lambda a: a // 2), rf"'{IDS}' holds 4 more than once: 0, 1, 2, 3\."),
    "infinity in the last row": (put(TEXT, (7, 0), -np.inf), rf"'{TEXT}' has 1 row\(s\) .*: 7 "),
    "fewer texts": (change("captions/text", lambda a: a[:-1]), r"'captions/text' is <U\d+ of shape \(7,\)"),
    "texts of bytes": (change("captions/text", lambda a: a.astype("S")), r"'captions/text' is \|S"),
    "count that disagrees": (store("metadata/num_captions", np.array([7])), "'metadata/num_captions' says 7"),
}


@pytest.mark.parametrize("case", BAD_QUERIES)
def test_bad_queries_are_refused(files, case):
    make, message = BAD_QUERIES[case]
    files.use_queries()
    make(files)
    files.write()
    _refused(lambda: load_queries(files.npz, text_dim=TEXT_DIM), message, files.npz)


def test_queries_beyond_memory_are_refused_by_their_header(files):
    files.use_queries()
    n_queries = WHOLE_LIMIT // (4 * TEXT_DIM) + 1
    files.drop("metadata/num_captions", "captions/text", IDS, TEXT)
    files.write()
    promise(files.npz, IDS, (n_queries,), "<i8")
    promise(files.npz, TEXT, (n_queries, TEXT_DIM))
    message = f"'{TEXT}' holds {4 * n_queries * TEXT_DIM} bytes, of which {WHOLE_LIMIT} may be read whole: split"
    _refused(lambda: load_queries(files.npz, text_dim=TEXT_DIM), message, files.npz)


def _byte_order_mark(files):
    files.captions.write_bytes(b"\xef\xbb\xbf" + files.captions.read_bytes().replace(b"\n", b"\r\n"))


def _something_before_the_zip(files):
    files.npz.write_bytes(b"#!/bin/sh\nexit\n" + files.npz.read_bytes())


def _members_elsewhere(files):
    hostile = {"../../outside.npy": npy_bytes(np.arange(3)), "/outside.npy": b"no npy", "../objects.npy": b""}
    _repack(files, lambda members: members | hostile)


def _long_caption(files):
    _captions(lambda old: old.replace(b"caption 3", b"x" * 10 * MEGABYTE))(files)


@pytest.mark.parametrize("make", [_byte_order_mark, _something_before_the_zip, _members_elsewhere, _long_caption])
def test_odd_but_harmless_files_are_read(files, load, make, tmp_path):
    files.write()
    make(files)
    data = load(files.folder)
    assert data.targets.tolist() == TARGETS.tolist()
    np.testing.assert_array_equal(data.text, files.arrays[TEXT])
    assert len(data.captions) == N_CAPTIONS and data.captions[0] == "caption 0, with a comma"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "data"]
    assert not list(tmp_path.parent.glob("outside*"))


def test_long_cases_are_cut_in_messages():
    assert first_five(["x" * 80, "y" * 81]) == f"{'x' * 80}, {'y' * 80}... (81 characters)"


@cache
def _valid(folder, stored, queries):
    """(npz, captions) as bytes: what the fuzzers damage."""
    files = DataFiles(folder)
    if queries:
        files.use_queries()
    files.write()
    if stored:
        np.savez(files.npz, **files.arrays)
    return files.npz.read_bytes(), None if queries else files.captions.read_bytes()


PLACE = st.floats(0, 1, exclude_max=True)
STRUCTURES = re.compile(b"PK\x01\x02|PK\x03\x04|PK\x05\x06|\x93NUMPY")
EDIT = st.one_of(
    st.tuples(st.just("flip"), PLACE, st.integers(0, 7)),
    st.tuples(st.just("flip in a structure"), PLACE, st.integers(0, 799)),
    st.tuples(st.just("overwrite"), PLACE, st.binary(min_size=1, max_size=8)),
    st.tuples(st.just("insert"), PLACE, st.binary(min_size=1, max_size=8)),
    st.tuples(st.just("cut"), PLACE, st.integers(1, 64)),
    st.tuples(st.just("truncate"), PLACE, st.none()),
    st.tuples(st.just("splice"), PLACE, st.tuples(PLACE, st.integers(1, 64))),
)


def _damage(content, edits):
    """The content after edits; places are fractions of its length, or choose among its headers."""
    content = bytearray(content)
    for kind, place, what in edits:
        at = int(place * len(content))
        if kind == "flip in a structure":
            starts = [match.start() for match in STRUCTURES.finditer(content)] or [0]
            at, what = starts[int(place * len(starts))] + what // 8, what % 8
        if kind.startswith("flip") and at < len(content):
            content[at] ^= 1 << what
        elif kind == "overwrite":
            content[at : at + len(what)] = what
        elif kind == "insert":
            content[at:at] = what
        elif kind == "cut":
            del content[at : at + what]
        elif kind == "truncate":
            del content[at:]
        elif kind == "splice":
            start = int(what[0] * len(content))
            content[at : at + what[1]] = content[start : start + what[1]]
    return bytes(content)


def _loads_or_is_refused(folder, train, captions):
    """Either data of the right shapes, or a DataError that names the folder."""
    (folder / "train.npz").write_bytes(train)
    if captions is not None:
        (folder / "captions.txt").write_bytes(captions)
    try:
        if captions is None:
            text = load_queries(folder / "train.npz", text_dim=TEXT_DIM).text
        else:
            text = load_pairs(folder, text_dim=TEXT_DIM, image_dim=IMAGE_DIM, cache_dir=folder / "cache").text
    except DataError as error:
        assert str(folder) in str(error) and REMEDY.search(str(error))
    else:
        assert text.shape[1] == TEXT_DIM and np.isfinite(text).all()
    shutil.rmtree(folder / "cache", ignore_errors=True)


def fuzzed(examples):
    return settings(
        max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
    )


@pytest.mark.slow
@fuzzed(350)
@given(edits=st.lists(EDIT, min_size=1, max_size=4), stored=st.booleans(), queries=st.booleans())
def test_a_damaged_npz_is_read_or_refused(tmp_path, edits, stored, queries):
    train, captions = _valid(tmp_path / "valid", stored, queries)
    _loads_or_is_refused(tmp_path, _damage(train, edits), captions)


@pytest.mark.slow
@fuzzed(150)
@given(edits=st.lists(EDIT, min_size=1, max_size=4))
def test_damaged_captions_are_read_or_refused(tmp_path, edits):
    train, captions = _valid(tmp_path / "valid", False, False)
    _loads_or_is_refused(tmp_path, train, _damage(captions, edits))


@fuzzed(100)
@given(content=st.binary(max_size=300), magic=st.sampled_from([None, b"", b"PK\x03\x04", b"PK\x05\x06"]))
def test_random_bytes_are_read_or_refused(tmp_path, content, magic):
    train, captions = _valid(tmp_path / "valid", False, False)
    if magic is None:
        captions = content
    else:
        train = magic + content
    _loads_or_is_refused(tmp_path, train, captions)
