"""Word vectors help the embedded model where they are switched on, and change nothing where they are not."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tasks import meaning
from tasks.errors import BadInput
from tasks.knowledge import read_knowledge
from tasks.offline import Example, Memory, digest_of, train

KNOWLEDGE = Path(__file__).parents[1] / "skills" / "answer_ticket" / "knowledge.json"
ASKED = ("The parcel never came to my door.", "I was charged twice.", "Can somebody ring me?")
EXAMPLES = [Example("my card is lost", "card", "k"), Example("rate for euros", "rate", "k")]


def test_without_the_switch_nothing_is_loaded_and_readings_stay_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(meaning.SWITCH, raising=False)
    off = digest_of.__wrapped__(tuple(EXAMPLES))
    assert meaning.vectors(["words"]) is None and meaning.recipe() == ""
    monkeypatch.setenv(meaning.SWITCH, "on")
    assert digest_of.__wrapped__(tuple(EXAMPLES)) != off, "a memory with them would pass for one without"


def test_vectors_are_made_without_network_and_alike_texts_are_near(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(meaning.SWITCH, "on")
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("it asked the network"))
    found = meaning.vectors(["my card was stolen", "a thief took my bank card", "the weather in Lisbon", ""])
    assert found is not None and found.shape[0] == 4
    assert found[0] @ found[1] > found[0] @ found[2] + 0.2
    assert not found[3].any() or abs(found[3] @ found[3] - 1) < 0.01, "an empty text is no number"


def test_the_same_examples_in_another_order_read_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(meaning.SWITCH, "on")
    known = read_knowledge(KNOWLEDGE)
    learnt = train(known.examples, known.unrelated)
    again = train(known.examples[::-1], known.unrelated[::-1])
    assert [learnt.decide(one) for one in ASKED] == [again.decide(one) for one in ASKED]
    assert learnt.decide(ASKED[0]).confidence != train_without(monkeypatch).decide(ASKED[0]).confidence


def train_without(monkeypatch: pytest.MonkeyPatch) -> Memory:
    monkeypatch.delenv(meaning.SWITCH)
    known = read_knowledge(KNOWLEDGE)
    return train(known.examples, known.unrelated)


def test_a_missing_package_is_named_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(meaning.SWITCH, "on")
    monkeypatch.setattr(meaning, "PACKAGE", "no-such-package-at-all")
    with pytest.raises(BadInput, match="pip install"):
        meaning.recipe()
