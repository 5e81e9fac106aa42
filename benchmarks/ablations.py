"""Each claim of the published BigJump method as a paired difference in full-gallery MRR, all else as published.

`python -m benchmarks.ablations --data-dir DIR [--seeds 5] [--epochs N]`, or `--demo`.
Every finished run is a row of a table, so that an interrupted call goes on, and a variant is computed again where its
settings or its version change.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks import accuracy, accuracy_table, common, protocol
from benchmarks.ablation import runs
from benchmarks.ablation.claims import CLAIMS, Claim
from benchmarks.ablation.report import order_statement
from benchmarks.ablation.table import caption_changes, order_agreement, table, variant_summary
from benchmarks.ablation.variants import Fold, Shared, Variant
from benchmarks.store import Store
from helpers.data.pairs import PairedEmbeddings, load_pairs
from helpers.data.split import make_split
from helpers.data.synthetic import write_synthetic
from helpers.errors import UserError
from helpers.evaluation.leaderboard import format_table
from helpers.system.devices import choose_device, matmul_dtype
from helpers.system.files import write_json
from helpers.training.objectives import BigJumpConfig

Found = Mapping[str, accuracy_table.Finished]
SPLITS, SEEDS = [0], 5
SMOKE_SHARED = {"epochs": 1, "hidden": 16, "batch_size": 64, "learning_rate": 1e-2}
COLUMNS = (
    ("claim", "claim", ""),
    ("mrr", "MRR against", ".4f"),
    ("difference", "on - against", "+.4f"),
    ("low", "low", "+.4f"),
    ("high", "high", "+.4f"),
    ("seeds", "seeds", "d"),
    ("verdict", "verdict", ""),
)


def variants_of(claims: Sequence[Claim]) -> list[Variant]:
    """Everything that the claims need, each once, in the order of the claims."""
    return list({variant.name: variant for claim in claims for variant in claim.variants}.values())


def run_all(
    variants: Sequence[Variant],
    problems: Sequence[protocol.Problem],
    seeds: int,
    shared: Shared,
    store: Store,
) -> None:
    """Compute what is not there yet: variant by variant, so that an interrupted call leaves whole comparisons."""
    folds = [Fold(problem.fold_data) for problem in problems]
    for variant in variants:
        for problem, fold in zip(problems, folds, strict=True):
            for seed in accuracy_table.seeds_of(variant, seeds):
                started = time.perf_counter()
                mrr = runs.run(variant, fold, problem, seed, shared, store)["mrr"]
                seconds = time.perf_counter() - started
                where = f"{variant.name}, split {problem.split_seed}, seed {seed}"
                print(f"{where}: MRR {mrr:.4f} ({seconds:.0f} s)", flush=True)


def gather(problems: Sequence[protocol.Problem], seeds: int, shared: Shared, store: Store) -> Found:
    """All variants of which all runs are there, in whichever call they were computed."""
    found = {}
    for variant in variants_of(list(CLAIMS.values())):
        find = partial(runs.finished, variant, shared=shared, store=store)
        found[variant.name] = accuracy_table.gather(find, problems, accuracy_table.seeds_of(variant, seeds))
    return {name: finished for name, finished in found.items() if finished is not None}


def add_caption_changes(
    rows: list[dict], found: Found, data: PairedEmbeddings, problems: Sequence[protocol.Problem]
) -> None:
    """Say which captions gain and lose most, on the first split, where a claim asks for it."""
    first = problems[0].split_seed
    split = make_split(data.targets, data.n_images, protocol.VAL_RATIO, first)
    for claim in rows:
        if "caption_changes" in CLAIMS[claim["claim"]].measures:
            for row in claim["comparisons"]:
                sides = (found[row[key]].reciprocal[first][0] for key in ("on", "variant"))
                row["caption_changes"] = caption_changes(data, split, *sides)


def summarise(
    data: PairedEmbeddings,
    problems: Sequence[protocol.Problem],
    options: argparse.Namespace,
    shared: Shared,
    store: Store,
) -> dict:
    """Table of claims and summaries of the variants, and how a shortened training orders the effects."""
    groups = {problem.split_seed: problem.positive.cpu().numpy() for problem in problems}
    claims = list(CLAIMS.values())
    found = gather(problems, options.seeds, shared, store)
    rows = table(claims, found, groups)
    add_caption_changes(rows, found, data, problems)
    content = {"claims": rows, "variants": {name: variant_summary(runs, groups) for name, runs in found.items()}}
    if options.epochs is not None:
        at_full_length = {name: value for name, value in shared.items() if name != "epochs"}
        full = table(claims, gather(problems, options.seeds, at_full_length, store), groups)
        epochs = {"epochs": options.epochs, "full_epochs": BigJumpConfig().epochs}
        content["order_agreement"] = {**epochs, **order_agreement(rows, full)}
    return content


def measure(
    data: PairedEmbeddings,
    name: str,
    options: argparse.Namespace,
    results: Path,
    device: torch.device,
    more_shared: Shared | None = None,
) -> dict:
    """Run the claims in `options.only` (all where empty), write and print the table of all that is there."""
    path = results / f"{table_name(name, options)}.json"
    common.require_same_data(path, data.fingerprint)
    store = store_of(name, results)
    problems = [protocol.make_problem(data, split, device) for split in options.splits]
    shared = dict(more_shared or {}) | ({} if options.epochs is None else {"epochs": options.epochs})
    chosen = [claim for claim in CLAIMS.values() if not options.only or claim.name in options.only]
    run_all(variants_of(chosen), problems, options.seeds, shared, store)
    result = metadata(data, name, options, problems[0]) | summarise(data, problems, options, shared, store)
    write_json(path, result)
    show(result)
    return result


def store_of(name: str, results: Path) -> Store:
    """The runs on the data of that name."""
    return Store(results / "ablations" / f"{name}.npz")


def table_name(name: str, options: argparse.Namespace) -> str:
    """`ablations`, the data's name, and what differs from the defaults."""
    parts = ["ablations", name]
    parts += common.other_runs(options.splits, SPLITS, options.seeds, SEEDS)
    if options.epochs is not None:
        parts.append(f"{options.epochs}_epochs")
    return "_".join(parts)


def metadata(data: PairedEmbeddings, name: str, options: argparse.Namespace, first: protocol.Problem) -> dict:
    """What the numbers depend on, and how to read them; `first` is the problem of the first split."""
    device = first.text.device
    sizes = {"captions": data.n_captions, "images": data.n_images}
    return {
        "command": command(options),
        "data": {"name": name, "fingerprint": data.fingerprint, **sizes},
        "splits": options.splits,
        "seeds": options.seeds,
        "epochs": options.epochs or BigJumpConfig().epochs,
        "train_images": len(first.fold_data.images),
        "fold_validation_images": len(first.fold_data.val_images),
        "gallery": len(first.gallery),
        "sign": "difference = MRR of `on`, the choice claimed, minus MRR of `variant`: positive speaks for the choice",
        "interval": "95 %, paired bootstrap over images of reciprocal ranks averaged over seeds; not corrected for the "
        "number of comparisons",
        "mixed_precision": str(matmul_dtype(device, True)).removeprefix("torch."),
        "machine": common.machine(device.type),
        "versions": common.versions(),
    }


def command(options: argparse.Namespace) -> str:
    """What to type for this table; the claims computed in this very call do not matter."""
    where = "--demo" if options.demo else "--data-dir DIR"
    splits = " ".join(map(str, options.splits))
    length = "" if options.epochs is None else f" --epochs {options.epochs}"
    return f"python -m benchmarks.ablations {where} --seeds {options.seeds} --splits {splits}{length}"


def show(result: dict) -> None:
    """Print the table of a result."""
    rows = [
        {**row, "model": row["words"], "claim": claim["claim"]}
        for claim in result["claims"]
        for row in claim["comparisons"]
    ]
    print(format_table(rows, COLUMNS))
    if result.get("order_agreement", {}).get("comparisons"):
        print(order_statement(result))


def smoke(options: argparse.Namespace) -> dict:
    """Everything at tiny sizes with two seeds, in a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        source = write_synthetic(Path(folder, "data"), **accuracy.SMOKE)
        data = load_pairs(source, cache_dir=Path(folder, "cache"))
        options.splits, options.seeds = [0], 2
        return measure(data, "smoke", options, Path(folder, "results"), choose_device(), SMOKE_SHARED)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--demo", action="store_true", help="synthetic data, written on first use")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="trainings of every variant, on every split")
    parser.add_argument("--splits", type=int, nargs="+", default=SPLITS, help="seeds of the splits by image")
    parser.add_argument("--epochs", type=int, help="shorten every training; the schedules span so many epochs")
    parser.add_argument("--only", nargs="+", choices=CLAIMS, default=[], metavar="CLAIM", help=", ".join(CLAIMS))
    parser.add_argument("--smoke", action="store_true", help="everything at tiny sizes, on synthetic data")
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
        name, data = accuracy.named_data(options)
        measure(data, name, options, common.RESULTS_DIR, choose_device())
    except (UserError, OSError) as error:  # bad input; what else fails shows where
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
