#!/usr/bin/env bash
# Sets up, checks style and passes the tests. `bash scripts/test.sh -m "not slow"` is the quick round.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
.venv/bin/ruff check .
.venv/bin/ruff format --check .
exec .venv/bin/python -m pytest -n auto --dist loadfile --durations=15 "$@"
