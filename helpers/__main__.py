"""The console script: `embedding-translation series ...` does what `python -m helpers.series ...` does."""

from __future__ import annotations

import importlib
import sys

COMMANDS = {
    "encode": "Encode a folder of pictures and their captions into the data folder that the series reads.",
    "series": "Run the notebooks in order on the demo data or on yours, or verify a finished run.",
    "train": "Train or fit one model of a run, in one process or in several under torchrun.",
    "search": "Find the pictures of a run, or of a folder, by words.",
    "app": "A page in your browser that finds a run's pictures by words.",
}
"""The command lines by name; each is a module of this package with `main(arguments) -> exit status`."""


def main(arguments: list[str] | None = None) -> int:
    """Hand the arguments to the command that the first one names; returns the exit status, 2 for an unknown one."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in COMMANDS:
        return importlib.import_module(f"helpers.{name}").main(rest)
    asked = name in ("-h", "--help")
    lines = [] if asked else [f"embedding-translation: there is no command {name!r}."]
    lines += ["usage: embedding-translation COMMAND ...   (COMMAND --help says more)", ""]
    lines += [f"  {command:<8} {what}" for command, what in COMMANDS.items()]
    print("\n".join(lines), file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2


if __name__ == "__main__":
    sys.exit(main())
