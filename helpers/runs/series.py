"""The series: the notebooks in order through papermill, in one run's folder, with a manifest at the end."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import papermill
from ipykernel.kernelspec import RESOURCES, get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from tqdm import tqdm
from traitlets.config import Config

from helpers.data.pairs import QUERY_FILE, load_queries
from helpers.errors import CheckpointError, ConfigError, NotebookError, first_five
from helpers.evaluation.leaderboard import ACCURACY_COLUMNS, format_table
from helpers.models import storage
from helpers.runs import manifest
from helpers.runs.leaderboard import LEADERBOARD, TEST_LEADERBOARD
from helpers.runs.parameters import Given, check, deal, literal, notebooks, parse_value
from helpers.runs.run import RUN_FILE, Run, read_run, say
from helpers.runs.settings import RunConfig
from helpers.system import paths
from helpers.system.bars import LOG_INTERVAL
from helpers.system.console import run_command
from helpers.system.devices import choose_device
from helpers.system.files import read_json, reading
from helpers.system.locks import lock
from helpers.system.settings import as_dict


class ThisInterpreter(AsyncKernelManager):
    """A kernel of the interpreter that runs the series, whichever kernel is first on the Jupyter path."""

    @property
    def kernel_spec(self) -> KernelSpec:
        own = {"IPYTHONDIR": str(paths.cache_dir() / "ipython")}  # not the user's configuration and startup files
        return KernelSpec(resource_dir=RESOURCES, env=own, **get_kernel_dict())


class TrainingProgress:
    """Shows the newest line of a kernel's own bar under the bar of the notebook's cells; in a log, now and then.

    Args:
        bar: of the line; one that is disabled has no terminal.
    """

    def __init__(self, bar: tqdm) -> None:
        self.bar, self.logged = bar, time.monotonic()

    def write(self, text: str) -> None:
        if lines := [line.strip() for line in text.splitlines() if line.strip()]:
            self.bar.set_description_str(lines[-1][: shutil.get_terminal_size().columns - 1])
            if self.bar.disable and time.monotonic() - self.logged >= LOG_INTERVAL:
                self.logged = time.monotonic()
                print(lines[-1], file=sys.stderr, flush=True)

    def flush(self) -> None:
        pass


def run_notebook(path: Path, output: Path, parameters: Given) -> None:
    """Execute one notebook into `output`, with live progress in the terminal.

    Raises:
        NotebookError: names the notebook, and the cell that failed; the output notebook shows where.
    """
    started = time.perf_counter()
    # disable=None: no bars where nobody watches, so that a log holds no control characters.
    bar = tqdm(bar_format="{desc}", position=1, leave=False, file=sys.stderr, disable=None)
    try:
        papermill.execute_notebook(
            literal(path),
            literal(output),
            parameters=parameters,
            kernel_name="python3",
            progress_bar={"desc": path.stem, "file": sys.stderr, "leave": True, "disable": None},
            stderr_file=TrainingProgress(bar),
            cwd=str(Path.cwd()),
            # A training bar then leaves its last state in the notebook, not every state it was ever in.
            coalesce_streams=True,
            config=Config(
                NotebookClient={"kernel_manager_class": ThisInterpreter},
                KernelManager={"transport_encryption": "auto"},
            ),
        )
    except DeadKernelError:
        raise NotebookError(f"{path.name}: its kernel died; out of memory is the usual cause.") from None
    except PapermillExecutionError as error:
        raise NotebookError(f"{path.name}, cell {error.exec_count}: {error.ename}: {error.evalue}") from None
    finally:
        bar.close()
    if not sys.stderr.isatty():
        print(f"{path.stem}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)


def execute(dealt: Mapping[Path, Given]) -> RunConfig:
    """Check the settings and the data, run the notebooks with the run's folder locked, and write the manifest.

    Bad data is told before anything in the run's folder is replaced; a good load is cached for the notebooks.
    """
    config = check(dealt)
    choose_device()  # what HELPERS_DEVICE names must be there
    if not paths.is_writable(config.run_dir):
        raise ConfigError(f"{config.run_dir}: cannot be written. Give another folder with --runs-dir.")
    run = read_inputs(config)
    if len(dealt) < len(notebooks()):
        _require_same_split(run)
    _say_what_is_replaced(run, dealt)
    with lock(config.run_dir):
        config.run_dir.mkdir(parents=True, exist_ok=True)
        for path, parameters in dealt.items():
            run_notebook(path, config.run_dir / path.name, parameters)
        manifest.write_manifest(config.run_dir, config.data_path, {p.name: given for p, given in dealt.items()})
    return config


def read_inputs(config: RunConfig) -> Run:
    """Read and check all data of a run, before its folder is touched."""
    run = read_run({}, **as_dict(config))
    if (queries := config.data_path / QUERY_FILE).exists():
        load_queries(queries, text_dim=run.data.text_dim)
    return run


def _require_same_split(run: Run) -> None:
    """Raise `ConfigError` where a part of the series would find nothing of the run usable, and make all of it anew."""
    if other := _other_origin(run):
        raise ConfigError(
            f"{run.directory}: {other}, and its models would be replaced. Repeat these parameters, give another --run, "
            "or run the whole series."
        )


def _say_what_is_replaced(run: Run, dealt: Mapping[Path, Given]) -> None:
    """One line where models that the folder holds were made of other data or with other settings than these."""
    models = storage.stored_models(run.directory)
    why = None
    with contextlib.suppress(CheckpointError):  # a damaged file is replaced too
        why = (_other_origin(run) or _other_parameters(run.directory, dealt)) if models else None
    if why:
        say(
            f"{run.directory}: {why}. Its models ({first_five(models)}) are replaced where these notebooks make them. "
            "To keep them, stop now and give another --run."
        )


def _other_origin(run: Run) -> str | None:
    """How data and split of what the run's folder holds differ from those of now; None where they do not."""
    path = run.directory / RUN_FILE
    if not path.exists():
        return None
    now = run.origin()
    with reading(path, "damaged", "Run the whole series."):
        kept = read_json(path)
        same = (kept["data"], kept["split"]) == (now["data"], now["split"])
        given = dict(kept["config"])
    if same:
        return None
    other = [f"{name} = {value!r}" for name, value in given.items() if now["config"].get(name) != value]
    return f"made of other data or another split ({', '.join(other) or 'the files have changed'})"


def _other_parameters(run_dir: Path, dealt: Mapping[Path, Given]) -> str | None:
    """Which settings the notebooks were given when they last ran, where they are others now."""
    if not (run_dir / manifest.MANIFEST).exists():
        return None
    earlier, other = manifest.read_manifest(run_dir)["parameters"], {}
    for path, given in dealt.items():
        before, now = (_flat(values) for values in (earlier.get(path.name, {}), json.loads(json.dumps(given))))
        for name in (before | now) if path.name in earlier else ():
            if before.get(name) != now.get(name):
                shown = [repr(values[name]) if name in values else "the default" for values in (before, now)]
                other[name] = f"{name} = {shown[0]}, now {shown[1]}"
    return f"made with other settings ({'; '.join(other.values())})" if other else None


def _flat(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by name, those in `overrides` among them."""
    return {name: value for name, value in given.items() if name != "overrides"} | given.get("overrides", {})


def verify(run: str) -> int:
    """Run a finished run again beside it and compare every artefact; the exit status is 1 where one differs.

    So it is, before anything runs, where the run's folder no longer holds what its manifest lists.

    Raises:
        ConfigError: the run has no manifest, or the folder of the second run is there already.
    """
    original, again = RunConfig(run=run).run_dir, RunConfig(run=f"{run}.verify").run_dir
    recorded = manifest.read_manifest(original)
    now = manifest.artefact_digests(original)
    if changed := [name for name in manifest.differences(recorded["artefacts"], now) if name in recorded["artefacts"]]:
        how = "changed since its manifest was written, such as by a notebook that ran alone"
        print(f"{original}: {how}: {', '.join(changed)}. Run the series again, then verify.")
        return 1
    if again.exists():  # what lies there would be found, and not made again
        raise ConfigError(f"{again}: there already, such as from an earlier --verify. Delete it, then verify again.")
    known = {path.name: path for path in notebooks()}
    with reading(original / manifest.MANIFEST, "damaged", "Run the series again."):
        dealt = {known[name]: {**given, "run": again.name} for name, given in sorted(recorded["parameters"].items())}
    execute(dealt)
    made = manifest.read_manifest(again)
    for name in manifest.differences(recorded["environment"], made["environment"]):
        print(f"note: {name} is {made['environment'].get(name)}, was {recorded['environment'].get(name)}")
    different = [n for part in ("inputs", "artefacts") for n in manifest.differences(recorded[part], made[part])]
    if different:
        print(f"{len(different)} of {len(made['artefacts'])} differ: {', '.join(different)}. See {again}.")
        return 1
    shutil.rmtree(again)
    again.with_name(f".{again.name}.series.lock").unlink(missing_ok=True)
    print(f"{original}: all {len(made['artefacts'])} artefacts came back bit for bit.")
    return 0


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m helpers.series", description="Run the notebooks in order.")
    parser.add_argument("--profile", choices=("demo", "challenge"), help="demo; with --data-dir challenge")
    parser.add_argument("--data-dir", help="folder with train.npz and captions.txt")
    parser.add_argument("--run", help="name of the folder under runs/ (default: the profile)")
    parser.add_argument("--runs-dir", help="folder that holds the runs, such as where the project is read-only")
    parser.add_argument("--only", metavar="NN", help="one notebook, by the start of its name, such as 04")
    parser.add_argument("--verify", metavar="RUN", help="run a finished run again, and compare its artefacts")
    parser.add_argument(
        "-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="a setting; repeatable"
    )
    options = parser.parse_args(arguments)
    if options.verify is not None and (options.profile or options.data_dir or options.run or options.only or options.p):
        parser.error("--verify takes its parameters from the run's manifest: only --runs-dir goes with it")
    return options


def given_parameters(options: argparse.Namespace) -> Given:
    """Settings by name, from the flags and from `-p`.

    Raises:
        ConfigError: `-p` names what has a flag of its own.
    """
    given = {name: parse_value(value) for name, value in options.p}
    for flag in ("profile", "data_dir", "run"):
        if flag in given:
            raise ConfigError(f"-p {flag}: use --{flag.replace('_', '-')} instead.")
    data_dir = str(paths.expanded(options.data_dir).resolve()) if options.data_dir else None
    profile = options.profile or ("challenge" if data_dir else "demo")
    return given | {"profile": profile, "run": options.run, "data_dir": data_dir}


def leaderboards(run_dir: Path) -> str:
    """The validation leaderboard of a run and, where it has one, that of its test split."""
    found = ""
    for name, title in ((LEADERBOARD, ""), (TEST_LEADERBOARD, "test, which no choice has seen:\n")):
        if (run_dir / name).exists():
            found += f"\n{title}{format_table(read_json(run_dir / name), ACCURACY_COLUMNS)}\n"
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; returns the exit status."""
    options = parse_arguments(arguments)
    logging.getLogger("papermill").setLevel(logging.ERROR)
    interrupted = "interrupted; an unfinished training goes on when the series runs again"
    return run_command(lambda: run_series(options), "--runs-dir", interrupted)


def run_series(options: argparse.Namespace) -> int | str:
    """Verify a run (returns the exit status), or run the notebooks (returns what to print).

    Raises:
        UserError: whatever the user can mend.
    """
    started = time.perf_counter()
    if options.runs_dir:  # kernels inherit it
        os.environ["HELPERS_RUNS_DIR"] = str(paths.expanded(options.runs_dir).resolve())
    if options.verify is not None:
        return verify(options.verify)
    dealt = deal(given_parameters(options), notebooks(options.only))
    config = execute(dealt)
    ended = f"\n{config.run_dir}  ({time.perf_counter() - started:.0f} s)"
    if any(path.name.startswith("05") for path in dealt):  # the leaderboards are of this call
        return leaderboards(config.run_dir) + ended
    return ended
