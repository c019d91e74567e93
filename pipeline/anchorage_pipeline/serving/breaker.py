"""A circuit breaker: after several failures in a row, calls are refused at once until a single try succeeds."""

import threading
import time
from collections.abc import Callable

from anchorage.errors import ResourceError


class CircuitBreaker:
    """Counts the failures of a server.

    Args:
        name: the server, for messages.
        failures: failures in a row after which calls are refused.
        seconds: time after which one call is let through; if it fails, calls are refused for this time again.
        clock: returns seconds.
    """

    def __init__(self, name: str, failures: int, seconds: float, clock: Callable[[], float] = time.monotonic):
        self._name, self._most, self._seconds, self._clock = name, failures, seconds, clock
        self._failures = 0
        self._closed_until = 0.0  # the next try, once there are too many failures
        self._lock = threading.Lock()

    @property
    def open(self) -> bool:
        """Whether calls are refused, but for single tries."""
        return self._failures >= self._most

    def enter(self) -> None:
        """Begin a call.

        Raises:
            ResourceError: `E_MODEL_SERVER` if calls are refused.
        """
        with self._lock:
            if not self.open:
                return
            now = self._clock()
            if now < self._closed_until:
                raise ResourceError(
                    "E_MODEL_SERVER",
                    f"Expected answers from {self._name}. Received: {self._failures} failures in a row; the next try "
                    f"is in {self._closed_until - now:.1f} s.",
                )
            self._closed_until = now + self._seconds  # others wait for the outcome of this one

    def succeeded(self) -> None:
        """End a call that was answered."""
        with self._lock:
            self._failures = 0

    def failed(self) -> None:
        """End a call that was not answered."""
        with self._lock:
            self._failures += 1
            if self.open:
                self._closed_until = self._clock() + self._seconds
