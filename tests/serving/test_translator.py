"""Translation and search against brute force, and the choice of the best model of a run."""

import contextlib
import json
import threading

import numpy as np
import pytest
import torch

from helpers.data.vectors import MARKS
from helpers.errors import CheckpointError
from helpers.evaluation import dot_product, hubness
from helpers.models import storage
from helpers.models.build import build_model
from helpers.models.storage import model_path, save_model
from helpers.serving import exact_search
from helpers.serving.translator import Translator

DX, DY = 6, 9
RNG = np.random.default_rng(0)
QUERIES = RNG.normal(size=(7, DX))
GALLERY = RNG.normal(size=(23, DY)).astype(np.float32) * 26


def make(name="mlp1", text_dim=DX, image_dim=DY):
    torch.manual_seed(0)
    return Translator(name, build_model(name, text_dim, image_dim, hidden=8, dropout=0.5), text_dim, image_dim)


def identity(width):
    model = build_model("procrustes", width, width)
    model.set_affine(np.eye(width), np.zeros(width))
    return Translator("procrustes", model, width, width)


def test_translations_are_unit_vectors_in_float32_along_the_model_s_own():
    chosen = make()
    raw, unit = chosen.raw(QUERIES), chosen.translate(QUERIES)
    assert raw.dtype == unit.dtype == np.float32
    assert raw.shape == unit.shape == (7, DY)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(unit * np.linalg.norm(raw, axis=1, keepdims=True), raw, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        expected = chosen.model.eval()(torch.from_numpy(QUERIES).float()).numpy()
    np.testing.assert_allclose(raw, expected, rtol=1e-5, atol=1e-6)  # dropout is off
    assert not np.allclose(np.linalg.norm(raw, axis=1), 1, atol=0.1)


@pytest.mark.parametrize("block", [1, 3, 22, 23, 65536])
@pytest.mark.parametrize("k", [1, 5, 23, 400])
def test_search_equals_brute_force(monkeypatch, block, k):
    monkeypatch.setattr(exact_search, "GALLERY_BLOCK", block)
    chosen = make()
    unit = GALLERY / np.linalg.norm(GALLERY.astype(float), axis=1, keepdims=True)
    scores = chosen.translate(QUERIES).astype(float) @ unit.T
    expected = np.argsort(-scores, axis=1)[:, :k]
    index, found = chosen.search(QUERIES, GALLERY, k)
    assert index.dtype == np.int64 and found.dtype == np.float32
    assert index.shape == found.shape == (7, min(k, 23))
    np.testing.assert_array_equal(index, expected)
    np.testing.assert_allclose(found, np.take_along_axis(scores, expected, axis=1), atol=1e-6)


@contextlib.contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    yield
    torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def precision(name):
    torch.set_float32_matmul_precision(name)
    yield
    torch.set_float32_matmul_precision("highest")


@contextlib.contextmanager
def fp32_precision(backend, name):
    before, backend.fp32_precision = backend.fp32_precision, name
    yield
    backend.fp32_precision = before


STATES = {
    "products by TF32": lambda: fp32_precision(torch.backends.cuda.matmul, "tf32"),
    "products by bfloat16": lambda: fp32_precision(torch.backends.mkldnn.matmul, "bf16"),
    "all by bfloat16": lambda: fp32_precision(torch.backends, "bf16"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "default dtype": lambda: default_dtype(torch.float64),
    "default device": lambda: torch.device("meta"),
    "precision": lambda: precision("medium"),
    "inference": torch.inference_mode,
}


def settings_of_torch():
    products = torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision
    return torch.get_default_dtype(), torch.is_autocast_enabled("cpu"), torch.backends.fp32_precision, products


def test_threads_share_what_is_set_for_the_whole_process():
    chosen, wrong = make(), []
    expected = chosen.search(QUERIES, GALLERY)[1]

    def serve():
        for _ in range(50):
            found = chosen.search(QUERIES, GALLERY)[1]
            # Not to the bit: a new thread may split a product otherwise than the one that runs the tests.
            wrong.append(found.dtype != np.float32 or not np.allclose(found, expected, rtol=0, atol=1e-6))

    with default_dtype(torch.float64):
        threads = [threading.Thread(target=serve) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert torch.get_default_dtype() == torch.float64
    assert len(wrong) == 200 and not any(wrong)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", ["mlp1", "procrustes", "bigjump", "bigjump_plus"])
def test_what_the_caller_has_set_in_torch_changes_no_result(tmp_path, name, state):
    shape = {"text_dim": DX, "image_dim": DY, "hidden": 8}
    torch.manual_seed(0)
    save_model(tmp_path, name, build_model(name, **shape), {"architecture": shape})
    rng = np.random.default_rng(1)
    queries, gallery = rng.normal(size=(50, DX)), rng.normal(size=(400, DY))
    expected = Translator.load(tmp_path, name).search(queries, gallery)
    with STATES[state]():
        before = settings_of_torch()
        index, scores = Translator.load(tmp_path, name).search(queries, gallery)
        assert settings_of_torch() == before
    np.testing.assert_array_equal(index, expected[0])
    np.testing.assert_array_equal(scores, expected[1])


@pytest.mark.parametrize(
    "given",
    [
        lambda x: x.astype(np.float16),
        lambda x: x.astype(np.float16).tolist(),
        lambda x: torch.from_numpy(x).half(),
        lambda x: torch.from_numpy(x).double().requires_grad_(),
    ],
)
def test_vectors_of_any_real_type_are_taken(given):
    queries, gallery = (np.float16(values).astype(np.float32) for values in (QUERIES, GALLERY))
    expected = make().search(queries, gallery)
    for q, g in ((given(queries), gallery), (queries, given(gallery))):
        np.testing.assert_array_equal(make().search(q, g)[0], expected[0])


def test_bfloat16_tensors_are_taken_at_their_own_values():
    gallery = torch.from_numpy(GALLERY).bfloat16()
    expected = make().search(QUERIES, gallery.float().numpy())
    np.testing.assert_array_equal(make().search(QUERIES, gallery)[0], expected[0])


@pytest.mark.parametrize("values", [QUERIES.astype(str), QUERIES.astype(object), QUERIES + 1j, QUERIES > 0])
def test_what_is_no_real_number_is_refused(values):
    with pytest.raises(ValueError, match=r"The queries hold .*: real numbers are needed"):
        make().search(values, GALLERY)


def test_ten_results_unless_told_otherwise():
    assert make().search(QUERIES, GALLERY)[0].shape == (7, 10)


@pytest.mark.parametrize("block", [1, 3, 65536])
def test_each_row_comes_once_where_scores_are_equal(monkeypatch, block):
    monkeypatch.setattr(exact_search, "GALLERY_BLOCK", block)
    signs = np.array([[1, 1, 1, 1], [1, 1, 1, -1], [1, 1, -1, -1]], np.float32)  # exact in float32
    gallery = signs[[1, 0, 2, 1, 0, 1, 2]] * np.array([[1], [2], [1], [4], [1], [1], [8]], np.float32)
    index, scores = identity(4).search(signs[:1], gallery, 5)
    assert set(index[0, :2]) == {1, 4} and set(index[0, 2:]) == {0, 3, 5}
    assert scores.tolist() == [[1, 1, 0.5, 0.5, 0.5]]


@pytest.mark.parametrize("block", [1, 2, 1000])
def test_queries_in_blocks_give_the_same(monkeypatch, block):
    expected = make().search(QUERIES, GALLERY, 4)
    monkeypatch.setattr(exact_search, "QUERY_BLOCK", block)
    np.testing.assert_array_equal(make().search(QUERIES, GALLERY, 4)[0], expected[0])


def test_a_memory_mapped_gallery_is_only_read(tmp_path):
    np.save(tmp_path / "gallery.npy", GALLERY)
    mapped = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    for found, expected in zip(make().search(QUERIES, mapped), make().search(QUERIES, GALLERY), strict=True):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.load(tmp_path / "gallery.npy"), GALLERY)


def test_no_query_gives_no_row():
    nothing = np.empty((0, DX))
    assert make().translate(nothing).shape == (0, DY)
    index, scores = make().search(nothing, GALLERY, 3)
    assert index.shape == scores.shape == (0, 3)


@pytest.mark.parametrize("shape", [(7, DX + 1), (7, DY), (DY,), (1, 7, DX)])
def test_queries_of_another_shape_are_an_error(shape):
    with pytest.raises(ValueError, match=r"Queries have shape .*; mlp1 needs \(N, 6\) or \(6,\)"):
        make().translate(np.ones(shape))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_queries_that_are_not_finite_are_counted(value):
    damaged = QUERIES.copy()
    damaged[[2, 5], 1] = value
    for call in (make().raw, make().translate, lambda x: make().search(x, GALLERY)):
        with pytest.raises(ValueError, match=r"2 of 7 queries are not finite in float32, first rows: \[2, 5\]"):
            call(damaged)


def test_queries_whose_translation_overflows_are_an_error_rather_than_nan():
    translator = make()
    with torch.no_grad():
        translator.model[-1].weight.mul_(1e20)
    large = QUERIES.copy()
    large[3] = 1e25
    for call in (translator.raw, translator.translate, lambda x: translator.search(x, GALLERY)):
        with pytest.raises(ValueError, match=r"1 of 7 queries are too large to translate, first rows: \[3\]"):
            call(large)


@pytest.mark.filterwarnings("ignore:overflow")
def test_queries_that_are_not_finite_in_float32_are_an_error_rather_than_nan():
    damaged = QUERIES.copy()
    damaged[2, 1] = 1e300
    with pytest.raises(ValueError, match="1 of 7 queries"):
        make().translate(damaged)


@pytest.mark.parametrize("shape", [(23, DX), (DY,), (0, DY)])
def test_galleries_of_another_shape_are_an_error(shape):
    with pytest.raises(ValueError, match=r"The gallery has shape .*\(M, 9\) with M > 0 is needed"):
        make().search(QUERIES, np.ones(shape, np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_gallery_that_is_not_finite_is_an_error_that_says_where(monkeypatch, value):
    monkeypatch.setattr(exact_search, "GALLERY_BLOCK", 10)
    damaged = GALLERY.copy()
    damaged[22, 8] = value
    with pytest.raises(ValueError, match="between rows 20 and 23"):
        make().search(QUERIES, damaged)


@pytest.mark.parametrize("k", [0, -1, 2.0, "3", None])
def test_k_that_is_no_integer_from_one_on_is_an_error(k):
    with pytest.raises(ValueError, match=f"k = {k!r}: must be an integer of at least 1"):
        make().search(QUERIES, GALLERY, k)


def test_rows_of_zeros_in_a_gallery_are_an_error_that_names_them(monkeypatch, tmp_path):
    monkeypatch.setattr(exact_search, "GALLERY_BLOCK", 10)
    damaged = GALLERY.copy()
    damaged[[12, 22]] = 0
    with pytest.raises(ValueError, match=r"1 row\(s\) of zeros, without a direction: \[12\]"):
        make().search(QUERIES, damaged)
    judged, _ = judged_run(tmp_path)
    with pytest.raises(ValueError, match="zeros"):
        judged.popularity(np.zeros((3, 5), np.float32))


def test_a_gallery_may_be_a_list():
    for found, expected in zip(
        make().search(QUERIES, GALLERY.tolist(), 3), make().search(QUERIES, GALLERY, 3), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def test_a_run_named_from_here_is_found_from_elsewhere(monkeypatch, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    judged_run(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    loaded = Translator.load("run", "linear")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert len(loaded.popularity(np.ones((3, 5), np.float32))) == 3


@pytest.fixture
def run(tmp_path):
    """A run whose best model is mlp1; chance stands above it, which must not matter."""
    for name in ("linear", "mlp1", "bigjump"):
        torch.manual_seed(1)
        shape = {"text_dim": DX, "image_dim": DY, "hidden": 8, "dropout": 0.0}
        save_model(tmp_path, name, build_model(name, **shape), {"architecture": shape})
    mrr = {"chance": 0.9, "linear": 0.3, "mlp1": 0.5, "bigjump": 0.4}
    rows = [{"model": n, "mrr": v, "weights": storage.weights_digest(tmp_path, n)} for n, v in mrr.items()]
    (tmp_path / "leaderboard.json").write_text(json.dumps(rows))
    return tmp_path


def test_the_best_row_other_than_chance_is_loaded(run):
    chosen = Translator.load(run)
    assert (chosen.name, chosen.text_dim, chosen.image_dim) == ("mlp1", DX, DY)
    assert not chosen.model.training
    assert Translator.load(str(run)).name == "mlp1"
    torch.manual_seed(1)
    again = Translator("mlp1", build_model("mlp1", DX, DY, hidden=8), DX, DY)
    np.testing.assert_array_equal(chosen.raw(QUERIES), again.raw(QUERIES))


def test_a_named_model_needs_no_leaderboard(run):
    (run / "leaderboard.json").unlink()
    assert Translator.load(run, "bigjump").name == "bigjump"
    with pytest.raises(CheckpointError, match="leaderboard.json: no such file"):
        Translator.load(run)


def test_a_missing_or_damaged_model_is_named(run):
    with pytest.raises(CheckpointError, match="mlp2.safetensors: no such file"):
        Translator.load(run, "mlp2")
    model_path(run, "mlp1").write_bytes(b"garbage")
    with pytest.raises(CheckpointError, match="mlp1.safetensors"):
        Translator.load(run, "mlp1")


def test_a_leaderboard_of_other_weights_chooses_nothing(run):
    metadata = {"architecture": {"text_dim": DX, "image_dim": DY, "hidden": 8, "dropout": 0.0}}
    same = Translator.load(run, "linear").model
    save_model(run, "linear", same, {**metadata, "history": [{"seconds": 1.5}]})
    assert Translator.load(run).name == "mlp1"  # the same weights: seconds do not count
    torch.nn.init.ones_(next(same.parameters()))
    save_model(run, "linear", same, metadata)
    with pytest.raises(CheckpointError, match="leaderboard.json: linear changed since.*Run notebook 05 again"):
        Translator.load(run)


def test_a_run_that_has_not_finished_says_so(run):
    (run / "leaderboard.json").unlink()
    with pytest.raises(CheckpointError, match=r"leaderboard.json: no such file.*Wait until the series has finished"):
        Translator.load(run)


@pytest.mark.parametrize("text", ["{", "[1]", '[{"model": "linear"}]', "[]"])
def test_a_damaged_leaderboard_is_named(run, text):
    (run / "leaderboard.json").write_text(text)
    with pytest.raises(CheckpointError, match="leaderboard.json: no readable leaderboard"):
        Translator.load(run)


def judged_run(folder):
    """A run with one model and a bank, as notebook 05 leaves it."""
    model = build_model("linear", 6, 5)
    storage.save_model(folder, "linear", model, {"architecture": {"text_dim": 6, "image_dim": 5}})
    bank = np.random.default_rng(1).normal(size=(30, 6)).astype(np.float32)
    hubness.save_query_bank(folder, bank, np.zeros((len(bank), MARKS)), {"linear": 12.0})
    return Translator.load(folder, "linear"), bank


def test_search_against_hubness_subtracts_the_popularity(tmp_path):
    ours, bank = judged_run(tmp_path)
    rng = np.random.default_rng(2)
    x, gallery = rng.normal(size=(9, 6)).astype(np.float32), rng.normal(size=(20, 5)).astype(np.float32) + 1
    popularity = ours.popularity(gallery)
    expected = hubness.attention(torch.from_numpy(ours.raw(bank)), gallery, 12.0).popularity.numpy()
    np.testing.assert_allclose(popularity, expected, atol=1e-6)
    scores = ours.translate(x) @ (gallery / np.linalg.norm(gallery, axis=1, keepdims=True)).T - popularity
    index, found = ours.search(x, gallery, k=4, hubness=True)
    np.testing.assert_array_equal(index, np.argsort(-scores, axis=1)[:, :4])
    np.testing.assert_allclose(found, np.sort(scores, axis=1)[:, ::-1][:, :4], atol=1e-5)
    again, _ = ours.search(x, gallery, k=4, hubness=popularity)
    np.testing.assert_array_equal(index, again)
    assert not np.array_equal(index, ours.search(x, gallery, k=4)[0])


def test_what_was_judged_before_the_model_changed_is_refused(tmp_path):
    ours, _ = judged_run(tmp_path)
    dot_product.save(tmp_path, {"linear": np.zeros(5, dtype=np.float32)})
    x, gallery = np.ones((2, 6), dtype=np.float32), np.eye(5, dtype=np.float32)
    ours.search(x, gallery, hubness=True)
    torch.nn.init.ones_(next(ours.model.parameters()))
    storage.save_model(tmp_path, "linear", ours.model, {"architecture": {"text_dim": 6, "image_dim": 5}})
    again = Translator.load(tmp_path, "linear")
    stale = ((ours, "not the weights that were loaded"), (again, "made for other weights.*Run notebook 05"))
    for loaded, message in stale:
        with pytest.raises(CheckpointError, match=message):
            loaded.search(x, gallery, hubness=True)
        with pytest.raises(CheckpointError, match=message):
            loaded.for_dot_product(x)


def test_a_run_that_is_trained_and_judged_again_is_not_mixed_with_weights_in_memory(tmp_path):
    ours, bank = judged_run(tmp_path)
    x, gallery = np.ones((2, 6), dtype=np.float32), np.eye(5, dtype=np.float32)
    other = build_model("linear", 6, 5)
    storage.save_model(tmp_path, "linear", other, {"architecture": {"text_dim": 6, "image_dim": 5}})
    hubness.save_query_bank(tmp_path, bank, np.zeros((len(bank), MARKS)), {"linear": 3.0})
    dot_product.save(tmp_path, {"linear": np.ones(5, dtype=np.float32)})
    for use in (lambda: ours.popularity(gallery), lambda: ours.for_dot_product(x)):
        with pytest.raises(CheckpointError, match="Load the translator again"):
            use()
    assert Translator.load(tmp_path, "linear").popularity(gallery).shape == (5,)


def test_for_dot_product_subtracts_the_stored_correction(tmp_path):
    ours, _ = judged_run(tmp_path)
    x = np.random.default_rng(3).normal(size=(4, 6)).astype(np.float32)
    with pytest.raises(CheckpointError, match="Run notebook 05"):
        ours.for_dot_product(x)
    shift = np.arange(5, dtype=np.float32)
    dot_product.save(tmp_path, {"linear": shift})
    np.testing.assert_array_equal(ours.for_dot_product(x), ours.translate(x) - shift)
    with pytest.raises(CheckpointError, match="not loaded from a run"):
        Translator("linear", ours.model, 6, 5).for_dot_product(x)


def test_search_against_hubness_needs_a_bank_and_a_fitting_popularity(tmp_path):
    ours, _ = judged_run(tmp_path)
    x, gallery = np.ones((2, 6), dtype=np.float32), np.eye(5, dtype=np.float32)
    with pytest.raises(ValueError, match=r"hubness has shape \(4,\); the gallery needs \(5,\)"):
        ours.search(x, gallery, hubness=np.zeros(4))
    with pytest.raises(ValueError, match="hubness holds NaN or Inf in 2 place"):
        ours.search(x, gallery, hubness=np.array([0, np.nan, 0, np.inf, 0]))
    with pytest.raises(ValueError, match="NaN or Inf"):
        ours.search(x, np.full((3, 5), np.nan, dtype=np.float32), hubness=True)
    (tmp_path / hubness.QUERY_BANK_FILE).unlink()
    with pytest.raises(CheckpointError, match="Run notebook 05"):
        ours.search(x, gallery, hubness=True)
    unbound = Translator("linear", ours.model, 6, 5)
    with pytest.raises(CheckpointError, match="not loaded from a run"):
        unbound.search(x, gallery, hubness=True)
