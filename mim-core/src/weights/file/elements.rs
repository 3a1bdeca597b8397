//! Dtypes in files, and tensors from their bytes.

use candle_core::{DType, Device, Tensor};

use crate::augment::Depth;

/// Dtype of a stored tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Elements {
    F64,
    F32,
    F16,
    Bf16,
    I64,
    I32,
    I16,
    I8,
    U8,
    U16,
    U32,
    Bool,
}

impl Elements {
    /// The dtype of a storage class (`torch.FloatStorage`) or dtype (`torch.float32`).
    pub(super) fn of_torch(name: &str) -> Option<Self> {
        Some(match name.strip_prefix("torch.")? {
            "DoubleStorage" | "float64" | "double" => Self::F64,
            "FloatStorage" | "float32" | "float" => Self::F32,
            "HalfStorage" | "float16" | "half" => Self::F16,
            "BFloat16Storage" | "bfloat16" => Self::Bf16,
            "LongStorage" | "int64" | "long" => Self::I64,
            "IntStorage" | "int32" | "int" => Self::I32,
            "ShortStorage" | "int16" | "short" => Self::I16,
            "CharStorage" | "int8" => Self::I8,
            "ByteStorage" | "uint8" => Self::U8,
            "uint16" => Self::U16,
            "uint32" => Self::U32,
            "BoolStorage" | "bool" => Self::Bool,
            _ => return None,
        })
    }

    /// The dtype of numpy's `descr`, such as `<f4`.
    pub(super) fn of_numpy(name: &str) -> Option<Self> {
        Some(match name {
            "<f8" => Self::F64,
            "<f4" => Self::F32,
            "<f2" => Self::F16,
            "<i8" => Self::I64,
            "<i4" => Self::I32,
            "<i2" => Self::I16,
            "|i1" => Self::I8,
            "|u1" => Self::U8,
            "<u2" => Self::U16,
            "<u4" => Self::U32,
            "|b1" => Self::Bool,
            _ => return None,
        })
    }

    /// The data type of an image with such values.
    pub(super) fn depth(self) -> Depth {
        match self {
            Self::F64 => Depth::F64,
            Self::F32 => Depth::F32,
            Self::F16 | Self::Bf16 => Depth::F16,
            Self::I64 => Depth::I64,
            Self::I32 => Depth::I32,
            Self::I16 => Depth::I16,
            Self::I8 => Depth::I8,
            Self::U8 => Depth::U8,
            Self::U16 => Depth::U16,
            Self::U32 => Depth::U32,
            Self::Bool => Depth::Bool,
        }
    }

    /// Bytes per value.
    pub(super) fn width(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F16 | Self::Bf16 | Self::I16 | Self::U16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    /// Bytes per value after reading.
    pub(super) fn loaded_width(self) -> usize {
        match self {
            Self::I32 | Self::I16 | Self::I8 | Self::U16 => 8,
            other => other.width(),
        }
    }

    /// The tensor of `bytes`; small integers become i64, since candle supports few operations on them.
    ///
    /// # Errors
    ///
    /// If `bytes` and `shape` do not match.
    pub(super) fn tensor(self, bytes: &[u8], shape: &[usize]) -> Result<Tensor, String> {
        let whole = |value: fn(&[u8]) -> i64| -> candle_core::Result<Tensor> {
            let values: Vec<i64> = bytes.chunks_exact(self.width()).map(value).collect();
            Tensor::from_vec(values, shape, &Device::Cpu)
        };
        let raw = |dtype| Tensor::from_raw_buffer(bytes, dtype, shape, &Device::Cpu);
        let tensor = match self {
            Self::F64 => raw(DType::F64),
            Self::F32 => raw(DType::F32),
            Self::F16 => raw(DType::F16),
            Self::Bf16 => raw(DType::BF16),
            Self::I64 => raw(DType::I64),
            Self::U32 => raw(DType::U32),
            Self::U8 | Self::Bool => raw(DType::U8),
            Self::I32 => whole(|b| i64::from(i32::from_le_bytes([b[0], b[1], b[2], b[3]]))),
            Self::I16 => whole(|b| i64::from(i16::from_le_bytes([b[0], b[1]]))),
            Self::U16 => whole(|b| i64::from(u16::from_le_bytes([b[0], b[1]]))),
            Self::I8 => whole(|b| i64::from(b[0].cast_signed())),
        };
        tensor.map_err(|error| error.to_string())
    }
}
