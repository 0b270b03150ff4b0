// A Python buffer (numpy array) as pointer and shape, with one-line errors: what, got, expected.
#pragma once
#include <nanobind/nanobind.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace herd {

namespace nb = nanobind;

inline std::string show(const std::vector<int64_t> &shape) {
    std::string text = "[";
    for (size_t i = 0; i < shape.size(); i++)
        text += (i ? ", " : "") + (shape[i] < 0 ? std::string("any") : std::to_string(shape[i]));
    return text + "]";
}

[[noreturn]] inline void refuse(const char *what, const std::string &got, const std::string &expected) {
    throw nb::value_error((std::string(what) + ": got " + got + ", expected " + expected).c_str());
}

// Holds the buffer; made and dropped with the GIL held.
class View {
  public:
    View() = default;
    View(nb::handle array, const char *what, bool writable = false) : what_(what) {
        int flags = PyBUF_FORMAT | PyBUF_C_CONTIGUOUS | (writable ? PyBUF_WRITABLE : 0);
        if (PyObject_GetBuffer(array.ptr(), &buffer_, flags) != 0) {
            PyErr_Clear();
            std::string type = nb::cast<std::string>(nb::str(nb::type_name(array.type())));
            refuse(what,
                   "a " + type + " that is not " + (writable ? "writable and " : "") + "C-contiguous or has no buffer",
                   writable ? "a writable C-contiguous numpy array" : "a C-contiguous numpy array");
        }
        held_ = true;
    }
    View(View &&other) noexcept { *this = std::move(other); }
    View &operator=(View &&other) noexcept {
        if (this != &other) {
            drop();
            buffer_ = other.buffer_, held_ = other.held_, what_ = other.what_;
            other.held_ = false;
        }
        return *this;
    }
    ~View() { drop(); }

    std::vector<int64_t> shape() const { return {buffer_.shape, buffer_.shape + buffer_.ndim}; }
    char kind() const {
        const char *f = buffer_.format ? buffer_.format : "B";
        while (*f == '=' || *f == '<' || *f == '@' || *f == '^') f++;
        return f[0] && !f[1] ? f[0] : '?';
    }
    int64_t size() const { return buffer_.len / (buffer_.itemsize ? buffer_.itemsize : 1); }
    int64_t bytes() const { return buffer_.len; }
    uint8_t *data() const { return static_cast<uint8_t *>(buffer_.buf); }

    // The data as T when element type and shape (-1: any) agree; an error otherwise.
    template <class T>
    T *as(const std::vector<int64_t> &expected) const {
        using Plain = std::remove_const_t<T>;
        char k = kind();
        bool right = std::is_same_v<Plain, float>     ? k == 'f'
                     : std::is_same_v<Plain, int64_t> ? (k == 'l' || k == 'q') && buffer_.itemsize == 8
                     : std::is_same_v<Plain, int32_t> ? k == 'i'
                                                      : false;
        const char *name = std::is_same_v<Plain, float>     ? "float32"
                           : std::is_same_v<Plain, int64_t> ? "int64"
                                                            : "int32";
        if (!right) refuse(what_, std::string("element type '") + (buffer_.format ? buffer_.format : "?") + "'", name);
        auto got = shape();
        bool fits = got.size() == expected.size();
        for (size_t i = 0; fits && i < got.size(); i++) fits = expected[i] < 0 || expected[i] == got[i];
        if (!fits) refuse(what_, "shape " + show(got), show(expected));
        if (reinterpret_cast<uintptr_t>(buffer_.buf) % alignof(T) && buffer_.len)
            refuse(what_, "an unaligned array", "an aligned one");
        return static_cast<T *>(buffer_.buf);
    }

  private:
    void drop() {
        if (held_) PyBuffer_Release(&buffer_);
        held_ = false;
    }
    Py_buffer buffer_{};
    bool held_ = false;
    const char *what_ = "";
};

// None, or an array of this shape.
class Optional {
  public:
    Optional(nb::handle array, const char *what) {
        if (!array.is_none()) view_ = View(array, what), given_ = true;
    }
    template <class T>
    const T *as(const std::vector<int64_t> &shape) const {
        return given_ ? view_.as<const T>(shape) : nullptr;
    }
    const View &view() const { return view_; }
    explicit operator bool() const { return given_; }

  private:
    View view_;
    bool given_ = false;
};

}  // namespace herd
