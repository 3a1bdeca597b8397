//! Rename rules between our names and those of other projects, usable in both directions.

mod translate;
mod wrapper;

pub(super) use translate::{export, import};
pub(super) use wrapper::wrapper;

/// One rule of a [`Source`](super::Source).
///
/// Patterns are dotted names. A segment `{i}` matches any one segment, and the other side
/// repeats it under the same letter. Rules are linear, so they apply to gradients as well as to parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// The same tensor under another name.
    Rename {
        /// Their name.
        theirs: String,
        /// Our name.
        ours: String,
    },
    /// Several of their tensors, stacked along the first axis, form one of ours (q, k, v to qkv).
    Stack {
        /// Their names, in order.
        theirs: Vec<String>,
        /// Our name.
        ours: String,
    },
    /// Their 1x1 convolution `[out, in, 1, 1]` is our matrix `[out, in]`.
    Conv1x1 {
        /// Their name.
        theirs: String,
        /// Our name.
        ours: String,
    },
    /// Their 1-D convolution with one tap `[out, in, 1]` is our matrix `[out, in]`.
    Pointwise {
        /// Their name.
        theirs: String,
        /// Our name.
        ours: String,
    },
    /// Their matrix `[in, out]` is ours `[out, in]`.
    Transpose {
        /// Their name.
        theirs: String,
        /// Our name.
        ours: String,
    },
    /// Our tensor has additional leading axes of length one.
    Unsqueeze {
        /// Their name.
        theirs: String,
        /// Our name.
        ours: String,
        /// Number of additional axes.
        axes: usize,
    },
    /// Their position table of a square patch grid, `[1, rows, cols, dim]`, is ours `[1, 1 + rows * cols, dim]`;
    /// the first row, for the class token, is zero.
    Positions {
        /// Their name.
        theirs: String,
        /// Our name.
        ours: String,
    },
    /// Their module duplicates another one if both hold the same tensors (shared
    /// heads): then it is skipped. It is not exported.
    Alias {
        /// The duplicate name, without the parameter's own part.
        theirs: String,
        /// The name of the module that is kept.
        of: String,
    },
    /// A tensor that we compute ourselves (index buffers) or do not need; the pattern may start with `*.` or
    /// end with `.*`.
    Ignore {
        /// Their name.
        theirs: String,
    },
}

impl Rule {
    /// A [`Rule::Rename`].
    pub fn rename(theirs: impl Into<String>, ours: impl Into<String>) -> Self {
        Self::Rename {
            theirs: theirs.into(),
            ours: ours.into(),
        }
    }

    /// A [`Rule::Stack`].
    pub fn stack(theirs: impl IntoIterator<Item = String>, ours: impl Into<String>) -> Self {
        Self::Stack {
            theirs: theirs.into_iter().collect(),
            ours: ours.into(),
        }
    }

    /// A [`Rule::Conv1x1`].
    pub fn conv1x1(theirs: impl Into<String>, ours: impl Into<String>) -> Self {
        Self::Conv1x1 {
            theirs: theirs.into(),
            ours: ours.into(),
        }
    }

    /// A [`Rule::Pointwise`].
    pub fn pointwise(theirs: impl Into<String>, ours: impl Into<String>) -> Self {
        Self::Pointwise {
            theirs: theirs.into(),
            ours: ours.into(),
        }
    }

    /// A [`Rule::Transpose`].
    pub fn transpose(theirs: impl Into<String>, ours: impl Into<String>) -> Self {
        Self::Transpose {
            theirs: theirs.into(),
            ours: ours.into(),
        }
    }

    /// A [`Rule::Unsqueeze`].
    pub fn unsqueeze(theirs: impl Into<String>, ours: impl Into<String>, axes: usize) -> Self {
        Self::Unsqueeze {
            theirs: theirs.into(),
            ours: ours.into(),
            axes,
        }
    }

    /// A [`Rule::Positions`].
    pub fn positions(theirs: impl Into<String>, ours: impl Into<String>) -> Self {
        Self::Positions {
            theirs: theirs.into(),
            ours: ours.into(),
        }
    }

    /// A [`Rule::Alias`].
    pub fn alias(theirs: impl Into<String>, of: impl Into<String>) -> Self {
        Self::Alias {
            theirs: theirs.into(),
            of: of.into(),
        }
    }

    /// A [`Rule::Ignore`].
    pub fn ignore(theirs: impl Into<String>) -> Self {
        Self::Ignore {
            theirs: theirs.into(),
        }
    }
}

impl Rule {
    /// Their names that the rule covers.
    pub(super) fn theirs(&self) -> &[String] {
        match self {
            Self::Stack { theirs, .. } => theirs,
            Self::Rename { theirs, .. }
            | Self::Conv1x1 { theirs, .. }
            | Self::Pointwise { theirs, .. }
            | Self::Transpose { theirs, .. }
            | Self::Unsqueeze { theirs, .. }
            | Self::Positions { theirs, .. }
            | Self::Alias { theirs, .. }
            | Self::Ignore { theirs } => std::slice::from_ref(theirs),
        }
    }
}

/// The values of a pattern's holes.
pub(super) type Holes<'a> = Vec<(&'a str, &'a str)>;

fn is_hole(segment: &str) -> bool {
    segment.starts_with('{') && segment.ends_with('}')
}

/// Matches `name` against `pattern`.
pub(super) fn matches<'a>(pattern: &'a str, name: &'a str) -> Option<Holes<'a>> {
    if let Some(suffix) = pattern.strip_prefix("*.") {
        let rest = name.strip_suffix(suffix)?;
        return (rest.is_empty() || rest.ends_with('.')).then(Vec::new);
    }
    if let Some(prefix) = pattern.strip_suffix('*') {
        return name.starts_with(prefix).then(Vec::new);
    }
    let mut holes = Vec::new();
    let mut segments = name.split('.');
    for want in pattern.split('.') {
        let have = segments.next()?;
        match is_hole(want) {
            true => holes.push((want, have)),
            false if want != have => return None,
            false => {}
        }
    }
    segments.next().is_none().then_some(holes)
}

/// `pattern` with its placeholders filled in.
pub(super) fn fill(pattern: &str, holes: &Holes<'_>) -> String {
    let value = |segment| {
        holes
            .iter()
            .find(|(hole, _)| *hole == segment)
            .map_or(segment, |(_, value)| *value)
    };
    pattern.split('.').map(value).collect::<Vec<_>>().join(".")
}
