# PYTHON makes the environment; everything else runs inside it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

SIZE ?= small
DEVICE ?= cpu
DATA_DIR ?= data/challenge
EPOCHS ?=

.PHONY: run app check test lab notebooks lint bench accuracy ablations turned figures tables clean

run: $(VENV)/.installed
	$(BIN)/python -m helpers.series --profile demo --run demo

# The search page on what `make run` made.
app: $(VENV)/.installed
	$(BIN)/python -m helpers.app demo --open

# Before every commit, in under a minute: style, types, and the tests that are quick. Types and tests side by side, since
# mypy without its cache takes half a minute of one core; without nbval, which takes seconds to import.
check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy & types=$$!; $(BIN)/python -m pytest tests -m "not slow" -p no:nbval -n 2; tests=$$?; wait $$types && exit $$tests

# Everything, the notebooks against their committed outputs included. Two processes of one thread each: with two threads
# each they wait for one another, and a training takes more than twice as long.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --nbval -n 2

lab: $(VENV)/.installed
	$(BIN)/jupyter lab --notebook-dir=notebooks

# Refreshes the committed outputs, without progress bars and time stamps.
notebooks: $(VENV)/.installed
	TQDM_DISABLE=1 $(BIN)/jupyter nbconvert --to notebook --execute --inplace \
	    --ExecutePreprocessor.record_timing=False notebooks/*.ipynb

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python notebooks/check.py

# Times what the project claims to be fast, beside its lower bounds and other libraries: SIZE=challenge, DEVICE=cuda.
bench: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[bench]"
	for name in step epochs plus_step ranking scaling widths; do \
	    $(BIN)/python -m benchmarks.$$name --size $(SIZE) --device $(DEVICE) || exit 1; done
	$(BIN)/python -m benchmarks.closed_form --size $(SIZE)
	$(BIN)/python -m benchmarks.indexes --size $(SIZE)
	$(BIN)/python -m benchmarks.encode --size $(SIZE)
	$(BIN)/python -m benchmarks.draw

# The table of docs/results.md on your data, choices made on its training images alone: first the closed forms, ours and
# the two best baselines, then every method. Goes on where an earlier call stopped.
ACCURACY := $(BIN)/python -m benchmarks.accuracy --data-dir "$(DATA_DIR)"
accuracy: $(VENV)/.installed
	$(ACCURACY) --splits 0 1 2 --seeds 5 \
	    --only least_squares ridge procrustes cca asif vse_mlp queue_infonce bigjump_plus
	$(ACCURACY) --splits 0 1 2 --seeds 5
	$(BIN)/python -m benchmarks.draw

# What each part of the method contributes on your data; EPOCHS=8 shortens every training, and DATA_DIR= with nothing
# behind it takes synthetic data.
ablations: $(VENV)/.installed
	$(BIN)/python -m benchmarks.ablations $(if $(DATA_DIR),--data-dir "$(DATA_DIR)",--demo) $(if $(EPOCHS),--epochs $(EPOCHS))
	$(BIN)/python -m benchmarks.draw

# For which data a claim that fails might hold: synthetic data with one property changed (about 80 minutes of one core).
turned: $(VENV)/.installed
	$(BIN)/python -m benchmarks.turned
	$(BIN)/python -m benchmarks.draw

# The tables of README.md and docs/, from the committed results; a test fails where they are stale.
tables: $(VENV)/.installed
	$(BIN)/python -m benchmarks.docs

# Figures of docs/results.md, from the run that it names.
figures: $(VENV)/.installed
	$(BIN)/python -m benchmarks.figures runs/flickr8k

clean:
	rm -rf $(VENV) *.egg-info

# .installed records which Python made the environment, and where. It is made anew where it answers otherwise or not
# at all: that Python is gone or was replaced, the folder was moved, an installation was cut short, or another PYTHON
# is asked for. `venv` over an environment would keep its links, and with them its Python.
VERSION := import sys; print("%d.%d" % sys.version_info[:2])
IDENTITY := $(VERSION); print(sys.prefix)
FOUND := $(shell $(BIN)/python -c '$(IDENTITY)' 2>/dev/null)
ifneq ($(FOUND),$(or $(shell cat $(VENV)/.installed 2>/dev/null),none))
ANEW := yes
else ifeq ($(origin PYTHON),command line)
ANEW := $(if $(filter $(firstword $(FOUND)),$(shell $(PYTHON) -c '$(VERSION)' 2>/dev/null)),,yes)
endif

SERVES = $(shell $(PYTHON) -c 'import sys; print("yes" * (sys.version_info >= (3, 11)))' 2>/dev/null)
IS = $(or $(shell $(PYTHON) -c 'import platform; print("is " + platform.python_version())' 2>/dev/null),does not run)
REMEDY = make $(or $(firstword $(MAKECMDGOALS)),run) PYTHON=python3.11

$(VENV)/.installed: pyproject.toml constraints.txt $(if $(ANEW),FORCE)
	$(if $(ANEW),$(if $(SERVES),,$(error Python 3.11 or newer is needed, and $(PYTHON) $(IS). Give one: $(REMEDY))))
	$(if $(ANEW),rm -rf $(VENV) && $(PYTHON) -m venv $(VENV))
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	$(BIN)/python -c '$(IDENTITY)' > $@

.PHONY: FORCE
