// Loads the backends that lie beside libggml, as it is loaded itself: of the CPU's variants the best for this processor,
// or the one that PASS_EDGE_CPU names ("haswell" is libggml-cpu-haswell.so).
//
// llama.cpp would look for them beside the executable, which is Python's, and in the current folder, which can be
// anybody's. It does so only while there is no backend.

#include "ggml-backend.h"
#include "ggml.h"

#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace {

std::string own_folder() {
    static const char here = 0;
    Dl_info info;
    const std::string path = dladdr(&here, &info) != 0 ? info.dli_fname : "";
    return path.substr(0, path.find_last_of('/'));
}

ggml_backend_reg_t load_variant(const std::string & folder, const char * name) {
    const ggml_backend_reg_t variant = ggml_backend_load((folder + "/libggml-cpu-" + name + ".so").c_str());
    if (variant == nullptr) {
        std::fprintf(stderr,
                     "PASS_EDGE_CPU=%s: there is no such variant in %s, or this processor cannot run it. The best one "
                     "is used.\n",
                     name, folder.c_str());
    }
    return variant;
}

void unload_other_cpus(ggml_backend_reg_t variant) {
    for (size_t i = ggml_backend_reg_count(); i-- > 0;) {
        const ggml_backend_reg_t other = ggml_backend_reg_get(i);
        if (other != variant && std::strcmp(ggml_backend_reg_name(other), "CPU") == 0) {
            ggml_backend_unload(other);
        }
    }
}

[[maybe_unused]] const bool loaded = [] {
    ggml_log_set([](ggml_log_level, const char *, void *) {}, nullptr);  // it would print each library's name
    const std::string folder = own_folder();
    const char * name = std::getenv("PASS_EDGE_CPU");
    const ggml_backend_reg_t variant = name != nullptr ? load_variant(folder, name) : nullptr;
    ggml_backend_load_all_from_path(folder.c_str());
    if (variant != nullptr) {
        unload_other_cpus(variant);
    }
    ggml_log_set(nullptr, nullptr);
    return true;
}();

}  // namespace
