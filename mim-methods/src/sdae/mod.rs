//! SdAE: Self-distillated Masked Autoencoder (Chen et al., ECCV 2022, arXiv 2208.00449).
//!
//! MAE's student predicts, for each hidden patch, the features of a momentum copy of its encoder. The copy never sees
//! the whole image: the hidden patches are split into folds, and it sees one fold at a time. It is updated once per
//! epoch. Reference: AbrahamYabo/SdAE @ 2e08b31.

mod golden;

use mim_core::augment::ViewPlan;
use mim_core::decoders::{DecoderShape, MaeDecoder, MaeDecoderConfig};
use mim_core::encoders::{Vit, VitConfig};
use mim_core::nn::PosEmbedKind;
use mim_core::objectives::{Cosine, CosineAxis, CosineConfig};
use mim_core::params::{Ema, EmaStart, EmaTiming, Init, InitScheme, ParamStore, SwinInit};
use mim_core::schedule::{Per, Schedule};
use mim_core::{LossTerms, Mask, Norm, Objective, Prediction, Result, StepContext, Target};
use mim_masking::RandomMaskerConfig;
use mim_targets::{FeatureTarget, FeatureTargetConfig, FoldTarget, TargetGenerator};
use serde::{Deserialize, Serialize};

use crate::registry::Entry;
use crate::{Composite, MaskMode, MethodConfig};

/// What the teacher sees of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum TeacherView {
    /// The hidden patches in folds, one at a time.
    Folds {
        /// Number of folds; it must divide the number of patches that the teacher sees.
        folds: usize,
        /// How many hidden patches per image the teacher sees and the student predicts. If not set: all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tokens: Option<usize>,
    },
    /// All patches together.
    Whole,
}

/// Settings of SdAE; `Default` is ViT-B/16 as released.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SdaeConfig {
    /// Fraction of patches hidden from the student, in `[0, 1)`. Default 0.75.
    pub mask_ratio: f64,
    /// What the teacher sees. Default: the hidden patches in three folds.
    pub teacher_view: TeacherView,
    /// Whether the cosine compares the features of a token. Default false: if the teacher sees folds, it compares one
    /// feature across the tokens of a fold.
    // Parity: the release takes the cosine over axis 1, which is the token axis if there are folds.
    pub cosine_over_features: bool,
    /// Epsilon of the norm of the targets. Default 1e-6.
    pub target_norm_eps: f64,
    /// Momentum of the teacher: the share that an update keeps. Default: from 0.96 to 0.99 along a half cosine over the
    /// epochs.
    pub momentum: Schedule,
    /// Whether the teacher is updated after each epoch (the default) or each step (`iter`).
    pub update: Per,
    /// Initialisation of the weights. Default `mae`. The teacher has timm's initialisation and is not a copy.
    pub init: Init,
    /// Normalisation of the images. Default ImageNet's.
    pub norm: Norm,
    /// Augmentation. Default: random resized crop (scale 0.2 to 1, bicubic) and flip.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub views: Option<ViewPlan>,
    /// The encoder, by default with stochastic depth of 0.25; the teacher's has none.
    pub encoder: VitConfig,
    /// The decoder.
    pub decoder: MaeDecoderConfig,
}

impl Default for SdaeConfig {
    fn default() -> Self {
        Self::with_encoder(VitConfig::default())
    }
}

impl SdaeConfig {
    fn with_encoder(size: VitConfig) -> Self {
        Self {
            mask_ratio: 0.75,
            teacher_view: TeacherView::Folds {
                folds: 3,
                tokens: None,
            },
            cosine_over_features: false,
            target_norm_eps: 1e-6,
            momentum: Schedule::Cosine {
                start: 0.96,
                end: 0.99,
                per: Per::Epoch,
            },
            update: Per::Epoch,
            init: Init::Mae,
            norm: Norm::imagenet(),
            views: None,
            encoder: VitConfig {
                drop_path_rate: 0.25,
                ..size
            },
            decoder: MaeDecoderConfig::default(),
        }
    }

    /// The teacher in its own store, and its EMA.
    fn teacher(&self, student: &ParamStore) -> Result<(Vit, ParamStore, Ema)> {
        let store = ParamStore::teacher(student.device());
        // Its position table is a parameter like the others and moves towards the student's.
        let encoder = VitConfig {
            pos_embed: PosEmbedKind::Learned,
            ..self.encoder.clone()
        };
        let vit = Vit::new(&store.root(), &encoder)?;
        if let Some(seed) = student.seed() {
            let patch_values = self.encoder.patch_values();
            store.redraw(&SwinInit { patch_values }, (seed, "teacher"), |_| true)?;
        }
        let when = match self.update {
            Per::Epoch => EmaTiming::EndOfEpoch,
            Per::Iter => EmaTiming::AfterStep,
        };
        let momentum = self.momentum.clone();
        let ema = Ema::new(student, &store, momentum, when, EmaStart::Keep)?;
        Ok((vit, store, ema))
    }

    fn target(&self, teacher: Vit) -> Result<Box<dyn TargetGenerator>> {
        let (norm, eps) = (self.norm.clone(), self.target_norm_eps);
        Ok(match self.teacher_view {
            TeacherView::Folds { folds, tokens } => {
                Box::new(FoldTarget::new(teacher, norm, (folds, tokens))?.layer_norm(eps)?)
            }
            TeacherView::Whole => {
                let config = FeatureTargetConfig {
                    norm,
                    layer_norm_eps: Some(eps),
                    layer_norm_unbiased: true,
                    ..FeatureTargetConfig::default()
                };
                Box::new(FeatureTarget::new(teacher, config)?)
            }
        })
    }

    fn objective(&self) -> Result<FirstHidden> {
        let (folds, tokens) = match self.teacher_view {
            TeacherView::Folds { folds, tokens } => (folds, tokens),
            TeacherView::Whole => (1, None),
        };
        let whole = self.teacher_view == TeacherView::Whole;
        let axis = match self.cosine_over_features || whole {
            true => CosineAxis::Features,
            false => CosineAxis::Tokens { folds },
        };
        let config = CosineConfig {
            axis,
            ..CosineConfig::sdae(folds)
        };
        Ok(FirstHidden {
            tokens,
            inner: config.build()?,
        })
    }
}

/// The loss over the first hidden patches of each image, in the mask's order.
struct FirstHidden {
    tokens: Option<usize>,
    inner: Cosine,
}

impl Objective for FirstHidden {
    fn loss(
        &self,
        prediction: &Prediction,
        target: &Target,
        mask: &Mask,
        step: &StepContext,
    ) -> Result<LossTerms> {
        let Some(tokens) = self.tokens else {
            return self.inner.loss(prediction, target, mask, step);
        };
        let keep = mask.exact_keep()?;
        let rows = (0..mask.rows()).flat_map(|row| {
            let hidden = mask.hidden(row).iter().take(tokens);
            mask.visible(row).iter().chain(hidden).copied()
        });
        let first = Mask::new(mask.grid(), rows.collect(), vec![keep; mask.rows()])?;
        let mut prediction = prediction.clone();
        if prediction.rows == mim_core::Rows::Masked {
            let seen = tokens.min(prediction.values.dim(1)?);
            prediction.values = prediction.values.narrow(1, 0, seen)?.contiguous()?;
        }
        self.inner.loss(&prediction, target, &first, step)
    }
}

impl MethodConfig for SdaeConfig {
    type Method = Composite;

    fn arch(arch: &str) -> Result<Self> {
        Ok(Self::with_encoder(VitConfig::arch(arch)?))
    }

    fn init(&self) -> Box<dyn InitScheme> {
        self.init.build(self.encoder.patch_values())
    }

    fn build(&self, student: &ParamStore) -> Result<Composite> {
        self.norm.check(self.encoder.in_channels)?;
        self.momentum.validate()?;
        let (params, size) = (student.root(), self.encoder.image_size);
        let encoder = Vit::new(&params, &self.encoder)?;
        let dim = self.encoder.output_dim();
        let shape = DecoderShape::new(self.encoder.grid()?, dim, dim);
        let decoder = MaeDecoder::new(&params, &self.decoder, shape)?;
        let (teacher, store, ema) = self.teacher(student)?;
        let masker = RandomMaskerConfig {
            mask_ratio: self.mask_ratio,
        };
        let views = self
            .views
            .clone()
            .unwrap_or_else(|| ViewPlan::mae(<(usize, usize)>::from(size)));
        Composite::builder("sdae", student, encoder, masker.build()?, MaskMode::Drop)
            .input(size, self.norm.clone(), views)
            .target("features", self.target(teacher)?)
            .branch(
                ("feature", "features"),
                decoder,
                self.objective()?,
                Schedule::constant(1.),
            )
            .teacher("teacher", &store, ema)
            .build()
    }
}

/// Registry entry.
pub(crate) const ENTRY: Entry = Entry {
    title: "SdAE: Self-distillated Masked Autoencoder",
    paper: "Chen et al., ECCV 2022, arXiv 2208.00449",
    reference: "AbrahamYabo/SdAE @ 2e08b31",
    archs: crate::registry::VITS,
    about: crate::registry::About {
        hidden: "75 % of the patches; they are dropped",
        predicted: "features of a momentum teacher that sees the hidden patches in groups",
        by: "MAE's decoder, then a projection",
        loss: "cosine distance of normalised features",
        choose: "MAE with a self-distilled target; the teacher changes once an epoch.",
    },
    status: "exact: forward, loss, gradients, step, teacher",
    recipes: recipes!("sdae_32px", "sdae_base"),
    parity: |case, device| golden::GOLDEN.setup(case, device),
    ..Entry::new::<SdaeConfig>("sdae")
};

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device, Tensor};
    use mim_core::{Batch, Method, View};

    fn tiny(teacher_view: TeacherView) -> SdaeConfig {
        SdaeConfig {
            teacher_view,
            decoder: MaeDecoderConfig {
                embed_dim: 8,
                depth: 1,
                num_heads: 2,
                ..MaeDecoderConfig::default()
            },
            ..SdaeConfig::with_encoder(VitConfig {
                image_size: 32.into(),
                patch_size: 8,
                embed_dim: 16,
                depth: 2,
                num_heads: 2,
                ..VitConfig::default()
            })
        }
    }

    fn loss(config: &SdaeConfig, traced: bool) -> Result<f32> {
        let method = config.build(&config.store(&Device::Cpu, 0))?;
        let bytes: Vec<u8> = (0..2 * 3 * 32 * 32u32)
            .map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()[3])
            .collect();
        let pixels = Tensor::from_vec(bytes, (2, 3, 32, 32), &Device::Cpu)?;
        let step = StepContext {
            training: !traced,
            ..StepContext::new(3)
        };
        let terms = method.forward(&Batch::single(View::new(pixels, vec![])?), &step)?;
        Ok(terms.total()?.to_scalar::<f32>()?)
    }

    fn folds(folds: usize, tokens: Option<usize>) -> TeacherView {
        TeacherView::Folds { folds, tokens }
    }

    #[test]
    fn the_default_is_the_released_recipe() {
        let config = SdaeConfig::default();
        assert_eq!(config, SdaeConfig::arch("vit_base").unwrap());
        assert_eq!(config.encoder.drop_path_rate, 0.25);
        let epoch = |epoch| StepContext {
            epoch,
            epochs: 300,
            ..StepContext::new(0)
        };
        assert_eq!(config.momentum.at(&epoch(0)), 0.96);
        assert!((config.momentum.at(&epoch(150)) - 0.975).abs() < 1e-12);
    }

    #[test]
    fn folds_that_do_not_divide_are_refused() {
        // 12 of 16 patches are hidden.
        for (view, wanted) in [
            (folds(5, None), "a multiple of folds = 5"),
            (folds(3, Some(10)), "such as 9"),
            (folds(3, Some(15)), "at least 15"),
            (folds(0, None), "at least one"),
        ] {
            let error = loss(&tiny(view), false).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
        for view in [
            folds(3, None),
            folds(3, Some(9)),
            folds(1, Some(10)),
            TeacherView::Whole,
        ] {
            let loss = loss(&tiny(view.clone()), false).unwrap();
            assert!(loss > 0.5 && loss < 1.5, "{view:?}: {loss}");
        }
    }

    #[test]
    fn the_teacher_has_its_own_initialisation_and_moves_after_the_epoch() {
        let config = tiny(folds(3, None));
        let mut method = config.build(&config.store(&Device::Cpu, 0)).unwrap();
        let value = |method: &Composite, store: usize, name: &str| -> Vec<f32> {
            let var = method.stores()[store].1.var(name).unwrap();
            let var = var.to_dtype(DType::F32).unwrap();
            var.flatten_all().unwrap().to_vec1().unwrap()
        };
        let name = "blocks.0.mlp.fc1.weight";
        let (student, before) = (value(&method, 0, name), value(&method, 1, name));
        assert_ne!(student, before);
        assert!(before.iter().all(|value| value.abs() < 0.1 && *value != 0.));
        let step = StepContext {
            epochs: 2,
            ..StepContext::new(0)
        };
        method.after_step(&step).unwrap();
        assert_eq!(value(&method, 1, name), before);
        method.end_epoch(&step).unwrap();
        for name in [name, "pos_embed"] {
            let (student, now) = (value(&method, 0, name), value(&method, 1, name));
            if name == "pos_embed" {
                assert!(now.iter().any(|value| *value != 0.));
                continue;
            }
            for ((student, before), now) in student.iter().zip(&before).zip(&now) {
                assert!((0.96 * before + 0.04 * student - now).abs() < 1e-6);
            }
        }
    }
}
