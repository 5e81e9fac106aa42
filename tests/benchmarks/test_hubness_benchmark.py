"""Published hubness corrections against their formulas written out, and how the benchmark chooses among them."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from benchmarks import corrections, hubness, protocol
from benchmarks.baselines import METHODS
from benchmarks.baselines.closed import ClosedForm, grid, solve_cca
from benchmarks.corrections import CORRECTIONS, Correction, Scene
from benchmarks.store import Store
from helpers.data.pairs import load_pairs
from helpers.data.synthetic import write_synthetic
from helpers.models import cca

BY_NAME = {correction.name: correction for correction in CORRECTIONS}


def scene_of(seed: int = 0) -> Scene:
    """Forty queries and twenty images, some of which are near to nearly every query."""
    generator = torch.Generator().manual_seed(seed)
    hub = torch.randn(6, generator=generator)
    gallery = torch.randn(20, 6, generator=generator)
    gallery[:4] += 2 * hub
    positive = torch.arange(40) % 20
    queries, bank = (gallery[positive] + hub + torch.randn(40, 6, generator=generator) for _ in range(2))
    images = torch.randn(15, 6, generator=generator) + hub
    return Scene(normalize(queries), normalize(gallery), positive, normalize(bank), normalize(images))


@pytest.fixture(scope="module")
def scene() -> Scene:
    return scene_of()


def cosines(a: torch.Tensor, b: torch.Tensor) -> np.ndarray:
    return (a.double() @ b.double().T).numpy()


def beta_of(bank: torch.Tensor, images: torch.Tensor) -> float:
    """One over the mean standard deviation of a row of cosines."""
    return 1 / float(np.mean([np.std(row) for row in cosines(bank, images)]))


def ranks_of(scores: np.ndarray, positive: torch.Tensor) -> list[float]:
    return [1 + sum(other > row[t] for other in row) for row, t in zip(scores, positive.tolist(), strict=True)]


def naive_inverted_softmax(scene: Scene, beta: float) -> np.ndarray:
    e, bank = (
        np.exp(beta * cosines(scene.queries, scene.gallery)),
        np.exp(beta * cosines(scene.query_bank, scene.gallery)),
    )
    return np.array([[e[i][j] / sum(row[j] for row in bank) for j in range(20)] for i in range(40)])


@pytest.mark.parametrize("sharpness", [1.0, 4.0])
def test_inverted_softmax(scene, sharpness):
    scores = naive_inverted_softmax(scene, sharpness * beta_of(scene.query_bank, scene.gallery_bank))
    found = corrections.inverted_softmax(scene, {"sharpness": sharpness}).tolist()
    assert found == ranks_of(scores, scene.positive)
    assert found != scene.ranks().tolist()


@pytest.mark.parametrize("nearest", [1, 3])
def test_qb_norm_corrects_a_query_only_where_its_nearest_image_is_in_the_activation_set(scene, nearest):
    scene = replace(scene, query_bank=scene.query_bank[:6])  # not every image is near to some caption of a small bank
    beta = 3 * beta_of(scene.query_bank, scene.gallery_bank)
    active = {int(j) for row in cosines(scene.query_bank, scene.gallery) for j in np.argsort(-row)[:nearest]}
    plain, corrected = cosines(scene.queries, scene.gallery), naive_inverted_softmax(scene, beta)
    scores = np.array([c if int(np.argmax(p)) in active else p for p, c in zip(plain, corrected, strict=True)])
    expected = ranks_of(scores, scene.positive)
    assert corrections.qb_norm(scene, {"sharpness": 3.0, "nearest": nearest}).tolist() == expected
    if nearest == 1:
        assert expected not in (ranks_of(plain, scene.positive), ranks_of(corrected, scene.positive))


@pytest.mark.parametrize(("alpha", "nearest"), [(0.75, 5), (0.5, 500)])
def test_nnn_subtracts_a_share_of_the_mean_of_the_best_scores_in_the_bank(scene, alpha, nearest):
    scores, bank = cosines(scene.queries, scene.gallery), cosines(scene.query_bank, scene.gallery)
    for j in range(20):
        scores[:, j] -= alpha * np.mean(sorted(bank[:, j])[-nearest:])
    found = corrections.nnn(scene, {"alpha": alpha, "nearest": nearest}).tolist()
    assert found == ranks_of(scores, scene.positive)


def test_dual_is_multiplies_the_inverted_softmaxes_of_both_banks(scene):
    of_queries = 2 * beta_of(scene.query_bank, scene.gallery_bank)
    of_images = 0.5 * beta_of(scene.gallery_bank, scene.gallery_bank)
    second = replace(scene, query_bank=scene.gallery_bank)
    scores = naive_inverted_softmax(scene, of_queries) * naive_inverted_softmax(second, of_images)
    found = corrections.dual_is(scene, {"sharpness": 2.0, "gallery_sharpness": 0.5}).tolist()
    assert found == ranks_of(scores, scene.positive)


def naive_sinkhorn(bank: np.ndarray, beta: float, iterations: int) -> np.ndarray:
    """(columns,) factors by which every row and column of exp(beta bank) comes to equal sums, the columns last."""
    e = np.exp(beta * bank)
    rows, columns = np.ones(len(e)), np.ones(e.shape[1])
    for _ in range(iterations):
        for i in range(len(rows)):
            rows[i] = 1 / sum(e[i] * columns)
        for j in range(len(columns)):
            columns[j] = len(rows) / len(columns) / sum(e[:, j] * rows)
    return columns


@pytest.mark.parametrize("name", ["sn", "dbsn", "judged"])
@pytest.mark.parametrize("iterations", [1, 5])
def test_sinkhorn_over_the_query_bank_both_banks_or_the_judged_captions(scene, name, iterations):
    beta = 3 * beta_of(scene.query_bank, scene.gallery_bank)
    balanced = {
        "sn": cosines(scene.query_bank, scene.gallery),
        "dbsn": cosines(scene.query_bank, torch.cat([scene.gallery, scene.gallery_bank])),
        "judged": cosines(scene.queries, scene.gallery),
    }[name]
    scores = np.exp(beta * cosines(scene.queries, scene.gallery)) * naive_sinkhorn(balanced, beta, iterations)[:20]
    found = BY_NAME[name].ranks(scene, {"sharpness": 3.0, "iterations": iterations}).tolist()
    assert found == ranks_of(scores, scene.positive)


def test_ours_is_two_iterations_over_the_query_bank_at_a_sharpness_of_three(scene):
    expected = corrections.sinkhorn(scene, {"sharpness": 3.0, "iterations": 2.0})
    assert corrections.ours(scene, {}).tolist() == expected.tolist()


def test_every_correction_but_the_marked_one_ranks_a_query_the_same_whatever_the_others_are(scene):
    alone = replace(scene, queries=scene.queries[:1], positive=scene.positive[:1])
    for correction in CORRECTIONS:
        setting = correction.settings[-1]
        same = correction.ranks(alone, setting)[0] == correction.ranks(scene, setting)[0]
        assert same or correction.transductive, correction.name
    assert [c.name for c in CORRECTIONS if c.transductive] == ["judged"]


def test_settings_are_chosen_on_the_fold_and_scored_once():
    fold, scored, seen = scene_of(1), scene_of(2), []

    def ranks(scene: Scene, setting: dict) -> np.ndarray:
        seen.append((scene is scored, setting["x"]))
        best = 3 if scene is fold else 1  # another setting would be best where it is scored
        return np.full(len(scene.positive), 1.0 + abs(setting["x"] - best))

    tried = Correction("tried", "tried", ranks, grid(x=(1.0, 2.0, 3.0)))
    last = replace(tried, name="last", ranks=lambda scene, setting: np.ones(len(scene.positive)), transductive=True)
    first, second = hubness.corrected(fold, scored, [last, tried])
    assert seen == [(False, 1.0), (False, 2.0), (False, 3.0), (True, 3.0)]
    assert (first["correction"], first["setting"], first["fold_mrr"]) == ("tried", {"x": 3.0}, 1.0)
    assert first["mrr"] == pytest.approx(1 / 3) and second["mrr"] == 1.0  # the marked one stands last all the same
    assert second["model"].endswith("(uses the other judged captions)")
    assert math.isclose(first["difference"], first["mrr"] - float(np.mean(1 / scored.ranks())))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hubness")
    return load_pairs(
        write_synthetic(folder / "data", n_images=60, text_dim=12, image_dim=16), cache_dir=folder / "cache"
    )


def test_the_benchmark_writes_a_table_a_translator_and_shares_the_searches_of_the_comparison(data, tmp_path, capsys):
    methods = [ClosedForm("cca", solve_cca, cca.GRID[:2]), METHODS["csa_two_sided"]]
    options = argparse.Namespace(results_dir=tmp_path, split=0)
    hubness.compare(data, "tiny", methods, options)
    written = json.loads((tmp_path / "hubness_tiny.json").read_text())
    assert list(written["translators"]) == ["cca", "csa_two_sided"]
    for name, rows in written["translators"].items():
        assert {row["correction"] for row in rows} == set(BY_NAME)
        cosine = next(row for row in rows if row["correction"] == "cosine")
        assert cosine["difference"] == 0
        method = next(method for method in methods if method.name == name)
        problem = protocol.make_problem(data, 0, torch.device("cpu"))
        run = protocol.final_run(method, problem, 0, Store(tmp_path / "accuracy" / "tiny.npz"))
        assert cosine["mrr"] == pytest.approx(run["mrr"])
        ours = next(row for row in rows if row["correction"] == "ours")
        assert ours["mrr"] == pytest.approx(run["hubness_mrr"])
    kinds = [row["kind"] for row in Store(tmp_path / "accuracy" / "tiny.npz").rows().values()]
    assert kinds.count("search") == 2
    assert "uses the other judged captions" in capsys.readouterr().out


def test_data_that_are_not_there_are_named_in_a_line(tmp_path):
    with pytest.raises(SystemExit, match="^error: .*train.npz: no such file"):
        hubness.main(["--data-dir", str(tmp_path), "--results-dir", str(tmp_path)])


def test_a_scene_places_both_sides_as_its_method_does():
    train = SimpleNamespace(text=torch.randn(5, 3), images=torch.randn(4, 3), device=torch.device("cpu"))
    moved = SimpleNamespace(predict=lambda text: 2 * text, images=lambda images: -images)
    text, gallery = torch.randn(6, 3), torch.randn(2, 3)
    scene = Scene.of(moved, train, text, gallery, torch.zeros(6, dtype=torch.long))
    for found, expected in (
        (scene.queries, text),
        (scene.gallery, -gallery),
        (scene.query_bank, train.text),
        (scene.gallery_bank, -train.images),
    ):
        torch.testing.assert_close(found, normalize(expected, dim=-1))
