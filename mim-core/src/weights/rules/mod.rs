//! Rename rules between our names and those of other projects, usable both ways.

mod translate;
mod wrapper;

pub(super) use translate::{export, import};
pub(super) use wrapper::wrapper;

/// One rule of a [`super::Source`].
///
/// Patterns are dotted names; a segment `{i}` stands for any one segment, which the other side
/// repeats under the same letter. Rules are linear, so they hold for gradients as for parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// The same tensor under another name.
    Rename {
        /// Their name.
        theirs: String,
        /// Our name.
        ours: String,
    },
    /// Several of theirs, stacked along the first axis, are one of ours (q, k, v and qkv).
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
    /// Their 1-D convolution of one tap `[out, in, 1]` is our matrix `[out, in]`.
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
    /// Ours has more leading axes of length one.
    Unsqueeze {
        /// Their name.
        theirs: String,
        /// Our name.
        ours: String,
        /// How many more.
        axes: usize,
    },
    /// Their positions of the patches of a square grid, `[1, rows, cols, dim]`, are ours `[1, 1 + rows * cols, dim]`,
    /// whose first row, the class token's, is zero.
    Positions {
        /// Their name.
        theirs: String,
        /// Our name.
        ours: String,
    },
    /// Their module is a second name of another one, wherever both hold the same tensors (shared
    /// heads): then it is passed over. It is not written back.
    Alias {
        /// The second name, up to the parameter's own.
        theirs: String,
        /// The name under which the module is taken.
        of: String,
    },
    /// A tensor we make ourselves (index buffers) or leave out; the pattern may start with `*.` or
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
    /// The names of theirs that it is about.
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
        return (name == suffix || name.ends_with(&format!(".{suffix}"))).then(Vec::new);
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

/// `pattern` with its holes filled.
pub(super) fn fill(pattern: &str, holes: &Holes<'_>) -> String {
    let value = |segment| {
        holes
            .iter()
            .find(|(hole, _)| *hole == segment)
            .map_or(segment, |(_, value)| *value)
    };
    pattern.split('.').map(value).collect::<Vec<_>>().join(".")
}
