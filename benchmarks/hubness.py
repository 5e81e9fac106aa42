"""Ways to reduce hubness beside one another, for one translator each: `python -m benchmarks.hubness --data-dir DIR`.

The translator's settings are those of `benchmarks.accuracy`, whose table of searches is used and added to. It is fitted
twice: on a fold, where each correction's setting is chosen by MRR, and on all training images, where the chosen setting
is scored once. Corrections that look at the other judged captions are marked and stand last.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks import accuracy, common, protocol
from benchmarks.baselines import METHODS
from benchmarks.baselines.method import SEARCH_SEED, Method
from benchmarks.corrections import CORRECTIONS, Correction, Scene
from benchmarks.store import Store
from helpers.data.pairs import PairedEmbeddings, load_pairs
from helpers.data.synthetic import write_synthetic
from helpers.errors import UserError
from helpers.evaluation import metrics
from helpers.evaluation.leaderboard import format_table
from helpers.system.devices import choose_device
from helpers.system.files import write_json

TRANSLATORS = ["cca", "bigjump_plus"]
COLUMNS = (
    ("mrr", "MRR", ".4f"),
    ("difference", "to cosine", "+.4f"),
    ("low", "low", "+.4f"),
    ("high", "high", "+.4f"),
    ("recall_at_10", "R@10", ".3f"),
    ("fold_mrr", "on the fold", ".4f"),
    ("seconds", "s", ".1f"),
)


def best_setting(correction: Correction, fold: Scene) -> tuple[dict, float]:
    """The setting with the highest MRR on the fold, and that MRR; the first of equals."""
    tried = [(setting, float(np.mean(1 / correction.ranks(fold, setting)))) for setting in correction.settings]
    return max(tried, key=lambda pair: pair[1])


def corrected(fold: Scene, scored: Scene, corrections: Sequence[Correction] = CORRECTIONS) -> list[dict]:
    """One row a correction, the best first, those that look at other judged captions last."""
    plain, groups = scored.ranks(), scored.positive.cpu().numpy()
    rows = []
    for correction in corrections:
        setting, fold_mrr = best_setting(correction, fold)
        started = time.perf_counter()
        ranks = correction.ranks(scored, setting)
        rows.append(
            {
                "correction": correction.name,
                "model": correction.label + (" (uses the other judged captions)" if correction.transductive else ""),
                "transductive": correction.transductive,
                "setting": setting,
                "tried": len(correction.settings),
                "fold_mrr": fold_mrr,
                "seconds": time.perf_counter() - started,
                **metrics.summarise(ranks),
                **metrics.paired_difference(ranks, plain, groups),
            }
        )
    return sorted(rows, key=lambda row: (row["transductive"], -row["mrr"]))


def of_translator(method: Method, problem: protocol.Problem, store: Store) -> list[dict]:
    """The rows of one translator on one split."""
    chosen = protocol.search(method, problem, store)["chosen"]
    fold = problem.fold_data
    on_fold = method.fit(fold, chosen, SEARCH_SEED)
    of_fold = Scene.of(on_fold, fold, fold.val_text, fold.val_images, fold.val_positive)
    final = method.fit(problem.train, chosen, SEARCH_SEED)
    return corrected(of_fold, Scene.of(final, problem.train, problem.text, problem.gallery, problem.positive))


def compare(data: PairedEmbeddings, name: str, methods: Sequence[Method], options: argparse.Namespace) -> dict:
    """Compute, print and write the tables of all translators."""
    path = options.results_dir / f"hubness_{name}.json"
    common.require_same_data(path, data.fingerprint)
    problem = protocol.make_problem(data, options.split, choose_device())
    tables = {}
    for method in methods:
        store = Store(options.results_dir / "accuracy" / f"{name}.npz")
        tables[method.name] = of_translator(method, problem, store)
        print(f"{method.name}, split {options.split}, gallery {len(problem.gallery):,}:")
        print(format_table(tables[method.name], COLUMNS), flush=True)
    content = {
        "command": f"python -m benchmarks.hubness --data-dir DIR --methods {' '.join(tables)} --split {options.split}",
        "data": {"name": name, "fingerprint": data.fingerprint, "captions": data.n_captions, "images": data.n_images},
        "split": options.split,
        "gallery": len(problem.gallery),
        "interval": "95 % of the paired difference, bootstrap over images",
        "versions": common.versions(),
        "translators": tables,
    }
    write_json(path, content)
    return content


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=TRANSLATORS, help="translators to correct")
    parser.add_argument("--split", type=common.at_least(0), default=0, help="seed of the split")
    parser.add_argument("--results-dir", type=Path, default=common.RESULTS_DIR, help="where results are kept")
    parser.add_argument("--smoke", action="store_true", help="everything once at tiny sizes, on demo data")
    options = parser.parse_args(arguments)
    methods = [METHODS[name] for name in options.methods]
    if options.smoke:
        with tempfile.TemporaryDirectory() as folder:
            data = load_pairs(write_synthetic(Path(folder, "data"), **accuracy.SMOKE), cache_dir=Path(folder, "cache"))
            options.results_dir = Path(folder, "results")
            compare(data, "smoke", [method.tiny() for method in methods], options)
        return
    if options.data_dir is None:
        parser.error("--data-dir is needed (or --smoke)")
    try:
        compare(load_pairs(options.data_dir), options.data_dir.resolve().name, methods, options)
    except (UserError, OSError) as error:  # bad input; what else fails shows where
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
