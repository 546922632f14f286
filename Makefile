# Two commands: `make demo` shows the product on a real clip, `make test` checks it. Both set up .venv first.
PYTHON ?= python3.11
PIP_FLAGS := --quiet --disable-pip-version-check --only-binary :all: \
             --no-binary antlr4-python3-runtime,iterative-telemetry
BIN := .venv/bin

.PHONY: demo test check setup clean

setup: .venv/.ready


.venv/.ready: requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || \
		{ echo "Python 3.11 is needed: install it, or call make with PYTHON=/its/path" >&2; exit 2; }
	@echo "Installing requirements.lock into .venv (about 2 to 5 minutes, 6.5 GB)"
	@$(BIN)/python -m pip install $(PIP_FLAGS) -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: .venv/.ready
	@$(BIN)/stylereel demo

test: .venv/.ready
	@$(BIN)/stylereel assets fetch
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

check: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# What can be made again. var/ holds the registry, jobs and consents, build/ the checkpoints of trainings: they stay.
clean:
	rm -rf .venv demo *.egg-info
