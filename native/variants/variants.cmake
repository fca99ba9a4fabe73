# Puts the CPU backend into the wheel as several libraries, each compiled for another kind of processor. libggml loads
# the best one that the machine can run (load_backends.cpp). Included where GGML_BACKEND_DL is on.

# Not worth their time and size: the first two and VBMI help few machines, or nothing that llama.cpp computes, and
# `cooperlake` was rarely sold. `sapphirerapids` uses AMX, which some virtual machines advertise and cannot execute.
# These processors take the next best variant: sse42, ivybridge, skylakex, cascadelake or zen4.
set(left_out sandybridge piledriver cannonlake icelake cooperlake sapphirerapids)

# libggml depends on all variants, so those left out are built too, of nothing.
file(WRITE ${CMAKE_BINARY_DIR}/nothing.cpp "static_assert(true);\n")

foreach(backend IN LISTS GGML_AVAILABLE_BACKENDS)
    string(REPLACE "ggml-cpu-" "" variant ${backend})
    if(variant IN_LIST left_out)
        set_target_properties(${backend} PROPERTIES SOURCES ${CMAKE_BINARY_DIR}/nothing.cpp)
    elseif(backend MATCHES "^ggml-cpu-") # llama-cpp-python installs the others
        llama_cpp_python_install_target(${backend})
    endif()
endforeach()

target_sources(ggml PRIVATE ${CMAKE_CURRENT_LIST_DIR}/load_backends.cpp)
