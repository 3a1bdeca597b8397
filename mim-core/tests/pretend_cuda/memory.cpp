// Memory of the pretend device: see driver.cpp.
#include "pretend.h"

#include <cstdlib>
#include <deque>
#include <map>
#include <mutex>
#include <vector>

namespace pretend {
namespace {

constexpr size_t ALIGNMENT = 256;
#ifdef __SANITIZE_ADDRESS__
constexpr size_t GUARD = 0; // it has its own
#else
constexpr size_t GUARD = ALIGNMENT;
#endif
constexpr unsigned char GUARD_BYTE = 0xa5;

struct Allocation {
    size_t bytes;
    unsigned char* start;
};
// A copy between device and pinned memory of which the program may not know that it is done.
struct UnderWay {
    uint64_t call;
    unsigned char* pinned;
    bool to_host;
    std::vector<unsigned char> values;
};

// By address.
std::map<uintptr_t, Allocation> allocations;
// Sizes by address.
std::map<uintptr_t, size_t> pinned;
std::deque<UnderWay> under_way;
size_t used, most;
std::mutex lock;

Result allocate(uintptr_t* to, size_t bytes) {
    if (bytes == 0) return INVALID_VALUE;
    std::lock_guard<std::mutex> guard(lock);
    if (used + bytes > total_memory()) return OUT_OF_MEMORY;
    void* start = nullptr;
    if (posix_memalign(&start, ALIGNMENT, bytes + 2 * GUARD)) return OUT_OF_MEMORY;
    auto* bytes_of = static_cast<unsigned char*>(start);
    std::memset(start, GUARD_BYTE, bytes + 2 * GUARD);
    std::memset(bytes_of + GUARD, 0xff, bytes);
    *to = reinterpret_cast<uintptr_t>(start) + GUARD;
    allocations[*to] = {bytes, bytes_of};
    used += bytes;
    most = used > most ? used : most;
    return SUCCESS;
}

Result release(uintptr_t at) {
    std::lock_guard<std::mutex> guard(lock);
    auto found = allocations.find(at);
    if (found == allocations.end()) return INVALID_VALUE;
    auto [bytes, start] = found->second;
    for (size_t i = 0; i < GUARD; ++i)
        if (start[i] != GUARD_BYTE || start[GUARD + bytes + i] != GUARD_BYTE)
            fail("something was written beside an allocation of " + std::to_string(bytes) + " bytes");
    allocations.erase(found);
    used -= bytes;
    std::free(start);
    return SUCCESS;
}

// Whether the bytes from here on are within one allocation.
bool on_device(uintptr_t at, size_t bytes) {
    std::lock_guard<std::mutex> guard(lock);
    auto after = allocations.upper_bound(at);
    if (after == allocations.begin()) return false;
    auto [start, allocation] = *--after;
    return at + bytes <= start + allocation.bytes;
}

bool is_pinned(const void* at, size_t bytes) {
    std::lock_guard<std::mutex> guard(lock);
    auto after = pinned.upper_bound(uintptr_t(at));
    if (after == pinned.begin()) return false;
    auto [start, size] = *--after;
    return uintptr_t(at) + bytes <= start + size;
}

void under_way_from(void* host, const void* values, size_t bytes, bool to_host) {
    const auto* from = static_cast<const unsigned char*>(values);
    uint64_t call = asked();
    std::lock_guard<std::mutex> guard(lock);
    under_way.push_back({call, static_cast<unsigned char*>(host), to_host, {from, from + bytes}});
}

Result copy(void* to, const void* from, size_t bytes, bool to_device, bool from_device, const char* what) {
    bool fits = (!to_device || on_device(uintptr_t(to), bytes)) && (!from_device || on_device(uintptr_t(from), bytes));
    if (!fits) fail(std::string(what) + ": a copy reaches beyond what was allocated");
    log("%s %zu\n", what, bytes);
    std::memcpy(to, from, bytes);
    return SUCCESS;
}

} // namespace

void end_copies(uint64_t call) {
    std::lock_guard<std::mutex> guard(lock);
    for (; !under_way.empty() && under_way.front().call <= call; under_way.pop_front()) {
        const UnderWay& copy = under_way.front();
        if (copy.to_host) std::memcpy(copy.pinned, copy.values.data(), copy.values.size());
        else if (std::memcmp(copy.pinned, copy.values.data(), copy.values.size()))
            fail("pinned memory was changed before a copy from it was known to be done");
    }
}

size_t total_memory() {
    const char* bytes = std::getenv("PRETEND_CUDA_MEMORY");
    return bytes ? std::strtoull(bytes, nullptr, 10) : size_t(80) << 30;
}

float* values_on_device(const void* at, size_t count) {
    if (!on_device(uintptr_t(at), count * sizeof(float))) fail("NCCL: values beyond what is allocated");
    return static_cast<float*>(const_cast<void*>(at));
}

} // namespace pretend

using namespace pretend;

extern "C" {

Result cuMemPoolGetAttribute(void*, int attribute, void* value) {
    constexpr int USED_MEM_HIGH = 8;
    std::lock_guard<std::mutex> guard(lock);
    if (attribute != USED_MEM_HIGH) return INVALID_VALUE;
    return *static_cast<uint64_t*>(value) = most, SUCCESS;
}
Result cuMemAllocAsync(uintptr_t* to, size_t bytes, void* stream) {
    return on_stream(stream), context ? allocate(to, bytes) : NO_CONTEXT;
}
Result cuMemAlloc_v2(uintptr_t* to, size_t bytes) { return context ? allocate(to, bytes) : NO_CONTEXT; }
Result cuMemFreeAsync(uintptr_t at, void* stream) { return on_stream(stream), release(at); }
Result cuMemFree_v2(uintptr_t at) { return release(at); }
Result cuMemGetInfo_v2(size_t* free, size_t* all) {
    std::lock_guard<std::mutex> guard(lock);
    return *all = total_memory(), *free = total_memory() - used, SUCCESS;
}
Result cuMemsetD8Async(uintptr_t to, unsigned char value, size_t bytes, void* stream) {
    if (!on_device(to, bytes)) fail("a memset reaches beyond what was allocated");
    on_stream(stream);
    log("memset %zu\n", bytes);
    std::memset(reinterpret_cast<void*>(to), value, bytes);
    return SUCCESS;
}
Result cuMemHostAlloc(void** to, size_t bytes, unsigned) {
    if (!context) return NO_CONTEXT;
    if (posix_memalign(to, ALIGNMENT, bytes)) return OUT_OF_MEMORY;
    std::memset(*to, 0xff, bytes);
    std::lock_guard<std::mutex> guard(lock);
    pinned[uintptr_t(*to)] = bytes;
    return log("pins %zu\n", bytes), SUCCESS;
}
Result cuMemFreeHost(void*) { fail("pinned memory stays with the program"); }
// A copy from other memory waits for what came before it, unless it is small.
Result cuMemcpyHtoDAsync_v2(uintptr_t to, const void* from, size_t bytes, void* stream) {
    on_stream(stream);
    bool waits = !is_pinned(from, bytes);
    if (!waits) under_way_from(const_cast<void*>(from), from, bytes, false);
    if (waits && bytes > 64 << 10) waited(), log("wait\n");
    return copy(reinterpret_cast<void*>(to), from, bytes, true, false, waits ? "to device" : "pinned to device");
}
// A copy to other memory waits for all that came before it.
Result cuMemcpyDtoHAsync_v2(void* to, uintptr_t from, size_t bytes, void* stream) {
    on_stream(stream);
    if (!is_pinned(to, bytes)) {
        waited();
        return copy(to, reinterpret_cast<void*>(from), bytes, false, true, "to host");
    }
    std::vector<unsigned char> values(bytes);
    Result result = copy(values.data(), reinterpret_cast<void*>(from), bytes, false, true, "pinned to host");
    std::memset(to, 0xff, bytes);
    return under_way_from(to, values.data(), bytes, true), result;
}
Result cuMemcpyDtoDAsync_v2(uintptr_t to, uintptr_t from, size_t bytes, void* stream) {
    on_stream(stream);
    return copy(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes, true, true, "on device");
}

Result cuMemcpyPeerAsync(uintptr_t, void*, uintptr_t, void*, size_t, void*) {
    fail("copies between devices are not made");
}

} // extern "C"
