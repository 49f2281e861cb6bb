"""Search: probabilities by level, their calibration, evidence and notes, tables in and out, and bad input."""

import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import assert_refused, run_main
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from tiny_naics import ENTRIES, TITLES, hand_made, write_data

from naics import search, search_engine, search_files
from naics.calibration import (
    calibration_by_level,
    code_probabilities,
    expected_calibration_error,
    fit_temperature,
    fit_weights,
)
from naics.data.census import load_taxonomy, preprocess
from naics.data.texts import load_corpus
from naics.search_engine import WordIndex, load_searcher, word_index_of


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("naics") / "data")


@pytest.fixture
def model(monkeypatch, data_dir, tmp_path):
    """A checkpoint that `search` finds."""
    made = hand_made(data_dir, tmp_path / "run/best.pt")
    monkeypatch.setattr(search_engine, "load_model", lambda checkpoint, data_dir, device: made)
    return made


# ---------------------------------------------------------------- calibration


@pytest.mark.parametrize("temperature", [0.03, 1.0, 40.0])
def test_a_known_temperature_is_recovered(temperature):
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(4000, 30)) * 2 * temperature
    chances = softmax(scores / temperature, axis=1)
    targets = np.array([rng.choice(30, p=row) for row in chances])
    found = fit_temperature(scores, targets)
    assert found == pytest.approx(temperature, rel=0.05)

    # An independent search for the least negative log likelihood ends at the same place.
    def loss(log_t):
        return -log_softmax(scores / np.exp(log_t), axis=1)[np.arange(4000), targets].mean()

    least = minimize_scalar(loss, bounds=np.log([temperature / 20, temperature * 20]), method="bounded")
    assert found == pytest.approx(np.exp(least.x), rel=1e-3)


def test_two_weights_are_recovered_and_a_useless_score_gets_none():
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(3, 6000, 20)) * np.array([1.0, 50.0, 0.1])[:, None, None]
    logits = 1.5 * scores[0] + 0.04 * scores[1]
    targets = np.array([rng.choice(20, p=row) for row in softmax(logits, axis=1)])
    weights = fit_weights(scores, targets)
    np.testing.assert_allclose(weights[:2], [1.5, 0.04], rtol=0.06)
    assert abs(weights[2]) * 0.1 < 0.05
    assert fit_weights(-scores[:1], targets)[0] == 0  # no weight is below 0


def test_targets_that_are_always_first_end_at_the_bound():
    scores = np.eye(6)[np.arange(60) % 6]
    temperature = fit_temperature(scores, np.arange(60) % 6)
    assert 0 < temperature < 0.1 and np.isfinite(temperature)
    assert np.isfinite(fit_temperature(np.ones((5, 4)), np.zeros(5, int)))


def test_a_code_has_the_sum_of_its_descendants(data_dir):
    taxonomy = load_taxonomy(data_dir)
    logits = np.random.default_rng(2).normal(size=(7, len(taxonomy.leaves)))
    probability = code_probabilities(logits, taxonomy)
    leaves = softmax(logits, axis=1)
    codes = [taxonomy.codes[row] for row in taxonomy.leaves]
    for row, code in enumerate(taxonomy.codes):
        below = [n for n, leaf in enumerate(codes) if leaf.startswith(code)]
        np.testing.assert_allclose(probability[:, row], leaves[:, below].sum(1))
    np.testing.assert_allclose(probability[:, taxonomy.levels == 2].sum(1), 1)


def test_calibration_error_by_hand():
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.35, 0.35])
    correct = np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    expected = (4 * abs(0.95 - 0.75) + 2 * 0.35) / 6
    assert expected_calibration_error(confidence, correct, bins=10) == pytest.approx(expected)
    assert expected_calibration_error(np.ones(3), np.ones(3)) == 0
    rng = np.random.default_rng(0)
    chance = rng.uniform(size=200_000)
    assert expected_calibration_error(chance, (rng.uniform(size=200_000) < chance).astype(float)) < 0.01


def test_calibration_by_level_by_hand(data_dir):
    taxonomy = load_taxonomy(data_dir)
    logits = np.full((2, len(taxonomy.leaves)), -50.0)
    codes = [taxonomy.codes[row] for row in taxonomy.leaves]
    logits[:, codes.index("812921")] = np.log(0.6)
    logits[:, codes.index("812922")] = np.log(0.4)
    targets = np.array([taxonomy.row("812922"), taxonomy.row("812921")])
    found = calibration_by_level(code_probabilities(logits, taxonomy), targets, taxonomy)
    assert found[6] == {"accuracy": 0.5, "confidence": 0.6, "calibration_error": 0.1}
    assert found[5] == found[2] == {"accuracy": 1.0, "confidence": 1.0, "calibration_error": 0.0}


# ---------------------------------------------------------------- the engine


def test_words_weigh_by_rarity():
    index = WordIndex(["pet grooming services", "pet boarding services", "film services"])
    assert index.coverage("grooming pets", 0) == 1 and index.coverage("grooming", 1) == 0
    # 3 of 3, 2 of 3 and 1 of 3 texts: log 2, log 2.5, log 4; log 4 too where no text has it
    expected = np.log(2.5) / (np.log(2.5) + np.log(4))
    assert index.coverage("pet grooming", 1) == pytest.approx(expected)
    assert index.known("pet unheard") == pytest.approx(np.log(2.5) / (np.log(2.5) + np.log(4)))
    assert index.known("???") == index.coverage("???", 0) == index.likeness("???", 0) == 0
    assert index.likeness("film", 2) > index.likeness("services", 2)


def test_an_unknown_text_gets_no_answer(data_dir, tmp_path):
    searcher = load_searcher(tmp_path / "none.pt", data_dir, "cpu")
    known, half, unknown, nothing = searcher.answer(
        ["dog grooming", "dog xyzzy quux", "xyzzy quux", "  "], 3, 0.7
    )
    assert nothing is None and unknown.code is None and known.code == "812910"
    assert half.codes[0].code == "812910" and half.codes[0].probability < known.codes[0].probability
    leaves = [candidate.probability for candidate in unknown.codes]
    assert max(leaves) == pytest.approx(1 / 8, abs=0.05) and unknown.codes[0].evidence is None


def test_levels_nest_and_the_threshold_moves_the_answer(model, data_dir):
    searcher = load_searcher(model.checkpoint, data_dir, "cpu")
    texts = [text for entries in ENTRIES.values() for text in entries]
    deep, strict = (searcher.answer(texts, 8, threshold) for threshold in (0.0, 0.95))
    for loose, tight in zip(deep, strict, strict=True):
        codes = [level.code for level in loose.levels]
        assert [len(code) for code in codes] == [2, 3, 4, 5, 6]
        assert all(low.startswith(high) for high, low in zip(codes, codes[1:], strict=False))
        probability = [level.probability for level in loose.levels]
        assert probability == sorted(probability, reverse=True)
        assert loose.code == codes[-1]
        likely = [level.code for level in tight.levels if level.probability >= 0.95]
        assert tight.code == (likely[-1] if likely else None)
        assert sum(code.probability for code in loose.codes) == pytest.approx(1, abs=1e-3)
    assert len({answer.code and len(answer.code) for answer in strict}) > 1  # some stop higher up


class Told:
    """In place of the hybrid: six-digit codes as likely as told, the others share what is left."""

    model = None

    def __init__(self, taxonomy, told: dict[str, float]) -> None:
        codes = [taxonomy.codes[row] for row in taxonomy.leaves]
        rest = (1 - sum(told.values())) / (len(codes) - len(told))
        self._log = np.log([told.get(code, rest) for code in codes])

    def scores(self, texts):
        return np.tile(self._log, (1, len(texts), 1))


def test_the_answer_is_the_deepest_of_all_codes_that_reach_the_threshold(data_dir):
    corpus = load_corpus(data_dir)
    told = Told(corpus.taxonomy, {"311811": 0.3, "311812": 0.01, "541940": 0.29})  # and 81: 0.4
    searcher = search_engine.Searcher(corpus, told, word_index_of(corpus), np.ones(1))
    found = {threshold: searcher.answer(["x"], 2, threshold)[0] for threshold in (0.0, 0.25, 0.35, 0.5)}
    assert [answer.code for answer in found.values()] == ["311811", "311811", "812", None]
    for answer in found.values():
        codes = [level.code for level in answer.levels]
        assert [len(code) for code in codes] == [2, 3, 4, 5, 6] and answer.code in (None, *codes)
        assert all(low.startswith(high) for high, low in zip(codes, codes[1:], strict=False))
    assert search.row_of(found[0.25])["naics_probability"] == 0.3


def test_a_batch_answers_as_one_text_does(model, data_dir, monkeypatch):
    searcher = load_searcher(model.checkpoint, data_dir, "cpu")
    texts = ["dog grooming", "", "nail salons", "bread", "film developing while you wait"]
    together = searcher.answer(texts, 2, 0.5)
    monkeypatch.setattr(search_engine, "QUERIES_AT_ONCE", 1)
    assert together == searcher.answer(texts, 2, 0.5)


def test_evidence_and_notes(model, data_dir):
    searcher = load_searcher(model.checkpoint, data_dir, "cpu")
    pets, film = searcher.answer(["mobile dog grooming", "film developed in one hour or less"], 3, 0.5)
    assert pets.codes[0].evidence.text == "Dog grooming, mobile or in a shop"
    assert pets.codes[0].evidence.role == "train" and pets.notes == []
    lab = next(code for code in film.codes if code.code == "812922")
    assert "hour" in lab.evidence.text
    searcher = load_searcher(model.checkpoint, data_dir, "cpu")
    query = "providing veterinary services"
    notes = searcher._notes(query, [searcher.taxonomy.row("812910")])
    assert notes == [
        "812910 says: Providing veterinary services--are classified in Industry 541940, Veterinary Services"
    ]
    # Of the five-digit parent; and none where the reference sends to the best code itself
    assert searcher._notes("boarding pets", [searcher.taxonomy.row("541940")])[0].startswith(
        "54194 says: Groom"
    )
    assert searcher._notes(query, [searcher.taxonomy.row(code) for code in ("541940", "812910")]) == []


def test_the_calibration_is_kept_until_the_data_change(model, data_dir, tmp_path):
    corpus = load_corpus(data_dir)
    arguments = (corpus, model, word_index_of(corpus))
    first = search_engine.stored_calibration(data_dir, *arguments)
    path = model.checkpoint.parent / "search_calibration.json"
    assert json.loads(path.read_text()) == first and first["entries"] == 8
    path.write_text(json.dumps(first | {"weights": [1.0, 2.0]}))
    assert search_engine.stored_calibration(data_dir, *arguments)["weights"] == [1.0, 2.0]
    model.checkpoint.write_bytes(b"other weights")
    assert search_engine.stored_calibration(data_dir, *arguments)["weights"] == first["weights"]
    path.write_text("{")
    assert search_engine.stored_calibration(data_dir, *arguments)["weights"] == first["weights"]


# ---------------------------------------------------------------- the command


def flags(data_dir, checkpoint):
    return ("--data_dir", data_dir, "--checkpoint", checkpoint)


def test_a_query_is_answered_as_a_table_and_as_json(model, data_dir):
    result = run_main(search.main, "mobile dog grooming", *flags(data_dir, model.checkpoint))
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("mobile dog grooming: ") and "812910" in lines[0]
    assert any("index: Dog grooming, mobile or in a shop (train)" in line for line in lines)
    assert result.stderr == ""
    queries = ("nail salons", "retail bakeries")
    result = run_main(search.main, *queries, "--json", "--top_k", 2, *flags(data_dir, model.checkpoint))
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [answer["query"] for answer in answers] == list(queries)
    assert [answer["codes"][0]["code"] for answer in answers] == ["812113", "311811"]
    assert all(len(answer["codes"]) == 2 and len(answer["levels"]) == 5 for answer in answers)


def test_certainty_is_said_in_words():
    levels = [search_engine.Candidate(code, "", p) for code, p in (("81", 0.95), ("812", 0.9), ("8129", 0.6))]
    answer = search_engine.Answer("q", "8129", [*levels, search_engine.Candidate("81291", "", 0.4)], [], [])
    assert search.summary(answer) == "surely 812, probably 8129"
    answer = search_engine.Answer("q", None, [search_engine.Candidate("81", "", 0.3)], [], [])
    assert search.summary(answer).startswith("no clear answer")


def test_without_a_checkpoint_bm25_answers_and_says_so(data_dir, tmp_path):
    result = run_main(search.main, "pedicurist", *flags(data_dir, tmp_path / "none.pt"))
    assert result.returncode == 0 and "812113" in result.stdout.splitlines()[0]
    assert result.stderr.count("\n") == 1 and "BM25 alone" in result.stderr
    assert len(json.loads((data_dir / "search_calibration.json").read_text())["weights"]) == 1


def write_rows(path, rows):
    if path.suffix == ".csv":
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)


def read_rows(path):
    if path.suffix == ".csv":
        with open(path, newline="") as file:
            return list(csv.DictReader(file))
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    return pq.read_table(path).to_pylist()


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_tables_keep_their_rows_and_order(model, data_dir, tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(search_files, "CHUNK_ROWS", 7)
    monkeypatch.setattr(search_files, "CSV_BLOCK", 300)
    entries = [(code, text) for code, texts in ENTRIES.items() for text in texts] * 3
    rows = [
        {"id": f"0{n:03}", "what it does": text, "note": 'a "quoted",\nbroken ünï line'}
        for n, (_, text) in enumerate(entries)
    ]
    rows[5]["what it does"] = "  "
    if suffix != ".csv":
        rows[9]["what it does"] = None
    source, out = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    write_rows(source, rows)
    arguments = ("--file", source, "--column", "what it does", "--out", out)
    result = run_main(search.main, *arguments, *flags(data_dir, model.checkpoint))
    assert result.returncode == 0, result.stderr
    found = read_rows(out)
    assert [{name: row[name] for name in rows[0]} for row in found] == rows
    assert list(found[0]) == [*rows[0], *search.ADDED]
    right = [row["naics_best"] == code for row, (code, _) in zip(found, entries, strict=True)]
    assert np.mean(right) > 0.85
    empty = found[5]
    assert not any(empty[name] for name in search.ADDED)
    full = found[0]
    assert full["naics_best_title"] == TITLES[full["naics_best"]]
    assert full["naics_best"].startswith(full["naics_code"]) and float(full["naics_probability"]) >= 0.5
    assert full["naics_evidence"] == rows[0]["what it does"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_without_rows_stays_one(model, data_dir, tmp_path, suffix):
    source, out = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    if suffix == ".csv":
        source.write_text("text\n")
    else:
        pq.write_table(pa.table({"text": pa.array([], pa.string())}), source)
    result = run_main(search.main, "--file", source, "--out", out, *flags(data_dir, model.checkpoint))
    assert result.returncode == 0, result.stderr
    assert read_rows(out) == [] and "naics_code" in out.read_bytes().decode("latin1")


def test_half_an_emoji_goes_out_as_it_came_in(model, data_dir, tmp_path):
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows = [{"text": "dog grooming \ud83d"}, {"text": "nail salons", "note": "\ude00 ü"}]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run_main(search.main, "--file", source, "--out", out, *flags(data_dir, model.checkpoint))
    assert result.returncode == 0, result.stderr
    found = read_rows(out)
    assert [{name: row[name] for name in asked} for row, asked in zip(found, rows, strict=True)] == rows
    assert [row["naics_best"] for row in found] == ["812910", "812113"]


def test_bad_input_is_refused(model, data_dir, tmp_path):
    out = tmp_path / "out.csv"

    def refused(*says, query=(), content=None, name="in.csv", **changed):
        source = tmp_path / name
        if content is not None:
            source.write_bytes(content)
        files = {} if query else {"file": source, "out": out}
        given = [each for key, value in (files | changed).items() for each in (f"--{key}", value)]
        result = run_main(search.main, *query, *given, *flags(data_dir, model.checkpoint))
        assert_refused(result, *says)
        assert not out.exists() and not list(tmp_path.glob(".out*"))

    refused("no such file", name="none.csv")
    refused("no column 'text'", "words", content=b"id,words\n1,a\n")
    refused("2 column 'text'", content=b"text,text\n1,a\n")
    refused("already", "naics_code", content=b"text,naics_code\na,b\n")
    later = b'{"text": "a"}\n{"text": "b", "naics_code": "311811"}\n'
    refused("already", "naics_code", name="in.jsonl", content=later, out=tmp_path / "o.jsonl")
    refused("not a whole csv", content=b"text,b\na,b\nc\n")
    refused("not a whole csv", content=b'text,"b\n' + b"dog grooming,x\n" * 20_000)  # an unclosed quote
    refused("not a whole csv", content=b"text\n\xff\xfe\n")
    refused("is empty", content=b"")
    refused("line 2", "JSON", name="in.jsonl", content=b'{"text": "a"}\n{"text"', out=tmp_path / "o.jsonl")
    refused("line 1", "JSON", name="in.jsonl", content=b"[" * 100_000, out=tmp_path / "o.jsonl")
    refused("line 1", "'text'", name="in.jsonl", content=b'{"words": "a"}\n', out=tmp_path / "o.jsonl")
    refused("not a whole parquet", name="in.parquet", content=b"PAR1", out=tmp_path / "o.parquet")
    refused("form of --file", content=b"text\na\n", out=tmp_path / "o.parquet")
    refused(".csv, .jsonl or .parquet", name="in.txt", content=b"text\na\n")
    refused("no folder", content=b"text\na\n", out=tmp_path / "none/out.csv")
    refused("is the input", content=b"text\na\n", out=tmp_path / "in.csv")
    refused("--threshold 2", query=("dogs",), threshold=2)
    refused("--top_k", query=("dogs",), top_k=0)
    refused("empty query", query=(" ",))
    refused("go together", query=("dogs",), out=out)
    assert_refused(run_main(search.main), "query in quotes")


# ---------------------------------------------------------------- the real index


@pytest.mark.slow
@pytest.mark.real_data
def test_real_queries_find_their_codes(real_data, tmp_path):
    """BM25 alone on the workbooks of 2022: known answers, believable probabilities, a note, no guess."""
    preprocess(real_data / "naics/2022", tmp_path)
    searcher = load_searcher(tmp_path / "none.pt", tmp_path, "cpu")
    wanted = {"mobile dog grooming": "812910", "tattoo parlor": "812199", "raising llamas": "112990"}
    for answer in searcher.answer(list(wanted), 3, 0.5):
        assert answer.code == wanted[answer.query] and answer.codes[0].evidence is not None
    beans, riddle = searcher.answer(["growing soybeans", "asdf qwer zxcv"], 3, 0.5)
    assert beans.code == "111110" and "111191" in beans.notes[0]
    assert riddle.code is None
    kept = json.loads((tmp_path / "search_calibration.json").read_text())
    assert kept["entries"] > 3000
    assert all(level["calibration_error"] < 0.05 for level in kept["levels"].values())
    accuracy = [level["accuracy"] for level in kept["levels"].values()]
    assert accuracy == sorted(accuracy, reverse=True) and accuracy[0] > 0.9 and accuracy[-1] > 0.7
