"""A message through apprise leaves once for the right place, and its secret address is never shown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.blocks.system import Secret
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks import channels
from tasks.errors import BadInput
from tasks.records import Effect
from tests.conftest import free_port
from tests.sink import Sink, sink_in

NOTE = Effect(kind="note", subject="Backup is late\nBcc: x", body="<b>Nobody</b> is called. @everyone")
SECRET = "T0ken-nobody-may-see"


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[Sink]:
    with sink_in(tmp_path / "sink") as found:
        yield found


def test_a_message_leaves_once_for_the_address_in_the_environment(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_APPRISE_ON_CALL", f"json://127.0.0.1:{sink.port}/{SECRET}")
    receipt = channels.send("apprise:on-call", "k", NOTE, "")
    (request,) = sink.requests()
    body = json.loads(request["body"])
    assert body["title"] == "Backup is late Bcc: x" and body["message"] == NOTE.body
    assert SECRET not in receipt.model_dump_json()
    assert not channels.can_find("apprise:on-call") and not channels.dedupes("apprise:on-call")


def test_a_message_leaves_once_through_a_block_of_prefect(sink: Sink, prefect_server: str) -> None:
    with temporary_settings({PREFECT_API_URL: prefect_server}):
        url = f"http://127.0.0.1:{sink.port}/{SECRET}"
        block = CustomWebhookNotificationBlock(name="sink", url=url, json_data={"text": "{{subject}}: {{body}}"})
        block.save("on-call", overwrite=True)
        Secret(value="x").save("no-notification", overwrite=True)
        channels.send("apprise:custom-webhook/on-call", "k", NOTE, "")
        (request,) = sink.requests()
        assert NOTE.body in json.loads(request["body"])["text"]
        sink.stop()
        with pytest.raises(OSError, match="failed") as why:
            channels.send("apprise:custom-webhook/on-call", "k", NOTE, "")
        assert SECRET not in str(why.value)
        for name in ("custom-webhook/nobody", "secret/no-notification"):
            with pytest.raises(BadInput):
                channels.send(f"apprise:{name}", "k", NOTE, "")


def test_a_service_that_is_not_there_is_unknown_because_apprise_does_not_say_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOLDFAST_APPRISE_OPS", f"json://127.0.0.1:{free_port()}/{SECRET}")
    with pytest.raises(OSError, match="apprise:ops") as why:
        channels.send("apprise:ops", "k", NOTE, "")
    assert SECRET not in str(why.value)


def test_a_wrong_address_is_known_before_any_work_and_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ("apprise:", "apprise:OPS", f"apprise:slack://{SECRET}", "apprise:a/b/c", "apprise://ops"):
        with pytest.raises(BadInput, match="Write apprise:ops") as why:
            channels.check(url)
        assert SECRET not in str(why.value)
    with pytest.raises(BadInput, match="HOLDFAST_APPRISE_OPS is not set"):
        channels.check("apprise:ops")
    for address in (f"nobody-knows://{SECRET}", f"{SECRET}", f"json://localhost/{SECRET}, json://localhost/2"):
        monkeypatch.setenv("HOLDFAST_APPRISE_OPS", address)
        with pytest.raises(BadInput) as why:
            channels.check("apprise:ops")
        assert SECRET not in str(why.value)
