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
    explicit Pool(int threads);
    ~Pool();
    Pool(const Pool &) = delete;

    int threads() const { return threads_; }
    bool is_alive() const;  // false in a child of fork(): threads do not survive it

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
    void run_raw(int64_t tasks, Call call, void *body);
    void *take_bytes(int64_t bytes);
    void end();
    static void work(std::shared_ptr<State> state, int worker);

    const int threads_;
    const int fork_;  // of which fork of the process it is
    std::shared_ptr<State> state_;
    struct Free {
        void operator()(void *p) const;
    };
    struct Slab {
        std::unique_ptr<void, Free> memory;
        int64_t size, used;
    };
    std::vector<Slab> slabs_;
};

// How many threads an op set has, and their pool: made at the first operation, and again in a child of fork(). They end
// with it. Op sets do not wait for each other: each computes on its own threads, and the system shares out processors.
class Threads {
  public:
    explicit Threads(int count = 0);  // 0: as many as processors this process may use
    Threads(const Threads &) = delete;

    static Threads &shared();  // of operations that belong to no op set
    static int processors();   // that this process may use
    static int alive();        // threads that pools have started in this process, and that have not ended yet

    int count() const;
    void set(int count);  // takes effect before the next operation
    std::shared_ptr<Pool> pool();

  private:
    int count_;
    std::shared_ptr<Pool> pool_;
};

// An operation's hold on a pool: the door and the scratch memory. Null: that of the shared threads.
class Turn {
  public:
    explicit Turn(Threads *threads = nullptr)
        : held_((threads ? *threads : Threads::shared()).pool()), pool(*held_), lock_(pool.door) {
        pool.reset();
    }
    ~Turn() { pool.reset(); }

  private:
    std::shared_ptr<Pool> held_;

  public:
    Pool &pool;

  private:
    std::lock_guard<std::mutex> lock_;
};

}  // namespace herd
