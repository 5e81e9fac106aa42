"""The benchmark of indexes: what is measured, what stays from an earlier call, and its command line."""

from __future__ import annotations

import json
import re
import sys

import pytest

from benchmarks import common
from helpers.data.synthetic import write_synthetic

indexes = pytest.importorskip("benchmarks.indexes", reason="needs faiss", exc_type=ImportError)


@pytest.fixture(autouse=True)
def tiny(monkeypatch, tmp_path):
    monkeypatch.setitem(indexes.SIZES, "small", {"vectors": 300, "width": 8, "queries": 5})
    monkeypatch.setattr(common, "RESULTS_DIR", tmp_path)
    monkeypatch.setattr(indexes, "QUERIES", 20)


@pytest.fixture
def call(monkeypatch, tmp_path):
    """Calls the benchmark; returns the rows of a result by their kind."""

    def call(size, *arguments):
        monkeypatch.setattr(sys, "argv", ["indexes", *arguments])
        indexes.main()
        return {row["kind"]: row for row in json.loads((tmp_path / f"indexes_{size}.json").read_text())["rows"]}

    return call


@pytest.fixture
def photos(tmp_path):
    return write_synthetic(tmp_path / "photos", n_images=60, text_dim=12, image_dim=16)


def test_only_the_kinds_that_are_asked_for_are_measured_and_the_others_stay(call, photos, tmp_path):
    for size, where in (("small", ()), ("photos", ("--data-dir", str(photos)))):
        assert list(call(size, *where, "--only", "int8")) == ["int8"]
        path = tmp_path / f"indexes_{size}.json"
        marked = json.loads(path.read_text())
        marked["rows"][0]["mark"] = "measured before"
        path.write_text(json.dumps(marked))
        rows = call(size, *where, "--only", "flat")
        assert list(rows) == ["flat", "int8"] and rows["int8"]["mark"] == "measured before"


def test_what_was_measured_with_other_queries_does_not_stay(call, photos, monkeypatch):
    call("photos", "--data-dir", str(photos), "--only", "int8")
    monkeypatch.setattr(indexes, "QUERIES", 10)
    assert list(call("photos", "--data-dir", str(photos), "--only", "flat")) == ["flat"]


@pytest.mark.parametrize("arguments", [["--device", "cpu"], ["--size", "small", "--data-dir", "photos"]])
def test_an_option_that_would_change_nothing_is_refused(call, arguments, capsys):
    with pytest.raises(SystemExit):
        call("small", *arguments)
    assert re.search("unrecognized arguments: --device cpu|not allowed with argument --size", capsys.readouterr().err)
