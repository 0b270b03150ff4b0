#include "guard.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>
#if defined(__linux__)
#include <sys/syscall.h>
#endif

#include <atomic>
#include <cerrno>
#include <mutex>

namespace herd {
namespace {

// A table that the handler reads without a lock: blocks are added and never freed, a free slot starts at 0.
struct Slot {
    std::atomic<uintptr_t> start{0}, end{0};
    std::atomic<int64_t> fault{-1};
};
struct Block {
    static constexpr int64_t SLOTS = 256;
    Slot slots[SLOTS];
    std::atomic<Block *> next{nullptr};
};

Block first_block;
std::atomic<int64_t> faults{0};
std::atomic<const struct sigaction *> before{nullptr};  // never freed: the handler may be reading it
std::atomic<bool> passed_on{false};
std::mutex editing;

Slot &slot_of(int64_t number) {
    Block *block = &first_block;
    for (; number >= Block::SLOTS; number -= Block::SLOTS) block = block->next.load();
    return block->slots[number];
}

// Straight to the kernel: a sanitizer's mmap is not made for signal handlers.
bool put_zeros(uintptr_t start, uintptr_t end) {
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
#if defined(__linux__) && defined(SYS_mmap)
    return syscall(SYS_mmap, start, end - start, PROT_READ, flags, -1, 0) != -1;
#else
    return mmap((void *)start, end - start, PROT_READ, flags, -1, 0) != MAP_FAILED;
#endif
}

// Whether the address was in a watched range, which then holds zeros.
bool heal(uintptr_t address) {
    for (Block *block = &first_block; block; block = block->next.load())
        for (Slot &slot : block->slots) {
            const uintptr_t start = slot.start.load(), end = slot.end.load();
            if (!start || address < start || address >= end || slot.start.load() != start) continue;
            int64_t none = -1;
            slot.fault.compare_exchange_strong(none, (int64_t)(address - start));  // told before a zero can be read
            faults.fetch_add(1);
            return put_zeros(start, end);
        }
    return false;
}

bool was_raised(const siginfo_t *info) {
#if defined(SI_TKILL)
    return info->si_code == SI_TKILL;
#else
    return info->si_pid == getpid();
#endif
}

void pass_on(int number, siginfo_t *info, void *context) {
    const struct sigaction *old = before.load();
    const bool sent = info->si_code <= 0;  // by kill or raise, not by the memory
    // faulthandler reports, puts back what it found (us, maybe) and raises again: the second time is the end.
    const bool again = passed_on.load() && was_raised(info);
    const bool plain = !old || (!(old->sa_flags & SA_SIGINFO) && (old->sa_handler == SIG_DFL || old->sa_handler == SIG_IGN));
    if (!plain && !again) {
        passed_on.store(true);
        if (old->sa_flags & SA_SIGINFO) old->sa_sigaction(number, info, context);
        else old->sa_handler(number);
        return;
    }
    if (sent && !again && old && old->sa_handler == SIG_IGN) return;
    struct sigaction last = {};
    last.sa_handler = SIG_DFL;
    sigaction(number, &last, nullptr);
    if (sent) raise(number);  // else the read is tried again when we return, and ends the process
}

void on_bus(int number, siginfo_t *info, void *context) {
    const int kept = errno;
    if (info->si_code <= 0 || !heal((uintptr_t)info->si_addr)) pass_on(number, info, context);
    errno = kept;
}

void take_signal() {
    std::lock_guard lock(editing);
    struct sigaction now;
    if (sigaction(SIGBUS, nullptr, &now) != 0) return;
    if ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == on_bus) return;
    before.store(new struct sigaction(now));
    passed_on.store(false);
    struct sigaction ours = {};
    ours.sa_sigaction = on_bus;
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigemptyset(&ours.sa_mask);
    sigaction(SIGBUS, &ours, nullptr);
}

}  // namespace

int64_t watch(const void *start, size_t bytes) {
    take_signal();
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), at = (uintptr_t)start;
    std::lock_guard lock(editing);
    int64_t number = 0;
    for (Block *block = &first_block;; block = block->next.load()) {
        for (Slot &slot : block->slots) {
            if (!slot.start.load()) {
                slot.fault.store(-1);
                slot.end.store((at + bytes + page - 1) / page * page);
                slot.start.store(at);
                return number;
            }
            number++;
        }
        if (!block->next.load()) block->next.store(new Block);
    }
}

void unwatch(int64_t number) {
    std::lock_guard lock(editing);
    slot_of(number).start.store(0);
}

int64_t fault_of(int64_t number) { return slot_of(number).fault.load(); }

int64_t count_faults() {
    take_signal();
    return faults.load();
}

}  // namespace herd
