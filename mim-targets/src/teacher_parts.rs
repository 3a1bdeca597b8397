//! Part maps from a frozen network.

use candle_core::{DType, Tensor};
use mim_core::{
    EncodeOptions, Encoder, Error, Masking, NO_PART, Norm, PatchGrid, Result, Target, ops,
};

use crate::k_means::k_means;
use crate::target_generator::view_size;
use crate::{PartTokens, TargetGenerator, TargetRequest};

const NAME: &str = "part maps";

/// How patches are assigned to parts.
#[derive(Debug, Clone)]
pub enum PartRule {
    /// By attention head: the head of the class token, in the last block, that attends most to the patch.
    Heads,
    /// By k-means over the patches of an image, on the angles of their features.
    KMeans {
        /// Number of parts.
        clusters: usize,
        /// Number of k-means iterations.
        iterations: usize,
    },
    /// By the learned part token most similar to the patch.
    Learned(PartTokens),
}

/// The part of each patch, `[batch, tokens]` u32, computed per batch by a frozen network: a guide for maskers.
///
/// With `retain`, only that many most attended patches (averaged over heads) have a part; the others have [`NO_PART`].
/// SemMAE's own parts come from a network that its authors have not published (Li et al., NeurIPS 2022, section 3.2).
/// [`PartRule::Learned`] is that stage by the paper's text; the other rules replace it.
pub struct TeacherParts {
    teacher: Box<dyn Encoder>,
    norm: Norm,
    view: usize,
    rule: PartRule,
    retain: Option<usize>,
}

impl TeacherParts {
    /// Uses `teacher` on the images of `view`, normalised with `norm`; for all patches, or for `retain` patches.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if there are no parts, or no patch is retained.
    pub fn new(
        teacher: impl Encoder + 'static,
        (view, norm): (usize, Norm),
        rule: PartRule,
        retain: Option<usize>,
    ) -> Result<Self> {
        if let PartRule::KMeans { clusters: 0, .. } = rule {
            return Err(Error::config(
                NAME,
                "num_parts",
                0,
                "an image needs at least one part",
                "use 7",
            ));
        }
        if retain == Some(0) {
            let why = "no patch would be left";
            return Err(Error::config(
                NAME,
                "retain",
                0,
                why,
                "remove it to use all patches",
            ));
        }
        Ok(Self {
            teacher: Box::new(teacher),
            norm,
            view,
            rule,
            retain,
        })
    }

    /// 1 for retained patches and 0 for others, `[batch, tokens]` f32.
    fn retained(&self, attention: &Tensor) -> Result<Tensor> {
        let mean = attention.mean(1)?;
        let (images, tokens) = mean.dims2()?;
        let Some(count) = self.retain else {
            return Ok(mean.ones_like()?);
        };
        if count > tokens {
            return Err(too_many(count, tokens));
        }
        let mut kept = vec![0f32; images * tokens];
        for (row, kept) in mean.to_vec2::<f32>()?.iter().zip(kept.chunks_mut(tokens)) {
            let mut order: Vec<usize> = (0..tokens).collect();
            order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
            order[..count].iter().for_each(|&id| kept[id] = 1.);
        }
        Ok(ops::upload(kept, (images, tokens), mean.device())?)
    }
}

fn too_many(count: usize, tokens: usize) -> Error {
    let why = format!("there are {tokens} patches");
    Error::config(
        NAME,
        "retain",
        count,
        why,
        "lower it, or remove it to use all patches",
    )
}

fn no_class_token() -> Error {
    Error::unsupported(
        "part maps from a teacher without class token",
        "its class-token attention selects the patches",
        "use a ViT with class_token = true",
    )
}

impl TargetGenerator for TeacherParts {
    fn has_parts(&self) -> bool {
        true
    }

    fn check(&self, grid: PatchGrid, views: &[(usize, usize)]) -> Result<()> {
        if let Some(count) = self.retain.filter(|count| *count > grid.len()) {
            return Err(too_many(count, grid.len()));
        }
        let own = self.teacher.grid(view_size(views, self.view)?)?;
        if own == grid {
            return Ok(());
        }
        Err(Error::shape(
            "part maps of the teacher",
            format!("one part per patch of the grid {grid}"),
            format!("{own}"),
            "use a teacher with the encoder's patch size, or another view (teacher.view, views)",
        ))
    }

    fn generate(&self, rq: &TargetRequest<'_>) -> Result<Target> {
        let image = rq.batch.view(self.view)?.normalized(&self.norm)?;
        let want = EncodeOptions {
            cls_attention: true,
            ..EncodeOptions::default()
        };
        let step = rq.step.teacher();
        let encoded = self.teacher.encode(&image, Masking::None, &want, &step)?;
        let attention = encoded.cls_attention.as_ref().ok_or_else(no_class_token)?;
        let attention = attention.detach().to_dtype(DType::F32)?;
        let kept = self.retained(&attention)?;
        let patches = || Ok::<_, Error>(encoded.patches()?.detach());
        let parts = match &self.rule {
            PartRule::Heads => attention.argmax(1)?.to_dtype(DType::U32)?,
            PartRule::KMeans {
                clusters,
                iterations,
            } => k_means(&patches()?, &kept, (*clusters, *iterations))?,
            PartRule::Learned(tokens) => {
                let cls = encoded.cls()?.ok_or_else(no_class_token)?;
                tokens.parts(&cls, &patches()?)?.detach()
            }
        };
        let none = (parts.ones_like()? * f64::from(NO_PART))?;
        let kept = kept.to_dtype(DType::U8)?;
        Ok(Target::patches(kept.where_cond(&parts, &none)?))
    }
}

impl std::fmt::Debug for TeacherParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TeacherParts")
            .field("rule", &self.rule)
            .field("retain", &self.retain)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use mim_core::encoders::{Vit, VitConfig};
    use mim_core::{Batch, ParamStore, StepContext, View};

    fn generate(rule: PartRule, retain: Option<usize>) -> Result<Vec<Vec<u32>>> {
        let vit = VitConfig {
            image_size: 16.into(),
            patch_size: 4,
            embed_dim: 8,
            depth: 2,
            num_heads: 4,
            ..VitConfig::default()
        };
        let teacher = Vit::new(&ParamStore::cpu(1).root(), &vit)?;
        let parts = TeacherParts::new(teacher, (0, Norm::imagenet()), rule, retain)?;
        parts.check(PatchGrid::new(4, 4), &[(16, 16)])?;
        let pixels = (0..2 * 3 * 16 * 16u32).map(|at| at.wrapping_mul(2_654_435_761) as f32 / 4e9);
        let pixels = Tensor::from_iter(pixels, &Device::Cpu)?.reshape((2, 3, 16, 16))?;
        let batch = Batch::single(View::new(pixels, vec![])?);
        let made = parts.generate(&TargetRequest {
            batch: &batch,
            grid: PatchGrid::new(4, 4),
            mask: None,
            student: None,
            step: &StepContext::new(0),
        })?;
        Ok(made.patches.to_vec2::<u32>()?)
    }

    #[test]
    fn patches_belong_to_heads_or_clusters_except_the_least_attended() {
        let clusters = PartRule::KMeans {
            clusters: 3,
            iterations: 4,
        };
        let store = ParamStore::cpu(2);
        let learned = PartRule::Learned(PartTokens::new(&store.root(), 8, 5).unwrap());
        for (rule, parts) in [(PartRule::Heads, 4), (clusters, 3), (learned, 5)] {
            let all = generate(rule.clone(), None).unwrap();
            assert!(all.iter().flatten().all(|part| *part < parts), "{all:?}");
            let some = generate(rule, Some(5)).unwrap();
            for row in &some {
                assert_eq!(row.iter().filter(|part| **part < parts).count(), 5);
                assert_eq!(row.iter().filter(|part| **part == NO_PART).count(), 11);
            }
        }
        for retain in [0, 17] {
            assert!(generate(PartRule::Heads, Some(retain)).is_err());
        }
    }
}
