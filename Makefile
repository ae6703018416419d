# Everything runs in a virtual environment of its own, .venv, made by the first command that needs it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --progress-bar off --disable-pip-version-check --constraint constraints.txt

# A file's tests stay in one process, which makes its shared fixtures once. More processes than four would need more
# memory than they save time: each loads torch.
PARALLEL := --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# Where it is set, each of hundreds of processes would compile the library again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo demo-llm findings test test-fast test-server test-integrations coverage check format docs docs-figures clean

# Policies from the floor to the ceiling on the synthetic world. Needs the core install alone.
demo: $(VENV)/core
	$(BIN)/python benchmarks/demo.py

# The same, and two agents that prompt a small language model.
demo-llm: $(VENV)/llm
	$(BIN)/raggym models get smollm2
	$(BIN)/python benchmarks/demo.py --llm hf:smollm2

# The paper's findings in small, on the synthetic world.
findings: $(VENV)/installed
	$(BIN)/python benchmarks/process_supervision.py --small

test: $(VENV)/installed
	-$(BIN)/raggym models get smollm2
	-$(BIN)/raggym models get minilm
	$(BIN)/python -m pytest $(PARALLEL)

# Apart from `test`, since measuring takes as long again as the tests.
coverage: $(VENV)/installed
	$(BIN)/python -m coverage erase
	$(BIN)/python -m pytest $(PARALLEL) --cov --cov-report=term:skip-covered

# What to run while working: no torch, about a minute.
test-fast: $(VENV)/installed
	$(BIN)/python -m pytest $(PARALLEL) -m 'not slow and not server'

# Needs a few more packages: an OpenAI-compatible server that is not ours, serving the small model.
test-server: $(VENV)/installed
	$(INSTALL) 'transformers[serving]'
	$(BIN)/raggym models get smollm2
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m server tests/llm/openai/test_real_server.py

# The packages of other frameworks, in environments of their own: together they would change what `make test` installs,
# and verifiers does not install beside the others.
test-integrations: $(VENV)-integrations/installed $(VENV)-verifiers/installed
	$(VENV)-integrations/bin/python -m pytest -m integrations tests/integrations
	$(VENV)-verifiers/bin/python -m pytest -m integrations tests/integrations/test_verifiers.py

check: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Warnings are errors: a link that leads nowhere fails the build.
docs: $(VENV)/installed
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build
	@echo "Open docs/_build/index.html"

# The figures of the environment pages: every policy without a language model on every data set that is here.
docs-figures: $(VENV)/installed
	$(BIN)/python benchmarks/leaderboard.py
	$(BIN)/python docs/figures.py runs/leaderboard/*

clean:
	rm -rf docs/_build docs/generated $(VENV) $(VENV)-integrations $(VENV)-verifiers .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache build dist adapters/build adapters/dist

# The core install, which every other one builds upon. pip's log has the sizes of the downloads.
$(VENV)/core: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "raggym-env needs Python 3.11 or newer; $(PYTHON) is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv $(VENV)
	@rm -f $(VENV)/pip.log
	$(INSTALL) --log $(VENV)/pip.log --editable .
	@awk '/(Downloading|Using cached) .*[.]whl / {size = substr($$(NF - 1), 2); total += /kB[)]$$/ ? size / 1000 : size} END {printf "%d MB of downloads, ", total}' $(VENV)/pip.log
	@echo "$$(du -sm $(VENV) | cut -f 1) MB installed in $(VENV)"
	@touch $@

$(VENV)/llm: $(VENV)/core
	$(INSTALL) --editable '.[llm]'
	@touch $@

$(VENV)/installed: $(VENV)/core
	$(INSTALL) --no-compile --editable '.[dev,docs,fast,llm,train,sb3,dense,lucene,serve,ray]'
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true  # on all cores; pip uses one. Some files are templates
	@touch $@

$(VENV)-integrations/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)-integrations
	$(subst $(BIN),$(VENV)-integrations/bin,$(INSTALL)) --editable '.[fast,llm,train,serve,openenv,mcp,skyrl,inspect]' \
		pytest hypothesis playwright
	@touch $@

# Without the constraints, which verifiers conflicts with.
$(VENV)-verifiers/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)-verifiers
	$(VENV)-verifiers/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[verifiers]' \
		pytest hypothesis
	@touch $@
