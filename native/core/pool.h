// Our own threads: dynamic sharing of numbered tasks, and the scratch memory of the operation that runs.
//
// Idle workers look for work for a short while, then sleep; a worker that the system has put aside holds nothing up,
// since tasks are taken one by one. No OpenMP: its threads spin at every barrier, and a laptop is never idle.
#pragma once
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

namespace herd {

class Pool {
  public:
    // The process's pool. A child of fork() gets a new one: threads do not survive a fork.
    static Pool &get();
    static int default_threads();          // processors this process may use
    static void set_threads(int threads);  // takes effect before the next operation

    int threads() const { return threads_; }

    // body(task, worker) for every task in [0, tasks); worker in [0, threads()). Returns when all are done.
    // Called with `door` held; body must not throw.
    template <class Body>
    void run(int64_t tasks, Body &&body) {
        run_raw(
            tasks,
            [](void *b, int64_t task, int worker) { (*static_cast<std::remove_reference_t<Body> *>(b))(task, worker); },
            &body);
    }

    std::mutex door;  // one operation at a time

    // Memory until the next `reset`, aligned to 64 bytes, not cleared.
    template <class T>
    T *take(int64_t n) {
        return static_cast<T *>(take_bytes(n * (int64_t)sizeof(T)));
    }
    void reset();

  private:
    using Call = void (*)(void *, int64_t, int);
    struct State;
    explicit Pool(int threads);
    void run_raw(int64_t tasks, Call call, void *body);
    void *take_bytes(int64_t bytes);
    static void work(State *state, int worker);

    int threads_;
    State *state_;
    struct Free {
        void operator()(void *p) const;
    };
    struct Slab {
        std::unique_ptr<void, Free> memory;
        int64_t size, used;
    };
    std::vector<Slab> slabs_;
};

// An operation's hold on the pool: the door and the scratch memory.
class Turn {
  public:
    Turn() : pool(Pool::get()), lock_(pool.door) { pool.reset(); }
    ~Turn() { pool.reset(); }
    Pool &pool;

  private:
    std::lock_guard<std::mutex> lock_;
};

}  // namespace herd
