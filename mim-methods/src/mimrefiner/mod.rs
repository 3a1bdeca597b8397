//! MIM-Refiner: A Contrastive Learning Boost from Intermediate Pre-Trained Representations (Alkin et al., ICLR 2025,
//! arXiv 2402.10093).
//!
//! An encoder trained by masked image modeling is refined by contrastive heads on several of its last blocks. First
//! only the heads are trained, on the frozen encoder, then all weights. Reference: ml-jku/MIM-Refiner @ cc57423.

mod golden;
mod method;
mod views;

use candle_core::Device;
use mim_core::augment::ViewPlan;
use mim_core::encoders::{Vit, VitConfig};
use mim_core::nn::{BatchNormMlp, NeighbourQueue};
use mim_core::objectives::NeighbourContrastConfig;
use mim_core::params::{Init, InitScheme, ParamStore};
use mim_core::{Error, Input, Norm, Pooling, Result};
use serde::{Deserialize, Serialize};

pub use method::MimRefiner;

use self::method::Head;
use crate::registry::Entry;
use crate::{CropsConfig, MethodConfig};

/// The name of the head on a block, as in the authors' code.
fn head_name(pooling: Pooling, block: usize) -> String {
    match pooling {
        Pooling::Cls => format!("cls{block}"),
        Pooling::Mean => format!("avg{block}"),
        Pooling::Max => format!("max{block}"),
    }
}

/// Settings of MIM-Refiner; `Default` is its last stage on ViT-L/16, which trains encoder and heads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MimRefinerConfig {
    /// Whether only the heads are trained and the encoder is frozen: the first stage. Default false.
    pub freeze_encoder: bool,
    /// Indices of blocks, from 0, that have a head on their output, in addition to the head `main` after the final
    /// norm. Default: 16 to 22 of 24.
    pub blocks: Vec<usize>,
    /// How the tokens of a block are pooled: the class token, or the mean of all patches for encoders whose class token
    /// was not trained (CrossMAE). Default `cls`.
    pub pooling: Pooling,
    /// Hidden width of the projectors. Default 2048.
    pub proj_hidden_dim: usize,
    /// Hidden width of the predictors. Default 4096.
    pub pred_hidden_dim: usize,
    /// Width of the embeddings that are compared. Default 256.
    pub out_dim: usize,
    /// Rows of each queue. Default 65536.
    pub queue_size: usize,
    /// How many nearest rows one neighbour is drawn from: 1 while only the heads are trained. Default 20.
    pub topk: usize,
    /// The loss. Default: a temperature of 0.2.
    pub objective: NeighbourContrastConfig,
    /// The crops. Default: 2 global and 10 local ones of 96 pixels.
    pub crops: CropsConfig,
    /// Initialisation of the weights that are not loaded (the heads). Default `mae`.
    pub init: Init,
    /// Normalisation of the images. Default ImageNet's.
    pub norm: Norm,
    /// Augmentation, one view per crop. Default: crop, flip, colour jitter, blur, grey, solarization.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub views: Option<ViewPlan>,
    /// The encoder. Default: its positions are resized for other image sizes.
    pub encoder: VitConfig,
}

impl Default for MimRefinerConfig {
    fn default() -> Self {
        let large = VitConfig {
            embed_dim: 1024,
            depth: 24,
            num_heads: 16,
            ..VitConfig::default()
        };
        Self::with_encoder(large, (16..=22).collect(), 0.2)
    }
}

impl MimRefinerConfig {
    fn with_encoder(size: VitConfig, blocks: Vec<usize>, temperature: f64) -> Self {
        let defaults = CropsConfig::default();
        Self {
            freeze_encoder: false,
            blocks,
            pooling: Pooling::Cls,
            proj_hidden_dim: 2048,
            pred_hidden_dim: 4096,
            out_dim: 256,
            queue_size: 65_536,
            topk: 20,
            objective: NeighbourContrastConfig {
                temperature,
                ..NeighbourContrastConfig::default()
            },
            crops: CropsConfig {
                // The next multiple of the patch side.
                local_size: (96usize.div_ceil(size.patch_size) * size.patch_size).into(),
                ..defaults
            },
            init: Init::Mae,
            norm: Norm::imagenet(),
            views: None,
            encoder: VitConfig {
                resize_positions: true,
                ..size
            },
        }
    }

    fn check(&self) -> Result<()> {
        self.encoder.validate()?;
        self.norm.check(self.encoder.in_channels)?;
        let depth = self.encoder.depth;
        let bad = |field: &'static str, value: String, why: String, fix: &'static str| {
            Err(Error::config("mimrefiner", field, value, why, fix))
        };
        let mut blocks = self.blocks.clone();
        blocks.sort_unstable();
        blocks.dedup();
        if blocks.len() != self.blocks.len() || blocks.iter().any(|block| *block >= depth) {
            let why = format!(
                "heads need different blocks of the encoder, from 0 to {}",
                depth - 1
            );
            let fix = "give existing blocks; the paper uses those of the last third";
            return bad("blocks", format!("{:?}", self.blocks), why, fix);
        }
        if self.pooling == Pooling::Cls && self.encoder.prefix() == 0 {
            let why = "the encoder has no class token".to_owned();
            return bad("pooling", "cls".to_owned(), why, "use \"mean\"");
        }
        if self.topk == 0 || self.topk > self.queue_size {
            let why = format!(
                "the neighbour is drawn from the nearest rows of a queue of {} rows",
                self.queue_size
            );
            return bad("topk", self.topk.to_string(), why, "use 1 to queue_size");
        }
        let crops = &self.crops;
        if crops.global == 0 || crops.global + crops.local < 2 {
            let value = format!("{} with {} local crops", crops.global, crops.local);
            let why = "each view of an image is compared with a global one".to_owned();
            return bad("crops.global", value, why, "use 2");
        }
        Ok(())
    }

    fn head(&self, student: &ParamStore, (name, block): (String, Option<usize>)) -> Result<Head> {
        let params = student.root().pp("heads").pp(&name);
        let (inputs, hidden, out) = (self.encoder.embed_dim, self.proj_hidden_dim, self.out_dim);
        let between = self.pred_hidden_dim;
        Ok(Head {
            projector: BatchNormMlp::new(&params.pp("projector"), &[inputs, hidden, hidden, out])?,
            predictor: BatchNormMlp::new(&params.pp("predictor"), &[out, between, out])?,
            queue: NeighbourQueue::new(&params.pp("queue"), self.queue_size, out)?,
            ranks: None,
            name,
            block,
        })
    }
}

impl MethodConfig for MimRefinerConfig {
    type Method = MimRefiner;

    fn arch(arch: &str) -> Result<Self> {
        let two_billion = || VitConfig {
            patch_size: 14,
            embed_dim: 2560,
            depth: 24,
            num_heads: 32,
            ..VitConfig::default()
        };
        Ok(match arch {
            "vit_2b" => Self::with_encoder(two_billion(), (16..=22).collect(), 0.35),
            "vit_huge" => Self::with_encoder(VitConfig::arch(arch)?, (20..=30).collect(), 0.3),
            "vit_large" => Self::default(),
            // Not from the paper: the last third as well.
            _ => Self::with_encoder(VitConfig::arch(arch)?, (8..=10).collect(), 0.2),
        })
    }

    fn init(&self) -> Box<dyn InitScheme> {
        self.init.build(self.encoder.patch_values())
    }

    fn store(&self, device: &Device, seed: u64) -> ParamStore {
        match self.freeze_encoder {
            false => ParamStore::new(device, seed, self.init()),
            true => ParamStore::with_frozen(device, seed, self.init(), |name| {
                !name.starts_with("heads.")
            }),
        }
    }

    fn build(&self, student: &ParamStore) -> Result<MimRefiner> {
        self.check()?;
        let size = self.encoder.image_size;
        let encoder = Vit::new(&student.root(), &self.encoder)?;
        let blocks = self.blocks.iter();
        let blocks = blocks.map(|block| (head_name(self.pooling, *block), Some(*block)));
        let heads = std::iter::once(("main".to_owned(), None)).chain(blocks);
        let heads = heads.map(|head| self.head(student, head));
        let views = self.views.clone();
        let views = views.unwrap_or_else(|| views::plan(&self.crops, size));
        let (wanted, planned) = (self.crops.global + self.crops.local, views.views.len());
        if wanted != planned {
            let why = format!("crops.global and crops.local require {wanted}");
            let fix = "give one view per crop, global crops first";
            return Err(Error::config("mimrefiner", "views", planned, why, fix));
        }
        Ok(MimRefiner {
            store: student.clone(),
            input: Input {
                size,
                norm: self.norm.clone(),
            },
            views: views.with_channels(self.norm.mean.len()),
            globals: self.crops.global,
            locals: self.crops.local,
            frozen: self.freeze_encoder,
            pooling: self.pooling,
            topk: self.topk,
            encoder,
            heads: heads.collect::<Result<_>>()?,
            objective: self.objective.build()?,
        })
    }
}

/// Registry entry.
pub(crate) const ENTRY: Entry = Entry {
    title: "MIM-Refiner: A Contrastive Learning Boost from Intermediate Pre-Trained Representations",
    paper: "Alkin et al., ICLR 2025, arXiv 2402.10093",
    reference: "ml-jku/MIM-Refiner @ cc57423",
    archs: &["vit_base", "vit_large", "vit_huge", "vit_2b"],
    about: crate::registry::About {
        hidden: "nothing: it refines an encoder that another method has trained",
        predicted: "which other image of the batch is the same one, or a near neighbour",
        by: "contrastive heads on several of the last blocks, each with a queue of neighbours",
        loss: "cross-entropy over the images of the batch",
        choose: "Better k-NN and linear accuracy of a finished MAE, data2vec or CrossMAE, in a few epochs.",
    },
    status: "exact: features, neighbours, losses, gradients, step, statistics, queues",
    recipes: recipes!(
        "mimrefiner_32px",
        "mimrefiner_32px_heads",
        "mimrefiner_large",
        "mimrefiner_large_heads",
        "mimrefiner_huge",
    ),
    parity: |case, device| golden::GOLDEN.setup(case, device),
    ..Entry::new::<MimRefinerConfig>("mimrefiner")
};

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Tensor;
    use mim_core::{Batch, Method, StepContext, View};

    fn tiny() -> MimRefinerConfig {
        let size = VitConfig {
            image_size: 16.into(),
            patch_size: 8,
            embed_dim: 8,
            depth: 2,
            num_heads: 2,
            ..VitConfig::default()
        };
        let mut config = MimRefinerConfig::with_encoder(size, vec![0], 0.2);
        (
            config.proj_hidden_dim,
            config.pred_hidden_dim,
            config.out_dim,
        ) = (6, 7, 4);
        (config.queue_size, config.topk) = (5, 2);
        (config.crops.local, config.crops.local_size) = (1, 8.into());
        config
    }

    fn batch() -> Batch {
        let view = |side: usize, seed: u32| {
            let values = (0..3 * 3 * side * side).map(|i| ((i as f32) * 1.7 + seed as f32).sin());
            let values: Vec<f32> = values.collect();
            let pixels = Tensor::from_vec(values, (3, 3, side, side), &Device::Cpu).unwrap();
            View::new(pixels, vec![]).unwrap()
        };
        Batch {
            views: vec![view(16, 1), view(16, 2), view(8, 3)],
            indices: vec![4, 5, 6],
            ..Batch::single(view(16, 1))
        }
    }

    #[test]
    fn the_first_crop_enters_the_queue_and_a_frozen_encoder_has_no_gradient() {
        for freeze_encoder in [false, true] {
            let config = MimRefinerConfig {
                freeze_encoder,
                ..tiny()
            };
            let store = config.store(&Device::Cpu, 0);
            let method = config.build(&store).unwrap();
            let loss = method.forward(&batch(), &StepContext::new(0)).unwrap();
            assert_eq!(loss.terms().len(), 2);
            let grads = loss.total().unwrap().backward().unwrap();
            for (name, var) in store.vars() {
                let trained = store.trainable().iter().any(|(known, _)| *known == name);
                assert_eq!(grads.get(&var).is_some(), trained, "{name}");
                assert!(trained != freeze_encoder || name.starts_with("heads.") || !trained);
            }
            let idx = store.var("heads.cls0.queue.idx").unwrap();
            let idx: Vec<i64> = idx.as_detached_tensor().to_vec1().unwrap();
            assert_eq!(idx, [4, 5, 6, -1, -1]);
            // Nothing is written outside training.
            method.forward(&batch(), &StepContext::inference()).unwrap();
            let ptr = store.var("heads.main.queue.ptr").unwrap();
            assert_eq!(ptr.as_detached_tensor().to_vec1::<i64>().unwrap(), [3]);
        }
    }

    #[test]
    fn sizes_are_as_published() {
        let huge = MimRefinerConfig::arch("vit_huge").unwrap();
        assert_eq!((huge.blocks.len(), huge.objective.temperature), (11, 0.3));
        assert_eq!(<(usize, usize)>::from(huge.crops.local_size), (98, 98));
        let large = MimRefinerConfig::arch("vit_large").unwrap();
        assert_eq!(large, MimRefinerConfig::default());
        assert_eq!(<(usize, usize)>::from(large.crops.local_size), (96, 96));
    }

    #[test]
    fn invalid_settings_are_named() {
        type Wrong = (&'static str, fn(&mut MimRefinerConfig));
        let wrong: [Wrong; 8] = [
            ("`blocks` is [2]", |c| c.blocks = vec![2]),
            ("`blocks` is [1, 1]", |c| c.blocks = vec![1, 1]),
            ("`pooling` is cls", |c| c.encoder.class_token = false),
            ("`topk` is 6", |c| c.topk = 6),
            ("`crops.global` is 1", |c| {
                (c.crops.global, c.crops.local) = (1, 0);
            }),
            ("`width` is 0", |c| c.out_dim = 0),
            ("`temperature` is 0", |c| c.objective.temperature = 0.),
            ("`views` is 1", |c| c.views = Some(ViewPlan::default())),
        ];
        for (what, spoil) in wrong {
            let mut config = tiny();
            spoil(&mut config);
            let built = config.build(&config.store(&Device::Cpu, 0));
            let error = built.unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
        let method = tiny().build(&tiny().store(&Device::Cpu, 0)).unwrap();
        assert!(method.must_start_from().is_some());
        let few = Batch::single(batch().views[0].clone());
        let error = method.forward(&few, &StepContext::new(0)).unwrap_err();
        assert!(error.to_string().contains("at least 2 views"), "{error}");
    }
}
