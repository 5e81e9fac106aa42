"""The local page as a person meets it: a real server, a real browser."""

import contextlib
import os
import socket
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed (extra app)")
from app_fakes import png
from browser import PATIENCE, browser, free_port, served  # noqa: F401 - browser is a fixture

from helpers.data.vectors import marks
from helpers.evaluation import hubness
from helpers.evaluation.leaderboard import judge
from helpers.evaluation.settings import EvaluationConfig
from helpers.models import storage
from helpers.models.geometry import GeometryConfig
from helpers.runs import fit_geometry, open_run, save_geometry
from helpers.system import paths
from helpers.system.files import write_json
from helpers.training.closed_forms import fit_kernel

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra test)").expect
pytestmark = pytest.mark.slow
SHOTS = os.environ.get("SCREENSHOTS")
"""A folder that keeps what the browser saw, for a person to look at."""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder, port = tmp_path_factory.mktemp("run"), free_port()
    command = [str(Path(__file__).with_name("app_fakes.py")), str(folder), str(port)]
    with served(command, f"http://127.0.0.1:{port}/", folder.with_suffix(".log")) as address:
        yield address


@contextlib.contextmanager
def opened(browser, address):  # noqa: F811
    """The page, opened; nothing may go wrong in it, and nothing be asked of another server."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(1000 * PATIENCE)
    page, problems, asked = context.new_page(), [], []
    page.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.expected = []
    try:
        page.goto(address)
        expect(page.locator("#model option")).to_have_count(2)
        yield page
    finally:
        context.close()
    assert not [problem for problem in problems if not any(known in problem for known in page.expected)]
    assert all(url.startswith((address, "blob:", "data:")) for url in asked)


@pytest.fixture
def page(browser, address):  # noqa: F811
    with opened(browser, address) as page:
        yield page


def keep(page, name):
    if SHOTS:
        page.screenshot(path=Path(SHOTS) / f"{name}.png")


def search(page, words):
    page.get_by_label("Words to search for").fill(words)
    page.keyboard.press("Enter")
    expect(page.locator("#say")).to_contain_text(f"for “{words}” in")


def names(page, grid="a"):
    return page.locator(f"#grid-{grid} img").evaluate_all("images => images.map(image => image.alt)")


def drawn(page, grid="a"):
    """Whether every picture of a grid has been loaded and has pixels."""
    pictures = page.locator(f"#grid-{grid} img")
    for picture in pictures.all():
        picture.scroll_into_view_if_needed()  # they are loaded once they are about to be seen
        expect(picture).to_have_js_property("complete", True)
    page.evaluate("scrollTo(0, 0)")
    assert all(pictures.evaluate_all("images => images.map(image => image.naturalWidth > 0)"))
    return pictures.count()


def test_words_show_pictures(page):
    keep(page, "start")
    page.get_by_label("Hubness correction").uncheck()
    search(page, "something blue")
    assert drawn(page) == 12
    assert names(page)[0] == "a square in blue"
    assert "12 pictures for “something blue”" in page.locator("#say").text_content()
    keep(page, "pictures")


def test_an_example_is_a_click_away_and_the_address_brings_it_back(page):
    page.locator("#chips button").first.click()
    page.wait_for_selector("#grid-a .hit")
    page.locator("#k").select_option("6")
    expect(page.locator("#grid-a .hit")).to_have_count(6)
    found = names(page)
    page.reload()
    page.wait_for_selector("#grid-a .hit")
    assert names(page) == found


def test_two_rankings_stand_side_by_side(page):
    search(page, "red")
    page.get_by_label("Compare").check()
    page.wait_for_selector("#grid-b .hit")
    assert drawn(page) == drawn(page, "b") == 12
    assert names(page, "b")[:2] == names(page)[1::-1]  # the fake's correction changes the first two places
    assert page.locator("#grid-b .move").all_text_contents()[:3] == ["▲ 1", "▼ 1", "="]
    boxes = [page.locator(f"#grid-{grid}").bounding_box() for grid in "ab"]
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"] and abs(boxes[0]["y"] - boxes[1]["y"]) < 2
    page.get_by_label("Second model").select_option("least_squares")
    expect(page.locator("#title-b")).to_contain_text("Least squares")
    keep(page, "compare")


def test_why_shows_training_captions_and_the_keyboard_goes_through_the_pictures(page):
    search(page, "green")
    page.keyboard.press("Tab")
    page.locator("#grid-a .hit").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#why-list li")
    assert page.locator("#why-list li").count() == 5
    assert page.locator("#why-title").text_content().startswith("1. ")
    keep(page, "why")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#why-title")).to_contain_text("2. ")
    page.keyboard.press("Escape")
    assert not page.locator("#why").is_visible()
    assert page.evaluate("document.activeElement.className") == "hit"


def test_a_picture_is_added_and_found(page):
    page.expected = ["status of 415", "status of 422"]
    files = [
        {"name": "mine.png", "mimeType": "image/png", "buffer": png((228, 120, 196), 300)},
        {"name": "broken.png", "mimeType": "image/png", "buffer": png((1, 2, 3), 300)[:120]},
        {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no picture"},
    ]
    page.get_by_label("Pictures to add").set_input_files(files)
    expect(page.locator("#added-list .good, #added-list .bad")).to_have_count(3)
    said = " ".join(page.locator("#added-list .what").all_text_contents())
    for sentence in ("mine.png: added", "broken.png: the picture is damaged", "notes.txt: not a picture of a format"):
        assert sentence in said
    keep(page, "added")
    search(page, "pink")
    assert "mine.png" in names(page)[:3]
    assert page.locator(".badge").count() == 1


def test_an_upload_that_is_too_large_is_told_before_it_is_sent(page):
    page.evaluate("run.limits.bytes = 1000")
    large = {"name": "large.png", "mimeType": "image/png", "buffer": b"x" * 5000}
    page.get_by_label("Pictures to add").set_input_files([large])
    page.wait_for_selector("#added-list .bad")
    assert "large.png: 1 MB; at most" in page.locator("#added-list .bad").text_content()


def test_what_goes_wrong_is_said_where_a_screen_reader_hears_it(page):
    page.expected = ["status of 400"]
    page.keyboard.press("Enter")
    assert page.get_by_role("alert").text_content() == "Type some words first."
    page.evaluate("run.limits.query = 9999; document.querySelector('#words').maxLength = 9999")
    page.get_by_label("Words to search for").fill("x" * 600)
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("at most 500")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(("device", "width"), [("desktop", 1280), ("phone", 390)])
def test_nothing_runs_out_of_the_window(page, device, width, dark):
    page.set_viewport_size({"width": width, "height": 844})
    page.emulate_media(color_scheme="dark" if dark else "light")
    search(page, "a teal and green square")
    drawn(page)
    keep(page, f"{device}-{'dark' if dark else 'light'}")
    page.get_by_label("Compare").check()
    page.wait_for_selector("#grid-b .hit")
    drawn(page, "b")
    keep(page, f"{device}-{'dark' if dark else 'light'}-compare")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator("#grid-a .hit").first.click()
    page.wait_for_selector("#why-list li")
    keep(page, f"{device}-{'dark' if dark else 'light'}-why")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(16, 19, 24)") is dark


def test_everything_that_can_be_used_has_a_name(page):
    search(page, "red")
    page.wait_for_selector("#grid-a .hit")
    unnamed = page.evaluate(
        """[...document.querySelectorAll('button, input, select')].filter(element => !(
            element.textContent.trim() || element.ariaLabel || (element.labels || []).length)).length"""
    )
    assert unnamed == 0
    assert page.evaluate("[...document.images].every(image => image.hasAttribute('alt'))")


def test_an_upload_is_refused_by_what_it_says_of_itself_before_any_of_it_is_sent(address):
    host = address.removeprefix("http://").rstrip("/")
    head = f"POST /api/pictures?name=huge.png HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/octet-stream\r\n"
    with socket.create_connection(tuple(host.split(":")), timeout=PATIENCE) as connection:
        connection.sendall(f"{head}Content-Length: 9000000000\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(4096), b"")).decode()
    assert answer.startswith("HTTP/1.1 413") and "at most 20 MB" in answer


KERNEL = {"gamma": 0.5, "ridge": 1e-4, "image_eps": 0.3, "scale": -0.5, "power": 1.0}
LANDMARKS = 2000
"""Of the kernel map, as the demo's folds choose them."""


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The page of a run on the demo's pictures, by its own command; of the models only those that need no training."""
    pytest.importorskip("sentence_transformers", reason="the encoders are not installed (extra encode)")
    if not (paths.DATA_DIR / "emoji" / "train.npz").exists():
        pytest.skip("data/emoji is not here")
    runs, port = tmp_path_factory.mktemp("runs"), free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HELPERS_RUNS_DIR", str(runs))
        closed_form_run("closed")
        command = ["-m", "helpers.app", "closed", f"--port={port}"]
        with served(command, f"http://127.0.0.1:{port}/", runs / "app.log", cwd=paths.PROJECT_ROOT) as address:
            yield address


def closed_form_run(name):
    """A run on the demo's data that holds Procrustes and the kernel map, judged."""
    run = open_run({}, run=name, data_dir=paths.DATA_DIR / "emoji")
    run.save()
    settings = run.settings(GeometryConfig)
    save_geometry(run, fit_geometry(run, settings), settings)
    kernel_map = fit_kernel(run.training_data, KERNEL, LANDMARKS)
    storage.save_model(
        run.directory,
        "kernel",
        kernel_map,
        {"architecture": {"text_dim": 384, "image_dim": 1280, "landmarks": LANDMARKS}},
    )
    models = {row: storage.load_model(run.directory, row)[0] for row in ("procrustes", "kernel")}
    found = judge(models, run.data, run.split, run.settings(EvaluationConfig))
    bank = hubness.sample(run.split.train_captions)
    own = marks(run.data.images[run.data.targets[bank]])
    hubness.save_query_bank(run.directory, run.data.text[bank], own, found.betas)
    weights = {row: storage.weights_digest(run.directory, row) for row in models}
    write_json(
        run.directory / "leaderboard.json", [{**row, "weights": weights.get(row["model"])} for row in found.rows]
    )


def test_the_demo_answers_birthday_party_with_cake_and_balloon_and_takes_a_picture(demo, browser):  # noqa: F811
    with opened(browser, demo) as page:
        search(page, "birthday party")
        assert drawn(page) == 12
        assert all(any(wanted in name for name in names(page)) for wanted in ("cake", "balloon"))
        keep(page, "demo")
        page.locator("#grid-a .hit").first.click()
        expect(page.locator("#why-list li")).to_have_count(5)
        keep(page, "demo-why")
        page.keyboard.press("Escape")
        page.get_by_label("Compare").check()
        expect(page.locator("#grid-b .hit")).to_have_count(12)
        keep(page, "demo-compare")
        before = names(page)[0]
        row = page.locator("#grid-a .hit").first.get_attribute("data-row")
        again = page.request.get(f"{demo}thumbnail/{row}").body()
        file = {"name": "again.png", "mimeType": "image/png", "buffer": again}
        page.get_by_label("Pictures to add").set_input_files([file])
        expect(page.locator("#added-list .good")).to_contain_text("again.png: added")
        found = names(page)  # the search is repeated by itself: a copy stands beside its picture
        expect(page.locator(".badge").first).to_be_visible()
        assert before in found
