# Included by each project() of llama-cpp-python's build (CMAKE_PROJECT_INCLUDE).

# llama-cpp-python forces llama.cpp's `common` library on, in CMake's cache, where no -D reaches it; a plain variable of
# the same name comes before the cache. It would be a third of the build, and nothing uses it.
set(LLAMA_BUILD_COMMON OFF)

# A wheel has no symbolic links: each library would be in it three times, once for each of its versioned names.
set(CMAKE_PLATFORM_NO_VERSIONED_SONAME ON)

if(PROJECT_NAME STREQUAL CMAKE_PROJECT_NAME)
    set(pass_edge_native ${CMAKE_CURRENT_LIST_DIR}) # deferred calls read their arguments late: when all targets are there
    if(PASS_EDGE_KERNELS)
        cmake_language(DEFER CALL include ${pass_edge_native}/kernels/kernels.cmake)
    endif()
    if(GGML_BACKEND_DL)
        cmake_language(DEFER CALL include ${pass_edge_native}/variants/variants.cmake)
    endif()
endif()
