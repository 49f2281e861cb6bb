#!/usr/bin/env bash
# Makes or refreshes ./.venv from poetry.lock; does nothing when it already matches.
# `poetry install` is the ordinary path. This one also works where only pip does (an HTML-only index, or a
# local CPU wheel of torch): the lock travels as constraints, so pip takes the build of torch that is at hand.
set -euo pipefail
cd "$(dirname "$0")/.."

stamp=.venv/.matches
want=$(cat pyproject.toml poetry.lock scripts/setup.sh | sha256sum | cut -d' ' -f1)
[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ] && exit 0

python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "setup.sh: Python 3.11 or newer is needed; set PYTHON to one (found $("$python" --version 2>&1))" >&2
  exit 2
}

started=$SECONDS
echo "setting up .venv (a few minutes the first time) ..."
[ -x .venv/bin/python ] || "$python" -m venv .venv
.venv/bin/python -m pip install --quiet --upgrade "pip>=25.1" "poetry>=2.1" poetry-plugin-export
.venv/bin/poetry export --quiet --with dev --format constraints.txt --without-hashes --output .venv/constraints.txt
.venv/bin/python -m pip install --quiet --constraint .venv/constraints.txt --editable . --group dev
echo "$want" >"$stamp"
echo "set up in $((SECONDS - started)) s"
