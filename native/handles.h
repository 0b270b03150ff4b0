// What the files of the door share: handles of weights, and the formats by name.
#pragma once
#include <nanobind/nanobind.h>

#include <memory>
#include <string>
#include <vector>

#include "core/attention.h"
#include "core/layers.h"
#include "view.h"

namespace herd {

struct FormatInfo {
    const char *name;
    Type type;
};

const FormatInfo &format_named(const std::string &name);  // refuses what is none

// A weight: its matrix, its bias in float32, and the arrays that own the bytes.
struct Weight {
    Linear linear;
    std::shared_ptr<View> owner;
    std::vector<float> bias;

    int64_t E() const { return linear.m.E; }
    int64_t O() const { return linear.m.O; }
    int64_t K() const { return linear.m.K; }
};

// A norm's weights, in float32.
struct NormWeight {
    std::vector<float> w, b;
    float eps = 0;
    Norm at(int64_t D) const {
        if ((int64_t)w.size() != D) refuse("norm width", std::to_string(w.size()), std::to_string(D));
        return {w.data(), b.empty() ? nullptr : b.data(), eps};
    }
};

// The weight as one matrix [O, K] (O below 0: any); refuses another shape.
const Linear &checked(const Weight *w, const char *what, int64_t O, int64_t K);

// Weights of a layer's parts over rows of D, shapes checked against each other.
Mlp checked_mlp(const Weight *gate, const Weight *up, const Weight *down, int64_t D);
Moe checked_moe(const Weight &router, const Weight &gate, const Weight &up, const Weight &down, const Mlp &shared,
                int64_t D, int64_t E, int64_t A);
Projections checked_projections(const Weight &wq, const Weight &wk, const Weight &wv, int64_t D, int64_t H);

// What happens to heads of q and k, and the arrays that it is read from.
struct HeadArgs {
    Optional cos, sin, q_scale;
    Heads heads;
    HeadArgs(int64_t T, int64_t H, nb::handle cos, nb::handle sin, nb::object qk_eps, nb::handle q_scale);
};

int64_t rows_of(const View &x, const char *what);  // of an array of two axes

// Refuses segments that do not fit these rows, or the cache (null: the keys are the rows).
void check_attention(const Spans &spans, const Cache *cache, int64_t T, int64_t N, int64_t K, int64_t H);

void register_weights(nb::module_ &m);
void register_layers(nb::module_ &m);
void register_attention(nb::module_ &m);
void register_stack(nb::module_ &m);

}  // namespace herd
