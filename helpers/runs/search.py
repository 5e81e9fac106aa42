"""The command line of the search: `python -m helpers.search RUN WORDS`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import get_args

from helpers.errors import first_five
from helpers.evaluation import hubness as hubness_reduction
from helpers.runs.galleries import data_folder, picture_folder
from helpers.runs.run import say
from helpers.runs.run_index import missing_line, open_index, run_folder
from helpers.serving.index import PictureIndex
from helpers.serving.index_files import Kind
from helpers.serving.page import Found, write_page
from helpers.system.console import run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Search as the command line asks for; returns the exit status."""
    options = parse_arguments(arguments)
    return run_command(lambda: search(options))


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line of `python -m helpers.search`."""
    parser = argparse.ArgumentParser(
        prog="python -m helpers.search",
        description="Find pictures by words: print the best, and write a page that shows them.",
        epilog='Example: python -m helpers.search demo "birthday party" -k 12',
    )
    parser.add_argument("run", metavar="RUN", help="name of a run in runs/, or its folder")
    parser.add_argument(
        "queries", metavar="WORDS", nargs="*", help="what to look for, in quotes; several texts are several searches"
    )
    parser.add_argument("-k", type=int, default=12, help="pictures to list for each search (default 12)")
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="a model of the run, such as bigjump_plus (default: the best of its leaderboard)",
    )
    parser.add_argument(
        "--no-hubness", action="store_true", help="rank by cosine alone; pictures that fit almost any words may come up"
    )
    parser.add_argument(
        "--index",
        choices=get_args(Kind),
        default="flat",
        help="kind of index (default flat, which is exact; the others are faster from some 100,000 pictures on)",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--images", metavar="DIR", help="search the pictures of this folder in place of the run's own")
    where.add_argument(
        "--data-dir",
        metavar="DIR",
        help="search the images of this data folder; of the run's own one, if it has moved, it says where it is now",
    )
    parser.add_argument("--out", metavar="FILE", help="the page (default: search.html in the run's folder)")
    parser.add_argument("--export", metavar="DIR", help="write the vectors for a vector database")
    parser.add_argument(
        "--format", choices=("parquet", "npy"), default="parquet", help="of what --export writes (default parquet)"
    )
    options = parser.parse_args(arguments)
    if not options.queries and not options.export:
        parser.error("give some words to look for, or --export")
    if options.k < 1:
        parser.error(f"-k {options.k}: 1 or more are needed")
    return options


def search(options: argparse.Namespace) -> None:
    """Print what is found, and write the page and the export.

    Raises:
        UserError: whatever the user can mend.
    """
    folder = run_folder(options.run)
    gallery = None
    if options.images or options.data_dir:
        gallery = picture_folder(options.images) if options.images else data_folder(options.data_dir)
    hubness = not options.no_hubness
    if not hubness:  # an index with popularity answers both; without a query bank one without it has to do
        with_bank = (folder / hubness_reduction.QUERY_BANK_FILE).exists()
        index = open_index(folder, options.model, options.index, with_bank, gallery, options.data_dir)
    else:
        index = open_index(folder, options.model, options.index, True, gallery, options.data_dir)
    if options.export:
        say(f"Exported to {index.export(options.export, options.format)}")
    if not options.queries:
        return
    if options.k > len(index):
        say(f"-k {options.k}: the gallery has {len(index):,} pictures; all of them are listed.")
    rows, scores = index.search_text(options.queries, options.k, hubness)
    found = [
        Found(query, some.tolist(), values.tolist())
        for query, some, values in zip(options.queries, rows, scores, strict=True)
    ]
    print("\n\n".join(_text(index, one) for one in found))
    listed = {row for one in found for row in one.rows}
    if index.pictures is not None and (missing := index.missing(sorted(listed))):  # all of them: told already
        say(missing_line(index, f"{len(missing)} of the {len(listed)} listed pictures ({first_five(missing)})"))
    how = "cosine less popularity (hubness reduction)" if hubness else "cosine"
    note = f"{len(index):,} pictures · model {index.model} · score: {how} · run {folder.name}"
    written = write_page(options.out or folder / "search.html", index, found, note)
    print(f"\n{note}\nPage with the pictures, for your browser: {written}", flush=True)


def _text(index: PictureIndex, found: Found) -> str:
    """A query and its hits, one a line: rank, score, name, caption."""
    width = max(len(index.names[row]) for row in found.rows)
    lines = [f"{found.query}"]
    for rank, (row, score) in enumerate(zip(found.rows, found.scores, strict=True), 1):
        lines.append(f"{rank:4d}  {score:6.3f}  {index.names[row]:<{width}}  {index.captions[row]}".rstrip())
    return "\n".join(line.replace("\n", " ") for line in lines)
