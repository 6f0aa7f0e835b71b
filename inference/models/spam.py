"""The spam model: reads a text and says spam or ham; it learns nothing and imports numpy alone.

Why not scikit-learn or ONNX Runtime: `spam.md` has the measurements. How it was trained: `inference.training.spam`.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, repeat
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from inference.model import InputKind, ItemError, ModelError

WEIGHTS = Path(__file__).with_name("spam.npz")
SHA256 = "b026313e7a289805cb9181834f0d40c6ce7fb400e2df6f6a2d29119c1abba880"

MAX_CHARS = 20_000
"""How much of a text is read: 99 of 100 mails are shorter, and 128 texts of any size cost under a second."""

TOKEN_PATTERN = r"[a-z0]+(?:'[a-z]+)?|[!$%?]+"  # noqa: S105  # the other kind of token
"""Words, numbers and the marks that shout or price. Every character is read once: no input makes it slow."""

UNKNOWN = -1
"""The place of an n-gram that has none."""

_tokens = re.compile(TOKEN_PATTERN).findall

_ALIKE = str.maketrans(
    {
        **dict.fromkeys("123456789", "0"),  # the shape of a number counts, not the year of the corpus
        "\u2019": "'",
        **dict.fromkeys("\u00ad\u200b\u200c\u200d\u2060\ufeff"),  # invisible: they only hide words
    }
)


def normalise(text: str) -> str:
    """Return what is read of a text: its beginning, in lower case, digits alike, nothing invisible."""
    return text.lstrip()[:MAX_CHARS].lower().translate(_ALIKE)


@dataclass(frozen=True)
class Weights:
    """TF-IDF over single words and pairs of neighbours, and the logistic regression on it.

    Attributes:
        index: n-gram (words joined by a blank) to its place in the arrays.
        idf, coef: float32, one per n-gram.
        intercept: the log-odds of spam for a text without any known n-gram.
    """

    index: dict[str, int]
    idf: npt.NDArray[np.float32]
    coef: npt.NDArray[np.float32]
    intercept: float

    @classmethod
    def read(cls, raw: bytes) -> Weights:
        """Read the bytes that `write` made."""
        with np.load(io.BytesIO(raw), allow_pickle=False) as arrays:
            grams = arrays["grams"].tobytes().decode("ascii").split("\n")
            index = {gram: i for i, gram in enumerate(grams)}
            return cls(index, arrays["idf"], arrays["coef"], float(arrays["intercept"]))

    def write(self) -> bytes:
        """Return the weights as an .npz of plain arrays, the same bytes every time."""
        grams = np.frombuffer("\n".join(self.index).encode("ascii"), np.uint8)
        file = io.BytesIO()
        np.savez_compressed(
            file, grams=grams, idf=self.idf, coef=self.coef, intercept=np.float64(self.intercept)
        )
        return file.getvalue()

    def spam(self, normalised: str) -> float:
        """Return the probability of spam, 0 to 1, of a normalised text.

        Term counts are damped to 1 + log(count), as in scikit-learn's ``sublinear_tf``.
        """
        words = _tokens(normalised)
        grams = [*words, *map(" ".join, pairwise(words))]
        found = Counter(map(self.index.get, grams, repeat(UNKNOWN)))
        del found[UNKNOWN]
        if not found:
            return _logistic(self.intercept)
        # Plain floats: a message has some fifty n-grams, for which arrays cost more than they save.
        places = list(found)
        score = sum(map(self._scores.__getitem__, places), 0.0)
        square = sum(map(self._squares.__getitem__, places), 0.0)
        for place, count in found.items():
            if count > 1:
                damped = 1 + math.log(count)
                score += (damped - 1) * self._scores[place]
                square += (damped * damped - 1) * self._squares[place]
        return _logistic(score / math.sqrt(square) + self.intercept)

    @cached_property
    def _scores(self) -> list[float]:
        """What an n-gram that stands once in a text adds to its score, before the text's length counts."""
        return list(map(float, self.idf.astype(np.float64) * self.coef))

    @cached_property
    def _squares(self) -> list[float]:
        """What it adds to the square of the text's length."""
        return list(map(float, self.idf.astype(np.float64) ** 2))


def _logistic(logit: float) -> float:
    return 0.5 + 0.5 * math.tanh(logit / 2)  # unlike 1 / (1 + exp(-x)) this never overflows


class Spam:
    """Says whether an English text is spam or ham, with a score for each."""

    input: InputKind = "text"
    version = "1"
    max_batch = 128
    latency_target_ms = (
        50  # 128 of the longest texts take over a second, and whoever typed waits for all of them
    )

    def load(self) -> None:
        """Read the weights that stand beside this file.

        Raises:
            ModelError: they are not the ones that this version was released with.
        """
        raw = WEIGHTS.read_bytes()
        if hashlib.sha256(raw).hexdigest() != SHA256:
            raise ModelError(f"{WEIGHTS.name} is damaged or not of this version: install the package again")
        self._weights = Weights.read(raw)

    def predict(self, items: Sequence[str], /) -> list[dict[str, Any] | ItemError]:
        """Answer each text ``{"label": "spam" | "ham", "scores": {"spam": p, "ham": 1 - p}}``.

        Scores are probabilities rounded to 4 digits. A text without a visible character gets an
        `ItemError` "empty" in place of an answer.
        """
        return [self._answer(item) for item in items]

    def _answer(self, text: str) -> dict[str, Any] | ItemError:
        normalised = normalise(text)
        if not normalised or normalised.isspace():
            return ItemError("empty", "the text is empty: send at least one visible character")
        spam = round(self._weights.spam(normalised), 4)
        return {
            "label": "spam" if spam > 0.5 else "ham",
            "scores": {"spam": spam, "ham": round(1 - spam, 4)},
        }
