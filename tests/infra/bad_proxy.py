"""``python bad_proxy.py ADDRESS PORT TARGET FILE``: a proxy before the server TARGET; it answers badly while FILE exists.

Then every second connection is answered with 503 and closed, and the others wait for three seconds and are closed half a second
later, whatever they do. It changes no byte of the rest, so that signatures stay valid.
"""

import asyncio
import itertools
import sys
from pathlib import Path

SLOW_SECONDS, LIFE_SECONDS = 3.0, 0.5
UNAVAILABLE = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/xml\r\nConnection: close\r\nContent-Length: 59\r\n\r\n"
    b"<Error><Code>SlowDown</Code><Message>Busy</Message></Error>"
)


async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Copy until one side ends."""
    try:
        while part := await source.read(1 << 16):
            sink.write(part)
            await sink.drain()
    except OSError:
        pass
    finally:
        sink.close()


async def main(address: str, port: int, target: str, bad: Path) -> None:
    """Serve until killed."""
    numbers = itertools.count()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if bad.exists():
            if next(numbers) % 2:
                await reader.read(1 << 16)
                writer.write(UNAVAILABLE)
                writer.close()
                return
            await asyncio.sleep(SLOW_SECONDS)
        try:
            upstream, downstream = await asyncio.open_connection(*target.split(":"))
        except OSError:
            writer.close()
            return
        pumps = [asyncio.create_task(pump(reader, downstream)), asyncio.create_task(pump(upstream, writer))]
        while not all(task.done() for task in pumps):
            await asyncio.wait(pumps, timeout=LIFE_SECONDS)
            if bad.exists():  # a connection that is kept would not notice
                writer.close()
                downstream.close()
                return

    server = await asyncio.start_server(serve, address, port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])))
