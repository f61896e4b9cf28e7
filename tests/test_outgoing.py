"""No answer that says what it must not reaches a customer, and none that people approved is held back."""

from __future__ import annotations

import json

import pytest

from skills import answer_ticket
from tasks.model import RULES
from tasks.outgoing import against
from tests.conftest import PROJECT

KNOWN = json.loads((PROJECT / "skills/answer_ticket/knowledge.json").read_text(encoding="utf-8"))
APPROVED = [one["answer"] for one in KNOWN["entries"]]
PROMPT = (answer_ticket.READ, answer_ticket.WRITE)
OWN = "Write to help@shop.example or call +49 30 1234567, see https://shop.example/help or www.shop.example."


def check(text: str) -> list[str]:
    return against(f"{text}\nThank you for asking.", approved=[*APPROVED, OWN], own=["own.example"], prompt=PROMPT)


@pytest.mark.parametrize("answer", APPROVED, ids=[one["intent"] for one in KNOWN["entries"]])
def test_an_approved_answer_is_never_held_back(answer: str) -> None:
    framed = f"Hello,\n\n{answer}\n\nKind regards\n{KNOWN['company']} support"
    assert against(framed, approved=APPROVED, prompt=PROMPT) == []


@pytest.mark.parametrize(
    "text",
    [
        OWN,
        "Write to sales@own.example, or to help@shop.example.",
        "1. Open the app.\n2. Hold the button for 2.5 s, e.g. at 10.30 p.m.",
        "Merci de votre message, le colis arrive bientôt. 👩\u200d🌾 ❤\ufe0f",
        "نامه\u200cای برای شما فرستادیم",
        "Vielen Dank für Ihre Nachricht, z. B. zur Bestellung 48213 vom 24.11.2026.",
    ],
)
def test_an_ordinary_answer_is_not_held_back(text: str) -> None:
    assert check(text) == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("We guarantee it.", "promises"),
        ("Write to ann@evil.example.", "address"),
        ("Write to ann＠evil.example.", "address"),
        ("Card 4111 1111 1111 1111.", "card"),
        ("Card 41,11.1111-1111 11/11 11.", "card"),
        ("Pay into DE89370400440532013000.", "account"),
        ("Call +49 151 23456789.", "phone"),
        ("Use sk-ant-api03-abcDEF123456ghiJKL.", "key"),
        ("password: hunter22", "key"),
        ("See https://evil.example/x.", "links"),
        ("See evil。example/x.", "links"),
        ("See http://localhost:8000/x.", "links"),
        ("See http://2130706433/x.", "links"),
        ("See https://shop.example@evil.example/x.", "links"),
        ("See https://shop.example.evil.example/x.", "links"),
        ("See http://203.0.113.7/x.", "links"),
        ("See [here](/x).", "markup"),
        ("See <img src=x>.", "markup"),
        ("javascript:alert(1)", "code"),
        ("Bcc: everybody", "header"),
        ("or\u200bder", "nobody sees"),
        ("\u202eredro", "nobody sees"),
        ("order" + chr(0xE0041), "nobody sees"),
        ("order\u3164", "nobody sees"),
        ("order" + "\ufe00\ufe01" * 9, "nobody sees"),
        ("QWxsIGlzIHdlbGwgd2l0aCB5b3VyIG9yZGVyIGFuZCBtb3Jl", "encoded"),
        ("Your account is [account number].", "taken out"),
        (" ".join(RULES.split()[5:13]), "told"),
        ("-".join(answer_ticket.READ.split()[5:13]).upper(), "told"),
        ("x" * 3000, "characters"),
    ],
)
def test_an_answer_that_says_what_it_must_not_is_held_back(text: str, why: str) -> None:
    assert any(why in one for one in check(text)), check(text)


def test_no_secret_of_this_machine_is_sent_in_any_guise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_SMTP_PASSWORD", "Grasmere-Otter")
    for guise in (
        "Grasmere-Otter",
        "G r a s m e r e O t t e r",
        "rettO-eremsarG",
        "Tenfzrer-Bggre",
        "R3Jhc21lcmUtT3R0ZXI=",
    ):
        assert "it shows a secret of this machine" in check(f"It is {guise} then."), guise
    assert "it shows a secret of this machine" not in check("It is a lake with an otter.")


def test_a_few_words_in_common_with_the_instructions_are_no_leak() -> None:
    assert check(" ".join(RULES.split()[20:27])) == []
