"""The application: routes, guards, health and metrics around one service."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response

from veritune import __version__
from veritune.serve.api import api_routes
from veritune.serve.faults import add_handlers
from veritune.serve.guards import Guards
from veritune.serve.page import page_routes
from veritune.serve.service import Service


def create_app(service: Service) -> FastAPI:
    """The ASGI application; its worker starts and stops with it."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.worker.start()
        yield
        await service.worker.stop()

    app = FastAPI(
        title="Veritune",
        version=__version__,
        lifespan=lifespan,
        # Their pages load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
    )
    add_handlers(app)
    app.include_router(api_routes(service))
    app.include_router(page_routes(service))

    @app.get("/health")
    async def health() -> JSONResponse:
        """Whether answers are being made."""
        worker = service.worker
        state = "stopping" if worker.closed else "ok" if worker.healthy else "failing"
        content: dict[str, Any] = {
            "status": state,
            "engine": service.engine,
            "models": list(service.catalog.names),
            "active_requests": worker.n_inside,
        }
        return JSONResponse(content, 200 if state == "ok" else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        """Counters for Prometheus."""
        content, kind = service.gauges.page()
        return Response(content, media_type=kind)

    app.add_middleware(
        Guards,
        limits=service.limits,
        gauges=service.gauges,
        api_key=service.api_key,
        loopback=service.loopback,
    )
    return app
