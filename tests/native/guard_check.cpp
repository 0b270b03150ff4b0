// Checks native/guard.cpp without Python: threads that read maps while their files are cut, a fault that is nobody's.
// Prints "ok" at the end; `guard_check foreign` ends as an unwatched fault must: by the signal, or a sanitizer's report.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include "../../native/guard.h"

namespace {

struct Cut {
    size_t bytes;
    int file;
    const unsigned char *map;

    explicit Cut(size_t pages) : bytes(pages * (size_t)sysconf(_SC_PAGESIZE)) {
        char name[] = "/tmp/guard_check_XXXXXX";
        file = mkstemp(name);
        unlink(name);
        std::vector<unsigned char> ones(bytes, 1);
        if (file < 0 || write(file, ones.data(), bytes) != (ssize_t)bytes) std::abort();
        map = static_cast<const unsigned char *>(mmap(nullptr, bytes, PROT_READ, MAP_SHARED, file, 0));
    }
    ~Cut() {
        munmap(const_cast<unsigned char *>(map), bytes);
        close(file);
    }
    size_t sum() const {
        size_t total = 0;
        for (size_t i = 0; i < bytes; i += 64) total += map[i];
        return total;
    }
    void cut() {
        if (ftruncate(file, 0)) std::abort();
    }
};

void expect(bool right, const char *what) {
    if (right) return;
    std::printf("%s\n", what);
    std::exit(1);
}

}  // namespace

int main(int count, char **words) {
    for (int turn = 0; turn < 20; turn++) {
        Cut a(64), b(1);
        const int64_t of_a = herd::watch(a.map, a.bytes), of_b = herd::watch(b.map, b.bytes);
        const int64_t before = herd::count_faults();
        expect(a.sum() == a.bytes / 64, "a whole file");
        std::vector<std::thread> threads;
        for (int t = 0; t < 4; t++)
            threads.emplace_back([&] {
                while (a.sum()) {
                }
            });
        a.cut();
        for (std::thread &t : threads) t.join();
        expect(herd::count_faults() > before, "faults were counted");
        expect(herd::fault_of(of_a) >= 0 && herd::fault_of(of_a) < (int64_t)a.bytes, "the place of the fault");
        expect(herd::fault_of(of_b) == -1 && b.sum() == b.bytes / 64, "another file");
        herd::unwatch(of_a);
        herd::unwatch(of_b);
    }
    std::printf("ok\n");
    std::fflush(stdout);
    if (count > 1 && !std::strcmp(words[1], "foreign")) {
        Cut c(1);
        c.cut();
        return c.sum() ? 2 : 3;
    }
    return 0;
}
