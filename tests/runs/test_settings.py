"""Settings: what is refused, where paths lead, and that the notebooks' parameters are the defaults written here."""

import ast
import json
import os
import re
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from helpers.errors import ConfigError
from helpers.evaluation.settings import EvaluationConfig
from helpers.models.geometry import GeometryConfig
from helpers.runs.settings import RunConfig
from helpers.system import paths
from helpers.system.settings import as_dict
from helpers.training.objectives import BaselineConfig, BigJumpConfig
from helpers.training.settings import OptimiserConfig, PlusConfig

NAN = float("nan")
INF = float("inf")
POSITIVE, SHARE = (0, -1, NAN, INF), (-0.1, 1.0, NAN)
NOT_NEGATIVE = (-1, NAN, INF)
WHOLE = (0.5, 8.0, True, "8", 2**63)
COUNT, NATURAL = (*POSITIVE, *WHOLE), (*NOT_NEGATIVE, *WHOLE)
OPTIMISER = {
    "epochs": COUNT,
    "batch_size": COUNT,
    "learning_rate": POSITIVE,
    "clip_norm": POSITIVE,
    "captions_per_image": COUNT,
    "weight_decay": NOT_NEGATIVE,
    "warmup_epochs": NOT_NEGATIVE,
    "seed": NATURAL,
    "final_lr_ratio": (-0.1, 1.1, NAN),
}
REFUSED = {
    RunConfig: {
        "profile": ("", "Demo", "real"),
        "run": ("", "..", "a/b", ".a", "r" * 201, 2024, os.fsdecode(b"caf\xe9")),
        "data_dir": (2024, os.fsdecode(b"caf\xe9")),
        "text_dim": COUNT,
        "image_dim": COUNT,
        "split": ("", "given", 1),
        "val_ratio": (0, 1, -0.1, 1.5, NAN),
        "test_ratio": SHARE,
        "split_seed": NATURAL,
    },
    GeometryConfig: {"eps": (*POSITIVE, "fast"), "fit_on": ("", "images", "caption_mean")},
    OptimiserConfig: OPTIMISER,
    BaselineConfig: OPTIMISER
    | {
        "hidden": COUNT,
        "temperature": POSITIVE,
        "dropout": SHARE,
        "cosine_weight": NOT_NEGATIVE,
        "mse_weight": NOT_NEGATIVE,
        "moment_weight": NOT_NEGATIVE,
        "infonce_weight": NOT_NEGATIVE,
    },
    BigJumpConfig: OPTIMISER
    | {
        "hidden": COUNT,
        "queue_size": COUNT,
        "temperature_start": POSITIVE,
        "temperature_end": POSITIVE,
        "dropout": SHARE,
        "geometry_lr_ratio": NOT_NEGATIVE,
        "unfreeze_epoch": NATURAL,
        "refreeze_drop": NOT_NEGATIVE,
        "infonce_weight": NOT_NEGATIVE,
        "cosine_weight": NOT_NEGATIVE,
        "moment_weight": NOT_NEGATIVE,
        "agreement_weight": NOT_NEGATIVE,
        "queue_schedule": ((), (0, -1), (65537,), [0, 65536, 70000], ["a"], [1.5], [True]),
    },
    PlusConfig: OPTIMISER
    | {
        "hidden": COUNT,
        "members": COUNT,
        "max_parameters": COUNT,
        "average_power": POSITIVE,
        "longer": POSITIVE,
        "basis_share": (*POSITIVE, 1.1),
        "negative_share": (*POSITIVE, 1.1),
        "fold_images": COUNT,
        "patience": COUNT,
        "dropout": SHARE,
        "fold_ratio": (0, 1.0, -0.1, NAN),
        "temperatures": ((), (0,), (-0.1, 0.1), (0.2, 0.1), (NAN,)),
        "whitenings": ((), (-0.1, 0.1), (0.5, 0.0), (0.0, 1.1), (NAN,)),
        "blocks": ((), (-1, 1), (1, 0), (0.5,)),
        "closed_forms": (("mlp1",), "cca"),
        "landmarks": COUNT,
        "budget": POSITIVE,
    },
    EvaluationConfig: {
        "bootstrap_samples": COUNT,
        "gallery_size": COUNT,
        "gallery_rounds": COUNT,
        "latency_repeats": COUNT,
        "seed": NATURAL,
    },
}
CASES = [(kind, name, value) for kind, table in REFUSED.items() for name, values in table.items() for value in values]


@pytest.mark.parametrize(("kind", "name", "value"), CASES)
def test_a_bad_value_is_refused_by_name(kind, name, value):
    with pytest.raises(ConfigError, match=f"^{name} = "):
        kind(**{name: value})


@pytest.mark.parametrize("value", ["false", "no", 0, None])
def test_switches_take_truth_values_alone(value):
    """Papermill hands over text where it knows no value, and text is true."""
    for kind, name in (
        (RunConfig, "group_duplicates"),
        (BaselineConfig, "mixed_precision"),
        (BigJumpConfig, "exclude_same_text"),
        (PlusConfig, "exclude_same_text"),
    ):
        with pytest.raises(ConfigError, match=f"^{name} = {value!r}: input should be a valid boolean"):
            kind(**{name: value})


@pytest.mark.parametrize(("kind", "name"), [(RunConfig, "test_ratio"), (BigJumpConfig, "learning_rate")])
def test_text_where_a_number_is_needed_is_refused_by_name(kind, name):
    for value in ("fast", None, True):
        with pytest.raises(ConfigError, match=f"^{name} = {value!r}: input should be a valid number"):
            kind(**{name: value})


UNCHECKED = {"mixed_precision", "group_duplicates", "exclude_same_text"}  # switches, checked above


@pytest.mark.parametrize("kind", REFUSED)
def test_no_setting_is_left_unchecked(kind):
    assert {field.name for field in fields(kind)} - UNCHECKED == set(REFUSED[kind])


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (RunConfig, {"split_seed": 0, "val_ratio": 0.999, "text_dim": 1}),
        (RunConfig, {"test_ratio": 0.0, "group_duplicates": True}),
        (RunConfig, {"test_ratio": 0.999}),
        (GeometryConfig, {"eps": 1e-12, "fit_on": "caption_means"}),
        (BaselineConfig, {"warmup_epochs": 0, "weight_decay": 0, "final_lr_ratio": 1, "dropout": 0, "seed": 0}),
        (BaselineConfig, {"cosine_weight": 0, "mse_weight": 0, "moment_weight": 0, "infonce_weight": 3}),
        (BigJumpConfig, {"unfreeze_epoch": 0, "refreeze_drop": 0, "geometry_lr_ratio": 0, "final_lr_ratio": 0}),
        (BigJumpConfig, {"queue_size": 1, "queue_schedule": (0, 1)}),
        (BigJumpConfig, {"temperature_start": 0.05, "temperature_end": 0.2, "captions_per_image": 5}),
        (EvaluationConfig, {"bootstrap_samples": 1, "gallery_size": 1, "gallery_rounds": 1, "seed": 0}),
    ],
)
def test_values_at_the_edge_are_taken(kind, values):
    made = kind(**values)
    assert {name: getattr(made, name) for name in values} == values


@pytest.mark.parametrize("kind", REFUSED)
def test_settings_are_frozen_and_become_json(kind):
    made = kind()
    name = fields(kind)[0].name
    with pytest.raises(FrozenInstanceError):
        setattr(made, name, getattr(made, name))
    values = json.loads(json.dumps(as_dict(made), allow_nan=False))
    assert list(values) == [field.name for field in fields(kind)]
    assert kind(**values) == made


def test_sizes_from_a_list_become_a_tuple_and_paths_become_text():
    assert BigJumpConfig(queue_schedule=[0, 5]).queue_schedule == (0, 5)
    assert as_dict(BigJumpConfig(queue_schedule=(0, 5)))["queue_schedule"] == [0, 5]
    assert as_dict(RunConfig(data_dir=Path("a") / "b"))["data_dir"] == str(Path("a") / "b")


@pytest.mark.parametrize("run", ["", ".", "..", "a/b", "/a", "a/", "../a", "./a", ".hidden", ".cache"])
def test_a_run_is_named_by_one_visible_folder(run):
    with pytest.raises(ConfigError, match="a plain folder name is needed"):
        RunConfig(run=run)


def test_a_run_lies_below_the_folder_of_runs(monkeypatch, tmp_path):
    monkeypatch.setenv("HELPERS_RUNS_DIR", str(tmp_path / "elsewhere"))
    assert paths.runs_dir() == (tmp_path / "elsewhere").resolve()
    assert paths.cache_dir() == paths.runs_dir() / ".cache"
    assert RunConfig().run_dir == paths.runs_dir() / "demo"
    assert RunConfig(profile="challenge").run_dir == paths.runs_dir() / "challenge"
    assert RunConfig(run="run 1.b-c").run_dir == paths.runs_dir() / "run 1.b-c"
    for unset in ("", None):
        if unset is None:
            monkeypatch.delenv("HELPERS_RUNS_DIR")
        else:
            monkeypatch.setenv("HELPERS_RUNS_DIR", unset)
        assert paths.runs_dir() == paths.PROJECT_ROOT / "runs"


def test_data_lie_by_default_in_the_folder_of_the_profile():
    assert RunConfig().data_path == paths.PROJECT_ROOT / "data" / "emoji"
    assert RunConfig("challenge").data_path == paths.PROJECT_ROOT / "data" / "challenge"


def test_a_relative_data_dir_is_taken_from_here_and_then_from_the_project(monkeypatch, tmp_path):
    here, project = tmp_path / "here", tmp_path / "project"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(paths, "PROJECT_ROOT", project)
    settings = RunConfig(data_dir="mine/set")
    assert settings.data_path == here / "mine" / "set"  # in neither place: an error may name this one
    (project / "mine" / "set").mkdir(parents=True)
    assert settings.data_path == project / "mine" / "set"
    (here / "mine" / "set").mkdir(parents=True)
    assert settings.data_path == here / "mine" / "set"
    assert RunConfig(data_dir=Path("mine/set")).data_path == here / "mine" / "set"


def test_an_absolute_data_dir_and_one_at_home_stay_as_they_are(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert RunConfig(data_dir=str(tmp_path / "a")).data_path == tmp_path / "a"
    assert RunConfig(data_dir="~/a").data_path == tmp_path / "a"


NOTEBOOKS = sorted(paths.NOTEBOOKS_DIR.glob("*.ipynb"))
SETTINGS_OF = {"01": (), "02": (GeometryConfig,), "03": (BaselineConfig,), "04": (BigJumpConfig,),
               "05": (EvaluationConfig,)}  # fmt: skip


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def parameters_cells(path):
    tagged = [cell for cell in read(path)["cells"] if "parameters" in cell["metadata"].get("tags", ())]
    return ["".join(cell["source"]) for cell in tagged]


def parameters_of(path):
    """Names and values that the parameters cell assigns."""
    (source,) = parameters_cells(path)
    return {node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(source).body}


def defaults_of(path):
    """Names and defaults of the settings that a notebook is made from, as JSON values."""
    kinds = (RunConfig, *SETTINGS_OF[path.name[:2]])
    return {name: value for kind in kinds for name, value in as_dict(kind()).items()}


def test_there_are_five_notebooks_in_order():
    assert [path.name[:2] for path in NOTEBOOKS] == list(SETTINGS_OF)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_one_cell_holds_the_parameters_and_nothing_but_literals(path):
    (source,) = parameters_cells(path)
    for node in ast.parse(source).body:
        assert isinstance(node, ast.Assign), ast.unparse(node)
        assert [type(target) for target in node.targets] == [ast.Name], ast.unparse(node)
        ast.literal_eval(node.value)  # raises for all that is derived
    names = [node.targets[0].id for node in ast.parse(source).body]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_parameters_are_the_defaults_of_the_settings(path):
    defaults = defaults_of(path)
    found = {name: value for name, value in parameters_of(path).items() if name in defaults}
    assert {name: repr(value) for name, value in found.items()} == {name: repr(defaults[name]) for name in found}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_at_most_twelve_parameters_stand_in_a_notebook_and_the_rest_is_an_override(path):
    found = parameters_of(path)
    assert len(found) <= 12 and found["overrides"] == {}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_parameter_is_used(path):
    code = ["".join(cell["source"]) for cell in read(path)["cells"] if cell["cell_type"] == "code"]
    names = [
        node.id
        for text in code
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    ]
    assert set(parameters_of(path)) - set(names) == set()


def texts(value):
    """Every text in a notebook's JSON but pictures, which are base64."""
    if isinstance(value, dict):
        return [text for key, part in value.items() if not key.startswith("image/") for text in texts(part)]
    if isinstance(value, list):
        return [text for part in value for text in texts(part)]
    return [value] if isinstance(value, str) else []


ABSOLUTE = re.compile(r"(?<![\w.~:/<*-])/\w[\w.-]*/[\w./-]*|\b[A-Z]:[\\/]\w|~/\w|file://")


@pytest.mark.parametrize("text", ["/home/a/b", "open('/tmp/x')", "C:\\Users", "~/data", "see file:///a", '"/opt/a"'])
def test_an_absolute_path_would_be_seen(text):
    assert ABSOLUTE.search(text)


@pytest.mark.parametrize("text", ["data/demo/train.npz", "runs/<run>/x", "https://a.org/b/c", "1 / 2 / 3", "../data/x"])
def test_other_slashes_are_no_absolute_path(text):
    assert not ABSOLUTE.search(text)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_kernel_is_any_python_and_no_path_is_absolute(path):
    notebook = read(path)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert [text for text in texts(notebook) if ABSOLUTE.search(text)] == []


def test_a_number_that_yaml_takes_for_text_is_said_to_be_one():
    with pytest.raises(ConfigError, match=r"learning_rate = '1e-3': .*YAML takes it for text: write 0\.001"):
        BaselineConfig(learning_rate="1e-3")
