//! BootMAE: Bootstrapped Masked Autoencoders for Vision BERT Pretraining (Dong et al., ECCV 2022,
//! arXiv 2207.07116).
//!
//! MAE's pixel prediction, plus a second decoder that predicts the features of a momentum copy of the encoder on the
//! whole image. Each decoder attends to one block of the encoder: the first block for pixels, the last for features.
//! The encoder then need not carry information that only one of them uses. Reference: LightDXY/BootMAE @ d604b18.

mod golden;

use mim_core::augment::ViewPlan;
use mim_core::decoders::{InjectDecoder, InjectDecoderConfig, InjectOutput};
use mim_core::encoders::{Vit, VitConfig};
use mim_core::nn::{PosEmbed, PosEmbedKind, QkvBias};
use mim_core::objectives::{Regression, RegressionConfig, RowNorm, TokenWeights};
use mim_core::params::{Ema, EmaStart, EmaTiming, Init, InitScheme, ParamStore, Params};
use mim_core::schedule::{Per, Point, Schedule};
use mim_core::{Error, Norm, Result};
use mim_masking::RolledBlockMaskerConfig;
use mim_targets::{FeatureTarget, FeatureTargetConfig, PatchNorm, PixelTargetConfig};
use serde::{Deserialize, Serialize};

use crate::registry::Entry;
use crate::{Composite, MaskMode, MethodConfig};

/// Settings of BootMAE; `Default` is ViT-B/16 as released.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BootMaeConfig {
    /// The masks. Default: blocks of 120 of 14x14 patches, 147 hidden in all.
    pub masker: RolledBlockMaskerConfig,
    /// How the pixels of each patch are normalised. Default `channel`.
    pub patch_norm: PatchNorm,
    /// Weight of hidden patches in both losses. Default `neighbours`.
    pub token_weights: TokenWeights,
    /// Weight of the feature loss. Default: rising to 1 in the first quarter of the epochs.
    pub feature_weight: Schedule,
    /// Momentum of the teacher. Default 0.999, rising to 0.9999 in 100 epochs and to 0.99999 in 300 more.
    pub momentum: Schedule,
    /// Initialisation of the weights. Default `bootmae`.
    pub init: Init,
    /// Normalisation of the images. Default mean and deviation 0.5.
    pub norm: Norm,
    /// Augmentation. Default: random resized crop (scale 0.2 to 1, bicubic) and flip.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub views: Option<ViewPlan>,
    /// The encoder, also used by the teacher.
    pub encoder: VitConfig,
    /// The decoder of pixels; the encoder's first block is injected into it.
    pub decoder: InjectDecoderConfig,
    /// The decoder of features, as wide as the encoder; the encoder's last block is injected into it.
    pub feature_decoder: InjectDecoderConfig,
}

impl Default for BootMaeConfig {
    fn default() -> Self {
        Self::with_encoder(
            VitConfig::default(),
            InjectDecoderConfig::default().embed_dim,
        )
    }
}

/// Widths of the pixel decoder: the published ones; smaller encoders use two thirds of their width.
const DECODER_DIMS: &[(&str, usize)] = &[
    ("vit_tiny", 128),
    ("vit_small", 256),
    ("vit_base", 512),
    ("vit_large", 512),
];

impl BootMaeConfig {
    /// BootMAE's variant of a ViT, decoders with the same number of heads, and the released momenta.
    fn with_encoder(size: VitConfig, embed_dim: usize) -> Self {
        let encoder = VitConfig {
            qkv_bias: QkvBias::QV,
            pos_embed: PosEmbedKind::SincosRowFirst,
            ..size
        };
        let decoder = InjectDecoderConfig {
            embed_dim,
            num_heads: encoder.num_heads,
            layer: Some(0),
            ..Default::default()
        };
        let feature_decoder = InjectDecoderConfig {
            embed_dim: encoder.embed_dim,
            layer: None,
            ..decoder.clone()
        };
        let point = |epoch, value| Point { epoch, value };
        let points = vec![point(0., 0.999), point(100., 0.9999), point(400., 0.999_99)];
        Self {
            masker: RolledBlockMaskerConfig::default(),
            patch_norm: PixelTargetConfig::bootmae().patch_norm,
            token_weights: TokenWeights::Neighbours,
            feature_weight: Schedule::Ramp {
                value: 1.,
                factor: 4.,
            },
            momentum: Schedule::Piecewise {
                points,
                per: Per::Epoch,
            },
            init: Init::BootMae,
            norm: Norm::inception(),
            views: None,
            encoder,
            decoder,
            feature_decoder,
        }
    }

    fn check(&self) -> Result<()> {
        self.norm.check(self.encoder.in_channels)?;
        self.momentum.validate()?;
        self.feature_weight.validate()?;
        let (own, encoder) = (self.feature_decoder.embed_dim, self.encoder.embed_dim);
        if own != encoder {
            return Err(Error::config(
                "bootmae",
                "feature_decoder.embed_dim",
                own,
                format!(
                    "it must equal encoder.embed_dim = {encoder}: both share the position table"
                ),
                "set both to the same value",
            ));
        }
        Ok(())
    }

    /// The pixel and the feature decoder.
    fn decoders(&self, params: &Params) -> Result<[InjectDecoder; 2]> {
        let VitConfig {
            patch_size,
            in_channels: channels,
            embed_dim,
            depth,
            pos_embed: kind,
            ..
        } = self.encoder;
        let grid = (self.encoder.grid()?, 1);
        // The feature decoder adds the encoder's own position table.
        let table = |name, dim| PosEmbed::new(&params.shared(), name, kind, dim, grid);
        let pixels = InjectOutput::Pixels {
            channels,
            patch_size,
        };
        Ok([
            InjectDecoder::new(
                params,
                &self.decoder,
                (embed_dim, depth),
                table("decoder_pos_embed", self.decoder.embed_dim)?,
                pixels,
            )?,
            InjectDecoder::new(
                &params.pp("feature"),
                &self.feature_decoder,
                (embed_dim, depth),
                table("pos_embed", embed_dim)?,
                InjectOutput::Values(embed_dim),
            )?,
        ])
    }

    /// The loss of one branch.
    fn objective(&self, row_norm: RowNorm) -> Result<Regression> {
        RegressionConfig {
            row_norm,
            weights: self.token_weights,
            ..Default::default()
        }
        .build()
    }
}

impl MethodConfig for BootMaeConfig {
    type Method = Composite;

    fn arch(arch: &str) -> Result<Self> {
        let found = DECODER_DIMS.iter().find(|(name, _)| *name == arch);
        let &(_, embed_dim) = found.ok_or_else(|| {
            let known: Vec<_> = DECODER_DIMS.iter().map(|(name, _)| *name).collect();
            let fix = format!("use one of {}", known.join(", "));
            Error::config(
                "bootmae",
                "arch",
                arch,
                "BootMAE has no decoder for this size",
                fix,
            )
        })?;
        Ok(Self::with_encoder(VitConfig::arch(arch)?, embed_dim))
    }

    fn init(&self) -> Box<dyn InitScheme> {
        self.init.build(self.encoder.patch_values())
    }

    fn build(&self, student: &ParamStore) -> Result<Composite> {
        self.check()?;
        let (params, teacher) = (student.root(), ParamStore::teacher(student.device()));
        let encoder = Vit::new(&params, &self.encoder)?;
        let [pixel, feature] = self.decoders(&params)?;
        let copy = Vit::new(&teacher.root(), &self.encoder)?;
        let ema = Ema::new(
            student,
            &teacher,
            self.momentum.clone(),
            EmaTiming::AfterStep,
            EmaStart::Copy,
        )?;
        let pixels = PixelTargetConfig {
            norm: self.norm.clone(),
            patch_norm: self.patch_norm,
            ..PixelTargetConfig::bootmae()
        };
        let features = FeatureTargetConfig {
            norm: self.norm.clone(),
            final_norm: false,
            ..Default::default()
        };
        let size = self.encoder.image_size;
        let plan = self.views.clone();
        let plan = plan.unwrap_or_else(|| ViewPlan::mae(<(usize, usize)>::from(size)));
        let (once, normalised) = (RowNorm::None, RowNorm::LayerNorm { eps: 1e-6 });
        let masker = self.masker.build()?;
        Composite::builder("bootmae", student, encoder, masker, MaskMode::Drop)
            .input(size, self.norm.clone(), plan)
            .teacher("teacher", &teacher, ema)
            .target("pixels", pixels.build()?)
            .target("features", FeatureTarget::new(copy, features)?)
            .branch(
                ("pixel", "pixels"),
                pixel,
                self.objective(once)?,
                Schedule::constant(1.),
            )
            .branch(
                ("feature", "features"),
                feature,
                self.objective(normalised)?,
                self.feature_weight.clone(),
            )
            .build()
    }
}

/// Registry entry.
pub(crate) const ENTRY: Entry = Entry {
    title: "Bootstrapped Masked Autoencoders for Vision BERT Pretraining",
    paper: "Dong et al., ECCV 2022, arXiv 2207.07116",
    reference: "LightDXY/BootMAE @ d604b18",
    archs: &["vit_tiny", "vit_small", "vit_base", "vit_large"],
    about: crate::registry::About {
        hidden: "75 % of the patches, in blocks",
        predicted: "pixels, and features of a momentum copy of the encoder",
        by: "two decoders with cross-attention to a shallow and to the last block",
        loss: "mean squared error of both, the features' weight growing",
        choose: "Better features than MAE for a moderate extra cost.",
    },
    status: "exact: forward, losses, gradients, step, teacher",
    recipes: recipes!("bootmae_32px", "bootmae_base", "bootmae_large"),
    parity: |case, device| golden::GOLDEN.setup(case, device),
    ..Entry::new::<BootMaeConfig>("bootmae")
};

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use mim_core::Method;

    #[test]
    fn base_and_large_have_the_published_sizes() {
        // Counted from shapes alone: 12 and 24 blocks, both decoders, both position tables.
        let base = BootMaeConfig::default();
        assert_eq!(BootMaeConfig::arch("vit_base").unwrap(), base);
        assert_eq!((base.decoder.embed_dim, base.decoder.num_heads), (512, 12));
        let large = BootMaeConfig::arch("vit_large").unwrap();
        let feature = &large.feature_decoder;
        assert_eq!((feature.embed_dim, feature.num_heads), (1024, 16));
        assert!(BootMaeConfig::arch("vit_huge").is_err());
        let store = base.store(&Device::Cpu, 0);
        base.build(&store).unwrap();
        let values: usize = store.vars().iter().map(|(_, var)| var.elem_count()).sum();
        assert_eq!(values, 115_625_411);
    }

    fn tiny() -> BootMaeConfig {
        let size = VitConfig {
            image_size: 32.into(),
            patch_size: 8,
            embed_dim: 16,
            depth: 2,
            num_heads: 2,
            ..VitConfig::default()
        };
        BootMaeConfig::with_encoder(size, 12)
    }

    #[test]
    fn the_teacher_is_a_copy_of_the_encoder() {
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
        for (name, _) in teacher.names() {
            assert_eq!(values(teacher, &name), values(student, &name), "{name}");
        }
        assert!(teacher.var("decoder_embed.weight").is_none());
        assert!(teacher.trainable().is_empty() && teacher.names().len() < student.names().len());
    }

    #[test]
    fn invalid_settings_are_named() {
        type Wrong = (&'static str, fn(&mut BootMaeConfig));
        let wrong: [Wrong; 6] = [
            ("`layer` is 2", |c| c.decoder.layer = Some(2)),
            ("`feature_decoder.embed_dim` is 12", |c| {
                c.feature_decoder.embed_dim = 12;
            }),
            ("`norm_eps` is -1", |c| c.encoder.norm_eps = -1.),
            ("`patch_norm.eps` is 0", |c| {
                c.patch_norm = PatchNorm::Channel { eps: 0. };
            }),
            ("30", |c| c.encoder.image_size = 30.into()),
            ("`points`", |c| {
                let (points, per) = (vec![], Per::Epoch);
                c.momentum = Schedule::Piecewise { points, per };
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
