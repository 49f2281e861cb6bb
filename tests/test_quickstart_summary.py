"""The last table of quickstart.sh and index.html, from the results of some or all of the projects."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def summary(folder: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / "scripts/quickstart_summary.py", folder]
    return subprocess.run(command, capture_output=True, text=True)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def results(tmp_path) -> Path:
    write(
        tmp_path / "category_classification/encoder/summary.json",
        json.dumps({"test": {"macro_f1": 0.75}}),
    )
    write(tmp_path / "category_classification/linear/metrics.json", json.dumps({"test": {"macro_f1": 0.5}}))
    write(tmp_path / "category_classification/report.html", "<html>")
    write(
        tmp_path / "experiments/report/summary.csv",
        "task,config,metric1_mean\nclassification,fp32_baseline,0.25\nclassification,bf16_pure,0.125\n"
        "language_modeling,fp32_baseline,2.5\nlanguage_modeling,bf16_pure,\n",
    )
    return tmp_path


def test_the_table_holds_what_is_there(results) -> None:
    run = summary(results)
    assert run.returncode == 0, run.stderr
    rows = [line.split() for line in run.stdout.splitlines() if line.startswith(("category", "experiments"))]
    assert [row[0] for row in rows] == ["category_classification", "experiments"]  # no diverged format
    assert "0.7500" in rows[0] and "0.5000" in rows[0] and "0.1250" in rows[1] and "0.2500" in rows[1]
    page = (results / "index.html").read_text()
    assert 'href="category_classification/report.html"' in page and "naics" not in page
    assert "0.7500" in page and "http" not in page


def test_no_results_are_one_line(tmp_path) -> None:
    run = summary(tmp_path)
    assert run.returncode == 2 and run.stdout == "" and not list(tmp_path.iterdir())
    assert len(run.stderr.splitlines()) == 1 and "quickstart.sh" in run.stderr
