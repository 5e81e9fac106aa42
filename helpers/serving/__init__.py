"""What a user calls after training: translate, search, submit.

- `translator`: `Translator`, loaded from a run.
- `pretrained`: a translator in a folder of its own; `onnx_export`, `sentence_transformer`: for other programs.
- `index`: `PictureIndex`, a gallery that is searched again and again; `candidates`: its approximate kinds.
- `page`: what was found, as a page that shows the pictures.
- `submission`: the challenge's CSV file, written, read and checked.
"""

from helpers.serving.index import PictureIndex
from helpers.serving.submission import check_submission, read_submission, write_submission
from helpers.serving.translator import Translator

__all__ = ["PictureIndex", "Translator", "check_submission", "read_submission", "write_submission"]
