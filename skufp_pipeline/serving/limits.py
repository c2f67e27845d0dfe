"""Rate limits: how many requests of one caller are accepted within a moving window.

`limits` parses the rates. Its memory storage keeps each caller for good and looks at all of them in a thread
of its own, so that the windows are kept here: at most `CALLERS` of them, the least recently used go first.
"""

import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from ipaddress import ip_address, ip_network

from limits import parse

CALLERS = 10_000  # windows that are kept at once
NETWORK = 64  # bits of an IPv6 address that one customer has


class MovingWindow:
    """At most so many requests of a caller in any stretch of time, as a rate ("50/second") says.

    >>> window = MovingWindow("2/minute", clock=lambda: 5.0)
    >>> [window.seconds_to_wait("a") for _ in range(3)], window.seconds_to_wait("b")
    ([0, 0, 60], 0)

    Args:
        times: allows so many times the rate.
    """

    def __init__(
        self, rate: str, times: int = 1, callers: int = CALLERS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        item = parse(rate)
        self.amount, self.seconds = item.amount * times, item.get_expiry()
        self._callers, self._clock = callers, clock
        self._accepted: OrderedDict[str, deque[float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._accepted)

    def seconds_to_wait(self, caller: str) -> int:
        """Counts a request and returns 0, or whole seconds until one is accepted again.

        A refused request is not counted.
        """
        now = self._clock()
        accepted = self._accepted.setdefault(caller, deque())
        self._accepted.move_to_end(caller)
        while accepted and accepted[0] <= now - self.seconds:
            accepted.popleft()
        if len(accepted) >= self.amount:
            return max(1, math.ceil(accepted[0] + self.seconds - now))
        accepted.append(now)
        if len(self._accepted) > self._callers:
            self._accepted.popitem(last=False)
        return 0


def caller_of(key: str | None, address: str | None) -> str:
    """Who is counted: the name of a key, else an address, of IPv6 the network that one customer has.

    >>> caller_of("till", "10.0.0.1"), caller_of(None, "10.0.0.1"), caller_of(None, "2001:db8::1:2")
    ('key till', '10.0.0.1/32', '2001:db8::/64')
    """
    return f"key {key}" if key is not None else network_of(address, 32, NETWORK)


def network_of(address: str | None, bits: int, bits_of_v6: int) -> str:
    """The network that an address lies in; "unknown" for what is no address."""
    try:
        parsed = ip_address((address or "").split("%")[0])
    except ValueError:
        return "unknown"
    if parsed.version == 6 and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return str(ip_network((parsed, bits if parsed.version == 4 else bits_of_v6), strict=False))
