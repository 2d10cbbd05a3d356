# The two commands a newcomer needs are `make demo` and `make test`; each does all its own set-up in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= $(shell expr 2 \* `getconf _NPROCESSORS_ONLN`)  # many tests wait for a time-out or another process

# What is imported is compiled once, also where the environment says otherwise: hundreds of processes import the same.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test soak check format bench fuzz clean

demo: $(VENV)/.ready
	$(BIN)/python examples/demo.py

test: check
	$(BIN)/pytest -n $(WORKERS)

# What takes long: all values of the sweeps that `make test` tries some of, and what waits for a time-out of minutes.
soak: $(VENV)/.ready
	$(BIN)/pytest -n $(WORKERS) --long -m long

check: $(VENV)/.ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(VENV)/.ready
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(VENV)/.ready
	$(PYTHON) -m pip --quiet --python $(BIN)/python install --editable ".[bench]"
	$(BIN)/python benchmarks/rpc.py

# As long as FUZZ_S says; what breaks the broker is left in .hypothesis/text_port.
FUZZ_S ?= 300
fuzz: $(VENV)/.ready
	$(PYTHON) -m pip --quiet --python $(BIN)/python install --editable ".[fuzz]"
	$(BIN)/python tests/fuzz/fuzz_text_port.py --seconds $(FUZZ_S)

# `--without-pip` and `pip --python` work where Debian's python3-venv is not installed.
$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv --without-pip $(VENV)
	$(PYTHON) -m pip --quiet --python $(BIN)/python install --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
