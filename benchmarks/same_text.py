"""What it brings that an image is no negative of a caption whose very text also describes it (`exclude_same_text`).

`python -m benchmarks.same_text --data-dir DIR [--method bigjump]`. One network of the
recipe plus, or BigJump, is trained with and without, from the same seed, on cross-validation folds of the training
images of split 0. The images of the folds judge; the validation split is not looked at.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks import common, protocol
from benchmarks.baselines.method import SEARCH_SEED
from benchmarks.baselines.networks import build_bigjump
from helpers.data.pairs import PairedEmbeddings, load_pairs
from helpers.data.repeats import count_repeats
from helpers.data.split import make_split
from helpers.data.training_data import TrainingData
from helpers.evaluation import metrics
from helpers.system.devices import choose_device, seed_all
from helpers.system.files import write_json
from helpers.training import loop, plus
from helpers.training.folds import make_fold
from helpers.training.objectives import BigJumpConfig, Objective
from helpers.training.plus_choice import Networks
from helpers.training.plus_objective import PlusObjective
from helpers.training.same_text import SameText
from helpers.training.settings import PlusConfig

SAMPLES = 2000
Start = tuple[torch.nn.Module, Objective]


def network_of_plus(fold: TrainingData, seed: int, epochs: int, temperature: float, exclude: bool) -> Start:
    """One network of the recipe plus, which is judged by its best epoch."""
    settings = plus.derived(PlusConfig(epochs=epochs, patience=epochs, seed=seed, exclude_same_text=exclude), fold)
    kind: Networks = {"temperature": temperature, "whitening": 0.0, "blocks": 0, "epochs": epochs, "members": 1}
    model = plus.build_networks(fold, settings, {"networks": kind})
    return model, PlusObjective(settings, fold, model, {"networks": kind}, keeps_last=False)


def bigjump(fold: TrainingData, seed: int, epochs: int, temperature: float, exclude: bool) -> Start:
    """BigJump at its published settings but for the number of epochs; it has temperatures of its own."""
    seed_all(seed)
    return build_bigjump(BigJumpConfig(epochs=epochs, seed=seed, exclude_same_text=exclude), fold)


METHODS: dict[str, Callable[[TrainingData, int, int, float, bool], Start]] = {
    "plus": network_of_plus,
    "bigjump": bigjump,
}


def trained(start: Start, label: str) -> tuple[list[float], np.ndarray]:
    """MRR of each epoch, and the ranks (V,) of the best."""
    model, objective = start
    fold = objective.data
    history = loop.fit(model.to(fold.device), objective, label)
    with torch.inference_mode():
        found = loop.translations(model, fold.val_text)
    ranks = metrics.ranks(found, fold.val_images, fold.val_positive, statistics=fold.gallery_statistics)
    return [entry["mrr"] for entry in history], ranks


def compare(train: TrainingData, method: str, folds: Sequence[int], epochs: int, temperature: float) -> dict:
    """Both trainings on each fold, and the paired difference with its interval over the images of the folds."""
    rows, differences, images = [], [], []
    for number in folds:
        fold = make_fold(train, PlusConfig(seed=SEARCH_SEED), number)
        (off, without), (on, excluded) = (
            trained(
                METHODS[method](fold, number, epochs, temperature, wanted),
                f"{method}, fold {number}, exclude_same_text={wanted}",
            )
            for wanted in (False, True)
        )
        rows.append({"fold": number, "mrr_without": off, "mrr_with": on})
        differences.append(1 / excluded - 1 / without)
        images.append(fold.val_positive.cpu().numpy() + number * len(train.images))
        print(f"fold {number}: {max(off):.4f} without, {max(on):.4f} with", flush=True)
    change = np.concatenate(differences)
    low, high = metrics.bootstrap_interval(change, np.concatenate(images), samples=SAMPLES)
    gain = {"difference": float(change.mean()), "low": low, "high": high}
    return {"epochs": epochs, "temperature": temperature if method == "plus" else None, "folds": rows, "gain": gain}


def about(data: PairedEmbeddings, train: TrainingData) -> dict:
    """How much texts repeat."""
    same = SameText.of(train)
    return {
        "repeats": vars(count_repeats(data, make_split(data.targets, data.n_images, protocol.VAL_RATIO, 0))),
        "training_images": len(train.images),
        "training_captions_with_excluded_images": 0.0 if same is None else float((same.count > 1).float().mean()),
        "excluded_images_at_most": 0 if same is None else same.most - 1,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--method", choices=METHODS, default="plus")
    parser.add_argument("--folds", type=common.at_least(0), nargs="+", default=[0, 1, 2], help="numbers of the folds")
    parser.add_argument("--epochs", type=common.at_least(1), default=8)
    parser.add_argument("--temperature", type=float, default=0.055, help="of plus, in its own units")
    parser.add_argument("--train-images", type=int, help="keep a seeded choice of so many training images")
    options = parser.parse_args()
    name = options.data_dir.resolve().name
    path = common.RESULTS_DIR / f"same_text_{name}.json"
    data = load_pairs(options.data_dir)
    split = make_split(data.targets, data.n_images, protocol.VAL_RATIO, 0)
    if options.train_images is not None:
        split = protocol.fewer(split, options.train_images, 0)
    train = TrainingData.of(data.text, data.images, split, choose_device(), captions=data.captions)
    found = compare(train, options.method, options.folds, options.epochs, options.temperature)
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    content = {"benchmark": "same_text", "data": name, "versions": common.versions()}
    write_json(path, {**kept, **content, options.method: {**about(data, train), **found}})
    gain = found["gain"]
    print(f"{name}, {options.method}: {gain['difference']:+.4f} ({gain['low']:+.4f} to {gain['high']:+.4f})")


if __name__ == "__main__":
    main()
