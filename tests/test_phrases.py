"""Sentences that a run computes: what they say of the numbers that they are given."""

from types import SimpleNamespace

import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell

from helpers import phrases


def test_of_two_scores_the_higher_is_named_first_with_the_difference():
    assert phrases.versus("A", 0.5, "B", 0.25) == "A (0.500) is ahead of B (0.250) by 0.250"
    assert phrases.versus("A", 0.25, "B", 0.5) == "B (0.500) is ahead of A (0.250) by 0.250"


def test_scores_that_read_alike_are_level():
    assert phrases.versus("A", 0.5001, "B", 0.5) == "A and B are level at 0.500"


def test_models_come_in_the_order_of_their_scores_by_their_names_in_figures():
    assert phrases.in_order({"cca": 0.3, "mlp1": 0.5}) == "MLP1 0.500, Weighted CCA 0.300"


def test_the_best_setting_is_named_unless_all_rank_alike():
    assert phrases.peak({"p = 0": 0.2, "p = 1": 0.3}) == "p = 1 ranks best, with 0.300"
    assert phrases.peak({"p = 0": 0.2, "p = 1": 0.2}) == "all rank alike, at 0.200"


@pytest.mark.parametrize(
    ("names", "text"),
    [([], "none of the 2 networks"), (["mlp1"], "MLP1"), (["mlp1", "mlp2"], "all 2 networks")],
)
def test_how_many_of_some_models_do_something(names, text):
    assert phrases.several(names, ["mlp1", "mlp2"], "networks") == text


def test_of_one_model_alone_its_name_is_said():
    assert phrases.several(["mlp1"], ["mlp1"], "networks") == "MLP1"


@pytest.mark.parametrize(
    ("low", "says"), [(0.01, "the interval leaves out 0."), (-0.01, "these captions do not tell the two apart.")]
)
def test_a_lead_is_called_one_only_where_its_interval_leaves_out_zero(low, says):
    found = phrases.lead({"best": "cca", "model": "linear", "difference": 0.02, "low": low, "high": 0.04})
    assert found.startswith(f"Weighted CCA leads LinearProj by 0.020 ({low:.3f} to 0.040)") and found.endswith(says)


def test_lists_and_counts_are_english():
    assert phrases.listed("a") == "a"
    assert phrases.listed("ab") == "a and b"
    assert phrases.listed("abc") == "a, b and c"
    assert phrases.counted(1, "caption") == "1 caption"
    assert phrases.counted(2000, "caption") == "2,000 captions"
    assert phrases.counted(2, "box", "boxes") == "2 boxes"
    assert phrases.sentence("no test split") == "No test split."
    assert phrases.sentence("") == "."


def test_equal_lengths_have_no_spread():
    assert phrases.spread(np.full(4, 26.04)) == "26.0"
    assert phrases.spread(np.array([1.0, 3.0])) == "2.0 ± 1.0"


@pytest.mark.parametrize(
    ("blocks", "whitening", "text"),
    [
        (0, 0.0, "one hidden layer"),
        (0, 0.5, "one hidden layer, whitened"),
        (1, 0.0, "1 residual block"),
        (2, 0.5, "2 residual blocks, whitened"),
    ],
)
def test_networks_are_told_by_depth_and_whitening(blocks, whitening, text):
    assert phrases.kind({"blocks": blocks, "whitening": whitening}) == text


def test_what_the_folds_chose_is_said_in_words():
    flat = {"temperature": 0.03, "whitening": 0.0, "blocks": 0, "epochs": 1, "members": 1}
    made = SimpleNamespace(networks={"networks": flat}, weights={"networks": 1.0}, left_out=[])
    assert phrases.choice(made) == (
        "1 network of one hidden layer (temperature 0.03, 1 epoch); no closed form joins them"
    )
    deep = {"temperature": 0.1, "whitening": 0.5, "blocks": 2, "epochs": 4, "members": 3}
    made = SimpleNamespace(
        networks={"networks_blocks2_whitened50": deep, "networks": flat},
        weights={"networks_blocks2_whitened50": 0.3, "networks": 0.2, "kernel": 0.4, "cca": 0.1},
        left_out=["2 of 6 networks"],
    )
    assert phrases.choice(made) == (
        "3 networks of 2 residual blocks, whitened (temperature 0.1, 4 epochs) and 1 network of one hidden layer "
        "(temperature 0.03, 1 epoch); Kernel CCA with a weight of 0.4 and Weighted CCA with a weight of 0.1 join them; "
        "the budget left no time for 2 of 6 networks"
    )
    alone = SimpleNamespace(networks={"networks": deep}, weights={"networks": 0.5, "cca": 0.5}, left_out=[])
    assert phrases.choice(alone).endswith("; Weighted CCA with a weight of 0.5 joins them")


def test_a_table_has_a_line_a_model_and_a_dash_where_a_value_is_missing():
    rows = [{"model": "cca", "mrr": 0.25, "gpu": None}, {"model": "other", "mrr": 0.5}]
    table = phrases.table(rows, [("mrr", "MRR", ".3f"), ("gpu", "GPU ms", ".1f")])
    assert table.index.tolist() == ["Weighted CCA", "other"]
    assert table.to_numpy().tolist() == [["0.250", "–"], ["0.500", "–"]]
    assert "0x" not in table._repr_html_()  # no address, which would differ from run to run


def test_an_empty_table_keeps_its_headings():
    assert phrases.table([], [("mrr", "MRR", ".3f")]).columns.tolist() == ["MRR"]


def test_a_note_is_rendered_as_markdown(capsys):
    InteractiveShell.clear_instance()
    phrases.note("One.", "", "**Two.**")  # outside a notebook its name is all that is printed
    assert "Markdown" in capsys.readouterr().out
    phrases.note("")
    assert capsys.readouterr().out == ""
