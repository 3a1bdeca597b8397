//! The splits of a data set, and their usual names.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Part of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// The split that models learn from.
    Train,
    /// The split that settings are chosen on.
    Val,
    /// The split that results are reported on.
    Test,
}

impl Split {
    /// All splits.
    pub const ALL: [Self; 3] = [Self::Train, Self::Val, Self::Test];

    /// Names of folders and files of this split, in lower case.
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Self::Train => &["train", "training"],
            Self::Val => &["val", "valid", "validation", "dev"],
            Self::Test => &["test", "testing", "eval", "evaluation"],
        }
    }

    /// The split that a folder or file of this name holds, in any case of letters.
    pub fn of_name(name: &str) -> Option<Self> {
        let name = name.to_lowercase();
        let mut all = Self::ALL.into_iter();
        all.find(|split| split.names().contains(&name.as_str()))
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.names()[0])
    }
}

impl FromStr for Split {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|split| split.names()[0] == name);
        known.ok_or_else(|| "use train, val or test".to_owned())
    }
}
