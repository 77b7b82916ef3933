# Each target sets up what it needs in .venv. With PYTHON=..., that interpreter runs as it is.

ifdef PYTHON
needs =
else
PYTHON := .venv/bin/python
needs = $(1:%=.venv/installed-%)
endif

.NOTPARALLEL:
.PHONY: demo test lint format bench clean

demo: $(call needs,demo)
	$(PYTHON) examples/super_resolution.py

test: $(call needs,test)
	$(PYTHON) -m pytest -n 2

# The type checker reads the examples and the benchmarks too, so it needs what they import.
lint: $(call needs,lint demo bench)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m pyright --pythonpath $(PYTHON)

format: $(call needs,lint)
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

bench: $(call needs,bench)
	$(PYTHON) -m benchmarks.run

clean:
	rm -rf .venv build dist demo.png .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

.venv/installed-%: pyproject.toml | .venv
	.venv/bin/python -m pip install -qq --disable-pip-version-check --editable ".[$*]"
	touch $@

.venv:
	python3 -m venv .venv
