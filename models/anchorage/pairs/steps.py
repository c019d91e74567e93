"""Smooth steps at the scores of positives, for losses that rank."""

from keras import ops

_MOST = 80.0  # exp(80) is far within float32, and so is its square's underflow: what overflows counts as infinite


class Step:
    """`sigmoid((score - value) / width)` for every score of a row and the values of some positives.

    Where scores are known to lie in [-1, 1] and the width is not tiny, the exponentials are taken once for the whole
    matrix: with `a = exp(value / (2 width))` and `b = exp(-score / (2 width))` the sigmoid is `1 / (1 + (a b)^2)`, in a
    third of the time. Taken half as far, both stay within float32.

    Args:
        width: positive.
        bounded: whether all scores lie in [-1, 1].
    """

    def __init__(self, width: float, bounded: bool):
        self._half = 0.5 / width
        self._by_powers = bounded and self._half <= _MOST

    def of(self, scores, counted=None):
        """What a step needs to know of `(N, M)` scores; those outside of `counted`, `(N, M)` bool, are far below."""
        prepared = ops.exp(-self._half * scores) if self._by_powers else -2.0 * self._half * scores
        return prepared if counted is None else ops.where(counted, prepared, float("inf"))

    def __call__(self, prepared, value):
        """The sigmoids: `prepared` are rows from `of`, `value` is the `(P, 1)` score each row is compared with."""
        if self._by_powers:
            return 1.0 / (1.0 + ops.square(ops.exp(self._half * value) * prepared))
        return ops.sigmoid(-2.0 * self._half * value - prepared)
