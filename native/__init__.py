"""Everything that touches llama.cpp: the library, models, contexts, batches, KV sequences.

This is the only room that imports ``llama_cpp`` or ``ctypes``. What it hands out are plain Python
values, numpy arrays and numpy views of llama.cpp's own memory.
"""
