//! dBOT: Exploring Target Representations for Masked Autoencoders (Liu et al., ICLR 2024, arXiv 2209.03917).
//!
//! MAE's student predicts the features of a frozen teacher: first a random network, a random projection of patches, or
//! a trained network. After each stage the student becomes the next teacher, and a new student starts. All stages are
//! one run. Reference: liuxingbin/dbot @ db3b15e (`main`).

mod golden;
mod teacher;

use mim_core::augment::ViewPlan;
use mim_core::decoders::{DecoderShape, MaeDecoder, MaeDecoderConfig};
use mim_core::encoders::{Vit, VitConfig};
use mim_core::objectives::RegressionConfig;
use mim_core::params::{Init, InitScheme, ParamStore};
use mim_core::schedule::Schedule;
use mim_core::{Error, Norm, Result};
use mim_masking::RandomMaskerConfig;
use mim_targets::{FeatureTarget, FeatureTargetConfig};
use serde::{Deserialize, Serialize};

use crate::composite::Bootstrap;
use crate::registry::Entry;
use crate::{Composite, FrozenConfig, MaskMode, MethodConfig};
use teacher::StagedTeacher;

const NAME: &str = "dbot";
/// Parameters that the student keeps when it starts again.
// Parity: the release initialises every parameter again except the bias of the patch embedding.
const KEPT: &[&str] = &["patch_embed.proj.bias"];

/// Settings of dBOT; `Default` is ViT-B/16 as released, its own teacher in two stages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DBotConfig {
    /// Fraction of patches dropped, in `[0, 1)`. Default 0.75.
    pub mask_ratio: f64,
    /// First epochs of the stages, ascending from 0. The learning rate schedule restarts at each. Default 0 and 800,
    /// for a run of 1600 epochs.
    pub stage_starts: Vec<usize>,
    /// Blocks of the random teacher of the first stage; 0 keeps only the patch projection and positions. Default: as
    /// many as the encoder, or 0 if the encoder has more than 12. Later teachers are as deep as the encoder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_teacher_depth: Option<usize>,
    /// A trained network as teacher of the first stage, instead of a random one. Its depth is free; it must have the
    /// width and patches of the encoder, and a class token. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_teacher: Option<Box<FrozenConfig>>,
    /// Whether the teacher's final norm is applied. Default false.
    pub teacher_norm: bool,
    /// Whether each target token is normalised by its mean and unbiased deviation. Default true.
    pub norm_feature_loss: bool,
    /// Epsilon of that norm. Default 1e-6.
    pub target_norm_eps: f64,
    /// Where the loss changes from quadratic to linear. Default 2.
    pub beta: f64,
    /// Initialisation of the weights at each stage. Default `mae`.
    pub init: Init,
    /// Normalisation of the images. Default ImageNet's.
    pub norm: Norm,
    /// Augmentation. Default: random resized crop (scale 0.2 to 1, bicubic) and flip.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub views: Option<ViewPlan>,
    /// The encoder. Its `drop_path_rate` (default 0.2, 0.3 for huge) is the decoder's too; the teacher drops nothing.
    pub encoder: VitConfig,
    /// The decoder.
    pub decoder: MaeDecoderConfig,
}

impl Default for DBotConfig {
    fn default() -> Self {
        Self::with_encoder(VitConfig::default())
    }
}

impl DBotConfig {
    fn with_encoder(size: VitConfig) -> Self {
        Self {
            mask_ratio: 0.75,
            stage_starts: vec![0, 800],
            first_teacher_depth: None,
            first_teacher: None,
            teacher_norm: false,
            norm_feature_loss: true,
            target_norm_eps: 1e-6,
            beta: 2.,
            init: Init::Mae,
            norm: Norm::imagenet(),
            views: None,
            encoder: VitConfig {
                drop_path_rate: if size.depth > 24 { 0.3 } else { 0.2 },
                ..size
            },
            decoder: MaeDecoderConfig::default(),
        }
    }

    fn check(&self) -> Result<()> {
        self.norm.check(self.encoder.in_channels)?;
        let starts = &self.stage_starts;
        if starts.first() != Some(&0) || starts.windows(2).any(|pair| pair[0] >= pair[1]) {
            let (value, why) = (
                format!("{starts:?}"),
                "stages must begin at ascending epochs, the first at 0",
            );
            let fix = "use [0, 800] in a run of 1600 epochs, for example";
            return Err(Error::config(NAME, "stage_starts", value, why, fix));
        }
        if !self.encoder.class_token {
            let (why, fix) = ("the class token is predicted as well", "set it to true");
            return Err(Error::config(NAME, "encoder.class_token", false, why, fix));
        }
        self.check_first_teacher()
    }
}

impl MethodConfig for DBotConfig {
    type Method = Composite;

    fn arch(arch: &str) -> Result<Self> {
        Ok(Self::with_encoder(VitConfig::arch(arch)?))
    }

    fn init(&self) -> Box<dyn InitScheme> {
        self.init.build(self.encoder.patch_values())
    }

    fn build(&self, student: &ParamStore) -> Result<Composite> {
        self.check()?;
        let (params, size) = (student.root(), self.encoder.image_size);
        let encoder = Vit::new(&params, &self.encoder)?;
        let dim = self.encoder.output_dim();
        let shape = DecoderShape::new(self.encoder.grid()?, dim, dim);
        let decoder = MaeDecoder::new(&params, &self.decoder, shape)?
            .with_class_token()
            .drop_path(self.encoder.drop_path_rate);
        let (teacher, store) = StagedTeacher::new(self, student)?;
        let features = FeatureTargetConfig {
            norm: self.norm.clone(),
            final_norm: self.teacher_norm,
            layer_norm_eps: self.norm_feature_loss.then_some(self.target_norm_eps),
            layer_norm_unbiased: self.norm_feature_loss,
            class_token: true,
            ..FeatureTargetConfig::default()
        };
        let masker = RandomMaskerConfig {
            mask_ratio: self.mask_ratio,
        };
        let views = self
            .views
            .clone()
            .unwrap_or_else(|| ViewPlan::mae(<(usize, usize)>::from(size)));
        let composite = Composite::builder(NAME, student, encoder, masker.build()?, MaskMode::Drop);
        let composite = match &self.first_teacher {
            Some(first) => composite.note(format!("at first, {}", first.note())),
            None => composite,
        };
        composite
            .input(size, self.norm.clone(), views)
            .target("features", FeatureTarget::new(teacher, features)?)
            .branch(
                ("feature", "features"),
                decoder,
                RegressionConfig::smooth_l1(self.beta).build()?,
                Schedule::constant(1.),
            )
            .bootstrap(Bootstrap {
                starts: self.stage_starts.clone(),
                student: student.clone(),
                teacher: store,
                init: self.init(),
                kept: KEPT,
            })
            .build()
    }
}

/// Registry entry.
pub(crate) const ENTRY: Entry = Entry {
    title: "Exploring Target Representations for Masked Autoencoders",
    paper: "Liu et al., ICLR 2024, arXiv 2209.03917",
    reference: "liuxingbin/dbot @ db3b15e",
    archs: crate::registry::VITS,
    about: crate::registry::About {
        hidden: "75 % of the patches; they are dropped",
        predicted: "features of a teacher: at first a random (or trained) network, then the student of the previous stage",
        by: "MAE's decoder",
        loss: "smooth L1 on hidden patches",
        choose: "It needs no pretrained teacher. Several stages cost several times as much.",
    },
    status: "exact: forward, loss, gradients, step, stages",
    recipes: recipes!("dbot_32px", "dbot_base", "dbot_large"),
    parity: |case, device| golden::GOLDEN.setup(case, device),
    ..Entry::new::<DBotConfig>("dbot")
};

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};
    use mim_core::{Batch, Method, StepContext, View};

    fn config(settings: &str) -> DBotConfig {
        let small = "
            encoder = { image_size = 32, patch_size = 8, embed_dim = 16, depth = 2, num_heads = 2 }
            decoder = { embed_dim = 8, depth = 2, num_heads = 2 }";
        let entry = crate::registry::method("dbot").unwrap();
        let settings = format!("{settings}\n{small}").parse().unwrap();
        entry.resolve(settings).unwrap().try_into().unwrap()
    }

    fn built(config: &DBotConfig) -> Result<Composite> {
        config.build(&config.store(&Device::Cpu, 3))
    }

    fn values(method: &Composite, store: usize, name: &str) -> Vec<f32> {
        let var = method.stores()[store].1.var(name).unwrap();
        var.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn at(epoch: usize) -> StepContext {
        StepContext {
            epoch,
            epochs: 4,
            ..StepContext::new(3)
        }
    }

    #[test]
    fn sizes_have_the_released_teachers() {
        assert_eq!(DBotConfig::default(), DBotConfig::arch("vit_base").unwrap());
        for (arch, depth, drop) in [
            ("vit_base", 12, 0.2),
            ("vit_large", 0, 0.2),
            ("vit_huge", 0, 0.3),
        ] {
            let config = DBotConfig::arch(arch).unwrap();
            assert_eq!(
                (config.random_depth(), config.encoder.drop_path_rate),
                (depth, drop)
            );
        }
    }

    #[test]
    fn the_student_becomes_the_teacher_and_is_reinitialised() {
        let mut method = built(&config("stage_starts = [0, 2]\nfirst_teacher_depth = 0")).unwrap();
        assert_eq!(method.stages(), [0, 2]);
        let names = [
            "blocks.1.mlp.fc1.weight",
            "norm.weight",
            "patch_embed.proj.bias",
            "pos_embed",
        ];
        for name in names {
            assert_eq!(values(&method, 0, name), values(&method, 1, name), "{name}");
        }
        // Values that a training step would change.
        for (name, var) in method.stores()[0].1.trainable() {
            let moved = (var.as_tensor() + 0.5).unwrap();
            var.set(&moved)
                .unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        let trained: Vec<_> = names.map(|name| values(&method, 0, name)).into();
        method.end_epoch(&at(0)).unwrap();
        assert_eq!(values(&method, 0, names[0]), trained[0]);
        method.end_epoch(&at(1)).unwrap();
        for (name, trained) in names.iter().zip(&trained) {
            assert_eq!(&values(&method, 1, name), trained, "{name}");
            let kept = *name == "patch_embed.proj.bias" || *name == "pos_embed";
            assert_eq!(&values(&method, 0, name) == trained, kept, "{name}");
        }
        assert!(
            values(&method, 0, "norm.weight")
                .iter()
                .all(|value| *value == 1.)
        );
        let second = values(&method, 0, names[0]);
        // Different from the first initialisation, but the same in each run.
        assert_ne!(second, values(&built(&config("")).unwrap(), 0, names[0]));
        method.end_epoch(&at(1)).unwrap();
        assert_eq!(values(&method, 0, names[0]), second);
        // No stage begins after the last epoch.
        method.end_epoch(&at(3)).unwrap();
        assert_eq!(values(&method, 0, names[0]), second);
    }

    #[test]
    fn the_first_teacher_may_have_zero_blocks_or_more_than_the_student() {
        let loss = |depth: usize, epoch: usize| -> f32 {
            let settings = format!("stage_starts = [0, 2]\nfirst_teacher_depth = {depth}");
            let method = built(&config(&settings)).unwrap();
            let step = StepContext {
                stochastic_depth: false,
                ..at(epoch)
            };
            // Another epoch has other masks.
            let step = StepContext {
                iters_per_epoch: 0,
                ..step
            };
            let terms = method.forward(&batch(), &step).unwrap();
            terms.total().unwrap().to_scalar().unwrap()
        };
        let (none, same, more) = (loss(0, 0), loss(2, 0), loss(3, 0));
        assert!(none != same && same != more && none != more);
        // Later teachers are all as deep as the encoder.
        assert_eq!(loss(0, 2), loss(2, 2));
        assert_eq!(loss(2, 0), loss(2, 2));
    }

    fn batch() -> Batch {
        let bytes: Vec<u8> = (0..2 * 3 * 32 * 32u32)
            .map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()[3])
            .collect();
        let pixels = Tensor::from_vec(bytes, (2, 3, 32, 32), &Device::Cpu).unwrap();
        Batch::single(View::new(pixels, vec![]).unwrap())
    }

    /// Settings with a random-weight network as first teacher, and these encoder settings.
    fn first(encoder: &str) -> String {
        let sizes = "type = \"vit\", image_size = 32, depth = 1, num_heads = 2";
        format!(
            "stage_starts = [0, 2]\nfirst_teacher = {{ checkpoint = \"random\", encoder = {{ {sizes}, {encoder} }} }}"
        )
    }

    #[test]
    fn a_trained_network_teaches_only_the_first_stage() {
        let loss = |settings: &str, epoch: usize| -> f32 {
            let step = StepContext {
                iters_per_epoch: 0,
                stochastic_depth: false,
                ..at(epoch)
            };
            let terms = built(&config(settings)).unwrap().forward(&batch(), &step);
            terms.unwrap().total().unwrap().to_scalar().unwrap()
        };
        let (own, named) = (
            "stage_starts = [0, 2]",
            first("patch_size = 8, embed_dim = 16"),
        );
        assert_ne!(loss(own, 0), loss(&named, 0));
        assert_eq!(loss(own, 2), loss(&named, 2));
        // It normalises images with its own norm.
        let norm =
            "checkpoint = \"random\", norm = { mean = [0.5, 0.5, 0.5], std = [0.5, 0.5, 0.5] }";
        let other = named.replace("checkpoint = \"random\"", norm);
        assert_ne!(loss(&other, 0), loss(&named, 0));
        let method = built(&config(&named)).unwrap();
        assert!(method.notes()[0].starts_with("at first"));
    }

    #[test]
    fn first_teachers_that_do_not_fit_are_refused() {
        let error = |settings: &str| built(&config(settings)).unwrap_err().to_string();
        let wide = error(&first("patch_size = 8, embed_dim = 12"));
        assert!(wide.contains("12") && wide.contains("16"), "{wide}");
        let fine = error(&first("patch_size = 4, embed_dim = 16"));
        assert!(fine.contains("8x8") && fine.contains("4x4"), "{fine}");
        let fits = first("patch_size = 8, embed_dim = 16");
        let view = error(&fits.replace("checkpoint =", "view = 1, checkpoint ="));
        assert!(view.contains("first_teacher.view"), "{view}");
        let depth = error(&format!("first_teacher_depth = 1\n{fits}"));
        assert!(
            depth.contains("first_teacher_depth") && depth.contains("remove one"),
            "{depth}"
        );
        let none = error(&fits.replace("\"random\"", "\"\""));
        assert!(none.contains("checkpoint"), "{none}");
    }

    #[test]
    fn stages_that_do_not_ascend_are_refused() {
        for starts in ["[]", "[1, 2]", "[0, 2, 2]"] {
            let error = built(&config(&format!("stage_starts = {starts}"))).unwrap_err();
            assert!(error.to_string().contains("ascending"), "{error}");
        }
    }
}
