"""The embedded model: reads a ticket by comparing it with known examples, without network or download."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tasks import meaning
from tasks.errors import BadInput
from tasks.records import Evidence, Reading
from tasks.sight import MANY, Eye, Floats, Places, Sight
from tasks.sight import UNKNOWN as UNKNOWN

READ_AT_MOST = 4_000
CITED = 3
QUOTED = 160
FOLDS = 5
ASKED_OF_MANY = 2
AT_ONCE = 256
STRANGE = 0.02
DOUBT = 0.3
KEPT = 4
RECIPE = "2"
"""Part of the digest: raise it with any change below that changes an answer."""

FORWARDED = re.compile(r"[>\s]*(-{2,}\s*forwarded message|begin forwarded message\b)", re.IGNORECASE)
ORIGINAL = re.compile(r"\s*-{2,}\s*original message", re.IGNORECASE)
ATTRIBUTION = re.compile(r"\s*on\b.{4,200}\bwrote:\s*$", re.IGNORECASE)
HEADER = re.compile(r"\s*(from|to|cc|date|sent|subject|reply-to):", re.IGNORECASE)
TOKEN = re.compile(r"[^\W_]{2,}")


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
    return hashlib.sha256(json.dumps([RECIPE + meaning.recipe(), known, sorted(unrelated)]).encode()).hexdigest()


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
        return self.decide_all([text])[0]

    def decide_all(self, texts: Sequence[str]) -> list[Reading]:
        """A reading for each text, in their order; many at once cost a fraction of one at a time."""
        said = [gist(one) for one in texts]
        legible = [at for at, one in enumerate(said) if TOKEN.search(one)]
        found = [Reading(intent=UNKNOWN, confidence=0.0)] * len(texts)
        # A few at a time: all likenesses of a large memory at once would take gigabytes.
        for part in (legible[at : at + AT_ONCE] for at in range(0, len(legible), AT_ONCE)):
            sight = self.eye.look([said[at] for at in part])
            chances = self.trust.predict_proba(sight.signs)[:, 1]
            for row, at in enumerate(part):
                if not sight.foreign[row]:
                    found[at] = self._reading(sight, row, float(chances[row]))
        return found

    def _reading(self, sight: Sight, row: int, chance: float) -> Reading:
        if sight.familiar[row] < self.floor:
            chance *= DOUBT
        mine = self.eye.numbers == sight.best[row]
        likeness = np.where(mine, sight.likeness[row], -1)
        near = [int(at) for at in np.argsort(-likeness, kind="stable")[:CITED] if likeness[at] > 0]
        return Reading(
            intent=self.eye.labels[sight.best[row]],
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
