"""The notebooks opened as a person opens them: JupyterLab in a browser, run all cells, look."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import nbformat
import pytest
from browser import browser, free_port, served  # noqa: F401 - browser is a fixture

from helpers.system import paths

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra test)").expect
pytestmark = pytest.mark.slow
SHOTS = os.environ.get("SCREENSHOTS")
"""A folder that keeps what the browser saw, for a person to look at."""
SETTINGS = {
    # Only the cells in view would be in the page otherwise.
    "@jupyterlab/notebook-extension/tracker.jupyterlab-settings": {"windowingMode": "none"},
    "@jupyterlab/apputils-extension/notification.jupyterlab-settings": {"fetchNews": "false", "checkForUpdates": False},
}
PARAMETERS = {
    "02": "",
    # Small: what the defaults give is compared with the committed outputs, and here is only looked at.
    "04": "epochs, plus_settings = 2, {'members': 2, 'epochs': 2, 'hidden': 64, 'temperatures': [0.1]}",
}
PATIENCE = 600
"""Seconds that a notebook may take, each alone in a new runs folder, on a machine that is busy with much else."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab over copies of the notebooks without their outputs, with nobody's settings but these."""
    folder, port = tmp_path_factory.mktemp("lab"), free_port()
    for path in sorted(paths.NOTEBOOKS_DIR.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
            if "parameters" in cell.metadata.get("tags", ()):
                cell.source += "\n" + PARAMETERS.get(path.name[:2], "")
        nbformat.write(notebook, folder / path.name)
    for name, values in SETTINGS.items():
        file = folder / ".settings" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    own = {
        "JUPYTERLAB_SETTINGS_DIR": ".settings",
        "JUPYTERLAB_WORKSPACES_DIR": ".workspaces",
        "JUPYTER_CONFIG_DIR": ".config",
        "JUPYTER_RUNTIME_DIR": ".runtime",
        "IPYTHONDIR": ".ipython",
        "HELPERS_RUNS_DIR": "runs",
    }
    env = {name: str(folder / place) for name, place in own.items()}
    # The package need not be installed: kernels find it where this process did.
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(paths.PROJECT_ROOT), os.environ.get("PYTHONPATH")]))
    command = ["-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}", "--ServerApp.port_retries=0"]
    command += ["--ServerApp.ip=127.0.0.1", "--IdentityProvider.token=", f"--ServerApp.root_dir={folder}"]
    with served(command, f"http://127.0.0.1:{port}/api", folder / "lab.log", env, folder):
        yield f"http://127.0.0.1:{port}/lab/tree"


@pytest.mark.parametrize("number", PARAMETERS)
def test_all_cells_run_and_figures_are_seen(lab, browser, number):  # noqa: F811
    [path] = paths.NOTEBOOKS_DIR.glob(f"{number}_*.ipynb")
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(1000 * PATIENCE)
    page.goto(f"{lab}/{path.name}?reset")
    page.wait_for_selector(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-CodeCell")
    expect(page.locator("#jp-main-statusbar")).to_contain_text("(ipykernel) | Idle", timeout=1000 * PATIENCE)
    code = sum(cell.cell_type == "code" and bool(cell.source.strip()) for cell in nbformat.read(path, 4).cells)
    try:
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        ends = time.monotonic() + PATIENCE
        while done(page) < code and not errors(page):
            assert time.monotonic() < ends, f"{done(page)} of {code} cells in {PATIENCE} s"
            time.sleep(1)
        assert errors(page) == []
        figures = page.locator(".jp-RenderedImage img").evaluate_all("all => all.map(figure => figure.naturalWidth)")
        assert figures and all(width > 100 for width in figures)
    finally:
        if SHOTS:
            keep(page, Path(SHOTS) / f"lab-{number}.png")
        page.context.close()


def done(page) -> int:
    """Code cells that have run: their prompt holds a number."""
    prompts = page.locator(".jp-CodeCell .jp-InputPrompt").all_text_contents()
    return sum(prompt.strip(" []:").isdigit() for prompt in prompts)


def errors(page) -> list[str]:
    """Text of the outputs that are errors."""
    return page.locator('[data-mime-type="application/vnd.jupyter.error"]').all_text_contents()


def keep(page, path: Path) -> None:
    """The window with the first figure in it."""
    figure = page.locator(".jp-RenderedImage img").first
    if figure.count():
        figure.scroll_into_view_if_needed()
    page.screenshot(path=path)
