// The vectors that the kernels compute with, for this processor: AVX-512 with VNNI, AVX-VNNI or AVX2.
//
// A vector has LANES lanes of 32 bits. In a matrix product a lane is a row of weights.

#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#if defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__) && defined(__AVX512VNNI__)
#define PASS_EDGE_AVX512 1
#elif !(defined(__AVX2__) && defined(__FMA__) && defined(__F16C__))
#error "these kernels need AVX2, FMA and F16C"
#endif

#if defined(PASS_EDGE_AVX512) || defined(__AVXVNNI__)
#define PASS_EDGE_VNNI 1
#endif

namespace {

#ifdef PASS_EDGE_AVX512

constexpr char INSTRUCTIONS[] = "AVX-512 VNNI";
constexpr int LANES = 16;
using Ints = __m512i;
using Floats = __m512;

inline Ints load(const void * bytes) { return _mm512_loadu_si512(bytes); }
inline Ints broadcast(int32_t value) { return _mm512_set1_epi32(value); }
inline Ints broadcast(__m128i bytes) { return _mm512_broadcast_i32x4(bytes); }
inline Ints bits_and(Ints a, Ints b) { return _mm512_and_si512(a, b); }
inline Ints bits_or(Ints a, Ints b) { return _mm512_or_si512(a, b); }
inline Ints bits_xor(Ints a, Ints b) { return _mm512_xor_si512(a, b); }
inline Ints add(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
inline Ints multiply(Ints a, Ints b) { return _mm512_mullo_epi32(a, b); }
inline Ints add_pairs(Ints a, Ints b) { return _mm512_madd_epi16(a, b); }  // int16 products, added by twos
inline Ints shift_left(Ints a, int by) { return _mm512_slli_epi32(a, by); }
inline Ints shift_right(Ints a, int by) { return _mm512_srli_epi32(a, by); }
inline Ints shift_right_signed(Ints a, int by) { return _mm512_srai_epi32(a, by); }
inline Ints shift_right_signed16(Ints a, int by) { return _mm512_srai_epi16(a, by); }
inline Ints look_up(Ints table, Ints bytes) { return _mm512_shuffle_epi8(table, bytes); }
inline Floats to_floats(Ints a) { return _mm512_cvtepi32_ps(a); }
inline Floats as_floats(Ints a) { return _mm512_castsi512_ps(a); }
inline Floats of_halves(const void * halves) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i *>(halves)));
}
inline Ints of_words16(const void * words) {
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i *>(words)));
}
inline Floats broadcast(float value) { return _mm512_set1_ps(value); }
inline Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
inline Floats fused(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }    // a b + c
inline Floats negated(Floats a, Floats b, Floats c) { return _mm512_fnmadd_ps(a, b, c); }  // c - a b
inline Floats plus(Floats a, Floats b) { return _mm512_add_ps(a, b); }
inline Floats minus(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
inline float largest_of(Floats a) { return _mm512_reduce_max_ps(a); }
// 1 / a, and 0 where a is 0
inline Floats inverse(Floats a) {
    return _mm512_maskz_div_ps(_mm512_cmp_ps_mask(a, _mm512_setzero_ps(), _CMP_NEQ_OQ), _mm512_set1_ps(1), a);
}
inline Floats load_floats(const float * from) { return _mm512_loadu_ps(from); }
inline void store(float * to, Floats a) { _mm512_storeu_ps(to, a); }
// sum + the products of unsigned with signed bytes, added by fours
inline Ints add_products(Ints sum, Ints unsigned_bytes, Ints signed_bytes) {
    return _mm512_dpbusd_epi32(sum, unsigned_bytes, signed_bytes);
}

#else

constexpr int LANES = 8;
using Ints = __m256i;
using Floats = __m256;

inline Ints load(const void * bytes) { return _mm256_loadu_si256(static_cast<const __m256i *>(bytes)); }
inline Ints broadcast(int32_t value) { return _mm256_set1_epi32(value); }
inline Ints broadcast(__m128i bytes) { return _mm256_broadcastsi128_si256(bytes); }
inline Ints bits_and(Ints a, Ints b) { return _mm256_and_si256(a, b); }
inline Ints bits_or(Ints a, Ints b) { return _mm256_or_si256(a, b); }
inline Ints bits_xor(Ints a, Ints b) { return _mm256_xor_si256(a, b); }
inline Ints add(Ints a, Ints b) { return _mm256_add_epi32(a, b); }
inline Ints multiply(Ints a, Ints b) { return _mm256_mullo_epi32(a, b); }
inline Ints add_pairs(Ints a, Ints b) { return _mm256_madd_epi16(a, b); }  // int16 products, added by twos
inline Ints shift_left(Ints a, int by) { return _mm256_slli_epi32(a, by); }
inline Ints shift_right(Ints a, int by) { return _mm256_srli_epi32(a, by); }
inline Ints shift_right_signed(Ints a, int by) { return _mm256_srai_epi32(a, by); }
inline Ints shift_right_signed16(Ints a, int by) { return _mm256_srai_epi16(a, by); }
inline Ints look_up(Ints table, Ints bytes) { return _mm256_shuffle_epi8(table, bytes); }
inline Floats to_floats(Ints a) { return _mm256_cvtepi32_ps(a); }
inline Floats as_floats(Ints a) { return _mm256_castsi256_ps(a); }
inline Floats of_halves(const void * halves) {
    return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i *>(halves)));
}
inline Ints of_words16(const void * words) {
    return _mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i *>(words)));
}
inline Floats broadcast(float value) { return _mm256_set1_ps(value); }
inline Floats multiply(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
inline Floats fused(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }    // a b + c
inline Floats negated(Floats a, Floats b, Floats c) { return _mm256_fnmadd_ps(a, b, c); }  // c - a b
inline Floats plus(Floats a, Floats b) { return _mm256_add_ps(a, b); }
inline Floats minus(Floats a, Floats b) { return _mm256_sub_ps(a, b); }
inline float largest_of(Floats a) {
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}
// 1 / a, and 0 where a is 0
inline Floats inverse(Floats a) {
    const __m256 some = _mm256_cmp_ps(a, _mm256_setzero_ps(), _CMP_NEQ_OQ);
    return _mm256_and_ps(some, _mm256_div_ps(_mm256_set1_ps(1), a));
}
inline Floats load_floats(const float * from) { return _mm256_loadu_ps(from); }
inline void store(float * to, Floats a) { _mm256_storeu_ps(to, a); }

#ifdef PASS_EDGE_VNNI
constexpr char INSTRUCTIONS[] = "AVX-VNNI";
// sum + the products of unsigned with signed bytes, added by fours
inline Ints add_products(Ints sum, Ints unsigned_bytes, Ints signed_bytes) {
    return _mm256_dpbusd_avx_epi32(sum, unsigned_bytes, signed_bytes);
}
#else
constexpr char INSTRUCTIONS[] = "AVX2";
// The products of unsigned with signed bytes, added by twos into int16.
inline Ints byte_products(Ints unsigned_bytes, Ints signed_bytes) {
    return _mm256_maddubs_epi16(unsigned_bytes, signed_bytes);
}
inline Ints add16(Ints a, Ints b) { return _mm256_add_epi16(a, b); }
inline Ints absolute(Ints bytes) { return _mm256_abs_epi8(bytes); }
inline Ints with_sign_of(Ints bytes, Ints signs) { return _mm256_sign_epi8(bytes, signs); }
#endif

#endif

inline Ints zero() { return broadcast(int32_t(0)); }

inline Ints every_byte(int value) { return broadcast(int32_t(0x01010101u * uint8_t(value))); }

// Four bytes, in every lane.
inline Ints four_bytes(const void * bytes) {
    int32_t value;
    std::memcpy(&value, bytes, sizeof value);
    return broadcast(value);
}

}  // namespace
