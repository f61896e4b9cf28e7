"""Programs that are not there are fetched into a folder of ours, or the error says what to type."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deployments.programs import PACKAGES, programs
from tasks.errors import BadInput

APT = """#!/bin/sh
[ "$1" = download ] || exit 0
shift
for package in "$@"; do echo "$package" > "$package.deb"; done
"""
DPKG = """#!/bin/sh
mkdir -p "$3/usr/bin"
for program in %s; do
  printf '#!/bin/sh\\n' > "$3/usr/bin/$program"
  chmod +x "$3/usr/bin/$program"
done
"""


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with a shell's own programs and none of ours."""
    path = tmp_path / "path"
    path.mkdir()
    for name in ("sh", "cat", "mkdir", "chmod"):
        (path / name).symlink_to(f"/bin/{name}")
    monkeypatch.setenv("PATH", str(path))
    return path


def put(path: Path, name: str, text: str) -> None:
    (path / name).write_text(text)
    (path / name).chmod(0o755)


def test_without_a_way_to_fetch_them_the_error_says_what_to_type(bare: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"There is no apt-get here.*sudo apt-get update && sudo apt-get install"):
        programs(tmp_path / "cache")
    put(bare, "dpkg", "#!/bin/sh\n")
    put(bare, "apt-get", "#!/bin/sh\necho 'E: no such package' >&2; exit 100\n")
    with pytest.raises(BadInput, match=r"(?s)apt-get download.*E: no such package.*sudo apt-get update"):
        programs(tmp_path / "cache")
    put(bare, "apt-get", APT)
    with pytest.raises(BadInput, match=r"prometheus.*can not be had here.*sudo apt-get update"):
        programs(tmp_path / "cache")


def test_what_is_missing_is_fetched_once_and_what_is_there_stays(bare: Path, tmp_path: Path) -> None:
    put(bare, "prometheus-pushgateway", "#!/bin/sh\n")
    put(bare, "apt-get", APT)
    put(bare, "dpkg", DPKG % " ".join(PACKAGES))
    cache = tmp_path / "cache"
    found = programs(cache)
    assert found.keys() == PACKAGES.keys() and all(os.access(one, os.X_OK) for one in found.values())
    assert found["prometheus-pushgateway"].parent == bare and found["prometheus"].parent == cache / "usr/bin"
    assert list(cache.glob("*.deb")) == []
    put(bare, "apt-get", "#!/bin/sh\nexit 1\n")
    assert programs(cache) == found, "it fetched again"
