//! Names of repositories on the Hub and of their files.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// The prefix of all names on the Hub.
pub(crate) const SCHEME: &str = "hf:";
const MAIN: &str = "main";

/// The kind of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepoKind {
    /// Weights.
    Model,
    /// Images.
    Dataset,
}

/// A repository of the Hub at a revision, and optionally a file or folder in it: `hf:owner/name[@revision][/file]`.
///
/// The revision is a branch, a tag, a commit, or a reference such as `refs/pr/N`. Default `main`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubPath {
    kind: RepoKind,
    owner: String,
    name: String,
    revision: String,
    file: Option<String>,
}

impl HubPath {
    /// Parses `hf:owner/name[@revision][/file]`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] for anything else, and for names that no repository can have.
    pub fn parse(text: &str, kind: RepoKind) -> Result<Self> {
        let wrong = |why: &str| {
            Error::config(
                "hub",
                "path",
                format!("{text:?}"),
                why.to_owned(),
                "write hf:owner/name, hf:owner/name@revision or hf:owner/name@revision/file",
            )
        };
        let rest = text
            .strip_prefix(SCHEME)
            .ok_or_else(|| wrong("it does not start with hf:"))?;
        let (owner, rest) = rest
            .split_once('/')
            .ok_or_else(|| wrong("a repository needs an owner and a name"))?;
        let (name, rest) = rest.split_at(rest.find(['/', '@']).unwrap_or(rest.len()));
        let (revision, file) = match rest.strip_prefix('@') {
            Some(rest) => {
                let (revision, file) = rest.split_at(revision_end(rest));
                (revision, file)
            }
            None => (MAIN, rest),
        };
        let file = file
            .strip_prefix('/')
            .map(|file| file.trim_end_matches('/'));
        let repository_name = |name: &str| {
            let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            is_plain(name)
                && !name.starts_with(['-', '.'])
                && !name.contains("..")
                && name.bytes().all(known)
        };
        if !repository_name(owner) || !repository_name(name) {
            return Err(wrong(
                "owner and name of a repository consist of letters, digits, and -, _ or . inside",
            ));
        }
        if !revision.split('/').all(is_plain) {
            return Err(wrong("the revision is not a branch, tag or commit"));
        }
        if file.is_some_and(|file| !file.split('/').all(is_plain)) {
            return Err(wrong("the file is not a path inside a repository"));
        }
        Ok(Self {
            kind,
            owner: owner.to_owned(),
            name: name.to_owned(),
            revision: revision.to_owned(),
            file: file.map(str::to_owned),
        })
    }

    /// The kind of the repository.
    pub fn kind(&self) -> RepoKind {
        self.kind
    }

    /// `owner/name`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.owner, self.name)
    }

    /// The branch, tag or commit.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// The file or folder, if one is named.
    pub fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }

    /// Whether the revision is a full commit hash, which cannot change.
    pub fn is_fixed(&self) -> bool {
        is_commit(&self.revision)
    }

    /// The same revision with another file.
    pub fn with_file(&self, file: impl Into<String>) -> Self {
        Self {
            file: Some(file.into()),
            ..self.clone()
        }
    }

    /// The same path at another revision.
    pub fn with_revision(&self, revision: impl Into<String>) -> Self {
        Self {
            revision: revision.into(),
            ..self.clone()
        }
    }

    /// The repository's folder in the cache.
    #[cfg(feature = "hub")]
    pub(super) fn folder(&self) -> String {
        let kind = match self.kind {
            RepoKind::Model => "models",
            RepoKind::Dataset => "datasets",
        };
        format!("{kind}--{}--{}", self.owner, self.name)
    }
}

/// Whether `text` is the hash of a commit.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether `part` is a safe path component that cannot leave its folder.
pub(super) fn is_plain(part: &str) -> bool {
    !matches!(part, "" | "." | "..")
        && !part.contains(|c: char| c.is_control() || "\\:*?\"<>|".contains(c))
}

/// Where a revision ends: at the first slash, or at the third for `refs/pr/1` and `refs/convert/parquet`.
fn revision_end(text: &str) -> usize {
    let slashes = if text.starts_with("refs/") { 2 } else { 0 };
    text.match_indices('/')
        .nth(slashes)
        .map_or(text.len(), |(at, _)| at)
}

impl FromStr for HubPath {
    type Err = Error;

    /// A model's.
    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text, RepoKind::Model)
    }
}

impl fmt::Display for HubPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.owner, self.name)?;
        if self.revision != MAIN {
            write!(f, "@{}", self.revision)?;
        }
        match &self.file {
            Some(file) => write!(f, "/{file}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_as_they_are_written() {
        for (text, revision, file) in [
            ("hf:facebook/vit-mae-base", "main", None),
            ("hf:a/b@v1.0", "v1.0", None),
            (
                "hf:a/b/model.safetensors",
                "main",
                Some("model.safetensors"),
            ),
            ("hf:a/b@v1/sub/x.bin", "v1", Some("sub/x.bin")),
            ("hf:a/b@refs/pr/1", "refs/pr/1", None),
            ("hf:a/b@refs/pr/1/x.bin", "refs/pr/1", Some("x.bin")),
        ] {
            let path: HubPath = text.parse().unwrap();
            assert_eq!((path.revision(), path.file()), (revision, file), "{text}");
            assert_eq!(path.to_string(), text);
        }
        let long: HubPath = "hf:a/b@main/x".parse().unwrap();
        assert_eq!(long.to_string(), "hf:a/b/x");
        let commit = "0123456789abcdef0123456789abcdef01234567";
        assert!(long.with_revision(commit).is_fixed() && !long.is_fixed());
    }

    #[test]
    fn what_could_leave_the_cache_is_refused() {
        for text in [
            "a/b",
            "hf:gpt2",
            "hf:/b",
            "hf:a/",
            "hf:a/..",
            "hf:a/b@",
            "hf:a/b@..",
            "hf:a/b@x/../y",
            "hf:a/b//x",
            "hf:a/b/x\\y",
            "hf:a/b/../../x",
            "hf:a b/c",
            "hf:a/-b",
        ] {
            let error = text.parse::<HubPath>().unwrap_err().to_string();
            assert!(error.contains("hf:owner/name"), "{error}");
        }
    }
}
