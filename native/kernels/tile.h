// A *tile*: LANES rows of weights times up to a few tokens, for which each weight is unpacked once.
//
// All numbers of tokens, prompts too, are made of tiles, and each token's sums are made in the same order in all of
// them: products of integers are added exactly, by the blocks' integer scales; then block after block goes into one
// float sum, by one fused multiplication. So a token's bits do not depend on the tokens beside it.

#pragma once

#include "formats.h"

#include <cmath>
#include <type_traits>
#include <utility>

namespace {

// ---- Activations, rounded to eight bits ----------------------------------------------------------------------------

// As many activations as a block has weights, with one scale.
template <int BLOCK> struct Activations;

template <> struct Activations<32> {
    float scale;
    float scaled_sum;
    int32_t sum;
    int8_t values[32];
};

template <> struct Activations<256> {
    float scale;
    int16_t sums_of_32[8], sums_of_16[16];
    int8_t values[256];
};

// Floats stay as they are.
template <> struct Activations<F32::BLOCK> {
    float values[F32::BLOCK];
};

// Rounds COUNT values to signed bytes, and returns what one of their steps is. COUNT is a multiple of 8.
template <int COUNT> float round_values(const float * values, int8_t * to) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256 largest = _mm256_setzero_ps();
    for (int i = 0; i < COUNT; i += 8) {
        largest = _mm256_max_ps(largest, _mm256_andnot_ps(sign, _mm256_loadu_ps(values + i)));
    }
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(largest), _mm256_extractf128_ps(largest, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    const float most = _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
    const __m256 per_step = _mm256_set1_ps(most > 0 ? 127 / most : 0);
    for (int i = 0; i < COUNT; i += 8) {
        const __m256i whole = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(values + i), per_step));
        const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
        _mm_storel_epi64(reinterpret_cast<__m128i *>(to + i), _mm_packs_epi16(words, words));
    }
    return most / 127;
}

inline int sum_of_16(const int8_t * values) {
    const __m128i biased = _mm_xor_si128(_mm_loadu_si128(reinterpret_cast<const __m128i *>(values)),
                                         _mm_set1_epi8(char(128)));
    const __m128i sums = _mm_sad_epu8(biased, _mm_setzero_si128());
    return _mm_cvtsi128_si32(sums) + _mm_extract_epi16(sums, 4) - 16 * 128;
}

inline void round_block(const float * values, Activations<32> & to) {
    to.scale = round_values<32>(values, to.values);
    to.sum = sum_of_16(to.values) + sum_of_16(to.values + 16);
    to.scaled_sum = to.scale * float(to.sum);
}

inline void round_block(const float * values, Activations<256> & to) {
    to.scale = round_values<256>(values, to.values);
    for (int i = 0; i < 16; i++) {
        to.sums_of_16[i] = int16_t(sum_of_16(to.values + 16 * i));
    }
    for (int i = 0; i < 8; i++) {
        to.sums_of_32[i] = int16_t(to.sums_of_16[2 * i] + to.sums_of_16[2 * i + 1]);
    }
}

inline void round_block(const float * values, Activations<F32::BLOCK> & to) {
    std::memcpy(to.values, values, sizeof to.values);
}

// ---- Whole-number products ------------------------------------------------------------------------------------------

// Keeps the compiler from adding up as a tree, whose branches do not fit into the registers.
inline void in_order(Ints & sums) {
    asm("" : "+v"(sums));
}

// Sums, lane by lane, of the products of four weights with four activations each.
template <int LARGEST> struct Dots {
#if defined(PASS_EDGE_VNNI)
    static constexpr int AT_ONCE = 64;  // steps before they must be added up
    Ints sums = zero();
    void step(Ints weights, Ints values) {
        sums = add_products(sums, weights, values);
        in_order(sums);
    }
    Ints added() const { return sums; }
    Ints scaled(Ints scales) const { return multiply(sums, scales); }
#else
    // by twos in int16, until they might not fit
    static constexpr int AT_ONCE = LARGEST == SIGNED ? 1 : 32767 / (2 * 127 * LARGEST);
    Ints sums = zero();
    void step(Ints weights, Ints values) {
        if constexpr (LARGEST == SIGNED) {
            sums = byte_products(absolute(weights), with_sign_of(values, weights));
        } else {
            sums = add16(sums, byte_products(weights, values));
            in_order(sums);
        }
    }
    Ints added() const { return add_pairs(sums, broadcast(int32_t(0x00010001))); }
    Ints scaled(Ints scales) const { return add_pairs(sums, scales); }
#endif
};

// Bytes `first` and `second` of each lane as two int16.
template <bool SIGNED_BYTES> Ints two_bytes(Ints bytes, int first, int second) {
    constexpr uint32_t NOTHING = 0x80;
    const uint32_t low = uint32_t(first), high = uint32_t(second);
    const int32_t lane = int32_t(SIGNED_BYTES ? high << 24 | NOTHING << 16 | low << 8 | NOTHING
                                              : NOTHING << 24 | high << 16 | NOTHING << 8 | low);
    const int32_t next = SIGNED_BYTES ? 0x04000400 : 0x00040004;
    const Ints spread = look_up(bytes, broadcast(_mm_setr_epi32(lane, lane + next, lane + 2 * next, lane + 3 * next)));
    return SIGNED_BYTES ? shift_right_signed16(spread, 8) : spread;
}

// Parts of a tile share its registers, or all sums would go through memory at each block.
#define ALWAYS_INLINE [[gnu::always_inline]] inline

// ---- The tile ------------------------------------------------------------------------------------------------------

#ifdef PASS_EDGE_AVX512
constexpr int AT_ONCE = 8;  // tokens in a tile: as many as the registers have room for
#else
constexpr int AT_ONCE = 4;
#endif

// Memory that is asked for while a tile is computed: `size` bytes with each block.
struct Fetch {
    const char * from = nullptr;
    size_t size = 0;
};

template <typename Format> Ints scale_bytes(const Packed<Format> & block, int word) {
    const Ints bytes = load(block.words[Format::SCALES + word]);
    return Format::MINIMA == Minima::OF_GROUPS ? bits_and(bytes, every_byte(63)) : bytes;
}

// The scale of a group, as `Dots::scaled` wants it.
template <typename Format> Ints group_scale(const Packed<Format> & block, int group) {
    constexpr bool SIGNED_BYTES = Format::MINIMA != Minima::OF_GROUPS;
    const Ints bytes = scale_bytes(block, group / 4);
    const int byte = group % 4;
#if defined(PASS_EDGE_VNNI)
    if constexpr (SIGNED_BYTES) {
        return shift_right_signed(shift_left(bytes, 24 - 8 * byte), 24);
    }
    return bits_and(shift_right(bytes, 8 * byte), broadcast(int32_t(0xFF)));
#else
    return two_bytes<SIGNED_BYTES>(bytes, byte, byte);
#endif
}

// Sums of weights whose group has weight `first`, times its scale.
template <typename Format>
Ints scaled(const Dots<Format::LARGEST> & sums, const Packed<Format> & block, int first) {
    if constexpr (Format::GROUP == 0) {
        return sums.added();
    } else {
        return sums.scaled(group_scale(block, first / Format::GROUP));
    }
}

// What the sum of a block begins with, because unpacked weights are OFFSET more than they should be.
template <typename Format, int TOKENS>
ALWAYS_INLINE void begin(const Packed<Format> & block, const Activations<Format::BLOCK> * const * tokens, int64_t b,
                         Ints whole[TOKENS]) {
    for (int t = 0; t < TOKENS; t++) {
        whole[t] = zero();
    }
    if constexpr (Format::OFFSET != 0 && Format::GROUP == 0) {
        for (int t = 0; t < TOKENS; t++) {
            whole[t] = broadcast(int32_t(-Format::OFFSET * tokens[t][b].sum));
        }
    } else if constexpr (Format::OFFSET != 0) {
#pragma GCC unroll 8
        for (int group = 0; group < Format::BLOCK / Format::GROUP; group += 2) {
            const Ints scales = two_bytes<true>(scale_bytes(block, group / 4), group % 4, group % 4 + 1);
            for (int t = 0; t < TOKENS; t++) {
                const auto & token = tokens[t][b];
                const int16_t * sums = Format::GROUP == 16 ? token.sums_of_16 : token.sums_of_32;
                whole[t] = add(whole[t], add_pairs(scales, four_bytes(sums + group)));
            }
        }
        for (int t = 0; t < TOKENS; t++) {
            whole[t] = multiply(whole[t], broadcast(int32_t(-Format::OFFSET)));
        }
    }
}

template <typename Format, int TOKENS>
ALWAYS_INLINE void add_minima(const Packed<Format> & block,
                              const Activations<Format::BLOCK> * const * tokens, int64_t b,
                              Floats sums[TOKENS]) {
    if constexpr (Format::MINIMA == Minima::OF_BLOCKS) {
        const Floats minima = Format::scales(block.halves[1]);
        for (int t = 0; t < TOKENS; t++) {
            sums[t] = fused(minima, broadcast(tokens[t][b].scaled_sum), sums[t]);
        }
    } else if constexpr (Format::MINIMA == Minima::OF_GROUPS) {
        Ints minima[2], pairs[4];
        Format::group_minima(block, minima);
        for (int i = 0; i < 4; i++) {
            pairs[i] = two_bytes<false>(minima[i / 2], i % 2 * 2, i % 2 * 2 + 1);
        }
        const Floats scale = Format::scales(block.halves[1]);
        for (int t = 0; t < TOKENS; t++) {
            const auto & token = tokens[t][b];
            Ints whole = add_pairs(pairs[0], four_bytes(token.sums_of_32));
            for (int i = 1; i < 4; i++) {
                whole = add(whole, add_pairs(pairs[i], four_bytes(token.sums_of_32 + 2 * i)));
            }
            sums[t] = negated(multiply(scale, broadcast(token.scale)), to_floats(whole), sums[t]);
        }
    }
}

// All products of a block, as many of them at a time as fit before they must be scaled.
template <typename Format, int TOKENS>
ALWAYS_INLINE void add_products_of(const Packed<Format> & block,
                                   const Activations<Format::BLOCK> * const * tokens, int64_t b,
                                   Ints whole[TOKENS]) {
    using Sums = Dots<Format::LARGEST>;
    Sums some[TOKENS];
#pragma GCC unroll 8
    for (int pair = 0; pair < Format::PAIRS; pair++) {
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            const int first = half ? Format::high_at(pair) : Format::low_at(pair);
#pragma GCC unroll 8
            for (int chunk = 0; chunk < Format::CHUNKS; chunk++) {
                const Weights both = Format::unpack(block, pair, chunk);
                for (int t = 0; t < TOKENS; t++) {
                    some[t].step(half ? both.high : both.low, four_bytes(tokens[t][b].values + first + 4 * chunk));
                }
                const int step = half * Format::CHUNKS + chunk + 1;
                const bool full = step % Sums::AT_ONCE == 0 || step == 2 * Format::CHUNKS;
                if (full || (Format::GROUP != 0 && chunk + 1 == Format::CHUNKS)) {
                    for (int t = 0; t < TOKENS; t++) {
                        whole[t] = add(whole[t], scaled<Format>(some[t], block, first));
                        in_order(whole[t]);
                        some[t] = Sums();
                    }
                }
            }
        }
    }
}

// The same where only two steps fit. Token after token takes them: the registers then hold these few weights, low and
// high, instead of a sum for each token.
template <typename Format, int TOKENS>
ALWAYS_INLINE void add_products_by_twos(const Packed<Format> & block,
                                        const Activations<Format::BLOCK> * const * tokens, int64_t b,
                                        Ints whole[TOKENS]) {
    using Sums = Dots<Format::LARGEST>;
    constexpr int STEPS = 2;
#pragma GCC unroll 8
    for (int pair = 0; pair < Format::PAIRS; pair++) {
#pragma GCC unroll 8
        for (int chunk = 0; chunk < Format::CHUNKS; chunk += STEPS) {
            const Weights weights[STEPS] = {Format::unpack(block, pair, chunk), Format::unpack(block, pair, chunk + 1)};
            for (int t = 0; t < TOKENS; t++) {
                for (int half = 0; half < 2; half++) {
                    const int first = half ? Format::high_at(pair) : Format::low_at(pair);
                    Sums some;
                    for (int i = 0; i < STEPS; i++) {
                        const int8_t * values = tokens[t][b].values + first + 4 * (chunk + i);
                        some.step(half ? weights[i].high : weights[i].low, four_bytes(values));
                    }
                    whole[t] = add(whole[t], scaled<Format>(some, block, first));
                    in_order(whole[t]);
                }
            }
        }
    }
}

template <typename Format, int TOKENS>
ALWAYS_INLINE void add_block(const Packed<Format> & block, const Activations<Format::BLOCK> * const * tokens, int64_t b,
                             Floats sums[TOKENS]) {
    add_minima<Format, TOKENS>(block, tokens, b, sums);
    Ints whole[TOKENS];
    begin<Format, TOKENS>(block, tokens, b, whole);
    if constexpr (Dots<Format::LARGEST>::AT_ONCE == 2 && TOKENS > 1) {
        add_products_by_twos<Format, TOKENS>(block, tokens, b, whole);
    } else {
        add_products_of<Format, TOKENS>(block, tokens, b, whole);
    }
    const Floats scale = Format::scales(block.halves[0]);
    for (int t = 0; t < TOKENS; t++) {
        sums[t] = fused(multiply(scale, broadcast(tokens[t][b].scale)), to_floats(whole[t]), sums[t]);
    }
}

template <int TOKENS>
ALWAYS_INLINE void add_floats(const Packed<F32> & block, const Activations<F32::BLOCK> * const * tokens, int64_t b,
                              Floats sums[TOKENS]) {
    for (int i = 0; i < F32::BLOCK; i++) {
        const Floats weights = load_floats(block.values[i]);
        for (int t = 0; t < TOKENS; t++) {
            sums[t] = fused(weights, broadcast(tokens[t][b].values[i]), sums[t]);
        }
    }
}

// out[t][0 … LANES - 1] = LANES rows of `blocks` blocks each, times token t.
template <typename Format, int TOKENS>
void tile(int64_t blocks, const Packed<Format> * weights, const Activations<Format::BLOCK> * const * tokens,
          float * const * out, Fetch fetch) {
    Floats sums[TOKENS];
    for (int t = 0; t < TOKENS; t++) {
        sums[t] = broadcast(0.0f);
    }
    for (int64_t b = 0; b < blocks; b++) {
        const Packed<Format> & block = weights[b];
        for (size_t line = 0; line < fetch.size; line += 64) {
            _mm_prefetch(fetch.from + b * fetch.size + line, _MM_HINT_T1);
        }
        if constexpr (std::is_same_v<Format, F32>) {
            add_floats<TOKENS>(block, tokens, b, sums);
        } else {
            add_block<Format, TOKENS>(block, tokens, b, sums);
        }
    }
    for (int t = 0; t < TOKENS; t++) {
        store(out[t], sums[t]);
    }
}

template <typename Format>
using Tile = void (*)(int64_t, const Packed<Format> *, const Activations<Format::BLOCK> * const *, float * const *,
                      Fetch);

template <typename Format, int... BEFORE>
Tile<Format> tile_of(int64_t tokens, std::integer_sequence<int, BEFORE...>) {
    static constexpr Tile<Format> TILES[] = {tile<Format, BEFORE + 1>...};
    return TILES[tokens - 1];
}

// The tile for 1 … AT_ONCE tokens.
template <typename Format> Tile<Format> tile_of(int64_t tokens) {
    return tile_of<Format>(tokens, std::make_integer_sequence<int, AT_ONCE>());
}

}  // namespace
