"""The memory of an encoding, at a tiny size."""

import json
import sys

import pytest

from benchmarks import common, encode


@pytest.mark.slow
def test_memory_is_measured_for_each_number_of_pictures(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(common, "RESULTS_DIR", tmp_path)
    monkeypatch.setattr(sys, "argv", ["encode", "--memory", "8", "16"])
    encode.main()
    result = json.loads((tmp_path / "encode_memory_small.json").read_text())
    assert result["command"] == "python -m benchmarks.encode --memory 8 16"
    assert [(row["pictures"], row["captions"]) for row in result["memory"]] == [(8, 40), (16, 80)]
    assert all(0 < row["before_mb"] <= row["peak_mb"] for row in result["memory"])
    assert "16 pictures, 80 captions: " in capsys.readouterr().out
