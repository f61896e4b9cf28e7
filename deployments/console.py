"""What all commands share: where they print, who gives them, and how they end with an error."""

from __future__ import annotations

import getpass

import typer
from rich.console import Console

out = Console(highlight=False)
WHO = f"{getpass.getuser()} at the command line"


def fail(text: str) -> typer.Exit:
    """Say what is wrong; to be raised."""
    out.print(text, style="red", markup=False, soft_wrap=True)
    return typer.Exit(1)
