"""The loaded llama.cpp library: its log, its type names, and typed ggml functions."""

from __future__ import annotations

import ctypes
import logging
import re
from collections import deque
from functools import cache
from pathlib import Path

from .errors import LibraryError
from .llama_version import version_problem


def _advice(error: Exception) -> str:
    """Return what to do where llama-cpp-python cannot be imported."""
    package = (getattr(error, "name", "") or "llama_cpp").partition(".")[0]
    if isinstance(error, ModuleNotFoundError) and package != "llama_cpp":
        return f"Install what it needs: pip install {package}"
    missing = re.search(r"(\S+): cannot open shared object file", str(error))
    install = f"Install the system's package of {missing[1]}, or build" if missing else "Build"
    return f"{install} llama.cpp for this machine: pass-edge setup"


try:
    from llama_cpp import llama_cpp as llama
except Exception as error:
    # not installed, a shared library is missing or for another system, or it is of another version
    fault = f"llama-cpp-python cannot be loaded ({error}). {_advice(error)}"
    raise LibraryError(version_problem() or fault) from error

if problem := version_problem():  # its functions and structures may differ from those used here
    raise LibraryError(problem)

try:
    from llama_cpp import llama_cpp_ext as llama_ext  # not part of llama.h: what MTP layers need
except (ImportError, AttributeError):  # a build that does not export it
    llama_ext = None

log = logging.getLogger("pass_edge.llama_cpp")
log.addHandler(logging.NullHandler())

# `ggml.h`, `enum ggml_log_level`; 5 continues the previous line
_LEVELS = {1: logging.DEBUG, 2: logging.INFO, 3: logging.WARNING, 4: logging.ERROR, 5: logging.DEBUG}
_ERROR = 4
_recent_errors: deque[str] = deque(maxlen=4)

GGML_TYPES = {
    "f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8,
    "q2_k": 10, "q3_k": 11, "q4_k": 12, "q5_k": 13, "q6_k": 14, "iq4_nl": 20, "iq4_xs": 23, "bf16": 30,
    "mxfp4": 39,
}  # fmt: skip
"""ggml's tensor types by llama.cpp's names (`ggml.h`, `enum ggml_type`)."""


@llama.llama_log_callback  # type: ignore[untyped-decorator]
def _to_logging(level: int, text: bytes | None, _: object) -> None:
    line = (text or b"").decode("utf-8", "replace").rstrip("\n")
    if not line:
        return
    if level == _ERROR:
        _recent_errors.append(line)
    log.log(_LEVELS.get(level, logging.DEBUG), "%s", line)


llama.llama_log_set(_to_logging, ctypes.c_void_p(0))
llama.llama_backend_init()


def take_errors() -> str:
    """Return the errors that llama.cpp logged since the last call, as one line; empty if none."""
    text = "; ".join(_recent_errors)
    _recent_errors.clear()
    return text


def library_path() -> Path:
    """Return the path of the shared library in use. Its size and date identify the build."""
    return Path(llama._lib._name)


class _SymbolInfo(ctypes.Structure):
    """Where a symbol was loaded from (`dlfcn.h`, `Dl_info`)."""

    _fields_ = [
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    ]


@cache
def cpu_library_path() -> Path:
    """Return the path of the CPU backend's library in use. A wheel has several, for different processors, and
    loads the best. Raises LibraryError if none could be loaded."""
    device = ggml("ggml_backend_dev_by_type")(0)
    if not device:
        raise LibraryError(f"llama.cpp found no CPU backend beside {library_path()}; install it again")
    backend = ggml("ggml_backend_dev_backend_reg")(device)
    function = ggml("ggml_backend_reg_get_proc_address")(backend, b"ggml_backend_set_n_threads")
    info = _SymbolInfo()
    ctypes.CDLL(None).dladdr(ctypes.c_void_p(function), ctypes.byref(info))
    return Path(info.file.decode())


def system_info() -> str:
    """Return llama.cpp's line about the CPU features and backends compiled in."""
    return llama.llama_print_system_info().decode()


def has_kernels() -> bool:
    """Return whether the library was built with our kernels (`native/kernels`)."""
    try:
        ggml("pass_edge_kernels")
    except AttributeError:
        return False
    return True


def kernels() -> str:
    """Return the instruction set of our kernels in use; empty with llama.cpp's own."""
    return str(ggml("pass_edge_kernels")().decode()) if has_kernels() else ""


class _GgufParams(ctypes.Structure):
    _fields_ = [("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p)]


class TypeTraits(ctypes.Structure):
    """ggml's description of one tensor type (`ggml.h`, `struct ggml_type_traits`)."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("block_size", ctypes.c_int64),
        ("block_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
        ("from_float_ref", ctypes.c_void_p),
    ]


class _ArenaParams(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]


_P, _S, _I64, _SIZE = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int64, ctypes.c_size_t
_GGML_FUNCTIONS = {
    "ggml_get_type_traits": ([ctypes.c_int], ctypes.POINTER(TypeTraits)),
    "ggml_backend_dev_count": ([], _SIZE),
    "ggml_backend_dev_get": ([_SIZE], _P),
    "ggml_backend_dev_name": ([_P], _S),
    "ggml_backend_dev_description": ([_P], _S),
    "ggml_backend_dev_type": ([_P], ctypes.c_int),
    "ggml_backend_dev_by_type": ([ctypes.c_int], _P),
    "ggml_backend_dev_backend_reg": ([_P], _P),
    "ggml_backend_dev_buffer_type": ([_P], _P),
    "ggml_backend_dev_init": ([_P, _S], _P),
    "ggml_backend_dev_supports_op": ([_P, _P], ctypes.c_bool),
    "ggml_backend_reg_get_proc_address": ([_P, _S], _P),
    "ggml_backend_buft_name": ([_P], _S),
    "ggml_backend_dev_memory": ([_P, ctypes.POINTER(_SIZE), ctypes.POINTER(_SIZE)], None),
    "ggml_init": ([_ArenaParams], _P),
    "ggml_free": ([_P], None),
    "ggml_tensor_overhead": ([], _SIZE),
    "ggml_new_tensor": ([_P, ctypes.c_int, ctypes.c_int, ctypes.POINTER(_I64)], _P),
    "ggml_set_name": ([_P, _S], _P),
    "ggml_quantize_chunk": ([ctypes.c_int, _P, _P, _I64, _I64, _I64, _P], _SIZE),
    "ggml_rms_norm": ([_P, _P, ctypes.c_float], _P),
    "ggml_concat": ([_P, _P, _P, ctypes.c_int], _P),
    "ggml_mul_mat": ([_P, _P, _P], _P),
    "ggml_mul_mat_id": ([_P, _P, _P, _P], _P),
    "ggml_swiglu_split": ([_P, _P, _P], _P),
    "ggml_add": ([_P, _P, _P], _P),
    "ggml_new_graph": ([_P], _P),
    "ggml_build_forward_expand": ([_P, _P], None),
    "ggml_backend_cpu_set_n_threads": ([_P, ctypes.c_int], None),
    "ggml_backend_cpu_init": ([], _P),
    "ggml_backend_cpu_buffer_type": ([], _P),
    "ggml_backend_alloc_ctx_tensors": ([_P, _P], _P),
    "ggml_backend_alloc_ctx_tensors_from_buft": ([_P, _P], _P),
    "ggml_backend_tensor_set": ([_P, _P, _SIZE, _SIZE], None),
    "ggml_backend_tensor_get": ([_P, _P, _SIZE, _SIZE], None),
    "ggml_backend_graph_compute": ([_P, _P], ctypes.c_int),
    "ggml_backend_buffer_free": ([_P], None),
    "ggml_backend_free": ([_P], None),
    "pass_edge_kernels": ([], _S),
    "gguf_init_empty": ([], _P),
    "gguf_init_from_file": ([_S, _GgufParams], _P),
    "gguf_free": ([_P], None),
    "gguf_get_data_offset": ([_P], _SIZE),
    "gguf_get_meta_size": ([_P], _SIZE),
    "gguf_get_meta_data": ([_P, _P], None),
    "gguf_get_n_kv": ([_P], _I64),
    "gguf_find_key": ([_P, _S], _I64),
    "gguf_get_kv_type": ([_P, _I64], ctypes.c_int),
    "gguf_get_arr_type": ([_P, _I64], ctypes.c_int),
    "gguf_get_arr_n": ([_P, _I64], _SIZE),
    "gguf_get_arr_data": ([_P, _I64], _P),
    "gguf_get_arr_str": ([_P, _I64, _SIZE], _S),
    "gguf_get_val_data": ([_P, _I64], _P),
    "gguf_get_val_str": ([_P, _I64], _S),
    "gguf_remove_key": ([_P, _S], _I64),
    "gguf_set_kv": ([_P, _P], None),
    "gguf_set_val_u32": ([_P, _S, ctypes.c_uint32], None),
    "gguf_set_val_str": ([_P, _S, _S], None),
    "gguf_set_arr_data": ([_P, _S, ctypes.c_int, _P, _SIZE], None),
    "gguf_set_arr_str": ([_P, _S, ctypes.POINTER(_S), _SIZE], None),
    "gguf_add_tensor": ([_P, _P], None),
    "gguf_get_n_tensors": ([_P], _I64),
    "gguf_get_tensor_name": ([_P, _I64], _S),
    "gguf_get_tensor_ne": ([_P, _I64], ctypes.POINTER(_I64)),
    "gguf_get_tensor_offset": ([_P, _I64], _SIZE),
    "gguf_get_tensor_type": ([_P, _I64], ctypes.c_int),
    "gguf_get_tensor_size": ([_P, _I64], _SIZE),
}


@cache
def ggml(name: str) -> ctypes._CFuncPtr:  # type: ignore[name-defined]
    """Return a ggml function with its argument and result types.

    libllama is linked to ggml, so its handle has ggml's functions on every platform; those of the CPU backend
    only if that is linked too. A second copy of a library is never loaded under another file name.
    """
    library = llama._lib if hasattr(llama._lib, name) else ctypes.CDLL(str(cpu_library_path()))
    function = getattr(library, name)
    function.argtypes, function.restype = _GGML_FUNCTIONS[name]
    return function


def gguf_params() -> _GgufParams:
    """Return parameters that open a GGUF file without its tensor data."""
    return _GgufParams(no_alloc=True, ctx=None)


def arena_params(size: int) -> _ArenaParams:
    """Return parameters of a ggml context of ``size`` bytes for tensor descriptions, without their data."""
    return _ArenaParams(size=size, buffer=None, no_alloc=True)
