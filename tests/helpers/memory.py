"""Memory of a process as Linux accounts for it: the same on every x86-64 CPU, whichever library allocates.

TensorFlow's own statistics exist only where oneDNN is on, which depends on the CPU. A process that is to be measured
starts with the variables of `MEASURABLE`; without them what is freed stays resident and hides what comes after it.
"""

import ctypes
import resource
from collections.abc import Callable
from pathlib import Path

# With oneDNN TensorFlow keeps a pool of its own. With a fixed threshold the C library maps every larger block by
# itself and returns it to the system as soon as it is freed.
MEASURABLE = {"TF_ENABLE_ONEDNN_OPTS": "0", "MALLOC_MMAP_THRESHOLD_": str(128 * 1024)}


def process_memory(field: str) -> int:
    """A figure of this process in bytes: `VmRSS` is resident now, `VmHWM` was at most, `VmData` may become so."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def resident_peak(step: Callable[[], object]) -> float:
    """MiB by which the resident memory of this process grows at most during a step; its first call is not typical."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is resident now; needs no privileges
    before = process_memory("VmRSS")
    step()
    return (process_memory("VmHWM") - before) / 2**20


def cap_data(size: int) -> None:
    """Make every allocation fail that would take this process's own data beyond `size` bytes."""
    resource.setrlimit(resource.RLIMIT_DATA, (size, resource.RLIM_INFINITY))
