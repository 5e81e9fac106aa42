"""Other people's formats: captions as they write them, and embeddings that exist already.

`captions` reads every caption format, `tables` reads parquet and saved datasets, `columns` knows what columns are
called, `vectors` finds embeddings in files, `embeddings` makes a data folder of them.
"""

from helpers.data.importers.captions import Captions, read_captions
from helpers.data.importers.embeddings import Imported, import_embeddings

__all__ = ["Captions", "Imported", "import_embeddings", "read_captions"]
