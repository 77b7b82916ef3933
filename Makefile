# Each target sets up what it needs in .venv. With PYTHON=..., that interpreter runs as it is.

ifdef PYTHON
needs =
else
PYTHON := .venv/bin/python
needs = $(1:%=.venv/installed-%)
endif

.NOTPARALLEL:
.PHONY: demo notebooks docs test fuzz conformance lint format bench report clean

demo: $(call needs,demo)
	$(PYTHON) examples/super_resolution.py

# Runs every notebook from a fresh kernel, and leaves the files as they are.
notebooks: $(call needs,notebooks)
	$(PYTHON) -m pytest --nbmake notebooks

# The pages, into site/: open site/index.html. Ruff lays out the signatures.
docs: $(call needs,docs lint)
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict

test: $(call needs,test)
	$(PYTHON) -m pytest -n 2

# Half an hour at most.
fuzz: $(call needs,test)
	FUZZ_PROFILE=long $(PYTHON) -m pytest tests/test_fuzz.py --hypothesis-show-statistics
	$(PYTHON) -m tests.fuzz_onednn

conformance: $(call needs,test)
	$(PYTHON) -m pytest -n 2 -p tests.conformance --conformance docs/conformance.md \
		tests/test_values.py tests/test_gradients.py tests/test_transforms.py

# The type checker reads the examples and the benchmarks too, so it needs what they import.
lint: $(call needs,lint demo bench test)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m pyright --pythonpath $(PYTHON)

format: $(call needs,lint)
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

# Twelve minutes on two cores; `make bench DEVICE=cuda DTYPE=bfloat16` on a GPU. `make report` shows the
# results.
DEVICE := cpu
DTYPE := float32
measure = $(PYTHON) -m benchmarks.$(1) --device $(DEVICE) --dtype $(DTYPE) \
	--json benchmarks/results/$(1)-$(DEVICE)-$(DTYPE)$(2).json

bench: $(call needs,bench)
	$(call measure,run)
	$(call measure,models)
ifeq ($(DEVICE),cpu)
	$(call measure,models,-small-heaps) --small-heaps
endif
	$(call measure,sweep)
	$(call measure,compile_cost)

# The speed table of the README, docs/speed.md and its charts.
report: $(call needs,bench)
	$(PYTHON) -m benchmarks.report

clean:
	rm -rf .venv build dist site demo.png .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

.venv/installed-%: pyproject.toml | .venv
	.venv/bin/python -m pip install -qq --disable-pip-version-check --editable ".[$*]"
	touch $@

.venv:
	python3 -m venv .venv
