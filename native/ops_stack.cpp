// The door's layers in one call: their weights are checked once, when they are put together (herd.ops.native_stack).
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>

#include "core/stack.h"
#include "handles.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace herd {
namespace {

// The layers; `parts` keeps the handles alive that they were made of.
struct Stack {
    std::vector<Layer> layers;
    int64_t A = 0;
    nb::list parts;
};

// part: (norm1, norm2), (q, k, v, o, H, qk_eps or None), (router, gate, up, down, E, A) or None, (gate or None, up, down),
// (rope, chunked, tuned).
Layer make_layer(nb::handle part) {
    using Parts = nb::tuple;
    auto [norms, attention, experts, ffn, kinds] = nb::cast<std::tuple<Parts, Parts, nb::object, Parts, Parts>>(part);
    auto weight = [](nb::handle x) { return x.is_none() ? nullptr : &nb::cast<const Weight &>(x); };
    Layer l;
    l.H = nb::cast<int64_t>(attention[4]);
    const Weight &q = nb::cast<const Weight &>(attention[0]);
    l.D = q.K();
    const Projections in =
        checked_projections(q, nb::cast<const Weight &>(attention[1]), nb::cast<const Weight &>(attention[2]), l.D, l.H);
    l.q = *in.q, l.k = *in.k, l.v = *in.v;
    l.out = checked(weight(attention[3]), "wo", l.D, l.q.m.O);
    l.norm1 = nb::cast<const NormWeight &>(norms[0]).at(l.D);
    l.norm2 = nb::cast<const NormWeight &>(norms[1]).at(l.D);
    l.unit = !nb::object(attention[5]).is_none();
    if (l.unit) l.unit_eps = (float)nb::cast<double>(attention[5]);
    const Mlp mlp = checked_mlp(weight(ffn[0]), weight(ffn[1]), weight(ffn[2]), l.D);
    l.gated = mlp.gate;
    if (mlp.gate) l.gate = *mlp.gate;
    l.up = *mlp.up, l.down = *mlp.down;
    if (!experts.is_none()) {
        const Parts e = nb::cast<Parts>(experts);
        const Moe m = checked_moe(nb::cast<const Weight &>(e[0]), nb::cast<const Weight &>(e[1]),
                                  nb::cast<const Weight &>(e[2]), nb::cast<const Weight &>(e[3]), mlp, l.D,
                                  nb::cast<int64_t>(e[4]), nb::cast<int64_t>(e[5]));
        l.router = *m.router, l.expert_gate = m.gate, l.expert_up = m.up, l.expert_down = m.down, l.E = m.E, l.A = m.A;
    }
    l.rope = nb::cast<bool>(kinds[0]), l.chunked = nb::cast<bool>(kinds[1]), l.tuned = nb::cast<bool>(kinds[2]);
    return l;
}

std::unique_ptr<Stack> make_stack(nb::list parts) {
    auto made = std::make_unique<Stack>();
    for (nb::handle part : parts) {
        const Layer l = make_layer(part);
        if (!made->layers.empty() && l.D != made->layers[0].D)
            refuse("width of a layer", std::to_string(l.D), std::to_string(made->layers[0].D));
        if (l.E && made->A && l.A != made->A) refuse("experts per token", std::to_string(l.A), std::to_string(made->A));
        if (l.E) made->A = l.A;
        made->layers.push_back(l);
    }
    if (made->layers.empty()) refuse("layers", "none", "at least one");
    made->parts = parts;
    return made;
}

void op_layers(nb::handle x_, const Stack &stack_, nb::object far_, nb::object near_, nb::handle q_scale_,
               const Spans &whole, const Spans &chunk, nb::tuple caches_, nb::handle experts_, nb::handle scores_,
               Threads *threads) {
    const auto &layers = stack_.layers;
    View x(x_, "x_TD", true), experts(experts_, "experts_LTA", true), scores(scores_, "scores_LTA", true);
    const int64_t T = rows_of(x, "x_TD"), L = (int64_t)layers.size(), A = experts.shape().back();
    auto *to = x.as<float>({T, layers[0].D});
    Pass p;
    p.T = T, p.A = A;
    p.experts = experts.as<int32_t>({L, T, A}), p.scores = scores.as<float>({L, T, A});
    if (stack_.A && stack_.A != A) refuse("experts_LTA", show(experts.shape()), show({L, T, stack_.A}));
    std::vector<Optional> tables;
    tables.reserve(5);
    int64_t widths[2] = {-1, -1};
    for (int i = 0; i < 2; i++) {
        nb::object pair = i ? near_ : far_;
        if (pair.is_none()) continue;
        const auto both = nb::cast<nb::tuple>(pair);
        if (both.size() != 2) refuse("cos, sin", show({(int64_t)both.size()}), "two tables");
        const float **places[2] = {&p.cos[i], &p.sin[i]};
        for (int j = 0; j < 2; j++) {
            tables.emplace_back(both[j], j ? "sin_TM" : "cos_TM");
            *places[j] = tables.back().as<float>({T, -1});
            if (tables.back()) widths[i] = tables.back().view().shape()[1];
        }
    }
    tables.emplace_back(q_scale_, "q_scale_T");
    p.q_scale = tables.back().as<float>({T});
    p.spans[0] = &whole, p.spans[1] = &chunk;
    if ((int64_t)caches_.size() != L) refuse("caches", std::to_string(caches_.size()), std::to_string(L));
    std::vector<Cache *> caches;
    for (size_t i = 0; i < layers.size(); i++) {
        const Layer &l = layers[i];
        caches.push_back(nb::cast<Cache *>(caches_[i]));
        check_attention(*p.spans[l.chunked], caches.back(), T, l.q.m.O / l.H, l.k.m.O / l.H, l.H);
        if (l.rope && (!p.cos[l.chunked] || !p.sin[l.chunked] || l.H % 2 || widths[l.chunked] != l.H / 2))
            refuse("cos, sin", show({T, widths[l.chunked]}), show({T, l.H / 2}));
        if (l.tuned && !p.q_scale) refuse("q_scale_T", "None", show({T}));
    }
    p.caches = caches.data();
    nb::gil_scoped_release free;
    Turn turn(threads);
    stack(turn.pool, layers, p, to);
}

}  // namespace

void register_stack(nb::module_ &m) {
    nb::class_<Stack>(m, "Stack");
    m.def("stack", &make_stack, "layers"_a);
    m.def("layers", &op_layers, "x"_a, "stack"_a, "far"_a.none(), "near"_a.none(), "q_scale"_a.none(), "whole"_a,
          "chunk"_a, "caches"_a, "experts"_a, "scores"_a, "threads"_a = nb::none());
}

}  // namespace herd
