"""npz archives, good and hostile."""

import tracemalloc
import zipfile

import numpy as np
import pytest
from data_files import npy_bytes, npy_header, promise, write_members
from hypothesis import given
from hypothesis import strategies as st

from helpers.data.npz import WHOLE_LIMIT, NpzReader
from helpers.errors import DataError, first_five

MATRIX = np.arange(60, dtype=np.float32).reshape(12, 5)


def _read_first(path):
    with NpzReader(path) as archive:
        return archive.read(archive.keys[0])


def _gathered(path, block_bytes):
    with NpzReader(path) as archive:
        parts = list(archive.blocks("matrix", block_bytes))
    return np.concatenate(parts), max(rows.nbytes for rows in parts)


def test_keys_headers_and_arrays(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, **{"captions/text": np.array(["é", "bc"]), "matrix": MATRIX, "scalar": np.int64(3)})
    with NpzReader(path) as archive:
        assert archive.keys == ("captions/text", "matrix", "scalar")
        assert archive.header("matrix") == ((12, 5), np.float32)
        assert archive.read("captions/text").tolist() == ["é", "bc"]
        assert archive.read("scalar") == 3
        np.testing.assert_array_equal(archive.read("matrix"), MATRIX)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("block_bytes", [1, 45, 10_000])
def test_blocks_are_the_rows_in_order_and_bounded(tmp_path, save, order, block_bytes):
    path = tmp_path / "a.npz"
    save(path, matrix=np.asarray(MATRIX, order=order))
    rows, largest = _gathered(path, block_bytes)
    np.testing.assert_array_equal(rows, MATRIX)
    assert largest <= max(block_bytes, MATRIX[0].nbytes)


@given(rows=st.integers(0, 9), columns=st.integers(0, 9), block_bytes=st.integers(1, 100))
def test_blocks_of_any_shape(tmp_path_factory, rows, columns, block_bytes):
    path = tmp_path_factory.mktemp("blocks") / "a.npz"
    matrix = np.arange(rows * columns, dtype=">i2").reshape(rows, columns)
    np.savez(path, matrix=matrix)
    with NpzReader(path) as archive:
        parts = list(archive.blocks("matrix", block_bytes))
    np.testing.assert_array_equal(np.concatenate([np.empty((0, columns)), *parts]), matrix)


def test_blocks_hold_memory_down(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, matrix=np.zeros((4000, 10_000), np.uint8))
    tracemalloc.start()
    with NpzReader(path) as archive:
        assert sum(len(rows) for rows in archive.blocks("matrix")) == 4000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2**20  # of 40 MB


def test_arrays_up_to_the_limit_are_read_whole(tmp_path):
    path = promise(tmp_path / "a.npz", "a", (WHOLE_LIMIT,), "|u1")
    with NpzReader(path) as archive, pytest.raises(DataError, match="'a' cannot be decompressed .*ends after"):
        archive.read("a")
    path = promise(tmp_path / "b.npz", "b", (WHOLE_LIMIT + 1,), "|u1")
    with (
        NpzReader(path) as archive,
        pytest.raises(DataError, match=f"'b' holds {WHOLE_LIMIT + 1} bytes.*split the file"),
    ):
        archive.read("b")


def test_column_major_arrays_beyond_the_limit_are_refused(tmp_path):
    path = promise(tmp_path / "a.npz", "matrix", (WHOLE_LIMIT, 2), "|u1", fortran_order=True)
    with NpzReader(path) as archive, pytest.raises(DataError, match="'matrix' holds .* bytes.*np.ascontiguousarray"):
        next(archive.blocks("matrix"))


def test_blocks_are_of_one_or_two_dimensions(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, scalar=np.int64(1), vector=np.arange(300), cube=np.zeros((2, 2, 2)))
    with NpzReader(path) as archive:
        blocks = list(archive.blocks("vector", block_bytes=800))
        assert [len(block) for block in blocks] == [100] * 3
        np.testing.assert_array_equal(np.concatenate(blocks), np.arange(300))
        for key, shape in (("scalar", r"\(\)"), ("cube", r"\(2, 2, 2\)")):
            with pytest.raises(DataError, match=f"'{key}' has shape {shape}: one or two dimensions"):
                next(archive.blocks(key))


def _flip_middle(path):
    content = bytearray(path.read_bytes())
    content[200] ^= 0xFF  # behind the headers, within the data
    path.write_bytes(content)


def _missing(path):
    pass


def _folder(path):
    path.mkdir()


def _empty_file(path):
    path.write_bytes(b"")


def _single_array(path):
    path.write_bytes(npy_bytes(MATRIX))


def _truncated(path):
    np.savez(path, a=MATRIX)
    path.write_bytes(path.read_bytes()[:-30])


def _flipped_stored(path):
    np.savez(path, a=np.ones(1000))
    _flip_middle(path)


def _flipped_deflated(path):
    np.savez_compressed(path, a=np.random.default_rng(0).random(1000))
    _flip_middle(path)


def _objects(path):
    np.savez(path, a=np.array([{"x": 1}], dtype=object))


def _no_npy(path):
    write_members(path, {"a": b"hello"})


def _broken_header(path):
    write_members(path, {"a": npy_bytes(MATRIX).replace(b"(12, 5)", b"(12, (5")})


def _promises_more(path):
    write_members(path, {"a": npy_header((10**9, 1024)) + bytes(100)})


def _promises_less(path):
    write_members(path, {"a": npy_header((1,)) + bytes(100)})


def _negative_shape(path):
    write_members(path, {"a": npy_header((-5, -5)) + bytes(100)})


def _directory_lies_deflated(path):
    promise(path, "a", (10**9, 1024))


def _directory_lies_stored(path):
    promise(path, "a", (10**9, 1024), compression=zipfile.ZIP_STORED)


def _directory_lies_twice(path):
    promise(path, "a", (10**8,), compression=zipfile.ZIP_STORED, n_bytes=50_000)
    content = path.read_bytes()
    entry = content.index(b"PK\x01\x02")
    sizes = content[entry + 24 : entry + 28]  # the second of two: of the array; the first: of what is stored
    path.write_bytes(content[: entry + 20] + sizes + content[entry + 24 :])


def _directory_lies_a_little(path):
    content = npy_header((2000,), "|u1") + bytes(1000)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", content)
        archive.infolist()[0].file_size = len(content) + 1000


def _other_compression(path):
    write_members(path, {"a": npy_bytes(MATRIX)}, zipfile.ZIP_BZIP2)


BAD_ARCHIVES = [
    (_missing, "no such file"),
    (_folder, "cannot be read"),
    (_empty_file, "is not an npz"),
    (_single_array, r"is not an npz \(it starts with .*np.savez"),
    (_truncated, "its end is missing or damaged"),
    (_flipped_stored, "'a' cannot be decompressed .*CRC"),
    (_flipped_deflated, "'a' cannot be decompressed"),
    (_objects, "'a' is an object array .*pickle, which can run code; re-save as plain arrays"),
    (_no_npy, "'a' has no valid npy header"),
    (_broken_header, "'a' has no valid npy header"),
    (_promises_more, "'a' promises 4096000000000 bytes .* but holds 100"),
    (_promises_less, "'a' promises 4 bytes .* but holds 100"),
    (_negative_shape, "'a' has no valid npy header .*non-negative"),
    (_directory_lies_deflated, f"'a' holds 4096000000000 bytes, of which {WHOLE_LIMIT} may be read"),
    (_directory_lies_stored, f"'a' holds 4096000000000 bytes, of which {WHOLE_LIMIT} may be read"),
    (_directory_lies_twice, "'a' cannot be decompressed"),
    (_directory_lies_a_little, "'a' cannot be decompressed"),
    (_other_compression, "'a' uses zip compression method 12"),
]


@pytest.mark.parametrize(("make", "message"), BAD_ARCHIVES, ids=lambda case: getattr(case, "__name__", ""))
def test_bad_archives_end_in_a_data_error_that_names_the_file(tmp_path, make, message):
    path = tmp_path / "bad.npz"
    make(path)
    tracemalloc.start()
    with pytest.raises(DataError, match=message) as caught:
        _read_first(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(caught.value).startswith(str(path)) and str(caught.value).count(str(path)) == 1
    assert peak < 2 * 2**20  # no promise of a header is ever allocated


def test_a_missing_key_lists_those_found(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, one=MATRIX, two=MATRIX)
    with NpzReader(path) as archive, pytest.raises(DataError, match=r"missing: three. Keys found: one, two\."):
        archive.header("three")


def test_first_five():
    assert first_five(range(5)) == "0, 1, 2, 3, 4"
    assert first_five(range(6)) == "0, 1, 2, 3, 4, ..."
