"""Vectors of what a text means, from word vectors that a package brings along; none unless that is switched on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.errors import BadInput

PACKAGE = "wordllama"


SWITCH = "HOLDFAST_MEANING"


def recipe() -> str:
    """What the vectors are made by: part of a memory's digest, for readings differ with it. Empty without them.

    Raises BadInput where they are wanted and the package is missing.
    """
    if os.environ.get(SWITCH, "off") != "on":
        return ""
    try:
        return f"+{PACKAGE} {_version(PACKAGE)}"
    except PackageNotFoundError as why:
        raise BadInput(f"{SWITCH} is on, but {PACKAGE} is missing: `pip install '.[meaning]'`, or unset it.") from why


@lru_cache(maxsize=1)  # it is asked for with every text, and reads a file
def _version(package: str) -> str:
    return version(package)


@lru_cache(maxsize=1)
def _model() -> Any:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads do not survive the fork of a warm process
    from wordllama import WordLlama

    # By itself it would look for its tokenizer on the network, though the package has it.
    return WordLlama.load(cache_dir=Path(str(files(PACKAGE))), disable_download=True)


def vectors(texts: Sequence[str]) -> NDArray[np.float32] | None:
    """One row of length 1 for each text; None where they are switched off."""
    if not recipe():
        return None
    found: NDArray[np.float32] = np.asarray(_model().embed(list(texts)), dtype=np.float32)
    length = np.linalg.norm(found, axis=1, keepdims=True)
    np.divide(found, length, out=found, where=length > 0)  # an empty text has none
    return found
