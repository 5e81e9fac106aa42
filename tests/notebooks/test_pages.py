"""The pages of the series: short enough to read, and true on data other than the demo's."""

import importlib.util
import json
import re
import subprocess
import sys

import numpy as np
import pytest

from helpers.runs import series
from helpers.system import paths

NOTEBOOKS = sorted(paths.NOTEBOOKS_DIR.glob("[0-9][0-9]_*.ipynb"))
OF_THE_DEMO = re.compile(r"\b(emoji|noto|cldr|synthetic|demo)\b", re.IGNORECASE)


def load_check():
    spec = importlib.util.spec_from_file_location("check", paths.NOTEBOOKS_DIR / "check.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


check = load_check()


def cells(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_page_is_short_enough_to_read(path):
    assert check.faults(check.measures(path)) == []


def test_a_page_that_is_too_long_is_told_by_its_numbers():
    found = {"code cells": 21, "median lines": 5.5, "parameter lines": 13, "median words": 60, "most words": 151}
    assert len(check.faults(found)) == 5
    assert check.faults(dict.fromkeys(found, 0)) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_page_opens_with_its_question_and_ends_with_three_things_to_take_along(path):
    texts = ["".join(cell["source"]) for cell in cells(path) if cell["cell_type"] == "markdown"]
    assert re.match(r"# \d\d · .+\n\n\*\*Question\.\*\* .+\?\n\n\*\*What you will see\.\*\* ", texts[0])
    assert texts[-1].startswith("## To take along\n") and len(re.findall(r"(?m)^\* ", texts[-1])) == 3


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_text_of_a_page_speaks_of_the_demo_data(path):
    texts = ["".join(cell["source"]) for cell in cells(path) if cell["cell_type"] == "markdown"]
    assert [text for text in texts if OF_THE_DEMO.search(text)] == []


@pytest.mark.parametrize("missing", [False, True])
def test_the_first_cell_installs_the_package_where_it_is_missing_and_does_nothing_else(missing, monkeypatch):
    (source,) = {"".join(next(c for c in cells(path) if c["cell_type"] == "code")["source"]) for path in NOTEBOOKS}
    ran = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: ran.append(command))
    before = sys.path.copy()
    monkeypatch.setattr(sys, "path", before.copy())
    if missing:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    exec(source, {})
    assert [command[:2] for command in ran] == ([["git", "clone"], [sys.executable, "-m"]] if missing else [])
    assert sys.path == ["project"] * missing + before


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """The series on sixty images with one caption each: texts of pages, and what their cells show."""
    folder = tmp_path_factory.mktemp("small")
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(60, 8))
    captions = latents @ rng.normal(size=(8, 20)) + 0.1 * rng.normal(size=(60, 20))
    images = latents @ rng.normal(size=(8, 24)) + 0.1 * rng.normal(size=(60, 24)) + 2
    names = [f"photo {i}.jpg" for i in range(60)]
    (folder / "data").mkdir()
    arrays = {"captions/embeddings": captions, "images/embeddings": images, "images/names": np.array(names)}
    np.savez(
        folder / "data" / "train.npz", **{name: np.float32(a) if a.dtype == float else a for name, a in arrays.items()}
    )
    lines = ["image,caption", *(f"{name},a photo numbered {i}" for i, name in enumerate(names))]
    (folder / "data" / "captions.txt").write_text("\n".join(lines) + "\n")
    plus = {"members": 2, "epochs": 2, "hidden": 16, "temperatures": [0.1], "fold_images": 10}
    given = {"epochs": 2, "hidden": 8, "latency_repeats": 2, "bootstrap_samples": 50, "plus_settings": plus}
    arguments = ["--data-dir", str(folder / "data"), "--run", "small", "--runs-dir", str(folder / "runs")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HELPERS_RUNS_DIR", str(folder / "runs"))
        status = series.main(
            [*arguments, *(part for name, value in given.items() for part in ("-p", name, str(value)))]
        )
    return status, sorted((folder / "runs" / "small").glob("*.ipynb"))


@pytest.mark.slow
def test_the_five_pages_run_on_sixty_images_with_one_caption_each(small_run):
    status, pages = small_run
    assert status == 0 and [path.name for path in pages] == [path.name for path in NOTEBOOKS]
    for path in pages:
        kinds = {kind for cell in cells(path) for output in cell.get("outputs", ()) for kind in output.get("data", ())}
        assert {"image/png", "text/markdown"} <= kinds, path.name


@pytest.mark.slow
def test_pages_of_other_data_say_nothing_of_the_demo_data(small_run):
    for path in small_run[1]:
        for cell in cells(path):
            shown = ["".join(cell["source"])] if cell["cell_type"] == "markdown" else []
            for output in cell.get("outputs", ()):
                data = output.get("data", {"text/plain": output.get("text", "")})
                shown += ["".join(text) for kind, text in data.items() if kind.startswith("text/")]
            assert [text for text in shown if OF_THE_DEMO.search(text)] == [], path.name


@pytest.mark.slow
def test_with_one_caption_an_image_the_pages_say_so(small_run):
    first, second = ("".join(str(cell.get("outputs")) for cell in cells(path)) for path in small_run[1][:2])
    assert "An image has 1 caption." in first and "both are the same fit" in second
