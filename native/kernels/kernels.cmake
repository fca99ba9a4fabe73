# Builds few_tokens.cpp into ggml-cpu, where it takes the place of some of llama.cpp's functions.
target_sources(ggml-cpu PRIVATE ${CMAKE_CURRENT_LIST_DIR}/few_tokens.cpp)
foreach(function ggml_gemv_q4_0_8x8_q8_0 ggml_gemm_q4_0_8x8_q8_0 llamafile_sgemm ggml_compute_forward_mul_mat_tiled)
    target_link_options(ggml-cpu PRIVATE -Wl,--wrap=${function})
endforeach()
