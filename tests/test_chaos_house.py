"""The chaos suite's short form on a whole house: what is killed comes back, and Prefect shows nothing dead as alive."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.test_chaos import play


@pytest.mark.timeout(600)
def test_a_kill_of_any_part_of_a_house_leaves_no_run_under_way_that_is_dead(tmp_path: Path) -> None:
    found = play(tmp_path / "figures", "--n", "20", "--level", "stack", "--seed", "7")
    assert found["stack"]["scenarios"] == 2 == found["stack"]["kills"]
