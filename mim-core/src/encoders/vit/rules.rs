//! Which settings of the plain vision transformer make sense.

use std::fmt::Display;

use super::{RelPosBiasKind, VitConfig};
use crate::{Error, Result};

impl VitConfig {
    /// Checks ranges and how settings depend on each other.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] for the first invalid setting.
    pub fn validate(&self) -> Result<()> {
        self.grid()?;
        self.validate_sizes()?;
        self.validate_rates()?;
        self.validate_tokens()
    }

    fn validate_sizes(&self) -> Result<()> {
        if self.in_channels == 0 {
            let why = "images must have at least one channel";
            return bad("in_channels", 0, why, "use 1 (grey) or 3 (RGB)");
        }
        if self.depth == 0 {
            let why = "an encoder must have at least one block";
            return bad("depth", 0, why, "use 1 or more");
        }
        if self.num_heads == 0 || !self.embed_dim.is_multiple_of(self.num_heads) {
            let why = "embed_dim must be a multiple of it";
            let fix = "change num_heads or embed_dim";
            return bad("num_heads", self.num_heads, why, fix);
        }
        let hidden = self.mlp_ratio * (self.embed_dim as f64);
        if hidden.is_nan() || hidden < 1. {
            let why = "the hidden layer would be empty";
            return bad("mlp_ratio", self.mlp_ratio, why, "use 4");
        }
        Ok(())
    }

    fn validate_rates(&self) -> Result<()> {
        for (field, rate) in [
            ("drop_path_rate", self.drop_path_rate),
            ("attn_drop_rate", self.attn_drop_rate),
        ] {
            if !(0. ..1.).contains(&rate) {
                let why = "it must be in [0, 1)";
                return bad(field, rate, why, "use 0 for no dropping");
            }
        }
        if self.norm_eps.is_nan() || self.norm_eps <= 0. {
            return bad("norm_eps", self.norm_eps, "it must be positive", "use 1e-6");
        }
        Ok(())
    }

    fn validate_tokens(&self) -> Result<()> {
        if self.prefix() != 1 && self.rel_pos_bias != RelPosBiasKind::None {
            let count = self.num_class_tokens;
            let value = format!("{} (num_class_tokens = {count})", self.class_token);
            let why = "the relative position bias needs exactly one class token";
            return bad("class_token", value, why, "use rel_pos_bias = \"none\"");
        }
        match self.projection_dim {
            Some(dim) if !self.final_norm || dim == 0 => {
                let why = "a projection needs outputs and a final norm before it";
                let fix = "set final_norm = true, or remove projection_dim";
                bad("projection_dim", dim, why, fix)
            }
            _ => Ok(()),
        }
    }
}

fn bad(
    field: &'static str,
    value: impl Display,
    why: &'static str,
    fix: &'static str,
) -> Result<()> {
    Err(Error::config("vit", field, value, why, fix))
}
