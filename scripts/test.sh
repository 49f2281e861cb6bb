#!/usr/bin/env bash
# Sets up, checks style and passes the tests.
#   bash scripts/test.sh [--fast] [pytest's flags ...]       (--fast: those not marked slow, under five minutes)
set -euo pipefail
cd "$(dirname "$0")/.."
[ "${1:-}" != --fast ] || set -- -m "not slow" "${@:2}"
bash scripts/setup.sh
.venv/bin/ruff check .
.venv/bin/ruff format --check .
exec .venv/bin/python -m pytest -n auto --dist loadfile --durations=15 "$@"
