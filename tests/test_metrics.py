"""Scores against scikit-learn, intervals against a slow bootstrap, calibration against float64 formulas."""

import json
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

from category_classification.metrics import (
    ConfusionByLanguage,
    add_language_bias,
    bootstrap_intervals,
    classification_report,
    coverage_curve,
    expected_calibration_error,
    fit_language_bias,
    fit_temperature,
    reliability_bins,
)


def simulated_rows(rows, languages, classes, rows_per_cluster=1, right=0.8, seed=0):
    """languages, labels, predictions, clusters; the rows of a cluster are copies of one row."""
    rng = np.random.default_rng(seed)
    clusters = np.arange(rows) // rows_per_cluster
    size = clusters[-1] + 1
    labels = rng.integers(0, classes, size)
    predictions = np.where(rng.random(size) < right, labels, rng.integers(0, classes, size))
    return rng.integers(0, languages, size)[clusters], labels[clusters], predictions[clusters], clusters


def count(languages, labels, predictions, num_languages, num_classes):
    confusion = ConfusionByLanguage(num_languages, num_classes)
    confusion.update(*(torch.as_tensor(x) for x in (languages, labels, predictions)))
    return confusion.counts


# ---------------------------------------------------------------- confusion counts


def test_counts_stream_and_merge_to_the_same_tensor():
    rows = [torch.from_numpy(x) for x in simulated_rows(1000, 3, 5)[:3]]
    expected = torch.zeros(3, 5, 5, dtype=torch.int64)
    for language, label, prediction in zip(*(x.tolist() for x in rows), strict=True):
        expected[language, label, prediction] += 1
    halves = [ConfusionByLanguage(3, 5), ConfusionByLanguage(3, 5)]
    for i, half in enumerate(halves):
        for batch in zip(*(x[i::2].split(77) for x in rows), strict=True):
            half.update(*batch)
        half.update(*(x[:0] for x in rows))
    assert torch.equal(halves[0].counts + halves[1].counts, expected)


@pytest.mark.parametrize("bad", [(3, 0, 0), (0, 5, 0), (0, 0, 5), (0, 0, -1)])
def test_an_id_outside_the_tensor_is_refused_before_it_is_counted(bad):
    confusion = ConfusionByLanguage(3, 5)
    with pytest.raises(ValueError, match="outside"):
        confusion.update(*(torch.tensor([i]) for i in bad))
    assert confusion.counts.sum() == 0


# ---------------------------------------------------------------- report


def expand(counts):
    """(K, K) counts -> label and prediction of each row."""
    return [np.repeat(ids.ravel(), counts.ravel()) for ids in np.indices(counts.shape)]


def assert_equals_sklearn(summary, counts):
    labels, predictions = expand(counts)
    expected = {
        "support": len(labels),
        "accuracy": accuracy_score(labels, predictions),
        "micro_f1": f1_score(labels, predictions, average="micro"),
        "macro_f1": f1_score(labels, predictions, average="macro"),
        "macro_f1_supported": f1_score(labels, predictions, average="macro", labels=np.unique(labels)),
    }
    assert {name: summary[name] for name in expected} == pytest.approx(expected, abs=1e-12, rel=0)


sparse_confusions = st.tuples(st.integers(1, 4), st.integers(2, 7)).flatmap(
    lambda shape: st.lists(
        st.one_of(st.just(0), st.integers(0, 6)),
        min_size=shape[0] * shape[1] ** 2,
        max_size=shape[0] * shape[1] ** 2,
    ).map(lambda cells: np.array(cells).reshape(shape[0], shape[1], shape[1]))
)


@settings(max_examples=80, deadline=None)
@given(sparse_confusions)
def test_report_equals_sklearn_with_absent_classes_and_languages(counts):
    num_languages, num_classes = counts.shape[:2]
    if counts.sum() == 0:
        return
    class_names, language_names = (
        [f"c{i}" for i in range(num_classes)],
        [f"l{i}" for i in range(num_languages)],
    )
    report = classification_report(
        torch.from_numpy(counts), class_names, language_names, lang_min_samples=0, lang_top_k=0
    )
    assert json.loads(json.dumps(report)) == report
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sklearn warns of each class without rows
        assert_equals_sklearn(report, counts.sum(0))
        for i, name in enumerate(language_names):
            assert (name in report["languages"]) == (counts[i].sum() > 0)
            if name in report["languages"]:
                assert_equals_sklearn(report["languages"][name], counts[i])
        labels, predictions = expand(counts.sum(0))
        expected = precision_recall_fscore_support(labels, predictions, labels=range(num_classes))
    for score, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        ours = [report["classes"][name][score] for name in class_names]
        assert ours == pytest.approx(values.tolist(), abs=1e-12, rel=0)


def test_reported_languages_follow_support_then_the_fixed_list():
    counts = np.zeros((4, 2, 2), np.int64)
    counts[:, 0, 0] = [5, 30, 20, 10]
    names = ["a", "b", "c", "d"]
    report = classification_report(counts, ["x", "y"], names, lang_min_samples=10, lang_top_k=2)
    assert list(report["languages"]) == ["b", "c"]
    assert report["other_languages"] == {"languages": 2, "support": 15}
    assert list(classification_report(counts, ["x", "y"], names, 10, 0)["languages"]) == ["b", "c", "d"]
    fixed = classification_report(counts, ["x", "y"], names, languages=["d", "a", "not there"])
    assert list(fixed["languages"]) == ["d", "a"]
    assert classification_report(counts * 0, ["x", "y"], names)["support"] == 0


# ---------------------------------------------------------------- bootstrap


def direct_bootstrap(languages, labels, predictions, clusters, num_languages, resamples, seed):
    """Draw clusters, gather their rows, score with scikit-learn."""
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(clusters == c) for c in np.unique(clusters)]
    scores = np.full((resamples, 1 + num_languages, 2), np.nan)
    for r in range(resamples):
        rows = np.concatenate([members[c] for c in rng.integers(0, len(members), len(members))])
        for i in range(1 + num_languages):
            of = rows if i == 0 else rows[languages[rows] == i - 1]
            if len(of):
                scores[r, i] = (
                    accuracy_score(labels[of], predictions[of]),
                    f1_score(labels[of], predictions[of], average="macro"),
                )
    return np.nanquantile(scores, (0.025, 0.975), axis=0)


def width(interval, score="macro_f1"):
    return interval[score][1] - interval[score][0]


@pytest.mark.filterwarnings("ignore")
def test_intervals_equal_a_direct_bootstrap():
    languages, labels, predictions, clusters = simulated_rows(300, 2, 3, right=0.6)
    clusters = np.random.default_rng(1).permutation(
        clusters // 3 * 7
    )  # unequal languages in a cluster, ids with holes
    ours = bootstrap_intervals(languages, labels, predictions, clusters, 2, 3, resamples=20_000)
    slow = direct_bootstrap(languages, labels, predictions, clusters, 2, 400, seed=2)
    assert ours["clusters"] == 100
    for i, interval in enumerate([ours["overall"], *ours["languages"]]):
        for j, score in enumerate(("accuracy", "macro_f1")):
            # A bound of 400 resamples wanders by some twentieths of the interval's width.
            assert interval[score] == pytest.approx(slow[:, i, j], abs=0.15 * width(interval, score))


def test_duplicates_in_a_cluster_widen_the_interval_as_much_as_they_must():
    # 250 clusters of 16 equal rows hold the evidence of 250 rows: intervals are 4 times as wide.
    languages, labels, predictions, clusters = simulated_rows(4000, 2, 3, rows_per_cluster=16)
    by_cluster = bootstrap_intervals(languages, labels, predictions, clusters, 2, 3)
    by_row = bootstrap_intervals(languages, labels, predictions, np.arange(4000), 2, 3)
    for ours, naive in [(by_cluster, by_row)]:
        assert width(ours["overall"]) / width(naive["overall"]) == pytest.approx(4, rel=0.15)
        assert width(ours["languages"][0]) / width(naive["languages"][0]) == pytest.approx(4, rel=0.25)


def test_interval_covers_the_true_accuracy_about_as_often_as_it_says():
    covered = 0
    for seed in range(200):
        rows = simulated_rows(900, 1, 2, rows_per_cluster=3, right=0.6, seed=seed)  # accuracy 0.6 + 0.4 / 2
        low, high = bootstrap_intervals(*rows, 1, 2, resamples=200, seed=seed)["overall"]["accuracy"]
        covered += low <= 0.8 <= high
    assert 176 <= covered <= 200  # binomial(200, 0.95) falls below 176 once in 10,000


def test_intervals_repeat_with_the_seed_and_join_the_report():
    languages, labels, predictions, clusters = simulated_rows(500, 2, 4)
    names = np.array([f"cluster {c}" for c in clusters])
    ours = bootstrap_intervals(languages, labels, predictions, clusters, 3, 4, resamples=60, seed=3)
    assert ours == bootstrap_intervals(languages, labels, predictions, clusters, 3, 4, resamples=60, seed=3)
    assert bootstrap_intervals(languages, labels, predictions, names, 3, 4)["clusters"] == 500
    assert ours["languages"][2] is None
    counts = count(languages, labels, predictions, 3, 4)
    report = classification_report(counts, list("wxyz"), ["en", "de", "fr"], 0, 0, intervals=ours)
    assert report["macro_f1_interval"] == ours["overall"]["macro_f1"]
    assert report["languages"]["de"]["accuracy_interval"] == ours["languages"][1]["accuracy"]
    assert report["languages"]["de"]["accuracy_interval"][0] < report["languages"]["de"]["accuracy"]
    json.dumps(report, allow_nan=False)


# ---------------------------------------------------------------- calibration


def negative_log_likelihood(logits, labels, temperature):
    scaled = logits / temperature
    top = scaled.max(1, keepdims=True)
    log_sum = np.log(np.exp(scaled - top).sum(1)) + top[:, 0]
    return (log_sum - scaled[np.arange(len(labels)), labels]).mean()


def drawn_from_softmax(rows=4000, classes=5, seed=0):
    """Logits with labels drawn from their own softmax: perfectly calibrated as they are."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(rows, classes)) * 2
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (probabilities.cumsum(1) < rng.random((rows, 1))).sum(1).clip(max=classes - 1)
    return logits, labels, probabilities


@pytest.mark.parametrize("scale", [0.25, 1.0, 6.0])
def test_temperature_undoes_a_known_scale_and_is_the_minimum(scale):
    logits, labels, _ = drawn_from_softmax()
    temperature = fit_temperature(torch.from_numpy(logits * scale), torch.from_numpy(labels))
    assert temperature == pytest.approx(scale, rel=0.08)
    lowest = negative_log_likelihood(logits * scale, labels, temperature)
    for factor in (0.999, 1.001):
        assert lowest < negative_log_likelihood(logits * scale, labels, temperature * factor)
    # At the minimum the mean logit of the label equals the mean expected logit.
    probabilities = torch.softmax(torch.from_numpy(logits * scale) / temperature, 1).numpy()
    of_label = logits[np.arange(len(labels)), labels]
    assert (probabilities * logits).sum(1).mean() == pytest.approx(of_label.mean(), abs=1e-9)


def test_temperature_of_hopeless_or_perfect_logits_is_a_bound():
    logits = torch.eye(3).repeat(10, 1) * 4
    assert fit_temperature(logits, torch.arange(3).repeat(10)) == 0.1
    assert fit_temperature(logits, (torch.arange(3).repeat(10) + 1) % 3) == 10.0
    assert fit_temperature(torch.zeros(4, 3), torch.tensor([0, 1, 2, 0])) == 1.0
    huge = fit_temperature(logits * 1e4, torch.arange(3).repeat(10))
    assert 0.1 <= huge <= 10
    assert fit_temperature(logits * 1e4, torch.tensor([0, 1, 0] * 10)) == 10.0
    with pytest.raises(ValueError, match="finite"):
        fit_temperature(torch.tensor([[float("nan"), 0.0]]), torch.tensor([0]))


def test_language_bias_is_the_penalised_optimum():
    """Against the gradient: sum of (softmax - one-hot) over a language's rows + strength * b is zero."""
    logits, labels, _ = drawn_from_softmax(rows=3000)
    languages = torch.arange(3000) % 3
    languages[languages == 2] = 1
    bias = fit_language_bias(logits, labels, languages, ["en", "de", "fr"], strength=5.0)
    assert set(bias) == {"en", "de"}  # fr has no row
    for code, name in enumerate(("en", "de")):
        b, rows = torch.tensor(bias[name], dtype=torch.float64), languages == code
        wrong = (torch.as_tensor(logits)[rows].double() + b).softmax(1)
        wrong -= torch.nn.functional.one_hot(torch.as_tensor(labels)[rows].long(), 5)
        assert (wrong.sum(0) + 5 * b).abs().max() < 1e-5


def test_language_bias_corrects_shifted_shares_and_leaves_rare_languages_alone():
    logits, labels, _ = drawn_from_softmax(rows=4000)
    logits = torch.as_tensor(logits).double().clone()
    languages = np.repeat([0, 1, 2], [2000, 1998, 2])
    logits[languages == 1, 0] -= 2.0  # the model never learned that German has more of class 0
    names = ["en", "de", "xx"]
    bias = fit_language_bias(logits, labels, languages, names)
    de = np.array(bias["de"])
    assert (de - de[1:].mean())[0] == pytest.approx(2, abs=0.25)
    assert np.abs(bias["en"]).max() < 0.15 and np.abs(bias["xx"]).max() < 0.3
    biased = add_language_bias(logits, [names[code] for code in languages], bias)
    assert (biased.argmax(1) == np.asarray(labels)).mean() > (
        logits.argmax(1).numpy() == np.asarray(labels)
    ).mean()
    assert (add_language_bias(logits[:3], ["zz"] * 3, bias) == logits[:3].numpy()).all()


def test_calibration_error_equals_the_sum_over_bins():
    _, labels, probabilities = drawn_from_softmax(500, seed=1)
    probabilities = probabilities**2 / (probabilities**2).sum(1, keepdims=True)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    expected = 0.0
    for i in range(15):
        rows = (confidence > i / 15) & (confidence <= (i + 1) / 15)
        if rows.any():
            expected += rows.mean() * abs(right[rows].mean() - confidence[rows].mean())
    assert expected_calibration_error(torch.from_numpy(probabilities), labels) == pytest.approx(
        expected, abs=1e-12
    )
    assert expected > 0.03
    _, labels, probabilities = drawn_from_softmax(50_000, seed=2)
    assert expected_calibration_error(probabilities, labels) < 0.01


def test_reliability_bins_hold_every_row_once_also_on_the_edges():
    probabilities = np.array([[1.0, 0.0], [0.5, 0.5], [0.8, 0.2], [0.6, 0.4], [0.81, 0.19]])
    bins = reliability_bins(probabilities, [0, 1, 1, 0, 0], bins=5)
    assert [b["rows"] for b in bins] == [0, 0, 2, 1, 2]  # (lower, upper]: 0.6 and 0.8 end their bins
    assert bins[0]["accuracy"] is None and bins[2]["accuracy"] == 0.5
    assert bins[4]["confidence"] == pytest.approx(0.905) and bins[3]["accuracy"] == 0
    assert (
        sum(b["rows"] for b in reliability_bins(drawn_from_softmax()[2].astype("f4"), np.zeros(4000))) == 4000
    )


def test_coverage_curve_equals_counting_rows_above_the_threshold():
    _, labels, probabilities = drawn_from_softmax(800, seed=4)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    thresholds = [0.0, 0.4, float(confidence[17]), 0.9, 1.1]
    curve = coverage_curve(probabilities, labels, thresholds)
    for point, threshold in zip(curve, thresholds, strict=True):
        kept = confidence >= threshold
        assert (point["rows"], point["coverage"]) == (kept.sum(), kept.mean())
        assert point["accuracy"] == (pytest.approx(right[kept].mean()) if kept.any() else None)
    assert curve[0]["coverage"] == 1 and curve[-1]["accuracy"] is None
    assert curve[3]["accuracy"] > curve[0]["accuracy"] + 0.1
