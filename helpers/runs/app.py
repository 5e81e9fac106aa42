"""The command line of the local page: `python -m helpers.app RUN`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from helpers.errors import CheckpointError
from helpers.evaluation.hubness import QUERY_BANK_FILE
from helpers.runs.galleries import image_encoder_of
from helpers.runs.run_index import open_index, run_folder
from helpers.serving.app.gallery import Gallery
from helpers.serving.app.server import serve
from helpers.serving.translator import ENCODERS_FILE
from helpers.system.console import INTERRUPTED, run_command

if TYPE_CHECKING:
    from helpers.encoders import ImageEncoder

PORT = 8000


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the page of a run until it is interrupted; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m helpers.app", description="A page in your browser that finds a run's pictures by words."
    )
    parser.add_argument("run", metavar="RUN", help="name of a run in runs/, or its folder")
    parser.add_argument("--data-dir", metavar="DIR", help="where the run's data folder is now, if it was moved")
    parser.add_argument("--port", type=int, default=PORT, help=f"default {PORT}; 0 for any that is free")
    parser.add_argument("--host", default="127.0.0.1", help="default 127.0.0.1, which only this machine can reach")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    options = parser.parse_args(arguments)
    opened = partial(open_gallery, options.run, options.data_dir)
    status = run_command(lambda: serve(opened, options.host, options.port, options.open), interrupted="stopped")
    return 0 if status == INTERRUPTED else status  # which is how it is meant to end


def open_gallery(run: str, data_dir: str | None = None) -> Gallery:
    """The pictures of a run, by its name or folder.

    Args:
        data_dir: where its data folder is now, if it was moved.

    Raises:
        UserError: there is no such run, or its data are gone.
    """
    folder = run_folder(run)
    corrects = (folder / QUERY_BANK_FILE).exists()
    description = image_encoder_of(folder)

    def image_encoder() -> ImageEncoder:
        if description["kind"] == "unknown":
            raise CheckpointError(f"{folder / ENCODERS_FILE}: does not say what encoded the images.")
        from helpers.encoders import load_image_encoder

        return load_image_encoder(description)

    return Gallery(
        folder, lambda model: open_index(folder, model, hubness=corrects, moved_to=data_dir), image_encoder, description
    )
