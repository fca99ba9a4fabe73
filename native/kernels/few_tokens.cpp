// Matrix products for passes over few tokens.
//
// llama.cpp's CPU kernels are made for one token or for a prompt. Between these, where drafts are verified, they
// unpack the weights once for every token, or walk through several rows at a time and lose the processor's
// prefetching: a pass over two tokens costs 1.6 to 2.2 times one over one. Those below unpack a weight once for up to
// four tokens and fetch ahead. They give the same bits: sums of integers are exact in any order, and floating point
// sums keep theirs.
//
// The linker puts each __wrap_f in f's place (--wrap, see kernels.cmake); __real_f is llama.cpp's own, to which all
// else is left: other types and shapes, prompts, and all of it if PASS_EDGE_KERNELS=0.

#define GGML_COMMON_DECL_C
#include "ggml-common.h"

#include "ggml-cpu-impl.h"
#include "llamafile/sgemm.h"
#include "repack.h"
#include "tiled/tiled.h"

#include <cstdlib>
#include <cstring>
#include <type_traits>

extern "C" {
using gem_t = void(int, float *, size_t, const void *, const void *, int, int);
gem_t __real_ggml_gemv_q4_0_8x8_q8_0, __wrap_ggml_gemv_q4_0_8x8_q8_0;
gem_t __real_ggml_gemm_q4_0_8x8_q8_0, __wrap_ggml_gemm_q4_0_8x8_q8_0;
decltype(llamafile_sgemm) __real_llamafile_sgemm, __wrap_llamafile_sgemm;
using tiled_t = decltype(ggml_compute_forward_mul_mat_tiled);
tiled_t __real_ggml_compute_forward_mul_mat_tiled, __wrap_ggml_compute_forward_mul_mat_tiled;
const char * pass_edge_kernels(void);
}

#if defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__) && defined(__AVX512VNNI__)

#include <immintrin.h>

namespace {

constexpr int64_t MOST_TOKENS = 32;   // more are a prompt
constexpr int AT_ONCE = 4;            // tokens that a weight is unpacked for
constexpr int64_t MOST_BLOCKS = 512;  // of 32 weights: a row of 16,384
constexpr int AHEAD = 4096;           // bytes: what memory delivers in the time of some blocks

bool enabled() {
    static const bool on = [] {
        const char * said = std::getenv("PASS_EDGE_KERNELS");
        return said == nullptr || std::atoi(said) != 0;
    }();
    return on;
}

inline float to_float(ggml_half half) {
    return _cvtsh_ss(half);
}

inline __m256i load(const void * bytes) {
    return _mm256_loadu_si256(static_cast<const __m256i *>(bytes));
}

inline __m512i two(__m256i low, __m256i high) {
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

inline void fetch(const void * address, int bytes) {
    for (int line = 0; line < bytes; line += 64) {
        _mm_prefetch(static_cast<const char *>(address) + AHEAD + line, _MM_HINT_T0);
    }
}

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

// ---- Q4_0 as llama.cpp repacks it: eight rows, their bytes interleaved by eights --------------------------------

// The activations of some tokens, 32 at a time: in block b, eight values of token t begin at
// values + b * block + t * 8 + k * stride, k = 0 .. 3.
struct Interleaved {
    const int8_t * values;
    size_t block, stride;
    const float * scales;        // [token][block]
    const int64_t * correction;  // [token][block]: -8 times the sum, as two int32 for the two halves of eight values
};

void prepare(const int8_t * values, size_t stride, ggml_half scale, float & as_float, int64_t & correction) {
    int32_t halves[2] = {0, 0};
    for (int k = 0; k < 4; k++) {
        for (int i = 0; i < 8; i++) {
            halves[i / 4] -= 8 * values[k * stride + i];
        }
    }
    as_float = to_float(scale);
    std::memcpy(&correction, halves, sizeof correction);
}

// out[t][0 .. 15] for rows 0 .. 7 in `left` and 8 .. 15 in `right`.
template <int TOKENS>
inline void q4_0_tile(int blocks, const block_q4_0x8 * left, const block_q4_0x8 * right, const Interleaved & tokens,
                      __m512 out[TOKENS]) {
    // a repacked nibble is two's complement: with its highest bit turned it is the weight plus 8
    const __m512i low = _mm512_set1_epi8(15), turn = _mm512_set1_epi8(8);
    const auto unpack = [&](__m512i bytes) { return _mm512_ternarylogic_epi32(bytes, low, turn, 0x6A); };
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    for (int t = 0; t < TOKENS; t++) {
        out[t] = _mm512_setzero_ps();
    }
    for (int b = 0; b < blocks; b++) {
        fetch(left + b, sizeof *left);
        fetch(right + b, sizeof *right);
        __m512i weights[2][4];
        for (int side = 0; side < 2; side++) {
            const uint8_t * bytes = reinterpret_cast<const uint8_t *>(side ? right[b].qs : left[b].qs);
            for (int half = 0; half < 2; half++) {
                const __m512i raw = _mm512_loadu_si512(bytes + 64 * half);
                weights[side][half] = unpack(raw);
                weights[side][2 + half] = unpack(_mm512_srli_epi16(raw, 4));
            }
        }
        const __m512 row_scales = _mm512_cvtph_ps(_mm256_set_m128i(_mm_loadu_si128((const __m128i *) right[b].d),
                                                                   _mm_loadu_si128((const __m128i *) left[b].d)));
        for (int t = 0; t < TOKENS; t++) {
            __m512i sum[2];
            sum[0] = sum[1] = _mm512_set1_epi64(tokens.correction[t * blocks + b]);
            for (int k = 0; k < 4; k++) {
                int64_t eight;
                std::memcpy(&eight, tokens.values + b * tokens.block + t * 8 + k * tokens.stride, sizeof eight);
                sum[0] = _mm512_dpbusd_epi32(sum[0], weights[0][k], _mm512_set1_epi64(eight));
                sum[1] = _mm512_dpbusd_epi32(sum[1], weights[1][k], _mm512_set1_epi64(eight));
            }
            const __m512i whole = _mm512_add_epi32(_mm512_permutex2var_epi32(sum[0], even, sum[1]),
                                                   _mm512_permutex2var_epi32(sum[0], odd, sum[1]));
            const __m512 scale = _mm512_mul_ps(row_scales, _mm512_set1_ps(tokens.scales[t * blocks + b]));
            out[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(whole), scale, out[t]);
        }
    }
}

// Multiplies `rows` rows by TOKENS tokens into out[t * stride + row].
template <int TOKENS>
void q4_0_rows(int blocks, int rows, const block_q4_0x8 * weights, const Interleaved & tokens, float * out,
               size_t stride) {
    __m512 tile[TOKENS];
    for (int row = 0; row < rows; row += 16) {
        const block_q4_0x8 * left = weights + row / 8 * blocks;
        const bool both = row + 8 < rows;
        q4_0_tile<TOKENS>(blocks, left, both ? left + blocks : left, tokens, tile);
        for (int t = 0; t < TOKENS; t++) {
            _mm512_mask_storeu_ps(out + t * stride + row, both ? 0xFFFF : 0x00FF, tile[t]);
        }
    }
}

// ---- Blocks of 32 weights, in rows as a file has them ------------------------------------------------------------

// Each type unpacks a block of two rows into unsigned bytes, which are OFFSET more than the weights.

template <typename Block> inline __m512i nibbles(const Block & a, const Block & b) {
    const __m256i low =
        _mm256_set_m128i(_mm_loadu_si128((const __m128i *) b.qs), _mm_loadu_si128((const __m128i *) a.qs));
    const __m512i both = two(low, _mm256_srli_epi16(low, 4));
    return _mm512_and_si512(_mm512_shuffle_i64x2(both, both, 0xD8), _mm512_set1_epi8(15));
}

struct Q4_0 {
    using Block = block_q4_0;
    using Activations = block_q8_0;
    static constexpr int OFFSET = 8;
    static __m512i unpack(const Block & a, const Block & b) { return nibbles(a, b); }
};

struct Q4_1 {
    using Block = block_q4_1;
    using Activations = block_q8_1;
    static constexpr int OFFSET = 0;
    static __m512i unpack(const Block & a, const Block & b) { return nibbles(a, b); }
};

struct Q5_0 {
    using Block = block_q5_0;
    using Activations = block_q8_0;
    static constexpr int OFFSET = 16;
    static __m512i unpack(const Block & a, const Block & b) {
        uint32_t fifth[2];
        std::memcpy(&fifth[0], a.qh, 4);
        std::memcpy(&fifth[1], b.qh, 4);
        const __m512i four = nibbles(a, b);
        return _mm512_mask_add_epi8(four, uint64_t(fifth[1]) << 32 | fifth[0], four, _mm512_set1_epi8(16));
    }
};

struct Q8_0 {
    using Block = block_q8_0;
    using Activations = block_q8_0;
    static constexpr int OFFSET = 128;
    static __m512i unpack(const Block & a, const Block & b) {
        return _mm512_xor_si512(two(load(a.qs), load(b.qs)), _mm512_set1_epi8(char(128)));
    }
};

constexpr int ROWS = 8;  // that are computed side by side

template <typename Block, typename Field>
inline __m256 of_rows(const Block * const rows[ROWS], int64_t b, Field field) {
    return _mm256_cvtph_ps(_mm_setr_epi16(field(rows[0][b]), field(rows[1][b]), field(rows[2][b]), field(rows[3][b]),
                                          field(rows[4][b]), field(rows[5][b]), field(rows[6][b]), field(rows[7][b])));
}

// The sum of four floats, first with third and second with fourth, for each quarter of the two.
inline __m256 sums_of_four(__m512 low, __m512 high) {
    const auto sum = [](__m512 quarters) {
        const __m512 halved = _mm512_add_ps(quarters, _mm512_permute_ps(quarters, 0x4E));
        return _mm512_add_ps(halved, _mm512_permute_ps(halved, 0xB1));
    };
    const __m512i firsts = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 0, 0, 0, 0, 0, 0, 0);
    return _mm512_castps512_ps256(_mm512_permutex2var_ps(sum(low), firsts, sum(high)));
}

// The sum of eight floats, in the order of ggml's `hsum_float_8`, for each half of the four.
inline __m256 sums(const __m512 pairs[4]) {
    const auto halved = [](__m512 pair) { return _mm512_add_ps(pair, _mm512_shuffle_f32x4(pair, pair, 0xB1)); };
    return sums_of_four(_mm512_shuffle_f32x4(halved(pairs[0]), halved(pairs[1]), 0x88),
                        _mm512_shuffle_f32x4(halved(pairs[2]), halved(pairs[3]), 0x88));
}

template <typename Type, int TOKENS>
inline void blocks_tile(int64_t blocks, const typename Type::Block * const rows[ROWS],
                        const typename Type::Activations * tokens, int64_t token_stride, float * out, int64_t stride) {
    constexpr bool MINIMA = std::is_same_v<Type, Q4_1>;
    const __m256i offset = _mm256_set1_epi8(char(Type::OFFSET));
    __m512i spread[4];  // the scales of rows 2i and 2i + 1, eight times each
    for (int i = 0; i < 4; i++) {
        spread[i] = two(_mm256_set1_epi32(2 * i), _mm256_set1_epi32(2 * i + 1));
    }
    __m512 sum[TOKENS][4];
    __m256 minima[TOKENS];
    for (int t = 0; t < TOKENS; t++) {
        sum[t][0] = sum[t][1] = sum[t][2] = sum[t][3] = _mm512_setzero_ps();
        minima[t] = _mm256_setzero_ps();
    }
    for (int64_t b = 0; b < blocks; b++) {
        fetch(reinterpret_cast<const char *>(rows[0]) + b * ROWS * sizeof(typename Type::Block),
              ROWS * sizeof(typename Type::Block));
        __m512i weights[4];
        for (int i = 0; i < 4; i++) {
            weights[i] = Type::unpack(rows[2 * i][b], rows[2 * i + 1][b]);
        }
        const __m256 scales = of_rows(rows, b, [](const auto & block) { return block.d; });
        __m256 least = _mm256_setzero_ps();
        if constexpr (MINIMA) {
            least = of_rows(rows, b, [](const auto & block) { return block.m; });
        }
        for (int t = 0; t < TOKENS; t++) {
            const auto & token = tokens[t * token_stride + b];
            const __m256i values = load(token.qs);
            __m256i correction = _mm256_setzero_si256();
            if constexpr (Type::OFFSET != 0) {
                correction = _mm256_sub_epi32(correction, _mm256_dpbusd_epi32(correction, offset, values));
            }
            const __m512 scale = _mm512_castps256_ps512(_mm256_mul_ps(scales, _mm256_set1_ps(to_float(token.d))));
            for (int i = 0; i < 4; i++) {
                const __m512i dot = _mm512_dpbusd_epi32(two(correction, correction), weights[i], two(values, values));
                const __m512 scales_of_two = _mm512_permutexvar_ps(spread[i], scale);
                sum[t][i] = _mm512_fmadd_ps(scales_of_two, _mm512_cvtepi32_ps(dot), sum[t][i]);
            }
            if constexpr (MINIMA) {
                minima[t] = _mm256_fmadd_ps(least, _mm256_set1_ps(to_float(token.s)), minima[t]);
            }
        }
    }
    for (int t = 0; t < TOKENS; t++) {
        const __m256 whole = MINIMA ? _mm256_add_ps(sums(sum[t]), minima[t]) : sums(sum[t]);
        _mm256_storeu_ps(out + t * stride, whole);
    }
}

// ---- K-quants: superblocks of 256 weights with small integers for scales -----------------------------------------

struct Unpacked {
    __m512i weights[4];  // 256 unsigned bytes
    __m512i scales[4];   // int16, one for two weights
};

struct Q4_K {
    using Block = block_q4_K;
    static constexpr bool MINIMA = true;
    // The eight scales, and behind them the eight minima (ggml's `get_scale_min_k4`).
    static __m128i small(const Block & block) {
        uint32_t packed[3];
        std::memcpy(packed, block.scales, sizeof packed);
        const uint32_t high = 0x03030303, low = 0x0f0f0f0f, six = 0x3f3f3f3f;
        return _mm_setr_epi32(packed[0] & six, (packed[2] & low) | ((packed[0] >> 6) & high) << 4, packed[1] & six,
                              ((packed[2] >> 4) & low) | ((packed[1] >> 6) & high) << 4);
    }
    static void unpack(const Block & block, Unpacked & to) {
        const __m512i scales = _mm512_zextsi256_si512(_mm256_cvtepu8_epi16(small(block)));
        const __m512i low = _mm512_set1_epi8(15);
        for (int i = 0; i < 2; i++) {
            const __m512i raw = _mm512_loadu_si512(block.qs + 64 * i);
            const __m512i first = _mm512_and_si512(raw, low);
            const __m512i second = _mm512_and_si512(_mm512_srli_epi16(raw, 4), low);
            to.weights[2 * i] = _mm512_shuffle_i64x2(first, second, 0x44);
            to.weights[2 * i + 1] = _mm512_shuffle_i64x2(first, second, 0xEE);
        }
        for (int i = 0; i < 4; i++) {
            const __m512i which = two(_mm256_set1_epi16(2 * i), _mm256_set1_epi16(2 * i + 1));
            to.scales[i] = _mm512_permutexvar_epi16(which, scales);
        }
    }
    static __m256i start(const Block &, const block_q8_K &) { return _mm256_setzero_si256(); }
};

struct Q6_K {
    using Block = block_q6_K;
    static constexpr bool MINIMA = false;
    static __m256i small(const Block & block) {
        return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *) block.scales));
    }
    static void unpack(const Block & block, Unpacked & to) {
        const __m512i scales = _mm512_castsi256_si512(small(block));
        const __m512i low = _mm512_set1_epi8(15), high = _mm512_set1_epi8(48);
        for (int i = 0; i < 2; i++) {
            const __m512i four = _mm512_loadu_si512(block.ql + 64 * i);
            const __m256i two_bits = load(block.qh + 32 * i);
            const __m512i first = two(_mm256_slli_epi16(two_bits, 4), _mm256_slli_epi16(two_bits, 2));
            const __m512i second = two(two_bits, _mm256_srli_epi16(two_bits, 2));
            to.weights[2 * i] = _mm512_or_si512(_mm512_and_si512(four, low), _mm512_and_si512(first, high));
            to.weights[2 * i + 1] =
                _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi16(four, 4), low), _mm512_and_si512(second, high));
        }
        for (int i = 0; i < 4; i++) {
            const __m512i which = _mm512_inserti64x2(
                _mm512_inserti64x2(two(_mm256_set1_epi16(4 * i), _mm256_set1_epi16(4 * i + 2)),
                                   _mm_set1_epi16(4 * i + 1), 1), _mm_set1_epi16(4 * i + 3), 3);
            to.scales[i] = _mm512_permutexvar_epi16(which, scales);
        }
    }
    // The bytes are 32 more than the weights.
    static __m256i start(const Block & block, const block_q8_K & token) {
        const __m256i more = _mm256_slli_epi32(_mm256_madd_epi16(load(token.bsums), small(block)), 5);
        return _mm256_sub_epi32(_mm256_setzero_si256(), more);
    }
};

// Two rows: out[t][0 .. 1], each the sum of eight floats, and with minima of four more.
template <typename Type, int TOKENS>
inline void superblocks_tile(int64_t blocks, const typename Type::Block * const rows[2], const block_q8_K * tokens,
                             int64_t token_stride, __m512 sum[TOKENS], __m256 minima[TOKENS]) {
    for (int t = 0; t < TOKENS; t++) {
        sum[t] = _mm512_setzero_ps();
        minima[t] = _mm256_setzero_ps();
    }
    for (int64_t b = 0; b < blocks; b++) {
        __m512i dots[2][TOKENS];
        for (int row = 0; row < 2; row++) {
            fetch(rows[row] + b, sizeof **rows);
            Unpacked unpacked;
            Type::unpack(rows[row][b], unpacked);
            for (int t = 0; t < TOKENS; t++) {
                const block_q8_K & token = tokens[t * token_stride + b];
                __m512i dot = _mm512_zextsi256_si512(Type::start(rows[row][b], token));
                for (int i = 0; i < 4; i++) {
                    const __m512i values = _mm512_loadu_si512(token.qs + 64 * i);
                    const __m512i pairs = _mm512_maddubs_epi16(unpacked.weights[i], values);
                    dot = _mm512_dpwssd_epi32(dot, unpacked.scales[i], pairs);
                }
                dots[row][t] = dot;
            }
        }
        const float d[2] = {to_float(rows[0][b].d), to_float(rows[1][b].d)};
        for (int t = 0; t < TOKENS; t++) {
            const block_q8_K & token = tokens[t * token_stride + b];
            const __m512i whole = _mm512_add_epi32(_mm512_shuffle_i64x2(dots[0][t], dots[1][t], 0x44),
                                                   _mm512_shuffle_i64x2(dots[0][t], dots[1][t], 0xEE));
            const __m512 scale =
                _mm512_insertf32x8(_mm512_set1_ps(token.d * d[0]), _mm256_set1_ps(token.d * d[1]), 1);
            sum[t] = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(whole), sum[t]);
            if constexpr (Type::MINIMA) {
                const __m256i by_sixteen = load(token.bsums);
                const __m128i sums =
                    _mm_hadd_epi16(_mm256_castsi256_si128(by_sixteen), _mm256_extracti128_si256(by_sixteen, 1));
                const __m256i least = _mm256_cvtepu8_epi16(
                    _mm_unpackhi_epi64(Type::small(rows[0][b]), Type::small(rows[1][b])));
                const __m256i product = _mm256_madd_epi16(least, _mm256_broadcastsi128_si256(sums));
                const __m256 minimum = _mm256_insertf128_ps(_mm256_set1_ps(-token.d * to_float(rows[0][b].dmin)),
                                                            _mm_set1_ps(-token.d * to_float(rows[1][b].dmin)), 1);
                minima[t] = _mm256_fmadd_ps(minimum, _mm256_cvtepi32_ps(product), minima[t]);
            }
        }
    }
}

template <typename Type, int TOKENS>
inline void superblocks_rows(int64_t blocks, const typename Type::Block * const rows[ROWS], const block_q8_K * tokens,
                             int64_t token_stride, float * out, int64_t stride) {
    __m512 sum[4][TOKENS];
    __m256 minima[4][TOKENS];
    for (int i = 0; i < 4; i++) {
        superblocks_tile<Type, TOKENS>(blocks, rows + 2 * i, tokens, token_stride, sum[i], minima[i]);
    }
    for (int t = 0; t < TOKENS; t++) {
        const __m512 halves[4] = {sum[0][t], sum[1][t], sum[2][t], sum[3][t]};
        __m256 whole = sums(halves);
        if constexpr (Type::MINIMA) {
            const __m512 low = _mm512_insertf32x8(_mm512_castps256_ps512(minima[0][t]), minima[1][t], 1);
            const __m512 high = _mm512_insertf32x8(_mm512_castps256_ps512(minima[2][t]), minima[3][t], 1);
            whole = _mm256_add_ps(whole, sums_of_four(low, high));
        }
        _mm256_storeu_ps(out + t * stride, whole);
    }
}

// ---- One product ------------------------------------------------------------------------------------------------

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
            superblocks_rows<Type, count()>(product.blocks, rows, tokens, product.token_stride, out,
                                            product.out_stride);
        });
}

}  // namespace

extern "C" {

const char * pass_edge_kernels(void) {
    return enabled() ? "AVX-512 VNNI" : "";
}

void __wrap_ggml_gemv_q4_0_8x8_q8_0(int n, float * out, size_t stride, const void * weights, const void * activations,
                                    int tokens, int rows) {
    const int blocks = n / QK8_0;
    if (!enabled() || tokens != 1 || blocks > MOST_BLOCKS) {
        return __real_ggml_gemv_q4_0_8x8_q8_0(n, out, stride, weights, activations, tokens, rows);
    }
    float scales[MOST_BLOCKS];
    int64_t correction[MOST_BLOCKS];
    const auto * token = static_cast<const block_q8_0 *>(activations);
    for (int b = 0; b < blocks; b++) {
        prepare(token[b].qs, 8, token[b].d, scales[b], correction[b]);
    }
    q4_0_rows<1>(blocks, rows, static_cast<const block_q4_0x8 *>(weights),
                 {token->qs, sizeof *token, 8, scales, correction}, out, stride);
}

void __wrap_ggml_gemm_q4_0_8x8_q8_0(int n, float * out, size_t stride, const void * weights, const void * activations,
                                    int tokens, int rows) {
    const int blocks = n / QK8_0;
    if (!enabled() || tokens > MOST_TOKENS || blocks > MOST_BLOCKS) {
        return __real_ggml_gemm_q4_0_8x8_q8_0(n, out, stride, weights, activations, tokens, rows);
    }
    float scales[AT_ONCE * MOST_BLOCKS];
    int64_t correction[AT_ONCE * MOST_BLOCKS];
    for (int first = 0; first < tokens; first += AT_ONCE) {
        const auto * four = static_cast<const block_q8_0x4 *>(activations) + first / AT_ONCE * blocks;
        for (int t = 0; t < AT_ONCE; t++) {
            for (int b = 0; b < blocks; b++) {
                prepare(four[b].qs + 8 * t, 32, four[b].d[t], scales[t * blocks + b], correction[t * blocks + b]);
            }
        }
        q4_0_rows<AT_ONCE>(blocks, rows, static_cast<const block_q4_0x8 *>(weights),
                           {four->qs, sizeof *four, 32, scales, correction}, out + first * stride, stride);
    }
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

#else

extern "C" {

const char * pass_edge_kernels(void) {
    return "";
}

void __wrap_ggml_gemv_q4_0_8x8_q8_0(int n, float * s, size_t bs, const void * vx, const void * vy, int nr, int nc) {
    __real_ggml_gemv_q4_0_8x8_q8_0(n, s, bs, vx, vy, nr, nc);
}

void __wrap_ggml_gemm_q4_0_8x8_q8_0(int n, float * s, size_t bs, const void * vx, const void * vy, int nr, int nc) {
    __real_ggml_gemm_q4_0_8x8_q8_0(n, s, bs, vx, vy, nr, nc);
}

bool __wrap_llamafile_sgemm(const ggml_compute_params * params, int64_t m, int64_t n, int64_t k, const void * A,
                            int64_t lda, const void * B, int64_t ldb, void * C, int64_t ldc, int Atype, int Btype,
                            int Ctype) {
    return __real_llamafile_sgemm(params, m, n, k, A, lda, B, ldb, C, ldc, Atype, Btype, Ctype);
}

bool __wrap_ggml_compute_forward_mul_mat_tiled(const ggml_compute_params * params, ggml_tensor * product) {
    return __real_ggml_compute_forward_mul_mat_tiled(params, product);
}
}

#endif
