"""Accuracy of every method of `benchmarks.baselines` on any data, with choices made on the training images alone.

`python -m benchmarks.accuracy --data-dir DIR [--splits 0 1] [--seeds 3]`, or `--demo`.
Every finished search and run is a row of a table, so that an interrupted call goes on, and a changed method is computed
again.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks import accuracy_table, common, protocol
from benchmarks.baselines import METHODS
from benchmarks.baselines.method import Method
from benchmarks.store import Store
from helpers.data.duplicates import Grouped, duplicate_groups
from helpers.data.pairs import PairedEmbeddings, load_pairs
from helpers.data.synthetic import write_synthetic
from helpers.errors import UserError
from helpers.evaluation.leaderboard import format_table
from helpers.system import paths
from helpers.system.devices import choose_device
from helpers.system.files import write_json

SPLITS, SEEDS = [0, 1], 3
"""Where the command names none; the table of docs/results.md has three splits and five seeds."""
DEMO_WIDTHS = {"text_dim": 384, "image_dim": 512}
"""Of the synthetic data here: as narrow as the vectors of today's small encoders, and fast."""
SMOKE = {"n_images": 60, "text_dim": 12, "image_dim": 16}


def run_all(methods: Sequence[Method], problems: Sequence[protocol.Problem], seeds: int, store: Store) -> None:
    """Compute what is not there yet: method by method, so that an interrupted call leaves whole rows."""
    for method in methods:
        for problem in problems:
            for seed in accuracy_table.seeds_of(method, seeds):
                started = time.perf_counter()
                result = protocol.final_run(method, problem, seed, store)
                print(
                    f"{method.name}, split {problem.split_seed}, seed {seed}: MRR {result['mrr']:.4f}, corrected "
                    f"{result['hubness_mrr']:.4f}{accuracy_table.length(result)} "
                    f"({time.perf_counter() - started:.0f} s)",
                    flush=True,
                )


def summarise(methods: Sequence[Method], problems: Sequence[protocol.Problem], seeds: int, store: Store) -> list[dict]:
    """Rows of the table, for the methods of which all runs are there, in whichever call they were computed."""
    found = {
        method.name: accuracy_table.gather(
            partial(protocol.finished, method, store=store), problems, accuracy_table.seeds_of(method, seeds)
        )
        for method in methods
    }
    groups = {problem.split_seed: problem.positive.cpu().numpy() for problem in problems}
    return accuracy_table.table({name: runs for name, runs in found.items() if runs is not None}, groups)


def projected(data: PairedEmbeddings, text_dim: int, image_dim: int) -> PairedEmbeddings:
    """The data with both spaces multiplied by fixed random matrices with orthonormal rows or columns.

    More dimensions than before keep every distance, and spread it over mixed coordinates; fewer lose some.
    """

    def turned(x: np.ndarray, width: int, seed: int) -> np.ndarray:
        larger, smaller = max(x.shape[1], width), min(x.shape[1], width)
        basis, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((larger, smaller)))
        return x @ (basis if width == smaller else basis.T).astype(np.float32)

    return replace(
        data,
        text=turned(data.text, text_dim, 0),
        images=turned(data.images, image_dim, 1),
        fingerprint=protocol.digest_of(data.fingerprint, "projected", text_dim, image_dim),
    )


def demo_name(text_dim: int, image_dim: int) -> str:
    """Name of the tables of synthetic data."""
    return f"demo_{text_dim}_{image_dim}"


def named_data(options: argparse.Namespace) -> tuple[str, PairedEmbeddings]:
    """What the command line names, and a name for its tables: the folder's, or `demo` with its widths."""
    if options.demo:
        return demo_name(**DEMO_WIDTHS), load_pairs(
            write_synthetic(paths.DATA_DIR / demo_name(**DEMO_WIDTHS), **DEMO_WIDTHS)
        )
    return options.data_dir.resolve().name, load_pairs(options.data_dir)


def compare(
    data: PairedEmbeddings,
    name: str,
    methods: Sequence[Method],
    options: argparse.Namespace,
    device: torch.device,
) -> list[dict]:
    """Run what `options.only` names of `methods` (all where empty), write and print the table of all that is there."""
    path = options.results_dir / f"{table_name(name, options, device)}.json"
    common.require_same_data(path, data.fingerprint)
    store = Store(options.results_dir / "accuracy" / f"{problem_name(name, options)}.npz")
    store.path.parent.mkdir(parents=True, exist_ok=True)  # before hours are spent
    kept = {"train_images": options.train_images, "train_captions": options.train_captions}
    group = duplicate_groups(data.images)
    groups = group if options.group_duplicates else None
    problems = [protocol.make_problem(data, split, device, **kept, groups=groups) for split in options.splits]
    for line in about(problems, Grouped.of(group), options.group_duplicates):
        print(line, flush=True)
    chosen = [method for method in methods if not options.only or method.name in options.only]
    run_all(chosen, problems, options.seeds, store)
    rows = summarise(methods, problems, options.seeds, store)
    metadata = {
        "command": command(options, [row["model"] for row in rows]),
        "data": {"name": name, "fingerprint": data.fingerprint, "captions": data.n_captions, "images": data.n_images},
        "splits": options.splits,
        "seeds": options.seeds,
        "train_images": len(problems[0].train.images),
        "train_captions": len(problems[0].train.text),
        "gallery": len(problems[0].gallery),
        "repeats": {str(problem.split_seed): vars(problem.repeats) for problem in problems},
        "near_duplicates": {
            **vars(Grouped.of(group)),
            "kept_in_one_split": options.group_duplicates,
            "scored_images_that_repeat_a_training_image": {str(p.split_seed): p.seen for p in problems},
        },
        "interval": "95 %, bootstrap over images of reciprocal ranks averaged over seeds; ends averaged over splits",
        "versions": common.versions(),
    }
    write_json(path, {**metadata, "rows": rows})
    print(format_table(rows, accuracy_table.COLUMNS))
    if moving := [row["model"] for row in rows if row["two_sided"]]:
        print(f"two-sided, moves the gallery too: {', '.join(moving)}")
    return rows


def about(problems: Sequence[protocol.Problem], found: Grouped, grouped: bool) -> Iterator[str]:
    """What the data themselves do to every score: near-duplicates and repeated texts."""
    yield f"{found}; " + ("each stays in one split" if grouped else "they may stand in several splits")
    for problem in problems:
        yield (
            f"split {problem.split_seed}: {problem.seen:,} of {len(problem.gallery):,} scored images nearly repeat a "
            f"training image; {problem.repeats}"
        )


def command(options: argparse.Namespace, of: Sequence[str]) -> str:
    """What makes a table of the methods `of`, on any machine."""
    parts = ["python -m benchmarks.accuracy", "--demo" if options.demo else "--data-dir DIR"]
    parts.append(f"--splits {' '.join(map(str, options.splits))} --seeds {options.seeds}")
    if options.train_images is not None:
        parts.append(f"--train-images {options.train_images}")
    if options.train_captions is not None:
        parts.append(f"--train-captions {options.train_captions}")
    if options.group_duplicates:
        parts.append("--group-duplicates")
    if options.project:
        parts.append(f"--project {options.project[0]} {options.project[1]}")
    if set(of) != set(METHODS):
        parts.append(f"--only {' '.join(sorted(of))}")
    return " ".join(parts)


def problem_name(name: str, options: argparse.Namespace) -> str:
    """The data's name, and what is kept or made of them where they are not taken as they are."""
    parts = [name]
    if options.train_images is not None:
        parts.append(f"{options.train_images}_images")
    if options.train_captions is not None:
        parts.append(f"{options.train_captions}_captions_each")
    if options.group_duplicates:
        parts.append("grouped")
    if options.project:
        parts.append(f"projected_{options.project[0]}_{options.project[1]}")
    return "_".join(parts)


def table_name(name: str, options: argparse.Namespace, device: torch.device) -> str:
    """`accuracy`, the problem's name, and splits and seeds where not the usual; the device where it is not the CPU."""
    parts = ["accuracy", problem_name(name, options)]
    parts += common.other_runs(options.splits, SPLITS, options.seeds, SEEDS)
    return "_".join(parts + ([] if device.type == "cpu" else [device.type]))


def smoke(options: argparse.Namespace) -> list[dict]:
    """Everything once at tiny sizes, in a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        data = load_pairs(write_synthetic(Path(folder, "data"), **SMOKE), cache_dir=Path(folder, "cache"))
        options.splits, options.seeds, options.project, options.results_dir = [0], 1, None, Path(folder, "results")
        methods = [method.tiny() for method in METHODS.values()]
        return compare(data, "smoke", methods, options, choose_device())


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--demo", action="store_true", help="synthetic data, written on first use")
    positive = common.at_least(1)
    parser.add_argument("--splits", type=common.at_least(0), nargs="+", default=SPLITS, help="seeds of the splits")
    parser.add_argument("--seeds", type=positive, default=SEEDS, help="seeds of a training, on every split")
    parser.add_argument("--only", nargs="+", choices=METHODS, default=[], help="methods to compute; all where left out")
    parser.add_argument("--train-images", type=int, help="keep a seeded choice of so many training images")
    parser.add_argument("--train-captions", type=int, help="keep so many captions of each training image, at most")
    parser.add_argument(
        "--project", type=positive, nargs=2, metavar=("TEXT", "IMAGE"), help="random projections to these widths first"
    )
    parser.add_argument(
        "--group-duplicates", action="store_true", help="keep near-duplicate images in one split, and in one fold"
    )
    parser.add_argument("--results-dir", type=Path, default=common.RESULTS_DIR, help="where results are kept")
    parser.add_argument("--smoke", action="store_true", help="everything once at tiny sizes, on synthetic data")
    options = parser.parse_args(arguments)
    if not (options.smoke or options.demo or options.data_dir):
        parser.error("--data-dir is needed (or --demo, or --smoke)")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    if options.smoke:
        smoke(options)
        return
    try:
        name, data = named_data(options)
        if options.project:
            data = projected(data, *options.project)
        compare(data, name, list(METHODS.values()), options, choose_device())
    except (UserError, OSError) as error:  # bad input; what else fails shows where
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
