"""Synthetic data for tests and benchmarks: a seeded stand-in for paired embeddings, in the challenge's own format.

Images are points of a clustered latent space whose scales follow a power law. A caption keeps a random part of its
image's latents, as a sentence names a part of a photo, and adds a style of its own. One linear + ReLU map a space
leads to embeddings with power-law noise and a large common offset. The words of a caption name the strongest latents
that it kept, so its text says what its embedding holds.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from helpers.errors import DataError
from helpers.system.devices import one_blas_thread
from helpers.system.paths import absolute

VERSION = 5
"""Part of what `synthetic.json` records: raise it when the output of the generator changes."""
FILES = ("train.npz", "captions.txt", "test.clean.npz", "synthetic.json")

# Fitted to the order of methods on real data (Flickr8k, docs/results.md: chance << least squares < Procrustes,
# regression networks below Procrustes, BigJump clearly above, median rank of a few), not to any single number. The
# large common offset is what least squares suffers from most, the strong style in few dimensions what whitening tames.
N_LATENTS, N_CLUSTERS, N_STYLES = 160, 24, 16
CLUSTER_SHARE = 0.3  # of the latents' variance
LATENT_DECAY = 0.35
KEEP = 0.15  # share of the latents that a caption keeps
STYLE_SHARE = 0.6  # of a caption's variance
RELU_WEIGHT = 4.0  # of the nonlinear part, against 1 for the linear part
NOISE_SHARE = 0.03  # of the variance of an embedding
NOISE_DECAY = 1.5
MEAN_SHARE = 0.75  # of the energy, in the common offset
DUPLICATES = 0.03  # of the images
TEXT_NORM, IMAGE_NORM = 10.0, 26.0  # the challenge's images: 25.9

_ATTRIBUTES = "small,young,brown,smiling,white,wet,old,black,tall,red,happy,spotted,blond,tired,striped".split(",")
_SUBJECTS = "dog,man,child,woman,bird,boy,horse,girl,cyclist,player,cat,runner,climber,dancer,swimmer".split(",")
_ACTIONS = "runs,jumps,sits,plays,stands,swims,walks,sleeps,waves,climbs,turns,looks up,shouts,digs,waits".split(",")
_PLACES = "on the beach,in snow,on a street,in grass,by a river,on a hill,in a park,at night,on a bench".split(",")
_WORDS = (_SUBJECTS, _ACTIONS, _PLACES, _ATTRIBUTES)
_SIGNS = '"STOP","OPEN","42","SALE"'.split(",")


def _power_law(n: int, decay: float) -> np.ndarray:
    """(n,) standard deviations proportional to rank^-decay, with squares that sum to 1."""
    scale = np.arange(1, n + 1) ** -decay
    return (scale / np.sqrt((scale**2).sum())).astype(np.float32)


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32)


class _Space:
    """One encoder: latents (n, k) to embeddings (n, dim), by maps that are drawn once."""

    def __init__(
        self, rng: np.random.Generator, n_latents: int, dim: int, norm: float, *, relu_weight: float, noise_share: float
    ) -> None:
        width = 2 * n_latents
        self.linear = _normal(rng, n_latents, dim) / np.sqrt(dim)
        self.inner = _normal(rng, n_latents, width)
        self.bias = 0.5 * _normal(rng, width)
        self.outer = _normal(rng, width, dim) / np.sqrt(width * dim)
        self.noise = _power_law(dim, NOISE_DECAY)[:, None] * _normal(rng, dim, dim) / np.sqrt(dim)
        offset = _normal(rng, dim)
        self.offset = offset / np.linalg.norm(offset)
        self.norm, self.relu_weight, self.noise_share = norm, relu_weight, noise_share
        self.moments: tuple[np.ndarray, float] | None = None

    def __call__(self, rng: np.random.Generator, latents: np.ndarray) -> np.ndarray:
        """Embed latents (n, k); the first call fixes the centring, which later calls share."""
        hidden = np.maximum(latents @ self.inner + self.bias, 0.0)  # (n, width)
        signal = latents @ self.linear + self.relu_weight * (hidden @ self.outer)  # (n, dim)
        if self.moments is None:
            mean = signal.mean(0)
            self.moments = mean, float(np.sqrt(((signal - mean) ** 2).sum(1).mean()))
        mean, spread = self.moments
        varying = np.sqrt(1 - self.noise_share) * (signal - mean) / spread
        varying += np.sqrt(self.noise_share) * (_normal(rng, *signal.shape) @ self.noise)
        embedded = np.sqrt(MEAN_SHARE) * self.offset + np.sqrt(1 - MEAN_SHARE) * varying
        return (self.norm * embedded).astype(np.float32)


def _image_latents(rng: np.random.Generator, n: int, centres: np.ndarray) -> np.ndarray:
    """(n, k) latents around cluster centres; a few images nearly repeat another, as in a burst of photos."""
    own = _normal(rng, n, centres.shape[1])  # of each image, beside its cluster's
    cluster = rng.integers(len(centres), size=n)
    latents = np.sqrt(CLUSTER_SHARE) * centres[cluster] + np.sqrt(1 - CLUSTER_SHARE) * own
    copies, originals = np.array_split(rng.permutation(n)[: 2 * int(n * DUPLICATES)], 2)
    latents[copies] = latents[originals] + 0.1 * own[copies]
    return latents * _power_law(centres.shape[1], LATENT_DECAY)


def _caption_latents(rng: np.random.Generator, latents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a caption says of its image: latents kept (n, k), and those beside its style (n, k + N_STYLES)."""
    kept = latents * (rng.random(latents.shape) < KEEP)
    style = _normal(rng, len(latents), N_STYLES) / np.sqrt(N_STYLES)
    content = kept / np.sqrt(KEEP) * np.sqrt(1 - STYLE_SHARE)
    return kept, np.hstack([content, np.sqrt(STYLE_SHARE) * style]).astype(np.float32)


def _sentence(rng: np.random.Generator, kept: np.ndarray) -> str:
    """A caption from the latents that it kept: latent 4 j + c, where positive, is word j of category c."""
    words = []
    for category, vocabulary in enumerate(_WORDS):
        values = kept[category::4][: len(vocabulary)]
        words.append(vocabulary[int(values.argmax())] if values.max() > 0 else "")
    subject, action, place, attribute = words
    text = " ".join(word for word in ("a", attribute, subject or "figure", action, place) if word)
    if text.startswith("a old"):
        text = "an" + text[1:]
    extra = rng.random()
    if extra < 0.15:
        text += f", beside a sign that says {_SIGNS[rng.integers(len(_SIGNS))]}"
    elif extra < 0.3:
        text = f"in this photo, {text}"
    return text + " ."


def _metadata(sizes: dict[str, int]) -> dict[str, Any]:
    return {f"metadata/{key}": np.array([value], dtype=np.int64) for key, value in sizes.items()}


def _write_set(folder: Path, settings: dict[str, Any]) -> None:
    rng = np.random.default_rng(settings["seed"])
    m, per_image, n_queries = settings["n_images"], settings["captions_per_image"], settings["n_queries"]
    text_dim, image_dim = settings["text_dim"], settings["image_dim"]
    centres = _normal(rng, N_CLUSTERS, N_LATENTS)
    turned = {name: settings[name] for name in ("relu_weight", "noise_share")}
    to_text = _Space(rng, N_LATENTS + N_STYLES, text_dim, TEXT_NORM, **turned)
    to_image = _Space(rng, N_LATENTS, image_dim, IMAGE_NORM, **turned)
    latents = _image_latents(rng, m, centres)
    targets = np.repeat(np.arange(m), per_image)  # (N,)
    kept, described = _caption_latents(rng, latents[targets])
    texts = [_sentence(rng, row) for row in kept]
    names = [f"{1_000_000_000 + 92_795 * (i + 1)}.jpg" for i in range(m)]
    label = np.zeros((len(targets), m), dtype=bool)
    label[np.arange(len(targets)), targets] = True
    sizes = {"num_captions": len(targets), "num_images": m, "embedding_dim_text": text_dim}
    sizes["embedding_dim_image"] = image_dim
    arrays = _metadata(sizes)
    arrays |= {"captions/ids": np.arange(1, len(targets) + 1), "captions/text": np.array(texts)}
    arrays |= {"captions/embeddings": to_text(rng, described), "captions/label": label}
    arrays |= {"images/names": np.array(names), "images/embeddings": to_image(rng, latents)}
    np.savez(folder / "train.npz", **arrays)
    lines = [f"{names[i]},{text}\n" for i, text in zip(targets, texts, strict=True)]
    (folder / "captions.txt").write_text("image,caption\n" + "".join(lines), encoding="utf-8", newline="\n")
    kept, described = _caption_latents(rng, _image_latents(rng, n_queries, centres))
    sizes = {"num_captions": n_queries, "embedding_dim_text": text_dim, "embedding_dim_image": image_dim}
    arrays = _metadata(sizes)
    arrays |= {"captions/ids": np.arange(1, n_queries + 1), "captions/embeddings": to_text(rng, described)}
    arrays |= {"captions/text": np.array([_sentence(rng, row) for row in kept])}
    np.savez(folder / "test.clean.npz", **arrays)
    (folder / "synthetic.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _is_current(folder: Path, settings: dict[str, Any]) -> bool:
    try:
        recorded = json.loads((folder / "synthetic.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return recorded == settings and all((folder / name).is_file() for name in FILES)


@one_blas_thread()
def write_synthetic(
    directory: str | Path,
    *,
    n_images: int = 1200,
    captions_per_image: int = 5,
    text_dim: int = 1024,
    image_dim: int = 1536,
    n_queries: int = 100,
    seed: int = 0,
    relu_weight: float = RELU_WEIGHT,
    noise_share: float = NOISE_SHARE,
) -> Path:
    """Write a synthetic set: `train.npz`, `captions.txt`, `test.clean.npz` and `synthetic.json`, all or none.

    Args:
        directory: folder to hold the set. A complete set of the same settings is left as it is; any other earlier
            synthetic set is replaced.
        n_images, captions_per_image: size of the training set.
        text_dim, image_dim: widths of the embeddings.
        n_queries: captions of the test set, of images that the training set does not hold.
        seed: of everything drawn.
        relu_weight: of the nonlinear part of both encoders, against 1 for the linear part.
        noise_share: of the variance of an embedding, from 0 to 1.

    Returns:
        `directory`, absolute.

    Raises:
        DataError: the folder holds files that are no part of a synthetic set; they are never overwritten.
    """
    directory = absolute(directory)
    settings: dict[str, Any] = {"version": VERSION, "n_images": n_images, "captions_per_image": captions_per_image}
    settings |= {"text_dim": text_dim, "image_dim": image_dim, "n_queries": n_queries, "seed": seed}
    settings |= {"relu_weight": relu_weight, "noise_share": noise_share}
    if _is_current(directory, settings):
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(
        directory.with_name(f".{directory.name}.lock"), mode=0o666
    ):  # a second process waits, and finds it made
        if not _is_current(directory, settings):
            _replace_set(directory, settings)
    return directory


def _replace_set(directory: Path, settings: dict) -> None:
    """Write the set beside its place and move it there, whole."""
    found = sorted(path.name for path in directory.iterdir()) if directory.exists() else []
    if found and ("synthetic.json" not in found or not set(found) <= set(FILES)):
        raise DataError(
            f"{directory}: holds other files ({', '.join(found[:5])}). Give a synthetic set its own folder."
        )
    with tempfile.TemporaryDirectory(prefix=f".{directory.name}-", dir=directory.parent) as scratch:
        made = Path(scratch, "made")
        made.mkdir()
        _write_set(made, settings)
        if found:
            os.replace(directory, Path(scratch, "old"))
        os.replace(made, directory)
