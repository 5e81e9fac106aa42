"""A synthetic set: format, determinism, and the geometry that it promises."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from helpers.data import synthetic
from helpers.data.captions import parse_captions
from helpers.data.synthetic import FILES, write_synthetic
from helpers.errors import DataError
from helpers.models.geometry import covariance, mean_share, spectrum

SMALL = {"n_images": 60, "text_dim": 32, "image_dim": 48, "n_queries": 7}


def _arrays(path):
    with np.load(path, allow_pickle=False) as archive:  # object arrays would raise here
        return {key: archive[key] for key in archive.files}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_synthetic(tmp_path_factory.mktemp("data") / "made", **SMALL)


def test_train_npz_has_the_challenge_format(made):
    train = _arrays(made / "train.npz")
    sizes = {"num_captions": 300, "num_images": 60, "embedding_dim_text": 32, "embedding_dim_image": 48}
    for name, size in sizes.items():
        value = train.pop(f"metadata/{name}")
        assert value.dtype == np.int64 and value.tolist() == [size]
    metadata = {key: (value.shape, value.dtype.kind, value.dtype.itemsize) for key, value in train.items()}
    assert metadata.pop("captions/text")[:2] == ((300,), "U")
    assert metadata.pop("images/names")[:2] == ((60,), "U")
    assert metadata == {
        "captions/ids": ((300,), "i", 8),
        "captions/embeddings": ((300, 32), "f", 4),
        "captions/label": ((300, 60), "b", 1),
        "images/embeddings": ((60, 48), "f", 4),
    }
    assert np.array_equal(train["captions/label"].argmax(1), np.repeat(np.arange(60), 5))
    assert (train["captions/label"].sum(1) == 1).all()
    assert len(set(train["images/names"])) == 60
    assert np.isfinite(train["captions/embeddings"]).all() and np.isfinite(train["images/embeddings"]).all()


def test_captions_txt_follows_the_embeddings_and_holds_commas_and_quotes(made):
    train = _arrays(made / "train.npz")
    assert (made / "captions.txt").read_text(encoding="utf-8").startswith("image,caption\n")
    names, texts = zip(*parse_captions(made / "captions.txt"), strict=True)
    assert list(names) == np.repeat(train["images/names"], 5).tolist()
    assert list(texts) == train["captions/text"].tolist()
    assert any("," in text for text in texts) and any('"' in text for text in texts)


def test_test_npz_has_the_challenge_format(made):
    test = _arrays(made / "test.clean.npz")
    assert {key for key in test if key.startswith("metadata/")} == {
        "metadata/num_captions",
        "metadata/embedding_dim_text",
        "metadata/embedding_dim_image",
    }
    assert test["captions/ids"].tolist() == list(range(1, 8))
    assert test["captions/embeddings"].shape == (7, 32) and test["captions/embeddings"].dtype == np.float32
    assert test["captions/text"].shape == (7,) and test["captions/text"].dtype.kind == "U"


def test_the_seed_decides_everything(made, tmp_path):
    again, other = write_synthetic(tmp_path / "again", **SMALL), write_synthetic(tmp_path / "other", **SMALL, seed=1)
    for name in ("train.npz", "test.clean.npz"):
        first, same, different = _arrays(made / name), _arrays(again / name), _arrays(other / name)
        assert all(np.array_equal(first[key], same[key]) for key in first)
        assert not np.allclose(first["captions/embeddings"], different["captions/embeddings"])
    assert (made / "captions.txt").read_bytes() == (again / "captions.txt").read_bytes()


def test_a_current_set_is_left_alone_and_an_old_one_replaced(tmp_path, monkeypatch):
    folder = write_synthetic(tmp_path / "made", **SMALL)
    before = {name: (folder / name).stat().st_mtime_ns for name in FILES}
    assert write_synthetic(folder, **SMALL) == folder
    assert {name: (folder / name).stat().st_mtime_ns for name in FILES} == before
    monkeypatch.setattr(synthetic, "VERSION", synthetic.VERSION + 1)
    write_synthetic(folder, **SMALL)
    assert json.loads((folder / "synthetic.json").read_text())["version"] == synthetic.VERSION
    (folder / "captions.txt").unlink()  # an incomplete set is made anew
    write_synthetic(folder, **SMALL)
    assert (folder / "captions.txt").exists()
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"made", ".made.lock"}  # nothing temporary


def test_files_of_others_are_never_replaced(tmp_path):
    (tmp_path / "train.npz").write_bytes(b"mine")
    with pytest.raises(DataError, match="own folder"):
        write_synthetic(tmp_path, **SMALL)
    assert (tmp_path / "train.npz").read_bytes() == b"mine"


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "_sentence", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_synthetic(tmp_path / "made", **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == [".made.lock"]


def test_a_second_process_waits_and_finds_the_set_made(tmp_path):
    made = []
    with ThreadPoolExecutor(4) as pool:
        for folder in pool.map(lambda _: write_synthetic(tmp_path / "made", **SMALL), range(4)):
            made.append((folder / "train.npz").stat().st_mtime_ns)
    assert len(set(made)) == 1 and not list(tmp_path.glob(".made-*"))


@pytest.mark.parametrize("turn", [{"relu_weight": 0.0}, {"noise_share": 0.3}])
def test_a_turned_property_is_recorded_and_changes_the_embeddings_alone(made, tmp_path, turn):
    folder = write_synthetic(tmp_path / "turned", **SMALL, **turn)
    assert json.loads((folder / "synthetic.json").read_text()).items() >= turn.items()
    before, after = _arrays(made / "train.npz"), _arrays(folder / "train.npz")
    assert not np.allclose(before["captions/embeddings"], after["captions/embeddings"])
    assert all(np.array_equal(before[key], after[key]) for key in before if not key.endswith("embeddings"))


def test_without_nonlinearity_and_noise_embeddings_are_affine_in_few_latents(tmp_path):
    sizes = {"n_images": 300, "text_dim": 200, "image_dim": 200, "n_queries": 1}
    ranks = {}
    for weight in (0.0, synthetic.RELU_WEIGHT):
        train = _arrays(
            write_synthetic(tmp_path / str(weight), **sizes, relu_weight=weight, noise_share=0.0) / "train.npz"
        )
        images = train["images/embeddings"].astype(np.float64)
        ranks[weight] = np.linalg.matrix_rank(images - images.mean(0), tol=1e-2)
    assert ranks[0.0] == synthetic.N_LATENTS and ranks[synthetic.RELU_WEIGHT] > synthetic.N_LATENTS


def test_geometry_of_the_embeddings(tmp_path):
    folder = write_synthetic(tmp_path / "made", n_images=400, text_dim=64, image_dim=96, n_queries=1)
    train = _arrays(folder / "train.npz")
    for key, norm in (("captions/embeddings", synthetic.TEXT_NORM), ("images/embeddings", synthetic.IMAGE_NORM)):
        rows = train[key]
        mean, cov = covariance(rows)
        assert mean_share(mean, cov) == pytest.approx(synthetic.MEAN_SHARE, abs=0.1)
        assert np.linalg.norm(rows, axis=1).mean() == pytest.approx(norm, rel=0.1)
        values = spectrum(cov)  # a few directions hold much of the variance, and the tail is long
        assert values[:10].sum() > 0.3 * values.sum() and values[len(values) // 2] > 0
    unit = train["images/embeddings"] - train["images/embeddings"].mean(0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    nearest = (unit @ unit.T - 2 * np.eye(len(unit))).max(1)
    assert 0.03 < (nearest > 0.8).mean() < 0.1  # near duplicates, in pairs
