"""PictureIndex on disk: whole or not at all, moved, damaged, hostile, and of other weights."""

import json
import re
import shutil
import struct

import numpy as np
import pytest
from judged import BANK, DX, DY, make_gallery, make_queries, make_run, names_of

from helpers.errors import CheckpointError
from helpers.models.build import build_model
from helpers.serving import index_files
from helpers.serving.index import PictureIndex
from helpers.serving.index_files import INDEX_FILE
from helpers.serving.translator import Translator

KINDS = ("flat", "hnsw", "int8", "binary")
CAPTIONS = [f"caption {row}" for row in range(BANK)]


@pytest.fixture
def translator(tmp_path):
    return make_run(tmp_path / "run")


@pytest.fixture
def saved(translator, tmp_path):
    """The folder of an index of 30 pictures, within its run's."""
    index = PictureIndex.build(
        translator, make_gallery(30), names_of(30), tmp_path / "photos", bank_captions=CAPTIONS, made_of={"data": "abc"}
    )
    return index.save(tmp_path / "run" / "index")


def same(one, other):
    for ours, theirs in zip(one.search(make_queries(5), 9), other.search(make_queries(5), 9), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_comes_back_as_it_was_saved(translator, tmp_path, kind):
    if kind != "flat":
        pytest.importorskip("faiss")
    captions = [f"picture {row}" for row in range(30)]
    index = PictureIndex.build(translator, make_gallery(30), names_of(30), kind=kind, captions=captions)
    loaded = PictureIndex.load(index.save(tmp_path / "index"))
    assert (loaded.kind, loaded.names, loaded.captions, loaded.model) == (kind, names_of(30), captions, "linear")
    np.testing.assert_array_equal(loaded.vectors, index.vectors)
    np.testing.assert_array_equal(loaded.popularity, index.popularity)
    same(loaded, index)
    loaded.add(make_gallery(2, seed=5), ["a", "b"])
    again = PictureIndex.load(loaded.save(tmp_path / "index"), translator)
    assert len(again) == 32 and again.captions[30:] == ["", ""]
    same(again, loaded)
    files = sorted(path.suffix for path in (tmp_path / "index").iterdir())
    assert files == [".json", ".safetensors"] if kind == "flat" else [".faiss", ".json", ".safetensors"]


def test_what_is_added_after_loading_has_the_popularity_that_it_would_have_had(translator, saved):
    index = PictureIndex.build(translator, make_gallery(30), names_of(30))
    loaded = PictureIndex.load(saved)
    for one in (index, loaded):
        one.add(make_gallery(3, seed=5), ["a", "b", "c"])
    again = PictureIndex.load(loaded.save(saved))
    again.add(make_gallery(1, seed=6), ["d"])
    index.add(make_gallery(1, seed=6), ["d"])
    np.testing.assert_allclose(again.popularity, index.popularity, atol=1e-6)


def test_pictures_that_were_there_and_the_maker_s_notes_are_kept(saved, tmp_path):
    loaded = PictureIndex.load(saved)
    assert loaded.made_of == {"data": "abc"}
    assert loaded.location == {"folder": str(tmp_path / "photos")}
    assert loaded.why(0) == PictureIndex.load(saved).why(0) != []


def test_an_index_moves_with_its_run(saved, tmp_path):
    shutil.move(tmp_path / "run", tmp_path / "elsewhere")
    assert PictureIndex.load(tmp_path / "elsewhere" / "index").translator.name == "linear"


def test_an_index_without_its_run_still_answers_translated_queries(translator, saved, tmp_path):
    unit = translator.translate(make_queries(3))
    expected = PictureIndex.load(saved).search(unit)[0]
    shutil.move(saved, tmp_path / "alone")
    shutil.rmtree(tmp_path / "run")
    alone = PictureIndex.load(tmp_path / "alone")
    np.testing.assert_array_equal(alone.search(unit)[0], expected)
    with pytest.raises(CheckpointError, match="linear.safetensors: no such file"):
        alone.search(make_queries(3))


def test_a_translator_from_no_folder_is_given_again(tmp_path):
    model = build_model("linear", DX, DY)
    ours = Translator("linear", model, DX, DY)
    index = PictureIndex.build(ours, make_gallery(30), names_of(30), hubness=False)
    index.save(tmp_path / "index")
    with pytest.raises(CheckpointError, match="came from no folder"):
        PictureIndex.load(tmp_path / "index").search(make_queries(2))
    same(PictureIndex.load(tmp_path / "index", ours), index)
    other = Translator("linear", build_model("linear", DX, DY), DX, DY)
    with pytest.raises(CheckpointError, match="built for other weights of linear"):
        PictureIndex.load(tmp_path / "index", other)


def test_an_index_of_other_weights_is_refused(saved, tmp_path):
    make_run(tmp_path / "run", seed=1)
    with pytest.raises(CheckpointError, match=r"index.json: built for other weights of linear than its run has"):
        PictureIndex.load(saved)
    with pytest.raises(CheckpointError, match="built for other weights of linear"):
        PictureIndex.load(saved, Translator.load(tmp_path / "run"))


def test_weights_that_change_while_an_index_is_open_are_refused(saved, tmp_path):
    index = PictureIndex.load(saved)
    make_run(tmp_path / "run", seed=1)
    with pytest.raises(CheckpointError, match="built for other weights of linear"):
        index.search(make_queries(2))


def test_a_missing_index_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere/index.json: no such file. Delete the folder and build"):
        PictureIndex.load(tmp_path / "nowhere")


def change(key, value):
    def fault(folder):
        about = json.loads((folder / INDEX_FILE).read_text())
        about[key] = value
        (folder / INDEX_FILE).write_text(json.dumps(about))

    return fault


def rename_file(name):
    def fault(folder):
        about = json.loads((folder / INDEX_FILE).read_text())
        about["files"]["vectors"]["name"] = name
        (folder / INDEX_FILE).write_text(json.dumps(about))

    return fault


def flip(folder):
    path = next(folder.glob("*.safetensors"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def truncate(folder):
    path = next(folder.glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-5])


def foreign(folder):
    """Another content with the digest that belongs to it."""
    path = next(folder.glob("*.safetensors"))
    path.write_bytes(b"\xff" * 4000)
    about = json.loads((folder / INDEX_FILE).read_text())
    about["files"]["vectors"] = index_files._described(path)
    (folder / INDEX_FILE).write_text(json.dumps(about))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda folder: (folder / INDEX_FILE).write_text("{"), "not a readable index"),
        (lambda folder: (folder / INDEX_FILE).write_text("[]"), "not a readable index"),
        (lambda folder: (folder / INDEX_FILE).write_text("{}"), "not a readable index"),
        (lambda folder: (folder / INDEX_FILE).write_bytes(b"\xff\xfe"), "not a readable index"),
        (lambda folder: (folder / INDEX_FILE).write_text("[" * 100_000), "not a readable index"),
        (change("format", 99), "format 99, but this version reads 1"),
        (change("format", None), "format None, but this version reads 1"),
        (change("files", {}), "not a readable index"),
        (change("files", 7), "not a readable index"),
        (change("kind", "annoy"), "its parts do not fit one another"),
        (change("kind", "hnsw"), "not a readable index"),  # and no file of candidates
        (change("kind", ["flat"]), "not a readable index"),
        (change("image_dim", 7), "its parts do not fit one another"),
        (change("built", 31), "its names do not fit its vectors"),
        (change("built", 0), "its names do not fit its vectors"),
        (change("built", "x"), "not a readable index"),
        (change("run", 3), "not a readable index"),
        (change("model", ["linear"]), "not a readable index"),
        (rename_file("../../secret.safetensors"), "is no name of a file of its own"),
        (rename_file("/etc/passwd"), "is no name of a file of its own"),
        (rename_file("gone.safetensors"), "gone.safetensors is not there"),
        (rename_file(5), "not a readable index"),
        (flip, "is not the file that was written"),
        (truncate, "is not the file that was written"),
        (foreign, "is not what this package writes"),
    ],
)
def test_damaged_and_hostile_folders_are_refused_with_their_name(saved, fault, message):
    fault(saved)
    with pytest.raises(CheckpointError, match=message) as caught:
        PictureIndex.load(saved)
    assert str(saved / INDEX_FILE) in str(caught.value) and "build the index again" in str(caught.value)


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("vectors", np.nan, "not of unit length"),
        ("vectors", 3, "not of unit length"),
        ("popularity", np.inf, "popularity is not finite"),
    ],
)
def test_vectors_that_no_index_has_are_refused(saved, part, value, message):
    index = PictureIndex.load(saved)
    index.vectors, index.popularity = index.vectors.copy(), index.popularity.copy()
    getattr(index, part)[3] = value
    index.save(saved)
    with pytest.raises(CheckpointError, match=message):
        PictureIndex.load(saved)


def test_a_file_of_candidates_for_other_vectors_is_refused(translator, tmp_path):
    pytest.importorskip("faiss")
    folder = PictureIndex.build(translator, make_gallery(30), names_of(30), kind="int8").save(tmp_path / "a")
    other = PictureIndex.build(translator, make_gallery(20), names_of(20), kind="int8").save(tmp_path / "b")
    ours, theirs = (json.loads((where / INDEX_FILE).read_text()) for where in (folder, other))
    shutil.copy(next(other.glob("*.faiss")), folder)
    ours["files"]["candidates"] = theirs["files"]["candidates"]
    (folder / INDEX_FILE).write_text(json.dumps(ours))
    with pytest.raises(CheckpointError, match="holds 20 vectors of width 9"):
        PictureIndex.load(folder)


def start_with(name=None, width=None, rows=None):
    """Another beginning of a file of faiss: the name of its kind, width, number of vectors."""

    def fault(content):
        found = struct.unpack("<4siq", content[:16])
        given = [mine if new is None else new for mine, new in zip(found, (name, width, rows), strict=True)]
        return struct.pack("<4siq", *given) + content[16:]

    return fault


@pytest.mark.parametrize("kind", ["hnsw", "int8", "binary"])
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (start_with(name=b"IxFI"), "is no {kind} index of this version of faiss: it starts with b'IxFI'"),
        (start_with(width=10), "holds 30 vectors of width 10"),
        (start_with(rows=2**40), "holds 1099511627776 vectors of width 9"),
        (lambda content: content[:16], "has 16 bytes, but 30 vectors need"),
        (lambda content: b"", "has 0 bytes"),
    ],
)
def test_a_file_that_is_no_index_of_its_kind_never_reaches_faiss(
    translator, tmp_path, monkeypatch, kind, fault, message
):
    faiss = pytest.importorskip("faiss")
    folder = PictureIndex.build(translator, make_gallery(30), names_of(30), kind=kind).save(tmp_path / "index")
    path, read = next(folder.glob("*.faiss")), []
    path.write_bytes(fault(path.read_bytes()))
    about = json.loads((folder / INDEX_FILE).read_text())
    about["files"]["candidates"] = index_files._described(path)
    (folder / INDEX_FILE).write_text(json.dumps(about))
    monkeypatch.setattr(faiss, "read_index", read.append)
    with pytest.raises(CheckpointError, match=re.escape(message.format(kind=kind))):
        PictureIndex.load(folder)
    assert read == []


@pytest.mark.parametrize("fails", ["write_cache", "write_json"])
def test_a_save_that_fails_leaves_the_earlier_index_and_nothing_else(monkeypatch, saved, fails):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    index = PictureIndex.load(saved)
    index.add(make_gallery(2, seed=5), ["a", "b"])

    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(index_files, fails, fail)
        with pytest.raises(CheckpointError, match="the index cannot be written .*No space left"):
            index.save(saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert len(PictureIndex.load(saved)) == 30


def test_candidates_that_cannot_be_written_leave_the_earlier_index_and_nothing_else(translator, tmp_path, monkeypatch):
    faiss = pytest.importorskip("faiss")
    with pytest.raises(RuntimeError) as real:  # what faiss raises, and no OSError
        faiss.write_index(faiss.IndexFlatIP(2), str(tmp_path / "no such folder" / "file"))
    index = PictureIndex.build(translator, make_gallery(30), names_of(30), kind="int8")
    folder = index.save(tmp_path / "index")
    before = {path.name for path in folder.iterdir()}

    def fail(*_):
        raise real.value

    monkeypatch.setattr(faiss, "write_index", fail)
    with pytest.raises(CheckpointError, match="the index cannot be written"):
        index.save(folder)
    assert {path.name for path in folder.iterdir()} == before


def test_an_index_that_is_open_survives_its_replacement(translator, saved):
    index, queries = PictureIndex.load(saved), make_queries(4)
    expected = index.search(queries)[0]
    PictureIndex.build(translator, make_gallery(9, seed=7), names_of(9)).save(saved)
    np.testing.assert_array_equal(index.search(queries)[0], expected)


def test_an_index_that_is_replaced_while_it_is_loaded_is_loaded_as_it_is_then(translator, saved, monkeypatch):
    other = PictureIndex.build(translator, make_gallery(9, seed=7), names_of(9))
    check, replaced = index_files._checked_file, []

    def replace_first(*given):
        if not replaced:
            replaced.append(other.save(saved))
        return check(*given)

    monkeypatch.setattr(index_files, "_checked_file", replace_first)
    assert len(PictureIndex.load(saved)) == 9


def test_nothing_that_is_saved_is_a_pickle(saved):
    for path in saved.iterdir():
        content = path.read_bytes()
        assert content[:1] != b"\x80" and b"numpy.core" not in content


@pytest.mark.filterwarnings("error")
def test_a_loaded_index_is_searched_without_a_warning(saved):
    PictureIndex.load(saved).search(make_queries(2))
