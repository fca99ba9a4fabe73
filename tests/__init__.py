"""Give each of several workers cores of its own, before OpenMP is loaded and counts the cores.

Threads that wait for each other, llama.cpp's and torch's, are many times slower where two share a core.
"""

import os

_worker, _count = os.environ.get("PYTEST_XDIST_WORKER"), os.environ.get("PYTEST_XDIST_WORKER_COUNT")
if _worker and _count and hasattr(os, "sched_setaffinity"):
    _cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, _cores[int(_worker.removeprefix("gw")) % len(_cores) :: int(_count)])
