//! The bytes of files in the storage Xet, by hf-xet.

use std::ops::Range;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use serde::Deserialize;
use xet::XetError;
use xet::xet_session::{XetConfig, XetFileInfo, XetSessionBuilder};

use super::pieces::{Piece, Pieces};
use super::{LONGEST_CONNECT, in_background};
use crate::hub::address::{of_xet_token, public};
use crate::hub::download::Download;
use crate::hub::failure::Failure;
use crate::hub::http::{LONGEST_SILENCE, Stream, may_lead};

/// Leave to read from Xet.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Leave {
    access_token: String,
    /// Seconds since 1970.
    exp: u64,
    cas_url: String,
}

/// The bytes of the file `id` of Xet from byte `start` on.
pub(super) fn get(download: &Download<'_>, id: &str, start: u64) -> Result<Stream, Failure> {
    let size = download.metadata.size;
    let url = of_xet_token(download.settings, download.path, &download.metadata.commit);
    let leave: Leave = serde_json::from_str(&download.http.text(&url)?)
        .map_err(|error| Failure::Broken(format!("its token for Xet is none: {error}")))?;
    if !may_lead(&url, &leave.cas_url) {
        let at = public(&leave.cas_url);
        return Err(Failure::Final(format!("its storage Xet is at {at:?}")));
    }
    let file = XetFileInfo::new(id.to_owned(), size);
    let first_wait = download.settings.first_wait;
    let (sender, bytes) = Pieces::new(download.settings);
    in_background(move || {
        if let Err(error) = bring(leave, file, start..size, first_wait, &sender) {
            let what = format!("Xet: {error} (MIM_HUB_TRANSPORT=own downloads without it)");
            let _ = sender.send(Err(what));
        }
    })?;
    Ok(Stream {
        bytes: Box::new(bytes),
        start,
        size: Some(size),
    })
}

/// Sends the bytes of a file in Xet until nobody wants them. No cache is kept, and nothing is reported to anyone.
fn bring(
    leave: Leave,
    file: XetFileInfo,
    range: Range<u64>,
    first_wait: Duration,
    pieces: &SyncSender<Piece>,
) -> Result<(), XetError> {
    let mut config = XetConfig::default();
    config.telemetry.enabled = false;
    config.chunk_cache.size_bytes = 0;
    config.client.connect_timeout = LONGEST_CONNECT;
    config.client.read_timeout = LONGEST_SILENCE;
    config.client.retry_base_delay = first_wait;
    let session = XetSessionBuilder::new_with_config(config).build()?;
    let group = session
        .new_download_stream_group()?
        .with_endpoint(leave.cas_url)
        .with_token_info(leave.access_token, leave.exp)
        .build_blocking()?;
    let mut stream = group.download_stream_blocking(file, Some(range))?;
    while let Some(piece) = stream.blocking_next()? {
        if pieces.send(Ok(piece.into())).is_err() {
            break;
        }
    }
    Ok(())
}
