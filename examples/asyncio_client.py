"""A node used from asyncio: parallel queries, a reply read while it arrives, and a dialogue over a tunnel."""

import asyncio
from collections.abc import AsyncIterator

from tunnel import LocalNetwork
from tunnel.client.aio import AsyncClient


async def pieces() -> AsyncIterator[bytes]:
    for number in range(1000):
        yield b"%d " % number * 100


async def main(net: LocalNetwork) -> None:
    bob = net[5].id
    async with AsyncClient(net[0]) as client:
        results = await asyncio.gather(*(client.query(bob, b"query %d" % n, hops=2) for n in range(3)))
        print(", ".join(result.read().decode() for result in results))

        count = 0
        async with await client.ask(bob, pieces(), hops=2, timeout_s=30) as reply:
            async for data in reply:
                count += len(data)
        print(f"{count:,} bytes arrived while the query was being sent")

        async with asyncio.timeout(30), await client.tunnel(bob, hops=2) as tunnel:
            for word in (b"over", b"and over"):
                print(f"the tunnel answers {((await tunnel.ask(word)) or b'').decode()!r}")


with LocalNetwork(peers=6) as net:
    asyncio.run(main(net))
