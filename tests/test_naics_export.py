"""Exported codes: every form holds the same points, and the index ranks as the hyperbolic distance does."""

import csv
import hashlib
import json

import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import assert_refused, run_main
from tiny_naics import TITLES, hand_made, write_data

from naics import export


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("naics") / "data")


def run_export(monkeypatch, model, data_dir, out):
    monkeypatch.setattr(export, "load_model", lambda checkpoint, data_dir, device: model)
    return run_main(export.main, "--checkpoint", model.checkpoint, "--data_dir", data_dir, "--out", out)


def lorentz_points(tangent, c):
    """The exponential map at the origin, in float64 and by its definition."""
    v = tangent.astype(np.float64)
    radius = np.sqrt(c) * np.linalg.norm(v, axis=-1, keepdims=True)
    return np.concatenate([np.cosh(radius), np.sinh(radius) / radius * np.sqrt(c) * v], axis=-1) / np.sqrt(c)


@pytest.mark.parametrize("c", [0.1, 1.0, 10.0])
def test_every_file_holds_the_same_points(monkeypatch, data_dir, tmp_path, c):
    model = hand_made(data_dir, tmp_path / "best.pt", curvature=c)
    out = tmp_path / "export"
    result = run_export(monkeypatch, model, data_dir, out)
    assert result.returncode == 0, result.stderr
    table, arrays = pq.read_table(out / "codes.parquet"), np.load(out / "codes.npz")
    assert table["code"].to_pylist() == list(TITLES) == arrays["codes"].tolist()
    assert table["title"].to_pylist() == list(TITLES.values())
    parents = dict(zip(TITLES, table["parent"].to_pylist(), strict=True))
    assert parents["812910"] == "81291" and parents["31"] is None
    columns = {
        name: np.array(table[name].to_pylist(), np.float32) for name in ("tangent", "lorentz", "poincare")
    }
    for name, values in columns.items():
        assert str(table.schema.field(name).type) == f"fixed_size_list<element: float>[{values.shape[1]}]"
        np.testing.assert_array_equal(values, arrays[name])
    np.testing.assert_array_equal(columns["tangent"], model.codes)
    expected = lorentz_points(model.codes, c)
    np.testing.assert_allclose(columns["lorentz"], expected, rtol=2e-6, atol=2e-6)
    time, space = expected[:, :1], expected[:, 1:]
    np.testing.assert_allclose((space**2).sum(1) - time[:, 0] ** 2, -1 / c, rtol=1e-9)
    ball = np.sqrt(c) * space / (np.sqrt(c) * time + 1)
    np.testing.assert_allclose(columns["poincare"], ball, rtol=2e-6, atol=2e-6)
    np.testing.assert_allclose(table["radius"].to_numpy(), np.linalg.norm(model.codes, axis=1), rtol=1e-6)

    with open(out / "poincare.tsv", newline="") as file:
        lines = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert lines[0][:4] == ["code", "level", "title", "x0"] and len(lines) == 1 + len(TITLES)
    read = np.array([line[3:] for line in lines[1:]], np.float32)
    np.testing.assert_array_equal(read, columns["poincare"])

    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["geometry"] == "lorentz" and manifest["curvature"] == c and manifest["dimension"] == 8
    assert manifest["checkpoint"]["sha256"] == hashlib.sha256(b"stands for weights").hexdigest()
    assert sorted(manifest["files"]) == sorted(path.name for path in out.iterdir() if path.suffix != ".json")
    for name, facts in manifest["files"].items():
        assert facts["sha256"] == hashlib.sha256((out / name).read_bytes()).hexdigest()
        assert facts["bytes"] == (out / name).stat().st_size
    assert manifest["index"]["in_exact_order"] == 1.0


@pytest.mark.parametrize("c", [0.1, 1.0, 10.0])
def test_the_index_orders_as_the_distance_does(monkeypatch, data_dir, tmp_path, c):
    model = hand_made(data_dir, tmp_path / "best.pt", curvature=c)
    assert run_export(monkeypatch, model, data_dir, tmp_path / "export").returncode == 0
    index = faiss.read_index(str(tmp_path / "export/codes.faiss"))
    rng = np.random.default_rng(0)
    tangent = rng.normal(size=(200, 8)) * rng.uniform(0.05, 1.0, (200, 1)) / np.sqrt(c)
    queries, points = lorentz_points(tangent, c), lorentz_points(model.codes, c)
    product = queries[:, 1:] @ points[:, 1:].T - queries[:, :1] * points[:, 0]
    distance = np.arccosh(np.maximum(-c * product, 1)) / np.sqrt(c)
    values, found = index.search(queries.astype(np.float32), len(points))
    np.testing.assert_array_equal(found, np.argsort(distance, axis=1))
    np.testing.assert_allclose(values, np.take_along_axis(product, found, 1), rtol=1e-5, atol=1e-5 / c)


@pytest.mark.parametrize("kind", ["euclidean", "sphere"])
def test_other_geometries_are_searched_by_their_own_distance(monkeypatch, data_dir, tmp_path, kind):
    model = hand_made(data_dir, tmp_path / "best.pt", kind)
    assert run_export(monkeypatch, model, data_dir, tmp_path / "export").returncode == 0
    index = faiss.read_index(str(tmp_path / "export/codes.faiss"))
    rng = np.random.default_rng(1)
    queries = rng.normal(size=(50, 8)).astype(np.float32)
    if kind == "sphere":
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    distance = np.linalg.norm(queries[:, None].astype(np.float64) - model.codes, axis=-1)
    np.testing.assert_array_equal(index.search(queries, 23)[1], np.argsort(distance, axis=1))
    manifest = json.loads((tmp_path / "export/manifest.json").read_text())
    assert "poincare.tsv" not in manifest["files"] and manifest["curvature"] is None
    assert pq.read_schema(tmp_path / "export/codes.parquet").names[-1] == "tangent"


def test_far_out_the_manifest_says_that_the_order_suffers(data_dir, tmp_path):
    """At radius 9 float32 products lose the distances among near codes, which the manifest must not hide."""
    model = hand_made(data_dir, tmp_path / "best.pt")
    model.codes = (9 * model.codes / np.linalg.norm(model.codes, axis=1, keepdims=True)).astype(np.float32)
    model.codes[-12:] = model.codes[-1] + 1e-4 * model.codes[-12:]
    assert export.write_export(model, tmp_path / "out")["index"]["in_exact_order"] < 0.9


def test_a_file_in_the_place_of_the_folder_is_refused(monkeypatch, data_dir, tmp_path):
    model = hand_made(data_dir, tmp_path / "best.pt")
    (tmp_path / "file").write_text("")
    assert_refused(run_export(monkeypatch, model, data_dir, tmp_path / "file"), "is a file")
