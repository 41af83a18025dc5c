# Every target sets up what it needs; VENV and PYTHON may be given.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

.PHONY: demo test check lint image-test lock bench clean format

demo: $(VENV)/.run
	$(BIN)/safety-gate demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(MAKE) lint
	$(BIN)/python -m pytest -n 2

# Dockerfile, workflows and schemas; nothing here asks the network.
WORKFLOWS := .github/workflows/*.yml examples/workflows/*.yml
SCHEMA := $(BIN)/check-jsonschema --quiet
lint: $(VENV)/.dev
	$(BIN)/hadolint Dockerfile
	$(BIN)/zizmor --offline --quiet --persona pedantic action.yml $(WORKFLOWS)
	$(SCHEMA) --builtin-schema vendor.github-actions action.yml
	$(SCHEMA) --builtin-schema vendor.github-workflows $(WORKFLOWS)
	$(SCHEMA) --check-metaschema safety_gate/schemas/*.json
	$(SCHEMA) --schemafile safety_gate/schemas/policy.schema.json safety_gate/policies/*.yml
	$(SCHEMA) --schemafile safety_gate/schemas/report.schema.json tests/golden/*.json

# Builds the Dockerfile and runs the action in it, as GitHub would: as root, with the programs that
# .ci/run installs. SAFETY_GATE_IMAGE_STORAGE=FOLDER keeps images between runs.
image-test: $(VENV)/.dev
	SAFETY_GATE_IMAGE_TEST=1 $(BIN)/python -m pytest --durations=0 --durations-min=1 tests/test_image.py

# What the image is made of, with the hash of every file. Run it where pip finds the CPU build of
# torch of constraints.txt, on Linux with Python 3.11.
LOCK := CUSTOM_COMPILE_COMMAND="make lock" $(VENV)/lock/bin/pip-compile --quiet --allow-unsafe \
	--generate-hashes --strip-extras --no-annotate --no-emit-index-url --no-emit-find-links \
	--no-emit-options --constraint constraints.txt
lock:
	$(PYTHON) -m venv $(VENV)/lock
	$(VENV)/lock/bin/python -m pip install --quiet -c constraints.txt pip-tools
	$(LOCK) --extra bot --output-file requirements/image.txt pyproject.toml
	$(LOCK) --output-file requirements/build.txt --build-deps-for wheel --only-build-deps pyproject.toml

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks.speed

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# torch goes first and alone: a later package must not choose another build of it.
$(VENV)/.run: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) -e .
	touch $@

$(VENV)/.dev: $(VENV)/.run
	$(PIP) -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist out .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
