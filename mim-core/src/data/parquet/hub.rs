//! Parquet files of data sets on the Hub.

use std::path::PathBuf;

use super::super::Split;
use super::super::shard_files::{self, Refusal};
use crate::hub::{Hub, HubPath, Listing};
use crate::{Error, Result};

/// The branch into which the Hub itself converts data sets of other kinds.
const CONVERTED: &str = "refs/convert/parquet";

/// The files of a split, on this machine.
pub(super) fn fetch(hub: &Hub, path: &HubPath, split: Split) -> Result<Vec<PathBuf>> {
    let has_images =
        |listing: &Listing| listing.files.iter().any(|file| file.ends_with(".parquet"));
    let converted = path.with_revision(CONVERTED);
    let (asked, listing) = match hub.list(path) {
        Ok(listing) if has_images(&listing) => (path, listing),
        other if path.revision() == "main" => match (hub.list(&converted), other) {
            (Ok(listing), _) => (&converted, listing),
            (Err(_), other) => (path, other?),
        },
        other => (path, other?),
    };
    let inside = path.file().unwrap_or_default();
    let names =
        shard_files::select(&listing.files, (inside, "parquet"), split).map_err(|refusal| {
            let online = "go online once to download it";
            match (refusal, listing.is_cached) {
                (Refusal::NoSplit(fix), false) => Error::no_split(path, split, fix),
                (Refusal::NoSplit(_), true) => {
                    Error::no_split(format!("{path}, in the cache"), split, online)
                }
                (Refusal::Wrong(what, fix), false) => Error::hub(path, what, fix),
                (Refusal::Wrong(what, _), true) => {
                    Error::hub(path, format!("{what} in the cache"), online)
                }
            }
        })?;
    // All files are those of one commit; what its branch stood for is noted once they are there.
    let commit = path.with_revision(listing.commit.as_str());
    let files = names
        .into_iter()
        .map(|name| hub.file(&commit.with_file(name)))
        .collect::<Result<_>>()?;
    hub.remember(asked, &listing.commit)?;
    Ok(files)
}
