"""Names for numpy's types, sizes of PTX's, and what goes wrong in a kernel."""

import numpy as np

U8, U16, U32, U64 = np.uint8, np.uint16, np.uint32, np.uint64
I8, I16, I32, I64 = np.int8, np.int16, np.int32, np.int64
F16, F32, F64 = np.float16, np.float32, np.float64

# By bytes.
UNSIGNED = {1: U8, 2: U16, 4: U32, 8: U64}
SIGNED = {1: I8, 2: I16, 4: I32, 8: I64}
FLOATS = {2: F16, 4: F32, 8: F64}

# The bytes of each type that PTX names.
SIZES = {
    **dict.fromkeys(("b8", "u8", "s8"), 1),
    **dict.fromkeys(("b16", "u16", "s16", "f16", "bf16"), 2),
    **dict.fromkeys(("b32", "u32", "s32", "f32", "f16x2", "bf16x2"), 4),
    **dict.fromkeys(("b64", "u64", "s64", "f64"), 8),
}

WARP = 32


class Unknown(Exception):
    """An instruction, operand or directive that this interpreter does not have."""


class Fault(Exception):
    """What a GPU would call an illegal access, or what PTX leaves undefined."""
