"""Translate the embeddings of one frozen encoder into the space of another, and search with them.

    import numpy as np
    from helpers import Translator

    translator = Translator.load("runs/demo")  # the best model of a run of the series
    captions, images = np.load("captions.npy"), np.load("images.npy")  # (N, dx), (M, dy)
    indices, scores = translator.search(captions, images, k=10)

`load_pairs` reads a data folder. Everything else has a room: `data`, `models`, `evaluation`, `training`, `serving`,
`runs`, and `plots`; `system` holds what they stand on, `errors` what they raise.
"""

from importlib.metadata import PackageNotFoundError, version

from helpers.data.pairs import load_pairs
from helpers.serving.translator import Translator

__all__ = ["Translator", "__version__", "load_pairs"]
try:
    __version__ = version("embedding-translation")
except PackageNotFoundError:  # a checkout that is only on the path
    __version__ = "unknown"
