# Everything runs in .venv, which the first target that needs it sets up. Python 3.11 or newer.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo dev test lint types clean

demo: $(VENV)/.installed  ## ingest the samples through Dagster and search them; ends by itself
	$(BIN)/rag-pipeline up
	$(BIN)/rag-pipeline ingest
	@for question in 'Milvus が止まっているあいだの削除はどうなるか' 'how do I run a backfill in the Dagster UI' '文字コード Shift_JIS'; do \
		printf '\n== %s\n' "$$question"; $(BIN)/rag-pipeline search --limit 3 "$$question" || exit 1; \
	done
	@printf '\nThe servers keep running, so that you can search: %s/rag-pipeline search "…"\n' $(BIN)
	@printf 'Stop them with %s/rag-pipeline down; see all of it in the Dagster UI with make dev.\n' $(BIN)

dev: $(VENV)/.installed  ## the Dagster UI with everything running; Ctrl-C stops it
	$(BIN)/rag-pipeline dev

test: lint types  ## everything that has to pass
	$(BIN)/python -m pytest

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

clean:  ## stop the servers and remove the environment; data under .rag stays
	-test -x $(BIN)/rag-pipeline && $(BIN)/rag-pipeline down
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(INSTALL) -e '.[dev,bge-m3]'
	touch $@
