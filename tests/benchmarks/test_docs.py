"""Tables are put between their markers, and nowhere else."""

from __future__ import annotations

import json

import pytest

from benchmarks import accuracy_docs, common, docs


def test_a_marked_table_is_replaced_and_nothing_else():
    text = "a\n<!-- table: one -->\nold\n<!-- end -->\nb\n<!-- table: two -->\n<!-- end -->\n"
    expected = "a\n<!-- table: one -->\n| 1 |\n<!-- end -->\nb\n<!-- table: two -->\n| 2 |\n<!-- end -->\n"
    assert docs.filled(text, {"one": "| 1 |", "two": "| 2 |"}) == expected
    with pytest.raises(KeyError, match="two"):
        docs.filled(text, {"one": "| 1 |"})


def test_pages_that_are_written_again_do_not_change(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("<!-- table: step -->\nold\n<!-- end -->\n", encoding="utf-8")
    monkeypatch.setattr(docs, "PAGES", (page,))
    docs.main()
    written = page.read_text(encoding="utf-8")
    assert "old" not in written and "bare matrix products" in written
    docs.main()
    assert page.read_text(encoding="utf-8") == written


def test_the_table_of_accuracy_has_every_measured_method_the_best_first():
    path = common.RESULTS_DIR / "accuracy_flickr8k_split_0_1_2_5_seeds_cuda.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    lines = accuracy_docs.accuracy_table(rows).splitlines()[2:]
    scores = [float(line.split(" | ")[1][:5]) for line in lines]
    assert len(lines) == len(rows) and scores == sorted(scores, reverse=True)


def test_a_table_by_size_refuses_results_where_another_method_is_best():
    row = {"model": "cca", "mrr": 0.3}
    with pytest.raises(ValueError, match="100 photos: cca is best"):
        accuracy_docs.sizes_table({"100": [row, row]})
