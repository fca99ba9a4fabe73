"""The interface to llama.cpp: the library, models, contexts, batches, KV sequences.

Only this package imports ``llama_cpp`` and ``ctypes``. It returns plain Python values, numpy arrays, and
numpy views of llama.cpp's memory.
"""
