// Operations from several threads at once: they take turns at the pool and give what one thread gets.
#include <thread>

#include "check.h"
#include "weight.h"

namespace check {

using namespace herd;

void threads() {
    Check check{"threads at once"};
    Weight w(format_of("q4_0"), 1, 300, 320);
    const Linear &as = w.as(Layout::rows);
    const auto x = normals(4 * 320);
    const auto run = [&](std::vector<float> &y) {
        Turn turn;
        linear(turn.pool, as, 0, x.data(), 4, y.data(), Finish::store);
    };
    std::vector<float> expected(4 * 300);
    run(expected);
    std::vector<std::vector<float>> found(5, std::vector<float>(4 * 300));
    std::vector<std::thread> workers;
    for (auto &y : found)
        workers.emplace_back([&] {
            for (int i = 0; i < 20; i++) run(y);
        });
    for (auto &t : workers) t.join();
    for (auto &y : found)
        for (size_t i = 0; i < y.size(); i++) check.same(y[i], expected[i]);
}

}  // namespace check
