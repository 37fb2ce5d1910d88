# Every target runs in .venv, which is created on first use. Requires Python 3.11 or newer.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
COMPILE := $(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --quiet --custom-compile-command 'make constraints'

.PHONY: demo dev test test-fast test-ray fuzz lint types constraints clean

demo: $(VENV)/.installed  ## ingest the samples through Dagster, search them, and end
	$(BIN)/rag-pipeline up
	$(BIN)/rag-pipeline ingest
	@for question in 'Milvus が止まっているあいだの削除はどうなるか' 'how do I run a backfill in the Dagster UI' '文字コード Shift_JIS'; do \
		printf '\n== %s\n' "$$question"; $(BIN)/rag-pipeline search --limit 3 "$$question" || exit 1; \
	done
	@printf '\nThe servers keep running: %s/rag-pipeline search "…"\n' $(BIN)
	@printf 'Stop them with %s/rag-pipeline down, or run make dev for the Dagster UI.\n' $(BIN)

dev: $(VENV)/.installed  ## run the servers, the Dagster daemon and the UI; Ctrl-C stops all but servers that ran before
	$(BIN)/rag-pipeline dev

# Each worker starts servers of its own; a file's tests stay together. One more than there are cores: some tests wait for
# Dagster's sensors.
WORKERS ?= 3
# The workers and the hundreds of commands that the tests start import the same files: compiled once.
unexport PYTHONDONTWRITEBYTECODE
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

test: lint types  ## run everything that must pass: lint, types and all tests, on real servers
	$(PYTEST)

test-fast: $(VENV)/.installed-dev  ## run the tests that need no server, in under a minute
	$(PYTEST) -m 'not servers and not slow'

# Apart from the others, which skip them: Ray takes 240 MB, and its nodes a minute or two. constraints-ray.txt is what was
# tried.
test-ray: $(VENV)/.installed-dev  ## run the tests on clusters of Ray
	$(INSTALL) -c constraints-ray.txt -e '.[ray]'
	$(BIN)/python -m pytest rag_pipeline_tests/indexing/test_ray.py

# Property-based tests are deterministic in `make test`; here each round searches for new counterexamples. A test with
# its own max_examples keeps that number a round, the others try 1000.
ROUNDS ?= 5
fuzz: $(VENV)/.installed-dev  ## run only the property-based tests, at random and for longer: make fuzz ROUNDS=20
	for round in $$(seq $(ROUNDS)); do \
		$(BIN)/python -m pytest -m hypothesis --hypothesis-profile fuzz || exit 1; \
	done

lint: $(VENV)/.installed-dev  ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev  ## check types
	$(BIN)/mypy

# Pins are kept unless pyproject.toml excludes them or UPGRADE=--upgrade is given. The hashes are those of the index for
# every platform. The extra bge-m3 has none: its torch is often another build of the same version, such as +cpu.
constraints: $(VENV)/.installed  ## write constraints.txt, with hashes, and constraints-bge-m3.txt
	$(INSTALL) 'uv>=0.13,<0.14'
	$(COMPILE) $(UPGRADE) --extra dev --extra kubernetes --no-strip-extras --generate-hashes -o constraints.txt
	$(COMPILE) $(UPGRADE) --extra bge-m3 -c constraints.txt -o constraints-bge-m3.txt
	$(COMPILE) $(UPGRADE) --extra ray -c constraints.txt -o constraints-ray.txt

clean:  ## stop the servers and remove the environment; keep the data under .rag
	-test -x $(BIN)/rag-pipeline && $(BIN)/rag-pipeline down
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is required: make PYTHON=/path/to/python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) --require-hashes -r constraints.txt
	$(INSTALL) --no-deps -e .
	@# As pip does for a package that it copies: else each command compiles what it imports where nobody may write bytecode.
	$(BIN)/python -m compileall -q rag_pipeline
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed constraints-bge-m3.txt
	$(INSTALL) -c constraints-bge-m3.txt -e '.[dev,bge-m3]'
	touch $@
