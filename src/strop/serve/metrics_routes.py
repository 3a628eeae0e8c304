"""The port for Prometheus: metrics and health, and nothing that needs a token."""

from __future__ import annotations

from strop.serve.core import Core
from strop.serve.errors import MethodNotAllowed, NotFound
from strop.serve.exchange import Exchange
from strop.serve.metrics import metrics_text
from strop.serve.routes import GET, Match

TEXT = b"text/plain; version=0.0.4; charset=utf-8"


class MetricsRoutes:
    """Answers ``/metrics``, and the two questions of health for probes that come here."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._found = {
            b"/metrics": Match(self._metrics, GET, "open"),
            b"/v2/health/live": Match(self._live, GET, "open"),
            b"/v2/health/ready": Match(self._ready, GET, "open"),
        }

    def match(self, target: bytes) -> Match:
        """What answers a request target."""
        found = self._found.get(target.partition(b"?")[0])
        if found is None:
            raise NotFound("there is nothing at this path but metrics")
        return found

    def admit(self, exchange: Exchange, match: Match) -> None:
        """Refuse by the method."""
        if exchange.method not in match.methods:
            raise MethodNotAllowed(match.methods)

    def dispatch(self, exchange: Exchange, match: Match) -> None:
        """Answer at once."""
        match.handler(exchange, match)

    def lane(self, match: Match) -> None:
        """Nothing is inferred here."""

    def gate(self, match: Match) -> None:
        """Nothing is inferred here."""

    def _metrics(self, exchange: Exchange, match: Match) -> None:
        exchange.answer(200, [metrics_text(self._core)], content_type=TEXT)

    def _live(self, exchange: Exchange, match: Match) -> None:
        exchange.answer_json({"live": self._core.live()})

    def _ready(self, exchange: Exchange, match: Match) -> None:
        ready = self._core.ready()
        exchange.answer_json({"ready": ready}, status=200 if ready else 503)
