/* Launching kernels, and the shared memory that kernels declare: LAUNCH, DYN_SHARED, SHARED_ARRAY. */
#ifndef SIMT_LAUNCH_H
#define SIMT_LAUNCH_H

#include "block.h"
#include "runtime_api.h"

#include <memory>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#ifndef SIMT_WARP_SIZE
#define SIMT_WARP_SIZE 32
#endif
#ifdef SIMT_CHECKED
#define SIMT_IS_CHECKED true
#else
#define SIMT_IS_CHECKED false
#endif

namespace simt
{

// A kernel with its arguments, copied when it is launched.
class Kernel_call
{
  public:
    Kernel_call(const char *name_, const void *function_, unsigned width_, bool checked_)
        : name(name_), function(function_), width(width_), checked(checked_)
    {
    }
    virtual ~Kernel_call() = default;
    virtual void run() const = 0; // one thread

    const char *const name;
    const void *const function;
    const unsigned width;
    std::vector<const void *> pointers; // among the arguments
    const bool checked; // was compiled with calls of the emulator at loads and stores
    bool next = false;  // by LAUNCH_NEXT, on a device whose launches overlap
};

// Of a translation unit: warp size and checks may differ in the next one.
namespace
{
template <class... Parameters> class Kernel_call_of final : public Kernel_call
{
  public:
    template <class... Arguments>
    Kernel_call_of(const char *name_, void (*kernel_)(Parameters...), Arguments &&...values)
        : Kernel_call(name_, reinterpret_cast<const void *>(kernel_), SIMT_WARP_SIZE,
                      SIMT_IS_CHECKED),
          kernel(kernel_),
          arguments(static_cast<std::decay_t<Parameters>>(std::forward<Arguments>(values))...)
    {
        std::apply([this](const auto &...values_) { (this->note_pointer(values_), ...); },
                   arguments);
    }
    void run() const override
    {
        std::apply(kernel, arguments);
    }

  private:
    template <class T> void note_pointer(const T &value)
    {
        if constexpr (std::is_pointer_v<T> && !std::is_function_v<std::remove_pointer_t<T>>)
            pointers.push_back((const void *)value);
    }

    void (*kernel)(Parameters...);
    std::tuple<std::decay_t<Parameters>...> arguments;
};
} // namespace

// Checks the configuration, then runs, queues or records the call. Errors are left to cudaGetLastError.
void launch(std::shared_ptr<const Kernel_call> call, const dim3 &grid, const dim3 &block,
            size_t dynamic_size, cudaStream_t stream, Here here);

namespace
{
template <class... Parameters, class... Arguments>
inline void launch_kernel(Here here, const char *name, void (*kernel)(Parameters...),
                          const dim3 &grid, const dim3 &block, size_t dynamic_size,
                          cudaStream_t stream, Arguments &&...arguments)
{
    static_assert(sizeof...(Parameters) == sizeof...(Arguments),
                  "LAUNCH: number of kernel arguments");
    launch(std::make_shared<Kernel_call_of<Parameters...>>(name, kernel,
                                                           std::forward<Arguments>(arguments)...),
           grid, block, dynamic_size, stream, here);
}

template <class Device, class... Parameters, class... Arguments>
inline void launch_next(Here here, const char *name, const Device *device,
                        void (*kernel)(Parameters...), const dim3 &grid, const dim3 &block,
                        size_t dynamic_size, Arguments &&...arguments)
{
    static_assert(sizeof...(Parameters) == sizeof...(Arguments),
                  "LAUNCH_NEXT: number of kernel arguments");
    auto call = std::make_shared<Kernel_call_of<Parameters...>>(
        name, kernel, std::forward<Arguments>(arguments)...);
    call->next = device->overlaps;
    launch(call, grid, block, dynamic_size, device->stream, here);
}
} // namespace

void *dynamic_shared();
// The array that belongs to `key` in the running block; made at the first call.
void *shared_array(const void *key, const char *name, size_t size, size_t align);

} // namespace simt

#define LAUNCH(kernel, grid, block, shared, stream, ...)                                           \
    simt::launch_kernel(simt::Here(), #kernel, kernel, dim3(grid), dim3(block), (shared),          \
                        (stream)__VA_OPT__(, ) __VA_ARGS__)
#define LAUNCH_NEXT(device, kernel, grid, block, shared, ...)                                      \
    simt::launch_next(simt::Here(), #kernel, (device), kernel, dim3(grid), dim3(block),            \
                      (shared)__VA_OPT__(, ) __VA_ARGS__)
#define DYN_SHARED(type, name) type *name = reinterpret_cast<type *>(simt::dynamic_shared())
#define SHARED_ARRAY(type, name, count)                                                            \
    static const char simt_key_##name = 0;                                                         \
    type(&name)[count] = *static_cast<type(*)[count]>(                                             \
        simt::shared_array(&simt_key_##name, #name, sizeof(type[count]), alignof(type)))

#endif
