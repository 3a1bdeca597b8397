//! Regression losses.

use candle_core::{D, Tensor};
use serde::{Deserialize, Serialize};

use super::ObjectiveSettings;
use super::pairing::{Region, pair_values};
use crate::parts::Part;
use crate::{Error, LossTerms, Mask, Objective, Prediction, Result, StepContext, Target, ops};

const NAME: &str = "regression";

/// Loss of one value, d = prediction - target.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum RegressionKind {
    /// `d^2`.
    #[default]
    Mse,
    /// `|d|`.
    L1,
    /// `d^2 / (2 beta)` for `|d| < beta`, else `|d| - beta / 2`.
    SmoothL1 {
        /// Where the parabola becomes linear.
        beta: f64,
    },
}

/// Normalisation of the rows of prediction and target before the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum RowNorm {
    /// None.
    #[default]
    None,
    /// Layer norm without weights, on both sides (BootMAE's features).
    LayerNorm {
        /// Added to the population variance.
        eps: f64,
    },
}

/// Weights of the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenWeights {
    /// Equal weights.
    #[default]
    Uniform,
    /// `1 + hidden / 9`, with the number of hidden patches in the 3x3 neighbourhood of a hidden patch, including
    /// itself: the inside of blocks weighs more (BootMAE). The divisor is still the plain count.
    Neighbours,
}

/// Settings of [`Regression`]; `Default` is MAE's: mean squared error of the hidden patches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegressionConfig {
    /// Loss of one value.
    pub kind: RegressionKind,
    /// The tokens included in the loss.
    pub region: Region,
    /// Normalisation of both sides.
    pub row_norm: RowNorm,
    /// Weights of the tokens.
    pub weights: TokenWeights,
    /// Added to the number of pixels (values of a token divided by `channels`) in the divisor.
    pub count_eps: f64,
    /// Values per pixel; it has no effect without `count_eps`.
    pub channels: usize,
}

impl Default for RegressionConfig {
    fn default() -> Self {
        Self {
            kind: RegressionKind::Mse,
            region: Region::Masked,
            row_norm: RowNorm::None,
            weights: TokenWeights::Uniform,
            count_eps: 0.,
            channels: 3,
        }
    }
}

impl RegressionConfig {
    /// SimMIM's `sum(|d| M) / (sum(M) + 1e-5) / 3` over pixels, with their mask M.
    pub fn simmim() -> Self {
        Self {
            kind: RegressionKind::L1,
            count_eps: 1e-5,
            ..Self::default()
        }
    }

    /// Smooth L1 over hidden tokens (data2vec, dBOT and DMJD: `beta` 2).
    pub fn smooth_l1(beta: f64) -> Self {
        Self {
            kind: RegressionKind::SmoothL1 { beta },
            ..Self::default()
        }
    }

    /// Checks the settings and builds the objective.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if `beta`, an eps or `channels` is outside its range, or if weights
    /// are requested for a region without weights.
    pub fn build(&self) -> Result<Regression> {
        let number = |field: &'static str, value: f64, good: bool| {
            if good && value.is_finite() {
                return Ok(());
            }
            let fix = format!("set {field} to a small positive number");
            Err(Error::config(
                NAME,
                field,
                value,
                "it must be positive",
                fix,
            ))
        };
        if let RegressionKind::SmoothL1 { beta } = self.kind {
            number("beta", beta, beta > 0.)?;
        }
        if let RowNorm::LayerNorm { eps } = self.row_norm {
            number("eps", eps, eps > 0.)?;
        }
        number("count_eps", self.count_eps, self.count_eps >= 0.)?;
        number("channels", self.channels as f64, self.channels > 0)?;
        if self.weights == TokenWeights::Neighbours && self.region != Region::Masked {
            return Err(Error::config(
                NAME,
                "weights",
                "neighbours",
                "they are defined for hidden tokens only",
                "use region = \"masked\" or weights = \"uniform\"",
            ));
        }
        Ok(Regression {
            config: self.clone(),
        })
    }
}

impl Part for RegressionConfig {
    const ABOUT: &'static str = "distance between values, squared, absolute or smooth";
    const PAPER: &'static str = "MAE: He et al., CVPR 2022, arXiv 2111.06377; SimMIM: Xie et al., CVPR 2022, arXiv 2111.09886";
}

impl ObjectiveSettings for RegressionConfig {
    fn build(&self) -> Result<Box<dyn Objective>> {
        Ok(Box::new(self.build()?))
    }
}

/// The mean loss over all values of all included tokens, as one global ratio.
///
/// With `count_eps` the mean is `sum(distance) / (pixels + count_eps) / channels`. Traces `weights`,
/// if there are any, in the mask's order.
#[derive(Debug, Clone)]
pub struct Regression {
    config: RegressionConfig,
}

impl Regression {
    /// Losses of `[total, C]` values.
    fn distance(&self, prediction: &Tensor, target: &Tensor) -> Result<Tensor> {
        let difference = (prediction - target)?;
        Ok(match self.config.kind {
            RegressionKind::Mse => difference.sqr()?,
            RegressionKind::L1 => difference.abs()?,
            RegressionKind::SmoothL1 { beta } => {
                let size = difference.abs()?;
                let inner = size.minimum(beta)?;
                ((inner.sqr()? * (0.5 / beta))? + (&size - &inner)?)?
            }
        })
    }

    fn name(&self) -> &'static str {
        match self.config.kind {
            RegressionKind::Mse => "mse",
            RegressionKind::L1 => "l1",
            RegressionKind::SmoothL1 { .. } => "smooth_l1",
        }
    }
}

impl Objective for Regression {
    fn loss(
        &self,
        prediction: &Prediction,
        target: &Target,
        mask: &Mask,
        step: &StepContext,
    ) -> Result<LossTerms> {
        let pairs = pair_values(prediction, target, mask, self.config.region)?;
        let (mut prediction, mut target) = (pairs.prediction, pairs.target);
        if let RowNorm::LayerNorm { eps } = self.config.row_norm {
            prediction = layer_norm(&prediction, eps)?;
            target = layer_norm(&target, eps)?;
        }
        let (rows, width) = prediction.dims2()?;
        let mut tokens = self.distance(&prediction, &target)?.mean(D::Minus1)?;
        if self.config.weights == TokenWeights::Neighbours {
            let weights = neighbour_weights(mask, rows, tokens.device())?;
            step.trace("weights", || Ok(weights.clone()))?;
            tokens = (&tokens * weights)?;
        }
        let pixels = (rows * width) as f64 / self.config.channels as f64;
        let divisor = rows as f64 * (1. + self.config.count_eps / pixels);
        LossTerms::single(self.name(), (tokens.sum_all()? / divisor)?)
    }
}

/// `[total, C]` rows with mean 0 and population variance 1.
fn layer_norm(xs: &Tensor, eps: f64) -> Result<Tensor> {
    let centred = xs.broadcast_sub(&xs.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    Ok(centred.broadcast_div(&(variance + eps)?.sqrt()?)?)
}

/// The weights of the hidden tokens, in the mask's order, `[total]`.
fn neighbour_weights(mask: &Mask, rows: usize, device: &candle_core::Device) -> Result<Tensor> {
    let (grid, bits) = (mask.grid(), mask.to_bits());
    let mut weights = Vec::with_capacity(rows);
    for (row, bits) in bits.chunks(grid.len()).enumerate() {
        for &id in mask.hidden(row) {
            let (top, left) = (id as usize / grid.cols, id as usize % grid.cols);
            let lines = top.saturating_sub(1)..(top + 2).min(grid.rows);
            let hidden: u8 = lines
                .map(|y| y * grid.cols)
                .flat_map(|y| y + left.saturating_sub(1)..y + (left + 2).min(grid.cols))
                .map(|near| bits[near])
                .sum();
            weights.push(1. + f32::from(hidden) / 9.);
        }
    }
    if weights.len() != rows {
        return Err(Error::unsupported(
            "weights by hidden neighbours",
            "the prediction has rows that are not hidden patches",
            "use a decoder for patches, without class token",
        ));
    }
    Ok(ops::upload(weights, rows, device)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objectives::testing::{
        gradient_is_the_slope, loss, mask, noise, predicted, same_from_all_and_from_hidden,
    };
    use crate::{PatchGrid, Rows};
    use candle_core::{DType, Device};

    fn kinds() -> [RegressionConfig; 5] {
        [
            RegressionConfig::default(),
            RegressionConfig {
                channels: 2,
                ..RegressionConfig::simmim()
            },
            RegressionConfig::smooth_l1(0.5),
            RegressionConfig {
                row_norm: RowNorm::LayerNorm { eps: 1e-6 },
                ..RegressionConfig::default()
            },
            RegressionConfig {
                weights: TokenWeights::Neighbours,
                ..RegressionConfig::default()
            },
        ]
    }

    #[test]
    fn hidden_rows_alone_give_the_loss_and_gradient_of_all_patches() {
        let target = Target::patches(noise(&[2, 6, 4], 1));
        for config in kinds() {
            let objective = config.build().unwrap();
            let loss = same_from_all_and_from_hidden(&objective, &noise(&[2, 6, 4], 2), &target);
            assert!(loss > 0.01);
        }
    }

    #[test]
    fn gradients_are_slopes() {
        let target = Target::patches(noise(&[2, 6, 4], 3));
        for config in kinds() {
            let objective = config.build().unwrap();
            gradient_is_the_slope(&objective, &noise(&[2, 6, 4], 4), &target);
        }
    }

    fn small(config: &RegressionConfig, values: &[[f32; 2]; 3]) -> f32 {
        let mask = Mask::from_bits(PatchGrid::new(1, 3), &[0, 1, 1]).unwrap();
        let values = Tensor::new(values, &Device::Cpu)
            .unwrap()
            .unsqueeze(0)
            .unwrap();
        let target = Target::patches(values.zeros_like().unwrap());
        let prediction = predicted(&values, Rows::Patches, &mask);
        let objective = config.build().unwrap();
        loss(&objective, &prediction, &target, &mask)
            .to_scalar()
            .unwrap()
    }

    #[test]
    fn known_values_in_every_kind_and_region() {
        let values = [[10., 10.], [1., 3.], [-2., 0.]];
        let region = |region| RegressionConfig {
            region,
            ..RegressionConfig::default()
        };
        assert_eq!(small(&region(Region::Masked), &values), 14. / 4.);
        assert_eq!(small(&region(Region::Visible), &values), 100.);
        assert_eq!(small(&region(Region::All), &values), 214. / 6.);
        // 1/4, 3 - 1, 2 - 1, 0 with beta 2.
        assert_eq!(small(&RegressionConfig::smooth_l1(2.), &values), 3.25 / 4.);
        // Two pixels of two channels: 6 / (2 + 2) / 2.
        let padded = RegressionConfig {
            count_eps: 2.,
            channels: 2,
            ..RegressionConfig::simmim()
        };
        assert_eq!(small(&padded, &values), 6. / 4. / 2.);
    }

    #[test]
    fn hidden_neighbours_add_a_ninth_each() {
        let values = [[0., 0.], [3., 3.], [0., 0.]];
        let config = RegressionConfig {
            weights: TokenWeights::Neighbours,
            ..RegressionConfig::default()
        };
        // Two of the nine patches around the middle one are hidden: itself and the one at its right.
        let want = 9. * (1. + 2. / 9.) / 2.;
        assert!((small(&config, &values) - want).abs() < 1e-6);
    }

    #[test]
    fn bf16_predictions_are_compared_in_f32() {
        let (mask, target) = (mask(), Target::patches(noise(&[2, 6, 4], 5)));
        let values = noise(&[2, 6, 4], 6).to_dtype(DType::BF16).unwrap();
        let loss = loss(
            &RegressionConfig::default().build().unwrap(),
            &predicted(&values, Rows::Patches, &mask),
            &target,
            &mask,
        );
        assert_eq!(loss.dtype(), DType::F32);
    }

    #[test]
    fn refuses_invalid_settings() {
        let good = RegressionConfig::default;
        for (config, field) in [
            (RegressionConfig::smooth_l1(0.), "`beta`"),
            (
                RegressionConfig {
                    channels: 0,
                    ..good()
                },
                "`channels`",
            ),
            (
                RegressionConfig {
                    count_eps: -1.,
                    ..good()
                },
                "`count_eps`",
            ),
            (
                RegressionConfig {
                    weights: TokenWeights::Neighbours,
                    region: Region::All,
                    ..good()
                },
                "`weights`",
            ),
        ] {
            let error = config.build().unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        }
    }
}
