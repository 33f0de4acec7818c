# Everything is installed into .venv, with the versions of uv.lock; nothing outside this folder is touched.
PYTHON ?= python3
export UV_PROJECT_ENVIRONMENT = .venv
# uv takes the interpreter that made .venv and never fetches one of its own.
export UV_PYTHON_DOWNLOADS = never

.DEFAULT_GOAL := run
.PHONY: setup run test check clean

.venv/.installed: pyproject.toml uv.lock
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check 'uv>=0.8'
	.venv/bin/uv sync --locked --inexact --compile-bytecode --quiet --python .venv/bin/python
	touch $@

setup: .venv/.installed

run: setup
	.venv/bin/coursewire up --samples --data-dir .coursewire/demo $(ARGS)

# As many at once as there are cores, at most four: each brings servers of its own. ARGS="-n 0" for one by one.
test: setup
	.venv/bin/pytest -n auto --maxprocesses 4 --dist worksteal $(ARGS)

check: setup
	.venv/bin/uv lock --check --quiet
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

clean:
	rm -rf .venv .coursewire
