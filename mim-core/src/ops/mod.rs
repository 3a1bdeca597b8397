//! The operations that layers are built from: those of the crate `mim_ops`, and patchifying of images.

mod all_gather;
mod patchify;
mod sync_batch_norm;

pub use all_gather::all_gather;
pub use mim_ops::*;
pub use patchify::{PatchOrder, patchify, unpatchify};
pub use sync_batch_norm::sync_batch_norm;
