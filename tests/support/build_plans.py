"""Machines, and the build plans for them."""

from __future__ import annotations

from pass_edge.native.llama_build.machine import Machine
from pass_edge.native.llama_build.plan import BuildPlan, decide

LINUX = Machine(system="Linux", cpu="Some CPU", cpu_flags=frozenset({"avx2"}))
WITH_AMX = Machine(system="Linux", cpu="Big CPU", cpu_flags=frozenset({"avx2", "amx_tile", "amx_int8"}))
WITH_GPU = Machine(system="Linux", cpu="Some CPU", gpus=("9.0",), nvcc="/usr/local/cuda/bin/nvcc")
MAC = Machine(system="Darwin", cpu="Apple M9", machine="arm64")


def plan_for(machine: Machine, backend: str | None = None, amx_executes: bool | None = None) -> BuildPlan:
    """The plan for a machine whose compiler knows every flag. `amx_executes=None`: must not be tried."""

    def probe() -> bool:
        assert amx_executes is not None, "AMX was tried on a machine that does not advertise it"
        return amx_executes

    return decide(machine, backend, probe, list)
