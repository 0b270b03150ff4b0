// The door's layers: shapes and ids are checked here, with the GIL held; the work runs without it.
// Nothing below trusts Python's numbers.
#include <algorithm>
#include <tuple>

#include <nanobind/stl/string.h>

#include "handles.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace herd {

int64_t rows_of(const View &x, const char *what) {
    auto s = x.shape();
    if (s.size() != 2) refuse(what, "shape " + show(s), "two axes");
    return s[0];
}

Mlp checked_mlp(const Weight *gate, const Weight *up, const Weight *down, int64_t D) {
    Mlp mlp;
    mlp.up = &checked(up, "up weight", -1, D);
    int64_t F = up->O();
    if (gate) mlp.gate = &checked(gate, "gate weight", F, D);
    mlp.down = &checked(down, "down weight", D, F);
    return mlp;
}

namespace {

Moe checked_stacks(const Weight &gate, const Weight &up, const Weight &down, int64_t D, int64_t E, int64_t A) {
    if (E < 1 || A < 1 || A > E) refuse("experts, experts per token", show({E, A}), "1 <= A <= E");
    Moe m;
    m.E = E, m.A = A;
    int64_t F = gate.O();
    for (auto [w, O, K, what] :
         {std::tuple{&gate, F, D, "expert gate"}, {&up, F, D, "expert up"}, {&down, D, F, "expert down"}}) {
        if (w->E() != E || w->O() != O || w->K() != K)
            refuse(what, "stack " + show({w->E(), w->O(), w->K()}), show({E, O, K}));
        if (w->linear.bias) refuse(what, "a bias", "none");
    }
    m.gate = gate.linear.m, m.up = up.linear.m, m.down = down.linear.m;
    return m;
}

}  // namespace

Moe checked_moe(const Weight &router, const Weight &gate, const Weight &up, const Weight &down, const Mlp &shared,
                int64_t D, int64_t E, int64_t A) {
    const Linear &choice = checked(&router, "router", E, D);
    Moe m = checked_stacks(gate, up, down, D, E, A);
    m.router = &choice;
    m.shared = shared;
    return m;
}

Projections checked_projections(const Weight &wq, const Weight &wk, const Weight &wv, int64_t D, int64_t H) {
    if (H < 1) refuse("head size", std::to_string(H), "1 or more");
    Projections p{&checked(&wq, "wq", -1, D), &checked(&wk, "wk", -1, D), &checked(&wv, "wv", wk.O(), D)};
    if (wq.O() % H || wk.O() % H)
        refuse("wq, wk outputs", show({wq.O(), wk.O()}), "multiples of the head size " + std::to_string(H));
    return p;
}

HeadArgs::HeadArgs(int64_t T, int64_t H, nb::handle cos_, nb::handle sin_, nb::object qk_eps, nb::handle q_scale_)
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

namespace {

void op_norm(nb::handle x_, const NormWeight &norm, nb::handle y_, Threads *threads) {
    View x(x_, "x_TD"), y(y_, "y_TD", true);
    int64_t T = rows_of(x, "x_TD"), D = x.shape()[1];
    Norm n = norm.at(D);
    auto *from = x.as<const float>({T, D});
    auto *to = y.as<float>({T, D});
    nb::gil_scoped_release free;
    Turn turn(threads);
    normalise(turn.pool, n, from, T, D, to);
}

// y (+)= w[expert] x + bias
void op_linear(nb::handle x_, const Weight &w, nb::handle y_, int64_t expert, bool add, Threads *threads) {
    View x(x_, "x_TI"), y(y_, "y_TO", true);
    int64_t T = rows_of(x, "x_TI");
    if (expert < 0 || expert >= w.E()) refuse("expert", std::to_string(expert), "below " + std::to_string(w.E()));
    auto *from = x.as<const float>({T, w.K()});
    auto *to = y.as<float>({T, w.O()});
    nb::gil_scoped_release free;
    Turn turn(threads);
    linear(turn.pool, w.linear, expert, from, T, to, add ? Finish::add : Finish::store);
}

void op_qkv(nb::handle x_, const NormWeight &norm, const Weight &wq, const Weight &wk, const Weight &wv, int64_t H,
            nb::handle cos, nb::handle sin, nb::object qk_eps, nb::handle q_scale, nb::handle q_, nb::handle k_,
            nb::handle v_, Threads *threads) {
    View x(x_, "x_TD"), q(q_, "q_TNH", true), k(k_, "k_TKH", true), v(v_, "v_TKH", true);
    int64_t T = rows_of(x, "x_TD"), D = x.shape()[1];
    auto *from = x.as<const float>({T, D});
    Norm n = norm.at(D);
    HeadArgs args(T, H, cos, sin, qk_eps, q_scale);
    const Projections p = checked_projections(wq, wk, wv, D, H);
    auto *yq = q.as<float>({T, wq.O() / H, H});
    auto *yk = k.as<float>({T, wk.O() / H, H});
    auto *yv = v.as<float>({T, wv.O() / H, H});
    nb::gil_scoped_release free;
    Turn turn(threads);
    qkv(turn.pool, n, p, args.heads, from, T, D, yq, yk, yv);
}

void op_shape_heads(nb::handle q_, nb::handle k_, nb::handle cos, nb::handle sin, nb::object qk_eps,
                    nb::handle q_scale, Threads *threads) {
    View q(q_, "q_TNH", true), k(k_, "k_TKH", true);
    auto s = q.shape();
    if (s.size() != 3) refuse("q_TNH", "shape " + show(s), "three axes");
    int64_t T = s[0], H = s[2];
    auto *yq = q.as<float>({T, -1, H});
    auto *yk = k.as<float>({T, -1, H});
    HeadArgs args(T, H, cos, sin, qk_eps, q_scale);
    int64_t N = s[1], K = k.shape()[1];
    nb::gil_scoped_release free;
    Turn turn(threads);
    shape_heads(turn.pool, args.heads, T, N, K, yq, yk);
}

void op_mlp(nb::handle x_, const NormWeight &norm, const Weight *gate, const Weight &up, const Weight &down,
            nb::object y_, Threads *threads) {
    View x(x_, "x_TD", y_.is_none());
    int64_t T = rows_of(x, "x_TD"), D = x.shape()[1];
    Norm n = norm.at(D);
    const Mlp weights = checked_mlp(gate, &up, &down, D);
    auto *from = x.as<const float>({T, D});
    View y = y_.is_none() ? View(x_, "x_TD", true) : View(y_, "y_TD", true);
    auto *to = y.as<float>({T, D});
    bool add = y_.is_none();
    nb::gil_scoped_release free;
    Turn turn(threads);
    mlp(turn.pool, n, weights, from, T, D, to, add);
}

void op_moe(nb::handle x_, const NormWeight &norm, const Weight &router, const Weight &gate, const Weight &up,
            const Weight &down, const Weight *shared_gate, const Weight &shared_up, const Weight &shared_down,
            int64_t E, int64_t A, nb::object y_, nb::handle experts_, nb::handle scores_, Threads *threads) {
    View x(x_, "x_TD", y_.is_none()), experts(experts_, "experts_TA", true), scores(scores_, "scores_TA", true);
    int64_t T = rows_of(x, "x_TD"), D = x.shape()[1];
    Norm n = norm.at(D);
    const Moe m =
        checked_moe(router, gate, up, down, checked_mlp(shared_gate, &shared_up, &shared_down, D), D, E, A);
    auto *from = x.as<const float>({T, D});
    View y = y_.is_none() ? View(x_, "x_TD", true) : View(y_, "y_TD", true);
    auto *to = y.as<float>({T, D});
    auto *e = experts.as<int32_t>({T, A});
    auto *s = scores.as<float>({T, A});
    bool residual = y_.is_none();
    nb::gil_scoped_release free;
    Turn turn(threads);
    moe(turn.pool, n, m, from, T, D, to, residual, e, s);
}

// The chosen experts alone, of rows that are normed: y = sum of expert_e(s * h).
void op_experts(nb::handle h_, const Weight &gate, const Weight &up, const Weight &down, nb::handle experts_,
                nb::handle scores_, nb::handle y_, Threads *threads) {
    View h(h_, "h_TD"), experts_of(experts_, "experts_TA"), scores(scores_, "scores_TA"), y(y_, "y_TD", true);
    rows_of(experts_of, "experts_TA");
    int64_t T = rows_of(h, "h_TD"), D = h.shape()[1], A = experts_of.shape()[1];
    const Moe m = checked_stacks(gate, up, down, D, gate.E(), A);
    auto *from = h.as<const float>({T, D});
    auto *e = experts_of.as<const int32_t>({T, A});
    for (int64_t i = 0; i < T * A; i++)
        if (e[i] < 0 || e[i] >= m.E) refuse("expert", std::to_string(e[i]), "0 to " + std::to_string(m.E - 1));
    auto *s = scores.as<const float>({T, A});
    auto *to = y.as<float>({T, D});
    nb::gil_scoped_release free;
    Turn turn(threads);
    Rows all{from, D, T, D};
    experts(turn.pool, m, all, e, s, nullptr, to);
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

void op_head(nb::handle x_, const NormWeight &norm, const Weight &w, nb::handle rows_, nb::handle y_,
             Threads *threads) {
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
    Turn turn(threads);
    head(turn.pool, n, l, from, at, R, D, to);
}

void op_embed(nb::handle ids_, const Weight &w, nb::handle y_, Threads *threads) {
    View ids(ids_, "ids_T"), y(y_, "x_TD", true);
    int64_t T = ids.size();
    auto *at = ids.as<const int64_t>({T});
    const Matrix &m = w.linear.m;
    if (m.E != 1 || m.input_major) refuse("embedding", "a stack or input-major weight", "one matrix [V, D]");
    for (int64_t i = 0; i < T; i++)
        if (at[i] < 0 || at[i] >= m.O) refuse("token id", std::to_string(at[i]), "0 to " + std::to_string(m.O - 1));
    auto *to = y.as<float>({T, m.K});
    nb::gil_scoped_release free;
    Turn turn(threads);
    embed(turn.pool, m, at, T, to);
}

void op_gelu(nb::handle x_, Threads *threads) {
    View x(x_, "x", true);
    auto *v = x.as<float>(x.shape());
    int64_t n = x.size();
    nb::gil_scoped_release free;
    Turn turn(threads);
    each_row(turn.pool, (n + 4095) / 4096, 4096 * 8,
             [&](int64_t i) { kernels().gelu(v + i * 4096, std::min<int64_t>(4096, n - i * 4096), v + i * 4096); });
}

void op_silu_mul(nb::handle gate_, nb::handle up_, nb::handle y_, Threads *threads) {
    View gate(gate_, "gate"), up(up_, "up"), y(y_, "y", true);
    auto *g = gate.as<const float>(gate.shape());
    auto *u = up.as<const float>(gate.shape());
    auto *to = y.as<float>(gate.shape());
    int64_t n = gate.size();
    nb::gil_scoped_release free;
    Turn turn(threads);
    kernels().silu_mul(g, u, n, to);
}

}  // namespace

void register_layers(nb::module_ &m) {
    m.def("norm", &op_norm, "x"_a, "norm"_a, "y"_a, "threads"_a = nb::none());
    m.def("linear", &op_linear, "x"_a, "w"_a, "y"_a, "expert"_a = 0, "add"_a = false,
          "threads"_a = nb::none());
    m.def("qkv", &op_qkv, "x"_a, "norm"_a, "wq"_a, "wk"_a, "wv"_a, "H"_a, "cos"_a.none(), "sin"_a.none(),
          "qk_eps"_a.none(), "q_scale"_a.none(), "q"_a, "k"_a, "v"_a, "threads"_a = nb::none());
    m.def("shape_heads", &op_shape_heads, "q"_a, "k"_a, "cos"_a.none(), "sin"_a.none(), "qk_eps"_a.none(),
          "q_scale"_a.none(), "threads"_a = nb::none());
    m.def("mlp", &op_mlp, "x"_a, "norm"_a, "gate"_a.none(), "up"_a, "down"_a, "y"_a.none(),
          "threads"_a = nb::none());
    m.def("moe", &op_moe, "x"_a, "norm"_a, "router"_a, "gate"_a, "up"_a, "down"_a, "shared_gate"_a.none(),
          "shared_up"_a, "shared_down"_a, "num_experts"_a, "per_token"_a, "y"_a.none(), "experts"_a, "scores"_a,
          "threads"_a = nb::none());
    m.def("experts", &op_experts, "h"_a, "gate"_a, "up"_a, "down"_a, "experts"_a, "scores"_a, "y"_a,
          "threads"_a = nb::none());
    m.def("choose", &op_choose);
    m.def("head", &op_head, "x"_a, "norm"_a, "w"_a, "rows"_a.none(), "y"_a, "threads"_a = nb::none());
    m.def("embed", &op_embed, "ids"_a, "w"_a, "y"_a, "threads"_a = nb::none());
    m.def("gelu", &op_gelu, "x"_a, "threads"_a = nb::none());
    m.def("silu_mul", &op_silu_mul, "gate"_a, "up"_a, "y"_a, "threads"_a = nb::none());
}

}  // namespace herd
