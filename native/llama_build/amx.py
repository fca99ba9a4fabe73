"""AMX, the matrix instructions that some processors have, and some virtual machines only advertise."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from .compiler import compiles
from .machine import Machine
from .programs import exit_status

Amx = Literal["absent", "works", "traps"]

NO_AMX = ("-mno-amx-tile", "-mno-amx-int8", "-mno-amx-bf16")

AMX_PROBE = r"""
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

/* One palette-1 tile of 16 rows of 64 bytes; instructions as bytes, for assemblers older than AMX. */
int main(void) {
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    static uint8_t config[64] __attribute__((aligned(64)));
    config[0] = 1;
    config[16] = 64;
    config[48] = 16;
    if (syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) != 0) return 1;
    __asm__ volatile(".byte 0xc4,0xe2,0x78,0x49,0x00" : : "a"(config) : "memory"); /* ldtilecfg [rax] */
    __asm__ volatile(".byte 0xc4,0xe2,0x7b,0x49,0xc0");                            /* tilezero tmm0 */
    __asm__ volatile(".byte 0xc4,0xe2,0x78,0x49,0xc0");                            /* tilerelease */
    return 0;
}
"""
"""A C program that exits with 0 only if the system grants AMX and the processor executes its instructions."""


def choose_amx(
    machine: Machine, amx_works: Callable[[], bool], flags_accepted: Callable[[Sequence[str]], list[str]]
) -> tuple[Amx, tuple[str, ...], str]:
    """Compile AMX in only if its instructions execute.

    Some virtual machines advertise AMX and fault on its first instruction. llama.cpp relies on the compiler's
    flags, and would die there while decoding.
    """
    if "amx_tile" not in machine.cpu_flags:
        return "absent", (), "AMX: this CPU does not advertise it"
    if amx_works():
        return "works", (), "AMX: advertised, and its instructions execute"
    flags = " ".join(flags_accepted(NO_AMX))
    # A compiler that knows none of the flags cannot emit AMX either.
    args = (f"-DCMAKE_C_FLAGS={flags}", f"-DCMAKE_CXX_FLAGS={flags}") if flags else ()
    return "traps", args, "AMX: advertised, but its instructions do not execute here; left out"


def amx_works() -> bool:
    """Return whether AMX_PROBE compiles and succeeds, in a child process, because a signal may kill it."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "amx")
        return compiles(AMX_PROBE, "-o", str(program)) and exit_status([str(program)]) == 0
