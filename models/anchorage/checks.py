"""Range checks for constructor arguments; the error names the argument, the valid range and the value received."""

import math


def check_positive(**values: float):
    """Raise a `ValueError` unless every value is greater than 0."""
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"`{name}` must be positive. Received: {name}={value}")


def check_not_negative(**values: float):
    """Raise a `ValueError` if any value is less than 0."""
    for name, value in values.items():
        if not value >= 0:
            raise ValueError(f"`{name}` must not be negative. Received: {name}={value}")


def check_at_least_one(**values: int):
    """Raise a `ValueError` unless every value is a whole number of at least 1."""
    for name, value in values.items():
        if not 1 <= value < math.inf or value != int(value):
            raise ValueError(f"`{name}` must be a whole number, at least 1. Received: {name}={value}")


def check_acute(**values: float):
    """Raise a `ValueError` unless every value is an angle in (0, 90) degrees."""
    for name, value in values.items():
        if not 0 < value < 90:
            raise ValueError(f"`{name}` must lie in (0, 90), in degrees. Received: {name}={value}")


def check_between(low: float, high: float, **values: float):
    """Raise a `ValueError` unless every value lies in `[low, high]`."""
    for name, value in values.items():
        if not low <= value <= high:
            raise ValueError(f"`{name}` must lie in [{low}, {high}]. Received: {name}={value}")
