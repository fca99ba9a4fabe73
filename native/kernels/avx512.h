// The tiles that products.cpp and attention.cpp need, for AVX-512 with VNNI.

#pragma once

#include "common.h"

namespace {

constexpr char INSTRUCTIONS[] = "AVX-512 VNNI";

using Floats = __m512;
constexpr int LANES = 16;  // floats in one
constexpr int HEADS = 4;  // whose attention is computed side by side

inline Floats of_halves(const void * halves) {
    return _mm512_cvtph_ps(load(halves));
}

inline Floats rounded(Floats floats) {
    return _mm512_cvtph_ps(_mm512_cvtps_ph(floats, _MM_FROUND_TO_NEAREST_INT));
}

inline Floats set(float value) {
    return _mm512_set1_ps(value);
}

inline Floats fused(Floats a, Floats b, Floats c) {
    return _mm512_fmadd_ps(a, b, c);
}

inline __m512i two(__m256i low, __m256i high) {
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

// out[t][0 .. 15] for rows 0 .. 7 in `left` and 8 .. 15 in `right`.
template <int TOKENS>
inline void q4_0_tile(int blocks, const block_q4_0x8 * left, const block_q4_0x8 * right, const block_q8_0 * tokens,
                      const int32_t * corrections, __m512 out[TOKENS]) {
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
        const __m512 row_scales = _mm512_cvtph_ps(_mm256_set_m128i(load16(right[b].d), load16(left[b].d)));
        for (int t = 0; t < TOKENS; t++) {
            const block_q8_0 & token = tokens[t * blocks + b];
            __m512i sum[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
            for (int k = 0; k < 4; k++) {
                int64_t eight;
                std::memcpy(&eight, token.qs + 8 * k, sizeof eight);
                const __m512i values = _mm512_set1_epi64(eight);
                sum[0] = _mm512_dpbusd_epi32(sum[0], weights[0][k], values);
                sum[1] = _mm512_dpbusd_epi32(sum[1], weights[1][k], values);
            }
            const __m512i whole = _mm512_sub_epi32(_mm512_add_epi32(_mm512_permutex2var_epi32(sum[0], even, sum[1]),
                                                                    _mm512_permutex2var_epi32(sum[0], odd, sum[1])),
                                                   _mm512_set1_epi32(corrections[t * blocks + b]));
            const __m512 scale = _mm512_mul_ps(row_scales, _mm512_set1_ps(to_float(token.d)));
            out[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(whole), scale, out[t]);
        }
    }
}

// Multiplies `rows` rows by TOKENS tokens into out[t * stride + row].
template <int TOKENS>
void q4_0_rows(int blocks, int rows, const block_q4_0x8 * weights, const block_q8_0 * tokens, float * out,
               size_t stride) {
    int32_t corrections[TOKENS * MOST_BLOCKS];
    eight_times_sums(tokens, TOKENS * blocks, corrections);
    __m512 tile[TOKENS];
    for (int row = 0; row < rows; row += 16) {
        const block_q4_0x8 * left = weights + row / 8 * blocks;
        const bool both = row + 8 < rows;
        q4_0_tile<TOKENS>(blocks, left, both ? left + blocks : left, tokens, corrections, tile);
        for (int t = 0; t < TOKENS; t++) {
            _mm512_mask_storeu_ps(out + t * stride + row, both ? 0xFFFF : 0x00FF, tile[t]);
        }
    }
}

// ---- Blocks of 32 weights, in rows as a file has them ------------------------------------------------------------

template <typename Block> inline __m512i nibbles(const Block & a, const Block & b) {
    const __m256i low = _mm256_set_m128i(load16(b.qs), load16(a.qs));
    const __m512i both = two(low, _mm256_srli_epi16(low, 4));
    return _mm512_and_si512(_mm512_shuffle_i64x2(both, both, 0xD8), _mm512_set1_epi8(15));
}

inline __m512i unpack(const block_q4_0 & a, const block_q4_0 & b) { return nibbles(a, b); }

inline __m512i unpack(const block_q4_1 & a, const block_q4_1 & b) { return nibbles(a, b); }

inline __m512i unpack(const block_q5_0 & a, const block_q5_0 & b) {
    uint32_t fifth[2];
    std::memcpy(&fifth[0], a.qh, 4);
    std::memcpy(&fifth[1], b.qh, 4);
    const __m512i four = nibbles(a, b);
    return _mm512_mask_add_epi8(four, uint64_t(fifth[1]) << 32 | fifth[0], four, _mm512_set1_epi8(16));
}

inline __m512i unpack(const block_q8_0 & a, const block_q8_0 & b) {
    return _mm512_xor_si512(two(load(a.qs), load(b.qs)), _mm512_set1_epi8(char(128)));
}

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
            weights[i] = unpack(rows[2 * i][b], rows[2 * i + 1][b]);
        }
        const __m256 scales = of_rows(rows, b, [](const auto & block) { return block.d; });
        __m256 least = _mm256_setzero_ps();
        if constexpr (Type::MINIMA) {
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
            if constexpr (Type::MINIMA) {
                minima[t] = _mm256_fmadd_ps(least, _mm256_set1_ps(to_float(token.s)), minima[t]);
            }
        }
    }
    for (int t = 0; t < TOKENS; t++) {
        const __m256 whole = Type::MINIMA ? _mm256_add_ps(sums(sum[t]), minima[t]) : sums(sum[t]);
        _mm256_storeu_ps(out + t * stride, whole);
    }
}

// ---- K-quants: superblocks of 256 weights with small integers for scales -----------------------------------------

struct Unpacked {
    __m512i weights[4];  // 256 unsigned bytes
    __m512i scales[4];   // int16, one for two weights
};

inline void unpack(const block_q4_K & block, Unpacked & to) {
    const __m512i scales = _mm512_castsi256_si512(_mm256_cvtepu8_epi16(scales_of(block)));
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

inline void unpack(const block_q6_K & block, Unpacked & to) {
    const __m512i scales = _mm512_castsi256_si512(scales_of(block));
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

// Two rows: out[t][0 .. 1], each the sum of eight floats, and with minima of four more.
template <typename Type, int TOKENS>
inline void superblocks_pair(int64_t blocks, const typename Type::Block * const rows[2], const block_q8_K * tokens,
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
            unpack(rows[row][b], unpacked);
            for (int t = 0; t < TOKENS; t++) {
                const block_q8_K & token = tokens[t * token_stride + b];
                __m512i dot = two(start(rows[row][b], token), _mm256_setzero_si256());
                for (int i = 0; i < 4; i++) {
                    const __m512i values = _mm512_loadu_si512(token.qs + 64 * i);
                    const __m512i pairs = _mm512_maddubs_epi16(unpacked.weights[i], values);
                    dot = _mm512_dpwssd_epi32(dot, unpacked.scales[i], pairs);
                }
                dots[row][t] = dot;
            }
        }
        const float d[2] = {to_float(rows[0][b].d), to_float(rows[1][b].d)};
        __m256i least = _mm256_setzero_si256();
        if constexpr (Type::MINIMA) {
            least = _mm256_cvtepu8_epi16(_mm_unpackhi_epi64(scales_of(rows[0][b]), scales_of(rows[1][b])));
        }
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
                const __m256i product = _mm256_madd_epi16(least, _mm256_broadcastsi128_si256(sums));
                const __m256 minimum = _mm256_insertf128_ps(_mm256_set1_ps(-token.d * to_float(rows[0][b].dmin)),
                                                            _mm_set1_ps(-token.d * to_float(rows[1][b].dmin)), 1);
                minima[t] = _mm256_fmadd_ps(minimum, _mm256_cvtepi32_ps(product), minima[t]);
            }
        }
    }
}

template <typename Type, int TOKENS>
inline void superblocks_tile(int64_t blocks, const typename Type::Block * const rows[ROWS], const block_q8_K * tokens,
                             int64_t token_stride, float * out, int64_t stride) {
    __m512 sum[4][TOKENS];
    __m256 minima[4][TOKENS];
    for (int i = 0; i < 4; i++) {
        superblocks_pair<Type, TOKENS>(blocks, rows + 2 * i, tokens, token_stride, sum[i], minima[i]);
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

}  // namespace
