"""What a client is told when something is wrong, as OpenAI's error objects.

Every error has a status, a type, a code a program can branch on and, where one field of the
request is at fault, its name.  Nothing of the server's inside is in it.
"""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from veritune.errors import EnvironmentFault, ModelReferenceError, VerituneError

LOG = logging.getLogger("veritune.serve")

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "rate_limit_error",
}


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """The body of every answer that is not a success."""

    error: ErrorDetail


class ApiFault(Exception):
    """A fault that ends a request with this status and message.

    Args:
        code: for programs, such as ``context_length_exceeded``.
        param: the field of the request that is at fault.
        retry_after: seconds after which a client may try again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        """The error object."""
        kind = _TYPES.get(self.status, "server_error")
        detail = ErrorDetail(message=self.message, type=kind, param=self.param, code=self.code)
        return ErrorBody(error=detail).model_dump()

    @property
    def headers(self) -> dict[str, str]:
        """Headers that go with the status."""
        found = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status == 401:
            found["WWW-Authenticate"] = "Bearer"
        if self.code == "timeout":
            # The official client would ask twice more for what takes too long.
            found["x-should-retry"] = "false"
        return found

    def response(self) -> JSONResponse:
        """The whole answer."""
        return JSONResponse(self.body(), self.status, self.headers)


def from_veritune(error: VerituneError) -> ApiFault:
    """One of our own errors as a client may see it."""
    parts = [error.fault, *(f"received: {error.received}" for _ in [0] if error.received)]
    if error.accepted:
        parts.append(f"accepted: {error.accepted}")
    message = "; ".join(parts)
    if isinstance(error, ModelReferenceError):
        return ApiFault(404, message, code="model_not_found", param="model")
    if isinstance(error, EnvironmentFault):
        return ApiFault(503, message, code="unavailable")
    return ApiFault(400, message, code="invalid_request")


def shutting_down() -> ApiFault:
    """The server is about to stop."""
    return ApiFault(503, "the server is stopping", code="shutting_down", retry_after=5)


def add_handlers(app: FastAPI) -> None:
    """Answer every fault with an error object."""

    @app.exception_handler(ApiFault)
    async def _ours(_: Request, error: ApiFault) -> JSONResponse:
        return error.response()

    @app.exception_handler(VerituneError)
    async def _veritune(_: Request, error: VerituneError) -> JSONResponse:
        return from_veritune(error).response()

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return _explain(error).response()

    @app.exception_handler(HTTPException)
    async def _http(_: Request, error: HTTPException) -> JSONResponse:
        status = error.status_code
        code = {404: "not_found", 405: "method_not_allowed"}.get(status, "invalid_request")
        answer = ApiFault(status, str(error.detail), code=code).response()
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(Exception)
    async def _unforeseen(_: Request, error: Exception) -> JSONResponse:
        LOG.error("a request failed", exc_info=error)
        return ApiFault(500, "the server failed", code="internal_error").response()


def _explain(error: RequestValidationError) -> ApiFault:
    """One fault of a body, without echoing the body."""
    errors = error.errors()
    if any(row.get("type") == "json_invalid" for row in errors):
        return ApiFault(400, "the body is not JSON", code="invalid_json")
    # A value that may be of several types fails once for each; that of a right type says more.
    first = next((row for row in errors if not str(row.get("type")).endswith("_type")), errors[0])
    place = [str(part) for part in first.get("loc", ()) if part not in ("body", "path", "query")]
    # Members of unions are named by their type; a client only knows the field.
    place = [part for part in place if part.isidentifier() or part.isdigit()]
    message = str(first.get("msg", "not valid")).removeprefix("Value error, ")
    where = f"{'.'.join(place)}: " if place else ""
    param = place[0] if place else None
    return ApiFault(400, f"{where}{message}"[:500], code="invalid_value", param=param)
