"""ONNX files: what ONNX Runtime says of them is what PyTorch says of the model."""

import logging
import warnings

import numpy as np
import pytest
import torch
from saved_runs import DX, DY, ENSEMBLES, GALLERY, MODELS, QUERIES, random_model

from helpers.errors import CheckpointError, UserError
from helpers.serving import onnx_export
from helpers.serving.translator import Translator

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
onnx = pytest.importorskip("onnx")

CASES = [(name, {}) for name in MODELS] + [("bigjump_plus", shape) for shape in ENSEMBLES]
pytestmark = pytest.mark.slow  # an export takes two seconds


def make(name="mlp1", **shape):
    return Translator(name, random_model(name, **shape), DX, DY)


def run(path, x):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["image_embedding"], {"text_embedding": x})[0]


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_onnx_runtime_gives_the_translator_s_unit_vectors_for_batches_of_any_size(tmp_path, name, shape):
    translator = make(name, **shape)
    path = translator.export_onnx(tmp_path / "model.onnx")
    for rows in (1, 2, 7):
        found = run(path, QUERIES[:rows])
        assert found.shape == (rows, DY) and found.dtype == np.float32
        np.testing.assert_allclose(found, translator.translate(QUERIES[:rows]), atol=1e-4)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert run(path, QUERIES[:0]).shape == (0, DY)
    unit = GALLERY / np.linalg.norm(GALLERY, axis=1, keepdims=True)
    np.testing.assert_array_equal((found @ unit.T).argmax(1), translator.search(QUERIES, GALLERY, 1)[0][:, 0])


def test_the_file_says_what_it_is_in_one_file_and_nothing_of_this_machine(tmp_path):
    path = make("bigjump").export_onnx(tmp_path / "sub" / "model.onnx")
    proto = onnx.load(str(path), load_external_data=False)
    onnx.checker.check_model(proto, full_check=True)
    props = {prop.key: prop.value for prop in proto.metadata_props}
    assert props["model"] == "bigjump" and "unit length" in props["output"]
    assert [value.name for value in (*proto.graph.input, *proto.graph.output)] == ["text_embedding", "image_embedding"]
    assert [item.name for item in path.parent.iterdir()] == ["model.onnx"]
    content = path.read_bytes()
    assert b"/helpers/" not in content and b"site-packages" not in content and b"networks.py" not in content


def test_the_export_is_silent_and_changes_nothing_of_the_translator(tmp_path, capsys):
    translator = make("bigjump_plus", **ENSEMBLES[-1])
    before = translator.translate(QUERIES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        translator.export_onnx(tmp_path / "model.onnx")
    assert capsys.readouterr() == ("", "")
    assert logging.getLogger("torch.onnx").level == logging.NOTSET
    np.testing.assert_array_equal(translator.translate(QUERIES), before)


def test_what_the_caller_has_set_in_torch_changes_no_number(tmp_path):
    translator = make("bigjump_plus", **ENSEMBLES[-1])
    with torch.autocast("cpu", torch.bfloat16):
        path = translator.export_onnx(tmp_path / "model.onnx")
    np.testing.assert_allclose(run(path, QUERIES), translator.translate(QUERIES), atol=1e-5)


def test_a_file_that_would_say_something_else_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "TOLERANCE", -1.0)
    (tmp_path / "model.onnx").write_bytes(b"earlier")
    with pytest.raises(CheckpointError, match="differs from PyTorch by .*nothing was written"):
        make().export_onnx(tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_bytes() == b"earlier"


def test_what_cannot_be_written_is_told_in_one_line(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be written"):
        make().export_onnx(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_model_beyond_two_gigabytes_is_refused_before_it_is_exported(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "LARGEST", 100.0)
    with pytest.raises(CheckpointError, match="ends at 2 GB"):
        make().export_onnx(tmp_path / "model.onnx")


def test_without_the_libraries_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"pip install -e .*\[export\]"):
        make().export_onnx(tmp_path / "model.onnx")
