"""A webhook counts once however often it is sent, and what may be out is never called sent or not sent."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator

import httpx
import pytest

from tasks import channels
from tasks.channels.message import digest
from tasks.errors import BadInput, NotSent, Refused
from tasks.records import Effect
from tests.conftest import free_port
from tests.sink import Sink, sink_in

PAGE = Effect(kind="page", subject="DiskFull db1", body="A person is needed.")


@pytest.fixture(scope="module")
def sink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sink]:
    with sink_in(tmp_path_factory.mktemp("sink")) as found:
        yield found


def test_a_page_reaches_its_receiver_whole_and_under_its_key(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_WEBHOOK_TOKEN", "secret-word")
    receipt = channels.send(sink.url("whole"), "k", PAGE, "a@b.example")
    (request,) = sink.requests("whole")
    body = json.loads(request["body"])
    assert (body["kind"], body["subject"], body["body"]) == (PAGE.kind, PAGE.subject, PAGE.body)
    assert request["key"] == body["key"] == receipt.reference == digest("k")
    assert request["headers"]["Authorization"] == "Bearer secret-word"
    assert channels.dedupes(sink.url()) and not channels.can_find(sink.url())


@pytest.mark.parametrize("path", ["again", "strict/again"])
def test_the_same_key_twice_counts_once_whether_the_receiver_says_so_or_not(sink: Sink, path: str) -> None:
    first, second = (channels.send(sink.url(path), f"twice {path}", PAGE, "") for _ in range(2))
    assert first.reference == second.reference
    assert len(sink.requests(path)) == 2 and len(sink.taken(path)) == 1


@pytest.mark.parametrize("status", [408, 425, 429, 503])
def test_a_receiver_that_says_later_is_asked_later(sink: Sink, status: int) -> None:
    with pytest.raises(NotSent, match=str(status)):
        channels.send(sink.url(f"status/{status}"), "k", PAGE, "")


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422])
def test_a_receiver_that_says_never_is_not_asked_again(sink: Sink, status: int) -> None:
    with pytest.raises(Refused, match=str(status)):
        channels.send(sink.url(f"status/{status}"), "k", PAGE, "")


@pytest.mark.parametrize("path", ["cut", "status/500", "status/502", "status/504", "status/409"])
def test_what_may_be_out_is_called_neither_sent_nor_not_sent(sink: Sink, path: str) -> None:
    with pytest.raises(httpx.HTTPError):
        channels.send(sink.url(path), "k", PAGE, "")


def test_a_receiver_that_is_silent_is_unknown_in_the_end(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.web.SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(httpx.HTTPError):
        channels.send(f"webhook+http://127.0.0.1:{silent.getsockname()[1]}", "k", PAGE, "")


def test_a_receiver_that_is_not_there_did_not_get_it() -> None:
    with pytest.raises(NotSent, match="can not be reached"):
        channels.send(f"webhook+http://127.0.0.1:{free_port()}/page", "k", PAGE, "")


def test_nobody_follows_to_where_a_receiver_points(sink: Sink) -> None:
    with pytest.raises(Refused, match="points elsewhere"):
        channels.send(sink.url("elsewhere"), "k", PAGE, "")
    assert sink.requests("moved") == []


@pytest.mark.parametrize(
    "url",
    [
        "webhook:",
        "webhook://host/x",
        "webhook+http:///x",
        "webhook+ftp://host/x",
        "webhook+http://host/x?key=1",
        "webhook+http://ann:secret@host/x",
        "webhook+http://[",
        "webhook+http://host/x#secret",
        "webhook+http://ho st/secret",
    ],
)
def test_a_wrong_webhook_url_is_known_before_any_work_and_not_repeated(url: str) -> None:
    with pytest.raises(BadInput, match="Write webhook") as why:
        channels.check(url)
    assert "secret" not in str(why.value).replace("is the secret", "")


def test_a_token_never_travels_in_the_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_WEBHOOK_TOKEN", "word")
    channels.check("webhook+https://hooks.example.com/x")
    channels.check("webhook+http://127.0.0.1:8080/x")
    with pytest.raises(BadInput, match="in the clear") as why:
        channels.check("webhook+http://hooks.example.com/x")
    assert "word" not in str(why.value)
    monkeypatch.setenv("HOLDFAST_WEBHOOK_USER", "ann")
    with pytest.raises(BadInput, match="both of"):
        channels.check("webhook+https://hooks.example.com/x")


def test_an_answer_without_an_end_is_not_read_to_its_end() -> None:
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(65_536)
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            try:
                while True:
                    connection.sendall(b"x" * 65_536)
            except OSError:
                return

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        channels.send(f"webhook+http://127.0.0.1:{listening.getsockname()[1]}/x", "k", PAGE, "")
    finally:
        thread.join(60)
        listening.close()
