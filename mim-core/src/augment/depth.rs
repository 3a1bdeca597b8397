//! Data types of the values in image files.

use std::fmt;

/// The data type of pixel values in a file, before they become bytes or f32 in a [`Sample`](super::Sample).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the names say it")]
pub enum Depth {
    Bool,
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    I64,
    F16,
    F32,
    F64,
}

impl Depth {
    /// The largest value of an integer type; `None` for floats.
    pub fn largest(self) -> Option<f64> {
        Some(match self {
            Self::Bool => 1.,
            Self::U8 => f64::from(u8::MAX),
            Self::I8 => f64::from(i8::MAX),
            Self::U16 => f64::from(u16::MAX),
            Self::I16 => f64::from(i16::MAX),
            Self::U32 => f64::from(u32::MAX),
            Self::I32 => f64::from(i32::MAX),
            Self::I64 => i64::MAX as f64,
            Self::F16 | Self::F32 | Self::F64 => return None,
        })
    }
}

impl fmt::Display for Depth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bool => "bool",
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::U16 => "u16",
            Self::I16 => "i16",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::F16 => "f16",
            Self::F32 => "f32",
            Self::F64 => "f64",
        })
    }
}
