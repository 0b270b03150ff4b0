// The door's layer in one call: its weights are checked once, when they are put together.
#include <nanobind/stl/unique_ptr.h>

#include "core/block.h"
#include "handles.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace herd {
namespace {

// A layer's weights; `parts` keeps their handles alive.
struct BlockWeights {
    Block block;
    nb::tuple parts;
};

// experts: (router, gate, up, down, E, A) and then `ffn` is the shared expert; or None. ffn: (gate or None, up, down).
std::unique_ptr<BlockWeights> make_block(nb::tuple parts, int64_t H, nb::object experts, nb::tuple ffn) {
    auto weight = [](nb::handle x) { return x.is_none() ? nullptr : &nb::cast<const Weight &>(x); };
    if (parts.size() != 6 || ffn.size() != 3)
        refuse("parts, ffn", show({(int64_t)parts.size(), (int64_t)ffn.size()}), "norm, q, k, v, o, norm; gate, up, down");
    auto made = std::make_unique<BlockWeights>();
    Block &b = made->block;
    const Weight *in[3] = {weight(parts[1]), weight(parts[2]), weight(parts[3])};
    for (const Weight *w : in)
        if (!w) refuse("wq, wk, wv", "None", "weights");
    b.D = in[0]->K(), b.H = H;
    b.norm1 = nb::cast<const NormWeight &>(parts[0]).at(b.D);
    b.norm2 = nb::cast<const NormWeight &>(parts[5]).at(b.D);
    b.in = checked_projections(*in[0], *in[1], *in[2], b.D, H);
    b.out = &checked(weight(parts[4]), "wo", b.D, in[0]->O());
    b.mlp = checked_mlp(weight(ffn[0]), weight(ffn[1]), weight(ffn[2]), b.D);
    if (!experts.is_none()) {
        auto e = nb::cast<nb::tuple>(experts);
        if (e.size() != 6) refuse("experts", show({(int64_t)e.size()}), "router, gate, up, down, E, A");
        b.experts = true;
        b.moe = checked_moe(nb::cast<const Weight &>(e[0]), nb::cast<const Weight &>(e[1]),
                            nb::cast<const Weight &>(e[2]), nb::cast<const Weight &>(e[3]), b.mlp, b.D,
                            nb::cast<int64_t>(e[4]), nb::cast<int64_t>(e[5]));
    }
    made->parts = nb::make_tuple(parts, experts, ffn);
    return made;
}

void op_block(nb::handle x_, const BlockWeights &w, nb::handle cos, nb::handle sin, nb::object qk_eps,
              nb::handle q_scale, const Spans &spans, Cache *cache, nb::object experts_, nb::object scores_) {
    const Block &b = w.block;
    View x(x_, "x_TD", true);
    int64_t T = rows_of(x, "x_TD");
    auto *to = x.as<float>({T, b.D});
    HeadArgs args(T, b.H, cos, sin, qk_eps, q_scale);
    check_attention(spans, cache, T, b.N(), b.K(), b.H);
    View experts, scores;
    int32_t *e = nullptr;
    float *s = nullptr;
    if (b.experts) {
        experts = View(experts_, "experts_TA", true), scores = View(scores_, "scores_TA", true);
        e = experts.as<int32_t>({T, b.moe.A}), s = scores.as<float>({T, b.moe.A});
    }
    nb::gil_scoped_release free;
    Turn turn;
    block(turn.pool, b, args.heads, spans, cache, T, to, e, s);
}

}  // namespace

void register_block(nb::module_ &m) {
    nb::class_<BlockWeights>(m, "Block");
    m.def("block_weights", &make_block, "parts"_a, "H"_a, "experts"_a.none(), "ffn"_a);
    m.def("block", &op_block, "x"_a, "weights"_a, "cos"_a.none(), "sin"_a.none(), "qk_eps"_a.none(), "q_scale"_a.none(),
          "spans"_a, "cache"_a.none(), "experts"_a.none(), "scores"_a.none());
}

}  // namespace herd
