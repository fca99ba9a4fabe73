// The tiles that products.cpp and attention.cpp need, for AVX2, with AVX-VNNI where there is such.

#pragma once

#include "common.h"

namespace {

#if defined(__AVXVNNI__)
constexpr char INSTRUCTIONS[] = "AVX-VNNI";
#else
constexpr char INSTRUCTIONS[] = "AVX2";
#endif

using Floats = __m256;
constexpr int LANES = 8;  // floats in one
constexpr int HEADS = 2;  // whose attention is computed side by side

inline Floats of_halves(const void * halves) {
    return _mm256_cvtph_ps(load16(halves));
}

inline Floats rounded(Floats floats) {
    return _mm256_cvtph_ps(_mm256_cvtps_ph(floats, _MM_FROUND_TO_NEAREST_INT));
}

inline Floats set(float value) {
    return _mm256_set1_ps(value);
}

inline Floats fused(Floats a, Floats b, Floats c) {
    return _mm256_fmadd_ps(a, b, c);
}

// The sums of four products of unsigned with signed bytes each. Without AVX-VNNI they are summed in int16 first, so
// the unsigned ones must not exceed 128.
inline __m256i dot(__m256i unsigned_bytes, __m256i signed_bytes) {
#if defined(__AVXVNNI__)
    return _mm256_dpbusd_avx_epi32(_mm256_setzero_si256(), unsigned_bytes, signed_bytes);
#else
    return _mm256_madd_epi16(_mm256_maddubs_epi16(unsigned_bytes, signed_bytes), _mm256_set1_epi16(1));
#endif
}

// ---- Q4_0 as llama.cpp repacks it: eight rows, their bytes interleaved by eights --------------------------------

// Multiplies `rows` rows by TOKENS tokens into out[t * stride + row].
template <int TOKENS>
void q4_0_rows(int blocks, int rows, const block_q4_0x8 * weights, const block_q8_0 * tokens, float * out,
               size_t stride) {
    int32_t corrections[TOKENS * MOST_BLOCKS];
    eight_times_sums(tokens, TOKENS * blocks, corrections);
    // a repacked nibble is two's complement: with its highest bit turned it is the weight plus 8
    const __m256i low = _mm256_set1_epi8(15), turn = _mm256_set1_epi8(8);
    const auto unpack = [&](__m256i bytes) { return _mm256_xor_si256(_mm256_and_si256(bytes, low), turn); };
    // `hadd` below leaves rows 0 1 4 5 2 3 6 7, and this order is its own inverse
    const __m256i order = _mm256_setr_epi32(0, 1, 4, 5, 2, 3, 6, 7);
    for (int row = 0; row < rows; row += 8) {
        const block_q4_0x8 * block = weights + row / 8 * blocks;
        __m256 sum[TOKENS];
        for (int t = 0; t < TOKENS; t++) {
            sum[t] = _mm256_setzero_ps();
        }
        for (int b = 0; b < blocks; b++) {
            fetch(block + b, sizeof *block);
            __m256i unpacked[2][4];
            for (int half = 0; half < 2; half++) {
                for (int k = 0; k < 2; k++) {
                    const __m256i raw = load(block[b].qs + 32 * half + 64 * k);
                    unpacked[half][k] = unpack(raw);
                    unpacked[half][2 + k] = unpack(_mm256_srli_epi16(raw, 4));
                }
            }
            const __m256 row_scales = _mm256_permutevar8x32_ps(_mm256_cvtph_ps(load16(block[b].d)), order);
            for (int t = 0; t < TOKENS; t++) {
                const block_q8_0 & token = tokens[t * blocks + b];
                __m256i halves[2];
                for (int half = 0; half < 2; half++) {
                    // four times two products of 15 and 127 still fit into int16
                    __m256i pairs = _mm256_setzero_si256();
                    for (int k = 0; k < 4; k++) {
                        int64_t eight;
                        std::memcpy(&eight, token.qs + 8 * k, sizeof eight);
                        const __m256i products =
                            _mm256_maddubs_epi16(unpacked[half][k], _mm256_set1_epi64x(eight));
                        pairs = k ? _mm256_add_epi16(pairs, products) : products;
                    }
                    halves[half] = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
                }
                const __m256i whole = _mm256_sub_epi32(_mm256_hadd_epi32(halves[0], halves[1]),
                                                       _mm256_set1_epi32(corrections[t * blocks + b]));
                const __m256 scale = _mm256_mul_ps(row_scales, _mm256_set1_ps(to_float(token.d)));
                sum[t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(whole), scale, sum[t]);
            }
        }
        for (int t = 0; t < TOKENS; t++) {
            _mm256_storeu_ps(out + t * stride + row, _mm256_permutevar8x32_ps(sum[t], order));
        }
    }
}

// ---- Sums in ggml's order ---------------------------------------------------------------------------------------

// The sum of four floats of each row, first with third and second with fourth.
inline __m256 sums_of_four(__m128 rows[ROWS]) {
    __m128 sums[2];
    for (int i = 0; i < 2; i++) {
        __m128 a = rows[4 * i], b = rows[4 * i + 1], c = rows[4 * i + 2], d = rows[4 * i + 3];
        _MM_TRANSPOSE4_PS(a, b, c, d);
        sums[i] = _mm_add_ps(_mm_add_ps(a, c), _mm_add_ps(b, d));
    }
    return _mm256_set_m128(sums[1], sums[0]);
}

// The sum of eight floats of each row, as ggml's `hsum_float_8`.
inline __m256 sums_of_eight(const __m256 rows[ROWS]) {
    __m128 halved[ROWS];
    for (int row = 0; row < ROWS; row++) {
        halved[row] = _mm_add_ps(_mm256_castps256_ps128(rows[row]), _mm256_extractf128_ps(rows[row], 1));
    }
    return sums_of_four(halved);
}

// ---- Blocks of 32 weights, in rows as a file has them ------------------------------------------------------------

template <typename Block> inline __m256i nibbles(const Block & block) {
    const __m128i bytes = load16(block.qs);
    return _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16(bytes, 4), bytes), _mm256_set1_epi8(15));
}

inline __m256i unpack(const block_q4_0 & block) { return nibbles(block); }

inline __m256i unpack(const block_q4_1 & block) { return nibbles(block); }

inline __m256i unpack(const block_q5_0 & block) {
    int32_t fifth;
    std::memcpy(&fifth, block.qh, sizeof fifth);
    // each byte's own bit of the four bytes, moved to where it counts 16
    const __m256i eights = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(fifth), eights);
    const __m256i own = _mm256_set1_epi64x(int64_t(0x8040201008040201));
    const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, own), own);
    return _mm256_or_si256(nibbles(block), _mm256_and_si256(set, _mm256_set1_epi8(16)));
}

inline __m256i unpack(const block_q8_0 & block) {
#if defined(__AVXVNNI__)
    return _mm256_xor_si256(load(block.qs), _mm256_set1_epi8(char(128)));
#else
    return load(block.qs);  // no sum of two such products fits into int16: see `multiplied`
#endif
}

template <typename Type> inline __m256i multiplied(__m256i weights, __m256i values, __m256i correction) {
#if !defined(__AVXVNNI__)
    if constexpr (std::is_same_v<Type, Q8_0>) {
        return dot(_mm256_abs_epi8(weights), _mm256_sign_epi8(values, weights));
    }
#endif
    return _mm256_sub_epi32(dot(weights, values), correction);
}

template <typename Type, int TOKENS>
inline void blocks_tile(int64_t blocks, const typename Type::Block * const rows[ROWS],
                        const typename Type::Activations * tokens, int64_t token_stride, float * out, int64_t stride) {
    __m256 sums[TOKENS][ROWS];
    float minima[TOKENS][ROWS] = {};
    for (int row = 0; row < ROWS; row++) {
        __m256 sum[TOKENS];
        for (int t = 0; t < TOKENS; t++) {
            sum[t] = _mm256_setzero_ps();
        }
        for (int64_t b = 0; b < blocks; b++) {
            const auto & block = rows[row][b];
            fetch(&block, sizeof block);
            const __m256i weights = unpack(block);
            const float scale = to_float(block.d);
            for (int t = 0; t < TOKENS; t++) {
                const auto & token = tokens[t * token_stride + b];
                const __m256i values = load(token.qs);
                const __m256i correction =
                    Type::OFFSET ? dot(_mm256_set1_epi8(char(Type::OFFSET)), values) : _mm256_setzero_si256();
                const __m256 product = _mm256_cvtepi32_ps(multiplied<Type>(weights, values, correction));
                sum[t] = _mm256_fmadd_ps(_mm256_set1_ps(scale * to_float(token.d)), product, sum[t]);
                if constexpr (Type::MINIMA) {
                    minima[t][row] = std::fma(to_float(block.m), to_float(token.s), minima[t][row]);
                }
            }
        }
        for (int t = 0; t < TOKENS; t++) {
            sums[t][row] = sum[t];
        }
    }
    for (int t = 0; t < TOKENS; t++) {
        const __m256 whole = sums_of_eight(sums[t]);
        _mm256_storeu_ps(out + t * stride, Type::MINIMA ? _mm256_add_ps(whole, _mm256_loadu_ps(minima[t])) : whole);
    }
}

// ---- K-quants: superblocks of 256 weights with small integers for scales -----------------------------------------

struct Unpacked {
    __m256i weights[8];  // 256 unsigned bytes
    __m256i scales[8];   // int16, one for two weights
};

inline void unpack(const block_q4_K & block, Unpacked & to) {
    const __m256i scales = _mm256_broadcastsi128_si256(_mm_cvtepu8_epi16(scales_of(block)));
    const __m256i low = _mm256_set1_epi8(15);
    for (int i = 0; i < 4; i++) {
        const __m256i raw = load(block.qs + 32 * i);
        to.weights[2 * i] = _mm256_and_si256(raw, low);
        to.weights[2 * i + 1] = _mm256_and_si256(_mm256_srli_epi16(raw, 4), low);
    }
    for (int i = 0; i < 8; i++) {
        to.scales[i] = _mm256_shuffle_epi8(scales, _mm256_set1_epi16((2 * i + 1) << 8 | 2 * i));
    }
}

inline void unpack(const block_q6_K & block, Unpacked & to) {
    const __m256i low = _mm256_set1_epi8(15), high = _mm256_set1_epi8(48);
    for (int i = 0; i < 2; i++) {
        const __m256i bits = load(block.qh + 32 * i);
        const __m256i fours[2] = {load(block.ql + 64 * i), load(block.ql + 64 * i + 32)};
        const __m256i twos[4] = {_mm256_slli_epi16(bits, 4), _mm256_slli_epi16(bits, 2), bits,
                                 _mm256_srli_epi16(bits, 2)};
        for (int k = 0; k < 4; k++) {
            const __m256i four = k < 2 ? fours[k] : _mm256_srli_epi16(fours[k - 2], 4);
            to.weights[4 * i + k] =
                _mm256_or_si256(_mm256_and_si256(four, low), _mm256_and_si256(twos[k], high));
        }
    }
    const __m256i scales = scales_of(block);
    for (int i = 0; i < 8; i++) {
        const __m256i half = _mm256_permute2x128_si256(scales, scales, i < 4 ? 0x00 : 0x11);
        const int first = 4 * (i % 4);
        const __m256i which = _mm256_set_m128i(_mm_set1_epi16((first + 3) << 8 | (first + 2)),
                                               _mm_set1_epi16((first + 1) << 8 | first));
        to.scales[i] = _mm256_shuffle_epi8(half, which);
    }
}

template <typename Type, int TOKENS>
inline void superblocks_tile(int64_t blocks, const typename Type::Block * const rows[ROWS], const block_q8_K * tokens,
                             int64_t token_stride, float * out, int64_t stride) {
    __m256 sums[TOKENS][ROWS];
    __m128 minima[TOKENS][ROWS];
    for (int row = 0; row < ROWS; row++) {
        for (int t = 0; t < TOKENS; t++) {
            sums[t][row] = _mm256_setzero_ps();
            minima[t][row] = _mm_setzero_ps();
        }
        for (int64_t b = 0; b < blocks; b++) {
            const auto & block = rows[row][b];
            fetch(&block, sizeof block);
            Unpacked unpacked;
            unpack(block, unpacked);
            __m128i least = _mm_setzero_si128();
            if constexpr (Type::MINIMA) {
                least = _mm_cvtepu8_epi16(_mm_unpackhi_epi64(scales_of(block), least));
            }
            for (int t = 0; t < TOKENS; t++) {
                const block_q8_K & token = tokens[t * token_stride + b];
                __m256i whole = start(block, token);
                for (int i = 0; i < 8; i++) {
                    const __m256i pairs = _mm256_maddubs_epi16(unpacked.weights[i], load(token.qs + 32 * i));
                    whole = _mm256_add_epi32(whole, _mm256_madd_epi16(unpacked.scales[i], pairs));
                }
                const __m256 scale = _mm256_set1_ps(token.d * to_float(block.d));
                sums[t][row] = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(whole), sums[t][row]);
                if constexpr (Type::MINIMA) {
                    const __m128i by_32 = _mm_hadd_epi16(load16(token.bsums), load16(token.bsums + 8));
                    const __m128 minimum = _mm_set1_ps(-token.d * to_float(block.dmin));
                    const __m128 product = _mm_cvtepi32_ps(_mm_madd_epi16(least, by_32));
                    minima[t][row] = _mm_fmadd_ps(minimum, product, minima[t][row]);
                }
            }
        }
    }
    for (int t = 0; t < TOKENS; t++) {
        const __m256 whole = sums_of_eight(sums[t]);
        _mm256_storeu_ps(out + t * stride,
                         Type::MINIMA ? _mm256_add_ps(whole, sums_of_four(minima[t])) : whole);
    }
}

}  // namespace
