"""The encoders: text and pictures to vectors, behind one small interface, and a folder of pictures to a data folder.

One module each: `text` and `images` hold the encoders, `presets` pairs of them, `sources` where a model comes from,
`preprocessing` what a network sees, `encoding` runs them over pictures and captions into `shards` on disk, with threads
that read `ahead`, `folder` makes a data folder of it all, and `command` is its command line. Their libraries are the
extra `encode`.
"""

from helpers.data.picture_files import as_rgb, find_pictures, open_picture
from helpers.encoders.encoding import encode_pictures
from helpers.encoders.folder import Encoded, encode_folder
from helpers.encoders.images import ImageEncoder, load_image_encoder
from helpers.encoders.presets import PRESETS
from helpers.encoders.text import TextEncoder, load_text_encoder
from helpers.errors import EncoderError, PictureError

__all__ = [
    "PRESETS",
    "Encoded",
    "EncoderError",
    "ImageEncoder",
    "PictureError",
    "TextEncoder",
    "as_rgb",
    "encode_folder",
    "encode_pictures",
    "find_pictures",
    "load_image_encoder",
    "load_text_encoder",
    "open_picture",
]
