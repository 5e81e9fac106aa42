"""The page of what was found: every text escaped, every picture within, nothing from elsewhere."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from judged import make_gallery, make_run
from PIL import Image

from helpers.errors import DataError
from helpers.serving.index import PictureIndex
from helpers.serving.page import Found, page, write_page

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>&amp;'
NAMES = ["red.png", "sub/green.png", "broken.png", "gone.png", 'a"b<i>.png']


class Elements(HTMLParser):
    """The elements of a page with their attributes, and its visible text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.images, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attrs))
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def index(tmp_path):
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for name, colour in (("red.png", "red"), ("sub/green.png", "green"), ('a"b<i>.png', "blue")):
        Image.new("RGB", (600, 300), colour).save(folder / name)
    (folder / "broken.png").write_bytes(b"no picture")
    captions = [HOSTILE, "green & <b>more</b>", "", "a lost one", "blue"]
    return PictureIndex.build(make_run(tmp_path / "run"), make_gallery(5), NAMES, folder, captions=captions)


def test_pictures_are_within_the_page_and_are_those_of_the_rows(index):
    elements = Elements(page(index, [Found("a <b>query</b>", [1, 0, 4], [0.5, 0.25, -0.125])], "a note"))
    colours = []
    for image in elements.images:
        kind, content = re.fullmatch(r"data:(image/\w+);base64,(.*)", image["src"]).groups()
        picture = Image.open(io.BytesIO(base64.b64decode(content)))
        assert picture.format == kind.removeprefix("image/").upper() and picture.size == (256, 128)
        colours.append(int(np.asarray(picture.convert("RGB")).mean((0, 1)).argmax()))
    assert colours == [1, 0, 2]
    for words in ("a <b>query</b>", "green & <b>more</b>", "0.500", "-0.125", "sub/green.png", "a note"):
        assert words in elements.text


def test_no_text_becomes_markup(index):
    index.names[1] = HOSTILE
    elements = Elements(page(index, [Found(HOSTILE, [0, 1, 4], [1, 0, 0]), Found("two", [3], [1])], HOSTILE))
    assert "script" not in elements.tags and elements.text.count("<script>alert(1)</script>") == 4
    assert {image["src"][:11] for image in elements.images} == {"data:image/"}
    assert elements.images[0]["alt"] == HOSTILE


def test_nothing_is_loaded_from_anywhere(index):
    text = page(index, [Found("words", [0, 1], [1, 0])])
    assert "default-src 'none'" in text
    assert not re.search(r"https?:|src=\"(?!data:)|url\(|@import|<link", text)


def test_a_picture_that_is_lost_is_no_reason_to_show_none(index):
    text = page(index, [Found("words", [2, 3, 0], [1, 0.5, 0])])
    assert text.count("cannot be shown") == text.count("picture missing") == len(Elements(text).images) == 1


def test_pictures_whose_folder_is_gone_are_placeholders(index, tmp_path):
    (tmp_path / "photos").rename(tmp_path / "moved")
    elements = Elements(page(index, [Found("words", [1, 0], [1, 0.5])]))
    assert elements.text.count("picture missing") == 2 and elements.images == [] and "sub/green.png" in elements.text
    assert index.missing([1, 0, 1]) == ["sub/green.png", "red.png"]


def test_a_gallery_without_pictures_shows_names(tmp_path):
    index = PictureIndex.build(make_run(tmp_path / "run"), make_gallery(5), NAMES)
    elements = Elements(page(index, [Found("words", [0, 4], [1, 0])]))
    assert elements.images == [] and 'a"b<i>.png' in elements.text


def test_added_pictures_have_a_name_and_no_picture(index):
    index.add(make_gallery(1, seed=5), ["new.png"])
    assert "no picture" in page(index, [Found("words", [5], [1])])


def test_a_page_is_written_whole_or_not_at_all(index, tmp_path):
    path = write_page(tmp_path / "new" / "page.html", index, [Found("half a \ud800 pair", [0], [1.0])])
    assert "half a ? pair" in path.read_text(encoding="utf-8")
    with pytest.raises(DataError, match="the page cannot be written"):
        write_page(path / "below.html", index, [])
