"""The examples of docs/export.md, run one after another as a reader would, beside a small run."""

import re
from pathlib import Path

import numpy as np
import pytest
from saved_runs import DY, GALLERY, QUERIES, write_encoders, write_run, write_text_encoder

PAGE = Path(__file__).resolve().parents[2] / "docs" / "export.md"
pytestmark = pytest.mark.slow


def test_the_examples_of_the_page_run_in_their_order(tmp_path, monkeypatch):
    for library in ("sentence_transformers", "onnxruntime", "onnxscript"):
        pytest.importorskip(library)
    shape = {"networks": {"networks": {"members": 2}}, "weights": {"networks": 0.7, "cca": 0.3}}
    run = write_run(tmp_path / "runs" / "demo", ["procrustes", "bigjump_plus"], **shape)
    write_encoders(run, write_text_encoder(tmp_path / "encoder"))
    monkeypatch.chdir(tmp_path)
    scope = {"captions": QUERIES, "images": GALLERY}
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), scope)
    assert len(blocks) == 6
    assert {path.name for path in tmp_path.iterdir()} >= {"my-translator", "translator.onnx", "text-to-image"}
    assert scope["rows"].shape == (1, 5) and scope["vectors"].shape == (2, DY)
    np.testing.assert_allclose(np.linalg.norm(scope["vectors"], axis=1), 1, atol=1e-5)
