"""The local page over HTTP: what it answers, and what it refuses."""

import io
import struct
import sys
import tomllib
import warnings
import zlib

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed (extra app)")
from app_fakes import COLOURS, Eyes, Words, make_gallery, make_run, png
from fastapi.testclient import TestClient
from PIL import Image

from helpers import app
from helpers.errors import ConfigError, UserError
from helpers.serving.app import gallery as gallery_module
from helpers.serving.app import uploads
from helpers.serving.app.server import listen
from helpers.serving.app.web import PAGE, allowed_host, create_app
from helpers.system import paths

BINARY = {"content-type": "application/octet-stream"}
MAGENTA = (230, 20, 200)


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path)


@pytest.fixture
def words():
    return Words()


@pytest.fixture
def client(run, words):
    return TestClient(create_app(make_gallery(run, words)), base_url="http://127.0.0.1:8000")


def search(client, **asked):
    return client.get("/api/search", params=asked)


def upload(client, content, name="new.png", **headers):
    return client.post("/api/pictures", params={"name": name}, content=content, headers=BINARY | headers)


def error_of(response, status):
    assert response.status_code == status, response.text
    return response.json()["error"]


def test_the_page_is_one_file_that_asks_nothing_of_another_server(client):
    page = client.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    for loads in ('src="http', 'href="http', "@import", "url(http", "url(//"):
        assert loads not in page.text
    for handler in (" onclick=", " style=", "javascript:"):  # the page's own policy would refuse them
        assert handler not in page.text


def test_it_names_the_stored_models_of_the_leaderboard_and_the_best(client, run):
    about = client.get("/api/about").json()
    assert [(model["name"], model["label"]) for model in about["models"]] == [
        ("procrustes", "Whitened Procrustes"),
        ("least_squares", "Least squares"),
    ]
    assert about["best"] == "procrustes"
    assert (about["pictures"], about["added"], about["run"]) == (12, 0, run.name)
    assert len(about["examples"]) == gallery_module.EXAMPLES


def test_words_find_pictures_best_first(client):
    hits = search(client, q="something red", k=5, hubness=False).json()["hits"]
    assert [hit["name"] for hit in hits][0] == "red.png"
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
    assert len(hits) == 5 and hits[0]["caption"] == "a square in red" and not hits[0]["added"]


def test_the_correction_is_on_unless_it_is_turned_off(client):
    plain, corrected = (search(client, q="red", hubness=on).json()["hits"] for on in (False, True))
    assert [hit["row"] for hit in corrected] != [hit["row"] for hit in plain]
    assert search(client, q="red").json()["hits"] == corrected


def test_a_query_is_encoded_once_for_all_models(client, words):
    for model in ("procrustes", "least_squares", "procrustes"):
        assert search(client, q="deep  navy ", model=model).status_code == 200
    assert words.asked == ["deep navy"]


@pytest.mark.parametrize(
    ("asked", "status", "message"),
    [
        ({"q": ""}, 400, "Type some words"),
        ({"q": " \t\n "}, 400, "Type some words"),
        ({"q": "x" * 501}, 400, "501 characters; at most 500"),
        ({"q": "red", "k": 0}, 400, "k: "),
        ({"q": "red", "k": -3}, 400, "k: "),
        ({"q": "red", "k": 101}, 400, "k: "),
        ({"q": "red", "k": "many"}, 400, "k: "),
        ({"q": "red", "hubness": "perhaps"}, 400, "hubness: "),
        ({"q": "red", "model": "bigjump"}, 404, "There are: procrustes, least_squares"),
        ({"q": "red", "model": "../../etc/passwd"}, 404, "No model is called"),
        ({"q": "red", "model": "chance"}, 404, "No model is called"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_one_sentence(client, asked, status, message):
    assert message in error_of(search(client, **asked), status)


def test_more_pictures_than_there_are_gives_them_all(client):
    assert len(search(client, q="red", k=100).json()["hits"]) == len(COLOURS)


def test_why_gives_the_nearest_training_captions_of_a_picture(client):
    captions = client.get("/api/why/3", params={"model": "least_squares"}).json()["captions"]
    assert len(captions) == gallery_module.WHY
    assert captions[0] == {"text": "a square like green.png", "score": pytest.approx(1)}
    assert "no picture 12" in error_of(client.get("/api/why/12"), 404)
    assert "No model" in error_of(client.get("/api/why/3", params={"model": "x"}), 404)


@pytest.mark.parametrize("kind", ["thumbnail", "picture"])
def test_a_picture_is_served_by_its_row(client, kind):
    answer = client.get(f"/{kind}/5")
    assert answer.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(answer.content)).getpixel((3, 3)) == COLOURS["blue"]


@pytest.mark.parametrize(
    "path",
    [
        "12",
        "-1",
        "99999999999999999999",
        "2147483648",
        "1.5",
        "blue.png",
        "../leaderboard.json",
        "..%2fleaderboard.json",
        "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "%2fetc%2fpasswd",
        "..%5c..%5cleaderboard.json",
        "0%00.json",
        "0/../../leaderboard.json",
    ],
)
@pytest.mark.parametrize("kind", ["thumbnail", "picture", "api/why"])
def test_no_path_can_be_asked_for(client, kind, path):
    answer = client.get(f"/{kind}/{path}")
    assert answer.status_code in (400, 404)
    assert set(answer.json()) == {"error"} and "procrustes" not in answer.text


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json", "/page.html", "/static/page.html", "/uploads/"])
def test_nothing_else_is_served(client, path):
    assert error_of(client.get(path), 404) == "There is nothing at this address."


def test_every_answer_has_the_security_headers(client):
    answers = [client.get(path) for path in ("/", "/api/about", "/picture/0", "/picture/99", "/nothing")]
    answers += [client.get("/", headers={"host": "evil.example"}), upload(client, b"")]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert policy.count("'sha256-") == 2
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil:8000", ""]
)
@pytest.mark.parametrize("path", ["/", "/api/about", "/picture/0"])
def test_a_host_that_is_not_ours_is_refused(client, host, path):
    assert "is not this server's" in error_of(client.get(path, headers={"host": host}), 403)


@pytest.mark.parametrize(
    ("named", "bound", "allowed"),
    [
        ("localhost", "127.0.0.1", True),
        ("LOCALHOST:8000", "127.0.0.1", True),
        ("127.0.0.1:9", "localhost", True),
        ("[::1]:8000", "::1", True),
        ("192.168.1.5:8000", "127.0.0.1", False),
        ("192.168.1.5:8000", "0.0.0.0", True),
        ("evil.example", "0.0.0.0", False),
        ("studio.local:80", "studio.local", True),
        ("user@localhost", "127.0.0.1", False),
        ("localhost:8000/x", "127.0.0.1", False),
        ("localhost:80:80", "127.0.0.1", False),
        ("[::1", "::1", False),
        ("", "127.0.0.1", False),
    ],
)
def test_the_hosts_that_are_ours(named, bound, allowed):
    assert allowed_host(named, bound) is allowed


@pytest.mark.parametrize("origin", ["http://evil.example", "http://localhost:3000", "null", "http://127.0.0.1:8001"])
def test_a_page_of_another_origin_can_neither_search_nor_add(client, origin):
    assert "another origin" in error_of(upload(client, png(MAGENTA), origin=origin), 403)
    assert "another origin" in error_of(client.get("/api/about", headers={"origin": origin}), 403)
    assert upload(client, png(MAGENTA), origin="http://127.0.0.1:8000").status_code == 201


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded"])
def test_a_form_cannot_add_a_picture(client, run, kind):
    answer = client.post("/api/pictures", content=png(MAGENTA), headers={"content-type": kind})
    assert "application/octet-stream" in error_of(answer, 415)
    assert not (run / "uploads").exists()


def test_an_added_picture_is_found_by_every_model_and_after_a_restart(client, run):
    search(client, q="pink", model="least_squares")  # one index is loaded before, one after
    answer = upload(client, png(MAGENTA, 2000), "holiday.png")
    assert answer.status_code == 201
    assert answer.json()["picture"]["row"] == 12 and answer.json()["new"]
    again = TestClient(create_app(make_gallery(run)), base_url="http://127.0.0.1:8000")
    for asked in (client, again):
        for model in ("least_squares", "procrustes"):
            hits = search(asked, q="pink purple", model=model).json()["hits"]
            [found] = [hit for hit in hits if hit["row"] == 12]
            assert found["name"] == "holiday.png" and found["added"]
        picture = Image.open(io.BytesIO(asked.get("/picture/12").content))
        assert picture.size == (1024, 1024)
        np.testing.assert_allclose(picture.getpixel((500, 500)), MAGENTA, atol=4)
        assert asked.get("/api/about").json()["added"] == 1
        assert asked.get("/api/why/12").json()["captions"]


def test_a_picture_that_was_added_before_is_not_added_twice(client):
    first, second = (upload(client, png(MAGENTA), name) for name in ("one.png", "two.png"))
    assert (first.status_code, second.status_code) == (201, 200)
    assert second.json() == {"picture": first.json()["picture"], "new": False}
    assert client.get("/api/about").json()["added"] == 1


def test_nothing_of_an_uploaded_file_is_kept_but_its_pixels(client, run):
    secret = b"<script>alert(1)</script> GPS 52.5 13.4"
    assert upload(client, png(MAGENTA) + secret).status_code == 201
    [kept] = (run / "uploads").iterdir()
    assert secret not in kept.read_bytes() and b"<script>" not in client.get("/picture/12").content


def test_a_name_is_a_label_and_never_a_path(client, run):
    name = "../../../etc/cron.d/\x00evil\n\u202e" + "x" * 300
    found = upload(client, png(MAGENTA), name).json()["picture"]["name"]
    assert found == "evil" + "x" * 76
    assert [path.parent for path in run.rglob("*.upload")] == [run / "uploads"]
    assert upload(client, png((1, 2, 3)), "C:\\photos\\").json()["picture"]["name"] == "picture"


def bomb(side):
    """A PNG of some bytes that says it has `side` x `side` pixels."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"", 400, "new.png: the file is empty"),
        (b"GIF89a but no picture", 415, "not a picture"),
        (b"%PDF-1.7 ...", 415, "not a picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 415, "not a picture"),
        (png(MAGENTA, 300)[:150], 422, "damaged"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", 422, "damaged"),
        (bomb(8000), 413, "64 megapixels; at most 60"),
        (bomb(60000), 413, "megapixels; at most 60"),
        (bomb(700), 422, "damaged"),
    ],
)
def test_a_file_that_is_no_good_picture_is_refused_in_one_sentence(client, run, content, status, message):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert message in error_of(upload(client, content), status)
    assert not (run / "uploads").exists()
    assert client.get("/api/about").json()["added"] == 0


def test_an_upload_that_says_it_is_too_large_is_refused_unread(client, monkeypatch):
    monkeypatch.setattr(uploads, "MAX_BYTES", 2**20)
    sent = []

    def body():
        for part in range(64):
            sent.append(part)
            yield b"x" * 2**16

    assert "2 MB; at most 1 MB" in error_of(upload(client, b"x" * 2**21), 413)
    # One that does not say how large it is, is cut off once it has sent too much.
    assert "more than 1 MB" in error_of(upload(client, body()), 413)


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("RGBA", (255, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (0, 0, 255, 255), (0, 0, 255)),
        ("L", 90, (90, 90, 90)),
        ("LA", (90, 255), (90, 90, 90)),
        ("1", 1, (255, 255, 255)),
        ("P", 0, (0, 0, 0)),
        ("I;16", 65535, (255, 255, 255)),
        ("I;16", 32768, (128, 128, 128)),
    ],
)
def test_every_kind_of_picture_becomes_rgb_on_white(mode, colour, expected):
    stream = io.BytesIO()
    Image.new(mode, (8, 8), colour).save(stream, "PNG")
    assert uploads.decode(stream.getvalue(), "x").getpixel((4, 4)) == expected


def test_a_photograph_is_turned_as_its_camera_was():
    picture, stream = Image.new("RGB", (40, 20), "white"), io.BytesIO()
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(stream, "JPEG", exif=exif)
    assert uploads.decode(stream.getvalue(), "x").size == (20, 40)


def test_a_photograph_whose_exif_is_damaged_is_taken():
    stream = io.BytesIO()
    turned = b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\xff" + turned + b"\x01\x03\0\x05\0\0\0\x01\0\0\0&" + bytes(7) + b"H\0\0\0\x01"
    Image.new("RGB", (40, 20)).save(stream, "JPEG", exif=exif)  # Pillow fails to write it anew, once it is turned
    assert uploads.decode(stream.getvalue(), "x").size == (40, 20)


def test_a_cmyk_photograph_is_taken(client):
    stream = io.BytesIO()
    Image.new("CMYK", (20, 20), (0, 255, 0, 0)).save(stream, "JPEG")
    assert upload(client, stream.getvalue()).status_code == 201


def test_a_run_without_an_image_encoder_says_so_and_is_searched_all_the_same(run):
    def none():
        raise UserError("its vectors were brought, not encoded.")

    client = TestClient(create_app(make_gallery(run, eyes=none)), base_url="http://localhost")
    assert "No picture can be added to this run: its vectors" in error_of(upload(client, png(MAGENTA)), 409)
    assert search(client, q="red").status_code == 200
    assert not (run / "uploads").exists()


def test_a_run_without_a_query_bank_is_searched_by_cosine(run):
    client = TestClient(create_app(make_gallery(run, hubness=False)), base_url="http://localhost")
    assert client.get("/api/about").json()["hubness"] is False
    assert search(client, q="red").json()["hits"][0]["name"] == "red.png"
    assert "run notebook 05" in error_of(search(client, q="red", hubness=True), 409)


def test_pictures_of_another_encoder_and_damaged_files_are_left_alone(client, run):
    upload(client, png(MAGENTA))
    (run / "uploads" / "0-damaged.upload").write_bytes(b"nothing")
    with pytest.warns(UserWarning, match="0-damaged"):
        assert len(make_gallery(run)) == 13
    (run / "uploads" / "0-damaged.upload").unlink()
    with pytest.warns(UserWarning, match="shape"):
        assert not uploads.Uploads(run / "uploads", gallery_module._digest({"kind": "squares"}), 4).items
    assert not uploads.Uploads(run / "uploads", "another", 3).items


def test_a_failure_while_it_is_written_adds_nothing(client, run, monkeypatch):
    (run / "uploads").write_bytes(b"a file where the folder should be")
    assert "cannot be written" in error_of(upload(client, png(MAGENTA)), 409)
    assert client.get("/api/about").json()["added"] == 0
    assert error_of(client.get("/picture/12"), 404)


def test_an_error_that_nobody_foresaw_is_a_sentence_too(run, caplog):
    class Broken(Eyes):
        def encode(self, pictures, batch_size=None):
            raise ZeroDivisionError("secret of the inside")

    client = TestClient(create_app(make_gallery(run, eyes=Broken)), base_url="http://localhost")
    message = error_of(upload(client, png(MAGENTA)), 500)
    assert "secret" not in message and "secret of the inside" in caplog.text


def test_a_port_that_is_taken_is_told_with_the_way_out():
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(ConfigError, match=f"Port {port} is taken.*--port"):
            listen("127.0.0.1", port)
    for port in (-1, 65536):
        with pytest.raises(ConfigError, match="between 0 and 65535"):
            listen("127.0.0.1", port)


def test_a_run_that_is_not_there_is_one_line(capsys):
    assert app.main(["no such run", "--port", "0"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("error: no such run: neither a run in")


def test_a_name_that_the_terminal_cannot_show_does_not_end_the_page(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
    monkeypatch.setattr("helpers.runs.app.serve", lambda *_: print("données: 12 pictures"))
    assert app.main(["any"]) == 0


def test_the_page_is_part_of_the_package():
    settings = tomllib.loads((paths.PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert (
        PAGE.relative_to(paths.PROJECT_ROOT / "helpers").as_posix()
        in (settings["tool"]["setuptools"]["package-data"]["helpers"])
    )


def test_a_run_that_holds_other_pictures_by_now_is_not_mixed_with_the_first_ones(run):
    gallery = make_gallery(run)
    client = TestClient(create_app(gallery), base_url="http://localhost")
    first, *others = [model["name"] for model in client.get("/api/about").json()["models"]]
    opened = gallery._open_index(others[0])
    opened.names = opened.names[::-1]
    gallery._open_index = lambda model: opened
    assert search(client, q="red", model=first).status_code == 200
    assert "start the page again" in error_of(search(client, q="red", model=others[0]), 409)


def test_an_encoder_of_another_width_adds_nothing(run):
    class Wide(Eyes):
        def encode(self, pictures, batch_size=None):
            return np.ones((len(pictures), 7), dtype=np.float32)

    client = TestClient(create_app(make_gallery(run, eyes=Wide)), base_url="http://localhost")
    assert "7 numbers, the run has 3" in error_of(upload(client, png(MAGENTA)), 409)
    assert not (run / "uploads").exists()
