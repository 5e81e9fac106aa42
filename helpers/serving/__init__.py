"""What a user calls after training: translate, search, submit.

- `translator`: `Translator`, loaded from a run; `exact_search`, `popularity`: what its search is made of.
- `pretrained`: a translator in a folder of its own, with its `model_card`; `onnx_export`, `sentence_transformer`: for
  other programs; `text_encoders`: what encoded the captions.
- `index`: `PictureIndex`, a gallery that is searched again and again; `candidates`: its approximate kinds;
  `index_files`, `index_export`: it on the disk, and its vectors for a database; `folding`: how those hold popularity.
- `page`: what was found, as a page that shows the pictures; `app`: the page that searches.
- `submission`: the challenge's CSV file, written, read and checked.
"""

from helpers.serving.index import PictureIndex
from helpers.serving.submission import check_submission, read_submission, write_submission
from helpers.serving.translator import Translator

__all__ = ["PictureIndex", "Translator", "check_submission", "read_submission", "write_submission"]
