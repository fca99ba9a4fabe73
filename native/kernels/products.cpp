// Matrix products for passes over few tokens.
//
// llama.cpp's CPU kernels are made for one token or for a prompt. Between these, where drafts are verified, they
// unpack the weights once for every token, or walk through several rows at a time and lose the processor's
// prefetching: a pass over two tokens costs 1.6 to 2.2 times one over one. Ours unpack a weight once for up to four
// tokens and fetch ahead. They give the same bits: sums of integers are exact in any order, and floating point sums
// keep theirs.
//
// The linker puts each __wrap_f in f's place (--wrap, see kernels.cmake); __real_f is llama.cpp's own, to which all
// else is left: other types and shapes, prompts, and all of it if PASS_EDGE_KERNELS=0.

#include "tiles.h"

#include "ggml-backend.h"
#include "ggml-cpu-impl.h"
#include "llamafile/sgemm.h"
#include "quants.h"
#include "tiled/tiled.h"
#include "traits.h"

#include <algorithm>

extern "C" {
using extra_t = decltype(ggml_cpu_extra_compute_forward);
using tiled_t = decltype(ggml_compute_forward_mul_mat_tiled);
extra_t __real_ggml_cpu_extra_compute_forward, __wrap_ggml_cpu_extra_compute_forward;
tiled_t __real_ggml_compute_forward_mul_mat_tiled, __wrap_ggml_compute_forward_mul_mat_tiled;
decltype(llamafile_sgemm) __real_llamafile_sgemm, __wrap_llamafile_sgemm;
const char * pass_edge_kernels(void);
}

namespace {

constexpr int64_t MOST_TOKENS = 32;  // more are a prompt
constexpr int64_t GROUPS = 16;       // of ROWS rows

// Calls tile<n> for n tokens at a time, from the first one on.
template <typename Tile> inline void for_tokens(int64_t tokens, Tile tile) {
    int64_t first = 0;
    for (; first + AT_ONCE <= tokens; first += AT_ONCE) {
        tile(std::integral_constant<int, AT_ONCE>(), first);
    }
    switch (tokens - first) {
        case 1: return tile(std::integral_constant<int, 1>(), first);
        case 2: return tile(std::integral_constant<int, 2>(), first);
        case 3: return tile(std::integral_constant<int, 3>(), first);
    }
}

struct Product {
    int64_t rows, tokens, blocks;
    const void * weights;
    int64_t row_stride;  // in blocks, as the next one
    const void * activations;
    int64_t token_stride;
    float * out;
    int64_t out_stride;
};

// This thread's share of the rows, eight by eight.
template <typename Block, typename Activations, typename Tile>
bool multiply(const ggml_compute_params * params, const Product & product, Tile tile) {
    const int64_t groups = product.rows / ROWS;
    const int64_t end = groups * (params->ith + 1) / params->nth;
    for (int64_t group = groups * params->ith / params->nth; group < end; group++) {
        const Block * rows[ROWS];
        for (int row = 0; row < ROWS; row++) {
            rows[row] = static_cast<const Block *>(product.weights) + (group * ROWS + row) * product.row_stride;
        }
        for_tokens(product.tokens, [&](auto count, int64_t first) {
            tile(count, rows, static_cast<const Activations *>(product.activations) + first * product.token_stride,
                 product.out + first * product.out_stride + group * ROWS);
        });
    }
    return true;
}

template <typename Type> bool multiply_blocks(const ggml_compute_params * params, const Product & product) {
    return multiply<typename Type::Block, typename Type::Activations>(
        params, product, [&](auto count, const auto * const * rows, const auto * tokens, float * out) {
            blocks_tile<Type, count()>(product.blocks, rows, tokens, product.token_stride, out, product.out_stride);
        });
}

template <typename Type> bool multiply_superblocks(const ggml_compute_params * params, const Product & product) {
    return multiply<typename Type::Block, block_q8_K>(
        params, product, [&](auto count, const auto * const * rows, const auto * tokens, float * out) {
            superblocks_tile<Type, count()>(product.blocks, rows, tokens, product.token_stride, out,
                                            product.out_stride);
        });
}

// A product with a matrix in Q4_0, repacked by eight rows as ggml does wherever there is AVX2.
bool is_repacked_q4_0(const ggml_tensor * op) {
    const ggml_tensor * weights = op->src[0];
    if (op->op != GGML_OP_MUL_MAT || weights->type != GGML_TYPE_Q4_0 || weights->buffer == nullptr ||
        ggml_backend_buffer_get_type(weights->buffer) != ggml_backend_cpu_repack_buffer_type()) {
        return false;
    }
    const ggml_tensor * activations = op->src[1];
    return weights->ne[1] % ROWS == 0 && weights->ne[0] <= MOST_BLOCKS * QK8_0 &&
           ggml_nrows(weights) == weights->ne[1] && ggml_nrows(activations) == activations->ne[1] &&
           activations->type == GGML_TYPE_F32;
}

void multiply_repacked(const ggml_compute_params * params, const ggml_tensor * op) {
    const ggml_tensor * weights = op->src[0];
    const ggml_tensor * activations = op->src[1];
    const int64_t blocks = weights->ne[0] / QK8_0, tokens = activations->ne[1];
    auto * rounded = static_cast<block_q8_0 *>(params->wdata);
    for (int64_t token = params->ith; token < tokens; token += params->nth) {
        const char * row = static_cast<const char *>(activations->data) + token * activations->nb[1];
        quantize_row_q8_0(reinterpret_cast<const float *>(row), rounded + token * blocks, weights->ne[0]);
    }
    ggml_barrier(params->threadpool);
    const int64_t groups = weights->ne[1] / ROWS;
    const int64_t first_group = groups * params->ith / params->nth, end = groups * (params->ith + 1) / params->nth;
    const auto * packed = static_cast<const block_q4_0x8 *>(weights->data);
    const int64_t stride = op->nb[1] / sizeof(float);
    // a few groups stay in the nearest cache while all tokens pass over them
    for (int64_t group = first_group; group < end; group += GROUPS) {
        const int64_t count = std::min(GROUPS, end - group);
        for_tokens(tokens, [&](auto at_once, int64_t first) {
            float * out = static_cast<float *>(op->data) + first * stride + group * ROWS;
            q4_0_rows<at_once()>(blocks, count * ROWS, packed + group * blocks, rounded + first * blocks, out, stride);
        });
    }
}

}  // namespace

extern "C" {

const char * pass_edge_kernels(void) {
    return enabled() ? INSTRUCTIONS : "";
}

// Weights in a buffer of their own, which llama.cpp has repacked.
bool __wrap_ggml_cpu_extra_compute_forward(ggml_compute_params * params, ggml_tensor * op) {
    if (enabled() && is_repacked_q4_0(op) && op->src[1]->ne[1] <= MOST_TOKENS) {
        multiply_repacked(params, op);
        return true;
    }
    return __real_ggml_cpu_extra_compute_forward(params, op);
}

bool __wrap_llamafile_sgemm(const ggml_compute_params * params, int64_t m, int64_t n, int64_t k, const void * A,
                            int64_t lda, const void * B, int64_t ldb, void * C, int64_t ldc, int Atype, int Btype,
                            int Ctype) {
    if (enabled() && n <= MOST_TOKENS && m % ROWS == 0 && Ctype == GGML_TYPE_F32) {
        const Product product = {m, n, k, A, lda, B, ldb, static_cast<float *>(C), ldc};
        switch (Btype << 8 | Atype) {
            case GGML_TYPE_Q8_0 << 8 | GGML_TYPE_Q4_0: return multiply_blocks<Q4_0>(params, product);
            case GGML_TYPE_Q8_1 << 8 | GGML_TYPE_Q4_1: return multiply_blocks<Q4_1>(params, product);
            case GGML_TYPE_Q8_0 << 8 | GGML_TYPE_Q5_0: return multiply_blocks<Q5_0>(params, product);
            case GGML_TYPE_Q8_0 << 8 | GGML_TYPE_Q8_0: return multiply_blocks<Q8_0>(params, product);
            case GGML_TYPE_Q8_K << 8 | GGML_TYPE_Q4_K: return multiply_superblocks<Q4_K>(params, product);
            case GGML_TYPE_Q8_K << 8 | GGML_TYPE_Q6_K: return multiply_superblocks<Q6_K>(params, product);
        }
    }
    return __real_llamafile_sgemm(params, m, n, k, A, lda, B, ldb, C, ldc, Atype, Btype, Ctype);
}

// From eight tokens on llama.cpp has another kernel for K-quants, which sums in another order.
bool __wrap_ggml_compute_forward_mul_mat_tiled(const ggml_compute_params * params, ggml_tensor * product) {
    const ggml_tensor * weights = product->src[0];
    const bool ours = (weights->type == GGML_TYPE_Q4_K || weights->type == GGML_TYPE_Q6_K) &&
                      weights->ne[1] % ROWS == 0 && product->src[1]->ne[1] <= MOST_TOKENS;
    return !(enabled() && ours) && __real_ggml_compute_forward_mul_mat_tiled(params, product);
}
}
