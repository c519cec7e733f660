"""Element types of checkpoints: BF16, F16, F32 and FP8 E4M3 (OCP), to and from float64, in numpy.

Rounding is to nearest, ties to even. decode is exact: every value of these types is a float64.
"""

import numpy as np

# name in a safetensors header -> type of the stored words
STORAGE = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2"),
           "F8_E4M3": np.dtype("u1")}


def e4m3_value(code):
    """Value of one E4M3 code: 1 sign, 4 exponent (bias 7), 3 mantissa bits; S.1111.111 is NaN."""
    sign = -1.0 if code & 0x80 else 1.0
    exponent, mantissa = (code >> 3) & 15, code & 7
    if exponent == 15 and mantissa == 7:
        return float("nan")
    if exponent == 0:
        return sign * mantissa * 2.0 ** -9
    return sign * (8 + mantissa) * 2.0 ** (exponent - 10)


E4M3_TABLE = np.array([e4m3_value(code) for code in range(256)])


def encode_e4m3(x):
    """Codes of float64 values: nearest, ties to the even code, saturating at +-448."""
    magnitudes = E4M3_TABLE[:127]  # ascending, code = index
    a = np.minimum(np.abs(x), 448.0)
    upper = np.searchsorted(magnitudes, a).clip(1, 126)
    lower = upper - 1
    below, above = a - magnitudes[lower], magnitudes[upper] - a
    take_upper = (above < below) | ((above == below) & (upper % 2 == 0))
    code = np.where(take_upper, upper, lower)
    return (code | np.where(np.signbit(x), 0x80, 0)).astype(np.uint8)


def encode_bf16(x):
    """Words of float64 values, which first become float32 (inputs here have at most 24 bits)."""
    bits = np.asarray(x, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def encode(x, dtype):
    """Words of float64 values in a type of STORAGE."""
    if dtype == "BF16":
        return encode_bf16(x)
    if dtype == "F8_E4M3":
        return encode_e4m3(x)
    return np.asarray(x).astype(STORAGE[dtype])


def decode(words, dtype):
    """float64 values of stored words."""
    if dtype == "BF16":
        return (words.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    if dtype == "F8_E4M3":
        return E4M3_TABLE[words]
    return words.astype(np.float64)
