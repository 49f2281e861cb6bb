"""naics/evaluate.py run as a user runs it, on a small taxonomy and a model made by hand.

python -m pytest tests/test_naics_evaluate_runs.py
"""

import json

import numpy as np
import pytest
from conftest import ROOT, assert_refused, run_main, run_script
from tiny_naics import hand_made, write_data

from naics import evaluate, metrics
from naics.calibration import fit_weights
from naics.data.census import load_index, load_references, load_taxonomy
from naics.data.distances import tree_distances
from naics.structure_metrics import structure_measures


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A data folder and a checkpoint beside it, whose model is the hand-made one."""
    data = write_data(tmp_path / "data")
    model = hand_made(data, tmp_path / "run" / "best.pt")
    monkeypatch.setattr(evaluate, "load_model", lambda checkpoint, data_dir, device: model)
    return tmp_path


def run(folder, *flags):
    command = ["--checkpoint", folder / "run" / "best.pt", "--data_dir", folder / "data", "--device", "cpu"]
    return run_main(evaluate.main, *command, *flags)


def results_of(out):
    return json.loads((out / "results.json").read_text())


# ---------------------------------------------------------------- the command


def test_a_run_writes_its_results_and_logs_the_sealed_split(folder):
    for time in (1, 2):
        result = run(folder)
        assert result.returncode == 0, result.stderr
        assert f"sealed split opened {time} times" in result.stdout
    out = folder / "run"
    results, page = results_of(out), (out / "results.md").read_text()
    assert results["split"] == "test" and results["test_opened"] == 2
    log = [json.loads(line) for line in (out / "test_log.jsonl").read_text().splitlines()]
    assert len(log) == 2 and log[0]["checkpoint"] == str(folder / "run" / "best.pt")
    for name in (*results["text_to_code"], *results["structure"], *results["collapse"], "## By sector"):
        assert f"| {name} |" in page or name in page.splitlines(), name
    mrr = results["text_to_code"]["hybrid search"]["mrr"]
    assert f"{mrr['value']:.3f} [{mrr['low']:.3f}, {mrr['high']:.3f}]" in page
    assert f"MRR {mrr['value']:.3f}" in run(folder, "--out", folder / "other").stdout


def test_the_validation_split_opens_nothing(folder):
    result = run(folder, "--split", "validation", "--out", folder / "out")
    assert result.returncode == 0, result.stderr
    assert results_of(folder / "out")["test_opened"] is None
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["results.json", "results.md"]


def test_bad_input_is_refused(folder, monkeypatch):
    (folder / "file").write_text("")
    assert_refused(run(folder, "--out", folder / "file"), "--out", "is a file")
    model = evaluate.load_model(None, None, None)
    model.distances = lambda queries: np.full((len(queries), len(model.taxonomy)), np.nan)
    assert_refused(run(folder, "--split", "validation"), "best.pt", "not finite")
    monkeypatch.undo()
    assert_refused(run(folder), "best.pt")
    (folder / "run" / "best.pt").unlink()
    script = ROOT / "naics" / "evaluate.py"
    assert_refused(run_script(script, "--checkpoint", folder / "run" / "best.pt"), "no such checkpoint")


def test_a_split_without_entries_is_refused(folder):
    taxonomy, index = load_taxonomy(folder / "data"), load_index(folder / "data")
    index.roles[index.roles == "test"] = "train"
    with pytest.raises(evaluate.InputError, match="no entry of role test"):
        evaluate.entries_of(taxonomy, index, "test")


# ---------------------------------------------------------------- the numbers


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("naics")
    data = write_data(folder / "data")
    model = hand_made(data, folder / "best.pt")
    index, references = load_index(data), load_references(data)
    return model, index, references, evaluate.evaluate_model(model, index, references, "test")


def test_rows_are_the_measures_of_their_scores(measured):
    model, index, references, results = measured
    taxonomy = model.taxonomy
    texts, columns = evaluate.entries_of(taxonomy, index, "test")
    leaves = taxonomy.leaves
    assert texts == [text for text, role in zip(index.texts, index.roles, strict=True) if role == "test"]
    assert (leaves[columns] == index.rows[index.roles == "test"]).all()
    assert results["counts"] == {
        "codes": 23,
        "candidates": len(leaves),
        "queries": len(texts),
        "codes_asked_for": len(set(columns)),
    }
    distances = model.distances(model.encode_queries(texts))[:, leaves]
    ranks = [int((row < row[column]).sum()) + 1 for row, column in zip(distances, columns, strict=True)]
    learned = results["text_to_code"]["learned space"]
    assert learned["mrr"]["value"] == pytest.approx(np.mean([1 / rank for rank in ranks]))
    assert learned["hits@5"]["value"] == pytest.approx(np.mean([rank <= 5 for rank in ranks]))

    # The hybrid's weights come from the validation entries alone.
    methods = evaluate.Methods(model, index, references)
    asked, answers = evaluate.entries_of(taxonomy, index, "validation")
    weights = fit_weights(methods.halves(asked), answers)
    assert list(results["hybrid_weights"].values()) == pytest.approx(weights.tolist())
    hybrid = np.tensordot(weights, methods.halves(texts), 1)
    mrr = metrics.query_measures(hybrid, columns, taxonomy.ancestors[leaves])["mrr"]
    assert results["text_to_code"]["hybrid search"]["mrr"]["value"] == pytest.approx(mrr.mean())
    difference = results["differences"]["hybrid search - learned space, codes and entries"]["mrr"]
    assert difference["value"] == pytest.approx(mrr.mean() - learned["mrr"]["value"])
    assert difference["low"] <= difference["value"] <= difference["high"]
    table = results["by_sector"]
    assert sum(row["queries"] for row in table.values()) == len(texts)
    whole = sum(
        row["queries"] * row["learned space, codes and entries, mrr"] for row in table.values()
    ) / len(texts)
    assert whole == pytest.approx(learned["mrr"]["value"])


def test_structure_stands_beside_its_ceiling(measured):
    model, _, _, results = measured
    taxonomy = model.taxonomy
    tree = tree_distances(taxonomy)
    for name, distances in (("exact_tree", tree), ("learned", model.distances(model.codes))):
        wanted = structure_measures(distances, tree, taxonomy.levels, taxonomy.parents)
        assert {key: row[name] for key, row in results["structure"].items()} == wanted
    assert results["structure"]["spearman"]["exact_tree"] == pytest.approx(1)
    assert results["radii"]["child_outside_parent"] == 1  # as the model was made
    assert results["experts"] is None and "at_radius_bound" in results["collapse"]


def test_references_within_a_group_are_no_question(measured):
    model, _, references, results = measured
    taxonomy = model.taxonomy
    below = np.array([(taxonomy.ancestors[taxonomy.leaves] == row).any(axis=1) for row in range(23)])
    texts, targets, origins = evaluate.reference_queries(references, below)
    assert texts == list(references.activities) and [taxonomy.codes[row] for row in targets] == [
        *("541940", "812910", "311811", "812922")
    ]
    assert results["cross_references"]["queries"] == 4
    first = results["cross_references"]["destination_first"]
    assert first["lexical half of it"]["value"] == 1 and first["BM25, title"]["value"] < 1
    assert results["cross_references"]["read_before"] == ["hybrid search", "lexical half of it"]
    within = type(references)(origins, references.texts, texts, tuple((row,) for row in origins))
    assert evaluate.reference_queries(within, below)[0] == []


def test_a_leak_is_counted(measured):
    model, index, references, results = measured
    assert results["leaks"] == {"exact": 0, "near": 0, "withheld": int((index.roles == "withheld").sum())}
    taxonomy, trained = model.taxonomy, index.texts[int(np.argmax(index.roles == "train"))]
    queries = [trained.upper(), taxonomy.titles[5] + "!", references.activities[0] + "s", "nothing like it"]
    leaks = evaluate.audit_leaks(taxonomy, index, references, queries)
    assert (leaks["exact"], leaks["near"]) == (2, 3)


def test_a_model_trained_on_redirections_says_so(measured):
    model, index, references, _ = measured
    model.config = {"loss": {"redirect_weight": 1.0}}
    methods = evaluate.Methods(model, index, references)
    below = np.array(
        [(model.taxonomy.ancestors[model.taxonomy.leaves] == row).any(axis=1) for row in range(23)]
    )
    found = evaluate.measure_references(methods, references, below, 0)
    model.config = {}
    assert "learned space" in found["read_before"]
