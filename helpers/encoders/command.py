"""The command line that makes a data folder: `python -m helpers.encode`."""

from __future__ import annotations

import argparse
import errno
import io
import sys
from collections.abc import Sequence

from helpers.encoders.folder import encode_folder
from helpers.encoders.images import POOLINGS
from helpers.encoders.presets import PRESETS
from helpers.encoders.sources import PRECISIONS
from helpers.errors import UserError

DESCRIPTION = """Encode a folder of pictures and their captions into the data folder that the series reads.
Killed at any time, the same call goes on where it was."""


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    presets = "; ".join(f"{name}: {p['text']['model']}, {p['images']['model']}" for name, p in PRESETS.items())
    parser = argparse.ArgumentParser(prog="python -m helpers.encode", description=DESCRIPTION)
    add = parser.add_argument
    add("--images", metavar="DIR", required=True, help="folder of pictures, at any depth")
    add("--captions", metavar="FILE", required=True, help="captions.txt, CSV, TSV, JSON, JSON lines or parquet")
    add("--out", metavar="DIR", required=True, help="the data folder to write")
    add("--preset", choices=tuple(PRESETS), default="small", help=f"pair of encoders (default: small). {presets}")
    add("--text-model", metavar="NAME", help="another text encoder: of sentence-transformers, a name or a folder")
    add("--image-model", metavar="NAME", help="another image encoder: of transformers, a name or a folder; timm:NAME")
    add("--pooling", choices=POOLINGS, help="one vector of an image model's many (default: the model's own)")
    add("--device", metavar="NAME", help="such as cpu or cuda:1 (default: the best that is there)")
    add("--batch-size", type=int, metavar="N", help="pictures, and captions, at a time")
    add("--precision", choices=tuple(PRECISIONS), help="of products (default: float16 on a GPU, float32 elsewhere)")
    add("--overwrite", action="store_true", help="another encoding in the data folder goes when this one is written")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal cannot show must not end the work
            stream.reconfigure(errors="backslashreplace")
    options = parse_arguments(arguments)
    try:
        print(encode_folder(**vars(options)).report())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # on a file of ours, such as another user's
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = f"{'Free some space, or give' if full else 'Give'} a folder that you can write with --out."
        print(f"error: {error.filename or options.out}: {error.strerror}. {remedy}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; the same call goes on from here", file=sys.stderr)
        return 130
    return 0
