"""What one request may cost, and how long anybody waits."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on everything that comes from outside.

    Attributes:
        body_bytes: of one request's body.
        body_seconds: for a body to arrive, from the first byte of the request on.
        head_seconds: for the head of a request to arrive on an open connection.
        stall_seconds: that a client may leave its answer unread before it is cut off.
        prompt_tokens: of one prompt, where the model itself has no limit.
        new_tokens: of one answer.
        choices: answers to one request (prompts × ``n``).
        requests: answers under way or waiting at once; more are refused with 429.
        request_seconds: from admission to the last token, waiting included.
        grace_seconds: that running answers may take to end once the server is to stop.
        connections: open at once; more are answered with 503.
        runs_at_once: programs in the sandbox at once.
    """

    body_bytes: int = 1 << 20
    body_seconds: float = 20.0
    head_seconds: float = 10.0
    stall_seconds: float = 20.0
    prompt_tokens: int = 8192
    new_tokens: int = 1024
    choices: int = 16
    requests: int = 64
    request_seconds: float = 300.0
    grace_seconds: float = 10.0
    connections: int = 512
    runs_at_once: int = 2
