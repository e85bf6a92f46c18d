"""The names by which services still import what is in the modules below."""

from services.common.health import Check
from services.common.health import HealthChecks as Outages
from services.common.http_server import serve_http, serve_probes
from services.common.lifecycle import Lifecycle
from services.common.probes import probe_routes
from services.common.sockets import listen

__all__ = ["Check", "Lifecycle", "Outages", "listen", "probe_routes", "serve_http", "serve_probes"]
