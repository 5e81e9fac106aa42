# PYTHON makes the environment; everything else runs inside it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test lab notebooks lint clean

run: $(VENV)/.installed
	$(BIN)/python -m helpers.series --profile demo --run demo

test: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/python -m pytest --nbval

lab: $(VENV)/.installed
	$(BIN)/jupyter lab --notebook-dir=notebooks

# Refreshes the committed outputs, without progress bars and time stamps.
notebooks: $(VENV)/.installed
	TQDM_DISABLE=1 $(BIN)/jupyter nbconvert --to notebook --execute --inplace \
	    --ExecutePreprocessor.record_timing=False notebooks/*.ipynb

lint: $(VENV)/.installed
	$(BIN)/ruff check .

clean:
	rm -rf $(VENV) *.egg-info

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	touch $@
