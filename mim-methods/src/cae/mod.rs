//! CAE: Context Autoencoder for Self-Supervised Representation Learning (Chen et al., IJCV 2023, arXiv 2202.03026).
//!
//! The encoder sees only visible patches. From them a regressor predicts the latents of the hidden patches; they are
//! aligned with the encoder's output for the hidden patches alone. A decoder predicts, from these latents, the token
//! that a discrete VAE assigns to each. Reference: Atten4Vis/CAE @ a7fd162.

mod golden;

use mim_core::augment::{Augment, HorizontalFlip, ViewPlan};
use mim_core::decoders::{LatentDecoder, LatentRegressor, LatentRegressorConfig, Latents};
use mim_core::encoders::{Regressed, Vit, VitConfig};
use mim_core::nn::{LayerNorm, Linear, PosEmbedKind, QkvBias};
use mim_core::objectives::{CrossEntropyConfig, RegressionConfig};
use mim_core::params::{Ema, EmaStart, EmaTiming, Init, InitScheme, ParamStore};
use mim_core::schedule::Schedule;
use mim_core::{Error, Norm, Result};
use mim_masking::{BlockwiseMaskerConfig, OnStuck};
use mim_targets::{ComplementTarget, TargetGenerator, TokenTarget};
use serde::{Deserialize, Serialize};

use crate::beit::crops;
use crate::registry::Entry;
use crate::tokens::{self, TokenView};
use crate::{Composite, MaskMode, MethodConfig, TokensConfig};

/// Settings of CAE; `Default` is ViT-B/16 as released.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CaeConfig {
    /// The masks; all must hide the same number of patches. Default: blocks of at least 16 patches, 98 of 14x14.
    pub masker: BlockwiseMaskerConfig,
    /// Weight of the distance between predicted and encoded latents. Default 2.
    pub align_loss_weight: f64,
    /// Whether the encoding of hidden patches uses stochastic depth, as released. Default true.
    pub alignment_drop_path: bool,
    /// Initialisation of the weights. Default `cae`.
    pub init: Init,
    /// Normalisation of the images. Default ImageNet's.
    pub norm: Norm,
    /// Augmentation. Default: flip, and a random box (scale 0.08 to 1). Two sizes of that box if the tokenizer needs
    /// another size than the encoder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub views: Option<ViewPlan>,
    /// The encoder. Default: fixed positions, layer scale, biases for query and value.
    pub encoder: VitConfig,
    /// Regressor and decoder.
    pub regressor: LatentRegressorConfig,
    /// The tokenizer. Default: the discrete VAE of DALL-E; its weights must be given.
    pub target: TokensConfig,
}

impl Default for CaeConfig {
    fn default() -> Self {
        Self::with_encoder(VitConfig::default(), 0.1)
    }
}

impl CaeConfig {
    /// CAE's variant of a ViT, with regressor and decoder of the same width.
    fn with_encoder(size: VitConfig, layer_scale: f64) -> Self {
        Self {
            masker: BlockwiseMaskerConfig::cae(),
            align_loss_weight: 2.,
            alignment_drop_path: true,
            init: Init::Cae,
            norm: Norm::imagenet(),
            views: None,
            // Parity: for every encoder size, the release uses 12 heads and a layer scale of 0.1 here.
            regressor: LatentRegressorConfig {
                embed_dim: size.embed_dim,
                drop_path_rate: 0.1,
                ..LatentRegressorConfig::default()
            },
            encoder: VitConfig {
                qkv_bias: QkvBias::QV,
                layer_scale_init: Some(layer_scale),
                drop_path_rate: 0.1,
                pos_embed: PosEmbedKind::SincosRowFirst,
                ..size
            },
            target: TokensConfig::default(),
        }
    }

    fn check(&self) -> Result<()> {
        self.encoder.validate()?;
        self.norm.check(self.encoder.in_channels)?;
        if self.masker.when_stuck == OnStuck::Stop {
            let why = "visible and hidden patches are encoded separately, so all masks must hide the same number";
            let (field, fix) = ("masker.when_stuck", "use \"retry\"");
            return Err(Error::config("cae", field, "stop", why, fix));
        }
        Ok(())
    }

    /// The target latents of the hidden patches. A copy of the encoder computes them, with the weights of the previous
    /// step; they have the width of the regressor.
    fn alignment(&self, student: &ParamStore) -> Result<(ComplementTarget, ParamStore, Ema)> {
        let store = ParamStore::teacher(student.device());
        let copy = Vit::new(&store.root(), &self.encoder)?;
        let always = Schedule::constant(0.);
        let ema = Ema::new(
            student,
            &store,
            always,
            EmaTiming::AfterStep,
            EmaStart::Copy,
        )?;
        let mut target =
            ComplementTarget::new(copy, self.norm.clone()).drop_path(self.alignment_drop_path);
        let (inputs, width) = (self.encoder.output_dim(), self.regressor.embed_dim);
        if inputs != width {
            // The regressor's own layers.
            let params = student.root().pp("regressor").shared();
            target = target.embed(
                Linear::new(&params.pp("embed"), inputs, width)?,
                LayerNorm::new(&params.pp("embed_norm"), width, self.regressor.norm_eps)?,
            );
        }
        Ok((target, store, ema))
    }

    fn plan(&self, view: TokenView) -> ViewPlan {
        let flip = Augment::HorizontalFlip(HorizontalFlip::default());
        let own = self.views.clone();
        own.unwrap_or_else(|| crops(vec![flip], self.encoder.image_size, view))
    }

    /// The method with a target of `vocab_size` tokens, made from `view`.
    pub(crate) fn compose(
        &self,
        student: &ParamStore,
        (tokens, vocab_size): (impl TargetGenerator + 'static, usize),
        view: TokenView,
    ) -> Result<Composite> {
        self.check()?;
        let (params, grid) = (student.root(), self.encoder.grid()?);
        let encoder = Vit::new(&params, &self.encoder)?;
        let inputs = self.encoder.output_dim();
        let regressor = LatentRegressor::new(&params, &self.regressor, grid, inputs)?;
        let decoder = LatentDecoder::new(&params, &self.regressor, &regressor, vocab_size)?;
        let (alignment, store, ema) = self.alignment(student)?;
        let encoder = Regressed::new(encoder, regressor);
        let masker = self.masker.build()?;
        Composite::builder("cae", student, encoder, masker, MaskMode::Drop)
            .input(self.encoder.image_size, self.norm.clone(), self.plan(view))
            .teacher("teacher", &store, ema)
            .target("tokens", tokens)
            .target("alignment", alignment)
            .branch(
                ("token", "tokens"),
                decoder,
                CrossEntropyConfig::default().build(),
                Schedule::constant(1.),
            )
            .branch(
                ("align", "alignment"),
                Latents,
                RegressionConfig::default().build()?,
                Schedule::constant(self.align_loss_weight),
            )
            .note(self.target.note())
            .build()
    }
}

impl MethodConfig for CaeConfig {
    type Method = Composite;

    fn arch(arch: &str) -> Result<Self> {
        let size = VitConfig::arch(arch)?;
        Ok(match arch {
            // As released, with more heads than other methods.
            "vit_tiny" | "vit_small" => Self::with_encoder(
                VitConfig {
                    num_heads: 12,
                    ..size
                },
                0.1,
            ),
            "vit_large" => Self::with_encoder(size, 1e-5),
            _ => Self::with_encoder(size, 0.1),
        })
    }

    fn init(&self) -> Box<dyn InitScheme> {
        self.init.build(self.encoder.patch_values())
    }

    fn build(&self, student: &ParamStore) -> Result<Composite> {
        let tokenizer = self.target.open(student.device())?;
        tokens::check(&tokenizer, self.encoder.in_channels, false)?;
        let (image, grid) = (self.encoder.image_size, self.encoder.grid()?);
        let view = self.target.view(&tokenizer, image, grid)?;
        let vocab_size = tokenizer.vocab_size();
        let target = TokenTarget::new(tokenizer, view.index);
        self.compose(student, (target, vocab_size), view)
    }
}

/// Registry entry.
pub(crate) const ENTRY: Entry = Entry {
    title: "Context Autoencoder for Self-Supervised Representation Learning",
    paper: "Chen et al., IJCV 2023, arXiv 2202.03026",
    reference: "Atten4Vis/CAE @ a7fd162",
    archs: &["vit_tiny", "vit_small", "vit_base", "vit_large"],
    about: crate::registry::About {
        hidden: "half of the patches, in blocks; they are dropped",
        predicted: "tokens, from predicted latents that must agree with the encoder's own",
        by: "a regressor with cross-attention, then a few blocks",
        loss: "cross-entropy, and mean squared error of latents",
        choose: "Separates encoding from prediction: better linear probing than BEiT.",
    },
    status: "exact: latents, forward, losses, gradients",
    recipes: recipes!("cae_32px", "cae_base"),
    parity: |case, device| golden::GOLDEN.setup(case, device),
    ..Entry::new::<CaeConfig>("cae")
};

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};
    use mim_core::{Batch, Method, StepContext, View};
    use mim_targets::dvae::DvaeConfig;

    fn tiny() -> CaeConfig {
        let size = VitConfig {
            image_size: 32.into(),
            patch_size: 8,
            embed_dim: 16,
            depth: 1,
            num_heads: 2,
            ..VitConfig::default()
        };
        let mut config = CaeConfig::with_encoder(size, 0.1);
        config.masker.hidden = mim_masking::HiddenCount::Patches { count: 8 };
        config.masker.min_block = 2;
        config.regressor.embed_dim = 12;
        config.regressor.num_heads = 3;
        config.regressor.depth = 1;
        config.regressor.decoder_depth = 1;
        config.target.checkpoint = "random".to_owned();
        config.target.view = Some(1);
        config.target.network = crate::TokenizerConfig::Dvae(DvaeConfig {
            n_hid: 4,
            n_blk_per_group: 1,
            vocab_size: 24,
            ..DvaeConfig::default()
        });
        config
    }

    #[test]
    fn sizes_are_as_released() {
        let base = CaeConfig::default();
        assert_eq!(CaeConfig::arch("vit_base").unwrap(), base);
        let large = CaeConfig::arch("vit_large").unwrap();
        let regressor = &large.regressor;
        assert_eq!(large.encoder.layer_scale_init, Some(1e-5));
        assert_eq!(
            (
                regressor.embed_dim,
                regressor.num_heads,
                regressor.layer_scale_init
            ),
            (1024, 12, 0.1)
        );
        assert_eq!(CaeConfig::arch("vit_small").unwrap().encoder.num_heads, 12);
    }

    #[test]
    fn the_copy_is_the_encoder_after_every_step() {
        let config = tiny();
        let store = config.store(&Device::Cpu, 0);
        let method = config.build(&store).unwrap();
        let [(_, student), ("teacher", teacher)] = method.stores()[..] else {
            panic!("other stores");
        };
        let values = |store: &ParamStore, name: &str| {
            let var = store.var(name).unwrap();
            var.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        let step = StepContext::new(0);
        let pixels = Tensor::rand(0f32, 1f32, (2, 3, 32, 32), &Device::Cpu).unwrap();
        let views = vec![
            View::new(pixels.clone(), vec![]).unwrap(),
            View::of_unit(pixels, vec![]).unwrap(),
        ];
        let batch = Batch {
            views: views.clone(),
            ..Batch::single(views[0].clone())
        };
        let align = || -> f32 {
            let terms = method.forward(&batch, &step).unwrap();
            let term = terms.terms().iter().find(|(name, ..)| name == "align");
            term.unwrap().1.to_scalar().unwrap()
        };
        let before = align();
        let moved = student.var("blocks.0.mlp.fc1.weight").unwrap();
        moved.set(&(moved.as_tensor() * 3.).unwrap()).unwrap();
        let name = "blocks.0.mlp.fc1.weight";
        assert_ne!(values(student, name), values(teacher, name));
        method.after_step(&step).unwrap();
        for (name, _) in teacher.names() {
            assert_eq!(values(teacher, &name), values(student, &name), "{name}");
        }
        assert_ne!(align(), before);
    }

    #[test]
    fn invalid_settings_are_named() {
        type Wrong = (&'static str, fn(&mut CaeConfig));
        let wrong: [Wrong; 5] = [
            ("`masker.when_stuck` is stop", |c| {
                c.masker.when_stuck = OnStuck::Stop;
            }),
            ("`checkpoint` is not set", |c| {
                c.target.checkpoint = String::new();
            }),
            ("`num_heads` is 0", |c| c.regressor.num_heads = 0),
            ("`embed_dim` is 10", |c| c.regressor.embed_dim = 10),
            ("give the tokenizer a view of 32x32 pixels", |c| {
                c.views = Some(ViewPlan::with_tokenizer(vec![], (32, 32), (16, 16)));
            }),
        ];
        for (what, spoil) in wrong {
            let mut config = tiny();
            spoil(&mut config);
            let built = config.build(&config.store(&Device::Cpu, 0));
            let error = built.unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}
