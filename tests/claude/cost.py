"""What the requests in the fake's log cost, at the prices of the product's table."""

from __future__ import annotations

from tasks.prices import prices
from tasks.records import Usage
from tests.claude.log import Entry


def used(entry: Entry) -> Usage:
    """An entry's tokens."""
    told = entry.usage
    return Usage(
        input_tokens=told["input_tokens"],
        output_tokens=told["output_tokens"],
        cache_write_5m=told["cache_creation_input_tokens"],
        cache_read=told["cache_read_input_tokens"],
    )


def cost(entry: Entry) -> int:
    """Nanodollars of an entry outside of a batch."""
    return prices().cost(entry.model, used(entry))
