# Builds our kernels into ggml-cpu: matrix products as a type of buffer beside llama.cpp's, attention in the place of
# llama.cpp's function.
if(NOT TARGET ggml-cpu)
    return() # several are built, of which one is loaded
endif()
target_sources(ggml-cpu PRIVATE ${CMAKE_CURRENT_LIST_DIR}/weights.cpp ${CMAKE_CURRENT_LIST_DIR}/attention.cpp)
target_link_options(ggml-cpu PRIVATE -Wl,--wrap=ggml_compute_forward_flash_attn_ext)
