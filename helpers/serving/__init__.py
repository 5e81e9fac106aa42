"""What a user calls after training: translate, search, submit.

- `translator`: `Translator`, loaded from a run.
- `submission`: the challenge's CSV file, written, read and checked.
"""

from helpers.serving.submission import check_submission, read_submission, write_submission
from helpers.serving.translator import Translator

__all__ = ["Translator", "check_submission", "read_submission", "write_submission"]
