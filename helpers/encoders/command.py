"""The command line that makes a data folder: `python -m helpers.encode`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from helpers.data.importers import import_embeddings
from helpers.data.pairs import ENCODERS_FILE, TRAIN_FILE
from helpers.data.picture_files import find_pictures
from helpers.encoders.folder import encode_folder, where_from
from helpers.encoders.images import POOLINGS
from helpers.encoders.presets import PRESETS
from helpers.encoders.sources import PRECISIONS
from helpers.errors import EncoderError
from helpers.system.console import run_command
from helpers.system.files import read_json, write_json
from helpers.system.paths import absolute

DESCRIPTION = """Encode a folder of pictures and their captions into the data folder that the series reads.
Killed at any time, the same call goes on where it was."""


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    presets = "; ".join(f"{name}: {p['text']['model']}, {p['images']['model']}" for name, p in PRESETS.items())
    parser = argparse.ArgumentParser(prog="python -m helpers.encode", description=DESCRIPTION)
    add = parser.add_argument
    add("--images", metavar="DIR", help="folder of pictures, at any depth")
    add("--captions", metavar="FILE", help="captions.txt, CSV, TSV, JSON lines, COCO's or Karpathy's JSON, parquet")
    add("--out", metavar="DIR", required=True, help="the data folder to write")
    add("--preset", choices=tuple(PRESETS), default="small", help=f"pair of encoders (default: small). {presets}")
    add("--text-model", metavar="NAME", help="another text encoder: of sentence-transformers, a name or a folder")
    add("--image-model", metavar="NAME", help="another image encoder: of transformers, a name or a folder; timm:NAME")
    add("--pooling", choices=POOLINGS, help="one vector of an image model's many (default: the model's own)")
    add("--device", metavar="NAME", help="such as cpu or cuda:1 (default: the best that is there)")
    add("--batch-size", type=int, metavar="N", help="pictures, and captions, at a time")
    add("--precision", choices=tuple(PRECISIONS), help="of products (default: float16 on a GPU, float32 elsewhere)")
    add("--overwrite", action="store_true", help="another encoding in the data folder goes when this one is written")
    ready = parser.add_argument_group("embeddings that exist already, in place of encoding")
    ready.add_argument(
        "--from",
        dest="sources",
        nargs="+",
        metavar="FILE",
        help="one file of both sides, or captions and images: .npy, .npz, .safetensors, parquet, a saved dataset; "
        "--images then says where the pictures are, and --text-model what a query is encoded with",
    )
    ready.add_argument("--names", metavar="FILE", help="names of the images, one a line, in the order of their vectors")
    options = parser.parse_args(arguments)
    if options.sources is None:
        if options.images is None or options.captions is None:
            parser.error("--images and --captions are needed (or --from, for embeddings that exist already)")
        if options.names is not None:
            parser.error("--names goes with --from")
    elif options.image_model or options.pooling or options.device or options.batch_size or options.precision:
        parser.error("with --from nothing is encoded: only --captions, --names, --images and --text-model go with it")
    return options


def run(options: argparse.Namespace) -> str:
    """Make the data folder; returns what to print."""
    if options.sources is None:
        given = {name: value for name, value in vars(options).items() if name not in ("sources", "names")}
        return encode_folder(**given).report()
    path = absolute(options.out)
    if (path / TRAIN_FILE).exists() and not options.overwrite:
        raise EncoderError(f"{path}: holds a {TRAIN_FILE} already. Give another --out, or --overwrite.")
    root = absolute(options.images) if options.images else None
    if root is not None:
        find_pictures(root)  # that there are any
    imported = import_embeddings(
        options.sources,
        path,
        captions=options.captions,
        names=options.names,
        pictures=None if root is None else {"folder": where_from(root, path)},
    )
    if options.text_model is not None:
        recorded = read_json(path / ENCODERS_FILE)
        recorded["text"] |= {"kind": "sentence-transformers", "model": options.text_model}
        write_json(path / ENCODERS_FILE, recorded)
    return str(imported)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; returns the exit status."""
    options = parse_arguments(arguments)
    return run_command(lambda: run(options), "--out", "interrupted; the same call goes on from here")
