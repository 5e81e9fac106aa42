"""Pictures behind image rows: from a folder and from a sprite, and no name that reaches outside."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from helpers.data.picture_files import open_picture, picture_path
from helpers.data.pictures import PICTURES_FILE, Pictures, contact_sheet, save_sprite
from helpers.errors import DataError

COLOURS = ["red", "green", "blue", "yellow", "black"]
NAMES = [f"{colour}.png" for colour in COLOURS]


def tile(colour, size=(16, 16)):
    return Image.new("RGB", size, colour)


def corner(picture):
    return picture.getpixel((0, 0))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "photos" / "a").mkdir(parents=True)
    for colour, name in zip(COLOURS, NAMES, strict=True):
        tile(colour, (200, 100)).save(tmp_path / "photos" / name)
    (tmp_path / PICTURES_FILE).write_text('{"folder": "photos"}')
    return tmp_path


@pytest.fixture
def sprite(tmp_path):
    location = save_sprite([tile(colour) for colour in COLOURS], tmp_path / "sprite.webp", 16, 2)
    (tmp_path / PICTURES_FILE).write_text(json.dumps(location))
    return tmp_path


def test_a_folder_without_the_file_has_no_pictures(tmp_path):
    assert Pictures.of(tmp_path, NAMES) is None


@pytest.mark.parametrize("kind", ["folder", "sprite"])
def test_each_row_has_its_own_picture(kind, request):
    pictures = Pictures.of(request.getfixturevalue(kind), NAMES)
    assert len(pictures) == 5 and pictures.missing() == []
    for row, colour in enumerate(COLOURS):
        picture = pictures.image(row)
        assert picture.mode == "RGB" and corner(picture) == corner(tile(colour))


@pytest.mark.parametrize("kind", ["folder", "sprite"])
def test_the_location_opens_the_same_pictures_from_anywhere(kind, request, tmp_path, monkeypatch):
    pictures = Pictures.of(request.getfixturevalue(kind), NAMES)
    monkeypatch.chdir("/")
    again = Pictures(json.loads(json.dumps(pictures.location)), NAMES)
    assert corner(again.image(2)) == (0, 0, 255)


@pytest.mark.parametrize(("kind", "size", "expected"), [("folder", 50, (50, 25)), ("sprite", 8, (8, 8))])
def test_a_thumbnail_fits_the_square_and_is_of_the_media_type(kind, size, expected, request):
    pictures = Pictures.of(request.getfixturevalue(kind), NAMES)
    thumbnail = Image.open(io.BytesIO(pictures.thumbnail(1, size)))
    assert thumbnail.size == expected
    assert f"image/{thumbnail.format.lower()}" == pictures.media_type
    assert np.allclose(corner(thumbnail), (0, 128, 0), atol=3)


def test_a_thumbnail_is_never_larger_than_its_picture(sprite):
    assert Image.open(io.BytesIO(Pictures.of(sprite, NAMES).thumbnail(0, 512))).size == (16, 16)


@pytest.mark.parametrize("row", [-1, 5, 10**9])
def test_a_row_that_is_not_there_is_an_error(row, sprite):
    with pytest.raises(IndexError, match="among 5"):
        Pictures.of(sprite, NAMES).image(row)


@pytest.mark.parametrize(
    "name",
    ["../secret.png", "a/../../secret.png", "/etc/passwd", "C:/x.png", r"..\secret.png", r"\\host\x", "", ".", "a\0b"],
)
def test_a_name_never_leaves_the_folder(name, folder):
    tile("red").save(folder / "secret.png")
    with pytest.raises(DataError, match="no name of a picture"):
        picture_path(folder / "photos", name)
    pictures = Pictures.of(folder, [name])
    with pytest.raises(DataError):
        pictures.image(0)
    assert pictures.missing() == [name]


def test_a_link_is_what_it_leads_to_also_outside_the_folder(folder):
    tile("red").save(folder / "elsewhere.png")
    (folder / "photos" / "out.png").symlink_to(folder / "elsewhere.png")
    (folder / "photos" / "up").symlink_to(folder)
    (folder / "photos" / "gone.png").symlink_to(folder / "nowhere.png")
    pictures = Pictures.of(folder, ["out.png", "up/elsewhere.png", "gone.png"])
    assert corner(pictures.image(0)) == corner(pictures.image(1)) == (255, 0, 0)
    assert pictures.missing() == ["gone.png"]


def test_what_a_link_leads_to_is_shown_only_if_it_is_a_picture(folder):
    (folder / "secret.txt").write_text("no picture")
    (folder / "photos" / "out.png").symlink_to(folder / "secret.txt")
    with pytest.raises(DataError, match="no picture that Pillow knows"):
        Pictures.of(folder, ["out.png"]).thumbnail(0)


def test_a_missing_and_a_broken_file_are_errors_that_name_it(folder):
    (folder / "photos" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(20))
    (folder / "photos" / "empty.png").touch()
    pictures = Pictures.of(folder, ["gone.png", "broken.png", "empty.png"])
    assert pictures.missing() == ["gone.png"]
    for row, name in enumerate(pictures.names):
        with pytest.raises(DataError, match=name):
            pictures.image(row)


def test_pictures_of_every_kind_become_rgb_upright_and_on_white(folder):
    photos = folder / "photos"
    turned = Image.new("RGB", (40, 20), "red")
    turned.paste("blue", (20, 0, 40, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    turned.save(photos / "turned.jpg", exif=exif)
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(photos / "clear.png")
    Image.new("CMYK", (4, 4)).save(photos / "cmyk.jpg")
    Image.fromarray(np.full((4, 4), 65535, np.uint16)).save(photos / "deep.png")
    tile("blue").convert("P").save(photos / "palette.png")
    pictures = Pictures.of(folder, ["turned.jpg", "clear.png", "cmyk.jpg", "deep.png", "palette.png"])
    upright = pictures.image(0)
    assert upright.size == (20, 40) and upright.getpixel((10, 5))[0] > 200
    assert Image.open(io.BytesIO(pictures.thumbnail(0, 10))).size == (5, 10)
    for row in (1, 2, 3):
        assert corner(pictures.image(row)) == (255, 255, 255)
    assert corner(pictures.image(4)) == (0, 0, 255)


def test_a_picture_is_shown_as_it_was_encoded(folder):
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    Image.fromarray(values).save(folder / "photos" / "floats.tif")
    Image.fromarray((values * 65535).astype(np.uint16)).save(folder / "photos" / "deep.png")
    pictures = Pictures.of(folder, ["floats.tif", "deep.png"])
    for row, name in enumerate(pictures.names):
        np.testing.assert_array_equal(pictures.image(row), open_picture(folder / "photos" / name))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps({"folder": "a" * 5000}), "no such folder"),
        ('{"folder": "~nobody-of-this-name/photos"}', "whom this machine does not know"),
        ("{", "not readable as JSON"),
        ("[]", "Either a folder or a sprite"),
        ("{}", "Either a folder or a sprite"),
        ('{"folder": "photos", "sprite": "x"}', "Either a folder or a sprite"),
        ('{"folder": "gone"}', "no such folder"),
        ('{"folder": 3}', "a path is needed"),
        ('{"sprite": "gone.webp", "size": 16, "columns": 2}', "no such sprite"),
        ('{"sprite": "pictures.json", "size": 16, "columns": 2}', "not readable as a picture"),
        ('{"sprite": "sprite.webp", "size": 0, "columns": 2}', "size: whole numbers above 0"),
        ('{"sprite": "sprite.webp", "size": 16, "columns": true}', "columns: whole numbers above 0"),
        ('{"sprite": "sprite.webp", "size": 16, "columns": 3}', "32 x 48 pixels"),
        ('{"sprite": "sprite.webp", "size": 16}', "columns: whole numbers"),
    ],
)
def test_a_wrong_pictures_file_says_what_is_wrong(content, message, sprite):
    (sprite / PICTURES_FILE).write_text(content)
    with pytest.raises(DataError, match=message) as error:
        Pictures.of(sprite, NAMES)
    assert PICTURES_FILE in str(error.value)


def test_a_sprite_with_too_few_tiles_is_an_error(sprite):
    with pytest.raises(DataError, match="rows enough for 7 images"):
        Pictures.of(sprite, [*NAMES, "six", "seven"])


def test_a_contact_sheet_has_each_picture_in_its_square():
    sheet = contact_sheet([tile(colour, (30, 20)) for colour in COLOURS], columns=2, size=60, gap=10)
    assert sheet.size == (130, 200)
    assert sheet.getpixel((30, 30)) == (255, 0, 0) and sheet.getpixel((100, 30)) == corner(tile("green"))
    assert sheet.getpixel((30, 5)) == (255, 255, 255) and sheet.getpixel((100, 170)) == (255, 255, 255)
