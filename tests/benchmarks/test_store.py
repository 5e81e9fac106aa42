"""The tables of runs: what is added comes back, nobody's rows are lost, and any program can read them."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from benchmarks import common
from benchmarks.store import COLUMNS, Store


def run_of(method: str, **more: object) -> dict:
    return {"kind": "run", "method": method, "split": 0, "seed": 1, "mrr": 0.1 + 0.2, **more}


def test_a_row_comes_back_as_it_was_and_has_none_where_it_has_no_value(tmp_path):
    path = tmp_path / "not" / "there.npz"
    chosen = {"epochs": 3, "history": [{"mrr": 0.1}], "rate": 1e-5}
    Store(path).once("a", lambda: {"kind": "search", "method": "cca", "chosen": chosen})
    Store(path).once("b", lambda: run_of("cca", geometry_free=[], seed=0))
    search, run = Store(path).rows().values()
    assert search["chosen"] == chosen and search["seed"] is search["mrr"] is search["ranks"] is None
    assert (run["mrr"], run["seed"], run["geometry_free"], run["chosen"]) == (0.1 + 0.2, 0, [], None)
    assert list(search) == list(run) == list(COLUMNS)


def test_ranks_are_kept_to_the_half_whatever_their_number(tmp_path):
    store, rng = Store(tmp_path / "table.npz"), np.random.default_rng(0)
    ranks = {"a": rng.integers(2, 200, 50) / 2, "b": rng.integers(2, 2_000_000, 30) / 2}
    for key, of_one in ranks.items():
        store.once(key, lambda of_one=of_one: run_of("cca", ranks=of_one, hubness_ranks=of_one[::-1]))
        store.once(f"{key} without", lambda: run_of("cca"))
    for key, of_one in ranks.items():
        assert np.array_equal(store.load(key)["ranks"], of_one)
        assert np.array_equal(store.load(key)["hubness_ranks"], of_one[::-1])
        assert store.load(f"{key} without")["ranks"] is None


def test_what_is_there_is_not_computed_again(tmp_path):
    first = Store(tmp_path / "table.npz").once("a", lambda: run_of("cca"))
    assert Store(tmp_path / "table.npz").once("a", pytest.fail) == first


def test_a_store_sees_what_another_has_added_and_the_first_of_two_results_stays(tmp_path):
    one, other = Store(tmp_path / "table.npz"), Store(tmp_path / "table.npz")
    assert one.load("a") is None

    def slow() -> dict:
        other.once("a", lambda: run_of("quick"))
        other.once("b", lambda: run_of("other"))
        return run_of("slow")

    assert one.once("a", slow)["method"] == "quick"
    assert list(one.rows()) == list(other.rows()) == ["a", "b"]


def _add_ten(path: Path, name: str) -> None:
    for number in range(10):
        Store(path).once(f"{name} {number}", lambda: run_of(name))


@pytest.mark.slow
def test_processes_that_add_at_once_lose_no_row(tmp_path):
    context = multiprocessing.get_context("fork")  # a spawned one would import everything first
    workers = [context.Process(target=_add_ten, args=(tmp_path / "table.npz", name)) for name in "abc"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert {worker.exitcode for worker in workers} == {0}
    assert set(Store(tmp_path / "table.npz").rows()) == {f"{name} {number}" for name in "abc" for number in range(10)}


def test_a_write_that_fails_leaves_the_table_as_it_was(tmp_path, monkeypatch):
    store = Store(tmp_path / "table.npz")
    store.once("a", lambda: run_of("cca"))
    before = store.path.read_bytes()

    def full_disk(file, array, **options):
        file.write(b"half of a table")
        raise OSError("no space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full_disk)
    with pytest.raises(OSError, match="no space"):
        store.once("b", lambda: run_of("cca"))
    assert store.path.read_bytes() == before and list(store.rows()) == ["a"]
    assert [path for path in tmp_path.iterdir() if path.suffix == ".npz"] == [store.path]


def test_a_value_without_a_column_is_refused(tmp_path):
    with pytest.raises(ValueError, match="mmr: no column"):
        Store(tmp_path / "table.npz").once("a", lambda: run_of("cca", mmr=0.1))


@pytest.mark.parametrize("path", sorted(common.RESULTS_DIR.glob("*/*.npz")), ids=lambda path: path.stem)
def test_a_committed_table_is_plain_arrays_of_one_length_whose_scores_are_those_of_its_ranks(path):
    with np.load(path, allow_pickle=False) as table:
        columns = {name: table[name] for name in table.files}
    rows = len(columns["key"])
    assert all(len(values) == rows for name, values in columns.items() if not name.startswith("doubled_"))
    ends = np.cumsum(columns["n_ranks"])
    assert ends[-1] == len(columns["doubled_ranks"])
    for row in np.flatnonzero(columns["kind"] == "run"):
        ranks = columns["doubled_ranks"][ends[row] - columns["n_ranks"][row] : ends[row]] / 2
        assert np.mean(1 / ranks) == columns["mrr"][row]


def test_all_results_are_at_most_sixty_files_with_names_for_people():
    files = [path for path in common.RESULTS_DIR.rglob("*") if path.is_file() and not path.name.startswith(".")]
    assert 30 < len(files) <= 60
