//! Settings of the point cloud encoder.

use serde::{Deserialize, Serialize};

use crate::nn::{BlockConfig, NormKind, QkvBias};
use crate::points::PointLevelConfig;
use crate::{Error, Result};

const NAME: &str = "encoder";

/// Settings of [`PointEncoder`](super::PointEncoder); `Default` is that of Point-M2AE and I2P-MAE.
///
/// Lists have one number per level, finest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PointEncoderConfig {
    /// Points per cloud. Default 2048.
    pub num_points: usize,
    /// Groups per level; each group is a token. Default `[512, 256, 64]`.
    pub num_groups: Vec<usize>,
    /// Members per group. Default `[16, 8, 8]`.
    pub group_sizes: Vec<usize>,
    /// Width of the tokens. Default `[96, 192, 384]`.
    pub embed_dims: Vec<usize>,
    /// Blocks per level. Default `[5, 5, 5]`.
    pub depths: Vec<usize>,
    /// Widths inside the embedding of the first level. Default `[128, 256, 512]`.
    pub embed_hidden: [usize; 3],
    /// Attention heads on every level. Default 6.
    pub num_heads: usize,
    /// Hidden width of a block's MLP as a multiple of the token width. Default 4.
    pub mlp_ratio: f64,
    /// Epsilon of the layer norms. Default 1e-5.
    pub norm_eps: f64,
    /// Stochastic depth rate of the last block; it grows linearly from 0. Default 0.1.
    pub drop_path_rate: f64,
    /// Points with at most this squared length are never group centres, except of the first group. Default 1e-3.
    // Parity: pointnet2's kernel treats such points as padding.
    pub hollow: f64,
}

impl Default for PointEncoderConfig {
    fn default() -> Self {
        Self {
            num_points: 2048,
            num_groups: vec![512, 256, 64],
            group_sizes: vec![16, 8, 8],
            embed_dims: vec![96, 192, 384],
            depths: vec![5; 3],
            embed_hidden: [128, 256, 512],
            num_heads: 6,
            mlp_ratio: 4.,
            norm_eps: 1e-5,
            drop_path_rate: 0.1,
            hollow: 1e-3,
        }
    }
}

impl PointEncoderConfig {
    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] for the first invalid setting.
    pub fn validate(&self) -> Result<()> {
        let levels = self.num_groups.len();
        for (field, count) in [
            ("group_sizes", self.group_sizes.len()),
            ("embed_dims", self.embed_dims.len()),
            ("depths", self.depths.len()),
        ] {
            if count != levels || levels < 2 {
                let why = format!("num_groups has {levels} levels, but at least two are needed");
                let fix = "give one number per level, finest first";
                return Err(Error::config(NAME, field, count, why, fix));
            }
        }
        let mut below = self.num_points;
        for (&groups, &size) in self.num_groups.iter().zip(&self.group_sizes) {
            for (field, value) in [("num_groups", groups), ("group_sizes", size)] {
                if value == 0 || value > below {
                    let why = format!("the level below has {below} points");
                    let fix = format!("use a number from 1 to {below}, or a larger num_points");
                    return Err(Error::config(NAME, field, value, why, fix));
                }
            }
            below = groups;
        }
        if self.embed_hidden.contains(&0) {
            let value = format!("{:?}", self.embed_hidden);
            let (why, fix) = (
                "every layer needs at least one value",
                "use positive widths",
            );
            return Err(Error::config(NAME, "embed_hidden", value, why, fix));
        }
        if !(0. ..1.).contains(&self.drop_path_rate) {
            let (why, fix) = ("it must be in [0, 1)", "use 0 for no stochastic depth");
            return Err(Error::config(
                NAME,
                "drop_path_rate",
                self.drop_path_rate,
                why,
                fix,
            ));
        }
        (0..levels).try_for_each(|level| self.block(level, 0.).validate(NAME))
    }

    /// Number of levels.
    pub fn levels(&self) -> usize {
        self.num_groups.len()
    }

    /// Group sizes of the levels.
    pub fn groups(&self) -> Vec<PointLevelConfig> {
        let sizes = self.num_groups.iter().zip(&self.group_sizes);
        sizes
            .map(|(&groups, &size)| PointLevelConfig { groups, size })
            .collect()
    }

    /// Settings of a block on `level` with this rate of stochastic depth.
    pub(super) fn block(&self, level: usize, drop_path: f64) -> BlockConfig {
        BlockConfig {
            dim: self.embed_dims[level],
            num_heads: self.num_heads,
            mlp_ratio: self.mlp_ratio,
            qkv_bias: QkvBias::None,
            norm: NormKind::LayerNorm,
            norm_eps: self.norm_eps,
            layer_scale_init: None,
            drop_path,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_settings_are_named() {
        PointEncoderConfig::default().validate().unwrap();
        type Change = fn(&mut PointEncoderConfig);
        let changes: [(Change, &str); 6] = [
            (|c| c.depths.truncate(2), "`depths` is 2"),
            (|c| c.num_points = 100, "`num_groups` is 512"),
            (|c| c.group_sizes[2] = 300, "`group_sizes` is 300"),
            (|c| c.num_heads = 5, "`num_heads` is 5"),
            (|c| c.drop_path_rate = 1., "`drop_path_rate` is 1"),
            (|c| c.embed_hidden[1] = 0, "`embed_hidden`"),
        ];
        for (change, part) in changes {
            let mut config = PointEncoderConfig::default();
            change(&mut config);
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
