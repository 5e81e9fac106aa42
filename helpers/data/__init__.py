"""The data: files are read and checked, captions paired with images, the pairs split, and made ready for training.

One module each: `npz` reads archives without trusting them, `captions` reads caption files, `pairs` checks and pairs
both, `folder` writes what it reads, `cache` keeps the result as one file that is mapped into memory, `duplicates` finds
images that repeat one another, `repeats` counts texts that occur again, `split` splits by image, `training_data` moves
the splits to a device, `vectors` brings vectors to unit length, `importers` reads other people's formats,
`picture_files` opens any picture as RGB, `pictures` those behind the images, and `synthetic` writes data that no
encoder made.
"""

from helpers.data.captions import match_captions, parse_captions
from helpers.data.duplicates import Grouped, duplicate_groups, near_duplicates
from helpers.data.folder import Blocks, write_data_folder
from helpers.data.pairs import PairedEmbeddings, QueryEmbeddings, load_pairs, load_queries
from helpers.data.pictures import Pictures
from helpers.data.repeats import Repeats, count_repeats
from helpers.data.split import SPLITS, Part, Split, check_disjoint, make_split
from helpers.data.synthetic import write_synthetic
from helpers.data.training_data import TrainingData
from helpers.data.vectors import normalise

__all__ = [
    "SPLITS",
    "Blocks",
    "Grouped",
    "PairedEmbeddings",
    "Part",
    "Pictures",
    "QueryEmbeddings",
    "Repeats",
    "Split",
    "TrainingData",
    "check_disjoint",
    "count_repeats",
    "duplicate_groups",
    "load_pairs",
    "load_queries",
    "make_split",
    "match_captions",
    "near_duplicates",
    "normalise",
    "parse_captions",
    "write_data_folder",
    "write_synthetic",
]
