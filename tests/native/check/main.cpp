// Checks the kernels of one instruction set without Python: check list | check NAME [SUBJECT...].
// Built for this machine by tests/native/test_kernels.py, for aarch64 by its slow tier (run under qemu), and with
// sanitizers. Prints a line for each kind of thing that it checked and "ok"; leaves with 1 at the first value that is
// outside its bound, with 2 where the kernels are not there or a subject is unknown.
#include <cstring>
#include <stdexcept>

#include "../../../native/core/cpu.h"
#include "check.h"

namespace {

const struct Subject {
    const char *name;
    void (*run)();
} SUBJECTS[] = {
    {"rows", check::row_functions}, {"quantising", check::quantising}, {"decoding", check::decoding},
    {"products", check::products},  {"experts", check::experts},       {"encoders", check::encoders},
    {"caches", check::caches},      {"attention", check::attention},   {"coarse", check::coarse_attention},
    {"threads", check::threads},
};

}  // namespace

int main(int argc, char **argv) {
    std::setvbuf(stdout, nullptr, _IOLBF, 1 << 12);
    if (argc > 1 && !std::strcmp(argv[1], "list")) {
        for (const herd::Kernels *k : herd::available_kernels()) std::printf("%s\n", k->name);
        return 0;
    }
    try {
        herd::use_kernels(argc > 1 ? argv[1] : "");
    } catch (const std::invalid_argument &e) {
        std::printf("%s\n", e.what());
        return 2;
    }
    herd::Threads::shared().set(3);
    std::printf("%s\n", herd::kernels().name);
    int found = 0;
    for (const Subject &s : SUBJECTS) {
        bool wanted = argc <= 2;
        for (int i = 2; i < argc; i++) wanted |= !std::strcmp(argv[i], s.name);
        if (!wanted) continue;
        found++;
        check::random_bits.seed(1);
        s.run();
    }
    if (argc > 2 && found != argc - 2) {
        std::printf("subjects:");
        for (const Subject &s : SUBJECTS) std::printf(" %s", s.name);
        std::printf("\n");
        return 2;
    }
    std::printf("ok\n");
}
