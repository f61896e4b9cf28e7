"""A URL names one mailbox in one way, and a wrong one is known before any work."""

from __future__ import annotations

import pytest

from tasks import sources
from tasks.errors import BadInput


@pytest.mark.parametrize(
    "url",
    "imap:|imap://|imap://ann:secret@h|imap://secret@h|imap://h:99999|imap+plain://mail.example.com|imap+ssl://h|"
    "imap://h/Ordner%0d%0aX|imap://h/Entwürfe|imap://h?x=secret".split("|"),
)
def test_a_wrong_imap_url_is_known_before_any_work_and_not_repeated(url: str) -> None:
    with pytest.raises(BadInput, match="Write imap://") as why:
        sources.canonical(url)
    assert "secret" not in str(why.value)


def test_one_mailbox_has_one_name() -> None:
    for url in ("imap://Mail.example.com", "imap://mail.example.com:993/", "imap://mail.example.com/inbox"):
        assert sources.canonical(url) == "imap://mail.example.com:993/INBOX"
    assert sources.canonical("imap://h/Support/New%20ones") == "imap://h:993/Support/New%20ones"
    assert sources.canonical(sources.canonical("imap+starttls://[::1]/A")) == "imap+starttls://[::1]:143/A"
