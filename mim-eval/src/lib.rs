//! Evaluation protocols of mim: linear probe, k-NN, segmentation, reconstructions.
//!
//! [`extract`] runs a frozen [`mim_core::Encoder`] over a labelled data set. [`probe`] measures the accuracy of a
//! linear classifier and of the nearest neighbours on the features. [`raw_pixels`] gives the baseline without an
//! encoder.
//!
//! ```
//! use mim_core::augment::ViewPlan;
//! use mim_core::data::{DataSource, Split};
//! use mim_eval::{EvalConfig, KnnConfig, raw_pixels};
//!
//! # fn main() -> mim_core::Result<()> {
//! let config = EvalConfig::default();
//! let pixels = |split| raw_pixels(DataSource::Embedded.open(split)?, ViewPlan::default(), &config);
//! let (train, test) = (pixels(Split::Train)?, pixels(Split::Test)?);
//! let accuracy = KnnConfig::default().accuracy(&train, &test)?;
//! assert!(accuracy.top1 > 70. && accuracy.top5 > 95.);
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod checks;
mod classify;
mod config;
mod features;
mod glyphs;
mod lbfgs;
mod logistic;
mod maps;
mod picture;
mod probe;
mod protocol;
mod scores;
mod sheet;
mod split;
#[cfg(test)]
mod testing;

mim_core::parts! {
    /// Protocols on frozen features that `mim eval` can name.
    pub fn protocols() -> dyn ProtocolSettings as "protocol";
    linear => LinearConfig, LinearProbe;
    knn => KnnConfig;
    lowshot => LowshotConfig;
    retrieval => RetrievalConfig;
    signals => SignalsConfig, Signals;
    segment => SegmentConfig, MaskFolder, MaskedDataset, MaskedImage, PastedObjects, SegmentHead, SegmentScores, SegmentSummary;
}

pub use classify::classify;
pub use config::EvalConfig;
pub use features::{FeatureRows, Features, extract, features, raw_pixels};
pub use glyphs::hog_glyphs;
pub use logistic::{Logistic, LogisticRegression};
pub use maps::{attention_maps, pca_maps};
#[doc(no_inline)]
pub use mim_core::Pooling;
pub use picture::{reconstruction_grid, save_png};
pub use probe::{Accuracy, ProbeResult, probe};
pub use protocol::{Outcome, ProtocolSettings};
pub use scores::{Scores, Summary};
pub use sheet::sheet;
