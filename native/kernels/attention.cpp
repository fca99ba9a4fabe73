// Attention over a KV cache with K in Q8_0 and V in F16.
//
// llama.cpp computes it for one head, one token and one cell after the other. Ours computes the scores of eight cells
// and up to HEADS heads at once, and keeps their sums in registers. Each sum is made in llama.cpp's order, cell by
// cell, with its rounding to F16 in between, so it has its bits. What it does not know is left to llama.cpp.

#include "tiles.h"

#include "ggml-cpu-impl.h"
#include "ops.h"
#include "quants.h"

#include <algorithm>

extern "C" {
using attention_t = decltype(ggml_compute_forward_flash_attn_ext);
attention_t __real_ggml_compute_forward_flash_attn_ext, __wrap_ggml_compute_forward_flash_attn_ext;
}

namespace {

constexpr int64_t CELLS = 256;          // that are scored before their values are summed
constexpr int64_t MOST_WIDE = 512;      // a head
constexpr int SLICE = 4;                // vectors of a head's values that are summed at a time
constexpr ggml_fp16_t HIDDEN = 0xFC00;  // minus infinity

// One token and up to HEADS heads that share a head of K and V.
struct Unit {
    const ggml_tensor *q, *k, *v, *mask, *out;
    int64_t token, first_head, kv_head;
    float scale;

    const ggml_fp16_t * hidden() const {
        return reinterpret_cast<const ggml_fp16_t *>(static_cast<const char *>(mask->data) + token * mask->nb[1]);
    }
    const char * key(int64_t cell) const {
        return static_cast<const char *>(k->data) + cell * k->nb[1] + kv_head * k->nb[2];
    }
    const char * value(int64_t cell) const {
        return static_cast<const char *>(v->data) + cell * v->nb[1] + kv_head * v->nb[2];
    }
};

// What the softmax over the cells so far has come to, and how the next cells go into the sum of values.
template <int COUNT> struct Softmax {
    float largest[COUNT], sum[COUNT];
    int64_t count;               // visible cells
    int32_t cells[CELLS];        // where they are
    float weight[COUNT][CELLS];  // of a cell's values
    float shrink[COUNT][CELLS];  // of the sum before it: less than 1 where a cell's score is the largest so far
};

template <int COUNT>
void score(const Unit & unit, const block_q8_0 * queries, int64_t first, int64_t end, Softmax<COUNT> & softmax) {
    const int64_t blocks = unit.k->ne[0] / QK8_0;
    const ggml_fp16_t * hidden = unit.hidden();
    softmax.count = 0;
    for (int64_t cell = first; cell < end; cell += ROWS) {
        const __m128i all = load16(hidden + cell);
        const int visible = ~_mm_movemask_epi8(_mm_cmpeq_epi16(all, _mm_set1_epi16(int16_t(HIDDEN)))) & 0xFFFF;
        if (visible == 0) {
            continue;
        }
        const block_q8_0 * keys[ROWS];
        for (int row = 0; row < ROWS; row++) {
            keys[row] = reinterpret_cast<const block_q8_0 *>(unit.key(cell + row));
        }
        float scores[COUNT][ROWS];
        blocks_tile<Q8_0, COUNT>(blocks, keys, queries, blocks, scores[0], ROWS);
        for (int row = 0; row < ROWS; row++) {
            if (!(visible >> (2 * row) & 1)) {
                continue;
            }
            for (int head = 0; head < COUNT; head++) {
                const float scaled = scores[head][row] * unit.scale + to_float(hidden[cell + row]);
                float shrink = 1, weight = 1;
                if (scaled > softmax.largest[head]) {
                    shrink = expf(softmax.largest[head] - scaled);
                    softmax.largest[head] = scaled;
                } else {
                    weight = expf(scaled - softmax.largest[head]);
                }
                softmax.sum[head] = std::fma(softmax.sum[head], shrink, weight);
                softmax.shrink[head][softmax.count] = shrink;
                softmax.weight[head][softmax.count] = weight;
            }
            softmax.cells[softmax.count++] = cell + row;
        }
    }
}

// sums[head][i] += the visible cells' values, for a slice of WIDTH vectors that begins at `from`.
template <int COUNT, int WIDTH>
void add_values(const Unit & unit, const Softmax<COUNT> & softmax, int64_t from, float * sums, int64_t stride) {
    Floats sum[COUNT][WIDTH];
    for (int head = 0; head < COUNT; head++) {
        for (int i = 0; i < WIDTH; i++) {
            std::memcpy(&sum[head][i], sums + head * stride + from + i * LANES, sizeof(Floats));
        }
    }
    for (int64_t j = 0; j < softmax.count; j++) {
        const char * values = unit.value(softmax.cells[j]) + from * sizeof(ggml_fp16_t);
        Floats value[WIDTH];
        for (int i = 0; i < WIDTH; i++) {
            value[i] = of_halves(values + i * LANES * sizeof(ggml_fp16_t));
        }
        for (int head = 0; head < COUNT; head++) {
            if (softmax.shrink[head][j] != 1) {
                for (int i = 0; i < WIDTH; i++) {
                    sum[head][i] = rounded(sum[head][i] * set(softmax.shrink[head][j]));
                }
            }
            const Floats weight = set(softmax.weight[head][j]);
            for (int i = 0; i < WIDTH; i++) {
                sum[head][i] = rounded(fused(value[i], weight, sum[head][i]));
            }
        }
    }
    for (int head = 0; head < COUNT; head++) {
        for (int i = 0; i < WIDTH; i++) {
            std::memcpy(sums + head * stride + from + i * LANES, &sum[head][i], sizeof(Floats));
        }
    }
}

template <int COUNT> void attend(const Unit & unit) {
    const int64_t width = unit.k->ne[0], cells = unit.k->ne[1], value_width = unit.v->ne[0];
    block_q8_0 queries[COUNT * MOST_WIDE / QK8_0];
    float sums[COUNT * MOST_WIDE] = {};
    Softmax<COUNT> softmax;
    for (int head = 0; head < COUNT; head++) {
        const char * query = static_cast<const char *>(unit.q->data) + unit.token * unit.q->nb[1] +
                             (unit.first_head + head) * unit.q->nb[2];
        quantize_row_q8_0(reinterpret_cast<const float *>(query), queries + head * width / QK8_0, width);
        softmax.largest[head] = -INFINITY;
        softmax.sum[head] = 0;
    }
    for (int64_t first = 0; first < cells; first += CELLS) {
        score<COUNT>(unit, queries, first, std::min(first + CELLS, cells), softmax);
        int64_t from = 0;
        for (; from + SLICE * LANES <= value_width; from += SLICE * LANES) {
            add_values<COUNT, SLICE>(unit, softmax, from, sums, value_width);
        }
        for (; from < value_width; from += LANES) {
            add_values<COUNT, 1>(unit, softmax, from, sums, value_width);
        }
    }
    for (int head = 0; head < COUNT; head++) {
        const float share = softmax.sum[head] == 0 ? 0 : 1 / softmax.sum[head];
        const int64_t row = unit.first_head + head + unit.token * unit.out->ne[1];
        float * out = reinterpret_cast<float *>(static_cast<char *>(unit.out->data) + row * unit.out->nb[1]);
        for (int64_t i = 0; i < value_width; i++) {
            out[i] = sums[head * value_width + i] * share;
        }
    }
}

void attend(const Unit & unit, int heads) {
    switch (heads) {
        case 1: return attend<1>(unit);
        case 2: return attend<2>(unit);
        case 3: return attend<3>(unit);
        default: return attend<4>(unit);
    }
}

bool is_ours(const ggml_tensor * op) {
    const ggml_tensor *q = op->src[0], *k = op->src[1], *v = op->src[2], *mask = op->src[3];
    float bias, cap;
    std::memcpy(&bias, op->op_params + 1, sizeof bias);
    std::memcpy(&cap, op->op_params + 2, sizeof cap);
    const bool types = q->type == GGML_TYPE_F32 && k->type == GGML_TYPE_Q8_0 && v->type == GGML_TYPE_F16;
    const bool masked = mask != nullptr && mask->type == GGML_TYPE_F16 && mask->ne[2] == 1 && mask->ne[3] == 1;
    const bool plain = op->src[4] == nullptr && bias == 0 && cap == 0 && q->ne[3] == 1 && k->ne[2] == v->ne[2];
    return types && masked && plain && k->ne[0] <= MOST_WIDE && v->ne[0] <= MOST_WIDE && v->ne[0] % LANES == 0 &&
           k->ne[1] % ROWS == 0;
}

}  // namespace

void __wrap_ggml_compute_forward_flash_attn_ext(const ggml_compute_params * params, ggml_tensor * op) {
    if (!enabled() || params->use_ref || !is_ours(op)) {
        return __real_ggml_compute_forward_flash_attn_ext(params, op);
    }
    Unit unit = {op->src[0], op->src[1], op->src[2], op->src[3], op, 0, 0, 0, 0};
    std::memcpy(&unit.scale, op->op_params, sizeof unit.scale);
    const int64_t tokens = unit.q->ne[1], heads = unit.q->ne[2], sharing = heads / unit.k->ne[2];
    int64_t at_once = std::min<int64_t>(sharing, HEADS);
    while (at_once > 1 && tokens * heads / at_once < 2 * params->nth) {
        at_once--;  // fewer heads at once, so that no thread is without
    }
    const int64_t groups = (sharing + at_once - 1) / at_once, units = tokens * unit.k->ne[2] * groups;
    if (params->ith == 0) {
        ggml_threadpool_chunk_set(params->threadpool, params->nth);
    }
    ggml_barrier(params->threadpool);
    for (int64_t i = params->ith; i < units; i = ggml_threadpool_chunk_add(params->threadpool, 1)) {
        unit.token = i % tokens;
        unit.kv_head = i / tokens / groups;
        const int64_t first = i / tokens % groups * at_once;
        unit.first_head = unit.kv_head * sharing + first;
        attend(unit, int(std::min(at_once, sharing - first)));
    }
}
