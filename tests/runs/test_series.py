"""The series: which notebooks run, which parameters they get, and what is said when something is wrong."""

import json
import os
import re
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from helpers.data.synthetic import write_synthetic
from helpers.errors import ConfigError
from helpers.evaluation.settings import EvaluationConfig
from helpers.models.geometry import GeometryConfig
from helpers.runs import series
from helpers.runs.parameters import check, deal, notebooks, parse_value
from helpers.runs.run import Run, open_run
from helpers.runs.series import TrainingProgress, main
from helpers.runs.settings import RunConfig
from helpers.system import paths
from helpers.system.settings import as_dict
from helpers.training.objectives import BaselineConfig, BigJumpConfig

RUN_PARAMETERS = 'profile = "demo"\nrun = None  # a comment\ndata_dir = None\noverrides = {}\n'


def write_notebook(path, parameters, *cells):
    """A notebook whose first cell holds the parameters, with more of them than those of a run."""
    first = new_code_cell(RUN_PARAMETERS + parameters, metadata={"tags": ["parameters"]})
    notebook = new_notebook(cells=[first, *(new_code_cell(cell) for cell in cells)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)
    return path


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """The folder that would hold the runs; nothing has made it."""
    monkeypatch.setenv("HELPERS_RUNS_DIR", str(tmp_path / "runs"))
    return tmp_path / "runs"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder in place of the notebooks'."""
    made = tmp_path / "notebooks"
    made.mkdir()
    monkeypatch.setattr(paths, "NOTEBOOKS_DIR", made)
    return made


@pytest.fixture
def dry(monkeypatch):
    """Notebooks are not executed but noted: (name, output, parameters); no data are read."""
    executed = []
    monkeypatch.setattr(series, "read_inputs", lambda config: Run(config, None, None))
    monkeypatch.setattr(series, "run_notebook", lambda path, output, given: executed.append((path.name, output, given)))
    return executed


def test_notebooks_come_in_order_or_alone(folder):
    for name in ("03_c.ipynb", "01_a.ipynb", "02_b.ipynb", "scratch.ipynb", "01_a.py"):
        (folder / name).touch()
    assert [path.name for path in notebooks()] == ["01_a.ipynb", "02_b.ipynb", "03_c.ipynb"]
    assert [path.name for path in notebooks(only="02")] == ["02_b.ipynb"]
    assert [path.name for path in notebooks(only="03_c")] == ["03_c.ipynb"]
    with pytest.raises(ConfigError, match="--only 04: 0 notebooks begin so, not one. There are: 01_a, 02_b, 03_c"):
        notebooks(only="04")


def test_the_project_has_five_notebooks():
    assert [path.name[:2] for path in notebooks()] == ["01", "02", "03", "04", "05"]


def test_a_notebook_is_given_its_parameters_by_name_and_other_settings_of_its_stage_as_overrides():
    given = {"epochs": 4, "hidden": 8, "eps": 0.2, "run": "a", "text_dim": 384}
    first, second, third, fourth, fifth = deal(given, notebooks()).values()
    assert first == {"run": "a", "overrides": {"text_dim": 384}}
    assert second == {"run": "a", "eps": 0.2, "overrides": {"text_dim": 384}}
    assert third == fourth == {"run": "a", "epochs": 4, "overrides": {"hidden": 8, "text_dim": 384}}
    assert fifth == {"run": "a", "overrides": {"text_dim": 384}}
    assert list(deal({}, notebooks()).values()) == [{}] * 5


@pytest.mark.parametrize("kind", [RunConfig, GeometryConfig, BaselineConfig, BigJumpConfig, EvaluationConfig])
def test_every_setting_of_a_stage_can_be_given_by_its_name(kind):
    for name, value in as_dict(kind()).items():
        dealt = deal({name: value}, notebooks())
        assert any(given.get(name, given.get("overrides", {}).get(name)) == value for given in dealt.values()), name
        check(dealt)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("epoch", "Did you mean 'epochs'"), ("fit", "Did you mean 'fit_on'"), ("zzz", "Known: agre")],
)
def test_an_unknown_name_is_an_error_with_a_suggestion(name, hint):
    with pytest.raises(ConfigError, match=f"Unknown setting '{name}'.*{hint}") as caught:
        deal({name: 1}, notebooks())
    assert ("Did you mean" in str(caught.value)) == hint.startswith("Did")


def test_plain_papermill_hears_of_an_unknown_override_too():
    with pytest.raises(ConfigError, match="Unknown setting 'epoch'. Did you mean 'epochs'"):
        open_run({"epoch": 3}, profile="demo")


def test_a_parameter_that_only_other_notebooks_have_is_an_error():
    with pytest.raises(ConfigError, match="Unknown setting 'eps'"):
        deal({"eps": 0.2}, notebooks(only="03"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 2.5),
        ("epochs", "2"),
        ("epochs", True),
        ("epochs", None),
        ("learning_rate", "fast"),
        ("learning_rate", False),
        ("mixed_precision", 1),
        ("mixed_precision", "yes"),
        ("queue_schedule", 5),
        ("queue_schedule", "0,5"),
        ("fit_on", 3),
        ("fit_on", None),
        ("resume", "yes"),
        ("plus_settings", [4]),
        ("budget", "30 minutes"),
        ("budget", -1),
    ],
)
def test_a_value_of_another_type_is_an_error(name, value):
    with pytest.raises(ConfigError, match=re.escape(f"{name} = {value!r}")):
        check(deal({name: value}, notebooks()))


@pytest.mark.parametrize(
    ("name", "value"),
    [("epochs", 2), ("learning_rate", 1), ("mixed_precision", False), ("queue_schedule", [1]), ("run", "a"),
     ("budget", 30), ("budget", None)],
)  # fmt: skip
def test_a_value_of_the_right_type_is_taken(name, value):
    check(deal({name: value}, notebooks()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"members": 4.5}, "members = 4.5"),
        ({"member": 4}, "Unknown setting 'member'. Did you mean 'members'"),
        ({4: 4}, "plus_settings = {4: 4}: give a dict"),
    ],
)
def test_a_bad_setting_of_plus_is_an_error_before_anything_runs(settings, message):
    check(deal({"plus_settings": {"members": 4}, "epochs": 5}, notebooks()))
    with pytest.raises(ConfigError, match=message):
        check(deal({"plus_settings": settings}, notebooks()))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("25", 25),
        ("2e-4", 2e-4),
        ("-1", -1),
        ("True", True),
        ("true", True),
        ("FALSE", False),
        ("none", None),
        ("None", None),
        ("[0, 5]", [0, 5]),
        ("'25'", "25"),
        ("caption_means", "caption_means"),
        ("a/b c", "a/b c"),
        ("__import__('os')", "__import__('os')"),
        ("", ""),
    ],
)
def test_values_are_literals_or_the_text_itself(text, value):
    found = parse_value(text)
    assert (found, type(found)) == (value, type(value))


def test_training_progress_shows_the_newest_line():
    shown = []
    progress = TrainingProgress(SimpleNamespace(set_description_str=shown.append, disable=False))
    for text in ("\r 10%|#", "one\ntwo\n", "\r", "", "\x1b[A\n" + "x" * 200):
        progress.write(text)
    progress.flush()
    assert shown[:2] == ["10%|#", "two"]
    assert len(shown) == 3 and len(shown[2]) <= 110


def test_a_log_hears_of_a_training_now_and_then(capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(series.time, "monotonic", lambda: clock[0])
    progress = TrainingProgress(SimpleNamespace(set_description_str=lambda _: None, disable=True))
    for second in range(0, 100, 5):
        clock[0] = second
        progress.write(f"\rbigjump: {second}%|###")
    assert capsys.readouterr().err.splitlines() == [f"bigjump: {second}%|###" for second in (30, 60, 90)]


BAD = [
    (["-p", "epoch", "3"], "Unknown setting 'epoch'. Did you mean 'epochs'"),
    (["-p", "epochs", "many"], "epochs = 'many': input should be a valid integer"),
    (["-p", "epochs", "2.5"], "epochs = 2.5"),
    (["-p", "split_seed", "1.5"], "split_seed = 1.5"),
    (["-p", "text_dim", "wide"], "text_dim = 'wide'"),
    (["-p", "val_ratio", "none"], "val_ratio = None"),
    (["-p", "val_ratio", "1.5"], "val_ratio = 1.5: input should be less than 1"),
    (["-p", "test_ratio", "-0.1"], "test_ratio = -0.1: input should be greater than or equal to 0"),
    (["-p", "group_duplicates", "1"], "group_duplicates = 1: input should be a valid boolean"),
    (["-p", "run", "a"], "-p run: use --run instead"),
    (["-p", "data_dir", "a"], "-p data_dir: use --data-dir instead"),
    (["--run", "../a"], "run = '../a': a plain folder name is needed"),
    (["--only", "09"], "--only 09: 0 notebooks begin so, not one. There are: 01_"),
    (["--only", "0"], "--only 0: 5 notebooks begin so"),
    (["--only", ""], "--only : 5 notebooks begin so"),
    (["-p", "plus_settings", "{[1]: 2}"], "plus_settings = '{[1]: 2}': give a dict"),
    (["-p", "seed", str(2**63)], f"seed = {2**63}: input should be less than"),
    (["--data-dir", os.fsdecode(b"caf\xe9")], "data_dir = "),
    (["--verify", ""], "run = '': a plain folder name is needed"),
    (["--only", "02", "-p", "epochs", "3"], "Unknown setting 'epochs'"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_a_bad_parameter_is_said_before_anything_is_written(runs, dry, capsys, arguments, message):
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ") and message in said.err and said.out == ""
    assert not runs.exists() and dry == []


def test_an_unknown_profile_or_option_is_said_by_the_command_line(runs, dry, capsys):
    beside_verify = (
        ["--only", "04"],
        ["--profile", "demo"],
        ["-p", "epochs", "3"],
        ["--data-dir", "a"],
        ["--run", "r"],
    )
    no_such = (["--profile", "real"], ["--epochs", "3"], ["-p", "epochs"])
    for arguments in (*no_such, *(["--verify", "r", *more] for more in beside_verify)):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
    assert "usage: python -m helpers.series" in capsys.readouterr().err
    assert not runs.exists() and dry == []


def test_what_the_notebooks_of_the_project_are_given(runs, dry, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["--profile", "challenge", "--data-dir", "set", "--run", "r", "-p", "epochs", "2", "-p", "eps", "0.1"]
    assert main([*arguments, "-p", "queue_schedule", "[0, 7]"]) == 0
    common = {"profile": "challenge", "run": "r", "data_dir": str(tmp_path / "set")}
    more = [{}, {"eps": 0.1}, {"epochs": 2}, {"epochs": 2, "queue_schedule": [0, 7]}, {}]
    assert [given for _, _, given in dry] == [common | extra for extra in more]
    assert [output for _, output, _ in dry] == [runs / "r" / path.name for path in notebooks()]
    assert str(runs / "r") in capsys.readouterr().out


def test_the_leaderboard_of_the_run_is_printed_at_the_end(runs, dry, capsys):
    keys = ("mrr", "mrr_low", "mrr_high", "recall_at_1", "recall_at_5", "recall_at_10", "ndcg")
    row = {"model": "mlp1", **dict.fromkeys(keys, 0.25), "median_rank": 2.0, "p75_rank": 3.5}
    (runs / "demo").mkdir(parents=True)
    (runs / "demo" / "leaderboard.json").write_text(json.dumps([row]))
    assert main([]) == 0
    said = capsys.readouterr().out
    assert re.search(r"model +MRR .*\nmlp1 +0\.250 .* 2\.0 +3\.5 +- +-\n", said) and "no choice" not in said
    (runs / "demo" / "test_leaderboard.json").write_text(json.dumps([row | {"mrr": 0.125}]))
    assert main([]) == 0
    assert re.search(r"mlp1 +0\.250 (.|\n)*\ntest, .*:\nmodel +MRR .*\nmlp1 +0\.125 ", capsys.readouterr().out)
    assert main(["--only", "01"]) == 0  # which has made no leaderboard
    assert "MRR" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_failing_notebook_stops_the_series_and_is_named(runs, folder, capsys):
    write_notebook(folder / "01_fine.ipynb", "epochs = 1", "print('epochs:', epochs, profile)")
    write_notebook(folder / "02_raises.ipynb", "", "x = 1", "print('before')", "raise KeyError('lost')", "y = 2")
    write_notebook(folder / "03_never.ipynb", "", "x = 1")
    assert main(["-p", "epochs", "7"]) == 1
    outputs = sorted(path.name for path in (runs / "demo").iterdir())
    assert outputs == ["01_fine.ipynb", "02_raises.ipynb"]
    fine, failed = (nbformat.read(runs / "demo" / name, as_version=4) for name in outputs)
    printed = [output.text for cell in fine.cells for output in cell.get("outputs", ())]
    assert printed == ["epochs: 7 demo\n"]
    raised = [
        cell.execution_count
        for cell in failed.cells
        if any(output.output_type == "error" and output.ename == "KeyError" for output in cell.get("outputs", ()))
    ]
    said = capsys.readouterr().err
    assert f"error: 02_raises.ipynb, cell {raised[0]}: KeyError: 'lost'" in said
    assert "03_never" not in said


@pytest.mark.slow
def test_a_kernel_that_dies_is_no_traceback_either(runs, folder, capsys):
    write_notebook(folder / "01_dies.ipynb", "", "import os; os._exit(9)")
    assert main([]) == 1
    assert "01_dies.ipynb" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--profile", "challenge", "--data-dir", "nowhere"], "train.npz: no such file"),
        (["-p", "val_ratio", "0.0001"], "leaves 0 for validation"),
        (["-p", "test_ratio", "0.0001"], "leaves 0 for the test"),
        (["-p", "test_ratio", "0.9"], "val_ratio + test_ratio = 0.1 + 0.9"),
    ],
)
def test_bad_data_leaves_an_earlier_run_as_it_was(runs, capsys, arguments, message):
    earlier = runs / "r" / "01_data_and_split.ipynb"
    earlier.parent.mkdir(parents=True)
    earlier.write_text("from an earlier run")
    assert main([*arguments, "--run", "r"]) == 2
    assert message in capsys.readouterr().err
    assert earlier.read_text() == "from an earlier run" and list((runs / "r").iterdir()) == [earlier]


def test_a_part_of_the_series_never_replaces_models_of_another_split(runs, capsys, monkeypatch):
    ran = []
    monkeypatch.setattr(series, "run_notebook", lambda path, output, given: ran.append(path.name))
    sizes = ["-p", "text_dim", "12", "-p", "image_dim", "16"]
    monkeypatch.setattr(paths, "DATA_DIR", runs)
    write_synthetic(runs / "emoji", n_images=60, text_dim=12, image_dim=16)
    open_run({"text_dim": 12, "image_dim": 16}, run="r", val_ratio=0.2, test_ratio=0.1).save()
    assert main([*sizes, "--run", "r", "--only", "05"]) == 2
    said = capsys.readouterr().err
    assert re.search(
        r"r: made of other data or another split \(val_ratio = 0.2, test_ratio = 0.1\).*whole series", said
    )
    assert ran == []
    assert main([*sizes, "--run", "r", "--only", "05", "-p", "val_ratio", "0.2", "-p", "test_ratio", "0.1"]) == 0
    assert ran == ["05_evaluation_and_efficiency.ipynb"]
    assert main([*sizes, "--run", "r"]) == 0 and len(ran) == 6  # the whole series makes all of it anew


def test_models_that_other_settings_will_replace_are_said_before_anything_runs(runs, dry, capsys):
    folder = runs / "r"
    (folder / "models").mkdir(parents=True)
    (folder / "models" / "bigjump.safetensors").write_bytes(b"")
    assert main(["--run", "r", "-p", "epochs", "3", "-p", "queue_schedule", "[0, 7]"]) == 0
    assert "replaced" not in capsys.readouterr().err  # nobody knows with what it was made
    assert main(["--run", "r", "-p", "epochs", "3", "-p", "queue_schedule", "[0, 7]"]) == 0
    assert "replaced" not in capsys.readouterr().err
    assert main(["--run", "r", "-p", "epochs", "4"]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "replaced" in line]
    assert said == [
        f"{folder}: made with other settings (epochs = 3, now 4; queue_schedule = [0, 7], now the default). Its "
        "models (bigjump) are replaced where these notebooks make them. To keep them, stop now and give another --run."
    ]
    assert main(["--run", "r", "--only", "01", "-p", "val_ratio", "0.2"]) == 0
    assert "val_ratio = the default, now 0.2" in capsys.readouterr().err
    (folder / "manifest.json").write_text("[")
    assert main(["--run", "r"]) == 0


def test_models_of_other_data_that_the_series_will_replace_are_said(runs, capsys, monkeypatch):
    monkeypatch.setattr(series, "run_notebook", lambda path, output, given: None)
    monkeypatch.setattr(paths, "DATA_DIR", runs)
    write_synthetic(runs / "emoji", n_images=60, text_dim=12, image_dim=16)
    open_run({}, run="r", val_ratio=0.2).save()
    assert main(["--run", "r"]) == 0
    assert "replaced" not in capsys.readouterr().err  # it holds no model
    (runs / "r" / "models").mkdir()
    (runs / "r" / "models" / "mlp1.safetensors").write_bytes(b"")
    assert main(["--run", "r"]) == 0
    assert "r: made of other data or another split (val_ratio = 0.2). Its models (mlp1)" in capsys.readouterr().err


def test_bad_captions_to_translate_are_said_before_anything_runs(runs, capsys, tmp_path, monkeypatch):
    ran = []
    data = SimpleNamespace(text_dim=6)
    monkeypatch.setattr(series, "read_run", lambda overrides, **given: Run(RunConfig(**given), data, None))
    monkeypatch.setattr(series, "run_notebook", lambda path, output, given: ran.append(path.name))
    queries = {"captions/ids": np.arange(2), "captions/embeddings": np.ones((2, 5), np.float32)}
    np.savez(tmp_path / "test.clean.npz", **queries)
    assert main(["--data-dir", str(tmp_path)]) == 2
    assert re.search("test.clean.npz: .* has width 5 but text_dim is 6", capsys.readouterr().err) and ran == []


def test_an_interruption_is_no_traceback(runs, dry, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(series, "run_notebook", interrupted)
    assert main([]) == 130 and "an unfinished training goes on" in capsys.readouterr().err


def test_a_device_that_is_not_there_is_said_before_anything_runs(runs, dry, capsys, monkeypatch):
    monkeypatch.setenv("HELPERS_DEVICE", "cuda:99")
    assert main([]) == 2
    assert "HELPERS_DEVICE = 'cuda:99'" in capsys.readouterr().err and dry == []


def test_own_data_do_not_run_as_the_demo(runs, dry, tmp_path):
    assert main(["--data-dir", str(tmp_path)]) == 0
    assert {(given["profile"], output.parent) for _, output, given in dry} == {("challenge", runs / "challenge")}


def test_runs_that_cannot_be_written_are_said_with_the_remedy(tmp_path, dry, capsys, monkeypatch):
    monkeypatch.setenv("HELPERS_RUNS_DIR", "unused")  # restored after the test; --runs-dir replaces it
    (tmp_path / "file").write_text("")
    assert main(["--runs-dir", str(tmp_path), "--run", "file"]) == 2
    assert "file: cannot be written" in capsys.readouterr().err
    assert main(["--runs-dir", str(tmp_path / "file")]) == 2
    assert re.search(r"demo: cannot be written.*--runs-dir", capsys.readouterr().err) and dry == []


@pytest.mark.slow
def test_braces_in_a_path_are_no_parameters(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(paths, "NOTEBOOKS_DIR", folder / "{x}")
    (folder / "{x}").mkdir()
    write_notebook(folder / "{x}" / "01_fine.ipynb", "epochs = 1", "print('epochs:', epochs)")
    monkeypatch.setenv("HELPERS_RUNS_DIR", str(tmp_path / "{runs} {0}"))
    assert main(["-p", "epochs", "7"]) == 0
    assert (tmp_path / "{runs} {0}" / "demo" / "01_fine.ipynb").exists()
