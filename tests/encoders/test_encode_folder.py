import json
import multiprocessing
import os
import shutil
import time
from functools import partial

import numpy as np
import pytest
from PIL import Image
from tiny_encoders import save_captions, save_pictures

from helpers.data.pairs import load_pairs
from helpers.data.pictures import Pictures
from helpers.encoders import (
    EncoderError,
    PictureError,
    encode_folder,
    encoding,
    load_image_encoder,
    load_text_encoder,
)
from helpers.encoders import open_picture as plainly_opened
from helpers.encoders.shards import Shard, working_folder
from helpers.errors import ConfigError, DataError, RunInUseError
from helpers.system import bars, locks


@pytest.fixture
def encode(text_model, image_model, album):
    """Encodes the album by the tiny models."""

    def call(out="data", captions="captions.txt", **more):
        given = {"text_model": str(text_model), "image_model": str(image_model), "device": "cpu"} | more
        return encode_folder(album / "photos", album / captions, album / out, **given)

    return call


def content(out):
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def test_a_folder_of_pictures_becomes_a_data_folder_that_the_series_reads(encode, album):
    result = encode()
    pairs = load_pairs(album / "data")
    assert (result.pictures, result.captions, result.left_out, result.without_caption) == (12, 24, {}, 0)
    assert list(pairs.image_names) == sorted(
        path.relative_to(album / "photos").as_posix() for path in (album / "photos").rglob("*.png")
    )
    for row, (name, caption) in enumerate(
        line.split(",", 1) for line in (album / "captions.txt").read_text().splitlines()[1:]
    ):
        assert pairs.captions[row] == caption and pairs.image_names[pairs.targets[row]] == name
    assert sorted(content(album / "data")) == ["encoders.json", "pictures.json", "train.npz"]
    assert json.loads((album / "data" / "pictures.json").read_text()) == {"folder": "../photos"}


def test_a_query_is_encoded_as_the_captions_were(encode, album):
    encode()
    recorded = json.loads((album / "data" / "encoders.json").read_text())
    pairs = load_pairs(album / "data")
    text, images = (
        load_text_encoder(recorded["text"], device="cpu"),
        load_image_encoder(recorded["images"], device="cpu"),
    )
    np.testing.assert_allclose(text.encode(list(pairs.captions[:3])), pairs.text[:3], atol=1e-5)
    pictures = [plainly_opened(album / "photos" / name) for name in pairs.image_names[:3]]
    np.testing.assert_allclose(images.encode(pictures), pairs.images[:3], atol=1e-4)
    assert recorded["preset"] is None and recorded["text"]["versions"]["torch"]


def test_pictures_that_cannot_be_read_are_listed_and_their_captions_go_with_them(encode, album):
    (album / "photos" / "00000.png").write_bytes(b"")
    (album / "photos" / "sub" / "00001.png").write_bytes(b"no picture")
    (album / "photos" / "00002.png").unlink()
    save_pictures(album / "photos", 1, start=90)  # without caption
    result = encode()
    pairs = load_pairs(album / "data")
    assert (
        sorted(result.left_out) == ["00000.png", "00002.png", "sub/00001.png"]
        and result.left_out["00002.png"] == "missing"
    )
    assert (result.pictures, result.captions, result.captions_left_out, result.without_caption) == (10, 18, 6, 1)
    assert "00090.png" in pairs.image_names and len(pairs.captions) == 18
    listed = json.loads((album / "data" / "left_out.json").read_text())
    assert listed == {"pictures": result.left_out, "captions": 6} and "empty" in listed["pictures"]["00000.png"]
    report = result.report()
    assert (
        "left out: 3 picture(s)" in report
        and "00000.png (is empty" in report
        and "1 picture(s) have no caption" in report
    )


def test_folders_that_cannot_be_read_are_counted_and_named(encode, album, forbidden):
    forbidden(album / "photos" / "sub")
    result = encode()
    assert result.unreadable == {"sub": "cannot be read (Permission denied)"} and result.pictures == 6
    assert len(result.left_out) == 6 and result.left_out["sub/00001.png"] == "missing"  # as the captions tell
    assert "not looked into: 1 folder(s), see left_out.json: sub (cannot be read (Permission" in result.report()
    listed = json.loads((album / "data" / "left_out.json").read_text())
    assert listed == {"pictures": result.left_out, "captions": 12, "folders": result.unreadable}
    again = encode()
    assert (again.new, again.left_out, again.unreadable) == (False, result.left_out, result.unreadable)


def test_a_picture_behind_a_link_is_encoded_and_shown_and_one_that_is_gone_is_left_out(encode, album):
    (album / "elsewhere").mkdir()
    (album / "photos" / "00000.png").rename(album / "elsewhere" / "zero.png")
    (album / "photos" / "00000.png").symlink_to(album / "elsewhere" / "zero.png")
    (album / "photos" / "gone.png").symlink_to(album / "nowhere.png")
    result = encode()
    assert result.pictures == 12 and result.left_out == {"gone.png": "no such file"}
    pictures = Pictures.of(album / "data", load_pairs(album / "data").image_names)
    assert pictures.missing() == [] and pictures.image(0).size == (24, 20)


def test_a_missing_picture_that_another_spelling_would_find_is_told(encode, album):
    (album / "photos" / "00000.png").rename(album / "photos" / "u\u0308.png")  # as a Mac writes the name
    lines = (album / "captions.txt").read_text().replace("00000.png", "\u00fc.png")
    (album / "captions.txt").write_text(lines, encoding="utf-8")
    assert "looks like" in encode().left_out["\u00fc.png"]


def test_the_vectors_of_the_others_do_not_change_with_a_picture_left_out(encode, album):
    encode(batch_size=4)
    (album / "photos" / "00000.png").write_bytes(b"")
    encode("again", batch_size=4)
    one, other = load_pairs(album / "data"), load_pairs(album / "again")
    kept = [row for row, name in enumerate(one.image_names) if name != "00000.png"]
    np.testing.assert_allclose(one.images[kept], other.images, atol=1e-5)


def test_only_broken_pictures_are_an_error_that_names_five(encode, album):
    for path in (album / "photos").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(PictureError, match=r"none of the 12 pictures can be encoded: 00000.png \(is empty"):
        encode()
    assert not (album / "data" / "train.npz").exists()


def test_captions_of_broken_pictures_alone_are_an_error(encode, album):
    (album / "photos" / "00000.png").write_bytes(b"")
    (album / "one.txt").write_text("image,caption\n00000.png,a dog\n")
    with pytest.raises(DataError, match="cannot be encoded"):
        encode(captions="one.txt")


def test_captions_of_other_pictures_are_an_error_that_names_them_and_the_folder(encode, album):
    (album / "other.txt").write_text("image,caption\nx.jpg,a dog\n")
    with pytest.raises(DataError, match=r"1 caption.* that .*photos does not hold.* It holds '00000\.png', .*"):
        encode(captions="other.txt")
    assert not (album / "data").exists()  # nothing was begun, so nothing is left behind


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        (
            "metadata.jsonl",
            ['{"file_name": "00000.png", "text": "a dog"}', '{"file_name": "sub/00001.png", "text": "a cat"}'],
        ),
        ("table.csv", ["file_name,text", '00000.png,"a dog"', "sub/00001.png,a cat"]),
        ("table.tsv", ["image\tcaption", "00000.png\ta dog", "00001\ta cat"]),
    ],
)
def test_captions_come_from_the_files_that_others_write(encode, album, name, lines):
    (album / name).write_text("\n".join(lines) + "\n")
    result = encode(captions=name)
    pairs = load_pairs(album / "data")
    assert result.captions == 2 and result.without_caption == 10
    assert [pairs.image_names[row] for row in pairs.targets] == ["00000.png", "sub/00001.png"]


def test_a_split_of_the_captions_file_is_the_split_of_the_pictures(encode, album):
    parts = {"00000.png": "test", "sub/00001.png": "val", "00002.png": "restval"}
    images = [{"filename": name, "split": split, "sentences": [{"raw": "a dog"}]} for name, split in parts.items()]
    (album / "dataset.json").write_text(json.dumps({"images": images, "dataset": "mine"}))
    encode(captions="dataset.json")
    with np.load(album / "data" / "train.npz") as archive:
        split = dict(zip(archive["images/names"].tolist(), archive["images/split"].tolist(), strict=True))
    assert {name: split[name] for name in parts} == parts and split["00004.png"] == "train"


def test_the_same_call_finds_its_work_done(encode, album):
    first = encode()
    before = {name: (album / "data" / name).stat().st_mtime_ns for name in content(album / "data")}
    again = encode()
    assert (again.new, again.pictures, again.captions, again.left_out) == (False, first.pictures, first.captions, {})
    assert before == {name: (album / "data" / name).stat().st_mtime_ns for name in content(album / "data")}


def test_a_folder_of_other_data_is_not_overwritten_unasked(encode, album):
    encode()
    before = content(album / "data")
    save_captions(album / "more.txt", ["00000.png"])
    with pytest.raises(EncoderError, match="other pictures, captions or encoders"):
        encode(captions="more.txt")
    assert content(album / "data") == before
    assert encode(captions="more.txt", overwrite=True).captions == 2
    assert len(load_pairs(album / "data").captions) == 2


def test_a_data_folder_that_was_brought_is_not_overwritten(encode, album):
    (album / "data").mkdir()
    (album / "data" / "train.npz").write_bytes(b"precious")
    with pytest.raises(EncoderError, match="--overwrite"):
        encode()
    assert content(album / "data") == {"train.npz": b"precious"}


def interrupted(encode, monkeypatch, after):
    """Encode until so many shards are written, then fail as a lost machine does."""
    write, written = Shard.write, []

    def once_more(self, *what):
        if len(written) == after:
            raise KeyboardInterrupt
        written.append(self.path)
        write(self, *what)

    with monkeypatch.context() as patch:
        patch.setattr(Shard, "write", once_more)
        with pytest.raises(KeyboardInterrupt):
            encode()
    return written


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(encoding, "PICTURES_A_SHARD", 5)
    monkeypatch.setattr(encoding, "CAPTIONS_A_SHARD", 7)


@pytest.mark.parametrize("after", [0, 1, 3, 5, 6])
def test_an_interrupted_call_goes_on_and_ends_with_the_same_bytes(encode, album, monkeypatch, small_shards, after):
    (album / "photos" / "00004.png").write_bytes(b"")
    written = interrupted(encode, monkeypatch, after)
    assert len(written) == after and not (album / "data" / "train.npz").exists()
    before = {path: path.stat().st_mtime_ns for path in written}
    made, write = [], Shard.write
    monkeypatch.setattr(Shard, "write", lambda self, *what: (made.append(self.path), write(self, *what)))
    encode()
    assert not set(made) & set(before)  # nothing was done twice
    encode("whole")
    assert content(album / "data") == content(album / "whole")


def test_a_shard_of_a_picture_that_has_changed_is_made_again(encode, album, monkeypatch, small_shards):
    interrupted(encode, monkeypatch, 2)
    Image.new("RGB", (9, 9), "red").save(album / "photos" / "00000.png")
    made, write = [], Shard.write
    with monkeypatch.context() as patch:
        patch.setattr(Shard, "write", lambda self, *what: (made.append(self.path.name), write(self, *what)))
        encode()
    assert "pictures-000000.safetensors" in made and "pictures-000001.safetensors" not in made
    encode("whole")
    assert content(album / "data") == content(album / "whole")


def test_shards_of_other_settings_are_made_again(encode, album, monkeypatch, small_shards):
    interrupted(encode, monkeypatch, 3)
    encode(pooling="mean")
    encode("whole", pooling="mean")
    assert content(album / "data") == content(album / "whole")


def test_a_damaged_shard_is_made_again(encode, album, monkeypatch, small_shards):
    damaged = interrupted(encode, monkeypatch, 2)[0]
    damaged.write_bytes(damaged.read_bytes()[:50])
    encode()
    encode("whole")
    assert content(album / "data") == content(album / "whole")


def test_a_call_that_was_killed_after_its_last_shard_writes_the_same(encode, album, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *a, **k: None)  # killed before it tidied up
        encode()
    (album / "data" / "train.npz").write_bytes(b"half")
    assert encode().new and not (album / "data" / ".encoding").exists()
    encode("whole")
    assert content(album / "data") == content(album / "whole")


@pytest.mark.slow
def test_a_process_that_is_killed_twice_ends_with_the_bytes_of_one_that_was_not(encode, album, monkeypatch, one_thread):
    names = save_pictures(album / "photos", 400)
    (album / "photos" / "00007.png").write_bytes(b"broken")
    save_captions(album / "captions.txt", names, each=4)
    monkeypatch.setattr(encoding, "PICTURES_A_SHARD", 16)
    monkeypatch.setattr(encoding, "CAPTIONS_A_SHARD", 64)
    work = album / "data" / ".encoding"
    for what, total in (("pictures", 25), ("captions", 25)):
        process = multiprocessing.get_context("fork").Process(target=encode)
        process.start()
        while not list(work.glob(f"{what}-*.safetensors")):
            assert process.is_alive(), "ended before it was killed"
            time.sleep(0.002)
        process.kill()
        process.join()
        assert 0 < len(list(work.glob(f"{what}-*.safetensors"))) < total
        assert not (album / "data" / "train.npz").exists()
    assert encode().new
    encode("whole")
    assert content(album / "data") == content(album / "whole")


def test_one_process_at_a_time_encodes_into_a_folder(encode, album):
    in_use = rf"data: in use by process {os.getpid()} .* give another --out"
    with working_folder(album / "data"), pytest.raises(RunInUseError, match=in_use):
        encode()
    assert encode().new  # it is free again


def test_a_folder_is_held_until_its_shards_are_gone(encode, album, monkeypatch):
    remove, refused = shutil.rmtree, []

    def meanwhile(path, **more):  # another process begins just as this one tidies up
        monkeypatch.setattr(shutil, "rmtree", remove)
        with pytest.raises(RunInUseError) as error:
            encode()
        refused.append(error)
        remove(path, **more)

    monkeypatch.setattr(shutil, "rmtree", meanwhile)
    assert encode().new and refused and not encode().new


def test_a_folder_whose_parent_cannot_be_written_is_held_all_the_same(encode, album, monkeypatch):
    monkeypatch.setattr(locks, "is_writable", lambda folder: folder != album)
    with working_folder(album / "data"), pytest.raises(RunInUseError):
        encode()
    assert encode().new and not list(album.glob(".*"))


def test_progress_shows_the_time_that_is_left(encode, capsys, monkeypatch):
    monkeypatch.setattr(bars, "tqdm", partial(bars.tqdm, disable=False))  # the suite has switched bars off
    encode()
    shown = capsys.readouterr().err
    assert "pictures:" in shown and "12/12" in shown and "captions:" in shown and "24/24" in shown and "\r" not in shown


def test_what_is_opened_ahead_is_bounded(encode, album, monkeypatch):
    opened, most = 0, 0
    open_one = encoding.open_picture

    def count(*args, **more):
        nonlocal opened
        opened += 1
        return open_one(*args, **more)

    monkeypatch.setattr(encoding, "open_picture", count)
    run = encoding._encode_next

    def watched(count, seen, *rest):
        def taken():
            nonlocal most
            for number, one in enumerate(seen):
                most = max(most, opened - number)
                yield one

        return run(count, taken(), *rest)

    monkeypatch.setattr(encoding, "_encode_next", watched)
    encode(batch_size=2)
    assert opened == 12 and most <= 2 * 2 + 2


@pytest.mark.parametrize(
    ("more", "kind", "problem"),
    [
        ({"preset": "huge"}, ConfigError, "small, challenge, strong are known"),
        ({"batch_size": 0}, ConfigError, "batch_size = 0"),
        ({"precision": "int3"}, ConfigError, "precision"),
        ({"pooling": "average"}, EncoderError, "no map of places"),
        ({"text_model": "/no/such"}, EncoderError, "no such folder"),
        ({"captions": "none.txt"}, DataError, "none.txt"),
    ],
)
def test_what_the_user_got_wrong_is_said_before_anything_is_written(encode, album, more, kind, problem):
    with pytest.raises(kind, match=problem):
        encode(**more)
    assert not (album / "data").exists()


def test_a_folder_that_cannot_be_written_is_said(encode, album):
    (album / "file").write_text("")
    with pytest.raises(EncoderError, match="cannot be written"):
        encode("file/data")


@pytest.mark.slow
def test_preset_small_encodes_with_the_encoders_of_its_wheels(album):
    save_captions(album / "captions.txt", ["00000.png", "sub/00001.png"], each=1)
    encode_folder(album / "photos", album / "captions.txt", album / "data", device="cpu")
    pairs = load_pairs(album / "data")
    recorded = json.loads((album / "data" / "encoders.json").read_text())
    assert pairs.text.shape == (2, 384) and pairs.images.shape == (12, 1280) and recorded["preset"] == "small"
