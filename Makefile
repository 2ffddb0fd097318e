# The two commands: `make demo` and `make test`. Each sets up .venv by itself; a second call installs nothing.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-slow lint clean-venv

demo: $(VENV)/.installed
	@$(BIN)/mapjob demo

test: $(VENV)/.installed-test
	@# A file of tests at a time in each of two processes: many tests wait for processes that they start. In the order
	@# of their names, since files with few tests are the slow ones here and would else come last.
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slow: $(VENV)/.installed-test
	@# What costs minutes each and covers little that `make test` does not: run it when what it covers is touched.
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m slow

lint: $(VENV)/.installed-test
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "setting up $(VENV) (a few minutes, once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	@echo "installing what the tests need"
	@$(PIP) --editable '.[test]'
	@touch $@

clean-venv:
	rm -rf $(VENV)
