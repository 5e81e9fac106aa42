"""The pages that people read: links, commands, names of modules, tables, and how long the README may be."""

from __future__ import annotations

import ast
import importlib
import re
import shlex

import papermill
import pytest

from benchmarks import ablations, accuracy, docs
from helpers.runs import parameters, series

ROOT = docs.ROOT
PAGES = {str(page.relative_to(ROOT)): page for page in (*docs.PAGES, ROOT / "data" / "README.md")}
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PARSERS = {"benchmarks.accuracy": accuracy.parse, "benchmarks.ablations": ablations.parse}


def text_of(page: str) -> str:
    return PAGES[page].read_text(encoding="utf-8")


def anchors(text: str) -> set[str]:
    """The names by which links reach the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(text: str, module: str) -> list[tuple[str, list[str]]]:
    """Every `python -m module` of a text, or of a package's modules: the module and its arguments."""
    joined = text.replace("\\\n", " ")
    found = re.findall(rf"python -m ({module}[.\w]*)([^\n`;)]*)", joined)
    return [(name, shlex.split(arguments.replace(" N ", " 1000 "), comments=True)) for name, arguments in found]


def code(text: str) -> str:
    """The Python of a page."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))


def test_the_readme_fits_on_a_screen():
    text = text_of("README.md")
    assert len(text.splitlines()) <= 120
    assert len(re.findall(r"(?<![\w.])\d[\d,.]*", text)) <= 60
    assert max(map(len, text.splitlines())) <= 300


def test_the_tables_are_those_of_the_committed_results():
    tables = docs.all_tables()
    stale = [name for name in PAGES if docs.filled(text_of(name), tables) != text_of(name)]
    assert stale == [], "run `make tables`"


def test_every_table_stands_on_one_page():
    named = [name for page in PAGES for name in re.findall(r"<!-- table: (\w+) -->", text_of(page))]
    assert sorted(named) == sorted(docs.all_tables())


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = text_of(page)
    targets = [*re.findall(r"\]\(([^)]+)\)", text), *re.findall(r'src="([^"]+)"', text)]
    for target in (target for target in targets if not target.startswith("https://")):
        path, _, anchor = target.partition("#")
        found = (PAGES[page].parent / path) if path else PAGES[page]
        assert found.exists(), target
        assert not anchor or anchor in anchors(found.read_text(encoding="utf-8")), target


@pytest.mark.parametrize("page", PAGES)
def test_files_and_modules_that_a_page_names_exist(page):
    text = text_of(page)
    for path in re.findall(r"`((?:helpers|benchmarks|tests|docs|notebooks|figures)/[\w/.-]*)`", text):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"`(helpers\.[\w.]+)`", text):
        module, _, name = path.rpartition(".")
        assert module_file(path) or hasattr(importlib.import_module(module), name), path


def module_file(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").exists()


@pytest.mark.parametrize("page", PAGES)
def test_python_of_a_page_is_python_and_imports_what_there_is(page):
    for node in ast.walk(ast.parse(code(text_of(page)))):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


def test_commands_of_the_benchmarks_are_accepted_by_their_programs():
    notebooks = [path.read_text(encoding="utf-8").replace("\\n", "\n") for path in NOTEBOOKS]
    seen = set()
    for text in (*map(text_of, PAGES), *notebooks):
        for module, arguments in commands(text, "benchmarks"):
            assert (ROOT / f"{module.replace('.', '/')}.py").exists(), module
            if module in PARSERS and arguments:
                PARSERS[module](arguments)  # exits where it does not know an option
                seen.add(module)
    assert seen == set(PARSERS)


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_the_series_name_flags_and_settings_that_there_are(page):
    for _, arguments in commands(text_of(page), "helpers.series"):
        options = series.parse_arguments(arguments)
        parameters.deal(series.given_parameters(options), parameters.notebooks(options.only))


def test_papermill_commands_name_a_notebook_and_its_parameters():
    found = re.findall(r"^papermill (notebooks/\S+) \S+ (.+)$", "\n".join(map(text_of, PAGES)), re.MULTILINE)
    assert found
    for notebook, arguments in found:
        given = set(re.findall(r"(?:-p |-y \")(\w+)", arguments))
        assert given <= set(papermill.inspect_notebook(str(ROOT / notebook))), notebook


def test_the_readme_names_every_notebook():
    assert [path.stem[:2] for path in NOTEBOOKS] == re.findall(r"^\| \[(\d\d)", text_of("README.md"), re.MULTILINE)


def test_pages_are_where_the_readme_says():
    linked = re.findall(r"\]\((docs/\w+\.md)\)", text_of("README.md"))
    assert set(linked) == {str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")}
