// What the tiles of all instruction sets have in common.

#pragma once

#define GGML_COMMON_DECL_C
#include "ggml-common.h"

#include "repack.h"
#include "switch.h"

#include <immintrin.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <type_traits>

namespace {

constexpr int AT_ONCE = 4;            // tokens that a weight is unpacked for
constexpr int ROWS = 8;               // of weights that a tile multiplies
constexpr int64_t MOST_BLOCKS = 512;  // of 32 weights: a row of 16,384
constexpr int AHEAD = 4096;           // bytes: what memory delivers in the time of some blocks

inline float to_float(ggml_half half) {
    return _cvtsh_ss(half);
}

inline __m256i load(const void * bytes) {
    return _mm256_loadu_si256(static_cast<const __m256i *>(bytes));
}

inline __m128i load16(const void * bytes) {
    return _mm_loadu_si128(static_cast<const __m128i *>(bytes));
}

inline void fetch(const void * address, int bytes) {
    for (int line = 0; line < bytes; line += 64) {
        _mm_prefetch(static_cast<const char *>(address) + AHEAD + line, _MM_HINT_T0);
    }
}

// What both instruction sets know of a type. Blocks of 32 weights are unpacked into unsigned bytes, which are OFFSET
// more than the weights.
struct Q4_0 {
    using Block = block_q4_0;
    using Activations = block_q8_0;
    static constexpr int OFFSET = 8;
    static constexpr bool MINIMA = false;
};

struct Q4_1 {
    using Block = block_q4_1;
    using Activations = block_q8_1;
    static constexpr int OFFSET = 0;
    static constexpr bool MINIMA = true;
};

struct Q5_0 {
    using Block = block_q5_0;
    using Activations = block_q8_0;
    static constexpr int OFFSET = 16;
    static constexpr bool MINIMA = false;
};

struct Q8_0 {
    using Block = block_q8_0;
    using Activations = block_q8_0;
    static constexpr int OFFSET = 128;
    static constexpr bool MINIMA = false;
};

struct Q4_K {
    using Block = block_q4_K;
    static constexpr bool MINIMA = true;
};

struct Q6_K {
    using Block = block_q6_K;
    static constexpr bool MINIMA = false;
};

// Of each of `count` blocks.
inline void eight_times_sums(const block_q8_0 * blocks, int count, int32_t * sums) {
    const __m256i eight = _mm256_set1_epi8(8), one = _mm256_set1_epi16(1);
    for (int b = 0; b < count; b++) {
        const __m256i four = _mm256_madd_epi16(_mm256_maddubs_epi16(eight, load(blocks[b].qs)), one);
        __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(four), _mm256_extracti128_si256(four, 1));
        sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4E));
        sums[b] = _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xB1)));
    }
}

// The eight scales, and behind them the eight minima, of a superblock (ggml's `get_scale_min_k4`), unsigned.
inline __m128i scales_of(const block_q4_K & block) {
    uint32_t packed[3];
    std::memcpy(packed, block.scales, sizeof packed);
    const uint32_t high = 0x03030303, low = 0x0f0f0f0f, six = 0x3f3f3f3f;
    return _mm_setr_epi32(packed[0] & six, (packed[2] & low) | ((packed[0] >> 6) & high) << 4, packed[1] & six,
                          ((packed[2] >> 4) & low) | ((packed[1] >> 6) & high) << 4);
}

// The sixteen scales, as int16.
inline __m256i scales_of(const block_q6_K & block) {
    return _mm256_cvtepi8_epi16(load16(block.scales));
}

// What the sum of a superblock's products begins with: unpacked bytes may be more than the weights.
inline __m256i start(const block_q4_K &, const block_q8_K &) {
    return _mm256_setzero_si256();
}

inline __m256i start(const block_q6_K & block, const block_q8_K & token) {
    const __m256i by_32 = _mm256_slli_epi32(_mm256_madd_epi16(load(token.bsums), scales_of(block)), 5);
    return _mm256_sub_epi32(_mm256_setzero_si256(), by_32);
}

}  // namespace
