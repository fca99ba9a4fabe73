// Attention over a KV cache with K in Q8_0 and V in F16, for one token, for drafts and for prompts.
//
// A *row* is a head of a token. For some rows that share a head of K and V:
//     scores   = the tile's products of their queries with the keys of the cells that any of them sees,
//                LANES cells side by side as LANES rows of weights are
//     weights  = exp(score - the row's largest score), which is 0 where the row does not see the cell
//     output   = the sum of the cells' weighted values, cell after cell, divided by the sum of the weights
// A cell of weight 0 changes no bit of a sum, so a row's bits depend on the cells it sees and their order alone.
// What it does not know is left to llama.cpp; the linker puts __wrap_f in the place of f (kernels.cmake).

#include "tile.h"

#include "ggml-cpu-impl.h"
#include "ops.h"
#include "switch.h"
#include "vec.h"

#include <algorithm>
#include <vector>

extern "C" {
using attention_t = decltype(ggml_compute_forward_flash_attn_ext);
attention_t __real_ggml_compute_forward_flash_attn_ext, __wrap_ggml_compute_forward_flash_attn_ext;
}

namespace {

constexpr int64_t SCORES = 96 * 1024;  // that rows have together, if they have not more alone: they stay cached
constexpr int64_t MOST_ROWS = 128;
constexpr int64_t MOST_BLOCKS = 16;    // of 32 numbers: the width of a head
constexpr int SLICE = 4;               // vectors of values that are summed at a time
#ifdef PASS_EDGE_AVX512
constexpr int SUMMED = 6;              // rows whose slices are
#else
constexpr int SUMMED = 3;
#endif
constexpr int KEYS_AHEAD = 2 * LANES;   // cells whose keys, and values, memory is asked for before they are needed
constexpr int VALUES_AHEAD = 16;
constexpr int64_t READING = 6;          // the time to read keys and values, in that of the products of one row
constexpr ggml_fp16_t HIDDEN = 0xFC00;  // minus infinity

inline Floats exponential(Floats a) {
#if defined(__AVX512F__) && !defined(PASS_EDGE_AVX512)  // ggml's vectors are wider than ours
    return _mm512_castps512_ps256(ggml_v_expf(_mm512_zextps256_ps512(a)));
#else
    return ggml_v_expf(a);
#endif
}

using Query = Activations<QK8_0>;
using Keys = Packed<Q8_0>;

struct Attention {
    const ggml_tensor *q, *k, *v, *mask, *out;
    float scale;

    explicit Attention(const ggml_tensor * op)
        : q(op->src[0]), k(op->src[1]), v(op->src[2]), mask(op->src[3]), out(op) {
        std::memcpy(&scale, op->op_params, sizeof scale);
    }
    int64_t blocks() const { return k->ne[0] / QK8_0; }
    int64_t sharing() const { return q->ne[2] / k->ne[2]; }  // heads of q for one of K and V
    const float * query(int64_t token, int64_t head) const {
        return at<float>(q, token * q->nb[1] + head * q->nb[2]);
    }
    const block_q8_0 * key(int64_t cell, int64_t head) const {
        return at<block_q8_0>(k, cell * k->nb[1] + head * k->nb[2]);
    }
    const ggml_fp16_t * value(int64_t cell, int64_t head) const {
        return at<ggml_fp16_t>(v, cell * v->nb[1] + head * v->nb[2]);
    }
    const ggml_fp16_t * hidden(int64_t token) const { return at<ggml_fp16_t>(mask, token * mask->nb[1]); }
    float * output(int64_t token, int64_t head) const {
        return const_cast<float *>(at<float>(out, (head + token * out->ne[1]) * out->nb[1]));
    }

  private:
    template <typename T> static const T * at(const ggml_tensor * tensor, int64_t offset) {
        return reinterpret_cast<const T *>(static_cast<const char *>(tensor->data) + offset);
    }
};

// Some heads, from `head` on, of some tokens: they share head `kv_head` of K and V.
struct Rows {
    int64_t token, tokens, head, heads, kv_head;

    int64_t count() const { return tokens * heads; }
    int64_t token_of(int64_t row) const { return token + row / heads; }
    int64_t head_of(int64_t row) const { return head + row % heads; }
};

// What a thread needs besides its stack; kept, because it is needed at every layer.
struct Workspace {
    std::vector<int32_t> cells;  // those that any token sees, and some more times the last of them
    int64_t seen, pairs;         // how many these are, and how many each token sees, added up
    std::vector<float> scores;  // (rows, cells seen, rounded up to LANES)
    std::vector<float> largest;
    std::vector<Query> queries;
};

// The cells that any of the tokens sees.
void find_cells(const Attention & attention, const Rows & rows, Workspace & space) {
    constexpr int BEHIND = KEYS_AHEAD + LANES;
    static_assert(VALUES_AHEAD <= BEHIND);
    const int64_t all = attention.k->ne[1];
    auto & cells = space.cells;
    cells.resize(all + BEHIND);
    int64_t found = 0, pairs = 0;
    for (int64_t first = 0; first < all; first += 16) {
        const int64_t count = std::min<int64_t>(16, all - first);
        uint32_t seen = 0;
        for (int64_t t = 0; t < rows.tokens; t++) {
            const ggml_fp16_t * hidden = attention.hidden(rows.token + t) + first;
            uint32_t own = 0;
            for (int64_t i = 0; i < count; i++) {
                own |= uint32_t(hidden[i] != HIDDEN) << i;
            }
            seen |= own;
            pairs += __builtin_popcount(own);
        }
        for (int64_t i = 0; i < count; i++) {
            cells[found] = int32_t(first + i);
            found += seen >> i & 1;
        }
    }
    std::fill_n(cells.begin() + found, BEHIND, found > 0 ? cells[found - 1] : 0);
    space.seen = found;
    space.pairs = pairs;
}

void fetch(const void * from, int64_t size) {
    for (int64_t at = 0; at < size; at += 64) {
        _mm_prefetch(static_cast<const char *>(from) + at, _MM_HINT_T0);
    }
}

// Eight blocks' words: word i of row r becomes word r of row i.
void transpose(const __m256i rows[8], __m256i words[8]) {
    __m256i pairs[8], fours[8];
    for (int i = 0; i < 8; i += 2) {
        pairs[i] = _mm256_unpacklo_epi32(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm256_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        fours[i] = _mm256_unpacklo_epi64(pairs[i], pairs[i + 2]);
        fours[i + 1] = _mm256_unpackhi_epi64(pairs[i], pairs[i + 2]);
        fours[i + 2] = _mm256_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
        fours[i + 3] = _mm256_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        words[i] = _mm256_permute2x128_si256(fours[i], fours[i + 4], 0x20);
        words[i + 4] = _mm256_permute2x128_si256(fours[i], fours[i + 4], 0x31);
    }
}

// The keys of LANES cells, laid out as weights are.
void pack(const block_q8_0 * const keys[LANES], int64_t blocks, Keys * to) {
    for (int64_t b = 0; b < blocks; b++) {
        for (int lane = 0; lane < LANES; lane += 8) {
            __m256i rows[8], words[8];
            for (int i = 0; i < 8; i++) {
                const block_q8_0 & block = keys[lane + i][b];
                rows[i] = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(block.qs));
                to[b].halves[0][lane + i] = block.d;
            }
            transpose(rows, words);
            for (int i = 0; i < 8; i++) {
                _mm256_storeu_si256(reinterpret_cast<__m256i *>(&to[b].words[i][lane]), words[i]);
            }
        }
    }
}

// The scores of all rows, and each row's largest.
void score(const Attention & attention, const Rows & rows, Workspace & space) {
    const int64_t blocks = attention.blocks(), count = rows.count(), cells = space.seen;
    const int64_t stride = (cells + LANES - 1) / LANES * LANES;
    space.queries.resize(count * blocks);
    space.scores.resize(count * stride);
    space.largest.assign(count, -INFINITY);
    for (int64_t row = 0; row < count; row++) {
        const float * query = attention.query(rows.token_of(row), rows.head_of(row));
        for (int64_t b = 0; b < blocks; b++) {
            round_block(query + b * QK8_0, space.queries[row * blocks + b]);
        }
    }
    for (int64_t first = 0; first < cells; first += LANES) {
        const block_q8_0 * keys[LANES];
        const int32_t * those = &space.cells[first];
        for (int64_t i = 0; i < LANES; i++) {
            keys[i] = attention.key(those[i], rows.kv_head);
            fetch(attention.key(those[i + KEYS_AHEAD], rows.kv_head), blocks * sizeof(block_q8_0));
        }
        Keys packed[MOST_BLOCKS];
        pack(keys, blocks, packed);
        for (int64_t row = 0; row < count; row += AT_ONCE) {
            const Query * queries[AT_ONCE];
            float * out[AT_ONCE];
            const int64_t some = std::min<int64_t>(AT_ONCE, count - row);
            for (int64_t i = 0; i < some; i++) {
                queries[i] = &space.queries[(row + i) * blocks];
                out[i] = &space.scores[(row + i) * stride + first];
            }
            tile_of<Q8_0>(some)(blocks, packed, queries, out, {});
        }
        for (int64_t t = 0; t < rows.tokens; t++) {
            const ggml_fp16_t * hidden = attention.hidden(rows.token + t);
            alignas(64) ggml_fp16_t added[LANES];
            for (int64_t i = 0; i < LANES; i++) {
                added[i] = first + i < cells ? hidden[those[i]] : HIDDEN;
            }
            const Floats bias = of_halves(added);
            for (int64_t row = t * rows.heads; row < (t + 1) * rows.heads; row++) {
                float * scores = &space.scores[row * stride + first];
                const Floats sum = fused(load_floats(scores), broadcast(attention.scale), bias);
                store(scores, sum);
                space.largest[row] = std::max(space.largest[row], largest_of(sum));
            }
        }
    }
}

void weigh(int64_t rows, int64_t stride, Workspace & space) {
    for (int64_t row = 0; row < rows; row++) {
        const float largest = space.largest[row] == -INFINITY ? 0 : space.largest[row];
        float * scores = &space.scores[row * stride];
        for (int64_t i = 0; i < stride; i += LANES) {
            store(scores + i, exponential(minus(load_floats(scores + i), broadcast(largest))));
        }
    }
}

// out[r][from …] for ROWS rows and a slice of WIDTH vectors; the sums of the weights, too, with the first slice.
template <int ROWS, int WIDTH>
void add_values(const Attention & attention, const Rows & rows, const Workspace & space, int64_t row, int64_t from,
                int64_t stride, Floats totals[ROWS]) {
    Floats sums[ROWS][WIDTH], total[ROWS];
    const float * weights[ROWS];
    for (int r = 0; r < ROWS; r++) {
        weights[r] = &space.scores[(row + r) * stride];
        total[r] = broadcast(0.0f);
        for (int i = 0; i < WIDTH; i++) {
            sums[r][i] = broadcast(0.0f);
        }
    }
    for (int64_t j = 0; j < space.seen; j++) {
        const ggml_fp16_t * values = attention.value(space.cells[j], rows.kv_head) + from;
        fetch(attention.value(space.cells[j + VALUES_AHEAD], rows.kv_head) + from, WIDTH * LANES * sizeof *values);
        Floats value[WIDTH];
        for (int i = 0; i < WIDTH; i++) {
            value[i] = of_halves(values + i * LANES);
        }
        for (int r = 0; r < ROWS; r++) {
            const Floats weight = broadcast(weights[r][j]);
            for (int i = 0; i < WIDTH; i++) {
                sums[r][i] = fused(value[i], weight, sums[r][i]);
            }
            total[r] = plus(total[r], weight);
        }
    }
    for (int r = 0; r < ROWS; r++) {
        if (from == 0) {
            totals[r] = inverse(total[r]);
        }
        float * out = attention.output(rows.token_of(row + r), rows.head_of(row + r)) + from;
        for (int i = 0; i < WIDTH; i++) {
            store(out + i * LANES, multiply(sums[r][i], totals[r]));
        }
    }
}

template <int ROWS>
void add_values(const Attention & attention, const Rows & rows, const Workspace & space, int64_t row, int64_t stride) {
    const int64_t width = attention.v->ne[0];
    Floats totals[ROWS];
    int64_t from = 0;
    for (; from + SLICE * LANES <= width; from += SLICE * LANES) {
        add_values<ROWS, SLICE>(attention, rows, space, row, from, stride, totals);
    }
    for (; from < width; from += LANES) {
        add_values<ROWS, 1>(attention, rows, space, row, from, stride, totals);
    }
}

// For `count` rows, at most ROWS of them.
template <int ROWS = SUMMED>
void add_some(const Attention & attention, const Rows & rows, const Workspace & space, int64_t row, int64_t count,
              int64_t stride) {
    if constexpr (ROWS > 1) {
        if (count < ROWS) {
            return add_some<ROWS - 1>(attention, rows, space, row, count, stride);
        }
    }
    add_values<ROWS>(attention, rows, space, row, stride);
}

void attend(const Attention & attention, const Rows & rows) {
    static thread_local Workspace space;
    find_cells(attention, rows, space);
    const int64_t apart = space.pairs * (rows.heads + READING);
    if (rows.tokens > 1 && apart < space.seen * (rows.count() + READING)) {  // tokens of several conversations
        const int64_t half = rows.tokens / 2;
        attend(attention, {rows.token, half, rows.head, rows.heads, rows.kv_head});
        attend(attention, {rows.token + half, rows.tokens - half, rows.head, rows.heads, rows.kv_head});
        return;
    }
    score(attention, rows, space);
    const int64_t count = rows.count();
    const int64_t stride = (space.seen + LANES - 1) / LANES * LANES;
    weigh(count, stride, space);
    const int64_t groups = (count + SUMMED - 1) / SUMMED;  // of about the same size: all of them read all values
    for (int64_t i = 0; i < groups; i++) {
        const int64_t row = count * i / groups;
        add_some(attention, rows, space, row, count * (i + 1) / groups - row, stride);
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
    return types && masked && plain && k->ne[0] <= MOST_BLOCKS * QK8_0 && v->ne[0] % LANES == 0;
}

// How many of the `sharing` heads of a token are one piece of work: the fewer, the more often keys and values are read.
int64_t heads_at_once(int64_t tokens, int64_t kv_heads, int64_t sharing, int64_t threads) {
    int64_t best = sharing, least = INT64_MAX;
    for (int64_t heads = sharing; heads > 0; heads--) {
        const int64_t pieces = tokens * kv_heads * ((sharing + heads - 1) / heads);
        const int64_t time = (pieces + threads - 1) / threads * (heads + READING);
        if (time < least) {
            best = heads;
            least = time;
        }
    }
    return best;
}

}  // namespace

void __wrap_ggml_compute_forward_flash_attn_ext(const ggml_compute_params * params, ggml_tensor * op) {
    if (!enabled() || params->use_ref || !is_ours(op)) {
        return __real_ggml_compute_forward_flash_attn_ext(params, op);
    }
    const Attention attention(op);
    const int64_t tokens = attention.q->ne[1], kv_heads = attention.k->ne[2], sharing = attention.sharing();
    const int64_t heads = heads_at_once(tokens, kv_heads, sharing, params->nth);
    const int64_t parts = (sharing + heads - 1) / heads;
    const int64_t fit = std::min(MOST_ROWS, SCORES / std::max<int64_t>(1, attention.k->ne[1])) / heads;
    const int64_t fair = std::max<int64_t>(1, tokens * kv_heads * parts / params->nth);
    const int64_t at_once = std::clamp<int64_t>(fit, 1, std::min(tokens, fair));
    const int64_t groups = (tokens + at_once - 1) / at_once;
    if (params->ith == 0) {
        ggml_threadpool_chunk_set(params->threadpool, params->nth);
    }
    ggml_barrier(params->threadpool);
    // the last tokens of a prompt see most, so they come first
    for (int64_t i = params->ith; i < groups * kv_heads * parts; i = ggml_threadpool_chunk_add(params->threadpool, 1)) {
        const int64_t group = groups - 1 - i / (kv_heads * parts), kv_head = i / parts % kv_heads, part = i % parts;
        const int64_t token = group * at_once, head = part * heads;
        attend(attention, {token, std::min(at_once, tokens - token), kv_head * sharing + head,
                           std::min(heads, sharing - head), kv_head});
    }
}
