//! What a data set does not use, counted and named.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Kinds that a line names at most.
const KINDS: usize = 6;

/// Files and folders that are passed over, by the reason: how many, and the first of them.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct PassedOver {
    files: BTreeMap<String, (usize, PathBuf)>,
    others: BTreeMap<String, (usize, PathBuf)>,
}

impl PassedOver {
    /// A file of another kind.
    pub(super) fn file(&mut self, path: &Path) {
        let ending = path.extension().and_then(OsStr::to_str);
        let ending = ending.map_or_else(
            || "without an ending".to_owned(),
            |ending| format!(".{}", ending.to_lowercase()),
        );
        let (count, _) = self
            .files
            .entry(ending)
            .or_insert_with(|| (0, path.to_owned()));
        *count += 1;
    }

    /// Something else; `what` says what in the plural, and why.
    pub(super) fn other(&mut self, what: &str, path: &Path) {
        match self.others.get_mut(what) {
            Some((count, _)) => *count += 1,
            None => {
                self.others.insert(what.to_owned(), (1, path.to_owned()));
            }
        }
    }

    /// Adds what another part of the data set does not use.
    pub(super) fn extend(&mut self, more: Self) {
        let add = |all: &mut BTreeMap<String, (usize, PathBuf)>, more: BTreeMap<_, _>| {
            for (what, (count, path)) in more {
                all.entry(what).or_insert((0, path)).0 += count;
            }
        };
        add(&mut self.files, more.files);
        add(&mut self.others, more.others);
    }

    /// How many files of other kinds there are.
    pub(super) fn files(&self) -> usize {
        self.files.values().map(|(count, _)| count).sum()
    }

    /// The files by their endings, the most frequent first; empty if there are none.
    pub(super) fn kinds(&self) -> String {
        let mut kinds: Vec<_> = self.files.iter().collect();
        kinds.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
        let named = kinds
            .iter()
            .take(KINDS)
            .map(|(ending, (count, path))| format!("{count} {ending} (as {})", path.display()));
        let mut named: Vec<String> = named.collect();
        if let Some(more @ 1..) = kinds.len().checked_sub(KINDS) {
            named.push(format!("and {more} more kinds"));
        }
        named.join(", ")
    }

    /// A line for each reason.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if !self.files.is_empty() {
            let (count, kinds) = (self.files(), self.kinds());
            lines.push(format!("passed over {count} files of other kinds: {kinds}"));
        }
        let others = self.others.iter();
        lines.extend(others.map(|(what, (count, path))| {
            format!("passed over {count} {what} (as {})", path.display())
        }));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_frequent_kinds_are_named_first() {
        let mut passed = PassedOver::default();
        for name in ["a.TXT", "b.txt", "c", "d.bmp", "e.0", "f.1", "g.2", "h.3"] {
            passed.file(Path::new(name));
        }
        passed.other("links that lead nowhere", Path::new("x"));
        passed.other("links that lead nowhere", Path::new("y"));
        let lines = passed.lines();
        assert!(
            lines[0].starts_with("passed over 8 files of other kinds: 2 .txt (as a.TXT), "),
            "{lines:?}"
        );
        assert!(lines[0].ends_with("and 1 more kinds"), "{lines:?}");
        assert_eq!(lines[1], "passed over 2 links that lead nowhere (as x)");
    }
}
