//! SemMAE: Semantic-Guided Masking for Learning Masked Autoencoders (Li et al., NeurIPS 2022, arXiv 2206.10207).
//!
//! MAE whose masks follow the parts of an image: at the start of training a share of each part is hidden, at the end
//! whole parts. With patches of 8 pixels, only the 196 most important ones are used. Reference: ucasligang/SemMAE @
//! 95b39ff, which starts from part maps; the network that computes them was not published. Here they come from a file,
//! or a frozen network computes them for each batch, optionally with parts learned on it by a run of `semmae_parts`.

mod golden;

use std::path::Path;

use mim_core::augment::{Augment, HorizontalFlip, Resize, ViewPlan};
use mim_core::decoders::{DecoderShape, MaeDecoder, MaeDecoderConfig};
use mim_core::encoders::{EncoderConfig, Vit, VitConfig};
use mim_core::objectives::RegressionConfig;
use mim_core::params::{Init, InitScheme, ParamStore};
use mim_core::schedule::Schedule;
use mim_core::{Error, Norm, Result};
use mim_masking::SemanticPartMaskerConfig;
use mim_targets::{
    PartRule, PatchNorm, PixelTargetConfig, RecordedParts, TargetGenerator, TeacherParts,
};
use serde::{Deserialize, Serialize};

use crate::registry::Entry;
use crate::semmae_parts::LearnedParts;
use crate::{Composite, FrozenConfig, MaskMode, MethodConfig};

/// Where part maps come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum PartsConfig {
    /// A file with a map for each training image ([`RecordedParts`]).
    File {
        /// Its path.
        path: String,
    },
    /// The attention heads of a frozen network's class token: each is a part.
    Attention {
        /// The network.
        #[serde(default)]
        teacher: Box<FrozenConfig>,
        /// How many patches are used, the most attended ones. If not set: all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retain: Option<usize>,
    },
    /// k-means on a frozen network's features of the patches of an image.
    KMeans {
        /// The network.
        #[serde(default)]
        teacher: Box<FrozenConfig>,
        /// How many patches are used, the most attended ones. If not set: all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retain: Option<usize>,
        /// Number of k-means iterations. Default 10.
        #[serde(default = "iterations")]
        iterations: usize,
    },
    /// The parts learned by a run of `semmae_parts`.
    Learned {
        /// Its folder.
        #[serde(default)]
        checkpoint: String,
        /// How many patches are used, the most attended ones. If not set: all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retain: Option<usize>,
    },
}

fn iterations() -> usize {
    10
}

/// Settings of SemMAE; `Default` is ViT-B/8 as released, with parts by k-means on DINO's features, whose weights must
/// be given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SemMaeConfig {
    /// The masks.
    pub masker: SemanticPartMaskerConfig,
    /// Where part maps come from.
    pub parts: PartsConfig,
    /// Whether each patch's pixels are normalised by their own mean and deviation. Default true.
    pub norm_pix_loss: bool,
    /// Initialisation of the weights. Default `mae`.
    pub init: Init,
    /// Normalisation of the images. Default ImageNet's.
    pub norm: Norm,
    /// Augmentation. Default: the whole image, flipped with probability 0.5, as required by part maps from a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub views: Option<ViewPlan>,
    /// The encoder, with patches of 8 pixels.
    pub encoder: VitConfig,
    /// The decoder.
    pub decoder: MaeDecoderConfig,
}

impl Default for SemMaeConfig {
    fn default() -> Self {
        Self::with_encoder(VitConfig::default())
    }
}

impl SemMaeConfig {
    fn with_encoder(size: VitConfig) -> Self {
        let encoder = VitConfig {
            patch_size: 8,
            ..size
        };
        // DINO's ViT-S/8 has the patch grid of the encoder.
        let teacher = VitConfig {
            embed_dim: 384,
            depth: 12,
            num_heads: 6,
            ..VitConfig {
                patch_size: 8,
                ..VitConfig::default()
            }
        };
        Self {
            masker: SemanticPartMaskerConfig::default(),
            parts: PartsConfig::KMeans {
                teacher: Box::new(FrozenConfig {
                    source: "dino".to_owned(),
                    encoder: EncoderConfig::Vit(teacher),
                    ..FrozenConfig::default()
                }),
                retain: Some(196),
                iterations: iterations(),
            },
            norm_pix_loss: true,
            init: Init::Mae,
            norm: Norm::imagenet(),
            views: None,
            encoder,
            decoder: MaeDecoderConfig::default(),
        }
    }

    /// The source of part maps, and its line for reports.
    fn part_maps(&self, student: &ParamStore) -> Result<(Box<dyn TargetGenerator>, String)> {
        let (teacher, rule, retain) = match &self.parts {
            PartsConfig::File { path } => {
                if path.is_empty() {
                    let why = "part maps are read from this file";
                    let fix =
                        "set it to a .safetensors or .npz file with `part_id` [images, rows, cols]";
                    return Err(Error::config("semmae", "parts.path", "not set", why, fix));
                }
                let maps = RecordedParts::read(Path::new(path))?;
                return Ok((Box::new(maps), format!("part maps come from {path}")));
            }
            PartsConfig::Learned { checkpoint, retain } => {
                let learned = LearnedParts::open(Path::new(checkpoint), student.device())?;
                let note = format!("part maps come from the run {checkpoint}");
                return Ok((Box::new(learned.target(*retain)?), note));
            }
            PartsConfig::Attention { teacher, retain } => (teacher, PartRule::Heads, retain),
            PartsConfig::KMeans {
                teacher,
                retain,
                iterations,
            } => {
                let (clusters, iterations) = (self.masker.num_parts, *iterations);
                let rule = PartRule::KMeans {
                    clusters,
                    iterations,
                };
                (teacher, rule, retain)
            }
        };
        let network = teacher.open_for(student.device(), self.encoder.in_channels)?;
        let norm = teacher.norm.clone().unwrap_or_else(|| self.norm.clone());
        let maps = TeacherParts::new(network, (teacher.view, norm), rule, *retain)?;
        let note = format!("part maps come from the network {}", teacher.checkpoint);
        Ok((Box::new(maps), note))
    }

    fn plan(&self) -> ViewPlan {
        self.views.clone().unwrap_or_else(|| {
            ViewPlan::single(vec![
                Augment::Resize(Resize {
                    size: <(usize, usize)>::from(self.encoder.image_size).into(),
                    ..Resize::default()
                }),
                Augment::HorizontalFlip(HorizontalFlip::default()),
            ])
        })
    }

    /// The method with these part maps instead of those from the settings; if `None`, batches must contain them.
    pub(crate) fn compose(
        &self,
        student: &ParamStore,
        parts: Option<(Box<dyn TargetGenerator>, String)>,
    ) -> Result<Composite> {
        self.norm.check(self.encoder.in_channels)?;
        let (params, size) = (student.root(), self.encoder.image_size);
        let encoder = Vit::new(&params, &self.encoder)?;
        let masker = self.masker.build()?;
        let target = PixelTargetConfig {
            norm: self.norm.clone(),
            patch_norm: match self.norm_pix_loss {
                true => PatchNorm::default(),
                false => PatchNorm::None,
            },
            ..PixelTargetConfig::default()
        };
        let (dim, values) = (self.encoder.embed_dim, self.encoder.patch_values());
        let shape = DecoderShape::new(self.encoder.grid()?, dim, values);
        let decoder = MaeDecoder::new(&params, &self.decoder, shape)?;
        let mut composite = Composite::builder("semmae", student, encoder, masker, MaskMode::Drop)
            .input(size, self.norm.clone(), self.plan())
            .target("pixels", target.build()?)
            .branch(
                ("pixel", "pixels"),
                decoder,
                RegressionConfig::default().build()?,
                Schedule::constant(1.),
            );
        if let Some((maps, note)) = parts {
            composite = composite.target("parts", maps).note(note);
        }
        composite.build()
    }
}

impl MethodConfig for SemMaeConfig {
    type Method = Composite;

    fn arch(arch: &str) -> Result<Self> {
        Ok(Self::with_encoder(VitConfig::arch(arch)?))
    }

    fn init(&self) -> Box<dyn InitScheme> {
        self.init.build(self.encoder.patch_values())
    }

    fn build(&self, student: &ParamStore) -> Result<Composite> {
        self.compose(student, Some(self.part_maps(student)?))
    }
}

/// Registry entry.
pub(crate) const ENTRY: Entry = Entry {
    title: "SemMAE: Semantic-Guided Masking for Learning Masked Autoencoders",
    paper: "Li et al., NeurIPS 2022, arXiv 2206.10207",
    reference: "ucasligang/SemMAE @ 95b39ff",
    archs: crate::registry::VITS,
    about: crate::registry::About {
        hidden: "75 % of the patches: at first some of each part, at the end whole parts",
        predicted: "pixels of the hidden patches",
        by: "MAE's decoder",
        loss: "mean squared error on hidden patches",
        choose: "When part maps, or an encoder that gives them, are available.",
    },
    status: "exact: masks of given parts, forward, loss, gradients, step",
    recipes: recipes!("semmae_32px", "semmae_base"),
    parity: |case, device| golden::GOLDEN.setup(case, device),
    ..Entry::new::<SemMaeConfig>("semmae")
};

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};
    use mim_core::{Batch, Crop, Method, PatchGrid, StepContext, View};

    const SMALL: &str = "
        encoder = { image_size = 32, patch_size = 8, embed_dim = 16, depth = 1, num_heads = 2 }
        decoder = { embed_dim = 8, depth = 1, num_heads = 2 }";
    const TEACHER: &str = "checkpoint = \"random\", encoder = { type = \"vit\", image_size = 32, patch_size = 8, embed_dim = 12, depth = 1, num_heads = 3 }";

    fn config(settings: &str) -> SemMaeConfig {
        let entry = crate::registry::method("semmae").unwrap();
        let settings = format!("{settings}\n{SMALL}").parse().unwrap();
        entry.resolve(settings).unwrap().try_into().unwrap()
    }

    fn batch() -> Batch {
        let bytes: Vec<u8> = (0..2 * 3 * 32 * 32u32)
            .map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()[3])
            .collect();
        let pixels = Tensor::from_vec(bytes, (2, 3, 32, 32), &Device::Cpu).unwrap();
        let crop = Crop {
            flipped: true,
            ..Crop::whole((32, 32))
        };
        Batch {
            indices: vec![1, 0],
            ..Batch::single(View::new(pixels, vec![crop; 2]).unwrap())
        }
    }

    fn loss(method: &Composite) -> Result<f32> {
        let terms = method.forward(&batch(), &StepContext::new(1))?;
        Ok(terms.total()?.to_scalar::<f32>()?)
    }

    #[test]
    fn the_default_is_the_released_size() {
        let config = SemMaeConfig::default();
        assert_eq!(config, SemMaeConfig::arch("vit_base").unwrap());
        assert_eq!(config.encoder.grid().unwrap(), PatchGrid::new(28, 28));
        assert_eq!(
            (config.masker.mask_ratio, config.masker.num_parts),
            (0.75, 7)
        );
    }

    #[test]
    fn parts_come_from_attention_clusters_or_maps() {
        for parts in [
            format!("parts = {{ type = \"attention\", teacher = {{ {TEACHER} }} }}"),
            format!("parts = {{ type = \"attention\", retain = 8, teacher = {{ {TEACHER} }} }}"),
            format!(
                "parts = {{ type = \"k_means\", retain = 12, iterations = 3, teacher = {{ {TEACHER} }} }}"
            ),
        ] {
            let config = config(&parts);
            let method = config.build(&config.store(&Device::Cpu, 0)).unwrap();
            assert!(loss(&method).unwrap() > 0.1, "{parts}");
        }
        let config = config("");
        let maps = RecordedParts::new([0, 1, 2, 3].repeat(8), PatchGrid::new(4, 4)).unwrap();
        let maps: Box<dyn TargetGenerator> = Box::new(maps);
        let store = config.store(&Device::Cpu, 0);
        let method = config.compose(&store, Some((maps, String::new()))).unwrap();
        assert!(loss(&method).unwrap() > 0.1);
    }

    #[test]
    fn maps_with_another_grid_and_missing_maps_are_refused() {
        let error = |settings: &str| -> String {
            let config = config(settings);
            let method = config.build(&config.store(&Device::Cpu, 0));
            method
                .and_then(|method| loss(&method))
                .unwrap_err()
                .to_string()
        };
        let finer = TEACHER.replace("patch_size = 8", "patch_size = 4");
        let finer = error(&format!(
            "parts = {{ type = \"attention\", teacher = {{ {finer} }} }}"
        ));
        assert!(finer.contains("8x8") && finer.contains("4x4"), "{finer}");
        assert!(error("parts = { type = \"file\", path = \"\" }").contains("part_id"));
        assert!(
            error("parts = { type = \"file\", path = \"no/such.npz\" }").contains("no/such.npz")
        );
        let many =
            format!("parts = {{ type = \"attention\", retain = 17, teacher = {{ {TEACHER} }} }}");
        assert!(error(&many).contains("16 patches"), "{}", error(&many));
        // Two parts for three heads.
        let few = format!(
            "masker = {{ num_parts = 1 }}\nparts = {{ type = \"attention\", teacher = {{ {TEACHER} }} }}"
        );
        assert!(error(&few).contains("num_parts"), "{}", error(&few));
        let config = config("");
        let store = config.store(&Device::Cpu, 0);
        let maps = RecordedParts::new(vec![0; 9], PatchGrid::new(3, 3)).unwrap();
        let maps: Box<dyn TargetGenerator> = Box::new(maps);
        let error = config
            .compose(&store, Some((maps, String::new())))
            .unwrap_err();
        assert!(error.to_string().contains("3x3"), "{error}");
    }
}
