/* Types that kernels and host code share: dim3 and the short vectors. C and C++. */
#ifndef SIMT_TYPES_H
#define SIMT_TYPES_H

#include <stddef.h>
#include <stdint.h>

/* A vector of 2, 3 or 4 elements; those of 2 and 4 are as aligned as they are long, up to 16 bytes. */
#define SIMT_VECTOR2(type, name, align)                                                            \
    struct __attribute__((aligned(align))) name##2                                                 \
    {                                                                                              \
        type x, y;                                                                                 \
    };                                                                                             \
    typedef struct name##2 name##2;                                                                \
    static inline name##2 make_##name##2(type x, type y)                                           \
    {                                                                                              \
        name##2 v = {x, y};                                                                        \
        return v;                                                                                  \
    }
#define SIMT_VECTOR3(type, name)                                                                   \
    struct name##3                                                                                 \
    {                                                                                              \
        type x, y, z;                                                                              \
    };                                                                                             \
    typedef struct name##3 name##3;                                                                \
    static inline name##3 make_##name##3(type x, type y, type z)                                   \
    {                                                                                              \
        name##3 v = {x, y, z};                                                                     \
        return v;                                                                                  \
    }
#define SIMT_VECTOR4(type, name, align)                                                            \
    struct __attribute__((aligned(align))) name##4                                                 \
    {                                                                                              \
        type x, y, z, w;                                                                           \
    };                                                                                             \
    typedef struct name##4 name##4;                                                                \
    static inline name##4 make_##name##4(type x, type y, type z, type w)                           \
    {                                                                                              \
        name##4 v = {x, y, z, w};                                                                  \
        return v;                                                                                  \
    }
#define SIMT_VECTORS(type, name, align2, align4)                                                   \
    SIMT_VECTOR2(type, name, align2) SIMT_VECTOR3(type, name) SIMT_VECTOR4(type, name, align4)

SIMT_VECTORS(signed char, char, 2, 4)
SIMT_VECTORS(unsigned char, uchar, 2, 4)
SIMT_VECTORS(short, short, 4, 8)
SIMT_VECTORS(unsigned short, ushort, 4, 8)
SIMT_VECTORS(int, int, 8, 16)
SIMT_VECTORS(unsigned int, uint, 8, 16)
SIMT_VECTORS(long long, longlong, 16, 16)
SIMT_VECTORS(unsigned long long, ulonglong, 16, 16)
SIMT_VECTORS(float, float, 8, 16)
SIMT_VECTORS(double, double, 16, 16)

#ifdef __cplusplus
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_)
    {
    }
    constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z)
    {
    }
};
#else
typedef struct dim3 {
    unsigned x, y, z;
} dim3;
#endif

#endif
