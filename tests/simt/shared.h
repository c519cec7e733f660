/* The shared memory of a block: one window, cut into arrays with gaps between them. */
#ifndef SIMT_SHARED_H
#define SIMT_SHARED_H

#include "block.h"

#include <vector>

namespace simt
{

enum : uint32_t {
    shared_window = 1u << 18,
    shared_base =
        1024, // of dynamic shared memory: as on sm_80 and newer, the first KiB is not the program's
    shared_gap = 64, // at least, after each array
};

struct Shared_array {
    const void *key;
    const char *name;
    uint32_t offset, size;
};

class Shared_memory
{
  public:
    Shared_memory();
    ~Shared_memory();
    // A block begins: `dynamic_size` bytes of dynamic shared memory, no arrays, all bytes 0xff.
    void begin(size_t dynamic_size, size_t static_limit, size_t total_limit);
    // A block ends: the array before a gap that was written to, with how far past its end; or null.
    const Shared_array *overrun(uint32_t *distance) const;
    void *array(const void *key, const char *name, size_t size, size_t align);
    bool contains(const void *pointer) const
    {
        return (size_t)((const char *)pointer - window) < shared_window;
    }
    uint32_t offset(const void *pointer) const
    {
        return (uint32_t)((const char *)pointer - window);
    }
    void *pointer(uint32_t offset) const
    {
        return window + offset;
    }
    // The array that holds [offset, offset + size), or null.
    const Shared_array *find(uint32_t offset, size_t size) const;
    // "4 bytes past the end of `name` (128 bytes)": where an offset outside of arrays is.
    struct Description {
        char text[160];
    };
    Description describe(uint32_t offset) const;
    uint32_t end() const
    {
        return used;
    }

  private:
    char *window;
    uint32_t used;  // end of the last array and its gap
    size_t statics; // bytes of SHARED_ARRAY
    size_t dynamic, static_limit, total_limit;
    std::vector<Shared_array> arrays; // ascending; arrays[0] is the dynamic one, of size 0 perhaps
};

} // namespace simt

#endif
