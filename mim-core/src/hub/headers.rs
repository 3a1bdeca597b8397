//! Headers of an answer.

use ureq::http::HeaderMap;

use super::path::is_commit;

/// Metadata of a file on the Hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Metadata {
    /// The commit of the revision.
    pub(super) commit: String,
    /// The id of its content: the SHA-256 of large files, the git hash of others.
    pub(super) etag: String,
    /// Size in bytes.
    pub(super) size: u64,
    /// Its id in the storage Xet, in 64 hexadecimal digits, if the Hub keeps it there.
    pub(super) xet: Option<String>,
}

/// The value of a header, if it is text.
pub(super) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The length of the body.
pub(super) fn length(headers: &HeaderMap) -> Option<u64> {
    text(headers, "content-length")?.parse().ok()
}

/// Start and total size from a `Content-Range`.
pub(super) fn part(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let range = text(headers, "content-range")?.strip_prefix("bytes ")?;
    let (bytes, size) = range.split_once('/')?;
    let (start, _) = bytes.split_once('-')?;
    Some((start.parse().ok()?, size.parse().ok()))
}

/// Metadata collected over redirects.
#[derive(Default)]
pub(super) struct Found {
    commit: Option<String>,
    etag: Option<String>,
    size: Option<u64>,
    xet: Option<String>,
}

impl Found {
    pub(super) fn is_complete(&self) -> bool {
        self.commit.is_some() && self.etag.is_some() && self.size.is_some()
    }

    /// Takes the metadata of the stored file from an answer, unless an earlier answer gave it.
    pub(super) fn add(&mut self, headers: &HeaderMap) {
        let take = |name| text(headers, name).map(str::to_owned);
        self.commit = self.commit.take().or_else(|| take("x-repo-commit"));
        self.etag = self.etag.take().or_else(|| take("x-linked-etag"));
        self.xet = self.xet.take().or_else(|| take("x-xet-hash"));
        let size = || text(headers, "x-linked-size")?.parse().ok();
        self.size = self.size.or_else(size);
    }

    /// Completes the metadata from the headers of the file itself.
    pub(super) fn add_own(&mut self, headers: &HeaderMap) {
        let etag = || text(headers, "etag").map(str::to_owned);
        self.etag = self.etag.take().or_else(etag);
        self.size = self.size.or_else(|| length(headers));
    }

    pub(super) fn metadata(self) -> Result<Metadata, String> {
        let etag = self.etag.unwrap_or_default();
        let etag = etag.trim_start_matches("W/").trim_matches('"').to_owned();
        // They become names of files.
        let is_name = (1..=128).contains(&etag.len())
            && etag
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        match (self.commit.filter(|commit| is_commit(commit)), self.size) {
            (Some(commit), Some(size)) if is_name => Ok(Metadata {
                commit,
                etag,
                size,
                xet: self.xet.filter(|id| is_xet(id)),
            }),
            _ => Err(
                "its answer lacks the commit, hash or length of the file, as if from another kind \
                 of server"
                    .to_owned(),
            ),
        }
    }
}

/// Whether `id` may be that of a file in Xet.
fn is_xet(id: &str) -> bool {
    id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_taken_apart() {
        let mut headers = HeaderMap::new();
        headers.insert("content-range", "bytes 5-9/10".parse().unwrap());
        assert_eq!(part(&headers), Some((5, Some(10))));
    }

    #[test]
    fn hashes_that_are_no_file_names_are_refused() {
        let found = |etag: &str| Found {
            commit: Some("0123456789abcdef0123456789abcdef01234567".to_owned()),
            etag: Some(etag.to_owned()),
            size: Some(1),
            xet: None,
        };
        assert_eq!(found("W/\"ab-1\"").metadata().unwrap().etag, "ab-1");
        for etag in ["\"../x\"", "\"\"", "a/b"] {
            assert!(found(etag).metadata().is_err(), "{etag}");
        }
    }
}
