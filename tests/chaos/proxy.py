"""A TCP proxy for each link, which cuts, stalls, resets, blacks out or swallows answers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine
from enum import StrEnum
from typing import Any

from processor.processes import free_port

LOCALHOST = "127.0.0.1"
CHUNK = 65_536


class Mode(StrEnum):
    """What a link does with what it is given."""

    PASS = "pass"
    CUT = "cut"  # every connection ends, new ones end at once
    STALL = "stall"  # nothing moves, nothing is lost, nothing ends
    RESET = "reset"  # every connection is reset; new ones pass
    BLACKOUT = "blackout"  # what is sent is lost, and nobody is told until the link is back
    SWALLOW = "swallow"  # requests arrive, answers do not; reset when the link is back


HARMFUL = tuple(mode for mode in Mode if mode is not Mode.PASS)


class _Pair:
    """One connection through the proxy. is_waiting: something was passed on and nothing came back yet."""

    def __init__(self, near: asyncio.StreamWriter) -> None:
        self.near = near
        self.far: asyncio.StreamWriter | None = None
        self.is_waiting = False
        self.is_doomed = False

    def reset(self) -> None:
        for writer in (self.near, self.far):
            if writer is not None:
                sock = writer.get_extra_info("socket")
                if sock is not None:
                    with contextlib.suppress(OSError):
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()

    def close(self) -> None:
        for writer in (self.near, self.far):
            if writer is not None:
                writer.close()


class Proxy:
    """One link. cut_unanswered: connections the far side ended after it was sent something, before it answered."""

    def __init__(self, name: str, target: int) -> None:
        self.name = name
        self.target = target
        self.port = free_port()
        self.mode = Mode.PASS
        self.cut_unanswered = 0
        self._moving = asyncio.Event()
        self._moving.set()
        self._pairs: set[_Pair] = set()
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, LOCALHOST, self.port)

    async def close(self) -> None:
        """End everything."""
        if self._server is not None:
            self._server.close()
        for pair in list(self._pairs):
            pair.reset()

    async def become(self, mode: Mode) -> None:
        """Behave otherwise from now on."""
        self.mode = mode
        for pair in list(self._pairs):
            if mode is Mode.CUT:
                pair.close()
            elif mode is Mode.RESET or (mode is Mode.PASS and pair.is_doomed):
                pair.reset()
        if mode in (Mode.STALL, Mode.BLACKOUT):
            self._moving.clear()
        else:
            self._moving.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pair = _Pair(writer)
        self._pairs.add(pair)
        try:
            if self.mode is Mode.CUT:
                pair.reset()
                return
            if self.mode is Mode.BLACKOUT:
                pair.is_doomed = True
            await self._moving.wait()
            if pair.is_doomed:
                pair.reset()
                return
            far_reader, pair.far = await asyncio.open_connection(LOCALHOST, self.target)
            await asyncio.gather(
                self._pump(pair, reader, pair.far, is_answer=False),
                self._pump(pair, far_reader, writer, is_answer=True),
            )
        except OSError:
            pair.reset()
        finally:
            self._pairs.discard(pair)
            pair.close()

    async def _pump(
        self, pair: _Pair, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_answer: bool
    ) -> None:
        while True:
            try:
                data = await reader.read(CHUNK)
            except OSError:
                data = b""
            if not data:
                if is_answer and pair.is_waiting and self.mode is Mode.PASS and not pair.near.is_closing():
                    self.cut_unanswered += 1
                pair.close()
                return
            if self.mode is Mode.BLACKOUT or (self.mode is Mode.SWALLOW and is_answer):
                pair.is_doomed = True
                continue
            if self.mode is Mode.STALL:
                await self._moving.wait()
            pair.is_waiting = not is_answer
            writer.write(data)
            await writer.drain()


class Network:
    """Every link, served by one thread."""

    def __init__(self) -> None:
        self.links: dict[str, Proxy] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="network", daemon=True)
        self._thread.start()

    def add(self, name: str, target: int) -> Proxy:
        """A new link to a port of this machine."""

        async def make() -> Proxy:
            proxy = Proxy(name, target)
            await proxy.open()
            return proxy

        self.links[name] = self._do(make())
        return self.links[name]

    def become(self, name: str, mode: Mode) -> None:
        """Let a link behave otherwise."""
        self._do(self.links[name].become(mode))

    def close(self) -> None:
        """End every link."""
        for link in self.links.values():
            self._do(link.close())
        self._do(self._end_tasks())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    async def _end_tasks(self) -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)
