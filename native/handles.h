// What the files of the door share: handles of weights, and the formats by name.
#pragma once
#include <nanobind/nanobind.h>

#include <memory>
#include <string>
#include <vector>

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

int64_t rows_of(const View &x, const char *what);  // of an array of two axes

void register_weights(nb::module_ &m);
void register_layers(nb::module_ &m);
void register_attention(nb::module_ &m);

}  // namespace herd
