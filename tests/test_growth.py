"""scripts/growth.py at tiny sizes: its table, JSON and plot, and a path that fails."""

import json
import sys

import pytest
from conftest import ROOT, assert_refused, run_main, run_script

sys.path.insert(0, str(ROOT / "scripts"))
import growth  # noqa: E402


def test_a_path_leaves_table_and_plot(tmp_path):
    flags = ["--out", tmp_path, "--rows", 150, "--scale", 2]
    result = run_script(ROOT / "scripts/growth.py", *flags, "--path", "prepare_items")
    assert result.returncode == 0, result.stderr[-2000:]
    records = json.loads((tmp_path / "growth.json").read_text())
    assert [(each["path"], each["rows"]) for each in records] == [("prepare_items", 300)]
    assert all(each["peak_mb"] > 50 and each["seconds"] > 0.1 for each in records)
    assert result.stdout.count("prepare_items") == 2 and (tmp_path / "growth.png").stat().st_size > 5000


def test_rates_leave_start_up_out_and_a_scale_that_takes_too_long_too(monkeypatch, capsys):
    monkeypatch.setattr(growth, "measure", lambda name, rows: (5 + rows / 1000, 100.0))
    records = growth.grow("prepare_items", 20_000, [100, 10, 1], minutes=20)
    assert [each["scale"] for each in records] == [1, 10]  # a hundred times the rows would take 2,050 s
    assert all(each["rows_per_second"] == 1000 for each in records)
    assert "scale 100" in capsys.readouterr().out


def test_what_cannot_be_measured_is_refused(tmp_path, monkeypatch):
    few = ["--out", tmp_path / "out", "--path", "prepare_lspc_table", "--rows", 3]
    monkeypatch.setitem(
        growth.PATHS, "prepare_lspc_table", growth.DataPath("rows", 1, growth.make_table, "-c 1/0")
    )
    assert_refused(run_main(growth.main, *few), "prepare_lspc_table", "ZeroDivisionError")
    assert_refused(run_main(growth.main, "--out", tmp_path, "--scale", 0), "--scale")


@pytest.mark.slow
@pytest.mark.parametrize("name", growth.PATHS)
def test_every_path_runs(tmp_path, name):
    result = run_main(growth.main, "--out", tmp_path, "--path", name, "--rows", 1000, "--scale", 1)
    assert result.returncode == 0, result.stderr
