// The fibers, barriers and registry behind emulate.h.
#include "emulate.h"

#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#if !(defined(__x86_64__) && defined(__linux__))
#include <ucontext.h>
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulation {

uint3 block_index, block_size, grid_size;

namespace {

constexpr size_t STACK = 256 << 10;
// What every GPU gives to a block without being asked for more.
constexpr size_t SHARED_BYTES = 48 << 10;

enum class State { Ready, AtBarrier, InWarp, Done };

struct Stack {
    void* top = nullptr;
    const void* bottom = nullptr;
    size_t size = 0;
    void* fake = nullptr;
#if !(defined(__x86_64__) && defined(__linux__))
    ucontext_t context;
#endif
};

struct Fiber {
    uint3 index;
    unsigned number, parity;
    State state;
    Site site;
    Stack stack;
};

struct Launch {
    void (*kernel)();
    Invoke invoke;
    void** args;
    const char* name;
};

struct Kernel {
    void (*kernel)();
    Invoke invoke;
};

Launch launch;
Fiber* current;
Stack scheduler;
std::vector<Fiber> fibers;
std::vector<Slots> slots;
std::vector<std::unique_ptr<unsigned char[]>> stacks;
std::map<const void*, std::vector<unsigned char>> arrays;
std::vector<unsigned char> dynamic;
size_t static_bytes;

std::map<std::string, Kernel>& kernels() {
    static std::map<std::string, Kernel> all;
    return all;
}

[[noreturn]] void fail(Site site, const std::string& message) {
    std::fprintf(stderr, "kernel %s, block (%u, %u, %u)", launch.name, block_index.x, block_index.y,
                 block_index.z);
    if (current) {
        auto [x, y, z] = current->index;
        std::fprintf(stderr, ", thread (%u, %u, %u)", x, y, z);
    }
    if (site.file) std::fprintf(stderr, ", %s:%d", site.file, site.line);
    std::fprintf(stderr, ": %s\n", message.c_str());
    std::abort();
}

void run_thread();

#if defined(__x86_64__) && defined(__linux__)
// Saves what a called function must keep and goes on where `to` was left.
extern "C" void emulation_switch(void** from, void* to);
asm(R"(
.text
.p2align 4
.type emulation_switch, @function
emulation_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emulation_switch, .-emulation_switch
)");

void prepare(Stack& stack) {
    // Six registers and the return address; at a function's start the stack is 8 off 16 bytes.
    auto end = reinterpret_cast<uintptr_t>(stack.bottom) + stack.size;
    auto top = reinterpret_cast<void**>(end / 16 * 16) - 10;
    std::memset(top, 0, 10 * sizeof *top);
    top[6] = reinterpret_cast<void*>(run_thread);
    stack.top = top;
}

void jump(Stack& from, Stack& to) { emulation_switch(&from.top, to.top); }
#else
void prepare(Stack& stack) {
    getcontext(&stack.context);
    stack.context.uc_stack.ss_sp = const_cast<void*>(stack.bottom);
    stack.context.uc_stack.ss_size = stack.size;
    stack.context.uc_link = nullptr;
    makecontext(&stack.context, run_thread, 0);
}

void jump(Stack& from, Stack& to) { swapcontext(&from.context, &to.context); }
#endif

void change(Stack& from, Stack& to, bool last = false) {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(last ? nullptr : &from.fake, to.bottom, to.size);
    jump(from, to);
    __sanitizer_finish_switch_fiber(from.fake, nullptr, nullptr);
#else
    (void)last;
    jump(from, to);
#endif
}

void run_thread() {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(nullptr, &scheduler.bottom, &scheduler.size);
#endif
    launch.invoke(launch.kernel, launch.args);
    current->state = State::Done;
    change(current->stack, scheduler, true);
}

void wait(State state, Site site) {
    current->state = state;
    current->site = site;
    change(current->stack, scheduler);
}

// Lets threads [first, last) go on if all of them wait at the same place.
bool release(size_t first, size_t last, State state) {
    const Site& site = fibers[first].site;
    for (size_t i = first; i < last; ++i) {
        const Fiber& fiber = fibers[i];
        if (fiber.state != state || fiber.site.line != site.line || std::strcmp(fiber.site.file, site.file))
            return false;
    }
    for (size_t i = first; i < last; ++i) fibers[i].state = State::Ready;
    return true;
}

[[noreturn]] void deadlock() {
    std::map<std::string, size_t> places;
    for (const Fiber& fiber : fibers) {
        const char* what = fiber.state == State::Done       ? "left the kernel"
                           : fiber.state == State::AtBarrier ? "wait at the block's barrier "
                                                             : "wait for their warp ";
        std::string place = what;
        if (fiber.state != State::Done)
            place += std::string(fiber.site.file) + ":" + std::to_string(fiber.site.line);
        ++places[place];
    }
    std::string message = "threads wait for ever:";
    for (const auto& [place, count] : places) message += " " + std::to_string(count) + " " + place + ";";
    current = nullptr;
    fail({nullptr, 0}, message);
}

void run_block(unsigned shared_bytes) {
    // Every other block runs from its last thread to its first: what is missing a barrier goes wrong in
    // one order or the other.
    bool backwards = (block_index.x + block_index.y + block_index.z) % 2;
    dynamic.assign(shared_bytes, 0xff);
    arrays.clear();
    static_bytes = 0;
    size_t threads = fibers.size(), left = threads, warps = slots.size();
    for (size_t i = 0; i < threads; ++i) {
        Fiber& fiber = fibers[i];
        unsigned n = unsigned(i);
        fiber.index = {n % block_size.x, n / block_size.x % block_size.y, n / block_size.x / block_size.y};
        fiber.number = n;
        fiber.parity = 0;
        fiber.state = State::Ready;
        fiber.stack.bottom = stacks[i].get();
        fiber.stack.size = STACK;
        prepare(fiber.stack);
    }
    while (left > 0) {
        for (size_t w = 0; w < warps; ++w) {
            size_t first = (backwards ? warps - 1 - w : w) * WARP;
            size_t last = first + WARP < threads ? first + WARP : threads;
            do {
                for (size_t n = 0; n < last - first; ++n) {
                    size_t i = backwards ? last - 1 - n : first + n;
                    if (fibers[i].state != State::Ready) continue;
                    current = &fibers[i];
                    change(scheduler, current->stack);
                    left -= fibers[i].state == State::Done;
                }
            } while (release(first, last, State::InWarp));
        }
        if (left > 0 && !release(0, threads, State::AtBarrier)) deadlock();
    }
    current = nullptr;
}

} // namespace

const uint3& thread_index() { return current->index; }
unsigned lane() { return current->number % WARP; }
void wait_for_block(Site site) { wait(State::AtBarrier, site); }

void require(bool fine, Site site, const char* message) {
    if (!fine) fail(site, message);
}

const unsigned char (*meet(Site site, const void* value, size_t bytes))[SLOT] {
    require(fibers.size() % WARP == 0, site, "warps exchange only in blocks of whole warps");
    auto& shown = slots[current->number / WARP].bytes[current->parity];
    current->parity ^= 1;
    std::memcpy(shown[lane()], value, bytes);
    wait(State::InWarp, site);
    return shown;
}

void* shared_array(const void* key, size_t bytes) {
    auto [place, fresh] = arrays.try_emplace(key, bytes, 0xff);
    if (fresh) {
        static_bytes += bytes;
        require(static_bytes + dynamic.size() <= SHARED_BYTES, {nullptr, 0}, "more than 48 KB of shared memory");
    }
    return place->second.data();
}

void* dynamic_shared(size_t alignment) {
    require(alignment <= 16, {nullptr, 0}, "dynamic shared memory is aligned to 16 bytes");
    return dynamic.data();
}

void add_kernel(const char* name, void (*kernel)(), Invoke invoke) {
    kernels()[name] = {kernel, invoke};
}

bool has_kernel(const char* name) { return kernels().count(name) > 0; }

} // namespace emulation

// Runs a kernel as cuLaunchKernel would; `args` points to the values of its arguments. Returns 0, or
// 1 if there is no kernel of this name. One launch at a time.
extern "C" int mim_emulate(const char* kernel, const unsigned grid[3], const unsigned block[3],
                           unsigned shared_bytes, void** args) {
    using namespace emulation;
    static std::mutex one;
    std::lock_guard<std::mutex> guard(one);
    auto found = kernels().find(kernel);
    if (found == kernels().end()) return 1;
    launch = {found->second.kernel, found->second.invoke, args, kernel};
    grid_size = {grid[0], grid[1], grid[2]};
    block_size = {block[0], block[1], block[2]};
    block_index = {0, 0, 0};
    size_t threads = size_t(block[0]) * block[1] * block[2];
    bool fits = threads > 0 && threads <= 1024 && grid[0] > 0 && grid[1] > 0 && grid[2] > 0 &&
                grid[0] < 1u << 31 && grid[1] < 1u << 16 && grid[2] < 1u << 16;
    require(fits, {nullptr, 0}, "a GPU has no such grid or block");
    require(shared_bytes <= SHARED_BYTES, {nullptr, 0}, "more than 48 KB of shared memory");
    fibers.resize(threads);
    slots.resize((threads + WARP - 1) / WARP);
    while (stacks.size() < threads) stacks.emplace_back(new unsigned char[STACK]);
    for (unsigned z = 0; z < grid[2]; ++z)
        for (unsigned y = 0; y < grid[1]; ++y)
            for (unsigned x = 0; x < grid[0]; ++x) {
                block_index = {x, y, z};
                run_block(shared_bytes);
            }
    return 0;
}
