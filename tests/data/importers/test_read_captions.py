"""Captions in every format, written as their real producers write them."""

import csv
import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.data.importers import read_captions
from helpers.errors import DataError

ROWS = [
    ("a.jpg", 'He said "STOP", twice'),
    ("a.jpg", "plain"),
    ("sub/ü 日本.png", "two\nlines"),
    ("b, c.jpg", "Ein Hündchen; läuft\tweg"),
    ("a.jpg", "plain"),
]
IMAGES = ["a.jpg", "sub/ü 日本.png", "b, c.jpg"]


def pairs(found):
    return [(found.images[row], text) for row, text in zip(found.image, found.texts, strict=True)]


def write_csv(path, delimiter=",", encoding="utf-8", lineterminator="\r\n", header=("file_name", "caption"), rows=ROWS):
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file, delimiter=delimiter, lineterminator=lineterminator).writerows([header, *rows])
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("lineterminator", ["\n", "\r\n"])
@pytest.mark.parametrize("name", ["captions.csv", "captions.tsv"])
def test_tables_as_spreadsheets_save_them(tmp_path, encoding, delimiter, lineterminator, name):
    found = read_captions(write_csv(tmp_path / name, delimiter, encoding, lineterminator))
    assert (pairs(found), found.images, found.split) == (ROWS, IMAGES, None)
    assert found.image.dtype == np.int64


@pytest.mark.parametrize(
    ("header", "image", "texts"),
    [
        (("image", "caption"), 0, [1]),
        (("Sentence", "Image Path"), 1, [0]),
        (("id", "split_of", "filename", "text"), 2, [3]),
        (("image_id", "comment"), 0, [1]),
        (("image", "caption_1", "caption_2"), 0, [1, 2]),
    ],
)
def test_columns_are_known_by_their_names(tmp_path, header, image, texts):
    rows = [[f"{name} {row}" for name in header] for row in range(3)]
    found = read_captions(write_csv(tmp_path / "a.csv", header=header, rows=rows))
    assert pairs(found) == [(row[image], row[text]) for row in rows for text in texts]


@pytest.mark.parametrize("name", ["captions.csv", "captions.txt"])
def test_lines_may_end_as_on_a_macintosh(tmp_path, name):
    (tmp_path / name).write_bytes(b"image,caption\r1.jpg,A dog\r2.jpg,A cat\r")
    assert pairs(read_captions(tmp_path / name)) == [("1.jpg", "A dog"), ("2.jpg", "A cat")]


def test_lines_that_are_no_csv_may_be_utf_16(tmp_path):
    (tmp_path / "captions.txt").write_text("1.jpg,A dog, asleep\n2.jpg,A cat\n", encoding="utf-16")
    assert pairs(read_captions(tmp_path / "captions.txt")) == [("1.jpg", "A dog, asleep"), ("2.jpg", "A cat")]


def test_a_caption_in_the_first_line_may_be_longer_than_a_cell_of_csv(tmp_path):
    (tmp_path / "captions.txt").write_text(f"1.jpg,{'a' * 200_000}\n2.jpg,b\n")
    assert pairs(read_captions(tmp_path / "captions.txt"))[1] == ("2.jpg", "b")


def test_an_image_may_have_fewer_of_numbered_captions(tmp_path):
    header, rows = ("image", "caption_1", "caption_2"), [("1.jpg", "a", ""), ("2.jpg", "b", "c")]
    found = read_captions(write_csv(tmp_path / "a.csv", header=header, rows=rows))
    assert pairs(found) == [("1.jpg", "a"), ("2.jpg", "b"), ("2.jpg", "c")]


def test_a_cell_may_hold_a_list_as_in_flickr30ks_annotations(tmp_path):
    header = ("raw", "sentids", "split", "filename", "img_id")
    rows = [
        (json.dumps(["Two men .", 'A "sign" , red .']), "[0, 1]", "train", "1000092795.jpg", 0),
        (json.dumps(["A boy ."]), "[2]", "val", "10002456.jpg", 1),
        (json.dumps(["A girl ."]), "[3]", "test", "10002457.jpg", 2),
    ]
    found = read_captions(write_csv(tmp_path / "flickr_annotations_30k.csv", header=header, rows=rows))
    assert pairs(found)[:3] == [
        ("1000092795.jpg", "Two men ."),
        ("1000092795.jpg", 'A "sign" , red .'),
        ("10002456.jpg", "A boy ."),
    ]
    assert found.split == ["train", "val", "test"]


def test_a_table_without_header_is_known_by_its_pictures(tmp_path):
    (tmp_path / "a.csv").write_text('1.jpg,a dog\n2.PNG,"a cat, black"\n')
    assert pairs(read_captions(tmp_path / "a.csv")) == [("1.jpg", "a dog"), ("2.PNG", "a cat, black")]


def test_lines_that_are_no_csv_stay_lines_and_csv_by_another_name_is_csv(tmp_path):
    path = tmp_path / "captions.txt"
    path.write_text('image,caption\n1.jpg,a sign "STOP" , red\n2.jpg,"Hello" , he says\n')
    assert pairs(read_captions(path)) == [("1.jpg", 'a sign "STOP" , red'), ("2.jpg", '"Hello" , he says')]
    path.write_text('image,caption\r\n1.jpg,"a sign ""STOP"", red"\r\n2.jpg,a boat\r\n')
    assert pairs(read_captions(path)) == [("1.jpg", 'a sign "STOP", red'), ("2.jpg", "a boat")]
    path.write_text('1,"a, b"\n2,c\n')  # neither names of columns nor of pictures: nothing tells that it is CSV
    assert pairs(read_captions(path)) == [("1", '"a, b"'), ("2", "c")]


def test_the_token_file_of_flickr8k_numbers_captions_and_not_images(tmp_path):
    path = tmp_path / "Flickr8k.token.txt"
    path.write_text("1.jpg#0\tA child .\n1.jpg#1\tA girl .\n2.jpg#0\tA dog .\n")
    assert pairs(read_captions(path)) == [("1.jpg", "A child ."), ("1.jpg", "A girl ."), ("2.jpg", "A dog .")]
    path.write_text("image_name| comment_number| comment\n1.jpg| 0| A child .\n1.jpg| 1| A girl .\n")
    assert pairs(read_captions(path)) == [("1.jpg", "A child ."), ("1.jpg", "A girl .")]


@pytest.mark.parametrize("key", ["text", "caption", "captions"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_the_metadata_of_an_image_folder(tmp_path, key, mark):
    records = [
        {"file_name": "a.jpg", key: ['He said "STOP", twice', "plain"]},
        {"file_name": "sub\\ü 日本.png", key: "two\nlines"},
        {"file_name": "./b, c.jpg", key: ["Ein Hündchen; läuft\tweg "]},
        {"file_name": "without.jpg", key: []},
        {"file_name": "a.jpg", key: "plain"},
    ]
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\r\n" for record in records)
    (tmp_path / "metadata.jsonl").write_text(mark + lines + "\n", encoding="utf-8", newline="")
    for path in (tmp_path / "metadata.jsonl", tmp_path):  # the folder itself will do
        found = read_captions(path)
        assert sorted(pairs(found)) == sorted(ROWS) and found.images == [*IMAGES, "without.jpg"]
    (tmp_path / "captions.json").write_text(lines, encoding="utf-8")  # by another name
    assert pairs(read_captions(tmp_path / "captions.json")) == pairs(found)
    (tmp_path / "list.json").write_text(json.dumps(records))
    assert pairs(read_captions(tmp_path / "list.json")) == pairs(found)


def test_a_dictionary_of_names(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"1.jpg": ["a", "b"], "2.jpg": "c", "3.jpg": []}))
    found = read_captions(tmp_path / "a.json")
    assert pairs(found) == [("1.jpg", "a"), ("1.jpg", "b"), ("2.jpg", "c")] and found.images[-1] == "3.jpg"


def coco(**changes):
    made = {
        "info": {"description": "COCO 2017 Dataset"},
        "licenses": [],
        "images": [
            {"license": 3, "file_name": "000000391895.jpg", "height": 360, "width": 640, "id": 391895},
            {"license": 1, "file_name": "000000522418.jpg", "height": 480, "width": 640, "id": 522418},
            {"license": 1, "file_name": "000000184613.jpg", "height": 480, "width": 640, "id": 184613},
        ],
        "annotations": [
            {"image_id": 522418, "id": 1, "caption": "A woman wearing a net on her head cutting a cake. "},
            {"image_id": 391895, "id": 2, "caption": "A man with a red helmet."},
            {"image_id": 522418, "id": 3, "caption": "A woman\n"},
        ],
    }
    return made | changes


def test_captions_of_coco(tmp_path):
    (tmp_path / "captions_val2017.json").write_text(json.dumps(coco()))
    found = read_captions(tmp_path / "captions_val2017.json")
    assert found.images == ["000000391895.jpg", "000000522418.jpg", "000000184613.jpg"]  # one without a caption
    assert Counter(pairs(found)) == Counter(
        [
            ("000000391895.jpg", "A man with a red helmet."),
            ("000000522418.jpg", "A woman wearing a net on her head cutting a cake."),
            ("000000522418.jpg", "A woman"),
        ]
    )


def karpathy():
    def image(filename, split, *sentences, **more):
        told = [{"tokens": s.split(), "raw": s, "imgid": 0, "sentid": 0} for s in sentences]
        return {"sentids": [0], "imgid": 0, "sentences": told, "split": split, "filename": filename} | more

    return {
        "images": [
            image("COCO_val2014_000000391895.jpg", "test", "A man.", "A rider.", filepath="val2014", cocoid=391895),
            image("COCO_train2014_000000522418.jpg", "restval", "A woman .\n", filepath="train2014"),
            image("1000268201_693b08cb0e.jpg", "train", "A child ."),
            image("1001773457.jpg", "val", "A dog ."),
        ],
        "dataset": "coco",
    }


def test_the_split_of_karpathy(tmp_path):
    (tmp_path / "dataset_coco.json").write_text(json.dumps(karpathy()))
    found = read_captions(tmp_path / "dataset_coco.json")
    assert found.images[:2] == ["val2014/COCO_val2014_000000391895.jpg", "train2014/COCO_train2014_000000522418.jpg"]
    assert found.split == ["test", "restval", "train", "val"]
    assert found.texts == ["A man.", "A rider.", "A woman .", "A child .", "A dog ."]


@pytest.mark.parametrize("kind", ["plain", "lists", "pictures", "dictionary"])
def test_parquet(tmp_path, kind):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    names, texts = ([row[column] for row in ROWS] for column in (0, 1))
    columns = {"image": names, "caption": texts, "height": [1] * 5, "split": ["train", "train", "val", "test", "train"]}
    expected = ROWS
    if kind == "lists":
        columns = {"file_name": IMAGES, "captions": [["a", "b"], [], ["c"]], "split": ["train", "validation", "test"]}
        expected = [("a.jpg", "a"), ("a.jpg", "b"), ("b, c.jpg", "c")]
    if kind == "pictures":  # as Hugging Face's datasets store them
        columns["image"] = [{"bytes": b"\x89PNG" * 100, "path": name} for name in names]
    if kind == "dictionary":
        columns["image"] = arrow.array(names).dictionary_encode()
    parquet.write_table(arrow.table(columns), tmp_path / "train-00000-of-00001.parquet", row_group_size=2)
    found = read_captions(tmp_path / "train-00000-of-00001.parquet")
    assert (pairs(found), found.images, found.split) == (expected, IMAGES, ["train", "val", "test"])


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.text("ab/ü,;|\t", min_size=1).map("{}.jpg".format), st.text(min_size=1)).filter(
            lambda row: "\0" not in row[1] and row[1].strip() and row[0].strip() == row[0]
        ),
        min_size=1,
        max_size=6,
    )
)
def test_what_a_csv_or_json_writer_wrote_is_read(tmp_path, rows):
    expected = [(name, text.strip()) for name, text in rows]
    lines = "".join(json.dumps({"file_name": name, "text": text}) + "\n" for name, text in rows)
    (tmp_path / "metadata.jsonl").write_text(lines)
    assert pairs(read_captions(tmp_path / "metadata.jsonl")) == expected
    written = [(name, text.replace("\r", " ")) for name, text in rows if text.replace("\r", " ").strip()]
    if written:
        found = read_captions(write_csv(tmp_path / "a.csv", rows=written, lineterminator="\n"))
        assert pairs(found) == [(name, text.strip()) for name, text in written]


def jsonl(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


BAD = {
    "no file": ("a.csv", None, "cannot be read .* A captions file is needed"),
    "empty": ("a.csv", "", "no column for the image and the caption"),
    "header alone": ("a.csv", "image,caption\n", r"holds no caption in 0 line\(s\)"),
    "unknown columns": ("a.csv", "photo_a,words\n1.jpg,a\n", "among: photo_a, words. Name them, such as file_name"),
    "Latin-1": ("a.csv", "image,caption\n1.jpg,caf\xe9\n".encode("latin-1"), "line 2 is not UTF-8"),
    "unquoted commas": ("a.csv", "image,caption\n1.jpg,a, b\n2.jpg,c\n3.jpg,d,e,f\n",
                        r"2 line\(s\) of other than 2 cells: 2 \(3 cells\), 4 \(4 cells\).*captions.txt"),
    "quote that stays open": ("a.csv", 'image,caption\n1.jpg,a\n2.jpg,"b\n3.jpg,c\n', "line 3: unexpected end"),
    "stray quote": ("a.csv", 'image,caption\n1.jpg,"Stop" sign\n', "line 2: .* Quotes must stand around a whole cell"),
    "empty cells": ("a.csv", "image,caption\n,a\n1.jpg, \n2.jpg,\n",
                    r"1 line\(s\) without the name of an image: 2; 2 line\(s\) with an empty caption.*: 3, 4\."),
    "line that is no JSON": ("a.jsonl", '{"file_name": "1.jpg", "text": "a"}\n{"file_name":\n', "line 2 is no JSON"),
    "line that is no record": ("a.jsonl",
                               '{"file_name": "1.jpg", "text": "a"}\n["b"]\n', r"1 of 2 record\(s\) are no .*: 2"),
    "no lines": ("a.jsonl", "\n", r"0 of 0 record\(s\)"),
    "keys unknown": ("a.jsonl", jsonl({"a": 1, "b": 2}), "no column .* among: a, b"),
    "null and numbers": ("a.jsonl", jsonl({"file_name": "1.jpg", "text": None}, {"file_name": None, "text": "a"},
                                          {"file_name": "2.jpg", "text": ["a", 3]}),
                         r"2 line\(s\) with an empty caption, or one that is no text: 1, 3; 1 line.* without the name"),
    "NUL": ("a.jsonl", jsonl({"file_name": "1.jpg", "text": "a\0b"}), r"1 line\(s\) with NUL, half a surrogate"),
    "half a character": ("a.jsonl", r'{"file_name": "1.jpg", "text": "\ud83d"}', "half a surrogate pair"),
    "two splits": ("a.jsonl", jsonl({"file_name": "1.jpg", "text": "a", "split": "train"},
                                    {"file_name": "1.jpg", "text": "b", "split": "val"}),
                   r"1 line\(s\) that put an image into a second split: 2"),
    "other split": ("a.jsonl", jsonl({"file_name": "1.jpg", "text": "a", "split": "fold 3"}),
                    r"1 line\(s\) of a split that is not train, val or test: 1"),
    "split of some": ("a.jsonl", jsonl({"file_name": "1.jpg", "text": "a", "split": "train"},
                                       {"file_name": "2.jpg", "text": "b", "split": None}),
                      r"1 line\(s\) \(images\) without a split, which others have: 2.jpg"),
    "instances of COCO": ("a.json", json.dumps(coco(annotations=[{"image_id": 391895, "id": 1, "bbox": []}])),
                          "1 of 1 annotations have no 'caption': 0. Give the file of captions"),
    "caption without image": ("a.json", json.dumps(coco(annotations=[{"image_id": 7, "id": 44, "caption": "a"}])),
                              r"1 annotation\(s\) describe an image that 'images' does not list: 44"),
    "an id twice": ("a.json", json.dumps(coco(images=coco()["images"][:1] * 2)),
                    "1 of 2 images have the id of another"),
    "image info of COCO": ("a.json", json.dumps({"images": coco()["images"]}), "JSON of no known kind"),
    "COCO without captions": ("a.json", json.dumps(coco(annotations=[])), r"holds no caption in 3 record\(s\)"),
    "a number": ("a.json", "3", "JSON of no known kind. Known: COCO"),
    "cut off": ("a.json", json.dumps(coco())[:-9], "is no JSON .*Copy or export it again"),
    "very deep": ("a.json", "[" * 100_000, "is no JSON"),
    "parquet that is none": ("a.parquet", b"PAR1 and no more", "cannot be read as a table"),
    "id that is a list": ("a.json", json.dumps(coco(images=[{"id": [1], "file_name": "a.jpg"}])),
                          "1 of images have no number or text as 'id': 0"),
    "image_id that is a list": ("a.json", json.dumps(coco(annotations=[{"image_id": [1], "id": 1, "caption": "a"}])),
                                "1 of annotations have no number or text as 'image_id': 0"),
    "a cell beyond any": ("captions.csv", "image,caption\n1.jpg," + "a" * 200_000, "line 2: field larger"),
    "captions.txt": ("captions.txt", "image,caption\n1.jpg\n", r"1 line\(s\) without a separator: 2"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_read_is_said_with_file_place_count_and_remedy(tmp_path, case):
    name, content, message = BAD[case]
    if "parquet" in case:
        pytest.importorskip("pyarrow")
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message) as caught:
        read_captions(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))


def test_a_folder_without_captions_says_what_it_looked_for(tmp_path):
    with pytest.raises(DataError, match="holds none of metadata.jsonl, metadata.csv, metadata.parquet, captions.txt"):
        read_captions(tmp_path)


@pytest.mark.parametrize("name", ["flickr8k", "rsicd"])
def test_real_captions(real_data, name):
    found = read_captions(real_data / name / "captions.txt")
    assert set(np.bincount(found.image).tolist()) == {5} and found.split is None
    assert (len(found.images), len(found.texts)) == {"flickr8k": (8091, 40455), "rsicd": (10921, 54605)}[name]


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_what_hugging_faces_datasets_and_pandas_write_is_read(tmp_path, ending):
    datasets = pytest.importorskip("datasets")
    names, texts = ([row[column] for row in ROWS] for column in (0, 1))
    data = datasets.Dataset.from_dict({"file_name": names, "text": texts, "width": [None, 1, 2, 3, 4]})
    path = tmp_path / f"metadata.{ending}"
    {"csv": data.to_csv, "jsonl": data.to_json, "parquet": data.to_parquet}[ending](str(path))
    assert pairs(read_captions(path)) == ROWS
    assert pairs(read_captions(tmp_path)) == ROWS
    if ending == "csv":
        data.to_pandas().to_csv(path, index=True)  # with a column without a name
        assert pairs(read_captions(path)) == ROWS
