#!/usr/bin/env bash
# Trains the three stages of the NAICS curriculum in turn, each from the best weights of the one before.
#   bash scripts/train_naics_curriculum.sh [SETTING=VALUE or flag ...]      (run again to go on where it stopped)
# All arguments go to every stage, such as: model=ngram paths.data_dir=data/naics --seed 1
set -euo pipefail
cd "$(dirname "$0")/.."
[ -x .venv/bin/python ] || bash scripts/setup.sh
for stage in 01_stage_easy 02_stage_medium 03_stage_hard; do
  .venv/bin/python naics/train.py -c "$stage" --resume auto "$@"
done
