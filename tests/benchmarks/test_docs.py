"""The documents on ablations and speed: their tables are those of the committed results, their links lead somewhere."""

from __future__ import annotations

import re

import pytest

from benchmarks import docs

DOCUMENTS = ("ablations", "speed")


def text_of(name: str) -> str:
    return (docs.FOLDER / f"{name}.md").read_text(encoding="utf-8")


def test_a_marked_table_is_replaced_and_nothing_else():
    text = "a\n<!-- table: one -->\nold\n<!-- end -->\nb\n<!-- table: two -->\n<!-- end -->\n"
    expected = "a\n<!-- table: one -->\n| 1 |\n<!-- end -->\nb\n<!-- table: two -->\n| 2 |\n<!-- end -->\n"
    assert docs.filled(text, {"one": "| 1 |", "two": "| 2 |"}) == expected
    with pytest.raises(KeyError, match="two"):
        docs.filled(text, {"one": "| 1 |"})


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_tables_are_those_of_the_committed_results(name):
    assert docs.filled(text_of(name), docs.all_tables()) == text_of(name)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere_and_commands_name_modules(name):
    for target in re.findall(r"\]\(([^)]+)\)", text_of(name)):
        assert (docs.FOLDER / target).exists(), target
    for module in re.findall(r"python -m (benchmarks\.\w+)", text_of(name)):
        assert (docs.FOLDER.parent / f"{module.replace('.', '/')}.py").exists(), module
