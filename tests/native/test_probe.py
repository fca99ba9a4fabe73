"""A library that crashes is found out in a child process."""

from __future__ import annotations

import signal
import sys

from pass_edge.native import probe


def child(repack: str, plain: str, gpu: str = "0") -> list[str]:
    signals = f"{{'repack': {repack}, 'plain': {plain}, 'gpu': {gpu}}}"
    code = f"import os, sys\nos.kill(os.getpid(), {signals}[sys.argv[1]])"
    return [sys.executable, "-c", code]


SEGFAULT, FINE = str(int(signal.SIGSEGV)), "0"  # signal 0 does nothing


def test_the_probe_survives_a_library_that_crashes() -> None:
    assert probe.probe(child(FINE, FINE)) == probe.WORKS
    assert probe.probe(child(SEGFAULT, FINE)) == probe.WORKS_WITHOUT_REPACKING
    assert probe.probe(child(SEGFAULT, SEGFAULT)) == probe.BROKEN
    assert probe.gpu_works(child(SEGFAULT, SEGFAULT))
    assert not probe.gpu_works(child(FINE, FINE, gpu=SEGFAULT))


def test_the_child_decodes_a_tiny_model() -> None:
    assert probe.gpu_works(), "without a GPU it decodes on the CPU"
