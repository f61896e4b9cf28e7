"""Where level one is played: a folder, a mail sink and migrated ledgers, for all scenarios of one process."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.chaos.each import Ground
from tests.chaos.inbox import batches, skill
from tests.chaos.oracle import Verdict
from tests.chaos.plan import plan
from tests.chaos.scene import Ledgers
from tests.chaos.sink import Sink
from tests.servers import Postgres


def grounds(seed: int, postgres: Postgres | None, named: str, inbox: Path | None) -> Iterator[Callable[[int], Verdict]]:
    """Yields the player once; the rest cleans up."""
    folder = Path(tempfile.mkdtemp(prefix="chaos-ground-"))
    sink = Sink(folder / "sink")
    try:
        ground = Ground(Ledgers(folder, postgres), sink, skill(named), batches(named, inbox))
        yield lambda number: ground.play(plan(seed, number))
    finally:
        sink.stop()
        shutil.rmtree(folder, ignore_errors=True)
