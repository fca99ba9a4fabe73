// How weights lie in memory for tile.h, format by format.
//
// LANES rows are interleaved, so that a lane of a vector is a row and no sum crosses lanes. A block of a row (32 or
// 256 weights, as in ggml) becomes a list of 32-bit words, and word i of all rows lies side by side:
//
//     words[0] of rows 0 1 2 …   words[1] of rows 0 1 2 …   …   d of rows 0 1 2 …   (m of rows 0 1 2 …)
//
// A word of quants holds four bytes with two weights each, whose low halves are four weights that follow each other,
// and the high halves four others. They are multiplied by four activations, the same for all rows.
//
// A format says
//   Block, BLOCK          ggml's block, and how many weights it has
//   WORDS, words()        the words of a block
//   HALVES, halves()      16-bit numbers of a block: its scale, and the scale of its minima
//   PAIRS, CHUNKS         a block has PAIRS times CHUNKS words of quants
//   low_at, high_at       which weight of the block the low and the high halves of a pair's first word begin with
//   unpack()              the two vectors of weights in word `chunk` of `pair`, as unsigned bytes of at most LARGEST,
//                         which are OFFSET more than the weights
//   GROUP                 weights that share a small integer as their scale; 0: only the block has a scale
//   MINIMA                what is taken off: nothing, a number for a block, or one for each group

#pragma once

#define GGML_COMMON_DECL_C
#include "ggml-common.h"

#include "simd.h"

namespace {

enum class Minima { NONE, OF_BLOCKS, OF_GROUPS };

template <typename Format> struct Packed {
    uint32_t words[Format::WORDS][LANES];
    uint16_t halves[Format::HALVES][LANES];
};

// Interleaves `blocks` blocks of each of `rows` rows, which follow each other. Rows beyond the last are zeros.
template <typename Format>
void pack(const typename Format::Block * from, int64_t blocks, int rows, Packed<Format> * to) {
    uint32_t words[LANES][Format::WORDS] = {};
    uint16_t halves[LANES][Format::HALVES] = {};
    for (int64_t b = 0; b < blocks; b++) {
        // as much of the next rows: the processor does not foresee eight ways through memory
        const auto * next = reinterpret_cast<const char *>(from + (blocks + b) * rows);
        for (size_t line = 0; line < rows * sizeof *from; line += 64) {
            _mm_prefetch(next + line, _MM_HINT_T0);
        }
        for (int row = 0; row < rows; row++) {
            Format::words(from[row * blocks + b], words[row]);
            Format::halves(from[row * blocks + b], halves[row]);
        }
        for (int i = 0; i < Format::WORDS; i++) {
            for (int lane = 0; lane < LANES; lane++) {
                to[b].words[i][lane] = words[lane][i];
            }
        }
        for (int i = 0; i < Format::HALVES; i++) {
            for (int lane = 0; lane < LANES; lane++) {
                to[b].halves[i][lane] = halves[lane][i];
            }
        }
    }
}

struct Weights {
    Ints low, high;
};

inline Weights nibbles(const uint32_t * words) {
    const Ints raw = load(words), low = every_byte(15);
    return {bits_and(raw, low), bits_and(shift_right(raw, 4), low)};
}

// Bytes whose bits are `bits` moved by `by` to the left (or right, if it is negative), and of these those in `mask`.
inline Ints moved(Ints bits, int by, int mask) {
    return bits_and(by < 0 ? shift_right(bits, -by) : shift_left(bits, by), every_byte(mask));
}

// ---- Blocks of 32: a scale each ---------------------------------------------------------------------------------

struct Block32 {
    static constexpr int BLOCK = 32, PAIRS = 1, CHUNKS = 4, GROUP = 0;
    static constexpr int HALVES = 1;
    static constexpr Minima MINIMA = Minima::NONE;
    static constexpr int low_at(int) { return 0; }
    static constexpr int high_at(int) { return 16; }
    template <typename Block> static void halves(const Block & block, uint16_t * to) { to[0] = block.d; }
    static Floats scales(const uint16_t * halves) { return of_halves(halves); }
};

struct Q4_0 : Block32 {
    using Block = block_q4_0;
    static constexpr int WORDS = 4, LARGEST = 15, OFFSET = 8;
    static void words(const Block & block, uint32_t * to) { std::memcpy(to, block.qs, 16); }
    static Weights unpack(const Packed<Q4_0> & block, int, int chunk) { return nibbles(block.words[chunk]); }
};

struct WithMinimum : Block32 {
    static constexpr int HALVES = 2;
    static constexpr Minima MINIMA = Minima::OF_BLOCKS;
    template <typename Block> static void halves(const Block & block, uint16_t * to) {
        to[0] = block.d;
        to[1] = block.m;
    }
};

struct Q4_1 : WithMinimum {
    using Block = block_q4_1;
    static constexpr int WORDS = 4, LARGEST = 15, OFFSET = 0;
    static void words(const Block & block, uint32_t * to) { std::memcpy(to, block.qs, 16); }
    static Weights unpack(const Packed<Q4_1> & block, int, int chunk) { return nibbles(block.words[chunk]); }
};

// Words of four bits a weight, and one of fifth bits: bit c of its byte k is of weight 4c + k.
template <typename Block> void words_of_five_bits(const Block & block, uint32_t * to) {
    std::memcpy(to, block.qs, 16);
    uint32_t fifth, spread = 0;
    std::memcpy(&fifth, block.qh, sizeof fifth);
    for (int c = 0; c < 8; c++) {
        spread |= ((fifth >> 4 * c & 15) * 0x00204081 & 0x01010101) << c;  // four bits, each into a byte
    }
    to[4] = spread;
}

template <typename Format> Weights five_bits(const Packed<Format> & block, int chunk) {
    const Weights four = nibbles(block.words[chunk]);
    const Ints fifth = load(block.words[4]);
    return {bits_or(four.low, moved(fifth, 4 - chunk, 16)), bits_or(four.high, moved(fifth, -chunk, 16))};
}

struct Q5_0 : Block32 {
    using Block = block_q5_0;
    static constexpr int WORDS = 5, LARGEST = 31, OFFSET = 16;
    static void words(const Block & block, uint32_t * to) { words_of_five_bits(block, to); }
    static Weights unpack(const Packed<Q5_0> & block, int, int chunk) { return five_bits(block, chunk); }
};

struct Q5_1 : WithMinimum {
    using Block = block_q5_1;
    static constexpr int WORDS = 5, LARGEST = 31, OFFSET = 0;
    static void words(const Block & block, uint32_t * to) { words_of_five_bits(block, to); }
    static Weights unpack(const Packed<Q5_1> & block, int, int chunk) { return five_bits(block, chunk); }
};

// Weights of eight bits are signed. VNNI wants them unsigned; without it their sums of two would not fit into int16, so
// there the activations take their signs (tile.h).
#ifdef PASS_EDGE_VNNI
constexpr int SIGNED_OFFSET = 128;
#else
constexpr int SIGNED_OFFSET = 0;
#endif
constexpr int SIGNED = 255;  // LARGEST of a format with such weights

struct Q8_0 : Block32 {
    using Block = block_q8_0;
    static constexpr int WORDS = 8, LARGEST = SIGNED, OFFSET = SIGNED_OFFSET;
    static void words(const Block & block, uint32_t * to) { std::memcpy(to, block.qs, 32); }
    static Weights unpack(const Packed<Q8_0> & block, int, int chunk) {
        const Ints offset = every_byte(SIGNED_OFFSET);
        return {bits_xor(load(block.words[chunk]), offset), bits_xor(load(block.words[chunk + 4]), offset)};
    }
};

// Nibbles that stand for the numbers of a table, to which `offset` is added.
inline Weights of_table(const uint32_t * words, const int8_t * table, int offset) {
    int8_t shifted[16];
    for (int i = 0; i < 16; i++) {
        shifted[i] = int8_t(table[i] + offset);
    }
    __m128i bytes;
    std::memcpy(&bytes, shifted, sizeof bytes);
    const Ints values = broadcast(bytes);
    const Weights places = nibbles(words);
    return {look_up(values, places.low), look_up(values, places.high)};
}

// ggml's `kvalues_iq4nl` and `kvalues_mxfp4`
constexpr int8_t IQ4_VALUES[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
constexpr int8_t FP4_VALUES[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

struct IQ4_NL : Block32 {
    using Block = block_iq4_nl;
    static constexpr int WORDS = 4, LARGEST = SIGNED, OFFSET = SIGNED_OFFSET;
    static void words(const Block & block, uint32_t * to) { std::memcpy(to, block.qs, 16); }
    static Weights unpack(const Packed<IQ4_NL> & block, int, int chunk) {
        return of_table(block.words[chunk], IQ4_VALUES, OFFSET);
    }
};

// Its scale is a power of two, kept as the upper half of a float (ggml's `ggml_e8m0_to_fp32_half`).
struct MXFP4 : Block32 {
    using Block = block_mxfp4;
    static constexpr int WORDS = 4, LARGEST = 24, OFFSET = 12;
    static void words(const Block & block, uint32_t * to) { std::memcpy(to, block.qs, 16); }
    static void halves(const Block & block, uint16_t * to) {
        to[0] = block.e < 2 ? 0x0020 << block.e : (block.e - 1) << 7;
    }
    static Floats scales(const uint16_t * halves) { return as_floats(shift_left(of_words16(halves), 16)); }
    static Weights unpack(const Packed<MXFP4> & block, int, int chunk) {
        return of_table(block.words[chunk], FP4_VALUES, OFFSET);
    }
};

// ---- Superblocks of 256: groups of 16 or 32 have a small integer as their scale, the whole has a float ----------

struct Superblock {
    static constexpr int BLOCK = 256;
    static constexpr Minima MINIMA = Minima::NONE;
    static constexpr int HALVES = 1;
    template <typename Block> static void halves(const Block & block, uint16_t * to) { to[0] = block.d; }
    static Floats scales(const uint16_t * halves) { return of_halves(halves); }
};

// Q4_K and Q5_K. Eight scales and eight minima of six bits are three words: byte g % 4 of word g / 4 is scale g, with
// the two low bits of minimum g above it; the third has the minima's other four bits, in its low nibbles those of
// 0 to 3, in its high nibbles those of 4 to 7.
struct WithMinima : Superblock {
    static constexpr int PAIRS = 4, CHUNKS = 8, GROUP = 32, OFFSET = 0, HALVES = 2;
    static constexpr Minima MINIMA = Minima::OF_GROUPS;
    static constexpr int low_at(int pair) { return 64 * pair; }
    static constexpr int high_at(int pair) { return 64 * pair + 32; }
    template <typename Block> static void halves(const Block & block, uint16_t * to) {
        to[0] = block.d;
        to[1] = block.dmin;
    }
    static void scale_words(const uint8_t * packed, uint32_t * to) {
        // ggml's `get_scale_min_k4`, for four groups at a time, a byte each
        constexpr uint32_t TWO = 0x03030303, FOUR = 0x0F0F0F0F, SIX = 0x3F3F3F3F;
        uint32_t from[3];
        std::memcpy(from, packed, sizeof from);
        const uint32_t scales[2] = {from[0] & SIX, (from[2] & FOUR) | (from[0] >> 6 & TWO) << 4};
        const uint32_t minima[2] = {from[1] & SIX, (from[2] >> 4 & FOUR) | (from[1] >> 6 & TWO) << 4};
        to[0] = scales[0] | (minima[0] & TWO) << 6;
        to[1] = scales[1] | (minima[1] & TWO) << 6;
        to[2] = (minima[0] >> 2 & FOUR) | (minima[1] >> 2 & FOUR) << 4;
    }
    // as bytes: of groups 0 to 3, and of 4 to 7
    template <typename Format> static void group_minima(const Packed<Format> & block, Ints to[2]) {
        const Ints high = load(block.words[Format::SCALES + 2]);
        to[0] = bits_or(moved(load(block.words[Format::SCALES]), -6, 3), moved(high, 2, 60));
        to[1] = bits_or(moved(load(block.words[Format::SCALES + 1]), -6, 3), moved(high, -2, 60));
    }
};

struct Q4_K : WithMinima {
    using Block = block_q4_K;
    static constexpr int SCALES = 32, WORDS = 35, LARGEST = 15;
    static void words(const Block & block, uint32_t * to) {
        std::memcpy(to, block.qs, 128);
        scale_words(block.scales, to + SCALES);
    }
    static Weights unpack(const Packed<Q4_K> & block, int pair, int chunk) {
        return nibbles(block.words[CHUNKS * pair + chunk]);
    }
};

struct Q5_K : WithMinima {
    using Block = block_q5_K;
    static constexpr int SCALES = 40, WORDS = 43, LARGEST = 31;
    static void words(const Block & block, uint32_t * to) {
        std::memcpy(to, block.qs, 128);
        std::memcpy(to + 32, block.qh, 32);
        scale_words(block.scales, to + SCALES);
    }
    static Weights unpack(const Packed<Q5_K> & block, int pair, int chunk) {
        const Weights four = nibbles(block.words[CHUNKS * pair + chunk]);
        const Ints fifth = load(block.words[32 + chunk]);  // bit g of a byte is of group g
        return {bits_or(four.low, moved(fifth, 4 - 2 * pair, 16)),
                bits_or(four.high, moved(fifth, 3 - 2 * pair, 16))};
    }
};

// The scales of the groups are signed bytes.
struct Q6_K : Superblock {
    using Block = block_q6_K;
    static constexpr int PAIRS = 8, CHUNKS = 4, GROUP = 16, OFFSET = 32, LARGEST = 63;
    static constexpr int SCALES = 48, WORDS = 52;
    static constexpr int low_at(int pair) { return pair / 4 * 128 + pair % 4 * 16; }
    static constexpr int high_at(int pair) { return low_at(pair) + 64; }
    static void words(const Block & block, uint32_t * to) {
        std::memcpy(to, block.ql, 128);
        std::memcpy(to + 32, block.qh, 64);
        std::memcpy(to + SCALES, block.scales, 16);
    }
    static Weights unpack(const Packed<Q6_K> & block, int pair, int chunk) {
        const Weights four = nibbles(block.words[CHUNKS * pair + chunk]);
        // two bits each for the halves of this pair and of the next but one
        const Ints two = load(block.words[32 + pair / 4 * 8 + pair % 2 * 4 + chunk]);
        const int left = pair % 4 < 2 ? 4 : 2;
        return {bits_or(four.low, moved(two, left, 48)), bits_or(four.high, moved(two, left - 4, 48))};
    }
};

// Eight scales of six bits, less 32, are kept as bytes: two bytes a superblock more than ggml's.
struct IQ4_XS : Superblock {
    using Block = block_iq4_xs;
    static constexpr int PAIRS = 8, CHUNKS = 4, GROUP = 32, OFFSET = SIGNED_OFFSET, LARGEST = SIGNED;
    static constexpr int SCALES = 32, WORDS = 34;
    static constexpr int low_at(int pair) { return 32 * pair; }
    static constexpr int high_at(int pair) { return 32 * pair + 16; }
    static void words(const Block & block, uint32_t * to) {
        int8_t scales[8];
        for (int g = 0; g < 8; g++) {
            const int low = block.scales_l[g / 2] >> (4 * (g % 2)) & 15, high = block.scales_h >> (2 * g) & 3;
            scales[g] = int8_t((low | high << 4) - 32);
        }
        std::memcpy(to, block.qs, 128);
        std::memcpy(to + SCALES, scales, sizeof scales);
    }
    static Weights unpack(const Packed<IQ4_XS> & block, int pair, int chunk) {
        return of_table(block.words[CHUNKS * pair + chunk], IQ4_VALUES, OFFSET);
    }
};

// ---- Floats: small matrices that files do not quantize ----------------------------------------------------------

struct F32 {
    static constexpr int BLOCK = 16;
    struct Block {
        float values[BLOCK];
    };
};

template <> struct Packed<F32> {
    float values[F32::BLOCK][LANES];
};

template <> void pack(const F32::Block * from, int64_t blocks, int rows, Packed<F32> * to) {
    for (int64_t b = 0; b < blocks; b++) {
        for (int i = 0; i < F32::BLOCK; i++) {
            for (int row = 0; row < LANES; row++) {
                to[b].values[i][row] = row < rows ? from[row * blocks + b].values[i] : 0;
            }
        }
    }
}

}  // namespace
