"""The embedded model: reads a ticket by comparing it with known examples, without network or download."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tasks.errors import BadInput
from tasks.records import Evidence, Reading

UNKNOWN = "unknown"
READ_AT_MOST = 4_000
CITED = 3
QUOTED = 160
NEIGHBOURS = 10
MANY = 3_000
FOLDS = 5
ASKED_OF_MANY = 2
AT_ONCE = 256
STRANGE = 0.02
DOUBT = 0.3
KEPT = 4
RECIPE = "1"
"""Part of the digest: raise it with any change below that changes an answer."""

FORWARDED = re.compile(r"[>\s]*(-{2,}\s*forwarded message|begin forwarded message\b)", re.IGNORECASE)
ORIGINAL = re.compile(r"\s*-{2,}\s*original message", re.IGNORECASE)
ATTRIBUTION = re.compile(r"\s*on\b.{4,200}\bwrote:\s*$", re.IGNORECASE)
HEADER = re.compile(r"\s*(from|to|cc|date|sent|subject|reply-to):", re.IGNORECASE)
TOKEN = re.compile(r"[^\W_]{2,}")

Floats = NDArray[np.float64]
Places = NDArray[np.int64]


class Example(NamedTuple):
    """A text of which it is known what it is about, and where it stands."""

    text: str
    label: str
    source: str


def gist(text: str) -> str:
    """What the writer says: no quotes, no signature, a forwarded body kept, short enough to read at once."""
    kept: list[str] = []
    size = 0
    signed = forwarded = unquote = in_header = False
    for line in text.splitlines():
        if FORWARDED.match(line[:200]) or (not size and ORIGINAL.match(line[:200])):
            # The first line of a forwarded mail tells whether the program that forwarded it quotes the body.
            signed, forwarded, unquote, in_header = False, True, False, True
            continue
        if forwarded and line.strip():
            unquote, forwarded = line.startswith(">"), False
        if unquote:
            line = line.removeprefix(">").removeprefix(" ")
        if in_header and (HEADER.match(line[:20]) or not line.strip()):
            continue
        in_header = False
        if ORIGINAL.match(line[:200]):
            break
        signed = signed or line in ("-- ", "--")
        if signed or line.startswith(">") or ATTRIBUTION.match(line[:240]) or not line.strip():
            continue
        kept.append(line[: READ_AT_MOST - size])
        size += len(kept[-1]) + 1
        if size >= READ_AT_MOST:
            break
    return "\n".join(kept)


@lru_cache(maxsize=8)  # thousands of examples are the same for every case
def digest_of(examples: tuple[Example, ...], unrelated: tuple[str, ...] = ()) -> str:
    """Hex digest of what a memory is made of; the order in which it was handed over does not count."""
    known = sorted((one.source, one.label, one.text) for one in examples)
    return hashlib.sha256(json.dumps([RECIPE, known, sorted(unrelated)]).encode()).hexdigest()


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
        # Turned once here: turning it for each mail would take most of the time of a decision.
        self.known_turned = known.T.tocsr()
        # Each intent draws its own seed, so the number of threads does not change the result.
        self.classifier = SGDClassifier(
            loss="log_loss", alpha=1e-5, max_iter=8 if many else 25, tol=None, random_state=0, n_jobs=2
        ).fit(known, self.numbers)

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
        found = self.vectors(texts)
        raw = np.asarray(self.classifier.decision_function(found), dtype=np.float64)
        scores = raw if raw.ndim == 2 else np.column_stack([-raw, raw])
        own = [at for at, one in enumerate(self.labels) if one != UNKNOWN]
        chance = 1 / (1 + np.exp(-scores))
        share = chance / chance.sum(axis=1, keepdims=True)
        rows = np.arange(len(texts))
        best = np.array(own, dtype=np.int64)[scores[:, own].argmax(axis=1)]
        foreign = scores[rows, best] < scores.max(axis=1)
        rivals = share.copy()
        rivals[rows, best] = -1
        likeness = np.clip((found @ self.known_turned).toarray().astype(np.float64), 0, 1)
        few = min(NEIGHBOURS, likeness.shape[1])
        near = np.argpartition(-likeness, few - 1, axis=1)[:, :few]
        votes = np.take_along_axis(likeness, near, axis=1) ** 8 + 1e-12
        agree = np.where(self.numbers[near] == best[:, None], votes, 0).sum(axis=1) / votes.sum(axis=1)
        mine = np.where(self.numbers[None, :] == best[:, None], likeness, 0).max(axis=1)
        top = share[rows, best]
        familiar = np.array([self.familiarity(one) for one in texts])
        signs = np.column_stack(
            [
                np.log(np.clip(top, 1e-6, 1 - 1e-6) / np.clip(1 - top, 1e-6, 1)),
                np.clip(top - rivals.max(axis=1), -1, 1),
                np.clip(scores[rows, best], -10, 5),
                agree,
                mine,
                likeness.max(axis=1),
                familiar,
            ]
        )
        return Sight(best, foreign, signs, familiar, likeness)


def folds(examples: Sequence[Example]) -> Places:
    """A fold for each example, so that every intent is spread over all of them; the same for the same examples."""
    seen: dict[str, int] = {}
    found = np.zeros(len(examples), dtype=np.int64)
    for at in sorted(range(len(examples)), key=lambda at: hashlib.sha256(repr(examples[at]).encode()).digest()):
        label = examples[at].label
        seen[label] = seen.get(label, -1) + 1
        found[at] = seen[label] % FOLDS
    return found


class Memory:
    """What an agent knows: the same text always gets the same reading from the same memory."""

    def __init__(self, digest: str, examples: Sequence[Example], eye: Eye, trust: Any, floor: float) -> None:
        self.digest = digest
        self.examples = tuple(examples)
        self.eye = eye
        self.trust = trust
        self.floor = floor

    @property
    def intents(self) -> tuple[str, ...]:
        return tuple(one for one in self.eye.labels if one != UNKNOWN)

    def decide(self, text: str) -> Reading:
        """What the text is about and how sure that is; `unknown` with confidence 0 for mail from another world."""
        said = gist(text)
        if not TOKEN.search(said):
            return Reading(intent=UNKNOWN, confidence=0.0)
        sight = self.eye.look([said])
        if sight.foreign[0]:
            return Reading(intent=UNKNOWN, confidence=0.0)
        chance = float(self.trust.predict_proba(sight.signs)[0, 1])
        if sight.familiar[0] < self.floor:
            chance *= DOUBT
        mine = self.eye.numbers == sight.best[0]
        likeness = np.where(mine, sight.likeness[0], -1)
        near = [int(at) for at in np.argsort(-likeness, kind="stable")[:CITED] if likeness[at] > 0]
        return Reading(
            intent=self.eye.labels[sight.best[0]],
            # Rounded, so that the last bits of another processor do not make another reading.
            confidence=round(min(max(chance, 0.0), 1.0), 4),
            evidence=tuple(
                Evidence(
                    source=self.examples[at].source,
                    text=self.examples[at].text[:QUOTED],
                    weight=round(min(float(likeness[at]), 1.0), 4),
                )
                for at in near
            ),
        )


def train(examples: Sequence[Example], unrelated: Sequence[str] = ()) -> Memory:
    """Learns the examples and, on parts of them held back in turn, how far its own certainty can be trusted."""
    digest = digest_of(tuple(examples), tuple(unrelated))
    told = [*examples, *(Example(one, UNKNOWN, "unrelated") for one in unrelated)]
    # A text that stands in two folds would be recognised rather than understood, and trusted too much.
    once = {(one.label, gist(one.text).casefold()): one for one in sorted(told, key=lambda one: (one[1:], one[0]))}
    kept = [one._replace(text=gist(one.text)) for (_, said), one in once.items() if TOKEN.search(said)]
    labels = [one.label for one in kept]
    if not set(labels) - {UNKNOWN} or len(set(labels)) < 2:
        raise BadInput(
            f"A memory needs examples of at least two intents, but was given {sorted(set(labels)) or 'none'}. "
            "Add examples to the knowledge base."
        )
    fold = folds(kept)
    signs: list[Floats] = []
    right: list[bool] = []
    for held in range(ASKED_OF_MANY if len(kept) > MANY else FOLDS):
        shown = [one for one, at in zip(kept, fold, strict=True) if at != held]
        asked = [one for one, at in zip(kept, fold, strict=True) if at == held]
        if not asked or not {one.label for one in shown} - {UNKNOWN} or len({one.label for one in shown}) < 2:
            continue
        eye = Eye([one.text for one in shown], [one.label for one in shown])
        # A few at a time: all likenesses of a large memory at once would take gigabytes.
        for part in (asked[at : at + AT_ONCE] for at in range(0, len(asked), AT_ONCE)):
            sight = eye.look([one.text for one in part])
            signs.append(sight.signs)
            right += [eye.labels[at] == one.label for at, one in zip(sight.best, part, strict=True)]
    if len(set(right)) < 2:
        raise BadInput("There are too few examples to tell a right answer from a wrong one. Add examples per intent.")
    rows, known = np.vstack(signs), np.array(right)
    trust = make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, known)
    floor = float(np.quantile(rows[known, -1], STRANGE))
    return Memory(digest, kept, Eye([one.text for one in kept], labels), trust, floor)


_trainer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="memory")
_lock = threading.Lock()
_trained: OrderedDict[str, Future[Memory]] = OrderedDict()


def learn(examples: Sequence[Example], unrelated: Sequence[str] = ()) -> None:
    """Train in the calling thread: whoever is forked from this process has the memory, and no thread is left."""
    trained: Future[Memory] = Future()
    trained.set_result(train(tuple(examples), tuple(unrelated)))
    with _lock:
        _trained[digest_of(tuple(examples), tuple(unrelated))] = trained


async def memory(examples: Sequence[Example], unrelated: Sequence[str] = ()) -> Memory:
    """The memory of this content, trained once in this process beside the event loop, however many ask at once."""
    digest = await asyncio.to_thread(digest_of, tuple(examples), tuple(unrelated))
    with _lock:
        found = _trained.get(digest)
        # A failed training is not kept, so that the next one who asks tries again.
        if found is None or (found.done() and found.exception()):
            found = _trained[digest] = _trainer.submit(train, tuple(examples), tuple(unrelated))
        _trained.move_to_end(digest)
        while len(_trained) > KEPT:
            _trained.popitem(last=False)
    # Shielded: one caller who gives up must not take the training away from the others.
    return await asyncio.shield(asyncio.wrap_future(found))
