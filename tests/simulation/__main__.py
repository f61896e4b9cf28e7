"""Plays thousands of simulated interleavings from a seed and prints the shortest story that goes wrong."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time

from tests.simulation.planted import PLANTED
from tests.simulation.stories import CHUNK, Story, play, stage, tell


def many(stories: int, seed: int, workers: int) -> int:
    began, told = time.monotonic(), 0
    chunks = [seed * 1_000_000 + number for number in range(-(-stories // CHUNK))]
    with multiprocessing.get_context("spawn").Pool(workers, os.nice, (5,), maxtasksperchild=50) as pool:
        for done, (number, story, played) in enumerate(pool.imap_unordered(play, chunks), 1):
            told += played
            if story:
                pool.terminate()
                print(f"\n{story}\n\nAgain: python -m tests.simulation --replay {number}")
                return 1
            if done % 10 == 0 or done == len(chunks):
                rate = told / (time.monotonic() - began)
                print(f"{told} interleavings clean, {rate:.0f} in a second", flush=True)
    print(f"All clean: {told} interleavings, seed {seed}, {time.monotonic() - began:.0f} s.")
    return 0


def find(bug: str) -> int:
    """Plant a bug and print its shortest story."""
    plant = next(one for one in PLANTED if bug in one.__name__)
    with stage(), plant():
        story, number = "", 0
        while not story and number < 100:
            number += 1
            before = Story.told
            story = tell(CHUNK, number, shrink=False)
        print(f"{plant.__name__}: found by story {(number - 1) * CHUNK + Story.told - before}")
        print(tell(CHUNK, number))
    return 0 if story else 1


def main() -> int:
    asked = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    asked.add_argument("--stories", type=int, default=20_000)
    asked.add_argument("--seed", type=int, default=1)
    asked.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    asked.add_argument("--replay", type=int, help="one chunk again, by the seed that a failure printed")
    asked.add_argument("--bug", help="part of a planted bug's name: show how it is found")
    given = asked.parse_args()
    if given.bug:
        return find(given.bug)
    if given.replay is not None:
        _, story, played = play(given.replay)
        print(story or f"{played} interleavings clean")
        return bool(story)
    return many(given.stories, given.seed, given.workers)


if __name__ == "__main__":
    raise SystemExit(main())
