# Builds our kernels into ggml-cpu, where they take the place of some of llama.cpp's functions.
if(NOT TARGET ggml-cpu)
    return() # several are built, of which one is loaded
endif()
target_sources(ggml-cpu PRIVATE ${CMAKE_CURRENT_LIST_DIR}/products.cpp ${CMAKE_CURRENT_LIST_DIR}/attention.cpp)
foreach(
    function
    ggml_compute_forward_flash_attn_ext
    ggml_compute_forward_mul_mat_tiled
    ggml_cpu_extra_compute_forward
    llamafile_sgemm
)
    target_link_options(ggml-cpu PRIVATE -Wl,--wrap=${function})
endforeach()
