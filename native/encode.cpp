// `_native.encode`: a float matrix of any strides to the blocks of a number format. Its users are herd.passes.
#include "encode.h"

#include <nanobind/stl/string.h>

#include <cmath>

#include "core/encode.h"
#include "core/pool.h"
#include "view.h"

namespace herd {
namespace {

using namespace nb::literals;

Coding coding_named(const std::string &name) {
    std::string names;
    for (const CodingShape &c : CODINGS) {
        if (name == c.name) return (Coding)(&c - CODINGS);
        names += (names.empty() ? "" : ", ") + std::string(c.name);
    }
    refuse("format", name, "one of " + names);
}

// Any strides, unlike View: a transposed expert, half of a joined stack.
class Strided {
  public:
    Strided(nb::handle array, const char *what) {
        if (PyObject_GetBuffer(array.ptr(), &buffer, PyBUF_FORMAT | PyBUF_STRIDES) != 0) {
            PyErr_Clear();
            refuse(what, nb::cast<std::string>(nb::str(nb::type_name(array.type()))), "a numpy array");
        }
    }
    Strided(const Strided &) = delete;
    ~Strided() { PyBuffer_Release(&buffer); }
    Py_buffer buffer{};
};

nb::tuple op_encode(const std::string &format, nb::handle x_, nb::handle importance_, nb::handle out_,
                    Threads *threads) {
    Coding coding = coding_named(format);
    const CodingShape &shape = CODINGS[(int)coding];
    Strided x(x_, "x [rows, K]");
    Optional importance(importance_, "importance [K]");
    View out(out_, "out [rows, row_bytes]", true);
    if (x.buffer.ndim != 2) refuse("x", std::to_string(x.buffer.ndim) + " axes", "two, [rows, K]");
    const char *f = x.buffer.format ? x.buffer.format : "B";
    while (*f == '=' || *f == '<' || *f == '@') f++;
    Element element = Element::f32;
    if (*f == 'e') element = Element::f16;
    else if (*f == 'H') element = Element::bf16;
    else if (*f != 'f') refuse("x", std::string("element type '") + f + "'", "float32, float16 or uint16 (bfloat16)");
    int64_t rows = x.buffer.shape[0], K = x.buffer.shape[1];
    if (K % shape.block || !K) refuse("K", std::to_string(K), "a multiple of " + std::to_string(shape.block));
    int64_t row_bytes = K / shape.block * shape.bytes;
    if (out.kind() != 'B' || out.shape() != std::vector<int64_t>{rows, row_bytes})
        refuse("out", show(out.shape()) + " of '" + out.kind() + "'", show({rows, row_bytes}) + " of uint8");
    const float *weights = importance.as<float>({K});
    for (int64_t k = 0; weights && k < K; k++)
        if (!(weights[k] > 0) || !std::isfinite(weights[k]))
            refuse("importance", std::to_string(weights[k]) + " at column " + std::to_string(k), "finite, above 0");
    Given given{(const uint8_t *)x.buffer.buf, element, x.buffer.strides[0], x.buffer.strides[1], rows, K, weights};
    Lost lost;
    {
        nb::gil_scoped_release free;
        Turn turn(threads);
        lost = encode(turn.pool, coding, given, out.data());
    }
    nb::object fault = nb::none();
    if (lost.fault != Fault::none)
        fault = nb::make_tuple(lost.fault == Fault::not_finite ? "not finite" : "too large", lost.at / K, lost.at % K);
    return nb::make_tuple(lost.error2, lost.weighted2, lost.x2, lost.most, fault);
}

}  // namespace

void register_encode(nb::module_ &m) {
    m.def("encode", &op_encode, "format"_a, "x"_a, "importance"_a.none(), "out"_a, "threads"_a = nb::none(),
          "Fills out; returns sums of e^2, importance * e^2 and x^2, the largest |e|, and None or the first weight that "
          "cannot be held: (why, row, column).");
}

}  // namespace herd
