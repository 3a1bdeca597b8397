//! Any target generator without weights, as a setting.

use mim_core::Result;
use serde::{Deserialize, Serialize};

use crate::{HogTargetConfig, PixelTargetConfig, TargetGenerator};

/// A target generator by its `type`: `pixel` or `hog`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum TargetConfig {
    /// [`crate::PixelTarget`].
    Pixel(PixelTargetConfig),
    /// [`crate::HogTarget`].
    Hog(HogTargetConfig),
}

impl TargetConfig {
    /// Checks the settings and builds the generator.
    ///
    /// # Errors
    ///
    /// [`mim_core::Error::InvalidConfig`] naming the setting.
    pub fn build(&self) -> Result<Box<dyn TargetGenerator>> {
        Ok(match self {
            Self::Pixel(config) => Box::new(config.build()?),
            Self::Hog(config) => Box::new(config.build()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Blur, PatchNorm};
    use mim_core::ops::PatchOrder;

    #[test]
    fn configs_survive_json_and_refuse_misspelt_fields() {
        let parse = serde_json::from_str::<TargetConfig>;
        let default = TargetConfig::Pixel(PixelTargetConfig::default());
        assert_eq!(parse(r#"{"type":"pixel"}"#).unwrap(), default);
        let config = TargetConfig::Pixel(PixelTargetConfig {
            order: PatchOrder::ChannelsThenPixels,
            patch_norm: PatchNorm::Channel { eps: 1e-5 },
            blur: Some(Blur {
                kernel_size: 9,
                sigma: 1.,
            }),
            ..PixelTargetConfig::default()
        });
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(parse(&text).unwrap(), config);
        let plain = r#"{"type":"pixel","patch_norm":{"type":"none"}}"#;
        assert!(parse(plain).unwrap().build().is_ok());
        assert!(parse(r#"{"type":"pixel","norm_pix":true}"#).is_err());
        assert!(parse(r#"{"type":"pixel","patch_norm":{"type":"patch","epsilon":1.0}}"#).is_err());
    }
}
