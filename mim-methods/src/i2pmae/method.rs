//! The training step of I2P-MAE.

use candle_core::Tensor;
use mim_core::augment::ViewPlan;
use mim_core::decoders::PointDecoder;
use mim_core::encoders::{LevelTokens, PointEncoder};
use mim_core::nn::Linear;
use mim_core::objectives::Chamfer;
use mim_core::points::{PointLevels, pass_down};
use mim_core::{
    Batch, Encoder, Error, Input, LossTerms, Mask, Method, ParamStore, Purpose, Reconstruction,
    Result, StepContext, ops,
};
use mim_masking::{FixedMasker, Guide, MaskRequest, Masker};

use super::look::{Look, Teacher, chances};
use super::{I2pMaeConfig, I2pMaeTarget, NAME, picture};

/// I2P-MAE, and without its 2D network Point-M2AE.
///
/// One training step: group the cloud, run the 2D network on it, mask groups of the coarsest level and propagate the
/// mask to the finer ones; encode the visible groups and decode. Predict the points of hidden groups (`points`,
/// Chamfer) and the 2D network's features at visible groups (`features`, mean squared error).
pub struct I2pMae {
    pub(super) student: ParamStore,
    pub(super) encoder: PointEncoder,
    pub(super) decoder: PointDecoder,
    /// Predicts the points of a group relative to its centre.
    pub(super) head: Linear,
    /// The 2D network, and the layer that predicts its features at all points of a group.
    pub(super) teacher: Option<(Teacher, Linear)>,
    pub(super) masker: Box<dyn Masker>,
    pub(super) views: ViewPlan,
    pub(super) input: Input,
    pub(super) config: I2pMaeConfig,
}

/// A decoded batch.
pub(super) struct Decoded {
    pub(super) levels: PointLevels,
    /// Visible groups of the predicted level.
    pub(super) mask: Mask,
    /// Tokens of all groups of the predicted level, `[batch * groups, dim]`.
    tokens: Tensor,
    look: Option<Look>,
}

impl I2pMae {
    /// The mask on the coarsest level.
    fn mask(&self, levels: &PointLevels, look: Option<&Look>, step: &StepContext) -> Result<Mask> {
        let coarsest = levels.level(levels.levels().len() - 1)?;
        let (batch, groups) = (coarsest.centers.dim(0)?, coarsest.groups()?);
        let saliency = match look {
            Some(look) => look.saliency(&coarsest.centers)?,
            None => None,
        };
        if let Some(saliency) = &saliency {
            step.trace("saliency", || Ok(saliency.clone()))?;
        }
        let scores = chances(saliency, batch * groups)?;
        let request = MaskRequest {
            images: batch,
            grid: coarsest.grid()?,
            guide: Guide::Scores(&scores),
            step,
        };
        self.masker
            .sample(&request, &mut step.rng(Purpose::Mask, 0))
    }

    pub(super) fn decode(&self, batch: &Batch, step: &StepContext) -> Result<Decoded> {
        let levels = self.encoder.group(batch.view(0)?.points()?)?;
        for (index, level) in levels.levels().iter().enumerate() {
            step.trace(&format!("centers{}", index + 1), || {
                Ok(level.centers.clone())
            })?;
            step.trace(&format!("members{}", index + 1), || {
                Ok(level.members.clone())
            })?;
        }
        let look = match &self.teacher {
            Some((teacher, _)) => Some(teacher.look(levels.points(), self.config.guided, step)?),
            None => None,
        };
        let top = self.mask(&levels, look.as_ref(), step)?;
        step.trace_mask(&top)?;
        let masks = pass_down(&levels, &top, self.config.first_visible)?;
        for (index, mask) in masks.iter().enumerate() {
            step.trace(&format!("mask{}", index + 1), || {
                mask.bits(levels.points().device())
            })?;
        }
        let mut encoded = self.encoder.encode_levels(&levels, masks, step)?;
        let tokens = self.decoder.decode(&levels, &encoded, step)?;
        step.trace("decoded", || Ok(tokens.clone()))?;
        let LevelTokens { mask, .. } = encoded.swap_remove(self.decoder.level());
        Ok(Decoded {
            tokens: tokens.flatten_to(1)?,
            levels,
            mask,
            look,
        })
    }

    /// Predicted points of hidden groups relative to their centres, `[hidden, members, 3]`.
    pub(super) fn points(&self, decoded: &Decoded, hidden: &Tensor) -> Result<Tensor> {
        let tokens = ops::gather_rows(&decoded.tokens, hidden)?;
        let members = self.head.forward(&tokens)?;
        Ok(members.reshape((members.dim(0)?, (), 3))?)
    }

    fn points_loss(&self, decoded: &Decoded, step: &StepContext) -> Result<Tensor> {
        let (mask, device) = (&decoded.mask, decoded.tokens.device());
        if mask.hidden_total() == 0 {
            return Err(Error::config(
                NAME,
                "mask_ratio",
                self.config.mask_ratio,
                "every group of the predicted level belongs to a visible group",
                "raise mask_ratio, or use more or smaller groups (encoder.num_groups, .group_sizes)",
            ));
        }
        let hidden = mask.flat(true, mask.rows(), device)?;
        let pred = self.points(decoded, &hidden)?;
        step.trace("pred_3d", || Ok(pred.flatten_from(1)?))?;
        let all = decoded.levels.centred(self.decoder.level())?;
        let (_, _, members, _) = all.dims4()?;
        let all = all.flatten_to(1)?.flatten_from(1)?;
        let target = ops::gather_rows(&all, &hidden)?.reshape((pred.dim(0)?, members, 3))?;
        Chamfer::new(&pred, &target)?.distance(self.config.chamfer)
    }

    fn features_loss(
        &self,
        decoded: &Decoded,
        (look, head): (&Look, &Linear),
        step: &StepContext,
    ) -> Result<Tensor> {
        let (mask, device) = (&decoded.mask, decoded.tokens.device());
        let visible = mask.flat(false, mask.rows(), device)?;
        let pred = head.forward(&ops::gather_rows(&decoded.tokens, &visible)?)?;
        step.trace("pred_2d", || Ok(pred.clone()))?;
        let all = decoded.levels.members(self.decoder.level())?;
        let (batch, _, members, _) = all.dims4()?;
        let all = all.flatten_to(1)?.flatten_from(1)?;
        let points = ops::gather_rows(&all, &visible)?.reshape(((), 3))?;
        let clouds = (0u32..).take(batch).zip(0..);
        let cloud_of: Vec<u32> = clouds
            .flat_map(|(cloud, row)| vec![cloud; mask.visible(row).len() * members])
            .collect();
        let target = look.features(&points, &cloud_of)?;
        let target = target.reshape((pred.dim(0)?, members, ()))?;
        step.trace("target_2d", || Ok(target.clone()))?;
        Ok((pred - target.flatten_from(1)?)?.sqr()?.mean_all()?)
    }
}

impl Method for I2pMae {
    fn name(&self) -> &str {
        NAME
    }

    fn views(&self, _epoch: usize) -> ViewPlan {
        self.views.clone()
    }

    fn input(&self) -> &Input {
        &self.input
    }

    fn stores(&self) -> Vec<(&str, &ParamStore)> {
        vec![("student", &self.student)]
    }

    fn encoder(&self) -> Option<&dyn Encoder> {
        Some(&self.encoder)
    }

    fn notes(&self) -> Vec<String> {
        match &self.config.target {
            I2pMaeTarget::Features(network) => vec![network.note()],
            I2pMaeTarget::Points => Vec::new(),
        }
    }

    fn forward(&self, batch: &Batch, step: &StepContext) -> Result<LossTerms> {
        let decoded = self.decode(batch, step)?;
        let points = self.points_loss(&decoded, step)?;
        step.trace("loss_3d", || Ok(points.clone()))?;
        let mut terms = LossTerms::single("points", points)?;
        if let (Some((_, head)), Some(look)) = (&self.teacher, &decoded.look) {
            let features = self.features_loss(&decoded, (look, head), step)?;
            step.trace("loss_2d", || Ok(features.clone()))?;
            terms.push("features", features, 1.)?;
        }
        step.trace("loss", || terms.total())?;
        Ok(terms)
    }

    fn override_mask(&mut self, mask: Mask) -> Result<()> {
        self.masker = Box::new(FixedMasker::new(mask));
        Ok(())
    }

    /// Renders clouds from three sides: all points, those of visible groups, and the latter with the predicted points.
    fn reconstruct(&self, batch: &Batch, step: &StepContext) -> Result<Reconstruction> {
        let decoded = self.decode(batch, step)?;
        picture::draw(self, &decoded)
    }
}

impl std::fmt::Debug for I2pMae {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("I2pMae")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
