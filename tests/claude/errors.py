"""What the API says no with: a status, the type that belongs to it, and the envelope of every error."""

from __future__ import annotations

import json
from typing import Any

Body = dict[str, Any]
TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "api_error",
    504: "timeout_error",
    529: "overloaded_error",
}
SAYS = {
    401: "invalid x-api-key",
    402: "Your credit balance is too low to access the API.",
    403: "Your API key does not have permission to use the specified resource.",
    408: "Request timed out.",
    409: "The request conflicts with the current state of the resource.",
    413: "Request exceeds the maximum size.",
    429: "This request would exceed the rate limit of your organization.",
    500: "Internal server error",
    503: "Service unavailable",
    504: "Request timed out before it could be completed.",
    529: "Overloaded",
}


class Refused(Exception):
    """A request that gets an error for an answer, raised wherever that is found out."""

    def __init__(self, status: int, message: str = "", headers: dict[str, str] | None = None) -> None:
        super().__init__(message or SAYS.get(status, "Error"))
        self.status = status
        # The SDK obeys this header before it looks at the status.
        self.headers = {"x-should-retry": "true" if status == 429 or status >= 500 else "false"} | (headers or {})


def envelope(status: int, message: str, request_id: str | None) -> Body:
    error = {"type": TYPES.get(status, TYPES[400] if status < 500 else TYPES[500]), "message": message}
    return {"type": "error", "error": error, "request_id": request_id}


def parsed(raw: bytes) -> Body:
    try:
        found = json.loads(raw)
    except ValueError as error:
        raise Refused(400, f"The request body is not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise Refused(400, "Input should be a valid dictionary")
    return found
