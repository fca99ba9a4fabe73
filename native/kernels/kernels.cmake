# Builds our kernels into each CPU backend that is compiled for AVX2: matrix products as a type of buffer beside
# llama.cpp's, attention in the place of llama.cpp's function.
foreach(backend IN LISTS GGML_AVAILABLE_BACKENDS)
    get_target_property(options ${backend} COMPILE_OPTIONS)
    if(backend MATCHES "^ggml-cpu" AND options MATCHES "-mavx2|-march=native")
        target_sources(${backend} PRIVATE ${CMAKE_CURRENT_LIST_DIR}/weights.cpp ${CMAKE_CURRENT_LIST_DIR}/attention.cpp)
        target_link_options(${backend} PRIVATE
            -Wl,--wrap=ggml_compute_forward_flash_attn_ext -Wl,--wrap=ggml_cpu_init)
    endif()
endforeach()
