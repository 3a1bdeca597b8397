//! Which settings of Swin make sense.

use super::SwinConfig;
use crate::{Error, Result};

impl SwinConfig {
    /// Checks ranges and how settings depend on each other.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] for the first invalid setting.
    pub fn validate(&self) -> Result<()> {
        self.validate_ranges()?;
        for (stage, (&depth, &heads)) in self.depths.iter().zip(&self.num_heads).enumerate() {
            let dim = self.stage_dim(stage);
            if depth == 0 {
                let why = "every stage must have at least one block";
                return bad("depths", format!("{:?}", self.depths), why, "use 1 or more");
            }
            if heads == 0 || !dim.is_multiple_of(heads) {
                let why = format!("the width {dim} of stage {stage} must be a multiple of {heads}");
                let value = format!("{:?}", self.num_heads);
                return bad("num_heads", value, why, "change num_heads or embed_dim");
            }
            self.validate_windows(stage)?;
        }
        Ok(())
    }

    fn validate_ranges(&self) -> Result<()> {
        if self.in_channels == 0 {
            let why = "images must have at least one channel";
            return bad("in_channels", 0, why, "use 1 (grey) or 3 (RGB)");
        }
        if self.embed_dim == 0 {
            return bad(
                "embed_dim",
                0,
                "tokens must have at least one value",
                "use 96 or more",
            );
        }
        // No known network has more stages, and the stride must not overflow.
        if self.depths.is_empty() || self.depths.len() > 16 {
            let value = format!("{:?}", self.depths);
            return bad(
                "depths",
                value,
                "an encoder must have 1 to 16 stages",
                "use 2, 2, 18, 2",
            );
        }
        if self.num_heads.len() != self.depths.len() {
            let why = format!("depths has {} stages", self.depths.len());
            let value = format!("{:?}", self.num_heads);
            return bad("num_heads", value, why, "give one number per stage");
        }
        if self.window_size == 0 {
            return bad(
                "window_size",
                0,
                "a window must have at least one token",
                "use 6 or 7",
            );
        }
        if !(0. ..1.).contains(&self.drop_path_rate) {
            let (value, why) = (self.drop_path_rate, "it must be in [0, 1)");
            return bad(
                "drop_path_rate",
                value,
                why,
                "use 0 for no stochastic depth",
            );
        }
        if self.norm_eps <= 0. {
            return bad("norm_eps", self.norm_eps, "it must be positive", "use 1e-5");
        }
        if self.mlp_ratio * (self.embed_dim as f64) < 1. {
            let why = "the hidden layer would be empty";
            return bad("mlp_ratio", self.mlp_ratio, why, "use 4");
        }
        Ok(())
    }

    /// Parity: SimMIM's released encoder does not pad, so sizes that leave partial windows are refused.
    pub(super) fn validate_windows(&self, stage: usize) -> Result<()> {
        let grid = self.stage_grid(stage)?;
        let (side, _) = self.stage_window(stage)?;
        if self.pad {
            return Ok(());
        }
        if grid.rows.is_multiple_of(side) && grid.cols.is_multiple_of(side) {
            return Ok(());
        }
        let why = format!(
            "the grid {grid} of stage {stage} does not divide into windows of {side}x{side}"
        );
        let fitting = self.output_stride() * self.window_size;
        let fix = format!(
            "use sides that are multiples of {fitting} pixels, another window_size, or pad = true"
        );
        bad("image_size", self.image_size, why, fix)
    }
}

fn bad(
    field: &'static str,
    value: impl std::fmt::Display,
    why: impl Into<crate::Text>,
    fix: impl Into<crate::Text>,
) -> Result<()> {
    Err(Error::config("swin", field, value, why, fix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_settings_are_refused_with_a_remedy() {
        let cases: &[(&str, &[&str])] = &[
            (
                "image_size = 224",
                &["is 224x224", "56x56 of stage 0", "multiples of 192"],
            ),
            ("image_size = 48", &["48x48", "32"]),
            ("patch_size = 0", &["patch size 0"]),
            ("in_channels = 0", &["`in_channels`"]),
            ("embed_dim = 0", &["`embed_dim`"]),
            ("depths = []", &["`depths`", "1 to 16"]),
            ("depths = [2, 0, 2, 2]", &["`depths`"]),
            ("num_heads = [4, 8]", &["`num_heads`", "4 stages"]),
            ("num_heads = [4, 8, 16, 31]", &["1024", "31"]),
            ("window_size = 0", &["`window_size`"]),
            ("drop_path_rate = 1", &["`drop_path_rate`"]),
            ("norm_eps = 0", &["`norm_eps`"]),
            ("mlp_ratio = 0", &["`mlp_ratio`"]),
        ];
        for (text, parts) in cases {
            let config: SwinConfig = toml::from_str(text).unwrap();
            let error = config.validate().unwrap_err().to_string();
            for part in *parts {
                assert!(error.contains(part), "`{part}` is not in: {error}");
            }
        }
    }
}
