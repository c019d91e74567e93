"""One call of a model server, and what can go wrong with it."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np


class UnreachableError(Exception):
    """The server is out of reach, or not ready: the call can be tried again."""


class LateError(Exception):
    """The server did not answer in time."""


class Transport(Protocol):
    """One call of the signature `serving_default` of one version.

    Attributes:
        losses: connections that were seen to end, also between calls: the next one may lead to another server.
    """

    losses: int

    def __call__(self, name: str, records: Sequence[bytes] | np.ndarray, seconds: float) -> Mapping[str, np.ndarray]:
        """Return the outputs for an input of this name.

        Raises:
            UnreachableError: if another try may succeed.
            LateError: if there is no answer after `seconds`.
            ResourceError: `E_MODEL_SERVER` for any other error.
        """
        ...
