# Included by each project() of llama-cpp-python's build (CMAKE_PROJECT_INCLUDE).

# llama-cpp-python forces llama.cpp's `common` library on, in CMake's cache, where no -D reaches it; a plain variable of
# the same name comes before the cache. It would be a third of the build, and nothing uses it.
set(LLAMA_BUILD_COMMON OFF)

if(PASS_EDGE_KERNELS AND PROJECT_NAME STREQUAL CMAKE_PROJECT_NAME)
    set(kernels ${CMAKE_CURRENT_LIST_DIR}/kernels/kernels.cmake)
    cmake_language(DEFER CALL include "${kernels}") # when ggml-cpu is there
endif()
