// Matrix products with quantized weights, for one token, for drafts and for prompts.
//
// llama.cpp keeps weights in buffers, asks each type of buffer which operations it has kernels for, and takes the first
// that has. Ours comes first. As the weights are written into it, it lays them out as formats.h says; tile.h multiplies
// by them. What it has no format for goes to llama.cpp's own buffers, and all of it if PASS_EDGE_KERNELS=0.

#include "tile.h"

#include "ggml-backend-impl.h"
#include "ggml-backend.h"
#include "ggml-cpu-impl.h"
#include "ggml-cpu.h"
#include "ggml-impl.h"
#include "switch.h"
#include "traits.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

extern "C" {
const char * pass_edge_kernels(void);
void __real_ggml_cpu_init(void);
void __wrap_ggml_cpu_init(void);
}

namespace {

constexpr size_t CACHED = 80 * 1024;   // bytes of weights that stay in a core's cache while a prompt passes over them
constexpr int AHEAD = 4096;            // bytes: what memory delivers in the time of some blocks
constexpr int CHUNKS = 4;              // that a matrix is cut into for each thread: one may be slower than the others
constexpr size_t FRESH = 512 * 1024;   // bytes of new memory that are still cached when they are written to

// What a matrix of `Format` needs of ggml: to be laid out, and to be multiplied by.
class Traits : public ggml::cpu::tensor_traits {
  public:
    virtual size_t size(const ggml_tensor * weights) const = 0;
    virtual void lay_out(ggml_tensor * weights, const void * data) const = 0;
};

// One token's activations and the row of results that they are for.
struct Token {
    const char * activations;
    float * out;
};

// Memory that was never written to comes page by page, as it is; asked for at once, in two thirds of the time.
// Where Linux does not know the request, nothing happens.
void ask_for_pages(char * from, size_t size) {
#ifdef MADV_POPULATE_WRITE
    static const uintptr_t page = uintptr_t(sysconf(_SC_PAGESIZE));
    const size_t before = reinterpret_cast<uintptr_t>(from) % page;
    madvise(from - before, before + size, MADV_POPULATE_WRITE);
#endif
}

int64_t tiles_of(const ggml_tensor * weights) {
    return (weights->ne[1] + LANES - 1) / LANES;
}

template <typename Format> class FormatTraits final : public Traits {
    using Rounded = Activations<Format::BLOCK>;

    static int64_t blocks_of(const ggml_tensor * weights) { return weights->ne[0] / Format::BLOCK; }

    static size_t token_size(const ggml_tensor * weights) { return blocks_of(weights) * sizeof(Rounded); }

  public:
    size_t size(const ggml_tensor * weights) const override {
        return weights->ne[2] * weights->ne[3] * tiles_of(weights) * blocks_of(weights) * sizeof(Packed<Format>);
    }

    void lay_out(ggml_tensor * weights, const void * data) const override {
        const int64_t all = weights->ne[2] * weights->ne[3] * tiles_of(weights);
        const size_t tile_size = blocks_of(weights) * sizeof(Packed<Format>);
        const int64_t step = std::max<int64_t>(1, FRESH / tile_size);
        std::atomic<int64_t> next{0};
        const auto work = [&] {
            for (int64_t from = next.fetch_add(step); from < all; from = next.fetch_add(step)) {
                const int64_t end = std::min(all, from + step);
                ask_for_pages(static_cast<char *>(weights->data) + from * tile_size, (end - from) * tile_size);
                for (int64_t tile = from; tile < end; tile++) {
                    pack_tile(weights, data, tile);
                }
            }
        };
        std::vector<std::thread> helpers;
        const int64_t workers = std::min<int64_t>(std::thread::hardware_concurrency(), (all + step - 1) / step);
        for (int64_t i = 1; i < workers; i++) {
            helpers.emplace_back(work);
        }
        work();
        for (auto & helper : helpers) {
            helper.join();
        }
    }

    bool work_size(int, const ggml_tensor * op, size_t & size) override {
        size = ggml_nrows(op->src[1]) * token_size(op->src[0]);
        if (op->op == GGML_OP_MUL_MAT_ID) {
            size += (op->src[0]->ne[2] + 1) * sizeof(int64_t) + ggml_nelements(op->src[2]) * sizeof(Token);
        }
        return true;
    }

    bool compute_forward(ggml_compute_params * params, ggml_tensor * op) override {
        round_activations(params, op);
        if (op->op == GGML_OP_MUL_MAT) {
            multiply(params, op);
        } else {
            multiply_by_experts(params, op);
        }
        return true;
    }

  private:
    static void pack_tile(ggml_tensor * weights, const void * data, int64_t tile) {
        const int64_t blocks = blocks_of(weights), tiles = tiles_of(weights), rows = weights->ne[1];
        const int64_t row = tile % tiles * LANES;
        pack(static_cast<const typename Format::Block *>(data) + (tile / tiles * rows + row) * blocks, blocks,
             int(std::min<int64_t>(LANES, rows - row)), static_cast<Packed<Format> *>(weights->data) + tile * blocks);
    }

    static const char * row_of(const ggml_tensor * tensor, int64_t row) {
        const int64_t i = row % tensor->ne[1], j = row / tensor->ne[1] % tensor->ne[2];
        const int64_t k = row / tensor->ne[1] / tensor->ne[2];
        return static_cast<const char *>(tensor->data) + i * tensor->nb[1] + j * tensor->nb[2] + k * tensor->nb[3];
    }

    // Into the work space, block by block shared among the threads.
    static void round_activations(const ggml_compute_params * params, const ggml_tensor * op) {
        const int64_t blocks = blocks_of(op->src[0]), all = ggml_nrows(op->src[1]) * blocks;
        auto * to = static_cast<Rounded *>(params->wdata);
        for (int64_t i = all * params->ith / params->nth; i < all * (params->ith + 1) / params->nth; i++) {
            const auto * row = reinterpret_cast<const float *>(row_of(op->src[1], i / blocks));
            round_block(row + i % blocks * Format::BLOCK, to[i]);
        }
    }

    static void multiply(const ggml_compute_params * params, const ggml_tensor * op) {
        const ggml_tensor * weights = op->src[0];
        const int64_t chunks = begin_chunks(params, tiles_of(weights));
        const auto token = [&](int64_t i) {
            const char * activations = static_cast<const char *>(params->wdata) + i * token_size(weights);
            return Token{activations, reinterpret_cast<float *>(const_cast<char *>(row_of(op, i)))};
        };
        for_chunks(params, chunks, [&](int64_t chunk) {
            multiply_chunk(weights, 0, chunk, chunks, ggml_nrows(op->src[1]), token);
        });
    }

    // Each token goes to some of the experts: the tokens of one are multiplied together.
    static void multiply_by_experts(const ggml_compute_params * params, const ggml_tensor * op) {
        const ggml_tensor *weights = op->src[0], *activations = op->src[1], *ids = op->src[2];
        const int64_t experts = weights->ne[2];
        // the first token of each expert, and behind these all tokens, expert by expert
        auto * first = reinterpret_cast<int64_t *>(static_cast<char *>(params->wdata) +
                                                   ggml_nrows(activations) * token_size(weights));
        auto * tokens = reinterpret_cast<Token *>(first + experts + 1);
        const auto expert = [&](int64_t token, int64_t i) {
            return *reinterpret_cast<const int32_t *>(static_cast<const char *>(ids->data) + token * ids->nb[1] +
                                                      i * ids->nb[0]);
        };
        if (params->ith == 0) {
            std::fill(first, first + experts + 1, 0);
            const auto for_all = [&](auto call) {
                for (int64_t token = 0; token < ids->ne[1]; token++) {
                    for (int64_t i = 0; i < ids->ne[0]; i++) {
                        call(token, i);
                    }
                }
            };
            for_all([&](int64_t token, int64_t i) { first[expert(token, i) + 1]++; });
            for (int64_t e = 0; e < experts; e++) {
                first[e + 1] += first[e];
            }
            std::vector<int64_t> next(first, first + experts);
            for_all([&](int64_t token, int64_t i) {
                const int64_t row = token * activations->ne[1] + i % activations->ne[1];
                char * out = static_cast<char *>(op->data) + i * op->nb[1] + token * op->nb[2];
                tokens[next[expert(token, i)]++] = {static_cast<char *>(params->wdata) + row * token_size(weights),
                                                    reinterpret_cast<float *>(out)};
            });
        }
        const int64_t chunks = begin_chunks(params, tiles_of(weights));
        for_chunks(params, experts * chunks, [&](int64_t chunk) {
            const int64_t e = chunk / chunks;
            multiply_chunk(weights, e, chunk % chunks, chunks, first[e + 1] - first[e],
                           [&](int64_t i) { return tokens[first[e] + i]; });
        });
    }

    // Into how many chunks `tiles` are cut. Behind it, all threads have come this far.
    static int64_t begin_chunks(const ggml_compute_params * params, int64_t tiles) {
        if (params->ith == 0) {
            ggml_threadpool_chunk_set(params->threadpool, params->nth);
        }
        ggml_barrier(params->threadpool);
        return params->nth == 1 ? 1 : std::min<int64_t>(tiles, CHUNKS * params->nth);
    }

    template <typename Call> static void for_chunks(const ggml_compute_params * params, int64_t chunks, Call call) {
        for (int64_t i = params->ith; i < chunks; i = ggml_threadpool_chunk_add(params->threadpool, 1)) {
            call(i);
        }
    }

    // A chunk of one matrix times all of `count` tokens. Many tokens pass over as many tiles at a time as stay cached;
    // few have each tile for itself, so that memory is read straight on.
    template <typename GetToken>
    static void multiply_chunk(const ggml_tensor * weights, int64_t matrix, int64_t chunk, int64_t chunks,
                               int64_t count, GetToken token) {
        const int64_t tiles = tiles_of(weights), blocks = blocks_of(weights), rows = weights->ne[1];
        const auto * packed = static_cast<const Packed<Format> *>(weights->data) + matrix * tiles * blocks;
        const int64_t end = tiles * (chunk + 1) / chunks, passes = (count + AT_ONCE - 1) / AT_ONCE;
        const int64_t cached = std::max<int64_t>(1, CACHED / (blocks * sizeof(Packed<Format>)));
        const int64_t step = passes > 2 ? cached : 1;
        for (int64_t from = tiles * chunk / chunks; from < end; from += step) {
            for (int64_t pass = 0; pass < passes; pass++) {
                Token some[AT_ONCE];
                const int64_t first = pass * AT_ONCE, now = std::min<int64_t>(AT_ONCE, count - first);
                for (int64_t i = 0; i < now; i++) {
                    some[i] = token(first + i);
                }
                for (int64_t tile = from; tile < std::min(end, from + step); tile++) {
                    const int64_t row = tile * LANES;
                    const auto * weights_of_tile = packed + tile * blocks;
                    multiply_tile(weights_of_tile, blocks, row, std::min<int64_t>(LANES, rows - row), some, now,
                                  fetch_with(weights_of_tile, blocks, pass, passes));
                }
            }
        }
    }

    // The first pass asks memory for what it will soon need itself. Of two passes the second would leave memory idle,
    // so each asks for half of the next tile.
    static Fetch fetch_with(const Packed<Format> * tile, int64_t blocks, int64_t pass, int64_t passes) {
        constexpr size_t ALL = sizeof(Packed<Format>), HALF = (ALL / 2 + 63) / 64 * 64;
        if (passes == 2) {
            return {reinterpret_cast<const char *>(tile + blocks) + pass * blocks * HALF, HALF};
        }
        return pass == 0 ? Fetch{reinterpret_cast<const char *>(tile) + AHEAD, ALL} : Fetch{};
    }

    // `count` rows of results, at `row`.
    static void multiply_tile(const Packed<Format> * packed, int64_t blocks, int64_t row, int64_t count,
                              const Token * tokens, int64_t now, Fetch fetch) {
        const Rounded * activations[AT_ONCE];
        float *out[AT_ONCE], partial[AT_ONCE][LANES];
        for (int64_t i = 0; i < now; i++) {
            activations[i] = reinterpret_cast<const Rounded *>(tokens[i].activations);
            out[i] = count == LANES ? tokens[i].out + row : partial[i];
        }
        tile_of<Format>(now)(blocks, packed, activations, out, fetch);
        if (count < LANES) {
            for (int64_t i = 0; i < now; i++) {
                std::copy(partial[i], partial[i] + count, tokens[i].out + row);
            }
        }
    }
};

template <typename Format> Traits * traits_of() {
    static FormatTraits<Format> traits;
    return &traits;
}

// Whether a matrix of floats is one that files do not quantize and that is only multiplied by: it chooses experts, or is
// one of RWKV's small ones. Others may also be read by operations that do not know our layout.
bool is_factor(const ggml_tensor * weights) {
    const auto named = [&](const char * part) { return std::strstr(weights->name, part) != nullptr; };
    const bool known = named("ffn_gate_inp") || (named("time_mix_") && (named("1.weight") || named("2.weight")));
    return known && weights->ne[0] % F32::BLOCK == 0;
}

Traits * traits_of(const ggml_tensor * weights) {
    switch (weights->type) {
        case GGML_TYPE_F32: return is_factor(weights) ? traits_of<F32>() : nullptr;
        case GGML_TYPE_Q4_0: return traits_of<Q4_0>();
        case GGML_TYPE_Q4_1: return traits_of<Q4_1>();
        case GGML_TYPE_Q5_0: return traits_of<Q5_0>();
        case GGML_TYPE_Q5_1: return traits_of<Q5_1>();
        case GGML_TYPE_Q8_0: return traits_of<Q8_0>();
        case GGML_TYPE_IQ4_NL: return traits_of<IQ4_NL>();
        case GGML_TYPE_MXFP4: return traits_of<MXFP4>();
        case GGML_TYPE_Q4_K: return traits_of<Q4_K>();
        case GGML_TYPE_Q5_K: return traits_of<Q5_K>();
        case GGML_TYPE_Q6_K: return traits_of<Q6_K>();
        case GGML_TYPE_IQ4_XS: return traits_of<IQ4_XS>();
        default: return nullptr;
    }
}

// ---- The type of buffer ----------------------------------------------------------------------------------------------

ggml_backend_buffer_type_t buffer_type();

class Operations final : public ggml::cpu::extra_buffer_type {
    bool supports_op(ggml_backend_dev_t, const ggml_tensor * op) override {
        const bool product = op->op == GGML_OP_MUL_MAT && ggml_n_dims(op->src[0]) <= 2;
        const bool experts = op->op == GGML_OP_MUL_MAT_ID && op->src[0]->ne[3] == 1;
        if (!(product || experts) || !is_ours(op->src[0]) || op->src[1]->type != GGML_TYPE_F32) {
            return false;
        }
        const ggml_backend_buffer_t buffer = op->src[1]->buffer;
        return buffer == nullptr || ggml_backend_buft_is_host(buffer->buft);
    }

    ggml::cpu::tensor_traits * get_tensor_traits(const ggml_tensor * op) override {
        const bool product = op->op == GGML_OP_MUL_MAT || op->op == GGML_OP_MUL_MAT_ID;
        return product && is_ours(op->src[0]) ? traits_of(op->src[0]) : nullptr;
    }

    static bool is_ours(const ggml_tensor * weights) {
        return weights->buffer != nullptr && weights->buffer->buft == buffer_type() &&
               traits_of(weights) != nullptr;
    }
};

void write(ggml_backend_buffer_t, ggml_tensor * tensor, const void * data, size_t offset, size_t size) {
    GGML_ASSERT(offset == 0 && size == ggml_nbytes(tensor));
    traits_of(tensor)->lay_out(tensor, data);
}

ggml_backend_buffer_t allocate(ggml_backend_buffer_type_t type, size_t size) {
    const ggml_backend_buffer_t buffer = ggml_backend_buft_alloc_buffer(ggml_backend_cpu_buffer_type(), size);
    if (buffer != nullptr) {
        buffer->buft = type;
        buffer->iface.set_tensor = write;
        buffer->iface.get_tensor = nullptr;
        buffer->iface.cpy_tensor = nullptr;
    }
    return buffer;
}

size_t size_of(ggml_backend_buffer_type_t, const ggml_tensor * tensor) {
    const Traits * traits = traits_of(tensor);
    return traits != nullptr ? traits->size(tensor) : ggml_nbytes(tensor);
}

ggml_backend_buffer_type_t buffer_type() {
    static ggml_backend_buffer_type type = {
        {
            [](ggml_backend_buffer_type_t) { return "PASS_EDGE"; },
            allocate,
            [](ggml_backend_buffer_type_t) -> size_t { return 64; },
            nullptr,  // any size
            size_of,
            nullptr,  // the host does not read it
        },
        ggml_backend_reg_dev_get(ggml_backend_cpu_reg(), 0),
        new Operations(),
    };
    return &type;
}

}  // namespace

// Lists our type of buffer as soon as ggml prepares this backend, which is before it asks for the list. The linker puts
// it in the place of ggml's function (kernels.cmake). As the library is loaded nothing of ours may run: ggml loads all
// variants to choose one, those for other processors too.
extern "C" void __wrap_ggml_cpu_init(void) {
    __real_ggml_cpu_init();
    static std::atomic<bool> listed{false};
    if (enabled() && !listed.exchange(true)) {  // buffer_type() prepares the backend, too
        auto & types = ggml_backend_cpu_get_extra_buffer_types();
        types.insert(types.begin(), buffer_type());
    }
}

extern "C" const char * pass_edge_kernels(void) {
    return enabled() ? INSTRUCTIONS : "";
}
