"""python -m helpers.search: a run's own index, other galleries, and the command line."""

import json
import multiprocessing
import time

import numpy as np
import pytest
import torch
from data_files import IMAGE_DIM, N_IMAGES, TEXT_DIM
from PIL import Image

from helpers import encoders
from helpers.data.vectors import MARKS
from helpers.errors import CheckpointError, DataError, RequestError
from helpers.evaluation import hubness
from helpers.models import storage
from helpers.models.build import build_model
from helpers.runs import galleries, open_run, search
from helpers.runs.app import open_gallery
from helpers.runs.galleries import data_folder, picture_folder
from helpers.runs.run_index import open_index, run_folder
from helpers.runs.search import main
from helpers.serving.index import PictureIndex
from helpers.serving.translator import Translator

ENCODERS = {"text": {"kind": "fake", "dim": TEXT_DIM}, "images": {"kind": "fake", "model": "m", "dim": IMAGE_DIM}}


class TextEncoder:
    dim = TEXT_DIM

    def encode(self, texts):
        return np.stack([np.eye(TEXT_DIM)[len(text) % TEXT_DIM] for text in texts])


class ImageEncoder:
    """The mean colour of a picture, among constants; counts the pictures that it has seen."""

    dim, sees, batch, readers, seen = IMAGE_DIM, 8, 2, 1, 0

    def prepare(self, picture):
        return torch.tensor(np.asarray(picture.convert("RGB"), float).mean((0, 1)))

    def encode_prepared(self, prepared):
        ImageEncoder.seen += len(prepared)
        return np.array([[*colour.tolist(), 1, 1] for colour in prepared], dtype=np.float32)

    def encode(self, pictures):
        return self.encode_prepared([self.prepare(picture) for picture in pictures])


def store_model(run, seed):
    torch.manual_seed(seed)
    model = build_model("linear", TEXT_DIM, IMAGE_DIM)
    storage.save_model(run.directory, "linear", model, {"architecture": {"text_dim": TEXT_DIM, "image_dim": IMAGE_DIM}})
    bank = run.data.text[hubness.sample(run.split.train_captions)]
    hubness.save_query_bank(run.directory, bank, np.zeros((len(bank), MARKS)), {"linear": 8.0})
    row = {"model": "linear", "mrr": 0.5, "weights": storage.weights_digest(run.directory, "linear")}
    (run.directory / "leaderboard.json").write_text(json.dumps([row]))


@pytest.fixture
def run(files, tmp_path, monkeypatch):
    """A judged run of four pictures, whose encoders are known."""
    monkeypatch.setenv("HELPERS_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setattr(encoders, "load_text_encoder", lambda description: TextEncoder())
    monkeypatch.setattr(encoders, "load_image_encoder", lambda description: ImageEncoder())
    ImageEncoder.seen = 0
    files.write()
    (files.folder / "photos").mkdir()
    for row, name in enumerate(files.arrays["images/names"]):
        Image.new("RGB", (90, 60), (60 * row, 0, 255)).save(files.folder / "photos" / name)
    (files.folder / "pictures.json").write_text('{"folder": "photos"}')
    (files.folder / "encoders.json").write_text(json.dumps(ENCODERS))
    opened = open_run({}, profile="challenge", run="mine", data_dir=str(files.folder), val_ratio=0.5)
    opened.save()
    store_model(opened, seed=0)
    return opened


def built(monkeypatch):
    """How often an index is built from now on."""
    calls = []
    build = PictureIndex.build.__func__
    monkeypatch.setattr(PictureIndex, "build", classmethod(lambda cls, *a, **b: calls.append(1) or build(cls, *a, **b)))
    return calls


def test_a_run_is_found_by_name_and_by_path(run, tmp_path, monkeypatch):
    assert run_folder("mine") == run_folder(run.directory) == run.directory
    monkeypatch.chdir(tmp_path)
    assert run_folder("runs/mine") == run.directory
    with pytest.raises(CheckpointError, match="neither a run in"):
        run_folder("two dogs on a beach " * 20)
    with pytest.raises(CheckpointError, match=r"other: neither a run in .*runs nor the folder of one. There are: mine"):
        run_folder("other")


def test_the_index_of_a_run_is_built_once_and_holds_all_of_its_images(run, monkeypatch):
    calls = built(monkeypatch)
    first, again = open_index(run.directory), open_index(run.directory)
    assert len(calls) == 1
    assert first.names == again.names == run.data.image_names
    assert len(again.pictures) == N_IMAGES
    assert again.captions == ["caption 0, with a comma", "caption 2, with a comma", "caption 1, with a comma", ""]
    translator = Translator.load(run.directory)
    expected = translator.search(run.data.text, run.data.images, 3, hubness=True)
    for found, of in zip(again.search(run.data.text, 3), expected, strict=True):
        np.testing.assert_array_equal(found, of)
    training = [run.data.captions[row] for row in run.split.train_captions]
    assert {text for text, _ in again.why(0, 99)} == set(training)


@pytest.mark.parametrize("change", ["weights", "bank", "pictures", "damage"])
def test_the_index_is_built_again_where_what_it_was_made_of_has_changed(run, files, monkeypatch, change):
    open_index(run.directory)
    calls = built(monkeypatch)
    if change == "weights":
        store_model(run, seed=1)
    elif change == "bank":
        hubness.save_query_bank(run.directory, run.data.text[:3], np.zeros((3, MARKS)), {"linear": 9.0})
    elif change == "pictures":
        (files.folder / "photos").rename(files.folder / "moved")
        (files.folder / "pictures.json").write_text('{"folder": "moved"}')
    else:
        next(run.directory.glob("index/*/*.safetensors")).write_bytes(b"damaged")
    index = open_index(run.directory)
    assert len(calls) == 1 and len(index) == N_IMAGES
    open_index(run.directory)
    assert len(calls) == 1


def test_data_that_changed_since_the_run_are_refused(run, files):
    files.arrays["images/embeddings"] = files.arrays["images/embeddings"] + 1
    files.write()
    with pytest.raises(CheckpointError, match="holds other data than the run was made from"):
        open_index(run.directory)


def test_a_data_folder_that_was_moved_is_found_where_the_user_says(run, files, capsys):
    moved = files.folder.with_name("moved")
    files.folder.rename(moved)
    assert main(["mine", "a dog"]) == 2
    assert "train.npz: no such file, and run mine was made from it. Put it back" in capsys.readouterr().err
    assert main(["mine", "a dog", "--data-dir", str(moved)]) == 0


def page_of(run):
    return (run.directory / "search.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("indexed", [True, False])
def test_pictures_that_were_moved_away_are_found_all_the_same(run, files, monkeypatch, capsys, indexed):
    if indexed:
        assert main(["mine", "a dog"]) == 0
    expected = capsys.readouterr().out
    calls, photos = built(monkeypatch), files.folder / "photos"
    photos.rename(files.folder / "moved")
    assert main(["mine", "a dog"]) == 0
    said = capsys.readouterr()
    assert said.err.count(f"{photos}: all {N_IMAGES} pictures are missing there") == 1 and "pictures.json" in said.err
    assert page_of(run).count("picture missing") == N_IMAGES
    assert len(calls) == (0 if indexed else 1) and (said.out == expected or not indexed)
    (files.folder / "moved").rename(photos)
    assert main(["mine", "a dog"]) == 0
    assert page_of(run).count("data:image/") == N_IMAGES and len(calls) == (0 if indexed else 1)


def test_the_local_page_opens_where_the_pictures_were_moved_away(run, files, capsys):
    (files.folder / "photos").rename(files.folder / "moved")
    gallery = open_gallery("mine")
    assert f"all {N_IMAGES} pictures are missing" in capsys.readouterr().err
    assert [hit.name for hit in gallery.search("a dog", "linear", 2)]
    with pytest.raises(RequestError, match="pictures are gone"):
        gallery.thumbnail(0, 64)


def test_pictures_that_were_deleted_are_counted_and_named(run, files, capsys):
    for name in ("0.jpg", "2.jpg"):
        (files.folder / "photos" / name).unlink()
    assert main(["mine", "a dog", "two"]) == 0
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"{files.folder / 'photos'}: 2 of the {N_IMAGES} listed pictures (0.jpg, 2.jpg) are missing")
    assert page_of(run).count("picture missing") == 4 and page_of(run).count("data:image/") == 2 * (N_IMAGES - 2)


def test_a_place_of_pictures_that_makes_no_sense_is_still_an_error(run, files, capsys):
    for content in ("[", "[" * 100_000, "[]", '{"folder": 7}', '{"sprite": "train.npz", "size": 1, "columns": 1}'):
        (files.folder / "pictures.json").write_text(content)
        assert main(["mine", "a dog"]) == 2
        assert "pictures.json" in capsys.readouterr().err


@pytest.mark.parametrize("left", ["nothing", "an empty folder"])
def test_a_folder_of_pictures_that_is_gone_is_searched_by_what_was_encoded(run, folder, monkeypatch, capsys, left):
    arguments = ["mine", "a dog", "--images", str(folder), "-k", "2"]
    assert main(arguments) == 0
    expected = capsys.readouterr().out
    calls, ImageEncoder.seen = built(monkeypatch), 0
    folder.rename(folder.with_name("elsewhere"))
    if left != "nothing":
        folder.mkdir()
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert said.out == expected and f"{folder}: " in said.err and "are missing" in said.err
    assert calls == [] and ImageEncoder.seen == 0 and page_of(run).count("picture missing") == 2
    open_run({}, **json.loads((run.directory / "run.json").read_text())["config"])
    other = {**ENCODERS, "images": {**ENCODERS["images"], "model": "n"}}
    (run.directory / "encoders.json").write_text(json.dumps(other))
    assert main(arguments) == 2  # what another encoder encoded is not searched


def test_two_processes_build_one_index_once_and_leave_no_file_beside_it(run, capfd, monkeypatch):
    context = multiprocessing.get_context("fork")
    building, go_on = context.Event(), context.Event()
    build = PictureIndex.build.__func__

    def slow(cls, *given, **named):
        building.set()
        assert go_on.wait(60)
        return build(cls, *given, **named)

    monkeypatch.setattr(PictureIndex, "build", classmethod(slow))
    first, second = (context.Process(target=open_index, args=(run.directory,)) for _ in range(2))
    first.start()
    assert building.wait(60)
    second.start()
    for _ in range(600):
        if "another process builds an index; waiting for it" in (said := capfd.readouterr().err):
            break
        time.sleep(0.05)
    assert "waiting for it" in said
    go_on.set()
    for process in (first, second):
        process.join(60)
        assert process.exitcode == 0
    assert "is built once" not in capfd.readouterr().err  # by the first alone, which said so before the second waited
    files = sorted(path.suffix for path in next(run.directory.glob("index/linear-*")).iterdir())
    assert files == [".json", ".safetensors"]


def test_a_query_without_words_is_refused_and_too_large_a_k_is_told(run, capsys):
    assert main(["mine", "a dog", "  "]) == 2
    assert "1 of 2 queries without words: number 2" in capsys.readouterr().err
    assert main(["mine", "a dog", "-k", "5000"]) == 0
    assert f"the gallery has {N_IMAGES} pictures" in capsys.readouterr().err


def test_an_index_that_cannot_be_kept_is_searched_all_the_same(run, capsys):
    (run.directory / "index").write_text("in the way")
    assert len(open_index(run.directory)) == N_IMAGES
    assert "the index cannot be written" in capsys.readouterr().err


def test_a_manifest_lists_no_index(run):
    from helpers.runs.manifest import artefact_digests

    before = artefact_digests(run.directory)
    open_index(run.directory)
    assert artefact_digests(run.directory) == before


@pytest.fixture
def folder(tmp_path):
    """Pictures that no data folder knows, one of them broken, and a link to one elsewhere."""
    folder = tmp_path / "holiday"
    (folder / "sub").mkdir(parents=True)
    for name, colour in (("red.png", "red"), ("sub/blue.jpg", "blue")):
        Image.new("RGB", (40, 40), colour).save(folder / name)
    (folder / "broken.png").write_bytes(b"no picture")
    Image.new("RGB", (40, 40), "lime").save(tmp_path / "elsewhere.png")
    (folder / "link.png").symlink_to(tmp_path / "elsewhere.png")
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_a_folder_of_pictures_is_encoded_once(run, folder, capsys):
    index = open_index(run.directory, gallery=picture_folder(folder))
    assert index.names == ["link.png", "red.png", "sub/blue.jpg"] and ImageEncoder.seen == 3
    assert "1 picture(s) cannot be encoded and are left out: broken.png" in capsys.readouterr().err
    assert index.pictures.image(0).getpixel((0, 0)) == (0, 255, 0) and index.pictures.image(2).size == (40, 40)
    expected = ImageEncoder().encode([Image.new("RGB", (4, 4), colour) for colour in ("lime", "red", "blue")])
    np.testing.assert_allclose(index.vectors[0], expected[0] / np.linalg.norm(expected[0]), rtol=1e-5)
    ImageEncoder.seen = 0
    open_index(run.directory, gallery=picture_folder(folder))
    store_model(run, seed=1)  # another model needs another index, not other vectors
    open_index(run.directory, gallery=picture_folder(folder))
    assert ImageEncoder.seen == 0
    Image.new("RGB", (40, 40), "white").save(folder / "white.png")
    assert len(open_index(run.directory, gallery=picture_folder(folder))) == 4


def test_folders_that_cannot_be_read_are_named_and_the_others_searched(run, folder, forbidden, capsys):
    forbidden(folder / "sub")
    assert open_index(run.directory, gallery=picture_folder(folder)).names == ["link.png", "red.png"]
    assert "1 folder(s) cannot be read and are not searched: sub" in capsys.readouterr().err


def test_a_picture_that_the_encoder_cannot_take_is_left_out_of_a_folder(run, folder, monkeypatch, capsys):
    def prepare(self, picture):
        if picture.getpixel((0, 0)) == (255, 0, 0):
            raise ValueError("unsupported")
        return torch.zeros(3)

    monkeypatch.setattr(ImageEncoder, "prepare", prepare)
    assert open_index(run.directory, gallery=picture_folder(folder)).names == ["link.png", "sub/blue.jpg"]
    assert "red.png (cannot be scaled (ValueError: unsupported))" in capsys.readouterr().err


def test_a_folder_is_searched_where_its_vectors_cannot_be_kept(run, folder, monkeypatch, capsys):
    def full(*args):
        raise DataError("no room")

    monkeypatch.setattr(galleries, "write_cache", full)
    assert len(open_index(run.directory, gallery=picture_folder(folder))) == 3
    assert "no room" in capsys.readouterr().err


def test_a_folder_needs_an_encoder_that_is_known(run, folder):
    for content in (None, {"images": {"kind": "unknown", "dim": IMAGE_DIM}}):
        path = run.config.data_path / "encoders.json"
        path.unlink() if content is None else path.write_text(json.dumps(content))
        open_run({}, **json.loads((run.directory / "run.json").read_text())["config"])
        with pytest.raises(CheckpointError, match="does not say what encoded the images of the run. .* --data-dir"):
            open_index(run.directory, gallery=picture_folder(folder))


def test_the_images_of_another_data_folder_are_searched(run, files, tmp_path):
    files.folder, images = tmp_path / "other", files.arrays["images/embeddings"]
    files.arrays["images/embeddings"] = images[::-1].copy()
    files.write()
    index = open_index(run.directory, gallery=data_folder(tmp_path / "other"))
    np.testing.assert_allclose(index.vectors, open_index(run.directory).vectors[::-1])
    (tmp_path / "other" / "encoders.json").write_text(json.dumps({"images": {**ENCODERS["images"], "model": "n"}}))
    with pytest.raises(DataError, match="its images were encoded by n, those of the run by m"):
        open_index(run.directory, gallery=data_folder(tmp_path / "other"))
    # Of one model, CLS tokens and means of patches may be equally wide.
    (tmp_path / "other" / "encoders.json").write_text(json.dumps({"images": {**ENCODERS["images"], "pooling": "mean"}}))
    with pytest.raises(DataError, match="its images were encoded by m mean, those of the run by m None"):
        open_index(run.directory, gallery=data_folder(tmp_path / "other"))
    (tmp_path / "other" / "encoders.json").write_text(json.dumps({"images": {"kind": "unknown", "dim": IMAGE_DIM}}))
    assert len(open_index(run.directory, gallery=data_folder(tmp_path / "other"))) == N_IMAGES


def test_the_command_prints_the_hits_and_writes_a_page(run, capsys, tmp_path):
    assert main(["mine", "a dog", "<i>two</i>", "-k", "3", "--out", str(tmp_path / "page.html")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "a dog" and lines[5] == "<i>two</i>" and lines[-1].endswith(f": {tmp_path / 'page.html'}")
    rows, scores = Translator.load(run.directory).search_text(["a dog"], run.data.images, 3, hubness=True)
    names = [run.data.image_names[row] for row in rows[0]]
    assert [line.split()[:3] for line in lines[1:4]] == [
        [str(rank), f"{score:.3f}", name] for rank, (score, name) in enumerate(zip(scores[0], names, strict=True), 1)
    ]
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.count("data:image/") == 6 and "&lt;i&gt;two&lt;/i&gt;" in text and "<i>" not in text


def test_the_command_ranks_by_cosine_where_it_is_asked_to(run, capsys):
    assert main([str(run.directory), "a dog", "--no-hubness", "-k", "99"]) == 0
    lines = capsys.readouterr().out.splitlines()[1 : 1 + N_IMAGES]
    rows, _ = Translator.load(run.directory).search_text(["a dog"], run.data.images, 99)
    assert [line.split()[2] for line in lines] == [run.data.image_names[row] for row in rows[0]]
    assert (run.directory / "search.html").exists()
    (run.directory / hubness.QUERY_BANK_FILE).unlink()
    assert main(["mine", "a dog", "--no-hubness"]) == 0
    assert main(["mine", "a dog"]) == 2
    assert "Run notebook 05" in capsys.readouterr().err


def test_the_command_exports_without_a_query(run, tmp_path):
    assert main(["mine", "--export", str(tmp_path / "out"), "--format", "npy"]) == 0
    assert np.load(tmp_path / "out" / "vectors.npy").shape == (N_IMAGES, IMAGE_DIM + 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "a dog"], "neither a run in"),
        (["mine", "a dog", "--model", "mlp1"], "mlp1.safetensors: no such file"),
        (["mine", "a dog", "--images", "/nowhere"], "no such folder"),
        (["mine", "a dog", "--data-dir", "/nowhere"], "train.npz"),
        (["mine", "a dog", "--index", "ivfpq"], "needs 1000 or more"),
    ],
)
def test_what_the_user_can_mend_is_one_line(run, capsys, arguments, message):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error and len(error.splitlines()) <= 2


@pytest.mark.parametrize(
    "arguments", [[], ["mine"], ["mine", "dog", "-k", "0"], ["mine", "dog", "--images", "a", "--data-dir", "b"]]
)
def test_a_command_line_that_makes_no_sense_is_refused(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_words_need_a_text_encoder_that_is_known(run, capsys):
    path = run.directory / "encoders.json"
    for content, message in (
        (None, "encoders.json: no such file. Encode the queries yourself"),
        ("{}", "does not say what encoded the captions"),
        ('{"text": {"kind": "unknown", "dim": 6}}', "what encoded the captions is unknown: the vectors were brought"),
        ('{"text": {"kind": "fake", "dim": 7}}', "the text encoder gives 6 numbers a text"),
    ):
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_text(content)
        assert main(["mine", "a dog"]) == 2
        assert message in capsys.readouterr().err
    model = Translator.load(run.directory).model
    with pytest.raises(CheckpointError, match="was not loaded from a folder"):
        _ = Translator("linear", model, TEXT_DIM, IMAGE_DIM).text_encoder


def test_the_console_script_lists_the_command(capsys):
    from helpers.__main__ import main as console

    assert console(["--help"]) == 0
    assert "search" in capsys.readouterr().out
    assert search.main is __import__("helpers.search").search.main
