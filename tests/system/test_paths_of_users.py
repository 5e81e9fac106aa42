"""Paths that begin with `~`: of a user whom nobody knows they are one line, wherever a person may give a path."""

import ast
from pathlib import Path

import numpy as np
import pytest

import helpers
from helpers.__main__ import main as console
from helpers.data import load_pairs, parse_captions, write_data_folder
from helpers.data.importers import import_embeddings, read_captions
from helpers.data.npz import NpzReader
from helpers.data.pictures import Pictures
from helpers.encoders import encode_folder
from helpers.errors import ConfigError, DataError, UserError
from helpers.runs.search import run_folder
from helpers.serving.translator import Translator
from helpers.system import paths

NOBODY = "~nobody-of-this-name/x"
TWO = np.eye(2, dtype=np.float32)


def test_a_home_folder_is_found_and_one_of_nobody_is_an_error_with_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert paths.absolute("~/x") == tmp_path / "x" and paths.expanded("y") == Path("y")
    with pytest.raises(ConfigError, match=rf"^{NOBODY}: ~nobody-of-this-name stands for .* or \./{NOBODY} for a "):
        paths.absolute(NOBODY)


@pytest.mark.parametrize(
    "use",
    [
        load_pairs,
        parse_captions,
        read_captions,
        NpzReader,
        run_folder,
        Translator.load,
        lambda path: import_embeddings([path], "out"),
        lambda path: write_data_folder(path, text=TWO, images=TWO, caption_image=[0, 1], captions="ab", names="ab"),
        lambda path: encode_folder(path, "captions.txt", "out"),
    ],
)
def test_every_path_that_is_taken_says_so(use):
    with pytest.raises(UserError, match=f"^{NOBODY}: .* whom this machine does not know"):
        use(NOBODY)


def test_a_pictures_file_with_such_a_folder_is_an_error_of_the_data():
    with pytest.raises(DataError, match="whom this machine does not know"):
        Pictures({"folder": NOBODY}, ["a.png"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["encode", "--images", NOBODY, "--captions", "captions.txt", "--out", "out"],
        ["encode", "--from", NOBODY, "--out", "out"],
        ["series", "--runs-dir", NOBODY],
        ["series", "--data-dir", NOBODY],
        ["search", NOBODY, "a dog"],
        ["app", NOBODY],
    ],
)
def test_every_command_says_it_in_one_line(arguments, capsys, monkeypatch):
    monkeypatch.setenv("HELPERS_RUNS_DIR", "unused")  # restored after the test; --runs-dir may replace it
    assert console(arguments) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith(f"error: {NOBODY}: ")


def test_nothing_else_expands_a_path():
    root = Path(helpers.__file__).parent
    found = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr == "expanduser"
    }
    assert found == {"system/paths.py"}
