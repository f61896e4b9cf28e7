"""What can go wrong, drawn as a tree.

HoldfastError (Exception)       one case, or one setting: the rest goes on
├── BadInput                    a setting, a file or a message is wrong; says which and what to do
├── NotSent                     the channel is certain that nothing left this machine: try again later
├── Refused                     an effect that this agent may not perform; never sent
│   └── Denied                  ... because a person said no, or nobody spoke in time
├── Unavailable                 a model can not be asked now: the step is tried again
├── NotNow                      ... for so long that the case gives its place away and comes back later
├── Unusable                    a model answered, but not so that one may act on it: a person decides
└── Parked                      the case waits for a person or a switch, with the reason
    ├── InDoubt                 ... for somebody's word on whether an effect is out
    ├── Waits                   ... for somebody's word on whether an effect may leave
    └── BudgetReached           ... for money: a top-up or the next day brings it back
Halt (BaseException)            Prefect swallows an Exception of a store or a key and pays again, so these are not
├── Draining                    the agent begins no new step: the case is handed back, without blame
├── StepRefused                 this step can not be finished once (key, result or place): ends its case
├── FenceLost                   someone else holds the case now: ends the batch
└── LedgerLost                  the ledger can not be read or written: ends the batch
"""

IN_DOUBT = "nobody can tell whether"
WAITS = "waits for a person's word on"


class HoldfastError(Exception):
    """An error that says what happened, to which case, and the way out."""


class BadInput(HoldfastError):
    """Raised when a setting, a file or a message can not be used as it is."""


class NotSent(HoldfastError):
    """Raised by a channel that knows that nothing left this machine; sending again is safe."""


class Refused(HoldfastError):
    """Raised when an effect is outside of what the agent is allowed to do."""


class Denied(Refused):
    """Raised when a person said no to an effect, or nobody spoke in time; a skill may conclude otherwise."""


class Parked(HoldfastError):
    """Raised when a case must wait for a person or a switch; the text is the reason that people read."""

    key = ""
    """Of the effect whose state parks it; empty if it is something else."""


class InDoubt(Parked):
    """Raised when nobody can tell whether an effect is out; its late confirmation brings the case back."""

    def __init__(self, key: str, doing: str, why: str) -> None:
        super().__init__(f"{IN_DOUBT} {doing} is out ({why}); look outside, then `resolve` it as sent or not sent")
        self.key = key


class Waits(Parked):
    """Raised when an effect of this kind may leave only on a person's word; the word brings the case back."""

    def __init__(self, key: str, doing: str, way_out: str) -> None:
        super().__init__(f"{WAITS} {doing} {way_out}")
        self.key = key


class BudgetReached(Parked):
    """Raised when a call could pass a limit; it was not made, and the case goes on once there is room for it."""

    def __init__(self, text: str, wants: int, wants_tokens: int) -> None:
        super().__init__(text)
        self.wants, self.wants_tokens = wants, wants_tokens


class Unavailable(HoldfastError):
    """Raised when a model does not answer now (too many requests, overloaded, cut off); asking again is right."""


class NotNow(HoldfastError):
    """Raised when nobody can answer a case for a while; it is handed back without blame for `seconds`."""

    def __init__(self, text: str, seconds: float) -> None:
        super().__init__(text)
        self.seconds = seconds


class Unusable(HoldfastError):
    """Raised when an answer is refused, cut off, empty, invalid or too long, also after a second try; it was paid."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"The model's answer is {kind}: {text}")
        self.kind = kind


class Halt(BaseException):
    """Root of what Prefect must not swallow."""


class Draining(Halt):
    """Raised between two steps while the agent drains; the next tick goes on with the case where it stands."""

    def __init__(self, case: int) -> None:
        super().__init__(f"Case {case} is handed back between two steps, because its agent is draining.")


class StepRefused(Halt):
    """Raised when a step can not be finished once: no case in hand, or a key or result unfit."""

    def __init__(self, step: str, case: object, why: str, way_out: str) -> None:
        super().__init__(f"Step {step!r} of case {case} {why}. {way_out}")
        self.parts = (step, case, why, way_out)


class FenceLost(Halt):
    """Raised when a case was taken over while this process was frozen or cut off; nothing of it was written."""

    def __init__(self, case: int, mine: int, doing: str) -> None:
        super().__init__(
            f"Case {case} was taken over by another process (fence {mine} is old), so this one may not {doing}. "
            "Nothing was written. The new holder goes on; no action is needed."
        )
        self.case = case


class LedgerLost(Halt):
    """Raised when the ledger can not be read or written; the work in hand stops so that nothing is paid for twice."""

    def __init__(self, doing: str, why: BaseException | str) -> None:
        super().__init__(
            f"The ledger failed while it should {doing}: {why}. Finished work is safe and nothing was repeated. "
            "Look at the database (HOLDFAST_LEDGER, disk space, locks), then let the next tick go on."
        )
