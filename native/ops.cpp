// The door of herd.ops.native: every array is checked here, with the GIL held; the work runs without it.
// Nothing below trusts Python's numbers: ids, slots, pages and shapes are proven in bounds before a pointer is made.
#include <algorithm>
#include <cmath>
#include <memory>

#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include "core/attention.h"
#include "core/blocks.h"
#include "core/layers.h"
#include "ops.h"
#include "view.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace herd {
namespace {

struct FormatInfo {
    const char *name;
    Type type;
};
constexpr FormatInfo FORMATS[] = {
    {"f32", Type::f32},   {"f16", Type::f16},   {"bf16", Type::bf16},     {"q4_0", Type::q4_0},    {"q4_1", Type::q4_1},
    {"q5_0", Type::q5_0}, {"q5_1", Type::q5_1}, {"q8_0", Type::q8_0},     {"q2_k", Type::q2_k},    {"q3_k", Type::q3_k},
    {"q4_k", Type::q4_k}, {"q5_k", Type::q5_k}, {"q6_k", Type::q6_k},     {"iq4_nl", Type::iq4_nl}, {"iq4_xs", Type::iq4_xs},
};

const FormatInfo &format_named(const std::string &name) {
    std::string names;
    for (const FormatInfo &f : FORMATS) {
        if (name == f.name) return f;
        names += (names.empty() ? "" : ", ") + std::string(f.name);
    }
    refuse("weight format", name, "one of " + names);
}

// A weight: its matrix, its bias in float32, and the arrays that own the bytes.
struct Weight {
    Linear linear;
    std::shared_ptr<View> owner;
    std::vector<float> bias;

    int64_t E() const { return linear.m.E; }
    int64_t O() const { return linear.m.O; }
    int64_t K() const { return linear.m.K; }
};

// shape: [O, I] or [E, O, I]; input-major [E, I, O]. Packed: `array` is bytes [..., O, row_bytes], in strips
// [..., ceil(O / 16), 16 * row_bytes].
std::unique_ptr<Weight> make_weight(nb::handle array, const std::string &format, std::vector<int64_t> shape,
                                    bool input_major, nb::handle bias, bool strips) {
    const FormatInfo &f = format_named(format);
    if (shape.size() != 2 && shape.size() != 3) refuse("weight shape", show(shape), "[O, I] or [E, O, I]");
    for (int64_t n : shape)
        if (n < 1 || n > (int64_t)1 << 32) refuse("weight shape", show(shape), "sizes from 1 to 2^32");
    auto w = std::make_unique<Weight>();
    w->owner = std::make_shared<View>(array, "weight");
    Matrix &m = w->linear.m;
    size_t last = shape.size() - 1;
    m.type = f.type;
    m.input_major = input_major;
    m.E = shape.size() == 3 ? shape[0] : 1;
    m.O = input_major ? shape[last] : shape[last - 1];
    m.K = input_major ? shape[last - 1] : shape[last];
    m.data = w->owner->data();
    if (is_packed(f.type)) {
        if (input_major) refuse("packed weight", "input-major", "output-major");
        const Block block = block_of(f.type);
        if (m.K % block.inputs)
            refuse("packed weight inputs", std::to_string(m.K),
                   "a multiple of " + std::to_string(block.inputs) + " for " + format);
        m.row_bytes = m.K / block.inputs * block.bytes;
    } else {
        if (strips) refuse("weight in strips", format, "a block format");
        m.row_bytes = (input_major ? m.O : m.K) * (f.type == Type::f32 ? 4 : 2);
    }
    m.strips = strips;
    int64_t rows = input_major ? m.K : strips ? (m.O + STRIP - 1) / STRIP * STRIP : m.O, wanted;
    if (__builtin_mul_overflow(m.row_bytes, rows, &m.expert_bytes) ||
        __builtin_mul_overflow(m.expert_bytes, m.E, &wanted))
        refuse("weight shape", show(shape), "a size below 2^63 bytes");
    if (w->owner->bytes() != wanted)
        refuse("weight bytes", std::to_string(w->owner->bytes()),
               std::to_string(wanted) + " for " + format + " " + show(shape));
    char kind = w->owner->kind();
    char right = f.type == Type::f32 ? 'f' : f.type == Type::f16 ? 'e' : f.type == Type::bf16 ? 'H' : 'B';
    if (kind != right) refuse("weight element type", std::string(1, kind), std::string(1, right) + " for " + format);
    if (!bias.is_none()) {
        View b(bias, "bias");
        Type type = b.kind() == 'f' ? Type::f32 : b.kind() == 'e' ? Type::f16 : Type::bf16;
        if (b.kind() != 'f' && b.kind() != 'e' && b.kind() != 'H')
            refuse("bias element type", std::string(1, b.kind()), "f, e or H");
        if (m.E != 1 || b.shape() != std::vector<int64_t>{m.O}) refuse("bias shape", show(b.shape()), show({m.O}));
        w->bias.resize((size_t)m.O);
        kernels().widen(type, b.data(), m.O, w->bias.data());
        w->linear.bias = w->bias.data();
    }
    return w;
}

// Rows of blocks -> strips, into `out` of exactly that size.
void op_pack(const std::string &format, nb::handle array, std::vector<int64_t> shape, nb::handle out_) {
    auto w = make_weight(array, format, shape, false, nb::none(), false);
    if (!is_packed(w->linear.m.type)) refuse("format to pack", format, "a block format");
    View out(out_, "strips", true);
    const Matrix &m = w->linear.m;
    const int64_t wanted = m.E * ((m.O + STRIP - 1) / STRIP) * STRIP * m.row_bytes;
    if (out.bytes() != wanted) refuse("bytes of the strips", std::to_string(out.bytes()), std::to_string(wanted));
    nb::gil_scoped_release free;
    Turn turn;
    pack_strips(turn.pool, m, out.data());
}

// Outputs [start, stop) as a weight of their own: the gate and up halves of one stack.
std::unique_ptr<Weight> outputs(const Weight &w, int64_t start, int64_t stop) {
    const Matrix &m = w.linear.m;
    if (start < 0 || stop <= start || stop > m.O)
        refuse("outputs", show({start, stop}), "a range within " + std::to_string(m.O));
    if (m.strips && start % STRIP) refuse("outputs of a matrix in strips", std::to_string(start), "a multiple of 16");
    auto part = std::make_unique<Weight>();
    part->owner = w.owner;
    part->linear.m = m;
    part->linear.m.O = stop - start;
    part->linear.m.data += start * (m.input_major ? (m.type == Type::f32 ? 4 : 2) : m.row_bytes);
    if (w.linear.bias) {
        part->bias.assign(w.bias.begin() + start, w.bias.begin() + stop);
        part->linear.bias = part->bias.data();
    }
    return part;
}

const Linear &checked(const Weight *w, const char *what, int64_t O, int64_t K) {
    if (!w) refuse(what, "None", "a weight");
    if (w->E() != 1) refuse(what, "a stack of " + std::to_string(w->E()) + " matrices", "one matrix");
    if ((O >= 0 && w->O() != O) || w->K() != K) refuse(what, "shape " + show({w->O(), w->K()}), show({O, K}));
    return w->linear;
}

struct NormWeight {
    std::vector<float> w, b;
    float eps = 0;
    Norm at(int64_t D) const {
        if ((int64_t)w.size() != D) refuse("norm width", std::to_string(w.size()), std::to_string(D));
        return {w.data(), b.empty() ? nullptr : b.data(), eps};
    }
};

std::vector<float> floats(nb::handle array, const char *what) {
    View v(array, what);
    char k = v.kind();
    if (k != 'f' && k != 'e' && k != 'H')
        refuse(what, std::string("element type '") + k + "'", "float32, float16 or uint16 (bfloat16)");
    if (v.shape().size() != 1) refuse(what, "shape " + show(v.shape()), "[D]");
    std::vector<float> out((size_t)v.size());
    kernels().widen(k == 'f' ? Type::f32 : k == 'e' ? Type::f16 : Type::bf16, v.data(), v.size(), out.data());
    return out;
}

std::unique_ptr<NormWeight> make_norm(nb::handle w, nb::handle b, double eps) {
    auto n = std::make_unique<NormWeight>();
    n->w = floats(w, "norm weight");
    if (!b.is_none()) n->b = floats(b, "norm bias");
    if (!b.is_none() && n->b.size() != n->w.size())
        refuse("norm bias", show({(int64_t)n->b.size()}), show({(int64_t)n->w.size()}));
    n->eps = (float)eps;
    return n;
}

struct MlpWeights {
    Mlp mlp;
    MlpWeights(const Weight *gate, const Weight *up, const Weight *down, int64_t D) {
        mlp.up = &checked(up, "up weight", -1, D);
        int64_t F = up->O();
        if (gate) mlp.gate = &checked(gate, "gate weight", F, D);
        mlp.down = &checked(down, "down weight", D, F);
    }
};

// -- operations ---------------------------------------------------------------------------------------------------

int64_t rows_of(const View &x, const char *what) {
    auto s = x.shape();
    if (s.size() != 2) refuse(what, "shape " + show(s), "two axes");
    return s[0];
}

void op_norm(nb::handle x_, const NormWeight &norm, nb::handle y_) {
    View x(x_, "x_TD"), y(y_, "y_TD", true);
    int64_t T = rows_of(x, "x_TD"), D = x.shape()[1];
    Norm n = norm.at(D);
    auto *from = x.as<const float>({T, D});
    auto *to = y.as<float>({T, D});
    nb::gil_scoped_release free;
    Turn turn;
    normalise(turn.pool, n, from, T, D, to);
}

// y (+)= w[expert] x + bias
void op_linear(nb::handle x_, const Weight &w, nb::handle y_, int64_t expert, bool add) {
    View x(x_, "x_TI"), y(y_, "y_TO", true);
    int64_t T = rows_of(x, "x_TI");
    if (expert < 0 || expert >= w.E()) refuse("expert", std::to_string(expert), "below " + std::to_string(w.E()));
    auto *from = x.as<const float>({T, w.K()});
    auto *to = y.as<float>({T, w.O()});
    nb::gil_scoped_release free;
    Turn turn;
    linear(turn.pool, w.linear, expert, from, T, to, add ? Finish::add : Finish::store);
}

struct HeadArgs {
    Optional cos, sin, q_scale;
    Heads heads;
    HeadArgs(int64_t T, int64_t H, nb::handle cos_, nb::handle sin_, nb::object qk_eps, nb::handle q_scale_)
        : cos(cos_, "cos_TM"), sin(sin_, "sin_TM"), q_scale(q_scale_, "q_scale_T") {
        if (H < 1 || (cos && H % 2)) refuse("head size", std::to_string(H), "an even number");
        heads.H = H;
        heads.cos = cos.as<float>({T, H / 2});
        heads.sin = sin.as<float>({T, H / 2});
        if (bool(cos) != bool(sin)) refuse("cos, sin", "one of them", "both or none");
        heads.unit = !qk_eps.is_none();
        if (heads.unit) heads.unit_eps = (float)nb::cast<double>(qk_eps);
        heads.q_scale = q_scale.as<float>({T});
    }
};

void op_qkv(nb::handle x_, const NormWeight &norm, const Weight &wq, const Weight &wk, const Weight &wv, int64_t H,
            nb::handle cos, nb::handle sin, nb::object qk_eps, nb::handle q_scale, nb::handle q_, nb::handle k_,
            nb::handle v_) {
    View x(x_, "x_TD"), q(q_, "q_TNH", true), k(k_, "k_TKH", true), v(v_, "v_TKH", true);
    int64_t T = rows_of(x, "x_TD"), D = x.shape()[1];
    auto *from = x.as<const float>({T, D});
    Norm n = norm.at(D);
    HeadArgs args(T, H, cos, sin, qk_eps, q_scale);
    const Linear &lq = checked(&wq, "wq", -1, D), &lk = checked(&wk, "wk", -1, D), &lv = checked(&wv, "wv", wk.O(), D);
    if (wq.O() % H || wk.O() % H)
        refuse("wq, wk outputs", show({wq.O(), wk.O()}), "multiples of the head size " + std::to_string(H));
    auto *yq = q.as<float>({T, wq.O() / H, H});
    auto *yk = k.as<float>({T, wk.O() / H, H});
    auto *yv = v.as<float>({T, wv.O() / H, H});
    nb::gil_scoped_release free;
    Turn turn;
    qkv(turn.pool, n, lq, lk, lv, args.heads, from, T, D, yq, yk, yv);
}

void op_shape_heads(nb::handle q_, nb::handle k_, nb::handle cos, nb::handle sin, nb::object qk_eps,
                    nb::handle q_scale) {
    View q(q_, "q_TNH", true), k(k_, "k_TKH", true);
    auto s = q.shape();
    if (s.size() != 3) refuse("q_TNH", "shape " + show(s), "three axes");
    int64_t T = s[0], H = s[2];
    auto *yq = q.as<float>({T, -1, H});
    auto *yk = k.as<float>({T, -1, H});
    HeadArgs args(T, H, cos, sin, qk_eps, q_scale);
    int64_t N = s[1], K = k.shape()[1];
    nb::gil_scoped_release free;
    Turn turn;
    shape_heads(turn.pool, args.heads, T, N, K, yq, yk);
}

void op_mlp(nb::handle x_, const NormWeight &norm, const Weight *gate, const Weight &up, const Weight &down,
            nb::object y_) {
    View x(x_, "x_TD", y_.is_none());
    int64_t T = rows_of(x, "x_TD"), D = x.shape()[1];
    Norm n = norm.at(D);
    MlpWeights weights(gate, &up, &down, D);
    auto *from = x.as<const float>({T, D});
    View y = y_.is_none() ? View(x_, "x_TD", true) : View(y_, "y_TD", true);
    auto *to = y.as<float>({T, D});
    bool add = y_.is_none();
    nb::gil_scoped_release free;
    Turn turn;
    mlp(turn.pool, n, weights.mlp, from, T, D, to, add);
}

void op_moe(nb::handle x_, const NormWeight &norm, const Weight &router, const Weight &gate, const Weight &up,
            const Weight &down, const Weight *shared_gate, const Weight &shared_up, const Weight &shared_down,
            int64_t E, int64_t A, nb::object y_, nb::handle experts_, nb::handle scores_) {
    View x(x_, "x_TD", y_.is_none()), experts(experts_, "experts_TA", true), scores(scores_, "scores_TA", true);
    int64_t T = rows_of(x, "x_TD"), D = x.shape()[1];
    Norm n = norm.at(D);
    if (E < 1 || A < 1 || A > E) refuse("experts, experts per token", show({E, A}), "1 <= A <= E");
    Moe m;
    m.E = E, m.A = A;
    m.router = &checked(&router, "router", E, D);
    int64_t F = gate.O();
    for (auto [w, O, K, what] :
         {std::tuple{&gate, F, D, "expert gate"}, {&up, F, D, "expert up"}, {&down, D, F, "expert down"}}) {
        if (w->E() != E || w->O() != O || w->K() != K)
            refuse(what, "stack " + show({w->E(), w->O(), w->K()}), show({E, O, K}));
        if (w->linear.bias) refuse(what, "a bias", "none");
    }
    m.gate = gate.linear.m, m.up = up.linear.m, m.down = down.linear.m;
    MlpWeights shared(shared_gate, &shared_up, &shared_down, D);
    m.shared = shared.mlp;
    auto *from = x.as<const float>({T, D});
    View y = y_.is_none() ? View(x_, "x_TD", true) : View(y_, "y_TD", true);
    auto *to = y.as<float>({T, D});
    auto *e = experts.as<int32_t>({T, A});
    auto *s = scores.as<float>({T, A});
    bool residual = y_.is_none();
    nb::gil_scoped_release free;
    Turn turn;
    moe(turn.pool, n, m, from, T, D, to, residual, e, s);
}

void op_choose(nb::handle logits_, nb::handle experts_, nb::handle scores_) {
    View logits(logits_, "logits_TE"), experts(experts_, "experts_TA", true), scores(scores_, "scores_TA", true);
    int64_t T = rows_of(logits, "logits_TE"), E = logits.shape()[1],
            A = rows_of(experts, "experts_TA") == T ? experts.shape()[1] : -1;
    auto *l = logits.as<const float>({T, E});
    auto *e = experts.as<int32_t>({T, A});
    auto *s = scores.as<float>({T, A});
    if (A < 1 || A > E) refuse("experts per token", std::to_string(A), "1 to " + std::to_string(E));
    choose(l, T, E, A, e, s);
}

void op_head(nb::handle x_, const NormWeight &norm, const Weight &w, nb::handle rows_, nb::handle y_) {
    View x(x_, "x_TD"), y(y_, "logits_RV", true);
    Optional rows(rows_, "rows_R");
    int64_t T = rows_of(x, "x_TD"), D = x.shape()[1], R = rows ? rows.view().size() : T;
    auto *from = x.as<const float>({T, D});
    auto *at = rows.as<int64_t>({R});
    for (int64_t i = 0; at && i < R; i++)
        if (at[i] < 0 || at[i] >= T) refuse("rows_R", std::to_string(at[i]), "below " + std::to_string(T));
    Norm n = norm.at(D);
    const Linear &l = checked(&w, "head weight", -1, D);
    auto *to = y.as<float>({R, w.O()});
    nb::gil_scoped_release free;
    Turn turn;
    head(turn.pool, n, l, from, at, R, D, to);
}

void op_embed(nb::handle ids_, const Weight &w, nb::handle y_) {
    View ids(ids_, "ids_T"), y(y_, "x_TD", true);
    int64_t T = ids.size();
    auto *at = ids.as<const int64_t>({T});
    const Matrix &m = w.linear.m;
    if (m.E != 1 || m.input_major) refuse("embedding", "a stack or input-major weight", "one matrix [V, D]");
    for (int64_t i = 0; i < T; i++)
        if (at[i] < 0 || at[i] >= m.O) refuse("token id", std::to_string(at[i]), "0 to " + std::to_string(m.O - 1));
    auto *to = y.as<float>({T, m.K});
    nb::gil_scoped_release free;
    Turn turn;
    embed(turn.pool, m, at, T, to);
}

void op_gelu(nb::handle x_) {
    View x(x_, "x", true);
    auto *v = x.as<float>(x.shape());
    int64_t n = x.size();
    nb::gil_scoped_release free;
    Turn turn;
    each_row(turn.pool, (n + 4095) / 4096, 4096 * 8,
             [&](int64_t i) { kernels().gelu(v + i * 4096, std::min<int64_t>(4096, n - i * 4096), v + i * 4096); });
}

void op_silu_mul(nb::handle gate_, nb::handle up_, nb::handle y_) {
    View gate(gate_, "gate"), up(up_, "up"), y(y_, "y", true);
    auto *g = gate.as<const float>(gate.shape());
    auto *u = up.as<const float>(gate.shape());
    auto *to = y.as<float>(gate.shape());
    int64_t n = gate.size();
    nb::gil_scoped_release free;
    Turn turn;
    kernels().silu_mul(g, u, n, to);
}

// -- attention ----------------------------------------------------------------------------------------------------

std::unique_ptr<Spans> make_spans(nb::handle starts_, nb::handle lengths_, nb::handle pages_, nb::handle slots_,
                                  int64_t page_size, nb::handle exact_, nb::handle closing_) {
    View starts(starts_, "segments.starts"), lengths(lengths_, "segments.kv_lens");
    Optional pages(pages_, "segments.pages"), slots(slots_, "segments.slots_T");
    Optional exact(exact_, "segments.exact_pages"), closing(closing_, "segments.closing");
    auto s = std::make_unique<Spans>();
    int64_t S = lengths.size();
    auto *from = starts.as<const int64_t>({S + 1});
    auto *len = lengths.as<const int64_t>({S});
    s->starts.assign(from, from + S + 1);
    s->lengths.assign(len, len + S);
    if (from[0] != 0) refuse("segments.starts[0]", std::to_string(from[0]), "0");
    for (int64_t i = 0; i < S; i++) {
        int64_t n = from[i + 1] - from[i];
        if (n < 0) refuse("segments.starts", show({from[i], from[i + 1]}), "ascending");
        if (!pages && len[i] != n)
            refuse("segments.kv_lens", std::to_string(len[i]),
                   std::to_string(n) + ", the rows of a segment without pages");
        if (pages && len[i] < n)
            refuse("segments.kv_lens", std::to_string(len[i]), "at least the segment's " + std::to_string(n) + " rows");
    }
    if (bool(pages) != bool(slots))
        refuse("segments", pages ? "pages without slots" : "slots without pages", "both or none");
    if ((exact && !pages) || (closing && !exact))
        refuse("segments", exact ? "exact_pages without pages" : "closing without exact_pages", "both or none");
    if (!pages) return s;
    constexpr int64_t MOST = (int64_t)1 << 40;
    if (page_size < 1 || page_size > MOST) refuse("segments.page_size", std::to_string(page_size), "1 or more");
    s->page_size = page_size;
    auto shape = pages.view().shape();
    s->widest = shape.size() == 2 ? shape[1] : -1;
    auto *page = pages.as<int64_t>({S, s->widest});
    for (int64_t i = 0; i < S; i++) {
        int64_t used = from[i + 1] > from[i] ? (len[i] - 1) / page_size + 1 : 0;
        if (used > s->widest)
            refuse("segments.pages", std::to_string(s->widest) + " pages",
                   std::to_string(used) + " for " + std::to_string(len[i]) + " keys of pages of " +
                       std::to_string(page_size));
        // With exact pages the first entry and the last mean nothing.
        for (int64_t j = exact ? 1 : 0; j < (exact ? used - 1 : used); j++) {
            int64_t p = page[i * s->widest + j];
            if (p < 0 || p >= MOST / page_size) refuse("segments.pages", std::to_string(p), "a page of the cache");
            s->top = std::max(s->top, p * page_size + (j + 1 < used ? page_size : (len[i] - 1) % page_size + 1));
        }
    }
    s->pages.assign(page, page + S * s->widest);
    int64_t T = from[S];
    auto *slot = slots.as<int64_t>({T});
    for (int64_t t = 0; t < T; t++) {
        if (slot[t] < 0 || slot[t] >= MOST) refuse("segments.slots_T", std::to_string(slot[t]), "a slot of the cache");
        int64_t &top = exact ? s->exact_top : s->top;
        top = std::max(top, slot[t] + 1);
    }
    s->slots.assign(slot, slot + T);
    if (exact) {
        if (page_size != PAGE) refuse("segments.page_size", std::to_string(page_size), "256 with exact pages");
        auto *own = exact.as<int64_t>({S, 2});
        auto take = [&](const char *what, int64_t p, int64_t &top) {
            if (p < 0 || p >= MOST / PAGE) refuse(what, std::to_string(p), "a page of the cache");
            top = std::max(top, (p + 1) * PAGE);
        };
        for (int64_t i = 0; i < S; i++) {
            int64_t n = from[i + 1] - from[i];
            if (!n) continue;
            if ((len[i] - n) / PAGE != (len[i] - 1) / PAGE)
                refuse("segments", "rows of positions " + show({len[i] - n, len[i]}), "within one page of 256");
            take("segments.exact_pages", own[2 * i], s->exact_top);
            take("segments.exact_pages", own[2 * i + 1], s->exact_top);
        }
        s->exact.assign(own, own + 2 * S);
        if (closing) {
            const int64_t C = closing.view().size() / 2;
            auto *pair = closing.as<int64_t>({C, 2});
            for (int64_t i = 0; i < C; i++) {
                take("segments.closing", pair[2 * i], s->exact_top);
                take("segments.closing", pair[2 * i + 1], s->top);
            }
            s->closing.assign(pair, pair + 2 * C);
        }
    }
    return s;
}

constexpr std::pair<const char *, Kv> KV_TYPES[] = {
    {"f32", Kv::f32}, {"f16", Kv::f16}, {"bf16", Kv::bf16}, {"int8", Kv::int8}, {"int4", Kv::int4}};

std::unique_ptr<Cache> make_cache(int64_t slots, int64_t K, int64_t H, const std::string &dtype, int64_t exact_slots,
                                  bool rope) {
    const Kv *type = nullptr;
    for (auto &known : KV_TYPES)
        if (dtype == known.first) type = &known.second;
    if (!type) refuse("cache dtype", dtype, "f32, f16, bf16, int8 or int4");
    int64_t size;
    for (int64_t n : {slots, exact_slots})
        if (n < 0 || K < 1 || H < 1 || K > 1 << 20 || H > 1 << 20 || n > (int64_t)1 << 40 ||
            __builtin_mul_overflow(n, 8 * K * round_up(H, 16), &size))
            refuse("cache of slots, heads, head size", show({n, K, H}),
                   "positive numbers whose product fits in memory");
    if ((*type == Kv::int8 || *type == Kv::int4) && H > MOST_DIMS)
        refuse("head size", std::to_string(H), "at most " + std::to_string(MOST_DIMS) + " in a cache of " + dtype);
    if (*type == Kv::int4 ? slots % PAGE || exact_slots % PAGE || !exact_slots : exact_slots != 0)
        refuse("cache slots, exact slots", show({slots, exact_slots}),
               *type == Kv::int4 ? "multiples of 256, some exact" : "no exact ones, which are for int4");
    return std::make_unique<Cache>(slots, K, H, *type, exact_slots, rope);
}

void op_attend(nb::handle q_, nb::handle k_, nb::handle v_, const Spans &spans, Cache *cache, bool causal,
               nb::handle o_) {
    View q(q_, "q_TNH"), k(k_, "k_TKH"), v(v_, "v_TKH"), o(o_, "o_TNH", true);
    auto s = q.shape(), ks = k.shape();
    if (s.size() != 3 || ks.size() != 3) refuse("q_TNH, k_TKH", show(s) + ", " + show(ks), "three axes each");
    int64_t T = s[0], N = s[1], H = s[2], K = ks[1];
    if (K < 1 || H < 1 || N < 1 || N % K)
        refuse("query heads", std::to_string(N), "a multiple of the " + std::to_string(K) + " KV heads");
    auto *fq = q.as<const float>({T, N, H});
    auto *fk = k.as<const float>({T, K, H});
    auto *fv = v.as<const float>({T, K, H});
    auto *fo = o.as<float>({T, N, H});
    if (spans.starts.back() != T)
        refuse("rows", std::to_string(T), std::to_string(spans.starts.back()) + ", the rows of the segments");
    if (cache) {
        if (!spans.page_size) refuse("segments", "no pages", "pages and slots, since there is a cache");
        if (cache->K != K || cache->H != H)
            refuse("cache heads and head size", show({cache->K, cache->H}), show({K, H}));
        if (bool(cache->exact) != !spans.exact.empty() && spans.starts.size() > 1)
            refuse("segments", cache->exact ? "no exact pages" : "exact pages",
                   cache->exact ? "them, since the cache is int4" : "none, since the cache is not int4");
        if (cache->exact && spans.exact_top > cache->exact->slots)
            refuse("segments", "exact slots up to " + std::to_string(spans.exact_top),
                   "at most the cache's " + std::to_string(cache->exact->slots));
        if (spans.top > cache->slots)
            refuse("segments", "slots up to " + std::to_string(spans.top),
                   "at most the cache's " + std::to_string(cache->slots));
    } else if (spans.page_size) {
        refuse("segments", "pages", "none, since there is no cache");
    }
    nb::gil_scoped_release free;
    Turn turn;
    attend(turn.pool, spans, cache, {T, N, K, H}, fq, fk, fv, causal, fo);
}

const int64_t *checked_slots(const View &slots, int64_t top) {
    auto *at = slots.as<const int64_t>({slots.size()});
    for (int64_t i = 0; i < slots.size(); i++)
        if (at[i] < 0 || at[i] >= top) refuse("slots", std::to_string(at[i]), "below " + std::to_string(top));
    return at;
}

void kv_move(Cache &c, nb::handle slots_, nb::handle keys_, nb::handle values_, bool write) {
    View slots(slots_, "slots"), keys(keys_, "keys", !write), values(values_, "values", !write);
    auto *at = checked_slots(slots, write ? c.writable() : c.readable());
    int64_t n = slots.size();
    View *sides[] = {&keys, &values};
    float *data[2];
    for (int side = 0; side < 2; side++) data[side] = const_cast<float *>(sides[side]->as<const float>({n, c.K, c.H}));
    nb::gil_scoped_release free;
    Turn turn;
    for (int64_t i = 0; i < n; i++)
        for (int64_t h = 0; h < c.K; h++) {
            float *key = data[0] + (i * c.K + h) * c.H, *value = data[1] + (i * c.K + h) * c.H;
            if (write) c.write(at[i], h, key, value);
            else c.read(at[i], h, key, value);
        }
}

void copy_pages(Cache &both, nb::handle source_, nb::handle target_, int64_t page_size, bool exact) {
    if (exact && !both.exact) refuse("pool", "exact", "one that the cache has: exact pages are of int4");
    Cache &c = exact ? *both.exact : both;
    if (both.exact && page_size != PAGE) refuse("page size", std::to_string(page_size), "256 in a cache of int4");
    View source(source_, "source pages"), target(target_, "target pages");
    int64_t n = source.size();
    auto *from = source.as<const int64_t>({n});
    auto *to = target.as<const int64_t>({n});
    if (page_size < 1 || page_size > std::max<int64_t>(c.slots, 1))
        refuse("page size", std::to_string(page_size), "1 to " + std::to_string(c.slots));
    int64_t pages = c.slots / page_size;
    for (int64_t i = 0; i < n; i++)
        for (int64_t p : {from[i], to[i]})
            if (p < 0 || p >= pages) refuse("page", std::to_string(p), "below " + std::to_string(pages));
    nb::gil_scoped_release free;
    Turn turn;
    for (int64_t i = 0; i < n; i++) c.copy(from[i], to[i], page_size);
}

// Exact pages to coarse ones, as the passes that fill them do it.
void close_pages(Cache &c, nb::handle exact_, nb::handle pages_) {
    View exact(exact_, "exact pages"), pages(pages_, "pages");
    if (!c.exact) refuse("cache", "no exact pages", "a cache of int4");
    int64_t n = exact.size();
    auto *from = exact.as<const int64_t>({n});
    auto *to = pages.as<const int64_t>({n});
    for (int64_t i = 0; i < n; i++) {
        if (from[i] < 0 || from[i] >= c.exact->slots / PAGE)
            refuse("exact page", std::to_string(from[i]), "below " + std::to_string(c.exact->slots / PAGE));
        if (to[i] < 0 || to[i] >= c.slots / PAGE)
            refuse("page", std::to_string(to[i]), "below " + std::to_string(c.slots / PAGE));
    }
    nb::gil_scoped_release free;
    Turn turn;
    turn.pool.run(n * c.K, [&](int64_t i, int) { c.close(from[i / c.K], to[i / c.K], i % c.K); });
}

nb::dict isa_info() {
    nb::list names, features;
    for (const Kernels *k : available_kernels()) names.append(k->name);
    for (const std::string &f : cpu_features()) features.append(f.c_str());
    nb::dict info;
    info["available"] = names;
    info["chosen"] = kernels().name;
    info["features"] = features;
    info["threads"] = Pool::get().threads();
    return info;
}

}  // namespace

void register_ops(nb::module_ &m) {
    if (const char *name = std::getenv("HERD_ISA"); name && *name) {
        try {
            use_kernels(name);
        } catch (const std::invalid_argument &e) {
            throw nb::value_error(e.what());
        }
    }
    nb::class_<Weight>(m, "Weight")
        .def("outputs", &outputs, "start"_a, "stop"_a)
        .def_prop_ro("experts", &Weight::E)
        .def_prop_ro("num_outputs", &Weight::O)
        .def_prop_ro("num_inputs", &Weight::K);
    nb::class_<NormWeight>(m, "NormWeight");
    nb::class_<Spans>(m, "Spans");
    nb::class_<Cache>(m, "Cache")
        .def_ro("num_slots", &Cache::slots)
        .def_ro("num_heads", &Cache::K)
        .def_ro("head_size", &Cache::H)
        .def_prop_ro("nbytes", &Cache::bytes);
    m.def("weight", &make_weight, "array"_a, "format"_a, "shape"_a, "input_major"_a = false, "bias"_a = nb::none(),
          "strips"_a = false);
    m.def("pack", &op_pack, "format"_a, "array"_a, "shape"_a, "out"_a);
    m.def("norm_weight", &make_norm, "w"_a, "b"_a.none(), "eps"_a);
    m.def("spans", &make_spans, "starts"_a, "lengths"_a, "pages"_a.none(), "slots"_a.none(), "page_size"_a,
          "exact"_a = nb::none(), "closing"_a = nb::none());
    m.def("cache", &make_cache, "slots"_a, "heads"_a, "head_size"_a, "dtype"_a, "exact_slots"_a = 0,
          "rope"_a = true);
    m.def("norm", &op_norm);
    m.def("linear", &op_linear, "x"_a, "w"_a, "y"_a, "expert"_a = 0, "add"_a = false);
    m.def("qkv", &op_qkv, "x"_a, "norm"_a, "wq"_a, "wk"_a, "wv"_a, "H"_a, "cos"_a.none(), "sin"_a.none(),
          "qk_eps"_a.none(), "q_scale"_a.none(), "q"_a, "k"_a, "v"_a);
    m.def("shape_heads", &op_shape_heads, "q"_a, "k"_a, "cos"_a.none(), "sin"_a.none(), "qk_eps"_a.none(),
          "q_scale"_a.none());
    m.def("mlp", &op_mlp, "x"_a, "norm"_a, "gate"_a.none(), "up"_a, "down"_a, "y"_a.none());
    m.def("moe", &op_moe, "x"_a, "norm"_a, "router"_a, "gate"_a, "up"_a, "down"_a, "shared_gate"_a.none(),
          "shared_up"_a, "shared_down"_a, "num_experts"_a, "per_token"_a, "y"_a.none(), "experts"_a, "scores"_a);
    m.def("choose", &op_choose);
    m.def("head", &op_head, "x"_a, "norm"_a, "w"_a, "rows"_a.none(), "y"_a);
    m.def("embed", &op_embed);
    m.def("gelu", &op_gelu);
    m.def("silu_mul", &op_silu_mul);
    m.def("attend", &op_attend, "q"_a, "k"_a, "v"_a, "spans"_a, "cache"_a.none(), "causal"_a, "o"_a);
    m.def("kv_move", &kv_move);
    m.def("copy_pages", &copy_pages, "cache"_a, "source"_a, "target"_a, "page_size"_a, "exact"_a = false);
    m.def("close_pages", &close_pages);
    m.def("isa_info", &isa_info,
          "Instruction sets that this processor and build have, the one in use, the processor's features, threads.");
    m.def("set_isa_for_tests", [](const std::string &name) {
        try {
            use_kernels(name);
        } catch (const std::invalid_argument &e) {
            throw nb::value_error(e.what());
        }
    });
    m.def("set_threads", &Pool::set_threads, "threads"_a, "0: as many as processors this process may use.");
}

}  // namespace herd
