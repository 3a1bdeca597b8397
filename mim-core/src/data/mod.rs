//! Images for training and evaluation: sources, the order of an epoch and the loader that makes batches.
//!
//! ```
//! use mim_core::augment::ViewPlan;
//! use mim_core::data::{DataSource, Loader, LoaderConfig, Split};
//!
//! # fn main() -> mim_core::Result<()> {
//! let dataset = "embedded".parse::<DataSource>()?.open(Split::Train)?;
//! let config = LoaderConfig { batch_size: 16, workers: 1, ..LoaderConfig::default() };
//! let loader = Loader::new(dataset, ViewPlan::mae(28), config, 0)?;
//! for batch in loader.epoch(0, 0)?.take(2) {
//!     assert_eq!(batch?.views[0].pixels().dims(), [16, 1, 28, 28]);
//! }
//! # Ok(())
//! # }
//! ```

mod batches;
mod cifar;
mod clouds;
mod deep_file;
mod embedded;
mod fingerprint;
mod folder;
mod idx;
mod image_file;
mod index_cache;
mod joined;
mod labels;
mod list;
mod loader;
mod memory;
mod moments;
#[cfg(feature = "parquet")]
mod parquet;
mod passed_over;
mod queue;
mod reading;
mod sampler;
mod shapes;
mod shard_files;
mod shards;
mod source;
mod split;
mod stage;
mod subset;
mod tar;

use std::fmt;

pub use batches::Batches;
pub use fingerprint::fingerprint;
pub use folder::FolderDataset;
pub use image_file::decode;
pub use joined::JoinedDataset;
pub use list::ListDataset;
pub use loader::{Loader, LoaderConfig};
pub use memory::MemoryDataset;
pub use moments::ChannelMoments;
#[cfg(feature = "parquet")]
pub use parquet::ParquetDataset;
pub use reading::{ArrayLayout, Orientation, Reading, TiffPages, ValueRange};
pub use sampler::{EpochSampler, Order};
pub use shapes::ShapesDataset;
pub use shards::Shards;
pub use source::DataSource;
pub use split::Split;
pub use subset::{Subset, hold_out};
pub use tar::TarDataset;

use crate::augment::Sample;
use crate::{Error, Result};

/// Images or point clouds by index; labelled if there are classes.
///
/// ```
/// use std::sync::Arc;
///
/// use mim_core::Result;
/// use mim_core::augment::{Sample, ViewPlan};
/// use mim_core::data::{Dataset, Loader, LoaderConfig};
///
/// /// Grey squares from black to white.
/// #[derive(Debug)]
/// struct Greys;
///
/// impl Dataset for Greys {
///     fn len(&self) -> usize {
///         256
///     }
///
///     fn read(&self, index: usize) -> Result<Sample> {
///         Sample::new(vec![index as u8; 32 * 32], (32, 32), 1)
///     }
///
///     fn label(&self, _: usize) -> Option<u32> {
///         None
///     }
///
///     fn classes(&self) -> usize {
///         0
///     }
/// }
///
/// # fn main() -> Result<()> {
/// let config = LoaderConfig { batch_size: 8, workers: 0, ..LoaderConfig::default() };
/// let loader = Loader::new(Arc::new(Greys), ViewPlan::default(), config, 0)?;
/// let mut batches = 0;
/// for batch in loader.epoch(0, 0)? {
///     assert_eq!(batch?.views[0].pixels().dims(), [8, 1, 32, 32]);
///     batches += 1;
/// }
/// assert_eq!(batches, 32);
/// # Ok(())
/// # }
/// ```
pub trait Dataset: Send + Sync + fmt::Debug {
    /// Number of images.
    fn len(&self) -> usize;

    /// Whether there is no image.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Image `index`, decoded.
    ///
    /// # Errors
    ///
    /// Fails if the image cannot be read, or if `index` is not below [`Self::len`].
    fn read(&self, index: usize) -> Result<Sample>;

    /// Class of image `index`, below [`Self::classes`].
    fn label(&self, index: usize) -> Option<u32>;

    /// Number of classes; 0 without labels.
    fn classes(&self) -> usize;

    /// Names of the classes, by label; empty if they have none.
    fn class_names(&self) -> &[String] {
        &[]
    }

    /// What was chosen or skipped when the data set was opened, one line for each.
    fn notes(&self) -> &[String] {
        &[]
    }

    /// The shards that images lie in, if sequential reading is much faster than random access.
    fn shards(&self) -> Option<Shards> {
        None
    }

    /// The name of image `index` in messages: its path, or `#index`.
    fn name_of(&self, index: usize) -> String {
        format!("#{index}")
    }
}

/// The error of an index that is not below the number of images.
fn out_of_range(index: usize, len: usize) -> Error {
    Error::shape(
        "image index",
        format!("below {len}"),
        index,
        "take indices from a sampler over this data set",
    )
}
