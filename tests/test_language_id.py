"""Language codes of clear sentences, odd input, and that no network is touched.

python -m pytest tests/test_language_id.py
"""

import gzip
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from category_classification.language_id import identify

SENTENCES = {
    "en": "Men's waterproof leather hiking boots with a warm lining",
    "de": "Wasserdichte Wanderschuhe aus Leder für Herren mit warmem Futter",
    "fr": "Chaussures de randonnée imperméables en cuir pour homme",
    "es": "Botas de senderismo impermeables de cuero para hombre",
    "it": "Scarponi da trekking impermeabili in pelle da uomo",
    "nl": "Waterdichte leren wandelschoenen voor heren met warme voering",
    "pl": "Wodoodporne skórzane buty trekkingowe męskie z ociepleniem",
    "ru": "Мужские непромокаемые кожаные ботинки для походов",
    "ja": "メンズ 防水 レザー ハイキングブーツ 暖かい裏地付き",
    "zh": "男士防水皮革登山靴，带有保暖内衬，我们在两个工作日内发货",
    "ar": "حذاء جلدي للرجال مقاوم للماء للمشي في الجبال",
    "ko": "남성용 방수 가죽 등산화 따뜻한 안감",
}
DATA = Path(os.environ.get("REAL_DATA_DIR", Path(__file__).parents[2] / "shared" / "data"))


def test_clear_sentences() -> None:
    codes, probabilities = identify(list(SENTENCES.values()))
    assert codes == list(SENTENCES)
    assert probabilities.dtype == np.float32 and probabilities.shape == (len(SENTENCES),)
    assert (probabilities > 0.4).all() and (probabilities <= 1).all()


def test_chinese_phrases_without_spaces_are_no_french() -> None:
    codes, _ = identify(["男士防水皮革登山靴", "不锈钢保温杯500毫升", "女士连衣裙夏季新款", "Nike 男士跑鞋"])
    assert set(codes) <= {"zh", "ja"}


def test_upper_case_is_no_other_language() -> None:
    for code in ("en", "de", "fr", "es", "it"):
        assert identify([SENTENCES[code].upper()])[0] == [code]


def test_texts_without_letters_have_no_language() -> None:
    texts = ["", "   ", "\n\t", "12345", "!!! - ???", "№ 5", "\0\0", "👟👟"]
    codes, probabilities = identify(texts)
    assert codes[:5] == ["und"] * 5 and codes[6:] == ["und"] * 2
    assert (probabilities[[0, 1, 2, 3, 4, 6, 7]] == 0).all()
    assert identify([])[0] == [] and identify([])[1].shape == (0,)


def test_line_ends_nul_and_lone_surrogates_do_no_harm() -> None:
    for code in ("de", "fr", "ru"):
        plain = SENTENCES[code]
        words = plain.split()
        expected = identify([plain])
        for glue in ("\n", "\r\n", "\0", "\u2028", " \t "):
            found = identify([glue.join(words)])
            assert found[0] == expected[0] == [code] and found[1][0] == expected[1][0]
        assert identify([plain + " \ud800"])[0] == [code]
        assert identify(["\n" + plain + "\n\n"])[0] == [code]


def test_an_answer_does_not_depend_on_the_batch() -> None:
    texts = list(SENTENCES.values())
    codes, probabilities = identify(texts)
    backwards, same = identify(texts[::-1])
    assert backwards[::-1] == codes
    np.testing.assert_array_equal(same[::-1], probabilities)
    assert [identify([text])[0][0] for text in texts] == codes


def test_no_network_and_no_cache_file(tmp_path) -> None:
    code = (
        "import socket\n"
        "def refuse(*args, **kwargs): raise AssertionError('network')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
        "from category_classification.language_id import identify\n"
        "print(identify(['Wasserdichte Wanderschuhe für Herren'])[0][0])\n"
    )
    environment = os.environ | {"FTLANG_CACHE": str(tmp_path), "TMPDIR": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert result.stdout.strip() == "de", result.stderr
    assert list(tmp_path.iterdir()) == []


def test_speed_and_long_texts() -> None:
    titles = [f"{text} {number}" for number in range(100) for text in SENTENCES.values()]
    identify(titles[:10])
    started = time.process_time()
    identify(titles)
    assert len(titles) / (time.process_time() - started) > 5_000  # some 40,000 on an idle core
    started = time.process_time()
    assert identify([SENTENCES["de"] + " x" * 5_000_000])[0] == ["de"]
    assert time.process_time() - started < 1


@pytest.mark.real_data
def test_agrees_with_the_tags_of_real_titles() -> None:
    path = DATA / "lspc" / "wdc2017_titles.jsonl.gz"
    if not path.exists():
        pytest.skip(f"{path} is absent: set REAL_DATA_DIR")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    rows = [row for row in rows if row["lang_tag"]]
    codes, _ = identify([row["text"] for row in rows])
    agreed = np.array(
        [code == row["lang_tag"].lower().split("-")[0] for code, row in zip(codes, rows, strict=True)]
    )
    english = np.array([row["lang_tag"].lower().startswith("en") for row in rows])
    # The tags are what pages declare: many a title of names and numbers stands on a page in any language.
    assert agreed[english].mean() > 0.75
    assert agreed[~english].mean() > 0.5
