"""How requests come out of the bytes on a connection."""

from __future__ import annotations

import pytest

from .test_express import Client, on_a_loop
from .test_gate import Clock, Site, binary, clock  # noqa: F401  a fixture


@pytest.mark.parametrize("pieces", [2, 5])
@on_a_loop
async def test_how_long_a_client_sends_is_not_counted(
    clock: Clock,  # noqa: F811
    pieces: int,
) -> None:
    """Neither with a head that is parsed nor with one that is known."""
    site = Site(slo=1.0)
    request = binary(3.0)
    body = request.index(b"\r\n\r\n") + 4
    step = (len(request) - body) // pieces + 1
    client = Client(site.front)
    for count in (1, 2):
        client.send(request[:body])
        for start in range(body, len(request), step):
            clock.now += 100.0
            piece = request[start : start + step]
            window = client.connection.get_buffer(len(piece))
            window[: len(piece)] = piece
            client.connection.buffer_updated(len(piece))
        answers = await client.answers(count)
        assert len(answers) == count
        assert answers[-1][0] == 200
    assert site.front.known
    assert site.model.statistics.success.ns == 0
    assert site.model.statistics.late == 0
    client.leave()
    await site.close()
