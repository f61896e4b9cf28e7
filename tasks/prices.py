"""What a model's tokens cost, from a dated table; money is counted in whole nanodollars, so that sums are exact."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from datetime import date
from functools import lru_cache
from pathlib import Path

from pydantic import Field, ValidationError

from tasks.errors import BadInput
from tasks.records import Rate, Record, Usage

TABLE = Path(__file__).with_name("prices.toml")
NANO = 1_000_000_000
PER_TOKEN = 1_000  # nanodollars a token for each dollar a million tokens


class Above(Record):
    """Prices of prompts longer than `tokens`."""

    tokens: int = Field(gt=0)
    input: float = Field(ge=0)
    output: float = Field(ge=0)


class Price(Rate):
    """USD for a million tokens of one model, and what may be asked of it in a minute."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)
    write_5m: float = Field(ge=0)
    write_1h: float = Field(ge=0)
    read: float = Field(ge=0)
    above: Above | None = None


class Prices(Record):
    """The table as it was on a date."""

    checked: date
    batch: float = Field(gt=0, le=1)
    models: Mapping[str, Price]

    def of(self, model: str) -> Price:
        """The price of a model, also of one whose name ends in a date; BadInput if there is none."""
        for name in (model, model.rpartition("-")[0]):
            if name in self.models:
                return self.models[name]
        raise BadInput(
            f"No price is known for model {model!r}, so its spending could have no limit. Prices of {self.checked}: "
            f"{', '.join(sorted(self.models))}. Add it to a table named by HOLDFAST_PRICES."
        )

    def rate(self, model: str) -> Rate:
        """What may be asked of a model in a minute; BadInput as `of`, or if HOLDFAST_RATES can not be read."""
        own = _rates(os.environ.get("HOLDFAST_RATES", ""))
        return own.get(model) or own.get(model.rpartition("-")[0]) or self.of(model)

    def cost(self, model: str, used: Usage, batch: bool = False) -> int:
        """Nanodollars for what a response used."""
        price = self.of(model)
        dearer, output = 1.0, price.output
        if price.above and used.prompt > price.above.tokens:
            dearer, output = price.above.input / price.input, price.above.output
        read = dearer * (
            used.input_tokens * price.input
            + used.cache_write_5m * price.write_5m
            + used.cache_write_1h * price.write_1h
            + used.cache_read * price.read
        )
        return round((read + used.output_tokens * output) * PER_TOKEN * (self.batch if batch else 1))

    def at_most(self, model: str, prompt_tokens: int, max_tokens: int, batch: bool = False) -> int:
        """Nanodollars that a call can not exceed, however much of its prompt is written to the cache."""
        ways = ("input_tokens", "cache_write_5m", "cache_write_1h")
        used = [Usage.model_validate({way: prompt_tokens, "output_tokens": max_tokens}) for way in ways]
        return max(self.cost(model, one, batch) for one in used)

    def saved_by_cache(self, model: str, used: Usage, batch: bool = False) -> int:
        """Nanodollars less (or, for the first call, more) than the same tokens without a cache."""
        plain = Usage(input_tokens=used.prompt, output_tokens=used.output_tokens)
        return self.cost(model, plain, batch) - self.cost(model, used, batch)


def prices() -> Prices:
    """The table in force; BadInput that names the file and the field if it is broken."""
    return _read(os.environ.get("HOLDFAST_PRICES") or str(TABLE))


@lru_cache(maxsize=4)
def _read(path: str) -> Prices:
    try:
        return Prices.model_validate(tomllib.loads(Path(path).read_text(encoding="utf-8")))
    except (OSError, tomllib.TOMLDecodeError, ValidationError) as why:
        raise BadInput(f"The price table {path} can not be used: {why}") from why


@lru_cache(maxsize=4)
def _rates(text: str) -> dict[str, Rate]:
    found = {}
    for one in filter(None, (part.strip() for part in text.split(","))):
        model, _, both = one.partition("=")
        requests, _, tokens = both.partition("/")
        given = {"requests_per_minute": requests or None, "tokens_per_minute": tokens or None}
        try:
            found[model] = Rate.model_validate(given)
        except ValidationError as why:
            raise BadInput(
                f"HOLDFAST_RATES has {one!r}. Write MODEL=REQUESTS/TOKENS of a minute, either may be left out, and a "
                "comma between two: claude-haiku-5-5=50/40000,claude-opus-5-5=5/"
            ) from why
    return found
