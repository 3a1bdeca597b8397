//! InfoNCE: tells each row's own target from all others.

use candle_core::{D, Tensor};
use serde::{Deserialize, Serialize};

use super::ObjectiveSettings;
use super::pairing::{Region, pair_values};
use crate::parts::Part;
use crate::{Error, LossTerms, Mask, Objective, Prediction, Result, StepContext, Target, ops};

const NAME: &str = "info_nce objective";

/// Lower bound of the squared length in the divisor: lengths below 1e-12 count as 1e-12.
const LEAST_SQUARE: f64 = 1e-24;

/// Settings of [`InfoNce`]; `Default` is CMAE's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InfoNceConfig {
    /// Temperature of the cosines. Default 0.07.
    pub temperature: f64,
    /// Whether the loss is multiplied by twice the temperature, as in MoCo v3. Default true.
    pub scaled: bool,
    /// The tokens included in the loss, if rows are tokens instead of images.
    pub region: Region,
}

impl Default for InfoNceConfig {
    fn default() -> Self {
        Self {
            temperature: 0.07,
            scaled: true,
            region: Region::Masked,
        }
    }
}

impl InfoNceConfig {
    /// Checks the settings and builds the objective.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if the temperature is not a positive number.
    pub fn build(&self) -> Result<InfoNce> {
        check_temperature(NAME, self.temperature)?;
        Ok(InfoNce {
            config: self.clone(),
        })
    }
}

/// Refuses a temperature that is not a positive number.
pub(super) fn check_temperature(objective: &'static str, temperature: f64) -> Result<()> {
    if temperature > 0. && temperature.is_finite() {
        return Ok(());
    }
    let why = "it must be positive and finite";
    Err(Error::config(
        objective,
        "temperature",
        temperature,
        why,
        "use 0.07 to 0.2",
    ))
}

impl Part for InfoNceConfig {
    const ABOUT: &'static str = "each row must match its own target among those of all rows";
    const PAPER: &'static str = "van den Oord et al., 2018, arXiv 1807.03748; CMAE: Huang et al., TPAMI 2023, arXiv 2207.13532";
}

impl ObjectiveSettings for InfoNceConfig {
    fn build(&self) -> Result<Box<dyn Objective>> {
        Ok(Box::new(self.build()?))
    }
}

/// `2 t * cross_entropy(a b^T / t, own row)`, or without the factor. `a` are the predictions and `b` the targets of
/// all processes, all normalised to length one; `t` is the temperature.
///
/// The targets get no gradient. Every process must have the same number of rows. Traces `pred_norm`
/// `[rows, C]`, `keys` `[world * rows, C]` and `score` `[rows, world * rows]`.
/// van den Oord et al., arXiv 1807.03748; the factor is from MoCo v3 (Chen et al., ICCV 2021).
#[derive(Debug, Clone)]
pub struct InfoNce {
    config: InfoNceConfig,
}

impl Objective for InfoNce {
    fn loss(
        &self,
        prediction: &Prediction,
        target: &Target,
        mask: &Mask,
        step: &StepContext,
    ) -> Result<LossTerms> {
        let pairs = pair_values(prediction, target, mask, self.config.region)?;
        let queries = of_length_one(&pairs.prediction)?;
        let keys = of_length_one(&step.comm.all_gather(&pairs.target.detach())?)?;
        let (rows, all) = (queries.dim(0)?, keys.dim(0)?);
        if all != rows * step.comm.world() {
            return Err(Error::shape(
                "targets of all processes",
                format!("{} times {rows} rows", step.comm.world()),
                all,
                "use the same batch size on every process",
            ));
        }
        let temperature = self.config.temperature;
        let cosines = queries.matmul(&keys.t()?)?;
        step.trace("pred_norm", || Ok(queries.clone()))?;
        step.trace("keys", || Ok(keys.clone()))?;
        step.trace("score", || Ok((&cosines / temperature)?))?;
        let own: Vec<u32> = (0u32..).skip(rows * step.comm.rank()).take(rows).collect();
        let own = ops::upload(own, rows, cosines.device())?;
        let losses = ops::cross_entropy(&cosines, &own, temperature)?;
        let scale = match self.config.scaled {
            true => 2. * temperature,
            false => 1.,
        };
        LossTerms::single("info_nce", (losses.mean_all()? * scale)?)
    }
}

/// `x / max(|x|, 1e-12)` over the last axis.
pub(super) fn of_length_one(xs: &Tensor) -> Result<Tensor> {
    let squares = xs.sqr()?.sum_keepdim(D::Minus1)?;
    Ok(xs.broadcast_div(&squares.maximum(LEAST_SQUARE)?.sqrt()?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objectives::testing::{
        gradient_is_the_slope, loss, mask, noise, predicted, same_from_all_and_from_hidden,
    };
    use crate::{PatchGrid, Rows};
    use candle_core::{Device, Var};

    fn objective(temperature: f64) -> InfoNce {
        let config = InfoNceConfig {
            temperature,
            ..InfoNceConfig::default()
        };
        config.build().unwrap()
    }

    fn row_an_image(values: &Tensor) -> (Mask, Prediction) {
        let images = values.dim(0).unwrap();
        let bits = vec![1; images];
        let mask = Mask::from_bits(PatchGrid::new(1, 1), &bits).unwrap();
        let prediction = predicted(values, Rows::Image, &mask);
        (mask, prediction)
    }

    #[test]
    fn orthogonal_rows_match_the_formula() {
        let target = Tensor::new(&[[3f32, 0.], [0., 0.5]], &Device::Cpu).unwrap();
        let (mask, prediction) = row_an_image(&(&target * 7.).unwrap());
        let found = loss(&objective(0.5), &prediction, &Target::image(target), &mask);
        // Logits 2 and 0: log(e^2 + 1) - 2, times 2 t = 1.
        let wanted = (2f32.exp() + 1.).ln() - 2.;
        assert!((found.to_scalar::<f32>().unwrap() - wanted).abs() < 1e-6);
    }

    #[test]
    fn gradients_are_slopes_and_never_reach_the_targets() {
        let target = Target::patches(noise(&[2, 6, 4], 1));
        let (objective, values) = (objective(0.5), noise(&[2, 6, 4], 2));
        same_from_all_and_from_hidden(&objective, &values, &target);
        gradient_is_the_slope(&objective, &values, &target);
        let keys = Var::from_tensor(&noise(&[2, 4], 3)).unwrap();
        let queries = Var::from_tensor(&noise(&[2, 4], 4)).unwrap();
        let (mask, prediction) = row_an_image(queries.as_tensor());
        let target = Target::image(keys.as_tensor().clone());
        let gradients = loss(&objective, &prediction, &target, &mask)
            .backward()
            .unwrap();
        assert!(gradients.get(&keys).is_none() && gradients.get(&queries).is_some());
    }

    #[test]
    fn rows_of_length_zero_stay_finite() {
        let target = Tensor::new(&[[1f32, 0.], [0., 1.]], &Device::Cpu).unwrap();
        let zero = Var::from_tensor(&target.zeros_like().unwrap()).unwrap();
        let (mask, prediction) = row_an_image(zero.as_tensor());
        let found = loss(&objective(1.), &prediction, &Target::image(target), &mask);
        let gradients = found.backward().unwrap();
        let largest = gradients.get(&zero).unwrap().abs().unwrap();
        assert!(
            largest
                .max_all()
                .unwrap()
                .to_scalar::<f32>()
                .unwrap()
                .is_finite()
        );
        assert!((found.to_scalar::<f32>().unwrap() - 2. * 2f32.ln()).abs() < 1e-6);
    }

    #[test]
    fn refuses_other_widths_and_temperatures() {
        let wrong = InfoNceConfig {
            temperature: 0.,
            ..InfoNceConfig::default()
        };
        let error = wrong.build().unwrap_err().to_string();
        assert!(error.contains("`temperature` is 0"), "{error}");
        let (prediction, target) = (noise(&[2, 6, 3], 1), Target::patches(noise(&[2, 6, 4], 1)));
        let prediction = predicted(&prediction, Rows::Patches, &mask());
        let made = objective(1.).loss(&prediction, &target, &mask(), &StepContext::new(0));
        assert!(made.is_err());
    }
}
