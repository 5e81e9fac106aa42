"""Caption files and the matching of their names, by way of the names that helpers.data exports."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.data.captions import match_captions, parse_captions
from helpers.errors import DataError


def _parse(tmp_path, content: bytes):
    path = tmp_path / "captions.txt"
    path.write_bytes(content)
    return parse_captions(path)


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (b"a.jpg,one\nb.jpg,two\n", [("a.jpg", "one"), ("b.jpg", "two")]),
        (b"a.jpg,no newline at the end", [("a.jpg", "no newline at the end")]),
        (b"a.jpg|one, two\tthree\n", [("a.jpg", "one, two\tthree")]),
        (b"a.jpg\tone, two|three\n", [("a.jpg", "one, two|three")]),
        (b"a.jpg,one|two\n", [("a.jpg", "one|two")]),
        (b" a.jpg | one \n", [("a.jpg", " one ")]),
        (b'8,"""A player, is "sliding"\n', [("8", '"""A player, is "sliding"')]),
        (b"\xef\xbb\xbfimage,caption\r\na.jpg,one\r\n", [("a.jpg", "one")]),
        (b"ID\tCaption\n1\tone\n", [("1", "one")]),
        (b"image|caption\na.jpg,image,caption\n", [("a.jpg", "image,caption")]),
        ("a.jpg,one\u2028two\x0bthree\x85four\rfive\n".encode(), [("a.jpg", "one\u2028two\x0bthree\x85four\rfive")]),
    ],
)
def test_lines_are_split_once_and_never_unquoted(tmp_path, content, rows):
    assert _parse(tmp_path, content) == rows


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no caption"),
        (b"image,caption\n", "holds no caption"),
        (b"a.jpg,one\n\n \t\nb.jpg,two\n", r"1 line\(s\) empty: 2; 1 line\(s\) without an image name or id: 3"),
        (b"a.jpg,one\n   \n\r\n\n\n\n\n", r"6 line\(s\) empty: 2, 3, 4, 5, 6, \.\.\. "),
        (b"image,caption\na.jpg one\n", r"1 line\(s\) without a separator: 2"),
        (b"a.jpg,one\na.jpg, \na.jpg,\n", r"2 line\(s\) without caption text: 2, 3"),
        (b",one\n", r"1 line\(s\) without an image name or id: 1"),
        (b"a.jpg,one\nb.jpg,caf\xe9\n", "line 2 is not UTF-8"),
        ("a.jpg,one\n".encode("utf-16")[:-1], "line 1 is not UTF-8"),
    ],
)
def test_bad_lines_are_counted_and_numbered(tmp_path, content, message):
    with pytest.raises(DataError, match=message) as caught:
        _parse(tmp_path, content)
    assert str(tmp_path / "captions.txt") in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(DataError, match="nothing.txt: cannot be read"):
        parse_captions(tmp_path / "nothing.txt")


TEXT = st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), min_size=1).filter(str.strip)
KEY = st.text(st.characters(exclude_characters="\n|,\t", exclude_categories=["Cs"]), min_size=1).filter(
    lambda key: key == key.strip()
)


@given(rows=st.lists(st.tuples(KEY, st.sampled_from("|,\t"), TEXT), min_size=1))
def test_any_text_survives_the_round_trip(tmp_path_factory, rows):
    lines = "".join(f"{key}{separator}{text}\r\n" for key, separator, text in rows)
    tmp_path = tmp_path_factory.mktemp("captions")
    assert _parse(tmp_path, f"image,caption\r\n{lines}".encode()) == [(key, text) for key, _, text in rows]


@pytest.mark.parametrize(
    ("key", "row"),
    [
        ("a/x.jpg", 0),
        ("b/x.jpg", 1),  # in full, although the base name fits two images
        ("Images/y.jpg", 2),
        (r"C:\photos\y.jpg", 2),
        ("y.png", 2),
        ("y", 2),
        ("y.jpg#0", 2),
        ("z.tar", 3),  # in full: the stem would be z
        ("Z", 4),  # case is kept
    ],
)
def test_levels_of_matching(key, row):
    names = ["a/x.jpg", "b/x.jpg", "y.jpg", "z.tar", "Z.jpg", "z.b.jpg"]
    targets = match_captions([key], names, "captions.txt")
    assert targets.dtype == np.int64
    assert targets.tolist() == [row]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["x.jpg", "y"], r"where: 1 caption\(s\) fit several images: row 1 'y'"),
        (["q"] * 7, r"7 caption\(s\) name an image that .* not hold: (row \d 'q', ){5}\.\.\. "),
        (["X.jpg"], r"1 caption\(s\) name an image that .* row 0 'X.jpg'"),
    ],
)
def test_keys_without_one_image(keys, message):
    with pytest.raises(DataError, match=message):
        match_captions(keys, ["x.jpg", "y.jpg", "y.png"], "where")


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        (["cats/1.jpg", "dogs/1.jpg"], ["cats/1.jpg", "cats/2.jpg"]),
        (["a.png", "a.jpg"], ["a.jpg", "b.jpg"]),
        (["scene.0001", "scene.0002"], ["scene.0001", "other.1"]),
        (["cats/1.jpg", "dogs/1.jpg"], ["cats/1.jpg", "dogs/2.jpg"]),
    ],
)
def test_captions_of_a_missing_image_go_to_no_other(keys, names):
    first, second = sorted(keys)
    with pytest.raises(DataError, match=rf"where: 1 image\(s\) would take .* names: '{first}' and '{second}'\."):
        match_captions([*keys, names[1]], names, "where")


def test_a_file_named_in_full_elsewhere_is_not_taken_for_its_namesake():
    with pytest.raises(DataError, match=r"names: 'cats/1.jpg' and 'dogs/1.jpg'\."):
        match_captions(["dogs/1.jpg", "cats/2.jpg"], ["cats/1.jpg", "cats/2.jpg"], "where")


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        ([f"a_1.jpg#{number}" for number in range(5)], ["a_1.jpg"]),
        (["a\\1.jpg", "a/1.jpg", "1"], ["a/1.jpg"]),
        (["cats/1.jpg", "data/cats/1.jpg"], ["cats/1.jpg"]),
        (["Images/1.jpg", "Images/1"], ["photos/1.png"]),
    ],
)
def test_other_spellings_of_one_file_are_one_image(keys, names):
    assert match_captions(keys, names, "where").tolist() == [0] * len(keys)


STEM = st.text("abcXYZ019_-é ", min_size=1, max_size=6)


@given(stems=st.lists(STEM, min_size=1, max_size=20, unique=True), data=st.data())
def test_any_form_of_a_name_finds_its_image(stems, data):
    names = [f"{stem}.jpg" for stem in stems]
    rows = data.draw(st.lists(st.integers(0, len(stems) - 1), min_size=1))
    folder, ending = data.draw(st.sampled_from(["Images/", "a\\b/"])), data.draw(st.sampled_from([".jpg", ".png"]))
    forms = st.sampled_from(["{}", folder + "{}", "{}" + ending, folder + "{}" + ending])
    keys = [data.draw(forms).format(stems[row]) for row in rows]
    assert match_captions(keys, names, "where").tolist() == rows


def test_the_published_test_captions(real_data):
    rows = parse_captions(real_data / "challenge-test" / "captions.txt")
    assert [int(key) for key, _ in rows] == list(range(1, 1501))
    assert sum('"' in text for _, text in rows) == 134


FLICKR30K = ["1.jpg| 0| Two young men, with shaggy hair .", "1.jpg| 1| A dog | cat", "2.jpg| 0| A dog runs ."]


@pytest.mark.parametrize("header", [["image_name| comment_number| comment"], []])
def test_numbered_captions_as_flickr30k_has_them_lose_their_number(tmp_path, header):
    path = tmp_path / "results.csv"
    path.write_text("\n".join(header + FLICKR30K * 50))
    expected = [("1.jpg", "Two young men, with shaggy hair ."), ("1.jpg", "A dog | cat"), ("2.jpg", "A dog runs .")]
    assert parse_captions(path)[:3] == expected


@pytest.mark.parametrize(
    "lines", ["1.jpg|2 dogs run\n2.jpg|3 cats sit", "image,id,caption\n1.jpg,2 dogs, one cat", "1.jpg|2|3\n2.jpg|4|5"]
)
def test_numbers_that_belong_to_captions_stay(tmp_path, lines):
    path = tmp_path / "captions.txt"
    path.write_text(lines)
    first = lines.splitlines()[-1].replace("|", ",", 1).partition(",")[2]
    assert parse_captions(path)[-1][1] == first


@pytest.mark.parametrize("header", ["file_name,caption", "image_id\tcaption", "Image|Comment", "filename,text"])
def test_headers_of_known_data_sets_are_no_captions(tmp_path, header):
    path = tmp_path / "captions.txt"
    path.write_text(f"{header}\n1.jpg,a dog\n")
    assert parse_captions(path) == [("1.jpg", "a dog")]


def test_a_caption_that_begins_with_a_number_keeps_it_beside_others(tmp_path):
    path = tmp_path / "captions.txt"
    path.write_text("1.jpg|2 dogs\n2.jpg|3|4 cats\n3.jpg|a bird\n")
    assert parse_captions(path) == [("1.jpg", "2 dogs"), ("2.jpg", "3|4 cats"), ("3.jpg", "a bird")]


def test_one_caption_too_many_points_at_the_first_line(files, load):
    captions = files.folder / "captions.txt"
    folder = files.write()
    captions.write_text("bild,satz\n" + captions.read_text().partition("\n")[2])
    with pytest.raises(DataError, match=r"If line 1 \('bild', 'satz'\) is a header, delete it"):
        load(folder)


def test_names_that_look_the_same_and_are_not_are_said_to_be():
    composed, decomposed = "caf\u00e9.jpg", "cafe\u0301.jpg"
    with pytest.raises(DataError, match=r"looks like .* but has U\+0065.*U\+0301 COMBINING.* against U\+00E9 LATIN"):
        match_captions([decomposed, "1.jpg"], [composed, "1.jpg"], "captions.txt")
    with pytest.raises(DataError, match=r"'A\.JPG' looks like 'a\.jpg' of images/names, but has U\+0041"):
        match_captions(["A.JPG"], ["a.jpg", "1.jpg"], "captions.txt")
