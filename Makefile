# The two commands are `make demo` and `make test`; both go through `make install`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TORCH := 2.13.0
# Test processes, each with a core's worth of work; a file stays in one, for its fixtures.
WORKERS ?= 2
# What failed beside others runs once more by itself, if it is three tests at most: a machine
# that stalls for seconds upsets a server's test, but hardly the same one twice.
ALONE = OMP_NUM_THREADS=1 $(BIN)/python tests/alone.py

.PHONY: install demo test test-all lint docs-check clean

install: $(STAMP)

# torch alone and first: with it installed, the rest is resolved under a constraint that names the
# build that is there; anything looser replaces a CPU build by gigabytes of CUDA.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "torch==$(TORCH)"
	$(BIN)/python -m pip freeze | grep '^torch==' > $(VENV)/torch.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -c $(VENV)/torch.txt -e '.[all]' -r requirements-dev.txt
	touch $(STAMP)

demo: install
	$(BIN)/strop demo --output demo-out

test: install
	$(BIN)/ruff format --check src tests benchmarks examples
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile --cache-clear \
		--doctest-modules src tests \
		|| { test $$? -eq 1 && $(ALONE); }

test-all: install
	$(BIN)/python -m pytest -q --doctest-modules src tests -m ''

clean:
	rm -rf $(VENV) demo-out build dist
