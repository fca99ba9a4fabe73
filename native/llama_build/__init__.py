"""How llama.cpp is built for this machine, or for a wheel that others install.

machine.py     facts about this machine, with those of cuda.py and vulkan.py
compiler.py    the C and C++ compilers that CMake will pick
plan.py        CMake arguments from these facts, with reasons, by the choices of
  backends.py    CPU, CUDA, Metal or Vulkan
  amx.py         whether AMX is compiled in
  kernels.py     whether our kernels are compiled in
wheel.py       a wheel of llama-cpp-python by a plan, built or taken from a folder
programs.py    running other programs

It uses the standard library only, because `make setup` runs it before anything is installed:
`python3 -m pass_edge.native.llama_build`, with `--help` for its options.
"""
