"""The challenge's CSV: exact round trips, atomic writes, and every way to be wrong."""

import csv
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from helpers.errors import SubmissionError
from helpers.serving.submission import check_submission, read_submission, write_submission
from helpers.system import files

IDS = np.array([1, 2, 7])
ROWS = np.array([[0.1, -2.0, 1e-30], [3.0, -0.0, 0.5], [1 / 3, 1e30, 4.0]], np.float32)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "submission.csv"


def test_the_format_is_that_of_the_challenge(path):
    write_submission(path, IDS, ROWS)
    assert path.read_bytes().splitlines()[:2] == [b"id,embedding", b'1,"[0.1, -2.0, 1e-30]"']
    with path.open(newline="") as file:
        cells = [json.loads(row["embedding"]) for row in csv.DictReader(file)]
    assert [len(cell) for cell in cells] == [3, 3, 3]
    check_submission(path, IDS, ROWS)


def test_a_row_wider_than_the_csv_module_reads_by_itself_comes_back(path):
    rows = np.random.default_rng(0).normal(size=(2, 20_000)).astype(np.float32)
    before = csv.field_size_limit()
    write_submission(path, IDS[:2], rows)
    assert len(path.read_text().splitlines()[1]) > before
    check_submission(path, IDS[:2], rows)
    assert csv.field_size_limit() == before


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(rows=arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=5), elements=FLOATS))
def test_every_float32_comes_back_bit_for_bit(tmp_path_factory, rows):
    rows[:, 0] = np.where(rows.any(axis=1), rows[:, 0], 1)
    path = tmp_path_factory.mktemp("submission") / "a.csv"
    ids = np.arange(len(rows))
    write_submission(path, ids, rows)
    found_ids, found = read_submission(path)
    assert found_ids.dtype == np.int64 and found.dtype == np.float32
    np.testing.assert_array_equal(found_ids, ids)
    np.testing.assert_array_equal(found.view(np.uint32), rows.view(np.uint32))


def _with(value, where):
    rows = ROWS.copy()
    rows[where] = value
    return rows


@pytest.mark.parametrize(
    ("ids", "rows", "message"),
    [
        (IDS, _with(np.nan, (1, 0)), r"1 row\(s\) are not finite in float32: ids 2"),
        (IDS, ROWS.astype(float) * 1e200, r"3 row\(s\) are not finite in float32: ids 1, 2, 7"),
        (IDS, _with(0, 2), r"1 row\(s\) are zero vectors: ids 7"),
        (IDS[:2], ROWS, "2 ids for 3 embeddings"),
        (np.array([4, 4, 5]), ROWS, r"1 id\(s\) more than once: 4"),
        (np.array([1, 2**63 + 5, 3], np.uint64), ROWS, "id 9223372036854775813 is beyond 9223372036854775807"),
        (IDS.astype(float), ROWS, "ids are float64"),
        (IDS[:, None], ROWS, r"ids are int64 of shape \(3, 1\)"),
        (IDS, ROWS[0], r"embeddings are float32 of shape \(3,\)"),
        (IDS[:0], ROWS[:0], r"of shape \(0, 3\)"),
        (IDS, np.ones((3, 3), int), "embeddings are int64"),
    ],
)
def test_bad_arrays_leave_the_earlier_file_alone(path, ids, rows, message):
    write_submission(path, IDS, ROWS)
    before = path.read_bytes()
    with pytest.raises(SubmissionError, match=message) as caught:
        write_submission(path, ids, rows)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before


def test_a_write_that_fails_leaves_the_earlier_file_and_nothing_else(path, monkeypatch):
    write_submission(path, IDS, ROWS)
    before = path.read_bytes()

    def fail(_):
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_submission(path, IDS, ROWS * 2)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the first line is not the header 'id,embedding'"),
        (b'1,"[1.0]"\n', "the first line is not the header"),
        (b"id,embedding\n", "holds no row"),
        (b"id,embedding\n1,[1.0, 2.0]\n", "line 2 is not an id and a quoted JSON list"),
        (b'id,embedding\nx,"[1.0]"\n', "line 2 is not an id"),
        (b'id,embedding\n1,"[1.0"\n', "line 2 is not an id"),
        (b'id,embedding\n1,"{}"\n', "line 2 .*no list of numbers"),
        (b'id,embedding\n1,"[true]"\n', "line 2 .*no list of numbers"),
        (b'id,embedding\n1,"[1.0]"\n2,"[1.0, 2.0]"\n', "line 3 holds 2 numbers, the first row 1"),
        (b'id,embedding\n1,"[NaN]"\n', r"1 row\(s\) are not finite"),
        (b'id,embedding\n1,"[0]"\n', r"1 row\(s\) are zero vectors"),
        (b'id,embedding\n1,"[1]"\n1,"[2]"\n', r"1 id\(s\) more than once: 1"),
        (b'id,embedding\n1,"[1]"x\n', "is not a CSV file"),
        (b'id,embedding\n1,"[\xff]"\n', "is not a CSV file in UTF-8"),
    ],
)
def test_files_that_are_no_submission(path, content, message):
    path.write_bytes(content)
    with pytest.raises(SubmissionError, match=message) as caught:
        read_submission(path)
    assert str(path) in str(caught.value)


def test_a_missing_file(path):
    with pytest.raises(SubmissionError, match="cannot be read"):
        read_submission(path)


@pytest.mark.parametrize(
    ("ids", "rows", "message"),
    [
        (IDS[::-1], ROWS, r"2 id\(s\) differ: 1 for 7, 7 for 1"),
        (IDS[:2], ROWS[:2], r"of shape \(3, 3\), not \(2, 3\)"),
        (IDS, ROWS[:, :2], r"of shape \(3, 3\), not \(3, 2\)"),
        (IDS, _with(0.10000001, (0, 0)), r"1 value\(s\) differ, in the rows of ids 1\."),
    ],
)
def test_check_names_what_differs(path, ids, rows, message):
    write_submission(path, IDS, ROWS)
    with pytest.raises(SubmissionError, match=message):
        check_submission(path, ids, rows)
