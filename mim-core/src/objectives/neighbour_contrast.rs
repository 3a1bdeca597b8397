//! MIM-Refiner's loss: views of an image must find its nearest neighbour among all images.

use candle_core::{D, Tensor};
use serde::{Deserialize, Serialize};

use crate::nn::of_length_one;
use crate::{Error, Result, StepContext, ops};

/// Settings of [`NeighbourContrast`]; `Default` is MIM-Refiner's with ViT-L.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NeighbourContrastConfig {
    /// Temperature of the cosines. Default 0.2.
    pub temperature: f64,
    /// Whether terms of local views use the local views. Default false: they use the same number of views, counted
    /// from the first global one, as in the release.
    pub all_local_views: bool,
}

impl Default for NeighbourContrastConfig {
    fn default() -> Self {
        Self {
            temperature: 0.2,
            all_local_views: false,
        }
    }
}

impl NeighbourContrastConfig {
    /// Checks the settings and builds the loss.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if the temperature is not positive.
    pub fn build(&self) -> Result<NeighbourContrast> {
        let temperature = self.temperature;
        if temperature > 0. && temperature.is_finite() {
            return Ok(NeighbourContrast {
                config: self.clone(),
            });
        }
        let (why, fix) = ("it must be positive", "use 0.2");
        Err(Error::config(
            "neighbour contrast",
            "temperature",
            temperature,
            why,
            fix,
        ))
    }
}

/// Rows to compare: view by view, global views first, with the images in the same order in each view.
#[derive(Debug, Clone, Copy)]
pub struct ContrastRows<'a> {
    /// Keys: projector outputs for global views, `[globals * images, dim]`, without gradient.
    pub keys: &'a Tensor,
    /// Nearest neighbour of each key, in the shape of the keys; it replaces the key against its own image.
    pub neighbours: &'a Tensor,
    /// Outputs of the predictor for all views, `[views * images, dim]`.
    pub predictions: &'a Tensor,
    /// Images per batch.
    pub images: usize,
}

/// The mean of several cross-entropies: each key, from `z / t` times all predictions of a view, must select its own
/// image, where its neighbour replaces the key. All rows have length one.
///
/// The terms are: each global view with every other global view, and each global view with as many views as
/// there are local ones. Predictions come from all processes. MIM-Refiner (Alkin et al., 2024), Sec. 4; NNCLR
/// (Dwibedi et al., ICCV 2021); ml-jku/MIM-Refiner @ cc57423, `losses/ssl/nnclr_loss.py`.
#[derive(Debug, Clone)]
pub struct NeighbourContrast {
    config: NeighbourContrastConfig,
}

impl NeighbourContrast {
    /// The loss, a scalar. Traces its other form as `loss_all_local_views`.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if the rows do not match.
    pub fn loss(&self, rows: &ContrastRows<'_>, step: &StepContext) -> Result<Tensor> {
        step.trace("loss_all_local_views", || self.over(rows, true, step))?;
        self.over(rows, self.config.all_local_views, step)
    }

    fn over(
        &self,
        rows: &ContrastRows<'_>,
        all_local_views: bool,
        step: &StepContext,
    ) -> Result<Tensor> {
        let images = rows.images;
        let count = |xs: &Tensor| Ok::<_, Error>(xs.dim(0)? / images.max(1));
        let (globals, views) = (count(rows.keys)?, count(rows.predictions)?);
        let fits = |xs: &Tensor, views: usize| xs.dims().first() == Some(&(views * images));
        if images == 0
            || globals > views
            || !fits(rows.keys, globals)
            || !fits(rows.predictions, views)
        {
            return Err(Error::shape(
                "rows of a contrast",
                format!(
                    "whole views of {images} images, with at most as many views of keys as of predictions"
                ),
                (rows.keys.dims(), rows.predictions.dims()),
                "give the rows of all views, global ones first",
            ));
        }
        let keys = of_length_one(rows.keys)?;
        let neighbours = of_length_one(rows.neighbours)?;
        let predictions = of_length_one(rows.predictions)?;
        let view = |xs: &Tensor, view: usize| xs.narrow(0, view * images, images);
        let of_view = |index: usize| Ok::<_, Error>(view(&predictions, index)?.contiguous()?);
        let own = (0..views).map(of_view).collect::<Result<Vec<_>>>()?;
        let all = own.iter().map(|own| ops::all_gather(own, &step.comm));
        let all = all.collect::<Result<Vec<_>>>()?;
        let target = Target::new(images, &own[0], step)?;
        let mut terms = Vec::new();
        for global in 0..globals {
            let key = view(&keys, global)?.contiguous()?;
            let neighbour = view(&neighbours, global)?;
            let others = (0..globals).filter(|other| *other != global);
            // Parity: the release counts local views from the first view instead of after the last global one.
            let first = if all_local_views { globals } else { 0 };
            for other in others.chain(first..first + views - globals) {
                let cosines = key.matmul(&all[other].t()?)?;
                let nearest = (&neighbour * &own[other])?.sum_keepdim(D::Minus1)?;
                let cosines = target.put(&cosines, &nearest)?;
                let losses = ops::cross_entropy(&cosines, &target.ids, self.config.temperature)?;
                terms.push(losses.mean_all()?);
            }
        }
        if terms.is_empty() {
            return Err(Error::shape(
                "rows of a contrast",
                "at least two views",
                views,
                "use more crops",
            ));
        }
        Ok(Tensor::stack(&terms, 0)?.mean(0)?)
    }
}

/// Positions of this process's images among those of all processes.
struct Target {
    ids: Tensor,
    /// 1 at these positions, `[images, all images]`.
    eye: Tensor,
}

impl Target {
    fn new(images: usize, like: &Tensor, step: &StepContext) -> Result<Self> {
        let (first, all) = (images * step.comm.rank(), images * step.comm.world());
        let mut eye = vec![0f32; images * all];
        for image in 0..images {
            eye[image * all + first + image] = 1.;
        }
        let ids: Vec<u32> = (0u32..).skip(first).take(images).collect();
        Ok(Self {
            ids: ops::upload(ids, images, like.device())?,
            eye: ops::upload(eye, (images, all), like.device())?,
        })
    }

    /// `cosines` with those of the own images replaced by `values` `[images, 1]`.
    fn put(&self, cosines: &Tensor, values: &Tensor) -> Result<Tensor> {
        let others = (cosines * (1. - &self.eye)?)?;
        Ok((others + self.eye.broadcast_mul(values)?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objectives::testing::noise;
    use candle_core::Var;

    fn loss(config: &NeighbourContrastConfig, predictions: &Tensor, keys: &Tensor) -> Tensor {
        let neighbours = noise(keys.dims(), 9);
        let rows = ContrastRows {
            keys,
            neighbours: &neighbours,
            predictions,
            images: 3,
        };
        let loss = config.build().unwrap();
        loss.loss(&rows, &StepContext::new(0)).unwrap()
    }

    #[test]
    fn local_views_are_used_only_if_requested_and_keys_get_no_gradient() {
        let config = NeighbourContrastConfig::default();
        let keys = noise(&[6, 4], 1);
        let predictions = Var::from_tensor(&noise(&[12, 4], 2)).unwrap();
        let grads = loss(&config, predictions.as_tensor(), &keys)
            .backward()
            .unwrap();
        let grads: Vec<Vec<f32>> = grads.get(&predictions).unwrap().to_vec2().unwrap();
        let reached = |rows: std::ops::Range<usize>| grads[rows].iter().flatten().any(|g| *g != 0.);
        // Two global and two local views of three images: terms of local views use views 0 and 1.
        assert!(reached(0..3) && reached(3..6) && !reached(6..12));
        let all = NeighbourContrastConfig {
            all_local_views: true,
            ..config
        };
        let grads = loss(&all, predictions.as_tensor(), &keys)
            .backward()
            .unwrap();
        let grads: Vec<Vec<f32>> = grads.get(&predictions).unwrap().to_vec2().unwrap();
        assert!(grads[9..12].iter().flatten().any(|g| *g != 0.));
    }

    #[test]
    fn gradients_are_slopes() {
        const STEP: f32 = 3e-3;
        let config = NeighbourContrastConfig {
            temperature: 1.,
            ..NeighbourContrastConfig::default()
        };
        let keys = noise(&[3, 2], 1);
        let values = noise(&[6, 2], 2);
        let var = Var::from_tensor(&values).unwrap();
        let grads = loss(&config, var.as_tensor(), &keys).backward().unwrap();
        let grads: Vec<f32> = grads
            .get(&var)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap();
        let flat: Vec<f32> = values.flatten_all().unwrap().to_vec1().unwrap();
        for (index, grad) in grads.iter().enumerate() {
            let at = |by: f32| -> f32 {
                let mut moved = flat.clone();
                moved[index] += by;
                let moved = Tensor::from_vec(moved, (6, 2), values.device()).unwrap();
                loss(&config, &moved, &keys).to_scalar().unwrap()
            };
            let slope = (at(STEP) - at(-STEP)) / (2. * STEP);
            assert!(
                (slope - grad).abs() < 5e-3 * (1. + grad.abs()),
                "{index}: {slope}, {grad}"
            );
        }
    }

    #[test]
    fn invalid_rows_and_settings_are_refused() {
        let wrong = NeighbourContrastConfig {
            temperature: 0.,
            ..NeighbourContrastConfig::default()
        };
        let error = wrong.build().unwrap_err().to_string();
        assert!(error.contains("`temperature` is 0"), "{error}");
        let (keys, predictions) = (noise(&[6, 4], 1), noise(&[3, 4], 2));
        let rows = ContrastRows {
            keys: &keys,
            neighbours: &keys,
            predictions: &predictions,
            images: 3,
        };
        let loss = NeighbourContrastConfig::default().build().unwrap();
        assert!(loss.loss(&rows, &StepContext::new(0)).is_err());
    }
}
