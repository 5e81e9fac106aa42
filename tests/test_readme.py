"""The README against what it speaks of: tables against the committed results, commands against the programs, links."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from benchmarks import ablations, accuracy, common
from benchmarks.baselines import METHODS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
NAMES = {
    "bigjump_plus": "**BigJump plus** (ours)",
    "queue_infonce": "queue InfoNCE",
    "vse_mlp": "VSE++ MLP",
    "cca": "weighted CCA",
    "procrustes": "Procrustes",
    "asif": "ASIF-like",
    "ridge": "least squares, ridge searched",
    "least_squares": "least squares",
    "kernel_ridge": "kernel ridge",
    "bigjump": "BigJump",
    "linear": "LinearProj",
    "mlp1": "MLP1",
    "mlp2": "MLP2",
    "residual_infonce": "residual InfoNCE",
}


def result(name: str) -> dict:
    return json.loads((common.RESULTS_DIR / f"{name}.json").read_text(encoding="utf-8"))


def with_interval(value: float, low: float, high: float, digits: int = 3) -> str:
    return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def lead(row: dict) -> str:
    """What the best method leads `row` by."""
    return with_interval(-row["to_best_other"], -row["to_best_other_high"], -row["to_best_other_low"])


def line_of(place: int, row: dict) -> str:
    """A method's line in the table of the README."""
    seconds = row["search_seconds"] + row["seconds"]
    cells = [
        NAMES[row["model"]],
        with_interval(row["mrr"], row["mrr_low"], row["mrr_high"]),
        ", ".join(f"{mrr:.3f}" for mrr in row["mrr_by_split"].values()),
        lead(row) if place else "-",
        f"{row['recall_at_1']:.3f}",
        f"{row['recall_at_10']:.3f}",
        f"{row['median_rank']:.0f}",
        with_interval(row["hubness_mrr"], row["hubness_mrr_low"], row["hubness_mrr_high"]),
        f"{row['parameters'] / 1e6:.1f} M",
        f"{seconds:.0f}" if seconds >= 1 else "under 1",
    ]
    return f"| {' | '.join(cells)} |"


def test_every_method_stands_in_the_table_as_measured():
    rows = result("accuracy_flickr8k_split_0_1_2_5_seeds_cuda")["rows"]
    assert {row["model"] for row in rows} == set(METHODS)
    for place, row in enumerate(rows):
        assert line_of(place, row) in README


def test_what_the_processor_gives_stands_beside_it():
    plus, queue, triplet = (row for row in result("accuracy_flickr8k_split_0_1_2_5_seeds")["rows"][:3])
    shown = f"`plus` {with_interval(plus['mrr'], plus['mrr_low'], plus['mrr_high'])}, queue InfoNCE {queue['mrr']:.3f},"
    assert shown in README and f"the VSE++ MLP {triplet['mrr']:.3f}, a lead of {lead(queue)}" in README
    assert f"with hubness reduction `plus` has {plus['hubness_mrr']:.3f}" in README
    seconds = (
        f"{float(format(row['search_seconds'] + row['seconds'], '.3g')):,.0f} s" for row in (plus, queue, triplet)
    )
    assert "{}, {} and {}".format(*seconds) in README
    mrr = {row["model"]: row["mrr"] for row in result("accuracy_flickr8k")["rows"]}
    others = ", ".join(
        f"{NAMES[name]} {mrr[name]:.3f}" for name in ("bigjump", "kernel_ridge", "mlp2", "mlp1", "linear")
    )
    assert others in README


@pytest.mark.parametrize(
    ("name", "photos"),
    [
        ("500_images_1_captions_each_split_0", "500, one caption each"),
        ("500_images_split_0", "500"),
        ("1000_images_split_0", "1,000"),
        ("2000_images_split_0", "2,000"),
        ("4000_images_split_0", "4,000"),
        ("split_0_5_seeds", "7,282"),
    ],
)
def test_results_by_number_of_photos(name, photos):
    best, second = result(f"accuracy_flickr8k_{name}")["rows"][:2]
    (line,) = (line for line in README.splitlines() if line.startswith(f"| {photos} |"))
    assert best["model"] == "bigjump_plus" and f"| {best['mrr']:.3f}" in line
    assert f"| {second['mrr']:.3f}, {NAMES[second['model']]} | {lead(second)}" in line


def test_the_series_on_flickr8k():
    names = NAMES | {"bigjump_plus": "**BigJump plus**", "chance": "chance"}
    for row in result("series_flickr8k")["rows"]:
        scores = [f"{row[name]:.3f}" for name in ("recall_at_1", "recall_at_5", "recall_at_10", "ndcg")]
        cells = [names[row["model"]], with_interval(row["mrr"], row["mrr_low"], row["mrr_high"]), *scores]
        cells += [f"{row['median_rank']:.0f}", f"{row['p75_rank']:.0f}"]
        if row["model"] != "chance":
            cells += [f"{row['parameters'] / 1e6:.2f} M", f"{row['cpu_ms_per_query']:.2f}"]
        assert f"| {' | '.join(cells)} |" in README


def test_the_series_on_a_gpu():
    found = result("series_flickr8k_cuda")
    test, validation = ({row["model"]: row for row in found[name]} for name in ("test_as_printed", "rows"))
    plus, others = test["bigjump_plus"], ("bigjump", "cca")
    shown = [
        with_interval(plus["mrr"], plus["mrr_low"], plus["mrr_high"]),
        *(f"{test[name]['mrr']:.3f}" for name in others),
    ]
    assert "`plus` has {}, BigJump {}, weighted CCA {}".format(*shown) in README
    of_validation = (validation[name]["mrr"] for name in ("bigjump_plus", *others))
    assert "on the validation split {:.3f}, {:.3f} and {:.3f}".format(*of_validation) in README
    minutes, seconds = divmod(found["seconds"], 60)
    assert f"the five notebooks took {minutes} minutes {seconds} seconds" in README


@pytest.mark.parametrize("data", ["flickr8k_8_epochs", "demo_384_512"])
def test_parts_of_bigjump_are_worth_what_was_measured(data):
    """A difference below 0.01 with four digits; in bold where its interval leaves out 0."""
    shown = {
        "Procrustes start, not the adapter alone": "Procrustes start, against none",
        "temperature 0.10 to 0.06, not fixed at 0.04": "temperature 0.10 to 0.06, against 0.04",
        "queue of 65,536, not the batch alone": "queue of 65,536, against the batch",
        "cosine term at 0.5, not left out": "cosine term",
        "the whole method, not its smallest variant": "the whole method, against its smallest variant",
    }
    measured = {c["words"]: c for claim in result(f"ablations_{data}")["claims"] for c in claim["comparisons"]}
    for words, start in shown.items():
        (line,) = (line for line in README.splitlines() if line.startswith(f"| {start}"))
        row = measured[words]
        digits = 3 if abs(row["difference"]) > 0.0095 else 4
        number = f"{row['difference']:+.{digits}f}"
        number = number if row["verdict"] == "not clear" else f"**{number}**"
        assert f"| {number} ({row['low']:.{digits}f} to {row['high']:.{digits}f})" in line, words


def test_speed_table():
    step = {row["candidate"]: row for row in result("step_challenge")["rows"]}
    ours, products = (f"{step[name]['median_seconds']:.3f} s" for name in ("ours", "matmul_lower_bound"))
    assert f"| {ours} | its bare matrix products {products}" in README
    assert f"(ours is {step['ours']['over_lower_bound']:.2f} x that)" in README
    slower = [f"{step[f'reference_{dtype}']['over_ours']:.1f} x ours" for dtype in ("bfloat16", "float32")]
    assert f"the reference implementation, bfloat16 {slower[0]}, float32 {slower[1]}" in README
    ranking = result("ranking_challenge")
    ranks = {row["candidate"]: row for row in ranking["rows"]}
    slower = [f"{ranks[name]['over_ours']:.1f} x ours" for name in ("argsort", "torchmetrics")]
    assert f"argsort {slower[0]}; torchmetrics {slower[1]}" in README
    assert f"{ranking['large']['peak_mb']:.0f} MB at the peak, {ranking['large']['seconds']:.0f} s" in README
    closed = result("closed_form_challenge")
    assert f"{closed['geometry']['seconds']:.1f} s, {closed['geometry']['extra_mb']:.0f} MB extra" in README
    loading = [closed["loading"][f"{name}_seconds"] for name in ("first", "second", "decompress")]
    assert "{:.1f} s, {:.2f} s | decompressing it {:.1f} s".format(*loading) in README


def test_speed_on_a_gpu():
    whole = result("epochs_challenge_cuda")
    share = whole["product_seconds"] / whole["seconds"]
    assert (
        f"| {whole['seconds']:.1f} s | its bare matrix products {whole['product_seconds']:.1f} s ({100 * share:.0f} %)"
        in README
    )
    step = {row["candidate"]: row for row in result("step_challenge_cuda")["rows"]}
    slower = [
        f"{step[name]['over_ours']:.1f} x ours" for name in ("reference_bfloat16", "reference_float32", "lightly")
    ]
    shown = "the reference implementation, bfloat16 {}, float32 {}; lightly's memory bank {}".format(*slower)
    assert f"| {1000 * step['ours']['median_seconds']:.2f} ms | {shown} |" in README
    plus = {row["candidate"]: row for row in result("plus_step_challenge_cuda")["rows"]}
    times = [f"{1000 * plus[name]['step_seconds']:.2f} ms" for name in ("network", "ensemble")]
    over = [f"{plus[name]['over_lower_bound']:.1f} x" for name in ("network", "ensemble")]
    assert "| {}, {} | bare matrix products: ours is {} and {} that |".format(*times, *over) in README
    ranks = {row["candidate"]: row for row in result("ranking_challenge_cuda")["rows"]}
    slower = [
        f"torchmetrics {ranks['torchmetrics']['over_ours']:.0f} x",
        f"argsort {ranks['argsort']['over_ours']:.2f} x ours",
    ]
    assert f"| {1000 * ranks['ours']['median_seconds']:.0f} ms | {slower[0]} ours; full-matrix {slower[1]}" in README
    same = result("same_accuracy_8_epochs_cuda")
    fast, reference = (max(same["mrr_by_epoch"][name]) for name in ("fast", "reference"))
    d = same["difference"]
    interval = f"{d['difference']:.4f} ({d['low']:.4f} to +{d['high']:.4f};"
    assert f"MRR {fast:.4f} against {reference:.4f}, paired difference {interval}" in README


def commands(text: str) -> list[list[str]]:
    """Every `python -m benchmarks.…` with its arguments."""
    joined = text.replace("\\\n", " ")
    found = re.findall(r"python -m (benchmarks\.[^\n`;)]+)", joined)
    return [shlex.split(command.replace(" N ", " 1000 ")) for command in found]


def test_commands_are_accepted_by_their_programs():
    notebooks = (path.read_text(encoding="utf-8").replace("\\n", "\n") for path in ROOT.glob("notebooks/*.ipynb"))
    documents = (path.read_text(encoding="utf-8") for path in ROOT.glob("docs/*.md"))
    texts = [README, *documents, *notebooks]
    parsers = {"benchmarks.accuracy": accuracy.parse, "benchmarks.ablations": ablations.parse}
    seen = set()
    for module, *arguments in (command for text in texts for command in commands(text)):
        assert (ROOT / f"{module.replace('.', '/')}.py").exists(), module
        if module in parsers and arguments:
            parsers[module](arguments)  # exits where it knows an option not
            seen.add(module)
    assert seen == set(parsers)


def test_links_lead_somewhere():
    headings = re.findall(r"^#+ (.+)$", README, re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target[1:] in anchors if target.startswith("#") else (ROOT / target).exists(), target
