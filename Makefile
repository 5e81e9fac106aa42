# PYTHON makes the environment; everything else runs inside it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

SIZE ?= small
DEVICE ?= cpu
DATA_DIR ?= data/challenge
TEXT_DIM ?= 1024
IMAGE_DIM ?= 1536
EPOCHS ?=

.PHONY: run test lab notebooks lint bench accuracy ablations turned figures clean

run: $(VENV)/.installed
	$(BIN)/python -m helpers.series --profile demo --run demo

test: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/python -m pytest --nbval -n 2

lab: $(VENV)/.installed
	$(BIN)/jupyter lab --notebook-dir=notebooks

# Refreshes the committed outputs, without progress bars and time stamps.
notebooks: $(VENV)/.installed
	TQDM_DISABLE=1 $(BIN)/jupyter nbconvert --to notebook --execute --inplace \
	    --ExecutePreprocessor.record_timing=False notebooks/*.ipynb

lint: $(VENV)/.installed
	$(BIN)/ruff check .

# Times what the project claims to be fast, beside its floor and its peers: SIZE=challenge, DEVICE=cuda.
bench: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[bench]"
	for name in step epochs plus_step ranking scaling widths; do \
	    $(BIN)/python -m benchmarks.$$name --size $(SIZE) --device $(DEVICE) || exit 1; done
	$(BIN)/python -m benchmarks.closed_form --size $(SIZE)
	$(BIN)/python -m benchmarks.draw

# The README's table on your data, choices made on its training images alone: first the closed forms, ours and the two
# best peers, then every method. Goes on where an earlier call stopped.
ACCURACY := $(BIN)/python -m benchmarks.accuracy --data-dir "$(DATA_DIR)" --text-dim $(TEXT_DIM) --image-dim $(IMAGE_DIM)
accuracy: $(VENV)/.installed
	$(ACCURACY) --splits 0 1 2 --seeds 5 \
	    --only least_squares ridge procrustes cca asif vse_mlp queue_nce bigjump_plus
	$(ACCURACY) --splits 0 1 2 --seeds 5
	$(BIN)/python -m benchmarks.draw

# What each part of the method contributes on your data; EPOCHS=8 shortens every training, and DATA_DIR= with nothing
# behind it takes the demo data.
ablations: $(VENV)/.installed
	$(BIN)/python -m benchmarks.ablations $(if $(DATA_DIR),--data-dir "$(DATA_DIR)",--demo) \
	    --text-dim $(TEXT_DIM) --image-dim $(IMAGE_DIM) $(if $(EPOCHS),--epochs $(EPOCHS))
	$(BIN)/python -m benchmarks.draw

# For which data a claim that fails might hold: demo data with one property changed (about 80 minutes of one core).
turned: $(VENV)/.installed
	$(BIN)/python -m benchmarks.turned
	$(BIN)/python -m benchmarks.draw

# The README's figures, from the reference run that the README names.
figures: $(VENV)/.installed
	$(BIN)/python -m benchmarks.figures runs/flickr8k

clean:
	rm -rf $(VENV) *.egg-info

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	touch $@
