"""For which data a claim that fails might hold: one comparison a claim, on synthetic data with one property changed.

`python -m benchmarks.turned [--seeds 3]`. Runs are kept as those of `benchmarks.ablations`, with which those
on the synthetic data as they are are shared.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from benchmarks import ablations, accuracy, common, protocol
from benchmarks.ablation.claims import CLAIMS, Claim
from benchmarks.ablation.report import TURNED_NAME, turned_table
from benchmarks.ablation.table import table
from benchmarks.ablation.variants import Shared
from helpers.data import synthetic
from helpers.data.pairs import load_pairs
from helpers.system.devices import choose_device, matmul_dtype
from helpers.system.files import write_json

TURNS: Mapping[str, Mapping[str, float]] = {
    "as it is": {},
    "noise x 10": {"noise_share": 0.3},
    "linear": {"relu_weight": 0.0},
    "non-linear x 4": {"relu_weight": 16.0},
    "1 caption": {"captions_per_image": 1},
    "12 captions": {"captions_per_image": 12},
}
"""Arguments of `write_synthetic` that differ from its defaults: `linear` has no non-linear part."""
ASKED = {
    "start": "start_least_squares",
    "freeze": "free",
    "tuning": "frozen",
    "negatives": "in_batch",
    "warmup": "no_queue_warmup",
    "own_image": "own_image_counted",
    "temperature": "temperature_06",
    "cosine": "no_cosine",
    "moment": "no_moment",
    "agreement": "captions_4_no_agreement",
    "all_parts": "smallest",
}
"""{claim: variant that it is measured against}. The queue-size schedule is left out: these data fill no queue."""


def turn_name(turn: str, sizes: Mapping[str, int]) -> str:
    """Name of the table of a turn: that of the synthetic data, and what is changed."""
    name = accuracy.demo_name(sizes["text_dim"], sizes["image_dim"])
    return name if not TURNS[turn] else f"{name}_{turn.replace(' ', '_')}"


def claims() -> list[Claim]:
    """The claims with the one comparison that is asked for."""
    chosen = []
    for name, against in ASKED.items():
        claim = CLAIMS[name]
        comparisons = tuple(row for row in claim.comparisons if row.against.name == against)
        chosen.append(Claim(name, claim.says, comparisons))
    return chosen


def measure(
    turns: Mapping[str, Mapping[str, float]],
    sizes: Mapping[str, int],
    seeds: int,
    results: Path,
    device: torch.device,
    shared: Shared,
) -> list[dict]:
    """The claims on each turned data set; data of a turn are made anew, in a folder that is thrown away."""
    asked, rows = claims(), []
    for name, turn in turns.items():
        with tempfile.TemporaryDirectory() as folder:
            source = synthetic.write_synthetic(Path(folder, "data"), **{**sizes, **turn})
            data = load_pairs(source, cache_dir=Path(folder, "cache"))
            problem = protocol.make_problem(data, 0, device)
            store = ablations.store_of(turn_name(name, sizes), results)
            print(f"{name}: {data.n_captions:,} captions of {data.n_images:,} images", flush=True)
            ablations.run_all(ablations.variants_of(asked), [problem], seeds, shared, store)
            found = ablations.gather([problem], seeds, shared, store)
            groups = {problem.split_seed: problem.positive.cpu().numpy()}
            metadata = {"fingerprint": data.fingerprint, "captions": data.n_captions, "images": data.n_images}
            metadata |= {"train_images": len(problem.fold_data.images), "gallery": len(problem.gallery)}
            rows.append(
                {"turn": name, "arguments": dict(turn), "data": metadata, "claims": table(asked, found, groups)}
            )
    return rows


def run(
    turns: Mapping[str, Mapping[str, float]], sizes: Mapping[str, int], seeds: int, results: Path, shared: Shared
) -> dict:
    """Measure, write the table and print it."""
    device = choose_device()
    result = {
        "command": f"python -m benchmarks.turned --seeds {seeds}",
        "sizes": dict(sizes),
        "seeds": seeds,
        "interval": "95 %, paired bootstrap over images of reciprocal ranks averaged over seeds; not corrected for the "
        "number of comparisons",
        "mixed_precision": str(matmul_dtype(device, True)).removeprefix("torch."),
        "machine": common.machine(device.type),
        "versions": common.versions(),
        "turns": measure(turns, sizes, seeds, results, device, shared),
    }
    write_json(results / TURNED_NAME, result)
    print(turned_table(result))
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="trainings of every variant")
    parser.add_argument("--smoke", action="store_true", help="two turns at tiny sizes")
    options = parser.parse_args(arguments)
    if options.smoke:
        few = {name: TURNS[name] for name in ("as it is", "linear")}
        with tempfile.TemporaryDirectory() as folder:
            run(few, accuracy.SMOKE, 2, Path(folder), ablations.SMOKE_SHARED)
        return
    run(TURNS, accuracy.DEMO_WIDTHS, options.seeds, common.RESULTS_DIR, {})


if __name__ == "__main__":
    main()
