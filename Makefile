# Every target does its own set-up in .venv; all it needs is git, make and a Python (or uv).
# Plain POSIX make: macOS ships GNU make 3.81.

PYTHON =
ARGS =
# Processes that share the tests; 0: none besides pytest itself, as -s and --pdb need.
WORKERS = 2

SETUP = PYTHON='$(PYTHON)' sh tools/setup.sh

help:
	@echo "make demo       the release's chat example, three turns, on the embedded checkpoint"
	@echo "make test       the test suite                    (ARGS='-k hub' chooses tests, WORKERS=0 is for --pdb)"
	@echo "make test-all   that, and the tests that build environments of their own with pip"
	@echo "make lint       ruff and mypy                     make format   let ruff rewrite"
	@echo "make setup      only the set-up of .venv          (PYTHON=/path/to/python chooses one)"
	@echo "make clean      remove what was built             make distclean   and .venv"

setup:
	@$(SETUP) dev

demo:
	@$(SETUP) run
	@.venv/bin/qwen3-mlx demo

test: setup
	.venv/bin/python -m pytest -m "not foreign" -n $(WORKERS) --dist worksteal $(ARGS)

# The tests that need a package index; CI may not skip them.
foreign: setup
	.venv/bin/python -m pytest -m foreign $(ARGS)

test-all: test foreign

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

format: setup
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv

.PHONY: help setup demo test foreign test-all lint format clean distclean
