// The CUDA driver's interface on the CPU, as far as `mim` and candle call it.
//
// A program built with the feature `cuda` runs on it as on a GPU: candle's own CUDA code, the kernels of mim-core
// through their emulation, candle's kernels through stand-ins (candle_kernels.cpp), matrix products through
// another (libraries.cpp). So everything is checked but the compiler of the kernels, the device's own arithmetic and
// what comes of running several things at once. `scripts/cuda_setup.sh --pretend` builds it.
//
// Memory of the device lies among that of the program: NaN where nothing was written, with guards around
// each allocation, and copies must stay within one. Work on candle's stream is done when it is asked for; that of
// NCCL (nccl.cpp) on another stream as late as events allow. Copies to pinned memory arrive when the program has seen
// an event behind them pass, and what is copied from there must not have changed by then.
//
//   PRETEND_CUDA_LOG=FILE     a line for every launch, product, copy and wait
//   PRETEND_CUDA_MEMORY=N     bytes a device has, by default 80 GB
//   PRETEND_CUDA_DEVICES=N    how many devices there are, by default 1
#include "pretend.h"

#include <cstdlib>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace pretend {

thread_local void* context;

std::FILE* log_file() {
    static std::FILE* file = [] {
        const char* path = std::getenv("PRETEND_CUDA_LOG");
        std::FILE* opened = path ? std::fopen(path, "w") : nullptr;
        if (opened) std::setvbuf(opened, nullptr, _IOLBF, 0);
        return opened;
    }();
    return file;
}

void fail(const std::string& message) {
    std::fprintf(stderr, "pretend CUDA device: %s\n", message.c_str());
    std::abort();
}

namespace {

// ---- streams

std::mutex call_lock;
// How much has been asked of the stream of the thread, and how much of that is known to be done.
uint64_t calls, settled;
// So many calls the stream is behind, as those see it who ask about an event.
constexpr uint64_t BEHIND = 64;
std::thread::id last_thread;
// All but candle's; they stay, since events point to them.
std::vector<std::unique_ptr<Stream>> streams;

// What has been asked of a stream up to here.
struct Event {
    Stream* stream = nullptr;
    size_t asked = 0;
    uint64_t calls = 0;
};

Stream* own(void* stream) { return uintptr_t(stream) == PER_THREAD ? nullptr : static_cast<Stream*>(stream); }

// ---- modules

struct Module {
    std::string ptx;
};
struct Function {
    std::string name;
    const Whole* whole;
};

std::mutex launch_lock;
char the_context[64];

} // namespace

// Such streams keep the order of calls only while one thread makes them.
void on_stream(const void* stream) {
    if (uintptr_t(stream) != PER_THREAD) fail("only NCCL has a stream of its own");
    std::lock_guard<std::mutex> guard(call_lock);
    if (last_thread != std::thread::id() && last_thread != std::this_thread::get_id()) log("another thread\n");
    last_thread = std::this_thread::get_id();
    ++calls;
}

uint64_t asked() {
    std::lock_guard<std::mutex> guard(call_lock);
    return calls;
}

void waited() {
    settle(asked());
    std::lock_guard<std::mutex> guard(call_lock);
    if (last_thread == std::this_thread::get_id()) last_thread = {};
}

void settle(uint64_t call) {
    std::lock_guard<std::mutex> guard(call_lock);
    settled = call > settled ? call : settled;
    end_copies(settled);
}

void Stream::run(size_t to) {
    for (; done < to && !waiting.empty(); ++done, waiting.pop_front()) waiting.front()();
}

void Stream::ask(std::function<void()> work) {
    if (knows != calls) fail("NCCL's stream does not wait for the last call on candle's");
    waiting.push_back(std::move(work));
    ++asked;
}

} // namespace pretend

using namespace pretend;

extern "C" int mim_emulate(const char* kernel, const unsigned grid[3], const unsigned block[3], unsigned shared_bytes,
                           void** args);

extern "C" {

Result cuInit(unsigned) { return SUCCESS; }
Result cuDriverGetVersion(int* version) { return *version = 13000, SUCCESS; }
Result cuGetErrorName(Result error, const char** name) {
    static thread_local std::string text;
    text = "CUDA_ERROR_" + std::to_string(error);
    return *name = text.c_str(), SUCCESS;
}
Result cuGetErrorString(Result error, const char** text) {
    *text = error == OUT_OF_MEMORY    ? "out of memory"
            : error == INVALID_VALUE  ? "invalid argument"
            : error == INVALID_DEVICE ? "invalid device ordinal"
            : error == NOT_FOUND      ? "named symbol not found"
                                      : "an error of the pretend device";
    return SUCCESS;
}

// ---- devices and contexts

Result cuDeviceGetCount(int* count) {
    const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
    if (visible && !*visible) return *count = 0, SUCCESS;
    const char* number = std::getenv("PRETEND_CUDA_DEVICES");
    return *count = number ? std::atoi(number) : 1, SUCCESS;
}
Result cuDeviceGet(int* device, int ordinal) {
    int count;
    cuDeviceGetCount(&count);
    return ordinal < 0 || ordinal >= count ? INVALID_DEVICE : (*device = ordinal, SUCCESS);
}
Result cuDeviceGetName(char* name, int length, int) {
    return std::snprintf(name, size_t(length), "a CUDA device that is not there"), SUCCESS;
}
Result cuDeviceTotalMem_v2(size_t* bytes, int) { return *bytes = total_memory(), SUCCESS; }
Result cuDeviceGetAttribute(int* value, int attribute, int) {
    switch (attribute) {
    case 1: *value = 1024; break;       // threads of a block
    case 8: *value = 48 << 10; break;   // shared bytes of a block
    case 10: *value = 32; break;        // lanes of a warp
    case 16: *value = 108; break;       // multiprocessors
    case 75: *value = 8; break;         // compute capability
    case 76: *value = 0; break;
    case 97: *value = 163 << 10; break; // shared bytes of a block that asks for them
    case 115: *value = 1; break;        // memory pools
    default: *value = 0;
    }
    return SUCCESS;
}
Result cuDeviceGetDefaultMemPool(void** pool, int) { return *pool = the_context, SUCCESS; }
Result cuMemPoolSetAttribute(void*, int, void*) { return SUCCESS; }
Result cuDevicePrimaryCtxRetain(void** to, int) { return *to = the_context, SUCCESS; }
Result cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
Result cuCtxDestroy_v2(void*) { return SUCCESS; }
Result cuCtxSetCurrent(void* to) { return context = to, SUCCESS; }
Result cuCtxGetCurrent(void** to) { return *to = context, SUCCESS; }
Result cuCtxSynchronize() {
    for (auto& stream : streams) stream->run();
    return waited(), log("wait\n"), SUCCESS;
}

// ---- streams and events

Result cuStreamCreate(void** stream, unsigned) {
    streams.push_back(std::make_unique<Stream>());
    return *stream = streams.back().get(), SUCCESS;
}
Result cuStreamDestroy_v2(void* stream) {
    static_cast<Stream*>(stream)->run();
    return SUCCESS;
}
Result cuStreamSynchronize(void* stream) {
    if (Stream* other = own(stream)) other->run();
    return waited(), log("wait\n"), SUCCESS;
}
Result cuStreamIsCapturing(void*, int* status) { return *status = 0, SUCCESS; }
Result cuStreamWaitEvent(void* stream, void* at, unsigned) {
    const Event& event = *static_cast<Event*>(at);
    if (Stream* other = own(stream)) {
        if (!event.stream) other->knows = event.calls;
    } else if (event.stream) {
        event.stream->run(event.asked);
    }
    return SUCCESS;
}
Result cuEventCreate(void** event, unsigned) { return *event = new Event, SUCCESS; }
Result cuEventDestroy_v2(void* event) { return delete static_cast<Event*>(event), SUCCESS; }
Result cuEventRecord(void* event, void* stream) {
    Stream* other = own(stream);
    return *static_cast<Event*>(event) = {other, other ? other->asked : 0, asked()}, SUCCESS;
}
Result cuEventQuery(void* at) {
    const Event& event = *static_cast<Event*>(at);
    if (event.stream) fail("nobody asks about NCCL's events");
    if (event.calls > settled && event.calls + BEHIND > asked()) return NOT_READY;
    return settle(event.calls), SUCCESS;
}
Result cuEventSynchronize(void* at) {
    const Event& event = *static_cast<Event*>(at);
    if (event.stream) event.stream->run(event.asked);
    else settle(event.calls);
    return log("wait\n"), SUCCESS;
}
Result cuEventElapsedTime_v2(float* ms, void*, void*) { return *ms = 0, SUCCESS; }

// ---- modules and kernels

// The pretend compiler leaves nothing, a real one PTX.
Result cuModuleLoadData(void** module, const void* image) {
    std::string text = static_cast<const char*>(image);
    if (!text.empty() && text.find(".version") == std::string::npos) return INVALID_IMAGE;
    return *module = new Module{text}, SUCCESS;
}
Result cuModuleLoad(void**, const char*) { return NOT_FOUND; }
Result cuModuleUnload(void*) { return SUCCESS; }
Result cuModuleGetFunction(void** to, void* module, const char* name) {
    const std::string& ptx = static_cast<Module*>(module)->ptx;
    bool compiled = ptx.empty() || ptx.find(std::string(".entry ") + name + "(") != std::string::npos;
    const Whole* whole = candle_kernel(name);
    if (whole && emulation::has_kernel(name)) fail(std::string("there are two kernels ") + name);
    if (!compiled || (!whole && !emulation::has_kernel(name))) {
        std::fprintf(stderr, "pretend CUDA device: %s kernel %s\n", compiled ? "nothing stands for" : "no PTX has", name);
        return NOT_FOUND;
    }
    return *to = new Function{name, whole}, SUCCESS;
}
Result cuFuncSetAttribute(void*, int, int) { return SUCCESS; }
Result cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                      unsigned shared_bytes, void* stream, void** args, void**) {
    if (!context) return NO_CONTEXT;
    const Function& what = *static_cast<Function*>(function);
    unsigned grid[] = {gx, gy, gz}, block[] = {bx, by, bz};
    bool fits = gx && gy && gz && gy < 1 << 16 && gz < 1 << 16 && bx && by && bz && bx * by * bz <= 1024;
    if (!fits) return INVALID_VALUE;
    on_stream(stream);
    log("launch %s\n", what.name.c_str());
    std::lock_guard<std::mutex> guard(launch_lock);
    if (!what.whole) return mim_emulate(what.name.c_str(), grid, block, shared_bytes, args) ? NOT_FOUND : SUCCESS;
    emulation::grid_size = {gx, gy, gz};
    emulation::block_size = {bx, by, bz};
    what.whole->invoke(what.whole->kernel, args);
    return SUCCESS;
}

} // extern "C"
