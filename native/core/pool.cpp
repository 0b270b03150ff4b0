#include "pool.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <new>
#include <thread>

namespace herd {
namespace {

constexpr int64_t KEEP_BYTES = 256 << 20;  // scratch memory kept between operations
constexpr auto SPIN = std::chrono::microseconds(60);

std::mutex making;             // of pools, and of who has which; the thread that forks holds it meanwhile
std::atomic<int> forks{0};     // of this process and those it comes from
std::atomic<int> num_alive{0};

void pause_cpu() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// A pool of the parent's is of no use in the child: its threads are gone, and its locks may be held by one of them.
void watch_forks() {
    static const bool watched = [] {
        pthread_atfork([] { making.lock(); }, [] { making.unlock(); },
                       [] {
                           forks.fetch_add(1);
                           num_alive.store(0);
                           making.unlock();
                       });
        return true;
    }();
    (void)watched;
}

}  // namespace

// Ticket: epoch (16 bits), number of tasks (24), next task (24), in one word, so that taking a task and knowing whether
// it is one are a single step. While a task of an epoch is unfinished the epoch cannot change, so `call` and `body`
// stay those of the task taken.
struct Pool::State {
    std::atomic<uint64_t> ticket{0};
    std::atomic<int64_t> done{0};
    Call call = nullptr;
    void *body = nullptr;
    std::mutex sleep;
    std::condition_variable wake;
    std::atomic<int> sleepers{0};
    std::atomic<bool> over{false};

    static constexpr int BITS = 24;
    static constexpr uint64_t MASK = (1u << BITS) - 1;
    static uint64_t epoch(uint64_t t) { return t >> 2 * BITS; }

    // Takes and runs tasks until none is left.
    void share(int worker) {
        for (;;) {
            uint64_t t = ticket.load(std::memory_order_acquire);
            if ((t & MASK) >= (t >> BITS & MASK)) return;
            if (!ticket.compare_exchange_weak(t, t + 1, std::memory_order_acq_rel)) continue;
            call(body, (int64_t)(t & MASK), worker);
            done.fetch_add(1, std::memory_order_release);
        }
    }
};

void Pool::work(std::shared_ptr<State> s, int worker) {
    uint64_t seen = 0;
    for (;;) {
        auto until = std::chrono::steady_clock::now() + SPIN;
        int looks = 0;
        while (State::epoch(s->ticket.load(std::memory_order_acquire)) == seen) {
            if (++looks % 64 == 0 && std::chrono::steady_clock::now() > until) {
                std::unique_lock lock(s->sleep);
                s->sleepers.fetch_add(1);
                s->wake.wait(lock, [&] { return State::epoch(s->ticket.load()) != seen || s->over.load(); });
                s->sleepers.fetch_sub(1);
                break;
            }
            pause_cpu();
        }
        if (s->over.load()) break;
        seen = State::epoch(s->ticket.load(std::memory_order_acquire));
        s->share(worker);
    }
    num_alive.fetch_sub(1);
}

Pool::Pool(int threads) : threads_(threads), fork_(forks.load()), state_(std::make_shared<State>()) {
    for (int i = 1; i < threads_; i++) {
        num_alive.fetch_add(1);
        try {
            std::thread(work, state_, i).detach();
        } catch (...) {
            num_alive.fetch_sub(1);
            end();
            throw;
        }
    }
}

Pool::~Pool() {
    if (is_alive()) end();
}

bool Pool::is_alive() const { return fork_ == forks.load(); }

void Pool::end() {
    std::lock_guard lock(state_->sleep);
    state_->over.store(true);
    state_->wake.notify_all();
}

Threads::Threads(int count) : count_(count > 0 ? count : processors()) { watch_forks(); }

Threads &Threads::shared() {
    static Threads *the = new Threads;
    return *the;
}

int Threads::processors() {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, std::min(CPU_COUNT(&set), 256));
    return std::max(1, (int)std::thread::hardware_concurrency());
}

int Threads::alive() { return num_alive.load(); }

int Threads::count() const {
    std::lock_guard lock(making);
    return count_;
}

void Threads::set(int count) {
    std::shared_ptr<Pool> old;  // ends outside the lock
    std::lock_guard lock(making);
    count_ = count > 0 ? count : processors();
    if (pool_ && pool_->threads() != count_) old.swap(pool_);
}

std::shared_ptr<Pool> Threads::pool() {
    std::shared_ptr<Pool> old;
    std::lock_guard lock(making);
    if (!pool_ || !pool_->is_alive()) {
        old.swap(pool_);
        pool_ = std::make_shared<Pool>(count_);
    }
    return pool_;
}

void Pool::run_raw(int64_t tasks, Call call, void *body) {
    State &s = *state_;
    for (int64_t first = 0; first < tasks; first += (int64_t)State::MASK) {
        int64_t n = std::min(tasks - first, (int64_t)State::MASK);
        if (n == 1 || threads_ == 1) {
            for (int64_t i = 0; i < n; i++) call(body, first + i, 0);
            continue;
        }
        struct Shifted {
            Call call;
            void *body;
            int64_t first;
        } shifted{call, body, first};
        s.call = first ? [](void *b, int64_t task, int worker) {
            auto *sh = static_cast<Shifted *>(b);
            sh->call(sh->body, sh->first + task, worker);
        } : call;
        s.body = first ? &shifted : body;
        s.done.store(0, std::memory_order_relaxed);
        uint64_t epoch = (State::epoch(s.ticket.load()) + 1) & 0xffff;
        s.ticket.store(epoch << 2 * State::BITS | (uint64_t)n << State::BITS);
        if (s.sleepers.load() > 0) {
            std::lock_guard lock(s.sleep);
            s.wake.notify_all();
        }
        s.share(0);
        for (int looks = 0; s.done.load(std::memory_order_acquire) < n; looks++)
            if (looks < 4096) pause_cpu();
            else sched_yield();  // a worker was put aside with a task in hand: let it run
    }
}

void Pool::Free::operator()(void *p) const { std::free(p); }

void *Pool::take_bytes(int64_t bytes) {
    bytes = (bytes + 63) / 64 * 64;
    for (Slab &slab : slabs_)
        if (slab.size - slab.used >= bytes) {
            void *p = static_cast<char *>(slab.memory.get()) + slab.used;
            slab.used += bytes;
            return p;
        }
    int64_t size = std::max<int64_t>(bytes, 1 << 20);
    void *p = std::aligned_alloc(64, (size_t)size);
    if (!p) throw std::bad_alloc();
    slabs_.push_back({std::unique_ptr<void, Free>(p), size, bytes});
    return p;
}

void Pool::reset() {
    int64_t total = 0;
    for (Slab &slab : slabs_) {
        slab.used = 0;
        total += slab.size;
    }
    while (total > KEEP_BYTES) {
        total -= slabs_.back().size;
        slabs_.pop_back();
    }
}

}  // namespace herd
