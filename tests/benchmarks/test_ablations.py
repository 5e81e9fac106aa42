"""The ablations: hooks against naive loops, the reference as the helpers train it, signs, resuming, honest choices."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import ablations, protocol, turned
from benchmarks.ablation import hooks, rounding, runs, table
from benchmarks.ablation.claims import BFLOAT16, CLAIMS, FLOAT32, REFERENCE
from benchmarks.ablation.variants import BigJump, ClosedForm, Fold
from benchmarks.accuracy_table import Finished
from benchmarks.store import Store
from helpers.data.pairs import PairedEmbeddings, load_pairs
from helpers.data.split import make_split
from helpers.data.synthetic import write_synthetic
from helpers.models.build import build_model
from helpers.system.devices import matmul_dtype, seed_all
from helpers.training import losses
from helpers.training.loop import train_bigjump, validation_mrr
from helpers.training.objectives import BigJumpConfig

CPU = torch.device("cpu")
SMALL = {"epochs": 5, "hidden": 16, "batch_size": 64, "learning_rate": 3e-3}
OPTIONS = argparse.Namespace(splits=[0], seeds=2, only=[], epochs=None, demo=False)
ALL = ablations.variants_of(list(CLAIMS.values()))
OWN = torch.tensor([0, 3, 0, 2, 5, 3])
COUNTS = torch.tensor([2.0, 1.0, 0.0, 1.0, 0.0, 0.0, 3.0])


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> PairedEmbeddings:
    folder = tmp_path_factory.mktemp("ablations")
    source = write_synthetic(folder / "data", n_images=60, text_dim=12, image_dim=16)
    return load_pairs(source, cache_dir=folder / "cache")


@pytest.fixture(scope="module")
def problem(data) -> protocol.Problem:
    return protocol.make_problem(data, 0, CPU)


@pytest.fixture(scope="module")
def fold(problem) -> Fold:
    return Fold(problem.fold_data)


@pytest.fixture
def store(tmp_path) -> Store:
    return ablations.store_of("here", tmp_path / "results")


def unit(rows: int, width: int, seed: int) -> torch.Tensor:
    return normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=-1)


def looped_infonce(z: torch.Tensor, bank: torch.Tensor, counts: list[float], tau: float, own_counts: bool) -> float:
    """InfoNCE, candidate by candidate."""
    e = (z.double() @ bank.double().T / tau).exp().tolist()
    images, rows = OWN.tolist(), []
    for i, image in enumerate(images):
        positive = images.count(image) * e[i][image]
        negatives = sum(e[i][u] for u in images if u != image)
        negatives += sum(n * e[i][u] for u, n in enumerate(counts) if own_counts or u != image)
        rows.append(-math.log(positive / (positive + negatives)))
    return float(np.mean(rows))


def test_own_image_counted_equals_loops():
    z, bank = unit(6, 4, 0).requires_grad_(), unit(7, 4, 1)
    loss = hooks.infonce_with_own_image_counted(z, bank, OWN, COUNTS, 0.3, torch.float32)
    assert float(loss.detach()) == pytest.approx(looped_infonce(z.detach(), bank, COUNTS.tolist(), 0.3, True), rel=1e-5)
    assert float(loss.detach()) > looped_infonce(z.detach(), bank, COUNTS.tolist(), 0.3, False)
    loss.backward()
    assert z.grad.isfinite().all()


@pytest.mark.slow
def test_own_image_counted_is_the_helpers_loss_where_no_own_image_is_queued():
    counts = COUNTS.clone()
    counts[OWN] = 0
    found = []
    for infonce in (hooks.infonce_with_own_image_counted, losses.multi_positive_infonce):
        z = unit(6, 4, 0).requires_grad_()
        loss = infonce(z, unit(7, 4, 1), OWN, counts, 0.1, torch.float32)
        loss.backward()
        found.append((loss.detach(), z.grad))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)


@pytest.fixture
def objective(problem):
    """Makes an objective of the ablations on a bank of seven images."""

    def make(kind: type, **settings: object) -> hooks.LastEpoch:
        data = replace(problem.fold_data, images=unit(7, 4, 1))
        made = kind(BigJumpConfig(mixed_precision=False, queue_schedule=(0, 8), queue_size=8, **settings), data)
        made.end_step(torch.tensor([0, 0, 1, 3, 6, 6, 6]))  # what COUNTS says
        return made

    return make


@pytest.mark.parametrize(
    ("kind", "counts", "own_counts"),
    [
        (hooks.LastEpoch, COUNTS.tolist(), False),
        (hooks.OwnImageCounted, COUNTS.tolist(), True),
        (hooks.EveryImage, [1.0] * 7, False),
    ],
)
def test_objectives_take_their_negatives_from_the_epoch_of_the_queue_on(objective, kind, counts, own_counts):
    made, z = objective(kind, temperature_start=0.3, temperature_end=0.3), unit(6, 4, 0)
    made.start_epoch(1)
    expected = looped_infonce(z, made.negative_bank, [0.0] * 7, 0.3, False)
    assert float(made.terms(z, OWN, torch.arange(6))["infonce"]) == pytest.approx(expected, rel=1e-5)
    made.start_epoch(2)
    expected = looped_infonce(z, made.negative_bank, counts, 0.3, own_counts)
    assert float(made.terms(z, OWN, torch.arange(6))["infonce"]) == pytest.approx(expected, rel=1e-5)


def test_moment_with_std_equals_loops_and_changes_nothing_else(objective):
    prediction = 2 * unit(6, 4, 0)
    plain, made = objective(hooks.LastEpoch), objective(hooks.MomentWithStd)
    target = made.data.images[OWN]
    columns = [(prediction[:, k].numpy(), target[:, k].numpy()) for k in range(4)]
    expected = np.mean([(a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2 for a, b in columns])
    terms, before = (of.terms(prediction, OWN, torch.arange(6)) for of in (made, plain))
    assert float(terms["moment"]) == pytest.approx(0.02 * expected, rel=1e-5)
    assert list(terms) == list(before) and all(torch.equal(terms[n], before[n]) for n in terms if n != "moment")


def test_starts_have_the_scale_and_the_mean_that_they_claim(fold):
    mean_x, mean_y = fold.space.statistics.mean_x, fold.space.statistics.mean_y
    maps = {name: fold.start(name, 0) for name in ("procrustes", "least_squares", "random", "mean")}
    for affine in maps.values():
        np.testing.assert_allclose(affine.matrix @ mean_x + affine.bias, mean_y, rtol=1e-9)
    assert np.linalg.norm(maps["random"].matrix) == pytest.approx(np.linalg.norm(maps["procrustes"].matrix))
    assert not np.allclose(maps["random"].matrix, fold.start("random", 1).matrix)
    assert not maps["mean"].matrix.any()
    np.testing.assert_array_equal(maps["least_squares"].matrix, fold.space.affine(1.0).matrix)


def test_reference_is_the_published_method_as_the_helpers_train_it(fold):
    assert REFERENCE.settings({}) == BigJumpConfig()
    model, history = REFERENCE.train(fold, 3, SMALL)
    settings = BigJumpConfig(**SMALL, seed=3)
    seed_all(3)
    theirs = build_model("bigjump", 12, 16, hidden=16)
    affine = fold.space.affine()
    theirs.geometry.set_affine(affine.matrix, affine.bias)
    expected = train_bigjump(theirs, fold.data, settings)
    assert [{**entry, "seconds": 0} for entry in history] == [{**entry, "seconds": 0} for entry in expected]
    assert validation_mrr(model, fold.data) == history[-1]["mrr"]  # the last epoch, whichever was best


def test_every_variant_differs_from_the_reference_in_one_thing():
    assert len({variant.name for variant in ALL}) == len(ALL)
    assert len({json.dumps(variant.metadata({}), sort_keys=True) for variant in ALL}) == len(ALL)
    for claim in CLAIMS.values():
        assert claim.expected in ("helps", "harms", "no effect")
        for row in claim.comparisons:
            if isinstance(row.on, BigJump):
                assert row.on.start == REFERENCE.start
                assert row.on.objective == REFERENCE.objective or row.on == BFLOAT16
                on, against = row.on.metadata({}), row.against.metadata({})
                changed = {name for name in on if on[name] != against[name]}
                assert (
                    len(changed) == 1
                    or row.against.name in ("free_full_rate", "tuned_freely", "smallest", "float32", "adapter_alone")
                    or all(name.startswith("temperature") for name in changed)
                )


@pytest.mark.slow
def test_smoke_runs_every_variant_and_every_claim(capsys):
    ablations.main(["--smoke"])
    shown = capsys.readouterr().out
    assert all(f"{v.name}, split 0, seed {s}: " in shown for v in ALL for s in range(2 if v.seeded else 1))
    assert all(row.words in shown for claim in CLAIMS.values() for row in claim.comparisons)


@pytest.mark.slow
def test_turned_data_answer_every_claim_that_is_asked(capsys):
    turned.main(["--smoke"])
    shown = capsys.readouterr().out
    words = [row.words for claim in turned.claims() for row in claim.comparisons]
    assert len(words) == len(turned.ASKED) and all(f"| {line} |" in shown for line in words)
    assert "| comparison | as it is | linear |" in shown
    assert "as it is: 300 captions of 60 images" in shown


@dataclass(frozen=True)
class Counting:
    """A variant that counts its trainings, and is interrupted at a seed where told to."""

    calls: list
    power: float = 0.0
    interrupted_at: int | None = None
    name: str = "counting"
    seeded: bool = True

    def metadata(self, shared) -> dict:
        return {"power": self.power, **shared}

    def train(self, fold, seed, shared):
        if seed == self.interrupted_at:
            raise KeyboardInterrupt
        self.calls.append(seed)
        return ClosedForm(self.name, self.power).train(fold, seed, shared)


def test_an_interrupted_call_goes_on_and_what_changes_is_computed_again(problem, store):
    calls: list = []
    with pytest.raises(KeyboardInterrupt):
        ablations.run_all([Counting(calls, interrupted_at=1)], [problem], 3, {}, store)
    assert calls == [0]
    ablations.run_all([Counting(calls)], [problem], 3, {}, store)
    ablations.run_all([Counting(calls)], [problem], 3, {}, store)
    assert calls == [0, 1, 2]
    ablations.run_all([Counting(calls, power=1.0)], [problem], 1, {}, store)
    ablations.run_all([Counting(calls)], [problem], 1, {"epochs": 2}, store)
    assert calls == [0, 1, 2, 0, 0]


def measure(data: PairedEmbeddings, results: Path, **options: object) -> dict:
    shared = {name: value for name, value in SMALL.items() if name != "epochs"}
    return ablations.measure(data, "here", argparse.Namespace(**{**vars(OPTIONS), **options}), results, CPU, shared)


@pytest.mark.slow
def test_claims_are_measured_one_by_one_and_their_results_kept(data, tmp_path, monkeypatch):
    first = measure(data, tmp_path, only=["agreement"], epochs=3)
    (claim,) = first["claims"]
    assert [row["on"] for row in claim["comparisons"]] == ["reference", "captions_2", "captions_4"]
    for row in claim["comparisons"]:
        assert row["seeds"] == 2 and row["spread_within_images"] > 0 and row["on_spread_within_images"] > 0
        assert row["difference"] == pytest.approx(row["on_mrr"] - row["mrr"], abs=1e-6)
        assert row["difference"] == pytest.approx(np.mean(row["difference_by_run"]), abs=1e-6)
    both = measure(data, tmp_path, only=["start", "nonlinear"], epochs=3)
    assert [claim["claim"] for claim in both["claims"]] == ["start", "agreement", "nonlinear"]
    assert all(
        1 <= row["epochs_to_95"] <= 3 and row["on_epochs_to_95"] >= 1 for row in both["claims"][0]["comparisons"]
    )
    assert all({"gain_most", "lose_most"} <= set(row["caption_changes"]) for row in both["claims"][2]["comparisons"])
    monkeypatch.setattr(runs, "_score", None)  # nothing is trained or scored again
    assert measure(data, tmp_path, only=["agreement"], epochs=3) == both
    assert json.loads((tmp_path / "ablations_here_2_seeds_3_epochs.json").read_text()) == both


@pytest.mark.slow
def test_shortened_trainings_are_compared_with_those_of_full_length(data, tmp_path):
    wanted = {"only": ["cosine", "moment", "whitening"], "seeds": 1}
    before = measure(data, tmp_path, **wanted, epochs=2)["order_agreement"]
    assert before["comparisons"] == 0 and before["spearman"] is None
    assert "order_agreement" not in measure(data, tmp_path, **wanted)
    order = measure(data, tmp_path, **wanted, epochs=2)["order_agreement"]
    # Three of the loss, and BigJump against Procrustes, whose runs are there; closed forms know no length.
    assert (order["comparisons"], order["epochs"], order["full_epochs"]) == (4, 2, 25)


def test_order_agreement_takes_comparisons_of_both_tables():
    def claims(*differences: float | None) -> list[dict]:
        values = [{"difference": d, "low": d, "verdict": table.verdict(d, d), "trained": True} for d in differences]
        return [{"comparisons": [{"on": "a", "variant": str(i), **value} for i, value in enumerate(values)]}]

    same = table.order_agreement(claims(0.1, 0.2, -0.3, 0.4), claims(1, 2, -3))
    assert same == {"spearman": pytest.approx(1), "comparisons": 3, "same_verdict": 3}
    assert table.order_agreement(claims(0.1, 0.2, 0.3), claims(3, -2, -1))["spearman"] == pytest.approx(-0.5)
    assert table.order_agreement(claims(0.1, 0.2), claims(3, 2))["spearman"] is None


def made_up(ranks: np.ndarray) -> Finished:
    run = {"fold_mrr": [], "spread_within_images": None, "geometry_free": [], "diverged": None, "seconds": 1.0}
    return Finished({0: [{**run, "mrr": float(np.mean(1 / ranks))}]}, {0: (1 / ranks)[None]})


def test_difference_is_on_minus_against():
    groups = {0: np.repeat(np.arange(40), 5)}
    ranks = np.random.default_rng(0).integers(1, 20, 200)
    claim, comparison = CLAIMS["cosine"], CLAIMS["cosine"].comparisons[0]
    for shift, expected in ((3, "helps"), (0, "not clear"), (-0.5, "harms")):
        found = {"reference": made_up(ranks), "no_cosine": made_up(ranks + shift)}
        row = table.row(comparison, claim, found, groups)
        assert row["verdict"] == expected and np.sign(row["difference"]) == np.sign(shift)
        assert row["low"] <= row["difference"] <= row["high"]


def test_epochs_to_the_level_of_on_are_counted_seed_by_seed():
    def trained(*curves: list[float]) -> Finished:
        return Finished({0: [{"fold_mrr": curve} for curve in curves]}, {})

    on, slow = trained([0.2, 0.4], [0.1, 0.2, 0.2]), trained([0.1, 0.3], [0.1, 0.1, 0.195])
    assert table.epochs_to_level_of_on(on, slow) == [None, 3]
    assert table.epochs_to_level_of_on(on, on) == [2, 2]


def test_a_training_that_diverges_is_scored_at_chance(fold, problem, store):
    variant = BigJump("diverges", {"learning_rate": 1e30, "clip_norm": 1e30})
    result = runs.run(variant, fold, problem, 0, {"epochs": 2, "hidden": 16}, store)
    assert "the loss is" in result["diverged"] and "lower the learning rate" in result["diverged"]
    n = len(problem.gallery)
    assert result["mrr"] == pytest.approx(np.mean(1 / np.arange(1, n + 1)), rel=0.05)


def test_garbage_among_the_scored_images_changes_no_training(data, problem, fold):
    scored = np.isin(data.images[:, 0], problem.gallery[:, 0].numpy())
    images, text = np.array(data.images), np.array(data.text)
    images[scored], text[scored[data.targets]] = 1e3, -1e3
    other = protocol.make_problem(replace(data, images=images, text=text), 0, CPU)
    models = [REFERENCE.train(of, 0, SMALL)[0].state_dict() for of in (fold, Fold(other.fold_data))]
    assert all(torch.equal(*pair) for pair in zip(*(model.values() for model in models), strict=True))


def test_spread_within_images_equals_loops():
    z, positive = unit(6, 4, 0), OWN
    spreads = []
    for image in (0, 3):
        mine = z[positive == image]
        spreads.append(float(((mine - mine.mean(0)) ** 2).sum(1).mean()))
    assert runs.spread_within_images(5 * z, positive) == pytest.approx(np.mean(spreads), rel=1e-5)


def test_epochs_to_counts_from_one():
    assert runs.epochs_to([0.1, 0.2, 0.3], 0.2) == 2 and runs.epochs_to([0.1], 0.2) is None


def test_caption_changes_name_the_captions_that_move(data):
    split = make_split(data.targets, data.n_images, protocol.VAL_RATIO, 0)
    on = np.full(len(split.val_captions), 0.25)
    against = on.copy()
    against[2], against[7] = 1.0, 0.1
    changes = table.caption_changes(data, split, on, against)
    (best,), (worst,) = changes["gain_most"], changes["lose_most"]
    assert best["caption"] == data.captions[split.val_captions[2]] and (best["rank_on"], best["rank"]) == (4, 1)
    assert worst["caption"] == data.captions[split.val_captions[7]] and (worst["rank_on"], worst["rank"]) == (4, 10)
    assert changes["gaining"] == changes["losing"] == pytest.approx(1 / len(on))


@pytest.mark.parametrize("native", [False, True])
def test_bfloat16_products_are_those_of_torch(monkeypatch, native):
    a, b, bias = unit(6, 40, 0).bfloat16(), unit(40, 5, 1).bfloat16(), unit(1, 5, 2)[0].bfloat16()

    def products() -> list[torch.Tensor]:
        return [a @ b, torch.addmm(bias, a, b), a[None].expand(3, 6, 40) @ b[None].expand(3, 40, 5)]

    monkeypatch.setattr(rounding, "matmul_dtype", lambda device, wanted: torch.bfloat16 if native else torch.float32)
    with rounding.bfloat16_products():
        found = products()
    for one, expected in zip(found, products(), strict=True):
        assert one.dtype == torch.bfloat16
        # Sums in another order now and then round to the neighbouring number.
        torch.testing.assert_close(one, expected, rtol=2**-7, atol=1e-4)


PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "linear", "matmul", "mv", "addmv", "dot", "einsum"}
"""More than are replaced, so that one which begins to be used is noticed."""


def test_bfloat16_products_replace_every_product_of_a_training_step(monkeypatch, fold):
    """Forward, backward and loss: what is left of the kind would run in the slow fallback."""
    left, rounded = [], []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.overloadpacket.__name__ in PRODUCTS:
                tensors = [one for one in args if isinstance(one, torch.Tensor)]
                (left if any(one.dtype == torch.bfloat16 for one in tensors) else rounded).append(func)
            return func(*args, **(kwargs or {}))

    monkeypatch.setattr(rounding, "matmul_dtype", lambda device, wanted: torch.float32)
    variant = replace(BFLOAT16, products=contextlib.ExitStack)
    with Watch(), rounding.bfloat16_products():
        variant.train(fold, 0, {**SMALL, "epochs": 1})
    assert not left and rounded


def test_the_sides_of_the_claim_on_precision_differ_in_rounding_alone(fold):
    histories = [variant.train(fold, 0, SMALL)[1] for variant in (BFLOAT16, FLOAT32)]
    first, second = ([entry["loss"] for entry in history] for history in histories)
    assert first != second and first == pytest.approx(second, rel=2e-2)
    reference = [entry["loss"] for entry in REFERENCE.train(fold, 0, SMALL)[1]]
    assert reference == (first if matmul_dtype(CPU, True) == torch.bfloat16 else second)
