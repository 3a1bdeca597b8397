//! Settings of an evaluation.

use mim_core::augment::{Augment, ToChannels, ViewPlan};
use mim_core::data::LoaderConfig;
use mim_core::{Error, ImageSize, Pooling, Result};
use serde::{Deserialize, Serialize};

use crate::{KnnConfig, LinearConfig, LowshotConfig};

/// Largest size at which images are resized with a margin around the crop.
const MARGIN_UP_TO: usize = 224;

/// Settings of [`extract`](crate::extract) and [`probe`](crate::probe).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvalConfig {
    /// How images become the encoder's input; only the first view is used. If absent (the default), see
    /// [`EvalConfig::view_plan`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub views: Option<ViewPlan>,
    /// How tokens are pooled to one feature. Default `mean`.
    pub pooling: Pooling,
    /// Blocks of the encoder, from 0, whose outputs (before the final norm) are concatenated to features. Default none:
    /// the final output.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<usize>,
    /// Images per forward pass; it does not change results. Default 250.
    pub batch_size: usize,
    /// Threads that decode images; they do not change results. Default 4.
    pub workers: usize,
    /// Whether a run also probes the raw pixels ([`raw_pixels`](crate::raw_pixels)). Default true.
    pub raw_pixels: bool,
    /// Epochs of fine-tuning with labels at the end of a run, for its encoder and the same network from scratch; 0 (the
    /// default) for none.
    pub finetune_epochs: usize,
    /// The linear probe.
    pub linear: LinearConfig,
    /// The nearest-neighbour classifier.
    pub knn: KnnConfig,
    /// A linear probe with few labels at the end of a run. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lowshot: Option<LowshotConfig>,
}

impl Default for EvalConfig {
    fn default() -> Self {
        Self {
            views: None,
            pooling: Pooling::default(),
            layers: vec![],
            batch_size: 250,
            workers: 4,
            raw_pixels: true,
            finetune_epochs: 0,
            linear: LinearConfig::default(),
            knn: KnnConfig::default(),
            lowshot: None,
        }
    }
}

impl EvalConfig {
    /// Checks the settings, except those that depend on the data.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] for the first invalid setting.
    pub fn check(&self) -> Result<()> {
        if self.batch_size == 0 {
            return Err(Error::config(
                "evaluation",
                "batch_size",
                0,
                "a forward pass needs at least one image",
                "use 1 or more",
            ));
        }
        if let Some(views) = &self.views {
            views.check()?;
        }
        self.linear.check()?;
        self.lowshot.as_ref().map_or(Ok(()), LowshotConfig::check)?;
        self.knn.check()
    }

    /// The views for an encoder of images of `size` with `in_channels` channels: the configured views, or the centre of
    /// the image.
    ///
    /// By default, the shorter side becomes `int(s * 256 / 224)` (bicubic) and the central `size` pixels are kept;
    /// above 224 pixels there is no margin. MAE (He et al., CVPR 2022), `util/datasets.py`.
    pub fn view_plan(&self, size: ImageSize, in_channels: usize) -> ViewPlan {
        let mut plan = self.views.clone().unwrap_or_else(|| {
            let side = size.height.max(size.width);
            let resized = match side {
                ..=MARGIN_UP_TO => side * 256 / 224,
                _ => side,
            };
            ViewPlan::evaluation(resized, (size.height, size.width))
        });
        if plan.is_of_points() {
            return plan;
        }
        for view in &mut plan.views {
            view.push(Augment::ToChannels(ToChannels {
                channels: in_channels,
            }));
        }
        plan
    }

    /// The loader for one pass over a data set, in order.
    pub(crate) fn loader(&self) -> LoaderConfig {
        LoaderConfig {
            batch_size: self.batch_size,
            workers: self.workers,
            drop_last: false,
            leave_out_unreadable: true,
            ..LoaderConfig::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_views_have_a_margin_up_to_224_pixels() {
        let config = EvalConfig::default();
        let resized = |side: usize| {
            let plan = config.view_plan(side.into(), 3);
            match &plan.shared[0] {
                Augment::Resize(resize) => resize.size,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(resized(32), 36.into());
        assert_eq!(resized(224), 256.into());
        assert_eq!(resized(384), 384.into());
        let wide = ImageSize {
            height: 32,
            width: 64,
        };
        let plan = config.view_plan(wide, 1);
        assert_eq!(plan.shared, ViewPlan::evaluation(73, (32, 64)).shared);
        assert_eq!(
            plan.views,
            [[Augment::ToChannels(ToChannels { channels: 1 })]]
        );
    }

    #[test]
    fn settings_round_trip_and_unknown_ones_are_named() {
        let config: EvalConfig = toml::from_str(
            "pooling = 'cls'\nviews = { shared = [{ type = 'pad', pixels = 2 }] }\nlinear.c = 1\nknn.k = 5",
        )
        .unwrap();
        assert_eq!(config.pooling, Pooling::Cls);
        assert_eq!((config.linear.c, config.knn.k), (1., 5));
        assert_eq!(config.linear.max_train, 10_000);
        let text = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<EvalConfig>(&text).unwrap(), config);
        assert!(
            !toml::to_string(&EvalConfig::default())
                .unwrap()
                .contains("views")
        );
        let error = toml::from_str::<EvalConfig>("knn.neighbours = 3").unwrap_err();
        assert!(error.to_string().contains("`neighbours`"), "{error}");
    }

    #[test]
    fn settings_out_of_range_are_named() {
        for (text, field) in [
            ("batch_size = 0", "batch_size"),
            ("linear.c = 0", "`c`"),
            ("linear.c = inf", "`c`"),
            ("linear.max_iter = 0", "max_iter"),
            ("linear.tolerance = -1", "tolerance"),
            ("linear.max_train = 1", "max_train"),
            ("knn.k = 0", "`k`"),
            ("knn.temperature = 0", "temperature"),
            ("views = { views = [] }", "views"),
        ] {
            let config: EvalConfig = toml::from_str(text).unwrap();
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        }
        EvalConfig::default().check().unwrap();
    }
}
