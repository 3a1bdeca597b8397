//! Semantic segmentation on patch features.

mod axis;
mod dataset;
mod fit;
mod folder;
mod frozen;
mod head;
mod indexed_png;
mod pasted;
mod predict;
mod scores;
#[cfg(test)]
mod tests;
mod training_windows;
mod upernet;
mod windows;

use candle_core::Device;
use mim_core::parts::Part;
use mim_core::{Encoder, Error, ImageSize, Input, Result};
use serde::{Deserialize, Serialize};

pub use dataset::{MaskedDataset, MaskedImage};
pub use folder::MaskFolder;
pub use head::SegmentHead;
pub use pasted::PastedObjects;
pub use scores::{SegmentScores, SegmentSummary};

use self::frozen::Frozen;
use self::predict::Segmenter;
use self::training_windows::TrainingWindows;
use self::upernet::UperNetShape;
use self::windows::Windows;
use crate::protocol::{Outcome, ProtocolSettings};
use crate::split::fixed_choice;
use crate::{EvalConfig, Features};

/// Default width of UPerNet's maps.
const CHANNELS: usize = 64;

/// Settings of semantic segmentation: a head is trained on the features of a frozen encoder, and its predicted pixel
/// classes are compared with masks.
///
/// Images are cut into windows of the encoder's size: without overlap for training, with overlap for evaluation, where
/// logits are averaged. Features are computed once and standardised by their mean and deviation over the training
/// windows. So images are not augmented, and the encoder is not trained. Scores are for whole images at their original
/// size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SegmentConfig {
    /// `linear` (default) or `upernet`.
    pub head: SegmentHead,
    /// Blocks of the encoder, from 0, whose outputs are read: concatenated for `linear`, the four levels of `upernet`.
    /// Default none: the final output, and for `upernet` the blocks at a third, a half, two thirds and the end (BEiT).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<usize>,
    /// Width of the maps of `upernet`. Default 64; the paper uses 512.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channels: Option<usize>,
    /// Number of epochs. Default 20.
    pub epochs: usize,
    /// Windows per training step. Default 16.
    pub batch_size: usize,
    /// Learning rate of AdamW, after a warm-up over 5 % of the steps. Default 1e-3.
    pub lr: f64,
    /// Weight decay. Default 1e-4.
    pub weight_decay: f64,
    /// Number of classes in the masks, which count from 0. Default: the classes found in the training masks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classes: Option<usize>,
    /// Value of pixels without a class. Default 255.
    pub ignore_index: u8,
    /// Size in pixels to which the shorter side of images is resized. Default: images keep their size; those smaller
    /// than a window are enlarged to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub short_side: Option<usize>,
    /// Size of the windows in pixels, for encoders that accept other sizes than their own. Default: the encoder's size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<ImageSize>,
    /// Distance between windows in pixels during evaluation. Default: two thirds of a window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stride: Option<usize>,
    /// Maximum number of training images; if there are more, a fixed pseudo-random choice is used. Default 10000.
    pub max_train: usize,
    /// Whether to train the same head on the encoder with random weights as well. Default true.
    pub random: bool,
    /// Seed of the head's weights and of the order of windows. Default 0.
    pub seed: u64,
}

impl Default for SegmentConfig {
    fn default() -> Self {
        Self {
            head: SegmentHead::Linear,
            layers: vec![],
            channels: None,
            epochs: 20,
            batch_size: 16,
            lr: 1e-3,
            weight_decay: 1e-4,
            classes: None,
            ignore_index: 255,
            short_side: None,
            window: None,
            stride: None,
            max_train: 10_000,
            random: true,
            seed: 0,
        }
    }
}

impl Part for SegmentConfig {
    const ABOUT: &'static str =
        "semantic segmentation of masks by a head on a frozen encoder: linear or upernet";
    const PAPER: &'static str = "UPerNet: Xiao et al., ECCV 2018, arXiv 1807.10221; its levels as in BEiT: Bao et al., ICLR 2022, arXiv 2106.08254";
}

impl ProtocolSettings for SegmentConfig {
    fn measure(&self, _train: &Features, _test: &Features) -> Result<Outcome> {
        Err(Error::unsupported(
            "segmentation with one feature per image",
            "it needs masks and patch features",
            "call SegmentConfig::scores",
        ))
    }

    fn segmentation(&self) -> Option<&SegmentConfig> {
        Some(self)
    }
}

impl SegmentConfig {
    /// Checks the settings, except those that depend on the data.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] for the first invalid setting.
    pub fn check(&self) -> Result<()> {
        let bad =
            |field, value: String, why, fix| Err(Error::config("segment", field, value, why, fix));
        let zero = [
            ("epochs", self.epochs),
            ("batch_size", self.batch_size),
            ("channels", self.channels.unwrap_or(1)),
            ("short_side", self.short_side.unwrap_or(1)),
            ("stride", self.stride.unwrap_or(1)),
            ("max_train", self.max_train),
        ];
        if let Some((field, _)) = zero.into_iter().find(|(_, value)| *value == 0) {
            return bad(field, "0".into(), "nothing would be left", "use 1 or more");
        }
        if self.channels.is_some() && self.head == SegmentHead::Linear {
            let value = self.channels.unwrap_or_default().to_string();
            return bad(
                "channels",
                value,
                "the linear head has no inner maps",
                "remove it, or use head=upernet",
            );
        }
        if self.batch_size == 1 && self.head == SegmentHead::UperNet {
            return bad(
                "batch_size",
                "1".into(),
                "batch norm needs several windows",
                "use 2 or more",
            );
        }
        if !(self.lr > 0. && self.lr.is_finite()) {
            return bad("lr", self.lr.to_string(), "it must be positive", "use 1e-3");
        }
        if !(self.weight_decay >= 0. && self.weight_decay.is_finite()) {
            return bad(
                "weight_decay",
                self.weight_decay.to_string(),
                "it cannot be negative",
                "use 1e-4, or 0",
            );
        }
        match self.classes {
            Some(classes) if !(2..=256).contains(&classes) => bad(
                "classes",
                classes.to_string(),
                "masks must have 2 to 256 classes",
                "count the classes from 0",
            ),
            _ => Ok(()),
        }
    }

    /// Refuses a mask with a class that is not below `classes`.
    fn check_classes(&self, classes: usize, mask: &[u8], name: &str) -> Result<()> {
        let unknown = |class: &&u8| usize::from(**class) >= classes && **class != self.ignore_index;
        match mask.iter().find(unknown) {
            None => Ok(()),
            Some(class) => Err(Error::format(
                name,
                match self.classes {
                    Some(_) => format!("has class {class}, but `classes` is {classes}"),
                    None => format!(
                        "has class {class}, but the training masks have classes below {classes}"
                    ),
                },
                "correct the mask, or set `classes`; ignore_index is the value of pixels without a class",
            )),
        }
    }

    /// How images are cut into windows for an encoder of images of `size`.
    fn windows(&self, size: ImageSize) -> Windows {
        let size: (usize, usize) = self.window.unwrap_or(size).into();
        let default = |side: usize| (2 * side / 3).max(1);
        Windows {
            size,
            stride: self
                .stride
                .map_or((default(size.0), default(size.1)), |stride| {
                    (stride, stride)
                }),
            short_side: self.short_side,
        }
    }

    /// Trains the head on the features of `encoder`, which takes `input`, for the first of two sets of images, and
    /// compares its predictions for the second set with the masks. Only the batch size of `eval` is used.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] for a setting that is out of range or does not match the encoder;
    /// [`Error::Unsupported`] if there is only one class, or the encoder has layers with different resolutions;
    /// [`Error::Format`] for an unknown class; otherwise errors of data and encoder.
    pub fn scores(
        &self,
        (encoder, input): (&dyn Encoder, &Input),
        (train, test): (&dyn MaskedDataset, &dyn MaskedDataset),
        (eval, device): (&EvalConfig, &Device),
    ) -> Result<SegmentScores> {
        self.check()?;
        eval.check()?;
        let windows = self.windows(input.size);
        encoder.trunk().grid(windows.size)?;
        if windows.stride.0 > windows.size.0 || windows.stride.1 > windows.size.1 {
            let (why, fix) = (
                "pixels between windows would have no class",
                "use at most the size of a window",
            );
            return Err(Error::config(
                "segment",
                "stride",
                windows.stride.0,
                why,
                fix,
            ));
        }
        let mut frozen = Frozen {
            encoder,
            input,
            device,
            batch_size: eval.batch_size,
            head: self.head,
            layers: self.layers.clone(),
        };
        frozen.find_layers(windows.size)?;
        let images = fixed_choice(train.len(), self.max_train);
        let training = TrainingWindows::collect(&frozen, &windows, (train, &images), self)?;
        let shape = UperNetShape {
            dim: training.dim()?,
            channels: self.channels.unwrap_or(CHANNELS),
            classes: training.classes,
        };
        let (head, store) = self.head.build(shape, self.seed, device)?;
        let scalers = training.scalers(device)?;
        fit::fit(&training, (head.as_ref(), &store), &scalers, self)?;
        Segmenter {
            frozen: &frozen,
            windows,
            head: head.as_ref(),
            scalers: &scalers,
            classes: shape.classes,
            ignored: self.ignore_index,
        }
        .scores(test, self)
    }
}
