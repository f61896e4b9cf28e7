"""The project's own database: the truth about cases, leases, steps, effects and outcomes."""

from tasks.ledger.database import Ledger, ledger_url, the_ledger

__all__ = ["Ledger", "ledger_url", "the_ledger"]
