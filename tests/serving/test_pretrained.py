"""A saved translator: all of it comes back from the folder alone, nothing is lost on the way, damage is told."""

import json
import multiprocessing
import os
import shutil
import struct

import numpy as np
import pytest
import torch
import yaml
from data_files import tree_bytes
from saved_runs import DX, DY, ENSEMBLES, GALLERY, MODELS, QUERIES, write_encoders, write_run, write_text_encoder

from helpers.data.vectors import MARKS
from helpers.errors import CheckpointError, UserError
from helpers.evaluation import hubness
from helpers.models import storage
from helpers.serving import pretrained
from helpers.serving.translator import Translator


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run", ["procrustes", "mlp1"])


@pytest.fixture
def saved(tmp_path, run):
    """A saved translator whose run is gone."""
    folder = Translator.load(run).save_pretrained(tmp_path / "saved")
    shutil.rmtree(run)
    return folder


def results(translator):
    """All that a translator answers without a text encoder."""
    return (
        translator.raw(QUERIES),
        translator.translate(QUERIES),
        translator.for_dot_product(QUERIES),
        translator.popularity(GALLERY),
        *translator.search(QUERIES, GALLERY, k=5),
        *translator.search(QUERIES, GALLERY, k=5, hubness=True),
    )


@pytest.mark.parametrize(("name", "shape"), [*((n, {}) for n in MODELS), *(("bigjump_plus", s) for s in ENSEMBLES)])
def test_a_model_comes_back_bit_for_bit_with_what_corrects_its_ranks(tmp_path, name, shape):
    run = write_run(tmp_path / "run", [name], **shape)
    before = Translator.load(run, name)
    expected = results(before)
    folder = before.save_pretrained(tmp_path / "saved")
    shutil.rmtree(run)
    loaded = Translator.from_pretrained(folder)
    assert (loaded.name, loaded.text_dim, loaded.image_dim) == (name, DX, DY)
    for found, wanted in zip(results(loaded), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_the_folder_may_be_moved_and_is_a_run_with_one_model(saved):
    moved = saved.rename(saved.with_name("elsewhere"))
    expected = results(Translator.from_pretrained(str(moved)))
    for loaded in (Translator.load(moved), Translator.load(moved, "mlp1")):
        for found, wanted in zip(results(loaded), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_saved_again_it_is_the_same_to_the_byte(saved, tmp_path):
    again = Translator.from_pretrained(saved).save_pretrained(tmp_path / "again")
    assert tree_bytes(again) == tree_bytes(saved)


def test_the_folder_holds_no_pickle_and_no_path_of_this_machine(saved, tmp_path):
    assert {path.suffix for path in saved.rglob("*") if path.is_file()} == {".json", ".md", ".safetensors"}
    for name, content in tree_bytes(saved).items():
        assert str(tmp_path).encode() not in content and b"/home/me" not in content, name


def test_a_run_that_was_never_judged_is_saved_without_corrections(tmp_path):
    run = write_run(tmp_path / "run", ["linear"], judged=False)
    folder = Translator.load(run, "linear").save_pretrained(tmp_path / "saved")
    loaded = Translator.from_pretrained(folder)
    np.testing.assert_array_equal(loaded.translate(QUERIES), Translator.load(run, "linear").translate(QUERIES))
    assert "Not judged" in (folder / "README.md").read_text()
    with pytest.raises(CheckpointError, match="no such file"):
        loaded.search(QUERIES, GALLERY, hubness=True)


# The model card.


def card(folder):
    text = (folder / "README.md").read_text(encoding="utf-8")
    _, head, body = text.split("---\n", 2)
    return yaml.safe_load(head), body


def test_the_card_holds_the_leaderboard_data_and_licences(tmp_path, run):
    write_encoders(run, "sentence-transformers/all-MiniLM-L6-v2")
    folder = Translator.load(run).save_pretrained(tmp_path / "saved", licence="mit")
    head, body = card(folder)
    assert head["license"] == "mit" and head["library_name"] == "embedding-translation"
    assert "| Whitened Procrustes | 0.200 | 0.100 | 0.400 | 0.300 | 1,234 |" in body
    assert "| **MLP1** | 0.210 |" in body and "| Chance | 0.010 | 0.000 | 0.100 | - | - |" in body
    assert "Trained on: photos (fingerprint `abc123`)" in body
    assert "`sentence-transformers/all-MiniLM-L6-v2`; licence: Apache-2.0." in body
    assert "`efficientnet-lite0`; licence: not stated." in body
    assert "These weights; licence: mit." in body
    again = Translator.from_pretrained(folder).save_pretrained(tmp_path / "again", data="Noto emoji")
    assert "Trained on: Noto emoji" in card(again)[1] and card(again)[0]["license"] == "mit"


def test_what_the_card_is_given_stays_on_its_line_of_the_page(tmp_path, run):
    write_encoders(run, "a\n## evil | `x`\ud800")
    folder = Translator.load(run).save_pretrained(tmp_path / "saved", licence="a: b\n---\n# x", data="x\n\n# y")
    head, body = card(folder)
    assert head["license"] == "a: b\n---\n# x"
    headings = [line for line in body.splitlines() if line.startswith("#")]
    assert headings == ["# MLP1: from captions to images", "## Use", "## Results", "## Data and licences"]


def test_the_code_on_the_card_runs(saved, monkeypatch):
    monkeypatch.chdir(saved.parent)
    saved.rename("this-folder")
    code = card(saved.with_name("this-folder"))[1].split("```python\n")[1].split("```")[0]
    scope = {"captions": QUERIES, "images": GALLERY}
    exec(code, scope)
    expected = Translator.from_pretrained("this-folder").search(QUERIES, GALLERY, k=10, hubness=True)
    np.testing.assert_array_equal(scope["rows"], expected[0])


def test_rows_of_models_that_were_trained_again_are_left_out_of_the_card(tmp_path, run):
    chosen = Translator.load(run)
    storage.save_model(run, "procrustes", torch.nn.Linear(2, 2), {"architecture": {}})
    body = card(chosen.save_pretrained(tmp_path / "saved"))[1]
    assert "MLP1" in body and "Procrustes" not in body


# Folders that are there already.


def test_a_translator_that_is_there_is_replaced_where_that_is_asked_for_alone(saved, tmp_path):
    run = write_run(tmp_path / "run", ["linear"])
    other, before = Translator.load(run), tree_bytes(saved)
    with pytest.raises(CheckpointError, match="holds a translator.*overwrite=True"):
        other.save_pretrained(saved)
    assert tree_bytes(saved) == before
    other.save_pretrained(saved, overwrite=True)
    assert Translator.from_pretrained(saved).name == "linear"
    assert not (saved / "models" / "mlp1.safetensors").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "saved"]


def test_files_of_others_are_never_replaced(saved, tmp_path):
    translator = Translator.from_pretrained(saved)
    (saved / ".git").mkdir()
    (saved / "notes.txt").write_text("mine")
    before = tree_bytes(saved)
    with pytest.raises(CheckpointError, match=r"2 file\(s\) that are no part .*\.git, notes\.txt.*nothing was changed"):
        translator.save_pretrained(saved, overwrite=True)
    assert tree_bytes(saved) == before
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(saved)
    for target in ("file", "link"):
        with pytest.raises(CheckpointError, match=target):
            translator.save_pretrained(tmp_path / target, overwrite=True)
    assert (tmp_path / "file").read_text() == "mine" and tree_bytes(saved) == before


def test_a_run_is_not_taken_for_a_saved_translator(run, tmp_path):
    before = tree_bytes(run)
    with pytest.raises(CheckpointError, match="run.json"):
        Translator.load(run).save_pretrained(run, overwrite=True)
    assert tree_bytes(run) == before


def test_an_empty_folder_is_filled_and_folders_above_are_made(run, tmp_path):
    (tmp_path / "empty").mkdir()
    for target in (tmp_path / "empty", tmp_path / "a" / "b" / "c"):
        assert Translator.load(run).save_pretrained(target) == target
        assert Translator.from_pretrained(target).name == "mlp1"


def test_a_translator_may_be_saved_over_itself(saved):
    expected = results(Translator.from_pretrained(saved))
    translator = Translator.from_pretrained(saved)
    translator.save_pretrained(saved, overwrite=True)
    for found, wanted in zip(results(translator), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("fails", ["card", "rename"])
def test_a_failure_leaves_what_was_there_and_nothing_else(saved, tmp_path, monkeypatch, fails):
    translator, before = Translator.from_pretrained(saved), tree_bytes(tmp_path)
    rename = os.rename

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    def second(source, target):
        if str(source).endswith(".new"):
            full()
        rename(source, target)

    if fails == "card":
        monkeypatch.setattr(pretrained, "card", full)
    else:
        monkeypatch.setattr(os, "rename", second)
    with pytest.raises(CheckpointError, match="cannot be written .*No space left.*What was there before is intact"):
        translator.save_pretrained(saved, overwrite=True)
    with pytest.raises(CheckpointError, match="No space left"):
        translator.save_pretrained(tmp_path / "new")
    assert tree_bytes(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


def killed_save(translator, folder, where):
    """Saves over `folder` in a process that is killed between its two renames, or after both."""

    def save():
        rename, remove = os.rename, shutil.rmtree
        os.rename = lambda source, to: (
            os._exit(9) if where == "between" and source.suffix == ".new" else rename(source, to)
        )
        shutil.rmtree = lambda path, *a, **b: os._exit(9) if path.suffix == ".before" else remove(path, *a, **b)
        translator.save_pretrained(folder, overwrite=True)

    process = multiprocessing.get_context("fork").Process(target=save)
    process.start()
    process.join(60)
    assert process.exitcode == 9


@pytest.mark.parametrize("next_call", ["load", "save", "overwrite"])
def test_what_a_killed_process_put_aside_is_put_back(saved, tmp_path, next_call):
    other = Translator.load(write_run(tmp_path / "run", ["linear"]))
    before = tree_bytes(saved)
    killed_save(other, saved, "between")
    assert sorted(path.suffix for path in tmp_path.glob(".saved.*")) == [".before", ".new"] and not saved.exists()
    if next_call == "load":
        assert Translator.from_pretrained(saved).name == "mlp1"
    elif next_call == "save":
        with pytest.raises(CheckpointError, match="holds a translator"):
            other.save_pretrained(saved)
    else:
        other.save_pretrained(saved, overwrite=True)
    assert (tree_bytes(saved) == before) == (next_call != "overwrite")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "saved"]


def test_what_a_killed_process_had_replaced_is_removed(saved, tmp_path):
    other = Translator.load(write_run(tmp_path / "run", ["linear"]))
    killed_save(other, saved, "after")
    assert [path.suffix for path in tmp_path.glob(".saved.*")] == [".before"]
    with pytest.raises(CheckpointError, match="holds a translator"):
        other.save_pretrained(saved)
    assert Translator.from_pretrained(saved).name == "linear"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "saved"]


def test_what_lies_beside_another_folder_is_left_alone(run, tmp_path):
    translator = Translator.load(run)
    other = tmp_path / f".saved.more.{'0' * 32}.before"
    other.mkdir()
    translator.save_pretrained(tmp_path / "saved")
    assert other.is_dir()


def test_an_interruption_between_the_two_renames_leaves_what_was_there(saved, tmp_path, monkeypatch):
    translator, before, rename = Translator.from_pretrained(saved), tree_bytes(tmp_path), os.rename

    def interrupted(source, target):
        if str(source).endswith(".new"):
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        translator.save_pretrained(saved, overwrite=True)
    assert tree_bytes(tmp_path) == before


# What is saved is what was loaded.


def test_weights_that_were_changed_in_memory_are_not_passed_off_as_those_of_the_run(run, tmp_path):
    translator = Translator.load(run)
    with torch.no_grad():
        next(translator.model.parameters()).add_(1)
    with pytest.raises(CheckpointError, match=r"1 tensor\(s\) in memory are others.*Load the translator again"):
        translator.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_a_run_that_was_trained_or_judged_again_is_not_mixed_with_weights_in_memory(run, tmp_path):
    translator = Translator.load(run)
    write_run(run, ["mlp1"], judged=False)
    same = Translator.load(run, "mlp1")  # the same numbers: nothing was lost
    same.save_pretrained(tmp_path / "same")
    with torch.no_grad():
        next(same.model.parameters()).add_(1)
    storage.save_model(run, "mlp1", same.model, storage.load_metadata(run, "mlp1"))
    with pytest.raises(CheckpointError, match="not the weights that were loaded"):
        translator.save_pretrained(tmp_path / "saved")
    with pytest.raises(CheckpointError, match="Run notebook 05"):
        Translator.load(run, "mlp1").save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_a_translator_that_came_from_no_folder_says_so(tmp_path):
    from saved_runs import random_model

    with pytest.raises(CheckpointError, match="not loaded from a"):
        Translator("mlp1", random_model("mlp1"), DX, DY).save_pretrained(tmp_path / "saved")


# Folders that are damaged, hostile, or something else.


def test_a_folder_of_something_else_is_told_what_reads_it(tmp_path, run):
    (tmp_path / "empty").mkdir()
    (tmp_path / "st").mkdir()
    (tmp_path / "st" / "modules.json").write_text("[]")
    (tmp_path / "st" / "config.json").write_text("{}")
    (tmp_path / "file").write_text("")
    for folder, message in {
        "missing": "no such folder.*hub are not looked up",
        "file": "no such folder",
        "empty": "holds no config.json",
        "st": r"SentenceTransformer\(folder, trust_remote_code=True\)",
        "run": "Translator.load",
    }.items():
        with pytest.raises(CheckpointError, match=message):
            Translator.from_pretrained(tmp_path / folder)


def change(**values):
    def damage(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return damage


def put(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def cut(name, n):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:n])


def flip(folder):
    path = folder / "models" / "mlp1.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def other_header(**architecture):
    """The header of the weights lies about the architecture; the digest, which is of the tensors, stays."""

    def damage(folder):
        path = folder / "models" / "mlp1.safetensors"
        content = path.read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        metadata = json.loads(header["__metadata__"]["metadata"])
        metadata["architecture"] |= architecture
        header["__metadata__"]["metadata"] = json.dumps(metadata)
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])

    return damage


HUGE = {"text_dim": 2**40, "image_dim": 2**40, "hidden": 2**40}
DAMAGE = {
    "config cut": cut("config.json", 20),
    "config empty": put("config.json", b""),
    "config a list": put("config.json", b"[]"),
    "config a number": put("config.json", b"3"),
    "config deep": put("config.json", b"[" * 100000),
    "config not UTF-8": put("config.json", b"\xff\xfe"),
    "config of another library": change(library="transformers"),
    "config without a model": change(model=None),
    "chance": change(model="chance"),
    "a model outside": change(model="../../mlp1"),
    "a model that is a list": change(model=["mlp1"]),
    "another model": change(model="mlp2"),
    "a newer format": change(format=2),
    "another digest": change(weights="0" * 64),
    "another architecture": change(architecture={"text_dim": 3, "image_dim": 4}),
    "an architecture of words": change(architecture={"text_dim": "a", "image_dim": "b"}),
    "no architecture": change(architecture=None),
    "negative widths": lambda f: (
        change(architecture=(a := {"text_dim": -1, "image_dim": 4}))(f),
        other_header(**a)(f),
    ),
    "huge, in the config": change(architecture=HUGE),
    "huge, in the weights": other_header(**HUGE),
    "huge, in both": lambda f: (change(architecture=HUGE | {"dropout": 0.5})(f), other_header(**HUGE)(f)),
    "beyond 64 bits": lambda f: (
        change(architecture={"text_dim": 10**30, "image_dim": 9, "hidden": 16, "dropout": 0.5})(f),
        other_header(text_dim=10**30)(f),
    ),
    "weights missing": lambda folder: (folder / "models" / "mlp1.safetensors").unlink(),
    "weights cut": cut("models/mlp1.safetensors", 300),
    "weights empty": put("models/mlp1.safetensors", b""),
    "weights a pickle": put("models/mlp1.safetensors", b"\x80\x04cos\nsystem\n(S'echo hacked'\ntR."),
    "one bit": flip,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_told_in_one_line_that_names_the_file(saved, damage):
    DAMAGE[damage](saved)
    with pytest.raises(UserError, match=r"config\.json|mlp1\.safetensors|mlp2\.safetensors") as told:
        Translator.from_pretrained(saved)
    assert len(str(told.value)) < 600 and str(told.value).count("\n") == 0


def test_a_query_bank_of_other_weights_or_a_damaged_one_is_refused(saved, tmp_path):
    translator = Translator.from_pretrained(saved)
    other = write_run(tmp_path / "other", ["linear"])
    hubness.save_query_bank(other, np.ones((3, DX), np.float32), np.zeros((3, MARKS)), {"linear": 1.0})
    shutil.copy(tmp_path / "other" / hubness.QUERY_BANK_FILE, saved)
    for damage in (lambda: None, lambda: cut(hubness.QUERY_BANK_FILE, 50)(saved)):
        damage()
        with pytest.raises(CheckpointError, match="hubness.safetensors"):
            translator.search(QUERIES, GALLERY, hubness=True)
        with pytest.raises(CheckpointError, match="hubness.safetensors"):
            translator.save_pretrained(tmp_path / "again")


# The text encoder travels with it.


def test_a_text_encoder_that_has_a_name_travels_by_its_name(run, tmp_path):
    write_encoders(run, "sentence-transformers/all-MiniLM-L6-v2")
    folder = Translator.load(run).save_pretrained(tmp_path / "saved")
    assert (folder / "encoders.json").exists() and not (folder / "text_encoder").exists()
    assert json.loads((folder / "encoders.json").read_text()) == json.loads((run / "encoders.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("normalised", [False, True])
def test_a_text_encoder_of_this_machine_travels_with_its_weights(run, tmp_path, normalised):
    pytest.importorskip("sentence_transformers")
    write_encoders(run, write_text_encoder(tmp_path / "encoder"), normalised=normalised)
    before = Translator.load(run)
    expected = before.search_text(["a dog", "two cat"], GALLERY, k=4, hubness=True)
    folder = before.save_pretrained(tmp_path / "saved")
    shutil.rmtree(run)
    shutil.rmtree(tmp_path / "encoder")
    folder = folder.rename(tmp_path / "moved")
    loaded = Translator.from_pretrained(folder)
    for found, wanted in zip(
        loaded.search_text(["a dog", "two cat"], GALLERY, k=4, hubness=True), expected, strict=True
    ):
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert "* Text encoder: the one in `text_encoder/`; licence: Apache-2.0." in card(folder)[1]
    assert len({path.stat().st_mode for path in folder.rglob("*") if path.is_file()}) == 1
    assert not [path for path in folder.rglob("*") if path.suffix in (".bin", ".pt", ".pkl", ".pth")]
    again = loaded.save_pretrained(tmp_path / "again")
    shutil.rmtree(folder)
    found = Translator.from_pretrained(again).search_text("a dog", GALLERY, k=4, hubness=True)[0]
    np.testing.assert_array_equal(found, expected[0][0])


@pytest.mark.parametrize("text", ["", "[]", '{"images": {}}', '{"text": 3}', '{"text": {}}'])
def test_damaged_encoders_are_told_and_not_copied(run, tmp_path, text):
    (run / "encoders.json").write_text(text)
    with pytest.raises(CheckpointError, match="encoders.json"):
        Translator.load(run).save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_a_text_encoder_that_nobody_knows_of_cannot_be_asked_for(run, tmp_path):
    with pytest.raises(CheckpointError, match="encoders.json: no such file"):
        Translator.load(run).save_pretrained(tmp_path / "saved", with_text_encoder=True)
