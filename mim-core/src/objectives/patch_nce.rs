//! Patch-level InfoNCE: tells each token's own target from the other tokens of its image.

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};

use super::ObjectiveSettings;
use super::info_nce::{check_temperature, of_length_one};
use crate::parts::Part;
use crate::{
    Error, LossTerms, Mask, Objective, Prediction, Result, Rows, StepContext, Target, ops,
};

const NAME: &str = "patch_nce objective";

/// Settings of [`PatchNce`]; `Default` is MimCo's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PatchNceConfig {
    /// Temperature of the cosines. Default 0.2.
    pub temperature: f64,
}

impl Default for PatchNceConfig {
    fn default() -> Self {
        Self { temperature: 0.2 }
    }
}

impl PatchNceConfig {
    /// Checks the settings and builds the objective.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if the temperature is not a positive number.
    pub fn build(&self) -> Result<PatchNce> {
        check_temperature(NAME, self.temperature)?;
        Ok(PatchNce {
            temperature: self.temperature,
        })
    }
}

impl Part for PatchNceConfig {
    const ABOUT: &'static str =
        "each hidden patch must match its own target among those of its image";
    const PAPER: &'static str = "MimCo: Zhou et al., ACM Multimedia 2022, arXiv 2209.03063";
}

impl ObjectiveSettings for PatchNceConfig {
    fn build(&self) -> Result<Box<dyn Objective>> {
        Ok(Box::new(self.build()?))
    }
}

/// `cross_entropy(a_i b^T / t, i)`, the mean over the hidden patches `i`. `a` are the predictions and `b` the
/// targets of all patches of the same image, all normalised to length one; `t` is the temperature.
///
/// The targets get no gradient. Traces `score` `[rows, patches, patches]` and `per_token` `[rows, patches]` for the
/// predicted patches.
#[derive(Debug, Clone)]
pub struct PatchNce {
    temperature: f64,
}

impl Objective for PatchNce {
    fn loss(
        &self,
        prediction: &Prediction,
        target: &Target,
        mask: &Mask,
        step: &StepContext,
    ) -> Result<LossTerms> {
        let keys = keys(target, mask)?;
        let (rows, patches, width) = keys.dims3()?;
        let whole = prediction.rows == Rows::Patches;
        let queries = match prediction.rows {
            Rows::Patches => patches,
            Rows::Masked => mask.width() - mask.exact_keep()?,
            other => return Err(no_patches(other)),
        };
        let found = prediction.flat()?;
        if queries == 0 || found.dims() != [rows * queries, width] {
            return Err(Error::shape(
                "prediction",
                format!(
                    "[{rows} * {queries}, {width}] with at least one hidden patch, like the target"
                ),
                found.dims(),
                "give the decoder the number of output channels of the target",
            ));
        }
        let found = found
            .to_dtype(DType::F32)?
            .reshape((rows, queries, width))?;
        let cosines = of_length_one(&found)?.matmul(&keys.transpose(1, 2)?.contiguous()?)?;
        step.trace("score", || Ok((&cosines / self.temperature)?))?;
        let own = Target::patches(own_ids(rows, patches, &cosines)?);
        let own = own.aligned(prediction.rows, mask)?;
        let losses = ops::cross_entropy(&cosines.flatten(0, 1)?, &own, self.temperature)?;
        step.trace("per_token", || Ok(losses.reshape((rows, queries))?))?;
        let losses = match whole {
            true => {
                let hidden = mask.flat(true, rows, losses.device())?;
                if hidden.elem_count() == 0 {
                    return Err(no_patches(Rows::Masked));
                }
                ops::gather_rows(&losses.reshape(((), 1))?, &hidden)?
            }
            false => losses,
        };
        LossTerms::single("patch_nce", losses.mean_all()?)
    }
}

/// Targets of all patches under each mask, normalised to length one, `[mask rows, patches, C]`.
fn keys(target: &Target, mask: &Mask) -> Result<Tensor> {
    let all = target.aligned(Rows::Patches, mask)?.detach();
    let &[total, width] = all.dims() else {
        return Err(Error::shape(
            "target of a contrast",
            "values of each patch, [batch, patches, C]",
            target.patches.dims(),
            "use a target of features, not of tokens",
        ));
    };
    let shape = (mask.rows(), total / mask.rows(), width);
    of_length_one(&all.to_dtype(DType::F32)?.reshape(shape)?)
}

/// Index of each patch in its image, `[rows, patches]` u32.
fn own_ids(rows: usize, patches: usize, like: &Tensor) -> Result<Tensor> {
    let ids: Vec<u32> = (0..rows).flat_map(|_| (0u32..).take(patches)).collect();
    Ok(ops::upload(ids, (rows, patches), like.device())?)
}

fn no_patches(rows: Rows) -> Error {
    Error::unsupported(
        format!("a contrast of the patches of an image with {rows:?} rows"),
        "it needs hidden patches to compare",
        "use a decoder for patches and a mask that hides some",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objectives::testing::{gradient_is_the_slope, loss, mask, noise, predicted};
    use crate::{Mask, PatchGrid};
    use candle_core::Device;

    fn objective() -> PatchNce {
        PatchNceConfig { temperature: 0.5 }.build().unwrap()
    }

    /// Two images, each with three of its six patches hidden.
    fn even() -> Mask {
        let order = vec![0, 3, 5, 2, 4, 1, 1, 3, 4, 5, 0, 2];
        Mask::new(PatchGrid::new(2, 3), order, vec![3, 3]).unwrap()
    }

    #[test]
    fn orthogonal_rows_match_the_formula() {
        let target = Tensor::new(&[[[3f32, 0.], [0., 0.5]]], &Device::Cpu).unwrap();
        let mask = Mask::new(PatchGrid::new(1, 2), vec![1, 0], vec![1]).unwrap();
        let prediction = predicted(&(&target * 7.).unwrap(), Rows::Patches, &mask);
        let found = loss(&objective(), &prediction, &Target::patches(target), &mask);
        // Logits 2 and 0, without a factor.
        let wanted = (2f32.exp() + 1.).ln() - 2.;
        assert!((found.to_scalar::<f32>().unwrap() - wanted).abs() < 1e-6);
    }

    #[test]
    fn hidden_rows_alone_give_the_same_loss_and_visible_ones_are_ignored() {
        let (target, values) = (Target::patches(noise(&[2, 6, 4], 1)), noise(&[2, 6, 4], 2));
        let mask = even();
        let ids = mask.flat(true, 2, &Device::Cpu).unwrap();
        let hidden = values.flatten(0, 1).unwrap().index_select(&ids, 0).unwrap();
        let of = |values: &Tensor, rows: Rows| -> f32 {
            let loss = loss(
                &objective(),
                &predicted(values, rows, &mask),
                &target,
                &mask,
            );
            loss.to_scalar().unwrap()
        };
        let whole = of(&values, Rows::Patches);
        assert!((whole - of(&hidden, Rows::Masked)).abs() < 1e-6);
        let bits = mask.bits(&Device::Cpu).unwrap().unsqueeze(2).unwrap();
        let moved = (noise(&[2, 6, 4], 5).broadcast_mul(&(1. - &bits).unwrap())).unwrap();
        assert!((whole - of(&(&values + moved).unwrap(), Rows::Patches)).abs() < 1e-6);
        gradient_is_the_slope(&objective(), &values, &target);
    }

    #[test]
    fn refuses_other_rows_and_uneven_masks() {
        let mask = mask();
        let target = Target::patches(noise(&[2, 6, 4], 1));
        let run = |values: &Tensor, rows: Rows| {
            let step = StepContext::new(0);
            objective().loss(&predicted(values, rows, &mask), &target, &mask, &step)
        };
        assert!(run(&noise(&[2, 6, 4], 2), Rows::Patches).is_ok());
        assert!(run(&noise(&[5, 4], 2), Rows::Masked).is_err());
        assert!(run(&noise(&[2, 4], 2), Rows::Image).is_err());
        assert!(run(&noise(&[2, 6, 3], 2), Rows::Patches).is_err());
        let ids = Tensor::zeros((2, 6), DType::U32, &Device::Cpu).unwrap();
        let prediction = predicted(&noise(&[2, 6, 1], 2), Rows::Patches, &mask);
        let error = objective().loss(
            &prediction,
            &Target::patches(ids),
            &mask,
            &StepContext::new(0),
        );
        assert!(error.unwrap_err().to_string().contains("not of tokens"));
        assert!(PatchNceConfig { temperature: 0. }.build().is_err());
    }
}
