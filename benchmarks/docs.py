"""Write the tables of `README.md` and `docs/` from the committed results: `python -m benchmarks.docs`.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; the text around it is written by hand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from benchmarks import accuracy_docs, common
from benchmarks.ablation import report
from benchmarks.draw import STEP_LABELS
from helpers.system.files import atomic_write

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
RANKING_LABELS = {
    "matmul_lower_bound": "score product alone (lower bound)",
    "ours": "ours: counting",
    "argsort": "argsort of the whole score matrix",
    "torchmetrics": "torchmetrics, RetrievalMRR",
    "search_ours": "ten best: ours, translation included",
    "search_faiss": "ten best: faiss, exact, without translation",
}


def filled(text: str, tables: Mapping[str, str]) -> str:
    """The text with every marked table replaced by the one of that name.

    Raises:
        KeyError: a marker names no table.
    """
    return MARKED.sub(lambda found: f"{found[1]}{tables[found[2]]}\n{found[3]}", text)


def all_tables() -> dict[str, str]:
    """Every table of the pages, by name."""
    results = report.load()
    tables = {
        "ablations": report.table(results),
        "captions": report.caption_table(results[0]),
        "shortened": "\n".join(f"* {report.order_statement(short)}." for short, _ in report.load_shortened()),
        "turned": report.turned_table(report.load_turned()),
        "closed_form": closed_form_table(common.load("closed_form", "challenge")),
        "same_accuracy": same_accuracy_table(),
        "epochs_cuda": epochs_table(common.load("epochs", "challenge", "cuda")),
        "large_gallery": large_gallery_table(common.load("ranking", "challenge")["large"]),
        "widths": widths_table(common.load("widths", "challenge")),
        "indexes": indexes_table(common.load("indexes", "challenge")),
        "indexes_real": indexes_real_table(common.load("indexes", "flickr8k")),
        **accuracy_docs.all_tables(),
    }
    makers = {"step": step_table, "ranking": ranking_table, "plus_step": plus_step_table}
    for device, suffix in (("cpu", ""), ("cuda", "_cuda")):
        for name, table_of in makers.items():
            tables[name + suffix] = table_of(common.load(name, "challenge", device))
    return tables


def step_table(result: dict) -> str:
    """One training step by every candidate."""
    rows = [
        [
            STEP_LABELS[row["candidate"]].replace("\n", " "),
            _time(row["median_seconds"]),
            f"{row['over_ours']:.2f} x",
            f"{row['over_lower_bound']:.2f} x",
        ]
        for row in result["rows"]
    ]
    return report.markdown(["one training step", "time", "over ours", "over its bare products"], rows)


def ranking_table(result: dict) -> str:
    """Ranks by every candidate; search too, which is timed on the processor alone, where that was measured."""
    shown = [row for row in result["rows"] if not (result["machine"]["accelerator"] and "search" in row["candidate"])]
    rows = [
        [RANKING_LABELS[row["candidate"]], _time(row["median_seconds"]), f"{row['over_ours']:.2f} x"] for row in shown
    ]
    return report.markdown(["12,500 captions, 2,500 images", "time", "over ours"], rows)


def plus_step_table(result: dict) -> str:
    """A step and an epoch of one network of `plus` and of its ensemble."""
    rows = [
        [
            f"{name}, {count} in all" if count > 1 else f"one {name}",
            _time(row["step_seconds"]),
            _time(row["epoch_seconds"]),
            f"{row['over_lower_bound']:.2f} x",
        ]
        for name, count in result["members"].items()
        for row in result["rows"]
        if row["candidate"] == name
    ]
    return report.markdown(["`plus`", "a step", "an epoch", "over its bare products"], rows)


def epochs_table(result: dict) -> str:
    """A whole training, and its bare matrix products."""
    share = result["product_seconds"] / result["seconds"]
    rows = [
        [f"{result['epochs']} epochs, {result['steps']:,} steps", _time(result["seconds"]), "100 %"],
        ["their bare matrix products (lower bound)", _time(result["product_seconds"]), f"{100 * share:.0f} %"],
    ]
    return report.markdown(["one training of BigJump", "time", "share"], rows)


def large_gallery_table(result: dict) -> str:
    """Ranks in a gallery that is never held in memory."""
    rows = [
        ["time", _time(result["seconds"])],
        ["peak memory", f"{result['peak_mb']:.0f} MB"],
        ["the gallery in float32", f"{result['gallery_gb_float32']:.1f} GB"],
    ]
    return report.markdown([f"{result['queries']:,} captions, {result['gallery']:,} images", ""], rows)


def widths_table(result: dict) -> str:
    """What padding to a multiple of 8 columns saves."""
    labels = {"ranks": "ranks of 12,500 captions, 2,500 images", "infonce": "InfoNCE over 22,500 images"}
    rows = [[labels[use["what"]], _time(use["seconds"]), f"{use['without']:.2f} x"] for use in result["uses"]]
    return report.markdown(["what", "padded", "without padding, over padded"], rows)


def indexes_table(result: dict | None) -> str:
    """Every kind of index on a million vectors: recall, time and memory."""
    if result is None:
        return "Not measured yet."
    rows = [
        [
            f"`{row['kind']}`",
            f"{row['recall']:.3f}",
            f"{row['recall_cosine']:.3f}",
            _time(row["seconds_a_query"]),
            _time(row["batch_seconds_a_query"]),
            _time(row["build_seconds"]),
            f"{row['bytes_a_vector']:.0f} bytes",
        ]
        for row in result["rows"]
    ]
    heads = ["kind", "recall", "recall (cosine)", "one query", "a query of a batch", "built in", "memory a vector"]
    return report.markdown(heads, rows)


def indexes_real_table(result: dict | None) -> str:
    """What each kind of index costs in MRR on real captions."""
    if result is None:
        return "Not measured yet."
    rows = [
        [
            f"`{row['kind']}`",
            f"{row['mrr']:.4f}",
            f"{row['mrr_alone']:.4f}" if "mrr_alone" in row else "-",
            f"{row['mrr_cosine']:.4f}",
        ]
        for row in result["rows"]
    ]
    return report.markdown([f"{result['gallery']:,} photos", "MRR", "alone", "MRR (cosine)"], rows)


def closed_form_table(result: dict) -> str:
    """The closed form, and the first and later loads of a data set."""
    geometry, loading = result["geometry"], result["loading"]
    rows = [
        [f"closed form of {result['captions']:,} pairs, from memory maps to A and b", _time(geometry["seconds"])],
        ["its memory beside the maps", f"{geometry['extra_mb']:.0f} MB"],
        ["first load of an npz of as many captions", _time(loading["first_seconds"])],
        ["decompression of that npz alone", _time(loading["decompress_seconds"])],
        ["every later load", _time(loading["second_seconds"])],
    ]
    return report.markdown(["what", "cost"], rows)


def same_accuracy_table() -> str:
    """MRR of the fast loss and of its reference implementation."""
    rows = []
    for device, label in (("cpu", "two cores"), ("cuda", "GPU")):
        result = common.load("same_accuracy", "8_epochs", device)
        fast, reference = (f"{max(result['mrr_by_epoch'][kind]):.4f}" for kind in ("fast", "reference"))
        of = result["difference"]
        rows.append([label, fast, reference, f"{of['difference']:+z.5f} ({of['low']:+z.4f} to {of['high']:+z.4f})"])
    return report.markdown(["device", "fast", "reference", "paired difference (95 % interval)"], rows)


def _time(seconds: float) -> str:
    """Three digits, in s from a tenth of a second on, else in ms."""
    value, unit = (seconds, "s") if seconds >= 0.1 else (1e3 * seconds, "ms")
    return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def main() -> None:
    tables = all_tables()
    for path in PAGES:
        before = path.read_text(encoding="utf-8")
        after = filled(before, tables)
        if after != before:
            atomic_write(path, lambda temporary, text=after: temporary.write_text(text, encoding="utf-8"))
            print(f"{path.name} written")


if __name__ == "__main__":
    main()
