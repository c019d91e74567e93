import pytest

from anchorage_pipeline.spread.record import Conditions, Machine, Row

CONDITIONS = Conditions(settings="s", data="d", code="c")


@pytest.fixture
def machine():
    """A machine of the given name."""

    def make(name="one", **facts):
        of_kind = {"cpu": "Some CPU", "cores": 2, "gpu": "", "onednn": True, "tensorflow": "2.20.0"}
        return Machine(name=name, **{**of_kind, **facts})

    return make


@pytest.fixture
def row(machine):
    """One training with the given MAP@R."""

    def make(seed, value, name="one", **changes):
        facts = {
            "machine": machine(name),
            "seed": seed,
            "conditions": CONDITIONS,
            "values": {"map@r": value, "recall@1": 0.5},
            "best_epoch": 3,
            "seconds": 61.4,
            "measured": "2026-01-02T03:04:05Z",
        }
        return Row(**{**facts, **changes})

    return make
