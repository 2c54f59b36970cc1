"""`EarlyAccess`: a use of what an asynchronous call has not finished with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyAccess:
    """A result used, or an input changed, before the asynchronous call was waited for.

    Attributes:
        call: the asynchronous call: 'all_reduce of float32 [3]'.
        call_line: the user's line that made it.
        access: the op that accessed the tensor: 'tanh'; empty where the tensor was recorded by the prover.
        access_line: the user's line of the access; may be empty.
        of_input: whether an input was changed; otherwise the result was used.
    """

    call: str
    call_line: str
    access: str
    access_line: str
    of_input: bool
