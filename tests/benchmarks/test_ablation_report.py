"""The stored results of the ablations as figures and tables."""

from __future__ import annotations

import json

import matplotlib.pyplot as plt
import pytest

from benchmarks.ablation import report


def comparison(words: str, difference: float, on: str = "reference") -> dict:
    low, high = difference - 0.01, difference + 0.01
    verdict = "helps" if low > 0 else "harms" if high < 0 else "not clear"
    return {"words": words, "on": on, "difference": difference, "low": low, "high": high, "verdict": verdict}


def result(name: str, images: int, epochs: int, rows: list[dict]) -> dict:
    claims = [{"says": row["words"] + " is claimed", "comparisons": [row]} for row in rows]
    sizes = {"seeds": 5, "epochs": epochs, "gallery": 809}
    return {"claims": claims, "data": {"name": name, "images": images}, **sizes}


LARGE = result(
    "large",
    8000,
    25,
    [
        comparison("little", 0.001),
        comparison("much", 0.1),
        comparison("bad", -0.1),
        comparison("form", 0.1, "closed_form_p_0"),
    ],
)
SMALL = result("small", 100, 25, [comparison("bad", 0.4), comparison("only here", 0.05)])


@pytest.fixture
def figure():
    yield report.effects_figure([LARGE, SMALL])
    plt.close("all")


SHORT = result("large", 8000, 8, [comparison("much", 0.05), comparison("form", 0.1, "closed_form_p_0")])
SHORT["order_agreement"] = {"epochs": 8, "full_epochs": 25, "spearman": 0.25, "comparisons": 7, "same_verdict": 5}


def test_results_come_largest_data_first_with_the_longest_training_of_each(tmp_path):
    fewer_seeds = LARGE | {"seeds": 2}
    for place, content in enumerate((SMALL, SHORT, fewer_seeds, LARGE)):
        (tmp_path / f"ablations_{place}.json").write_text(json.dumps(content))
    assert report.load(tmp_path) == [LARGE, SMALL]
    assert report.load_shortened(tmp_path) == [(SHORT, LARGE)]
    assert report.load(tmp_path / "nothing") == report.load_shortened(tmp_path / "nothing") == []


def test_order_figure_has_a_point_for_each_trained_comparison_of_both():
    (ax,) = report.order_figure(SHORT, LARGE).axes
    points = [line.get_xydata().tolist() for line in ax.lines if line.get_marker() != "None"]
    assert points == [[[0.1, 0.05]]]
    # The whole of both intervals, and 0, also where no difference is negative.
    assert ax.get_xlim() == ax.get_ylim() and ax.get_xlim()[0] <= 0 and ax.get_xlim()[1] > 0.11
    assert ax.get_xlabel().endswith("at 25 epochs") and ax.get_ylabel().endswith("at 8 epochs")
    plt.close("all")


def test_order_statement_says_what_was_compared():
    assert report.order_statement(SHORT) == (
        "large, 8 against 25 epochs: Spearman's correlation of the differences 0.25, 5 of 7 verdicts the same"
    )
    without = SHORT | {"order_agreement": SHORT["order_agreement"] | {"spearman": None}}
    assert "differences -, 5 of 7" in report.order_statement(without)


def test_figure_has_one_order_for_all_data_and_keeps_closed_forms_apart(figure):
    upper_left, upper_right, lower_left, _ = figure.axes
    # Means over the data sets: (-0.1 + 0.4) / 2 for `bad`.
    assert [tick.get_text() for tick in upper_left.get_yticklabels()] == ["bad", "much", "only here", "little"]
    assert [tick.get_text() for tick in lower_left.get_yticklabels()] == ["form"]
    assert len(upper_left.collections) == 3 and len(upper_right.collections) == 2
    assert [text.get_text() for text in upper_right.texts] == ["+0.4000", "+0.0500"]


def test_what_has_no_effect_is_hollow(figure):
    faces = {
        line.get_ydata()[0]: line.get_markerfacecolor() for line in figure.axes[0].lines if line.get_marker() != "None"
    }
    assert [place for place, face in faces.items() if face == "white"] == [3]


def test_table_names_every_claim_and_leaves_a_dash_where_nothing_was_measured():
    lines = report.table([LARGE, SMALL]).splitlines()
    assert lines[0] == "| claim | comparison | large | small |" and len(lines) == 2 + 5
    assert "| bad is claimed | bad | **-0.1000** (-0.1100 to -0.0900) | **+0.4000** (+0.3900 to +0.4100) |" in lines
    assert "| little is claimed | little | +0.0010 (-0.0090 to +0.0110) | - |" in lines


def test_caption_table_shows_who_gains_and_loses_most():
    moved = [{"caption": f"caption {n}", "rank_on": 9.4, "rank": float(n)} for n in range(5)]
    changes = {
        "gaining": 0.6,
        "losing": 0.25,
        "gain_most": moved,
        "lose_most": moved[4:],
    }
    row = comparison("a, not b", 0.1) | {"caption_changes": changes}
    lines = report.caption_table(result("large", 8000, 25, [comparison("much", 0.1), row]), shown=2).splitlines()
    assert lines[2:] == [
        "| a, not b | 60% gaining | caption 0 (9 to 0); caption 1 (9 to 1) |",
        "|  | 25% losing | caption 4 (9 to 4) |",
    ]


TURNED = {
    "seeds": 3,
    "turns": [
        {"turn": "as it is", "data": {"captions": 6000, "gallery": 120}, "claims": LARGE["claims"][:3]},
        {"turn": "linear", "data": {"captions": 600, "gallery": 12}, "claims": LARGE["claims"][2::-1]},
    ],
}


def test_turned_figure_has_a_cell_for_each_comparison_on_each_data_set():
    ax = report.turned_figure(TURNED).axes[0]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["little", "much", "bad"]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["as it is\n6,000 captions", "linear\n600 captions"]
    # The order of the first data set holds for all, and only what has an effect is filled.
    assert [text.get_text() for text in ax.texts] == ["+0.0010", "+0.1000", "-0.1000"] * 2
    assert [patch.get_xy() for patch in ax.patches] == [(-0.5, 0.5), (-0.5, 1.5), (0.5, 0.5), (0.5, 1.5)]
    plt.close("all")


def test_turned_table_is_read_back_as_it_was_stored(tmp_path):
    assert report.load_turned(tmp_path) is None
    (tmp_path / report.TURNED_NAME).write_text(json.dumps(TURNED))
    lines = report.turned_table(report.load_turned(tmp_path)).splitlines()
    assert lines[0] == "| comparison | as it is | linear |" and len(lines) == 2 + 3
    assert lines[2] == "| little | +0.0010 (-0.0090 to +0.0110) | +0.0010 (-0.0090 to +0.0110) |"
