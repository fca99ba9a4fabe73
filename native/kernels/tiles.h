// A *tile* is ROWS rows of weights times up to AT_ONCE tokens: for this processor's instructions.

#pragma once

#if defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__) && defined(__AVX512VNNI__)
#include "avx512.h"
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include "avx2.h"
#else
#error "these kernels need AVX2, FMA and F16C"
#endif
