"""The comparison of methods: losses against naive loops, resuming, and no choice made on images that are scored."""

from __future__ import annotations

import argparse
import io
import json
import math
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch.nn.functional import normalize

from benchmarks import accuracy, accuracy_table, draw, protocol
from benchmarks.baselines import METHODS, losses
from benchmarks.baselines.closed import ClosedForm, fold_mrr, grid, solve_power
from benchmarks.baselines.method import SEARCH_SEED, Fitted
from benchmarks.store import Store
from helpers.data.duplicates import Grouped, duplicate_groups, near_duplicates
from helpers.data.pairs import PairedEmbeddings, load_pairs
from helpers.data.repeats import count_repeats
from helpers.data.split import make_split
from helpers.data.synthetic import write_synthetic
from helpers.evaluation import metrics
from helpers.system import bars as bar
from helpers.system.devices import seed_all
from helpers.training.loop import fit

CPU = torch.device("cpu")
OPTIONS = accuracy.parse(["--data-dir", "DIR", "--splits", "0", "--seeds", "1"])


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> PairedEmbeddings:
    folder = tmp_path_factory.mktemp("accuracy")
    source = write_synthetic(folder / "data", n_images=60, text_dim=12, image_dim=16)
    return load_pairs(source, cache_dir=folder / "cache")


@dataclass(frozen=True)
class Counting:
    """A method that counts its calls, and fails at a seed where told to."""

    calls: list
    strength: float = 1.0
    fails_at: int | None = None
    name: str = "counting"
    seeded: bool = True

    def metadata(self) -> dict:
        return {"strength": self.strength}

    def _fitted(self, data) -> Fitted:
        matrix = torch.linalg.lstsq(data.text, data.images[data.positive]).solution
        return Fitted(lambda text: text @ matrix, matrix.numel())

    def search(self, fold_data, train):
        self.calls.append("search")
        return {"strength": self.strength}

    def fit(self, data, chosen, seed):
        if seed == self.fails_at:
            raise KeyboardInterrupt
        self.calls.append(seed)
        assert len(data.val_text) == len(data.val_images) == len(data.val_positive) == 0
        return self._fitted(data)


def compare(data: PairedEmbeddings, methods: list, folder: Path, **options: object) -> list[dict]:
    options = {**vars(OPTIONS), "results_dir": folder / "results", **options}
    return accuracy.compare(data, "tiny", methods, argparse.Namespace(**options), CPU)


def unit(rows: int, width: int, seed: int, dtype=torch.float64) -> torch.Tensor:
    return normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=dtype), dim=-1)


OWN = torch.tensor([0, 3, 0, 2, 5, 3])


def test_triplet_equals_loops():
    z, bank = unit(6, 4, 0), unit(7, 4, 1)
    score = (z @ bank.T).tolist()
    images = OWN.tolist()
    expected = 0.0
    for i, positive in enumerate(images):
        wrong_images = [score[i][other] for other in images if other != positive]
        wrong_captions = [score[k][positive] for k, other in enumerate(images) if other != positive]
        expected += max(0.0, 0.2 + max(wrong_images) - score[i][positive])
        expected += max(0.0, 0.2 + max(wrong_captions) - score[i][positive])
    assert float(losses.hardest_negative_triplet(z, bank[OWN], OWN, 0.2)) == pytest.approx(expected, rel=1e-5)


def test_triplet_without_negatives_is_zero_and_finite():
    z = unit(3, 4, 0).requires_grad_()
    loss = losses.hardest_negative_triplet(z, unit(1, 4, 1).expand(3, 4), torch.zeros(3, dtype=torch.long), 0.2)
    loss.backward()
    assert loss.item() == 0 and z.grad.isfinite().all()


@pytest.mark.parametrize("tau", [0.3, 0.01])
def test_symmetric_infonce_equals_loops(tau):
    z, bank = unit(6, 4, 0, torch.float32), unit(7, 4, 1, torch.float32)
    e = (z.double() @ bank[OWN].double().T / tau).exp().tolist()  # caption by caption's image: images repeat
    images, terms = OWN.tolist(), []
    for scores in (e, list(zip(*e, strict=True))):
        for i, row in enumerate(scores):
            own = [-math.log(row[j] / sum(row)) for j, other in enumerate(images) if other == images[i]]
            terms.append(np.mean(own))
    assert float(losses.symmetric_infonce(z, bank, OWN, tau, torch.float32)) == pytest.approx(np.mean(terms), rel=1e-5)


def test_queue_infonce_equals_loops_and_leaves_out_the_own_image():
    z, bank, tau = unit(6, 4, 0, torch.float32), unit(7, 4, 1, torch.float32), torch.tensor(0.3)
    entries = [0, 0, 3, 6, 6, 1, 2]
    e = (z.double() @ bank.double().T / 0.3).exp().tolist()
    terms = []
    for i, positive in enumerate(OWN.tolist()):
        negatives = sum(e[i][u] for u in [*OWN.tolist(), *entries] if u != positive)
        terms.append(-math.log(e[i][positive] / (e[i][positive] + negatives)))
    counts = torch.bincount(torch.tensor(entries), minlength=7).float()
    loss = losses.queue_infonce(z, bank, OWN, counts, tau.requires_grad_(), torch.float32)
    assert loss.item() == pytest.approx(np.mean(terms), rel=1e-5)
    loss.backward()
    assert tau.grad.isfinite() and tau.grad != 0


@pytest.mark.slow
def test_smoke_runs_every_method(capsys):
    accuracy.main(["--smoke"])
    shown = capsys.readouterr().out
    assert all(f"{name}, split 0, seed 0" in shown for name in METHODS)


def test_figure_names_every_method():
    row = {"mrr": 0.4, "mrr_low": 0.38, "mrr_high": 0.42, "hubness_mrr": 0.45}
    row |= {"hubness_mrr_low": 0.43, "hubness_mrr_high": 0.47}
    rows = [{**row, "model": name} for name in METHODS]
    ax = draw.accuracy_dots(
        Figure().subplots(), {"rows": rows, "seeds": 3, "splits": [0], "gallery": 809, "data": {"name": "x"}}
    )
    assert [tick.get_text() for tick in ax.get_yticklabels()] == [draw.METHOD_LABELS[name] for name in METHODS]
    assert "3 seeds on 1 split" in ax.get_xlabel() and len(ax.get_lines()) == len(ax.collections) == 2 * len(rows)


def test_size_figure_draws_methods_that_its_first_and_last_size_have():
    row = {"mrr": 0.4, "mrr_low": 0.38, "mrr_high": 0.42}
    names = ["bigjump_plus", "cca", "ridge"]
    rows = [{**row, "model": name} for name in names]
    sizes = [(4000, rows), (500, rows[:2]), (1000, [*rows[1:], {**row, "model": "vse_mlp"}])]
    results = [
        {"rows": of_size, "train_images": n, "seeds": 3, "gallery": 809, "data": {"name": "x"}} for n, of_size in sizes
    ]
    ax = draw.size_curves(Figure().subplots(), results)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["500", "1,000", "4,000"]
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["BigJump plus: 0.400 to 0.400", "Weighted CCA: 0.400 to 0.400"]
    assert [line.get_xdata().tolist() for line in ax.get_lines()] == [[500, 4000], [500, 1000, 4000]]


@pytest.mark.slow
def test_second_call_computes_nothing_and_an_interrupted_one_goes_on(data, tmp_path):
    calls: list = []
    with pytest.raises(KeyboardInterrupt):
        compare(data, [Counting(calls, fails_at=1)], tmp_path, seeds=3)
    assert calls == ["search", 0]
    first = compare(data, [Counting(calls)], tmp_path, seeds=3)
    assert calls == ["search", 0, 1, 2]
    assert compare(data, [Counting(calls)], tmp_path, seeds=3) == first
    assert calls == ["search", 0, 1, 2]


@dataclass(frozen=True)
class Moving(Counting):
    """A method that knows nothing of captions but moves every image to one place, or to its mirror image."""

    name: str = "moving"
    mirrored: bool = True

    def _fitted(self, data) -> Fitted:
        fitted = super()._fitted(data)
        if not self.mirrored:
            return fitted
        return Fitted(lambda text: -fitted.predict(text), fitted.parameters, lambda images: -3 * images)


def test_a_two_sided_method_is_judged_where_it_moves_the_gallery_and_stands_below_translators(data, tmp_path, capsys):
    methods = [Moving([]), Counting([], name="worse"), Moving([], name="same", mirrored=False)]
    rows = compare(data, methods, tmp_path)
    assert [row["model"] for row in rows] == ["worse", "same", "moving"]
    assert [row["two_sided"] for row in rows] == [False, False, True]
    moving, same = rows[2], rows[1]
    for score in ("mrr", "hubness_mrr"):  # both sides mirrored: every cosine, and so every rank, is the same
        assert moving[score] == pytest.approx(same[score])
    assert moving["best_other"] == "worse" and {row["best_other"] for row in rows[:2]} == {"worse", "same"}
    assert "moves the gallery too: moving\n" in capsys.readouterr().out


def test_a_changed_setting_or_training_split_is_computed_again(data, tmp_path):
    calls: list = []
    compare(data, [Counting(calls)], tmp_path)
    compare(data, [Counting(calls, strength=2.0)], tmp_path)
    compare(data, [Counting(calls)], tmp_path, train_images=30)
    assert calls == ["search", 0] * 3
    assert (tmp_path / "results" / "accuracy_tiny_30_images_split_0_1_seeds.json").exists()


def test_train_images_keeps_so_many_and_the_same_gallery(data):
    whole, part = (protocol.make_problem(data, 0, CPU, train_images=n) for n in (None, 20))
    assert len(part.train.images) == 20 and len(part.fold_data.images) + len(part.fold_data.val_images) == 20
    assert torch.equal(whole.gallery, part.gallery)
    with pytest.raises(ValueError, match="between 1 and 54"):
        protocol.make_problem(data, 0, CPU, train_images=55)


@pytest.mark.parametrize("images", [None, 20])
def test_train_captions_keeps_so_many_of_each_image(data, images):
    whole = protocol.make_problem(data, 0, CPU, train_images=images)
    part = protocol.make_problem(data, 0, CPU, train_images=images, train_captions=2)
    assert torch.equal(part.train.images, whole.train.images) and torch.equal(part.gallery, whole.gallery)
    counts = torch.bincount(part.train.positive, minlength=len(part.train.images))
    assert torch.equal(counts, torch.bincount(whole.train.positive, minlength=len(counts)).clamp(max=2))
    for text, positive in zip(part.train.text, part.train.positive, strict=True):
        row = int((whole.train.text == text).all(1).nonzero()[0])
        assert whole.train.positive[row] == positive
    assert part.digest != whole.digest
    with pytest.raises(ValueError, match="train_captions = 0"):
        protocol.make_problem(data, 0, CPU, train_captions=0)


def test_results_of_fewer_captions_have_a_table_of_their_own(data, tmp_path):
    calls: list = []
    compare(data, [Counting(calls)], tmp_path)
    compare(data, [Counting(calls)], tmp_path, train_images=30, train_captions=1)
    assert calls == ["search", 0] * 2
    path = tmp_path / "results" / "accuracy_tiny_30_images_1_captions_each_split_0_1_seeds.json"
    table = json.loads(path.read_text())
    assert table["train_captions"] == 30 and "--train-images 30 --train-captions 1" in table["command"]


def test_command_names_the_methods_where_they_are_not_all():
    assert accuracy.command(OPTIONS, list(METHODS)).endswith("--splits 0 --seeds 1")
    assert accuracy.command(OPTIONS, ["ridge", "cca"]).endswith("--seeds 1 --only cca ridge")


def test_projections_to_more_dimensions_keep_every_distance_and_have_results_of_their_own(data, tmp_path):
    wide = accuracy.projected(data, 20, 16)
    assert wide.text.shape[1] == 20 and not np.allclose(wide.images, data.images)
    for before, after in ((data.text, wide.text), (data.images, wide.images)):
        assert np.allclose(after @ after.T, before @ before.T, rtol=1e-4, atol=1e-4)
    narrow = accuracy.projected(data, 5, 7)
    assert (narrow.text_dim, narrow.image_dim) == (5, 7)
    assert len({data.fingerprint, wide.fingerprint, narrow.fingerprint}) == 3
    assert np.array_equal(narrow.text, accuracy.projected(data, 5, 7).text)
    compare(narrow, [Counting([])], tmp_path, project=[5, 7])
    (path,) = (tmp_path / "results").glob("*.json")
    assert path.stem == "accuracy_tiny_projected_5_7_split_0_1_seeds"
    assert json.loads(path.read_text())["command"].endswith("--splits 0 --seeds 1 --project 5 7 --only counting")


def test_results_of_other_data_are_never_replaced(data, tmp_path):
    compare(data, [Counting([])], tmp_path)
    (path,) = (tmp_path / "results").glob("accuracy_*.json")
    before, calls = path.read_bytes(), []
    with pytest.raises(FileExistsError, match=f"{path.name}: holds results of other data.*Move it away"):
        compare(accuracy.projected(data, 5, 7), [Counting(calls)], tmp_path)
    assert path.read_bytes() == before and calls == []  # said before anything is computed


def test_results_of_another_precision_are_other_results(data, tmp_path, monkeypatch):
    calls: list = []
    compare(data, [Counting(calls)], tmp_path)
    monkeypatch.setattr(protocol, "precision_of", lambda device: ("cuda", "torch.bfloat16"))
    compare(data, [Counting(calls)], tmp_path)
    assert calls == ["search", 0] * 2


@pytest.mark.slow
def test_garbage_among_the_scored_images_changes_no_choice(data, tmp_path):
    problem = protocol.make_problem(data, 0, CPU)
    scored = np.isin(data.images[:, 0], problem.gallery[:, 0].numpy())
    images, text = np.array(data.images), np.array(data.text)
    images[scored], text[scored[data.targets]] = 1e3, -1e3
    found = {}
    for folder, changed in (("as_is", data), ("garbage", replace(data, images=images, text=text))):
        compare(changed, [method.tiny() for method in METHODS.values()], tmp_path / folder)
        rows = Store(tmp_path / folder / "results" / "accuracy" / "tiny.npz").rows().values()
        found[folder] = {row["method"]: row["chosen"] for row in rows if row["kind"] == "search"}
    assert found["as_is"] == found["garbage"] and len(found["as_is"]) == len(METHODS)


@pytest.mark.parametrize("name", ["mlp1", "bigjump"])
def test_search_trains_as_the_helpers_do_and_the_final_fit_repeats_it(data, name):
    fold_data = protocol.make_problem(data, 0, CPU).fold_data
    method = replace(METHODS[name], rate_factors=(1.0,))
    method = replace(method, settings=replace(method.settings, epochs=4, hidden=16, batch_size=64, seed=SEARCH_SEED))
    chosen = method.search(fold_data, fold_data)
    seed_all(SEARCH_SEED)
    model, objective = method.build(method.settings, fold_data)
    history = fit(model, objective, name)
    assert [row["mrr"] for row in chosen["history"]] == [row["mrr"] for row in history][: len(chosen["history"])]
    again = method.fit(fold_data, chosen, SEARCH_SEED)
    assert fold_mrr(again, fold_data) == chosen["fold_mrr"]
    assert not torch.equal(
        method.fit(fold_data, chosen, 1).predict(fold_data.val_text), again.predict(fold_data.val_text)
    )


def test_a_rate_that_diverges_is_passed_over(data):
    fold_data = protocol.make_problem(data, 0, CPU).fold_data
    method = replace(METHODS["linear"].tiny(), rate_factors=(1e38, 1.0))
    chosen = method.search(fold_data, fold_data)
    assert chosen["learning_rate"] == method.settings.learning_rate and chosen["candidates"][0]["epochs"] == 0
    with pytest.raises(FloatingPointError, match="no learning rate"):
        replace(method, rate_factors=(1e38,)).search(fold_data, fold_data)


def test_a_table_has_intervals_and_tests_and_one_method_alone_is_compared_with_none(data, tmp_path):
    methods = [Counting([]), ClosedForm("ridge", solve_power, grid(eps=(0.1,), power=(1.0,)))]
    rows = compare(data, methods, tmp_path)
    assert all(0 <= row["p"] <= 1 and row["mrr_low"] <= row["mrr"] <= row["mrr_high"] for row in rows)
    (row,) = compare(data, methods[:1], tmp_path)
    assert row["p"] is None and row["to_best_other"] is None and row["best_other"] is None


def test_paired_test_agrees_with_the_paired_difference_of_metrics():
    rng = np.random.default_rng(0)
    groups, ranks = {0: np.repeat(np.arange(40), 5)}, rng.integers(1, 20, (2, 200))
    a, b = (accuracy_table.Finished({}, {0: np.stack([1 / r, 1 / r])}) for r in ranks)
    test = accuracy_table.paired_test(a, b, groups)
    expected = metrics.paired_difference(*ranks, groups[0])
    found = {key: test[key] for key in expected}
    assert found == pytest.approx(expected)
    assert accuracy_table.paired_test(a, a, groups)["p"] == 1.0


@pytest.mark.parametrize("wrong", [["--seeds", "0"], ["--splits", "0", "-1"], ["--project", "0", "5"]])
def test_numbers_out_of_range_are_refused_by_the_command_line(wrong, capsys):
    with pytest.raises(SystemExit):
        accuracy.parse(["--data-dir", "DIR", *wrong])
    assert (
        f"argument {wrong[0]}: {wrong[-1] if wrong[0] != '--project' else 0}: must be at least"
        in capsys.readouterr().err
    )


def test_what_is_wrong_with_the_data_is_said_in_a_line(tmp_path):
    with pytest.raises(SystemExit, match="^error: .*train.npz: no such file"):
        accuracy.main(["--data-dir", str(tmp_path), "--results-dir", str(tmp_path / "results")])


def test_near_duplicates_and_repeated_texts_are_reported_with_the_results(data, tmp_path, capsys):
    compare(data, [Counting([])], tmp_path)
    table = json.loads((tmp_path / "results" / "accuracy_tiny_split_0_1_seeds.json").read_text())
    problem = protocol.make_problem(data, 0, CPU)
    split = make_split(data.targets, data.n_images, protocol.VAL_RATIO, 0)
    assert table["repeats"] == {"0": vars(count_repeats(data, split))}
    found = table["near_duplicates"]
    assert found["groups"] == Grouped.of(duplicate_groups(data.images)).groups > 0 and not found["kept_in_one_split"]
    assert found["scored_images_that_repeat_a_training_image"] == {"0": problem.seen}
    shown = capsys.readouterr().out
    assert "groups of near-duplicates: " in shown and "no method can exceed an MRR of" in shown


def test_grouped_no_scored_image_repeats_a_training_image_nor_one_of_a_fold_another(data, tmp_path, capsys):
    # Every image a second time, nearly: without groups most have a copy on the other side.
    copied = replace(
        data,
        images=np.concatenate([data.images, data.images * 1.001]),
        text=np.concatenate([data.text, data.text]),
        targets=np.append(data.targets, data.targets + data.n_images),
        captions=[*data.captions, *data.captions],
        image_names=[*data.image_names, *(f"copy {name}" for name in data.image_names)],
    )
    calls: list = []
    compare(copied, [Counting(calls)], tmp_path)
    compare(copied, [Counting(calls)], tmp_path, group_duplicates=True)
    assert calls == ["search", 0] * 2  # other splits, other results
    alone, grouped = (
        json.loads((tmp_path / "results" / f"accuracy_tiny{name}_split_0_1_seeds.json").read_text())
        for name in ("", "_grouped")
    )
    seen = [of["near_duplicates"]["scored_images_that_repeat_a_training_image"]["0"] for of in (alone, grouped)]
    assert seen[0] > 5 and seen[1] == 0
    assert grouped["near_duplicates"]["kept_in_one_split"] and " --group-duplicates" in grouped["command"]
    assert "each stays in one split" in capsys.readouterr().out
    groups = duplicate_groups(copied.images)
    fold = protocol.make_problem(copied, 0, CPU, groups=groups).fold_data
    both = torch.cat([fold.images, fold.val_images]).numpy()
    rows = np.arange(len(both))
    assert len(near_duplicates(both, rows[len(fold.images) :], rows[: len(fold.images)])[0]) == 0


class Stream(io.StringIO):
    def isatty(self):
        return False


@pytest.mark.parametrize("name", ["mlp1", "queue_infonce", "cca"])
def test_a_baseline_shows_its_progress_as_lines_of_a_log(data, monkeypatch, name):
    monkeypatch.setattr(bar, "tqdm", partial(bar.tqdm, disable=False))  # the suite has switched bars off
    fold_data = protocol.make_problem(data, 0, CPU).fold_data
    method, stream = METHODS[name].tiny(), Stream()
    monkeypatch.setattr(sys, "stderr", stream)
    chosen = method.search(fold_data, fold_data)
    if name != "cca":
        method.fit(fold_data, chosen, 3)
    text = stream.getvalue()
    assert "\r" not in text and "\x1b" not in text
    last = text.splitlines()[-1]
    if name == "cca":
        assert last.startswith("cca, settings: 100%")
    else:
        assert f"{name}, candidate 2 of 2, learning rate " in text and "mrr=0." in text
        assert last.startswith(f"{name}, seed 3: 100%") and "mrr" not in last  # all images train, none is left to judge


def test_a_result_says_of_how_many_epochs_the_best_was_taken(data, tmp_path, capsys):
    method = METHODS["linear"].tiny()
    method = replace(method, settings=replace(method.settings, epochs=30, learning_rate=1e-12), rate_factors=(1.0,))
    (row,) = compare(data, [method], tmp_path)
    chosen = row["chosen"]["0"]
    assert chosen["epochs_allowed"] == 30 and chosen["epochs"] + 6 == chosen["epochs_tried"] < 30
    assert f", epoch {chosen['epochs']} of {chosen['epochs_tried']} tried, 30 allowed" in capsys.readouterr().out


def test_a_search_that_stops_early_leaves_no_unfinished_bar(data, monkeypatch):
    monkeypatch.setattr(bar, "tqdm", partial(bar.tqdm, disable=False))
    fold_data, stream = protocol.make_problem(data, 0, CPU).fold_data, Stream()
    monkeypatch.setattr(sys, "stderr", stream)
    method = METHODS["linear"]
    settings_of = replace(method.settings, epochs=30, hidden=4, batch_size=64, learning_rate=1e-12)  # no gain
    chosen = replace(method, settings=settings_of, rate_factors=(1.0,)).search(fold_data, fold_data)
    assert len(chosen["history"]) < 30
    assert "100%" in stream.getvalue().splitlines()[-1]
