import contextlib
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from helpers.data import picture_files
from helpers.data.picture_files import find_pictures, open_picture, picture_path
from helpers.errors import PictureError

RED, HALF_RED = (255, 0, 0), (255, 0, 0, 128)


def saved(path, picture, **options):
    picture.save(path, **options)
    return path


def corner(picture):
    return picture.getpixel((0, 0))


def near(colour, wanted, by=3):
    return all(abs(a - b) <= by for a, b in zip(colour, wanted, strict=True))


@pytest.mark.parametrize(
    ("name", "picture", "colour"),
    [
        ("cmyk.jpg", Image.new("CMYK", (8, 8), (0, 255, 255, 0)), RED),
        ("grey.png", Image.new("L", (8, 8), 77), (77, 77, 77)),
        ("bit.png", Image.new("1", (8, 8), 1), (255, 255, 255)),
        ("16 bits.png", Image.fromarray(np.full((8, 8), 65535, np.uint16)), (255, 255, 255)),
        ("16 bits half.tif", Image.fromarray(np.full((8, 8), 32768, np.uint16)), (128, 128, 128)),
        ("float.tif", Image.fromarray(np.full((8, 8), 0.5, np.float32)), (128, 128, 128)),
        ("alpha.png", Image.new("RGBA", (8, 8), HALF_RED), (255, 127, 127)),
        ("alpha.webp", Image.new("RGBA", (8, 8), (0, 0, 0, 0)), (255, 255, 255)),
        ("grey alpha.png", Image.new("LA", (8, 8), (0, 0)), (255, 255, 255)),
        ("palette.png", Image.new("RGB", (8, 8), RED).quantize(4), RED),
        ("palette.gif", Image.new("RGB", (8, 8), RED).quantize(4), RED),
        ("plain.bmp", Image.new("RGB", (8, 8), RED), RED),
    ],
)
def test_a_picture_of_any_mode_is_opened_as_rgb(tmp_path, name, picture, colour):
    opened = open_picture(saved(tmp_path / name, picture))
    assert opened.mode == "RGB" and opened.size == (8, 8) and near(corner(opened), colour)


def test_the_transparent_colour_of_a_palette_is_white(tmp_path):
    picture = Image.new("P", (8, 8), 0)
    picture.putpalette([255, 0, 0, 0, 255, 0])
    assert near(corner(open_picture(saved(tmp_path / "a.png", picture, transparency=0))), (255, 255, 255))


def test_a_picture_is_turned_as_its_exif_says(tmp_path):
    picture = Image.new("RGB", (16, 8), "white")
    picture.paste(RED, (0, 0, 8, 8))  # red on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: a quarter clockwise brings it up
    opened = open_picture(saved(tmp_path / "a.jpg", picture, exif=exif, quality=95, subsampling=0))
    assert opened.size == (8, 16) and near(opened.getpixel((4, 1)), RED, 12)


def test_damaged_exif_does_not_lose_the_picture(tmp_path):
    path = saved(tmp_path / "a.jpg", Image.new("RGB", (8, 8), RED), exif=b"Exif\0\0MM\0*\0\0\xff\xff\xff\xff")
    assert open_picture(path).size == (8, 8)


def test_of_several_frames_the_first_is_taken(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime")]
    path = saved(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    assert near(corner(open_picture(path)), RED)


def test_a_large_jpeg_is_decoded_at_a_fraction_where_that_is_enough(tmp_path):
    path = saved(tmp_path / "a.jpg", Image.new("RGB", (1600, 800), RED))
    assert open_picture(path).size == (1600, 800)
    assert open_picture(path, at_least=200).size == (400, 200)


def test_a_jpeg_beyond_the_limit_is_decoded_smaller_and_any_other_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(picture_files, "PIXEL_LIMIT", 10_000)
    picture = Image.new("RGB", (400, 100))
    assert open_picture(saved(tmp_path / "a.jpg", picture)).size == (200, 50)
    with pytest.raises(PictureError, match="400 x 100 pixels"):
        open_picture(saved(tmp_path / "a.png", picture))


def png_of(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "empty"),
        (b"<html>404</html>", "no picture that Pillow knows"),
        (png_of(60_000, 60_000), "may be decoded"),
        (png_of(11_000, 10_000), "may be decoded"),
        (png_of(100, 100), "cannot be read"),  # cut off
        (b"\xff\xd8\xff\xe0" + b"\0" * 50, "no picture|damaged|cannot be read"),
    ],
)
def test_what_is_no_picture_is_said_in_one_line(tmp_path, content, problem, recwarn):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(PictureError, match=problem) as caught:
        open_picture(tmp_path / "a.png")
    assert str(caught.value).startswith(str(tmp_path / "a.png")) and "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_said():
    with pytest.raises(PictureError, match="no such file"):
        open_picture("/nowhere/a.png")


def test_every_truncation_of_a_picture_is_refused_or_opened(tmp_path):
    path = saved(tmp_path / "a.png", Image.effect_noise((16, 16), 50).convert("RGB"))
    content = path.read_bytes()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        try:
            open_picture(path)
        except PictureError:
            continue


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_a_damaged_byte_anywhere_in_an_avif_is_refused_or_opened(tmp_path):
    content = saved(tmp_path / "a.avif", Image.new("RGB", (8, 8), RED)).read_bytes()
    for place in range(len(content)):
        (tmp_path / "a.avif").write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        with contextlib.suppress(PictureError):
            open_picture(tmp_path / "a.avif")


def test_pictures_are_found_at_any_depth_but_hidden_ones(tmp_path):
    for name in ("b.PNG", "a/c.jpeg", "a/d e/f.webp", ".hidden.png", ".cache/x.png", "__MACOSX/y.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert find_pictures(tmp_path) == (["a/c.jpeg", "a/d e/f.webp", "b.PNG"], {})


def test_links_to_pictures_and_folders_anywhere_are_followed_each_folder_once(tmp_path):
    for name in ("in/a.png", "in/sub/b.png", "out/c.png", "out/more/d.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    links = {"in/link.png": "out/c.png", "in/linked": "out", "in/again": "in/sub", "in/up": ".", "out/round": "in"}
    for name, target in links.items():
        (tmp_path / name).symlink_to(tmp_path / target)
    (tmp_path / "in" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    found = ["a.png", "gone.png", "link.png", "linked/c.png", "linked/more/d.png", "sub/b.png"]
    assert find_pictures(tmp_path / "in") == (found, {})
    assert [picture_path(tmp_path / "in", name).name for name in found] == [Path(name).name for name in found]


def test_folders_that_cannot_be_read_are_named(tmp_path, forbidden):
    for name in ("a.png", "sub/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    forbidden(tmp_path / "sub")
    assert find_pictures(tmp_path) == (["a.png"], {"sub": "cannot be read (Permission denied)"})
    (tmp_path / "a.png").unlink()
    with pytest.raises(PictureError, match=r"holds no picture .* 1 folder\(s\) in it cannot be read: sub"):
        find_pictures(tmp_path)
    forbidden(tmp_path)
    with pytest.raises(PictureError, match=r"cannot be read \(Permission denied\). Give a folder that you can read"):
        find_pictures(tmp_path)


def test_a_folder_without_pictures_is_an_error(tmp_path):
    with pytest.raises(PictureError, match="holds no picture"):
        find_pictures(tmp_path)
    with pytest.raises(PictureError, match="no such folder"):
        find_pictures(tmp_path / "none")
