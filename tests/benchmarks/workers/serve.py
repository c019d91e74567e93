"""Request loop of both workers of the loss benchmark: JSON lines in, CPU times and peak memory out."""

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from memory import resident_peak

Step = Callable[[], object]


def serve(prepare: Callable[[dict[str, Any]], Step], cases: Iterable[str] = ()) -> None:
    """Serve requests from standard input until it closes; output of libraries goes to standard error.

    `{"do": "prepare", "key": ...}` creates a step with `prepare` and runs it twice, `{"do": "forget"}` drops all steps;
    `{"do": "time", "key": ...}` returns the CPU milliseconds of a step, `{"do": "peak", "key": ...}` the MiB by which
    the process grows during a step. `{"do": "cases"}` lists the available cases.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    steps: dict[str, Step] = {}
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = {"cases": list(cases)} if order["do"] == "cases" else _carry_out(order, steps, prepare)
        except (Exception, MemoryError) as error:
            message = f"{type(error).__name__}: {error}"
            memory = isinstance(error, MemoryError) or "t allocate memory" in message or "OOM" in message
            answer = {"error": "out of memory" if memory else message.splitlines()[0][:200]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _carry_out(order: dict[str, Any], steps: dict[str, Step], prepare: Callable) -> dict[str, Any]:
    if order["do"] == "forget":
        steps.clear()
        gc.collect()
        return {}
    if order["do"] == "prepare":
        step = prepare(order)
        step()
        answer = {"ms": _milliseconds(step, 1)}
        steps[order["key"]] = step
        return answer
    if order["key"] not in steps:
        return {"error": "lost with a process that died"}
    step = steps[order["key"]]
    return {"mib": resident_peak(step)} if order["do"] == "peak" else {"ms": _milliseconds(step, order["repeat"])}


def _milliseconds(step: Step, repeat: int) -> float:
    start = time.process_time()
    for _ in range(repeat):
        step()
    return (time.process_time() - start) / repeat * 1e3
