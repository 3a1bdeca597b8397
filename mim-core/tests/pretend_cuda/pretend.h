// A CUDA device that is not there: see driver.cpp.
#pragma once

#include "emulate.h"

#include <cstdio>
#include <deque>
#include <functional>
#include <string>

namespace pretend {

// The driver's results.
using Result = int;
constexpr Result SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_DEVICE = 101, INVALID_IMAGE = 200,
                 NO_CONTEXT = 201, NOT_FOUND = 500, NOT_READY = 600;

// The stream of whichever thread asks for it, which is candle's.
constexpr uintptr_t PER_THREAD = 2;

// The context of this thread, null where none was set.
extern thread_local void* context;

// Bytes that a device has.
size_t total_memory();
// Notes a call on a stream, which must be candle's.
void on_stream(const void* stream);
// How much has been asked of it.
uint64_t asked();
// Notes that the thread has waited for all of its calls.
void waited();
// Ends what is under way to and from pinned memory up to a call on the stream, which the program now knows to be done.
void settle(uint64_t call);

// The file that the variable PRETEND_CUDA_LOG names, or null.
std::FILE* log_file();
// Adds a line to it.
template <class... Values>
void log(const char* format, Values... values) {
    if (std::FILE* file = log_file()) std::fprintf(file, format, values...);
}

// Ends the program: what a device would leave undefined must not pass.
[[noreturn]] void fail(const std::string& message);

// A kernel that is run once for its whole grid.
struct Whole {
    void (*kernel)();
    emulation::Invoke invoke;
};
// The kernel of candle's of this name, or null.
const Whole* candle_kernel(const std::string& name);

// A stream beside candle's, whose work waits until someone waits for it.
struct Stream {
    // How much was asked of candle's stream before the last event of it that this one waits for.
    uint64_t knows = 0;
    size_t asked = 0, done = 0;
    std::deque<std::function<void()>> waiting;

    void ask(std::function<void()> work);
    // Does its work up to a place.
    void run(size_t to = size_t(-1));
};

// The part of `settle` that is about memory.
void end_copies(uint64_t call);

// Checked to be memory of the device, at the time of the call.
float* values_on_device(const void* at, size_t count);

// A number in which one computes, and back.
inline float wide(__nv_bfloat16 x) { return __bfloat162float(x); }
template <class T>
T wide(T x) {
    return x;
}
template <class T, class From>
T narrow(From x) {
    if constexpr (std::is_same_v<T, __nv_bfloat16>) return __float2bfloat16(float(x));
    else return T(x);
}

} // namespace pretend
