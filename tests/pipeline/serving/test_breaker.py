"""The circuit breaker, with a clock of its own."""

import pytest

from anchorage.errors import ResourceError
from anchorage_pipeline.serving.breaker import CircuitBreaker


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def breaker(clock):
    return CircuitBreaker("the server", failures=3, seconds=2.0, clock=clock)


def fail(breaker, times):
    for _ in range(times):
        breaker.enter()
        breaker.failed()


def test_calls_are_refused_after_failures_in_a_row(breaker):
    fail(breaker, 2)
    breaker.succeeded()
    fail(breaker, 3)
    with pytest.raises(ResourceError, match=r"E_MODEL_SERVER: .* 3 failures in a row; the next try is in 2\.0 s"):
        breaker.enter()


def test_one_call_is_let_through_after_the_time_and_closes_it(breaker, clock):
    fail(breaker, 3)
    clock.now += 2
    breaker.enter()
    with pytest.raises(ResourceError):  # others wait for the outcome
        breaker.enter()
    breaker.succeeded()
    breaker.enter()
    breaker.enter()


def test_a_try_that_fails_opens_it_again(breaker, clock):
    fail(breaker, 3)
    clock.now += 2
    fail(breaker, 1)
    clock.now += 1.9
    with pytest.raises(ResourceError):
        breaker.enter()
    clock.now += 0.2
    breaker.enter()
