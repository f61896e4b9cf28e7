"""What the embedded model must not do, shown with the knowledge base that is shipped and mail it has not seen."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tasks import offline
from tasks.errors import BadInput
from tasks.offline import UNKNOWN, Example, Memory, gist, memory, train
from tasks.records import Policy

THRESHOLD = Policy().threshold
PROJECT = Path(__file__).resolve().parents[1]
KNOWLEDGE = json.loads((PROJECT / "skills/answer_ticket/knowledge.json").read_text(encoding="utf-8"))
UNRELATED: list[str] = KNOWLEDGE["unrelated"]
EXAMPLES = [
    Example(text, entry["intent"], f"knowledge/{entry['intent']}#{number}")
    for entry in KNOWLEDGE["entries"]
    for number, text in enumerate(entry["examples"])
]
HELD_OUT = {
    "My parcel should have been here last week, where is it?": "order_status",
    "hello, any idea when the money for my returned garden will be on my account": "refund_status",
    "I don't like the colour, how can I send it back to you?": "return_item",
    "When I opened the box the tank was cracked and the lamp broken.": "damaged_on_arrival",
    "one of the three packs of pods was not in the box": "missing_item",
    "We've moved, please send the next box to our new address.": "change_address",
    "Please cancel order 53318, I bought it by mistake.": "cancel_order",
    "we are on holiday in may, can you skip that delivery": "pause_subscription",
    "I'd like to end my subscription for good, no more pods please": "cancel_subscription",
    "can i get 12 pods instead of 6 in my plan?": "change_plan",
    "Your shop declines my credit card at the checkout.": "payment_failed",
    "you took the money twice for the same order": "double_charge",
    "Where do I find the invoice with VAT for my company?": "invoice_copy",
    "The voucher code from your newsletter is invalid at checkout": "discount_code",
    "the garden won't connect to our wifi since we have a new router": "device_wifi",
    "Plugged in, but my garden does not turn on at all": "device_no_power",
    "How can I set the lamp so that it is dark at night?": "light_schedule",
    "the pump makes a loud humming noise": "pump_noise",
    "After four weeks my basil seeds have not sprouted": "seeds_not_sprouting",
    "There's white mould on the soil of my pods": "mould_algae",
    "Is my two year guarantee still valid for a broken lamp arm?": "warranty_claim",
    "I forgot my password and can not log in to my account": "account_login",
    "Please erase my personal data and delete my account": "delete_data",
    "Do you deliver to Ireland and are there customs fees?": "shipping_abroad",
    "Which model do you recommend for growing tomatoes in a small flat?": "product_advice",
}
STRANGERS = [
    "Could you recommend a good pizza restaurant near the opera?",
    "Our agency sells backlinks that lift your ranking, reply for prices.",
    "I'd love to join your team as a software engineer, see my attached resume.",
    "how many calories are in a banana",
    "My neighbour's dog barks all night and the police do nothing.",
    "Wire 900 dollars to this wallet or we publish your photos.",
    "What time does the museum open on Sundays?",
    "The dishwasher I bought from another shop shows error 17.",
    "We invite your management to our conference on blockchain in Dubai.",
    "qwertz uiop",
    "Did Brazil win the final yesterday?",
    "Please send the homework of chapter five before Thursday.",
]


@pytest.fixture(scope="module")
def learnt() -> Memory:
    return train(EXAMPLES, UNRELATED)


def test_the_knowledge_base_is_too_thin_for_no_intent() -> None:
    assert len(KNOWLEDGE["entries"]) >= 18
    assert len(UNRELATED) >= 30
    texts = [one.text for one in EXAMPLES] + UNRELATED
    assert len(set(texts)) == len(texts)
    for entry in KNOWLEDGE["entries"]:
        assert len(entry["examples"]) >= 12, entry["intent"]
        assert 60 <= len(entry["answer"].split()) <= 120, entry["intent"]


def test_held_out_mail_was_not_seen_in_training() -> None:
    known = {one.text.casefold() for one in EXAMPLES} | {one.casefold() for one in UNRELATED}
    assert not known & {one.casefold() for one in [*HELD_OUT, *STRANGERS]}


def test_ordinary_mail_is_not_misread(learnt: Memory) -> None:
    readings = {text: learnt.decide(text) for text in HELD_OUT}
    wrong = {text: reading.intent for text, reading in readings.items() if reading.intent != HELD_OUT[text]}
    assert len(wrong) <= 3, wrong
    sure = [text for text, reading in readings.items() if reading.confidence >= THRESHOLD]
    assert len(sure) >= len(HELD_OUT) // 2
    assert not set(sure) & set(wrong)


def test_out_of_scope_mail_is_not_answered_with_confidence(learnt: Memory) -> None:
    answered = {text: learnt.decide(text) for text in STRANGERS}
    assert not {text: one.intent for text, one in answered.items() if one.confidence >= THRESHOLD}
    assert sum(one.intent == UNKNOWN for one in answered.values()) > len(STRANGERS) / 2


@pytest.mark.parametrize(
    "text", ["", " \n\t ", "!!! ??? ...", "> quoted only\n> and more", "-- \nAnna", "\x00", "a b c"]
)
def test_an_empty_mail_gets_no_confidence(learnt: Memory, text: str) -> None:
    reading = learnt.decide(text)
    assert (reading.intent, reading.confidence, reading.evidence) == (UNKNOWN, 0.0, ())


def test_letters_never_seen_are_not_answered_with_confidence(learnt: Memory) -> None:
    for text in ("我的包裹在哪里", "Где мой заказ?", "zzzzqqqq xxyyxx", "🌱🌱🌱 ok"):
        assert learnt.decide(text).confidence < THRESHOLD, text


@pytest.mark.parametrize("filler", ["x", "mould ", "> old\n", "\n", "a\n", "\u2028", "-- \n", "From: b\n"])
def test_a_megabyte_mail_is_read_without_choking(learnt: Memory, filler: str) -> None:
    question = "The pump makes a loud humming noise."
    padded = question + "\n" + filler * (1_000_000 // len(filler))
    assert len(gist(padded)) <= offline.READ_AT_MOST
    assert gist(padded).startswith(question)
    assert 0 <= learnt.decide(padded).confidence <= 1


def test_what_was_said_before_is_not_taken_for_what_is_said_now() -> None:
    reply = (
        "Please cancel it.\n\nOn Mon, 3 Mar 2025 at 10:11, Support wrote:\n> Where is my parcel?\n-- \nAnna\nFennmoor"
    )
    assert gist(reply) == "Please cancel it."
    assert gist("Thanks, skip it.\r\n-----Original Message-----\r\nFrom: Support\r\nold text") == "Thanks, skip it."


def test_a_forwarded_mail_does_not_lose_its_body() -> None:
    headers = "From: Ben <ben@example.org>\nDate: Mon\nSubject: pump\nTo: me"
    body = "The pump is loud.\n> older\n-- \nBen"
    plain = f"see below\n-- \nAnna\n---------- Forwarded message ---------\n{headers}\n\n{body}"
    assert gist(plain) == "see below\nThe pump is loud."
    quoted = "Begin forwarded message:\n\n> From: Ben\n> Subject: pump\n> \n> The pump is loud.\n>> older"
    assert gist(quoted) == "The pump is loud."
    assert gist("-----Original Message-----\nFrom: Ben\nSent: Monday\n\nThe pump is loud.") == "The pump is loud."


def test_the_same_text_never_gets_two_answers(learnt: Memory) -> None:
    again = train(list(reversed(EXAMPLES)), list(reversed(UNRELATED)))
    assert again.digest == learnt.digest
    for text in [*HELD_OUT, *STRANGERS]:
        assert learnt.decide(text) == learnt.decide(text) == again.decide(text)


def test_a_text_among_many_is_not_read_otherwise_than_alone(learnt: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline, "AT_ONCE", 7)
    texts = ["", *HELD_OUT, "?!", *STRANGERS]
    assert learnt.decide_all(texts) == [learnt.decide(one) for one in texts]


def test_another_process_does_not_read_the_same_text_differently(learnt: Memory) -> None:
    asked = list(HELD_OUT)[:6] + STRANGERS[:2]
    code = (
        "import json, sys\n"
        "from tasks.offline import Example, train\n"
        "examples, unrelated, asked = json.load(sys.stdin)\n"
        "learnt = train([Example(*one) for one in examples], unrelated)\n"
        "print(json.dumps([learnt.digest, [learnt.decide(one).model_dump(mode='json') for one in asked]]))\n"
    )
    given = json.dumps([EXAMPLES, UNRELATED, asked])
    run = subprocess.run(
        [sys.executable, "-c", code], input=given, capture_output=True, text=True, check=True, cwd=PROJECT
    )
    assert json.loads(run.stdout) == [learnt.digest, [learnt.decide(one).model_dump(mode="json") for one in asked]]


def test_other_knowledge_never_hides_behind_the_same_digest(learnt: Memory) -> None:
    changed = [EXAMPLES[0]._replace(label="refund_status"), *EXAMPLES[1:]]
    moved = offline.digest_of(tuple(EXAMPLES[1:]), (*UNRELATED, EXAMPLES[0].text))
    without = offline.digest_of(tuple(EXAMPLES))
    digests = {learnt.digest, offline.digest_of(tuple(changed), tuple(UNRELATED)), without, moved}
    assert len(digests) == 4


def test_evidence_names_examples_that_exist(learnt: Memory) -> None:
    known = {one.source: one for one in EXAMPLES}
    cited = 0
    for text in HELD_OUT:
        reading = learnt.decide(text)
        weights = [one.weight for one in reading.evidence]
        assert len(weights) <= 3 and weights == sorted(weights, reverse=True)
        for one in reading.evidence:
            assert known[one.source].label == reading.intent
            assert known[one.source].text.startswith(one.text) and len(one.text) <= 160
            cited += 1
    assert cited > len(HELD_OUT)


def test_a_verified_case_is_not_forgotten(learnt: Memory) -> None:
    text = "The cat keeps sleeping under the lamp and flattens my lettuce, is there a cage for it?"
    taught = [Example(text, "pet_protection", f"case/{number}") for number in (17, 18)]
    more = [Example("My cat eats the lettuce, do you sell a cage to protect it?", "pet_protection", "case/19")]
    reading = train([*EXAMPLES, *taught, *more], UNRELATED).decide("my cat lies on the lettuce, is there some cage")
    assert learnt.decide(text).intent != "pet_protection"
    assert reading.intent == "pet_protection"
    assert {one.source for one in reading.evidence} <= {"case/17", "case/18", "case/19"}


def test_knowledge_with_nothing_to_choose_from_is_not_trained_silently() -> None:
    for examples, unrelated in ([], []), (EXAMPLES[:5], []), ([], UNRELATED), ([Example("!", "a", "s")], ["?"]):
        with pytest.raises(BadInput, match="Add examples"):
            train(examples, unrelated)


def test_training_does_not_stop_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The training waits for the loop to move: it could never end if it stood on the loop."""
    moved = threading.Event()
    trained_in: list[str] = []

    def slow(examples: object, unrelated: object) -> object:
        assert moved.wait(30), "the loop stood still while a memory was trained"
        trained_in.append(threading.current_thread().name)
        return object()

    async def ask() -> set[int]:
        asked = [asyncio.create_task(memory([Example("loop", "a", "x")])) for _ in range(5)]
        await asyncio.sleep(0.05)
        moved.set()
        return {id(one) for one in await asyncio.gather(*asked)}

    monkeypatch.setattr(offline, "train", slow)
    monkeypatch.setattr(offline, "_trained", type(offline._trained)())
    assert len(asyncio.run(ask())) == 1, "each caller got a memory of its own"
    assert len(trained_in) == 1 and trained_in != [threading.main_thread().name]


def test_a_caller_who_gives_up_does_not_take_the_memory_from_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    wanted = object()

    def slow(examples: object, unrelated: object) -> object:
        assert go_on.wait(30)
        return wanted

    async def ask() -> object:
        impatient, patient = (asyncio.create_task(memory([Example("give up", "a", "x")])) for _ in range(2))
        await asyncio.sleep(0.05)
        impatient.cancel()
        await asyncio.sleep(0)
        go_on.set()
        return await patient

    monkeypatch.setattr(offline, "train", slow)
    monkeypatch.setattr(offline, "_trained", type(offline._trained)())
    assert asyncio.run(ask()) is wanted


def test_a_failed_training_is_not_remembered_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline, "_trained", type(offline._trained)())
    with pytest.raises(BadInput):
        asyncio.run(memory([]))
    wanted = object()
    monkeypatch.setattr(offline, "train", lambda examples, unrelated: wanted)
    assert asyncio.run(memory([])) is wanted
