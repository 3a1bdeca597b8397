//! The macro that lists all encoders and builds the enum of their settings.

/// Declares the encoders, one per line: `module => Variant: Settings, other public items;`.
///
/// Creates the modules and the list of parts (see [`crate::parts!`]), and the enum [`EncoderConfig`](super::EncoderConfig).
macro_rules! encoders {
    ($($module:ident => $variant:ident: $config:ident $(, $public:ident)*;)*) => {
        crate::parts! {
            /// The encoders that a config can name.
            pub fn encoders() -> dyn EncoderSettings as "encoder";
            $($module => $config $(, $public)*;)*
        }

        /// Settings of any encoder; the field `type` selects it. The methods are those of [`EncoderSettings`].
        ///
        /// ```toml
        /// [encoder]
        /// type = "swin"
        /// image_size = 192
        /// window_size = 6
        /// ```
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(tag = "type", rename_all = "snake_case")]
        pub enum EncoderConfig {
            $(
                #[doc = concat!("[`", stringify!($variant), "`].")]
                $variant($config),
            )*
        }

        $(
            impl From<$config> for EncoderConfig {
                fn from(config: $config) -> Self {
                    Self::$variant(config)
                }
            }
        )*

        impl std::ops::Deref for EncoderConfig {
            type Target = dyn EncoderSettings;

            fn deref(&self) -> &Self::Target {
                match self {
                    $(Self::$variant(config) => config,)*
                }
            }
        }

        impl std::ops::DerefMut for EncoderConfig {
            fn deref_mut(&mut self) -> &mut Self::Target {
                match self {
                    $(Self::$variant(config) => config,)*
                }
            }
        }
    };
}

pub(super) use encoders;

#[cfg(test)]
mod tests {
    use crate::encoders::{EncoderConfig, SwinConfig, encoders};
    use crate::{ParamStore, PatchGrid};

    #[test]
    fn the_type_selects_and_unknown_keys_are_refused() {
        let read = |text: &str| toml::from_str::<EncoderConfig>(text);
        let swin = read("type = \"swin\"\nembed_dim = 24\nnum_heads = [3, 6, 12, 24]").unwrap();
        assert_eq!(
            (swin.dim(), swin.output_stride(), swin.patch_size()),
            (192, 32, 4)
        );
        assert_eq!(swin.grid().unwrap(), PatchGrid::new(6, 6));
        let vit = read("type = \"vit\"\nin_channels = 1").unwrap();
        assert_eq!(
            (vit.dim(), vit.output_stride(), vit.patch_values()),
            (768, 16, 256)
        );
        let pvt = read("type = \"pvt_v2\"\nimage_size = 64").unwrap();
        assert_eq!(
            (pvt.dim(), pvt.output_stride(), pvt.patch_size()),
            (512, 32, 4)
        );
        let hybrid = read("type = \"conv_mae\"\nmlp_ratios = [8.0, 8.0, 4.0]").unwrap();
        assert_eq!(
            (hybrid.dim(), hybrid.output_stride(), hybrid.patch_size()),
            (768, 16, 4)
        );
        for bad in [
            "type = \"vit\"\nwindow_size = 7",
            "type = \"resnet\"",
            "embed_dim = 8",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        let text = toml::to_string(&swin).unwrap();
        assert_eq!(read(&text).unwrap(), swin);
    }

    #[test]
    fn part_names_match_the_enum() {
        for entry in encoders().iter() {
            let name = &entry.info.name;
            let config = toml::from_str::<EncoderConfig>(&format!("type = \"{name}\""));
            let of_list = entry.info.defaults().unwrap();
            assert_eq!(config.unwrap().to_table().unwrap(), of_list, "{name}");
        }
    }

    #[test]
    fn builds_the_named_encoder() {
        let config = EncoderConfig::from(SwinConfig {
            image_size: 16.into(),
            embed_dim: 4,
            depths: vec![1, 1],
            num_heads: vec![1, 2],
            window_size: 2,
            ..SwinConfig::default()
        });
        let encoder = config.build(&ParamStore::cpu(0).root()).unwrap();
        assert_eq!(encoder.dim(), config.dim());
        assert_eq!(encoder.grid((16, 16)).unwrap(), config.grid().unwrap());
    }
}
