"""What the bare embedded model sees in a text: the likeliest intent, and signs of how far to believe that."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import SGDClassifier

from tasks import meaning

UNKNOWN = "unknown"
NEIGHBOURS = 10
MANY = 1_000

Floats = NDArray[np.float64]
Places = NDArray[np.int64]


class Sight(NamedTuple):
    """What the bare model sees in some texts, before anybody asks how often it is right."""

    best: Places
    """For each text the place of the likeliest intent, never that of `unknown`."""
    foreign: NDArray[np.bool_]
    """Whether `unknown` is likelier than any intent."""
    signs: Floats
    """What tells right from wrong: rows for calibration."""
    familiar: Floats
    """Share of each text that is spelled with pieces of known mail; the rest was never seen."""
    likeness: Floats
    """Cosine similarity with each example."""


def together(words: Any, letters: Any) -> Any:
    """One vector of length 1 for each text, half of it words and half of it letters."""
    return sparse.hstack([words, letters], format="csr") * np.float32(0.5**0.5)


def _beside(found: Any, meant: NDArray[np.float32] | None) -> Any:
    return found if meant is None else sparse.hstack([found, sparse.csr_matrix(meant)], format="csr")


class Eye:
    """Vectors and a classifier over one set of examples; knows nothing of how far it can be trusted."""

    def __init__(self, texts: Sequence[str], labels: Sequence[str]) -> None:
        many = len(texts) > MANY
        rare = 2 if many else 1
        self.labels: list[str] = sorted(set(labels))
        self.numbers: Places = np.array([self.labels.index(one) for one in labels], dtype=np.int64)
        self.words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=rare, dtype=np.float32)
        self.letters = TfidfVectorizer(
            analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True, min_df=rare, dtype=np.float32
        )
        known = together(self.words.fit_transform(texts), self.letters.fit_transform(texts))
        self.meanings = meaning.vectors(texts)
        # Turned once here: turning it for each mail would take most of the time of a decision.
        self.known_turned = known.T.tocsr()
        # Each intent draws its own seed, so the number of threads does not change the result.
        classifier = SGDClassifier(
            loss="log_loss", alpha=1e-5, max_iter=8 if many else 25, tol=None, random_state=0, n_jobs=2
        ).fit(_beside(known, self.meanings), self.numbers)
        # Turned once as well: the classifier itself copies all its weights for every text.
        self.weights, self.bias = np.ascontiguousarray(classifier.coef_.T), classifier.intercept_

        # Unrelated mail is left out: a word known only from there must not make a text look familiar.
        inside = [text for text, label in zip(texts, labels, strict=True) if label != UNKNOWN]
        pieces = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 4)).fit(inside)
        self.rarity: dict[str, float] = dict(zip(pieces.get_feature_names_out(), pieces.idf_.tolist(), strict=True))
        self.never_seen = 1 + math.log(1 + len(inside))
        self.split = pieces.build_analyzer()

    def familiarity(self, text: str) -> float:
        weights = [self.rarity.get(one, -self.never_seen) for one in sorted(set(self.split(text)))]
        return sum(one for one in weights if one > 0) / (sum(abs(one) for one in weights) or 1)

    def vectors(self, texts: Sequence[str]) -> Any:
        return together(self.words.transform(texts), self.letters.transform(texts))

    def look(self, texts: Sequence[str]) -> Sight:
        found, meant = self.vectors(texts), meaning.vectors(texts) if self.meanings is not None else None
        raw = np.asarray(_beside(found, meant) @ self.weights + self.bias, dtype=np.float64)
        scores = raw if len(self.labels) > 2 else np.column_stack([-raw, raw])
        own = [at for at, one in enumerate(self.labels) if one != UNKNOWN]
        chance = 1 / (1 + np.exp(-scores))
        share = chance / chance.sum(axis=1, keepdims=True)
        rows = np.arange(len(texts))
        best = np.array(own, dtype=np.int64)[scores[:, own].argmax(axis=1)]
        foreign = scores[rows, best] < scores.max(axis=1)
        rivals = share.copy()
        rivals[rows, best] = -1
        likeness = np.clip((found @ self.known_turned).toarray().astype(np.float64), 0, 1)
        top = share[rows, best]
        witnesses = self._heard(best, likeness)
        if meant is not None and self.meanings is not None:
            witnesses += self._heard(best, np.clip((meant @ self.meanings.T).astype(np.float64), 0, 1))
        familiar = np.array([self.familiarity(one) for one in texts])
        signs = np.column_stack(
            [
                np.log(np.clip(top, 1e-6, 1 - 1e-6) / np.clip(1 - top, 1e-6, 1)),
                np.clip(top - rivals.max(axis=1), -1, 1),
                np.clip(scores[rows, best], -10, 5),
                *witnesses,
                familiar,
            ]
        )
        return Sight(best, foreign, signs, familiar, likeness)

    def _heard(self, best: Places, likeness: Floats) -> list[Floats]:
        """What the examples most alike say of the likeliest intent, by one kind of likeness."""
        few = min(NEIGHBOURS, likeness.shape[1])
        near = np.argpartition(-likeness, few - 1, axis=1)[:, :few]
        votes = np.take_along_axis(likeness, near, axis=1) ** 8 + 1e-12
        agree = np.where(self.numbers[near] == best[:, None], votes, 0).sum(axis=1) / votes.sum(axis=1)
        mine = np.where(self.numbers[None, :] == best[:, None], likeness, 0).max(axis=1)
        return [agree, mine, likeness.max(axis=1)]
