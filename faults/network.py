"""Every connection between two processes goes through toxiproxy, which spoils it when asked."""

from collections.abc import Mapping
from typing import Any, Final, Literal

import httpx

Direction = Literal["upstream", "downstream"]
"""From the one who connected to the other, or back."""

_TOXIC: Final = "fault"


class Network:
    """The proxies of one toxiproxy; ``url`` is where it takes orders."""

    def __init__(self, url: str) -> None:
        self._client = httpx.AsyncClient(base_url=url, timeout=30, trust_env=False)

    async def link(self, name: str, port: int) -> int:
        """Make a proxy to a port of this machine and return the port that it listens on."""
        proxy = {"name": name, "listen": "127.0.0.1:0", "upstream": f"127.0.0.1:{port}"}
        answer = await self._post("/proxies", proxy)
        return int(answer["listen"].rpartition(":")[2])

    async def cut(self, name: str) -> None:
        """End every connection and take no new one."""
        await self._post(f"/proxies/{name}", {"enabled": False})

    async def join(self, name: str) -> None:
        """Take connections again."""
        await self._post(f"/proxies/{name}", {"enabled": True})

    async def spoil(
        self, name: str, kind: str, direction: Direction, attributes: Mapping[str, int]
    ) -> None:
        """Add a toxic; of https://github.com/Shopify/toxiproxy#toxics, times in ms."""
        toxic = {"name": _TOXIC, "type": kind, "stream": direction, "attributes": attributes}
        await self._post(f"/proxies/{name}/toxics", toxic)

    async def mend(self, name: str) -> None:
        """Take the toxic away."""
        (await self._client.delete(f"/proxies/{name}/toxics/{_TOXIC}")).raise_for_status()

    async def close(self) -> None:
        """Close connections."""
        await self._client.aclose()

    async def _post(self, path: str, content: object) -> Any:
        answer = await self._client.post(path, json=content)
        answer.raise_for_status()
        return answer.json()
