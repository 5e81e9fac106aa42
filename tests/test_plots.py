"""Each figure draws from small data, on the axes it was given, with labels and without a warning."""

import warnings

import matplotlib

from helpers.system import paths

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from helpers import plots
from helpers.errors import ConfigError, DataError
from helpers.models import build
from helpers.training.plus_choice import Choice

rng = np.random.default_rng(0)
MRR = {
    "chance": 0.003,
    "least_squares": 0.52,
    "procrustes": 0.61,
    "cca": 0.63,
    "kernel": 0.65,
    "linear": 0.66,
    "mlp1": 0.70,
    "mlp2": 0.69,
    "bigjump": 0.78,
    "bigjump_plus": 0.82,
}
MODELS = tuple(MRR)
COST = dict(zip(MODELS, (None, 0.11, 0.11, 0.11, 0.9, 0.12, 0.21, 0.4, 0.13, 1.2), strict=True))
SIZE = dict(zip(MODELS, (0, 1.6e6, 1.6e6, 1.6e6, 7.7e6, 1.6e6, 2.6e6, 5.2e6, 1.9e6, 20e6), strict=True))
ROWS = [
    {
        "model": m,
        "mrr": MRR[m],
        "mrr_low": MRR[m] - 0.01,
        "mrr_high": MRR[m] + 0.01,
        "parameters": SIZE[m],
        "cpu_ms_per_query": COST[m],
    }
    for m in MODELS
]
EIGENVALUES = {name: np.arange(1, d + 1.0) ** -power for name, d, power in (("text", 100, 1.3), ("image", 150, 0.8))}
RANKS = {m: np.minimum(np.ceil(rng.lognormal(-3 * MRR[m] + 1.8, 1.8, 2000)), 2500) for m in MODELS[1:]}
HISTORY = [
    {"epoch": e, "mrr": 0.78 - 0.4 / e, "contrastive": 3 / e, "moments": 0.3 / e, "tau": 0.07 - e * 1e-3}
    for e in range(1, 26)
]
HISTORIES = {"mlp1": [{**row, "mrr": row["mrr"] - 0.05} for row in HISTORY], "bigjump": HISTORY}
COV = {"target": np.diag(EIGENVALUES["text"]), "least_squares": np.diag(EIGENVALUES["text"] ** 1.6)}
POWERS = np.linspace(0, 1, 11)
CURVES = [
    {"temperature": 0.03, "whitening": w, "blocks": blocks, "given_up": False, "mrr": [0.2, 0.4, 0.3 + w / 4]}
    for w, blocks in ((0.0, 0), (0.5, 0), (0.0, 1))
]
NETWORKS = {
    "networks": {"temperature": 0.03, "whitening": 0.0, "blocks": 0, "epochs": 2, "members": 1},
    "networks_whitened50": {"temperature": 0.03, "whitening": 0.5, "blocks": 0, "epochs": 3, "members": 2},
}
CHOICE = Choice(
    networks=NETWORKS,
    curves=CURVES,
    closed_forms={},
    alone={"networks_whitened50": 0.51, "networks": 0.5, "networks_blocks1": 0.4, "kernel": 0.52, "cca": 0.47},
    weights={"networks_whitened50": 0.25, "networks": 0.2, "kernel": 0.55},
    path=[{"added": "networks_whitened50", "mrr": 0.51}, {"added": "kernel", "mrr": 0.535}],
    left_out=[],
)

FIGURES = {
    "spectra": (EIGENVALUES,),
    "norms": ({"captions": rng.normal(10, 1, 500), "images": rng.normal(25.9, 2, 500)},),
    "split_scatter": (rng.normal(size=(800, 2)), rng.random(800) < 0.1),
    "captions_per_image": ([5] * 500 + [4] * 20 + [3],),
    "power_curve": (POWERS, 0.61 + 0.2 * POWERS - 0.29 * POWERS**2),
    "eps_curves": (
        np.geomspace(1e-5, 1, 6),
        {("procrustes", "captions"): np.linspace(0.5, 0.6, 6), ("other", "caption_means"): np.ones(6) * 0.4},
    ),
    "rank_cdf": (RANKS, 2500),
    "rank_histogram": (RANKS["bigjump"], 2500),
    "mean_and_covariance_match": (COV["target"], {"least_squares": COV["least_squares"], "procrustes": COV["target"]}),
    "training_curves": (HISTORIES, "mrr", {"procrustes": 0.61}),
    "loss_terms": (HISTORY, ["contrastive", "moments"]),
    "schedule": (HISTORY, "tau", "temperature tau (dimensionless)"),
    "difficulty": (rng.beta(3, 1, 300), "bigjump"),
    "cost_accuracy": (ROWS,),
    "leaderboard_bars": (ROWS,),
    "search_curves": (CURVES, NETWORKS.values()),
    "margins": ({"procrustes": rng.normal(size=60), "mlp1": rng.normal(size=60)},),
    "negative_shares": ({0.1: np.full(40, 1 / 40), 0.02: np.arange(40) / 780},),
    "cosines": ({"as they are": rng.uniform(0.5, 1, 200), "less the mean": rng.uniform(-0.5, 0.5, 200)},),
    "members_curve": ([0.3, 0.35, 0.36], [0.3, 0.29, 0.31]),
    "gallery_curves": ([2, 10, 100], {"chance": [0.75, 0.3, 0.05], "bigjump": [0.99, 0.9, 0.7]}),
    "blend": (CHOICE,),
}


@pytest.fixture
def ax():
    with matplotlib.rc_context():
        plots.use_style()
        yield Figure().subplots()


@pytest.mark.parametrize("name", FIGURES)
def test_draws_on_the_given_axes_with_labels_and_no_warning(name, ax):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert getattr(plots, name)(ax, *FIGURES[name]) is ax
        ax.figure.canvas.draw()
    assert ax.get_xlabel() and ax.get_ylabel()
    assert ax.has_data()
    if len(ax.get_legend_handles_labels()[1]) > 1:
        assert ax.get_legend() is not None


def test_the_point_of_each_chosen_kind_is_ringed_and_named_once(ax):
    plots.search_curves(ax, CURVES, NETWORKS.values())
    rings = [line for line in ax.lines if line.get_markerfacecolor() == "none"]
    assert [(*ring.get_xdata(), *ring.get_ydata()) for ring in rings] == [(2, 0.4), (3, 0.425)]
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert sorted(texts) == [
        "chosen",
        "temperature 0.03, 1 residual block",
        "temperature 0.03, one hidden layer",
        "temperature 0.03, one hidden layer, whitened",
    ]


def test_each_part_of_the_ensemble_has_a_bar_with_its_weight_and_the_mean_one_of_its_own(ax):
    plots.blend(ax, CHOICE)
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        "one hidden layer, whitened, weight 0.25",
        "one hidden layer, weight 0.20",
        "1 residual block, weight 0.00",
        "Kernel CCA, weight 0.55",
        "Weighted CCA, weight 0.00",
        "together",
    ]
    assert [bar.get_width() for bar in ax.patches] == [*CHOICE.alone.values(), 0.535]


def test_labels_of_cost_accuracy_do_not_overlap(ax):
    plots.cost_accuracy(ax, ROWS)
    ax.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert len(boxes) == len(MODELS) - 1  # chance has no cost
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


class Squares:
    """Pictures of one colour each; that of row 1 cannot be read."""

    def image(self, row):
        if row == 1:
            raise DataError("no picture")
        return Image.new("RGB", (400, 300), (60 * row, 0, 0))


@pytest.mark.parametrize("pictures", [None, Squares()])
def test_images_stand_above_their_captions_by_picture_or_by_name(pictures):
    fig = plots.captioned(pictures, [2, 1], ["two.jpg", "a/one.jpg"], [["costs $2", "b"], ["c"]])
    drawn = ["one"] if pictures else ["two", "one"]
    assert [text.get_text() for ax in fig.axes for text in ax.texts] == drawn
    assert [ax.get_title(loc="left") for ax in fig.axes] == ["costs \\$2\nb", "c"]
    fig.canvas.draw()
    plt.close(fig)


def test_the_right_image_is_framed_among_the_hits_and_the_meant_one_stands_first():
    names = [f"{row}.jpg" for row in range(4)]
    fig = plots.search_results(Squares(), names, ["a query"], [[3, 2]], [2], [2.0])
    meant, first, second = fig.axes
    assert [len(ax.images) for ax in fig.axes] == [1, 1, 1]
    assert meant.get_xlabel() == "meant" and "a query" in meant.get_title(loc="left")
    assert second.spines["left"].get_linewidth() > first.spines["left"].get_linewidth()
    fig.canvas.draw()
    plt.close(fig)


def test_fewer_hits_than_columns_leave_a_gap():
    fig = plots.search_results(None, ["a", "b"], ["q", "r"], [[0, 1], [1]], [0, 1], [1.0, 1.0])
    assert [ax.axison for ax in fig.axes] == [True] * 5 + [False]
    plt.close(fig)


def test_panels_stand_side_by_side(monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: None)
    plots.show((plots.members_curve, [0.1], [0.1]), (plots.rank_cdf, RANKS, 2500))
    assert len(plt.gcf().axes) == 2
    plt.close()


def test_effective_rank_of_a_flat_spectrum_is_its_length(ax):
    plots.spectra(ax, {"flat": np.ones(40)})
    assert "effective rank 40 of 40" in ax.get_legend().get_texts()[0].get_text()


def test_rank_cdf_at_one_is_recall_at_one_and_ends_at_one(ax):
    plots.rank_cdf(ax, {"bigjump": np.array([1, 1, 3, 10])}, 10)
    shares = ax.lines[0].get_ydata()
    assert (shares[0], shares[-1]) == (0.5, 1.0)


def test_rank_histogram_loses_no_query(ax):
    plots.rank_histogram(ax, np.array([1, 2, 50, 100]), 100)
    assert sum(bar.get_height() for bar in ax.patches) == pytest.approx(100)


def test_no_two_models_share_a_colour_or_a_label():
    assert set(plots.MODEL_COLOURS) <= set(plots.MODEL_LABELS) == set(plots.MODEL_LINES) == set(build.MODEL_ROWS)
    for looks in (plots.MODEL_COLOURS, plots.MODEL_LABELS):
        assert len(set(looks.values())) == len(looks)


def test_a_model_without_a_colour_is_drawn_all_the_same(ax, monkeypatch):
    monkeypatch.delitem(plots.MODEL_COLOURS, "mlp1")
    plots.leaderboard_bars(ax, ROWS)
    assert len(ax.patches) == len(MODELS)


def test_save_figure_writes_the_same_bytes_twice_and_nothing_else(ax, tmp_path):
    plots.leaderboard_bars(ax, ROWS)
    first = plots.save_figure(ax.figure, "bars", tmp_path).read_bytes()
    path = plots.save_figure(ax.figure, "bars", tmp_path)
    assert path == tmp_path / "bars.png" and path.read_bytes() == first
    assert b"Software" not in first
    assert list(tmp_path.iterdir()) == [path]


def test_save_figure_goes_to_the_figures_folder_and_refuses_a_path(ax, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "FIGURES_DIR", tmp_path)
    ax.plot([1, 2])
    assert plots.save_figure(ax.figure, "line").parent == tmp_path
    with pytest.raises(ConfigError):
        plots.save_figure(ax.figure, "../line")


def test_a_key_that_no_epoch_has_is_an_error_rather_than_an_empty_figure(ax):
    with pytest.raises(ConfigError):
        plots.training_curves(ax, HISTORIES, "mmr")


def test_the_rate_of_the_map_is_dotted_where_it_counts():
    history = [{"epoch": e, "lr_geometry": 1e-5, "geometry_free": e in (3, 4)} for e in range(1, 7)]
    ax = plots.schedule(Figure().subplots(), history, "lr_geometry", "learning rate, A")
    assert ax.lines[-1].get_xdata().tolist() == [3, 4] and ax.get_legend() is not None


def test_captions_of_unit_length_leave_the_images_visible(ax):
    rng = np.random.default_rng(0)
    plots.norms(ax, {"captions": 1 + 1e-7 * rng.normal(size=500), "images": rng.normal(25.9, 2, 500)})
    bars = [patch for patch in ax.collections + ax.patches if patch.get_visible()]
    assert bars and ax.get_xlim()[1] < 40 and 1 < ax.get_ylim()[1] < 100
    assert "captions (all 1)" in [text.get_text() for text in ax.get_legend().get_texts()]
