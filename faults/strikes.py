"""Makes a fault happen, and makes it good again."""

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable
from typing import Final

from faults.plan import Fault, Kind
from faults.stack import Stack

_APART_SECONDS: Final = 300
_STEP_SECONDS: Final = 300
_SLOW_MS: Final = {"latency": 1500, "jitter": 1000}


class Striker:
    """Strikes a stack.

    ``unobserved`` runs what nobody may have a file open for; ``crowd`` has the database need room.
    """

    def __init__(
        self,
        stack: Stack,
        unobserved: Callable[[Callable[[], Awaitable[None]]], Awaitable[None]],
        crowd: Callable[[], Awaitable[None]],
    ) -> None:
        self._stack = stack
        self._crowd = crowd
        self._unobserved = unobserved
        self._network_busy: dict[str, asyncio.Lock] = {}

    async def strike(self, fault: Fault) -> None:
        """Have the fault happen, for as long as it lasts."""
        match fault.kind:
            case Kind.KILL:
                await self._end(fault, signal.SIGKILL)
            case Kind.TERM:
                await self._end(fault, signal.SIGTERM)
            case Kind.PAUSE | Kind.LONG_PAUSE:
                await self._pause(fault)
            case Kind.CUT | Kind.SLOW | Kind.HALF_OPEN | Kind.RESET:
                await self._spoil(fault)
            case Kind.DISK_FULL:
                await self._fill(fault)
            case Kind.CLOCK_APART | Kind.CLOCK_STEPS:
                await self._move_clock(fault)
            case Kind.POWER_LOSS:
                await self._lose_power(fault)

    async def _end(self, fault: Fault, how: signal.Signals) -> None:
        node = self._stack.nodes[fault.target]
        async with node.busy:
            await node.end(how)
            await asyncio.sleep(fault.seconds)
            await node.start()

    async def _pause(self, fault: Fault) -> None:
        node = self._stack.nodes[fault.target]
        async with node.busy:
            node.process.send_all(signal.SIGSTOP)
            try:
                await asyncio.sleep(fault.seconds)
            finally:
                node.process.send_all(signal.SIGCONT)

    async def _spoil(self, fault: Fault) -> None:
        network = self._stack.network
        assert network is not None  # noqa: S101, without one there are no links to strike
        async with self._network_busy.setdefault(fault.target, asyncio.Lock()):
            if fault.kind is Kind.CUT:
                await network.cut(fault.target)
            else:
                kind, attributes = {
                    Kind.SLOW: ("latency", _SLOW_MS),
                    # Bytes vanish, and the connection stays; it ends when it is mended.
                    Kind.HALF_OPEN: ("timeout", {"timeout": 0}),
                    Kind.RESET: ("reset_peer", {"timeout": 0}),
                }[fault.kind]
                way = "upstream" if fault.upstream else "downstream"
                await network.spoil(fault.target, kind, way, attributes)  # type: ignore[arg-type]
            try:
                await asyncio.sleep(fault.seconds)
            finally:
                await (network.join if fault.kind is Kind.CUT else network.mend)(fault.target)

    async def _fill(self, fault: Fault) -> None:
        disk = self._stack.disks[fault.target]
        async with self._stack.on_disk(fault.target)[0].busy:
            await asyncio.to_thread(disk.fill)
            try:
                resting = asyncio.create_task(asyncio.sleep(fault.seconds))
                if fault.target == "mariadb":  # its files have room for a while
                    await self._crowd()
                await resting
            finally:
                disk.clear()

    async def _move_clock(self, fault: Fault) -> None:
        node = self._stack.nodes[fault.target]
        sign = 1 if fault.ahead else -1
        generator = random.Random(fault.number)  # noqa: S311, it has to repeat
        async with node.busy:
            try:
                if fault.kind is Kind.CLOCK_APART:
                    self._set_clock(fault.target, sign * _APART_SECONDS)
                    await asyncio.sleep(fault.seconds)
                else:
                    for _ in range(round(fault.seconds)):
                        step = generator.randint(-_STEP_SECONDS, _STEP_SECONDS)
                        self._set_clock(fault.target, step)
                        await asyncio.sleep(1)
            finally:
                self._set_clock(fault.target, 0)

    def _set_clock(self, name: str, seconds: int) -> None:
        clock = self._stack.nodes[name].clock
        assert clock is not None  # noqa: S101, only nodes with a clock are struck
        clock.set(seconds)

    async def _lose_power(self, fault: Fault) -> None:
        nodes = self._stack.on_disk(fault.target)
        for node in nodes:
            await node.busy.acquire()
        try:

            async def lose() -> None:
                await asyncio.gather(*(node.end(signal.SIGKILL) for node in nodes))
                await asyncio.to_thread(self._stack.disks[fault.target].lose_power)

            await self._unobserved(lose)
            await asyncio.sleep(fault.seconds)
            await asyncio.gather(*(node.start() for node in nodes))
        finally:
            for node in nodes:
                node.busy.release()
