"""Are the pages short enough to read? Code cells, their lines, and words of text, of every notebook of the series.

    python notebooks/check.py

Prints a table, and ends with status 1 where a notebook is over a limit. Formulas set apart by `$$` are no words.
"""

import json
import re
import statistics
import sys
from pathlib import Path

CODE_CELLS, MEDIAN_LINES, PARAMETER_LINES = 20, 5, 12
MEDIAN_WORDS, MOST_WORDS = 60, 150  # the median is to stay below, no cell may be above
HIDDEN = {"hide-input", "remove-cell"}  # cells that a reader of the page does not see: they do not count


def measures(path: Path) -> dict[str, float]:
    """What the limits are about, of one notebook."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    text = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    words = [len(re.sub(r"\$\$.*?\$\$", "", each, flags=re.DOTALL).split()) for each in text]
    seen = [cell for cell in code if not HIDDEN & set(tags(cell))]
    return {
        "code cells": len(seen),
        "median lines": statistics.median(lines(cell) for cell in seen if "parameters" not in tags(cell)),
        "parameter lines": sum(lines(cell) for cell in code if "parameters" in tags(cell)),
        "text cells": len(text),
        "median words": statistics.median(words),
        "most words": max(words),
    }


def tags(cell: dict) -> list[str]:
    return cell["metadata"].get("tags", [])


def lines(cell: dict) -> int:
    """Lines of a cell that are not empty."""
    return sum(bool(line.strip()) for line in "".join(cell["source"]).splitlines())


def faults(found: dict[str, float]) -> list[str]:
    """What is over its limit."""
    limits = {
        "code cells": CODE_CELLS,
        "median lines": MEDIAN_LINES,
        "parameter lines": PARAMETER_LINES,
        "median words": MEDIAN_WORDS - 0.5,
        "most words": MOST_WORDS,
    }
    return [f"{name}: {found[name]:g}" for name, limit in limits.items() if found[name] > limit]


def main() -> int:
    """Print the table; the exit status is 1 where there is a fault."""
    wrong = {}
    for path in sorted(Path(__file__).parent.glob("[0-9][0-9]_*.ipynb")):
        found = measures(path)
        print(f"{path.stem:30s} " + "  ".join(f"{name} {value:g}" for name, value in found.items()))
        if over := faults(found):
            wrong[path.name] = over
    for name, over in wrong.items():
        print(f"{name}: too long, {'; '.join(over)}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
