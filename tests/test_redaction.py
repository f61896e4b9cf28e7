"""What is private does not leave for a provider, what is not stays readable, and no text makes it take for ever."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.conversation import _Talk
from tasks.model import show
from tasks.records import Agent, Case, Private
from tasks.redaction import KINDS, PLACES, redact, redacted, spots
from tests.conftest import arrival

KEYS = [
    "sk-ant-api03-abcDEF123456_ghi-JKL",
    "sk-proj-abcdefghijklmnop",
    "sk_live_abcdefghij1234",
    "ghp_abcdefghijklmnopqrst1234",
    "github_pat_11ABCDEFG0abcdefghijkl",
    "glpat-abcdefghij1234567890",
    "AKIAIOSFODNN7EXAMPLE",
    "xoxb-123456789012-abcdefABCDEF",
    "AIzaSyA1234567890abcdefghijklmnopqrstuv",
    "hf_abcdefghijklmnopqrstuvwx",
    "pnu_abcdefghijklmnopqrstuvwx",
    "SG.abcdefghijklmnop.qrstuvwxyz123456",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nIBAAK\n-----END RSA PRIVATE KEY-----",
    "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk and cut off here",
]
VALUES = [
    ("password: {}", "hunter2!"),
    ("Passwort = {}", "geheim99"),
    ("mein Passwort lautet {}", "Apfel7"),
    ("mot de passe: {}", "soleil"),
    ("DB_PASSWORD={}", "s3cr3t"),
    ("api_key => '{}'", "abcd1234"),
    ('{{"client_secret": "{}"}}', "abcd1234"),
    ("Authorization: Basic {}", "dXNlcjpwYXNz"),
    ("my password is {}", "hunter2"),
    ("postgresql://shop:{}@db/orders", "s3cr3t"),
]
CARDS = [
    "4111111111111111",
    "4111 1111 1111 1111",
    "4111-1111-1111-1111",
    "4111\u00a01111\u00a01111\u00a01111",
    "4111 – 1111 – 1111 – 1111",
    "3782 822463 10005",
    "3056 9309 0259 04",
    "6011000990139424",
    "٤١١١ ١١١١ ١١١١ ١١١١",
    "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1",
]
OTHERS: list[tuple[Private, str]] = [
    ("address", "ann@example.com"),
    ("address", "ann.lee+shop@mail.example.co.uk"),
    ("address", "jürgen@müller.example"),
    ("address", "ann＠example.com"),
    ("account", "DE89 3704 0044 0532 0130 00"),
    ("account", "GB82WEST12345698765432"),
    ("phone", "+49 151 23456789"),
    ("phone", "+1 (212) 555-0134"),
]
ORDINARY = """
Where is my order 48213 of 2026-11-24? I paid 1,299.00 EUR on 24.11.2026 at 10:22:33, invoice 2026-000123456.
The serial number is SN 2034 5567 8891, batch 0042/17, tracking 00340434161094042557 and 1Z999AA10123456784.
My password is not working, I forgot the password. The task-force and risk-assessment of sk-learn are fine.
Room 12, 2.4 GHz, 100 to 240 volts, 15 hours + 9 hours, C++17, UTC+02:00, 4 + 5 = 9. My handle is @ann, version 1.2.3.
See https://fennmoor.example/orders/48213?page=2#top, the IP was 192.168.10.20, from 10 20 30 40 50 60.
"""


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("around", ["{}", "it is {} ok", "key={}\n", '["{}"]', "é{}"])
def test_no_key_leaves(key: str, around: str) -> None:
    told = redact(around.format(key))
    assert PLACES["key"] in told and key[6:] not in told


@pytest.mark.parametrize("key", KEYS)
def test_no_key_leaves_in_json_within_a_text(key: str) -> None:
    assert key[6:12] not in redact(json.dumps({"log": f"first line\n{key}\nlast line"}))


@pytest.mark.parametrize(("form", "value"), VALUES)
def test_what_is_called_a_password_does_not_leave(form: str, value: str) -> None:
    assert redact(form.format(value)) == form.format("[key]")
    assert redacted({"password": value, "n": [{"api-key": 12345678}]}) == {
        "password": "[key]",
        "n": [{"api-key": "[key]"}],
    }


def test_no_secret_of_this_machine_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_SMTP_PASSWORD", "Grasmere-Otter")
    monkeypatch.setenv("HOLDFAST_LEDGER", "postgresql://me:Windermere@db/x")
    assert redact("Grasmere-Otter and Windermere") == "[key] and [key]"


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("around", ["{}", "card {}.", "order 48213, {} 123", '{{"n": "a\\n{}"}}'])
def test_no_card_number_leaves(card: str, around: str) -> None:
    assert redact(around.format(card), ["card"]) == around.format("[card number]")


def test_a_card_number_is_found_in_longer_rows_and_in_numbers() -> None:
    assert redact("104111111111111111") == "10[card number]"
    assert redact("4111 1111 1111 1111 12 34") == "[card number] 12 34"
    assert redacted({"n": 4111111111111111, "m": 48213}) == {"n": "[card number]", "m": 48213}


@pytest.mark.parametrize(("kind", "text"), OTHERS)
def test_no_address_account_or_phone_leaves(kind: Private, text: str) -> None:
    assert redact(f"It is {text}, thanks", [kind]) == f"It is {PLACES[kind]}, thanks"
    assert redact(f"It is {text}, thanks", [one for one in KINDS if one != kind and one != "card"]).count(text) == 1


def test_ordinary_text_stays_as_it_is() -> None:
    assert redact(ORDINARY) == ORDINARY


@given(st.text(alphabet=st.sampled_from("41 -+@.aA:sk_eyJ\\n0\n\u200b"), max_size=80))
def test_what_was_redacted_is_not_redacted_again(text: str) -> None:
    once = redact(text)
    assert len(spots(text)) <= len(text) and redact(redact(once)) == redact(once)


HOSTILE = [
    "4",
    "4 ",
    "444 ",
    "1234567890",
    "a",
    "a@",
    "@a",
    "eyJ",
    "sk-",
    "AB12",
    "+1 ",
    "password:",
    "://:",
    "x" * 63 + "@",
]
HOSTILE += ["-----BEGIN PRIVATE KEY-----", "SG.aaaaaaaaaaaaaaaaaaaa"]


@pytest.mark.parametrize(
    ("piece", "size"), [*((one, 20_000) for one in HOSTILE), ("".join(one * 100 for one in HOSTILE[:-2]), 100_000)]
)
def test_a_hostile_text_takes_time_as_its_length_and_no_more(piece: str, size: int) -> None:
    def seconds(length: int) -> float:
        text = piece * (length // len(piece) + 1)
        began = time.process_time()
        redact(text[:length])
        return time.process_time() - began

    short = seconds(size)
    assert seconds(10 * size) < 35 * max(short, 0.1), "ten times the text takes more than ten times the time"


def test_each_agent_says_what_leaves_and_keeps_the_case_itself() -> None:
    given: dict[str, object] = {"source": "maildir:x", "skills": ["practice"]}
    assert Agent.model_validate(given).redact == list(KINDS)
    assert Agent.model_validate({**given, "redact": []}).redact == []
    field = Agent.model_json_schema()["properties"]["redact"]
    assert field["description"] and field["position"] == 11 and field["default"] == list(KINDS)
    case = Case(
        id=1,
        agent="a",
        source="s",
        **arrival(1, body="I am ann@example.com, 4111 1111 1111 1111").model_dump(exclude={"marker"}),
    )
    assert "[address], [card number]" in show({"case": case}) and "c1@example.com" not in show({"case": case})
    assert "ann@example.com, [card number]" in show({"case": case}, ["card"])
    assert "ann@example.com" in case.text


def test_a_change_of_what_is_private_pays_for_no_finished_turn_again() -> None:
    """A turn's key is made of the digest; what the provider is shown is not in it."""
    talks = [_Talk({"case": "ann@example.com"}, hidden) for hidden in (KINDS, ())]
    for talk in talks:
        talk.results([{"type": "tool_result", "tool_use_id": "1", "content": "bob@example.com", "is_error": False}])
    assert talks[0].digest == talks[1].digest
    assert "@example.com" not in json.dumps(talks[0].messages) and "bob@" in json.dumps(talks[1].messages)
