// The door's weights: every array is checked here, with the GIL held, before a pointer is made of it.
#include <cmath>

#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include "core/blocks.h"
#include "handles.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace herd {
namespace {

constexpr FormatInfo FORMATS[] = {
    {"f32", Type::f32},   {"f16", Type::f16},   {"bf16", Type::bf16},     {"q4_0", Type::q4_0},    {"q4_1", Type::q4_1},
    {"q5_0", Type::q5_0}, {"q5_1", Type::q5_1}, {"q8_0", Type::q8_0},     {"q2_k", Type::q2_k},    {"q3_k", Type::q3_k},
    {"q4_k", Type::q4_k}, {"q5_k", Type::q5_k}, {"q6_k", Type::q6_k},     {"iq4_nl", Type::iq4_nl}, {"iq4_xs", Type::iq4_xs},
    {"mxfp4", Type::mxfp4},     {"tq1_0", Type::tq1_0},   {"tq2_0", Type::tq2_0},     {"iq1_s", Type::iq1_s},
    {"iq1_m", Type::iq1_m},     {"iq2_xxs", Type::iq2_xxs}, {"iq2_xs", Type::iq2_xs}, {"iq2_s", Type::iq2_s},
    {"iq3_xxs", Type::iq3_xxs}, {"iq3_s", Type::iq3_s},
};

}  // namespace

const FormatInfo &format_named(const std::string &name) {
    std::string names;
    for (const FormatInfo &f : FORMATS) {
        if (name == f.name) return f;
        names += (names.empty() ? "" : ", ") + std::string(f.name);
    }
    refuse("weight format", name, "one of " + names);
}

const Linear &checked(const Weight *w, const char *what, int64_t O, int64_t K) {
    if (!w) refuse(what, "None", "a weight");
    if (w->E() != 1) refuse(what, "a stack of " + std::to_string(w->E()) + " matrices", "one matrix");
    if ((O >= 0 && w->O() != O) || w->K() != K) refuse(what, "shape " + show({w->O(), w->K()}), show({O, K}));
    return w->linear;
}

namespace {

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
void op_pack(const std::string &format, nb::handle array, std::vector<int64_t> shape, nb::handle out_,
             Threads *threads) {
    auto w = make_weight(array, format, shape, false, nb::none(), false);
    if (!is_packed(w->linear.m.type)) refuse("format to pack", format, "a block format");
    View out(out_, "strips", true);
    const Matrix &m = w->linear.m;
    const int64_t wanted = m.E * ((m.O + STRIP - 1) / STRIP) * STRIP * m.row_bytes;
    if (out.bytes() != wanted) refuse("bytes of the strips", std::to_string(out.bytes()), std::to_string(wanted));
    nb::gil_scoped_release free;
    Turn turn(threads);
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

}  // namespace

void register_weights(nb::module_ &m) {
    nb::class_<Weight>(m, "Weight")
        .def("outputs", &outputs, "start"_a, "stop"_a)
        .def_prop_ro("experts", &Weight::E)
        .def_prop_ro("num_outputs", &Weight::O)
        .def_prop_ro("num_inputs", &Weight::K);
    nb::class_<NormWeight>(m, "NormWeight");
    m.def("weight", &make_weight, "array"_a, "format"_a, "shape"_a, "input_major"_a = false, "bias"_a = nb::none(),
          "strips"_a = false);
    m.def("pack", &op_pack, "format"_a, "array"_a, "shape"_a, "out"_a, "threads"_a = nb::none());
    m.def("norm_weight", &make_norm, "w"_a, "b"_a.none(), "eps"_a);
}

}  // namespace herd
