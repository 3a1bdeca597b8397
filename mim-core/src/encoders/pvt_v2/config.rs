//! Settings of PVTv2.

use serde::{Deserialize, Serialize};

use super::PvtV2;
use crate::encoders::EncoderSettings;
use crate::params::{Init, InitScheme, Params};
use crate::parts::Part;
use crate::{Encoder, Error, ImageSize, MaskMode, PatchGrid, Result};

/// Settings of [`PvtV2`](super::PvtV2); `Default` is PVTv2-B2 as FastMIM pre-trains it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PvtV2Config {
    /// Height and width of the images in pixels; multiples of the output stride. Default 128.
    ///
    /// The network accepts other sizes, too; methods request this one.
    pub image_size: ImageSize,
    /// Distance in pixels between tokens of the first stage; its convolution covers
    /// `2 * patch_size - 1` pixels. Default 4.
    pub patch_size: usize,
    /// Channels of the images: 3 for RGB, 1 for grey. Default 3.
    pub in_channels: usize,
    /// Width of each stage's tokens. Default 64, 128, 320, 512.
    pub embed_dims: Vec<usize>,
    /// Blocks of each stage. Default 3, 4, 6, 3.
    pub depths: Vec<usize>,
    /// Attention heads of each stage. Default 1, 2, 5, 8.
    pub num_heads: Vec<usize>,
    /// Hidden width of a block's MLP as a multiple of the stage's width. Default 8, 8, 4, 4.
    pub mlp_ratios: Vec<f64>,
    /// Side in tokens of the group that is merged to one key and value, per stage. Default 8, 4, 2, 1.
    pub sr_ratios: Vec<usize>,
    /// Whether query, key and value have biases. Default true.
    pub qkv_bias: bool,
    /// Epsilon of the norms of blocks and stages. Default 1e-6.
    pub norm_eps: f64,
    /// Epsilon of the norms after convolutions: of patch embeddings and merged keys. Default 1e-5.
    pub conv_norm_eps: f64,
    /// Stochastic depth rate of the last block, rising linearly from 0. Default 0.
    pub drop_path_rate: f64,
}

impl Default for PvtV2Config {
    fn default() -> Self {
        Self {
            image_size: 128.into(),
            patch_size: 4,
            in_channels: 3,
            embed_dims: vec![64, 128, 320, 512],
            depths: vec![3, 4, 6, 3],
            num_heads: vec![1, 2, 5, 8],
            mlp_ratios: vec![8., 8., 4., 4.],
            sr_ratios: vec![8, 4, 2, 1],
            qkv_bias: true,
            norm_eps: 1e-6,
            conv_norm_eps: 1e-5,
            drop_path_rate: 0.,
        }
    }
}

const NARROW: [usize; 4] = [32, 64, 160, 256];
const WIDE: [usize; 4] = [64, 128, 320, 512];

/// The paper's sizes: (name, widths, blocks, MLP ratio of the first two stages).
const ARCHS: &[(&str, [usize; 4], [usize; 4], f64)] = &[
    ("pvt_v2_b0", NARROW, [2, 2, 2, 2], 8.),
    ("pvt_v2_b1", WIDE, [2, 2, 2, 2], 8.),
    ("pvt_v2_b2", WIDE, [3, 4, 6, 3], 8.),
    ("pvt_v2_b3", WIDE, [3, 4, 18, 3], 8.),
    ("pvt_v2_b4", WIDE, [3, 8, 27, 3], 8.),
    ("pvt_v2_b5", WIDE, [3, 6, 40, 3], 4.),
];

impl PvtV2Config {
    /// The size called `arch`: `pvt_v2_b0` to `pvt_v2_b5` (Wang et al., 2022, Table 1).
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] listing the known sizes.
    pub fn arch(arch: &str) -> Result<Self> {
        let found = ARCHS.iter().find(|(name, ..)| *name == arch);
        let &(_, dims, depths, first) = found.ok_or_else(|| {
            let known: Vec<_> = Self::archs().collect();
            let fix = format!("use one of {}", known.join(", "));
            Error::config("pvt_v2", "arch", arch, "it is not a known size", fix)
        })?;
        Ok(Self {
            embed_dims: dims.to_vec(),
            depths: depths.to_vec(),
            mlp_ratios: vec![first, first, 4., 4.],
            ..Self::default()
        })
    }

    /// The names [`PvtV2Config::arch`] knows.
    pub fn archs() -> impl Iterator<Item = &'static str> {
        ARCHS.iter().map(|(name, ..)| *name)
    }

    /// Number of stages.
    pub fn stages(&self) -> usize {
        self.depths.len()
    }

    /// Width of the output's tokens.
    pub fn dim(&self) -> usize {
        self.embed_dims.last().copied().unwrap_or(0)
    }

    /// Side in pixels covered by one token of stage `stage`, from 0.
    pub fn stage_stride(&self, stage: usize) -> usize {
        self.patch_size << stage
    }

    /// Side in pixels covered by one output token.
    pub fn output_stride(&self) -> usize {
        self.stage_stride(self.stages().saturating_sub(1))
    }

    /// The output grid for an image of (height, width) pixels.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a side is not a multiple of the output stride, or if the tokens of a stage
    /// do not divide into whole groups for its keys.
    pub fn grid(&self, image: (usize, usize)) -> Result<PatchGrid> {
        let output = PatchGrid::of_image(image, self.output_stride())?;
        for (stage, &ratio) in self.sr_ratios.iter().enumerate() {
            let grid = PatchGrid::of_image(image, self.stage_stride(stage))?;
            if !grid.rows.is_multiple_of(ratio) || !grid.cols.is_multiple_of(ratio) {
                let why = format!(
                    "the grid {grid} of stage {stage} does not divide into groups of {ratio}x{ratio} tokens"
                );
                let value = format!("{:?}", self.sr_ratios);
                let fix = "use ratios that divide the stage's grid, or another image_size";
                return Err(Error::config("pvt_v2", "sr_ratios", value, why, fix));
            }
        }
        Ok(output)
    }

    /// The hidden width of the MLPs of a stage.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a layer's width"
    )]
    pub(super) fn hidden(&self, stage: usize) -> usize {
        (self.embed_dims[stage] as f64 * self.mlp_ratios[stage]) as usize
    }

    /// Stochastic depth rate of block number `index` in the network.
    pub(super) fn drop_path(&self, index: usize) -> f64 {
        let last = (self.depths.iter().sum::<usize>() - 1).max(1) as f64;
        self.drop_path_rate * index as f64 / last
    }

    /// Checks ranges and how settings depend on each other.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] for the first invalid setting.
    pub fn validate(&self) -> Result<()> {
        self.validate_lists()?;
        let mut stages = 0..self.stages();
        let heads_fit = stages
            .clone()
            .all(|stage| self.embed_dims[stage].is_multiple_of(self.num_heads[stage]));
        // (is valid, setting, value, why, fix)
        let rules: [(bool, &'static str, String, &'static str, &'static str); 5] = [
            (
                self.in_channels > 0,
                "in_channels",
                self.in_channels.to_string(),
                "images have at least one channel",
                "use 1 (grey) or 3 (RGB)",
            ),
            (
                heads_fit,
                "num_heads",
                format!("{:?}", self.num_heads),
                "each stage's width in embed_dims must be a multiple of its heads",
                "change num_heads or embed_dims",
            ),
            (
                stages.all(|stage| self.hidden(stage) > 0),
                "mlp_ratios",
                format!("{:?}", self.mlp_ratios),
                "a hidden layer would be empty",
                "use 8, 8, 4, 4",
            ),
            (
                self.norm_eps > 0. && self.conv_norm_eps > 0.,
                "norm_eps, conv_norm_eps",
                format!("{}, {}", self.norm_eps, self.conv_norm_eps),
                "both must be positive",
                "use 1e-6 and 1e-5",
            ),
            (
                (0. ..1.).contains(&self.drop_path_rate),
                "drop_path_rate",
                self.drop_path_rate.to_string(),
                "it must be in [0, 1)",
                "use 0 for no stochastic depth",
            ),
        ];
        if let Some((_, field, value, why, fix)) = rules.into_iter().find(|(holds, ..)| !holds) {
            return Err(Error::config("pvt_v2", field, value, why, fix));
        }
        self.grid(self.image_size.into()).map(drop)
    }

    /// Checks that each list has one number per stage, and that no count is 0.
    fn validate_lists(&self) -> Result<()> {
        let (stages, depths) = (self.stages(), &self.depths);
        let bad = |field: &'static str, value: String, why: String, fix: &'static str| {
            Err(Error::config("pvt_v2", field, value, why, fix))
        };
        // No known network has more stages, and the stride must not overflow.
        if !(1..=16).contains(&stages) {
            let why = "an encoder must have 1 to 16 stages".to_owned();
            return bad("depths", format!("{depths:?}"), why, "use 3, 4, 6, 3");
        }
        let counts = [
            ("embed_dims", &self.embed_dims),
            ("depths", depths),
            ("num_heads", &self.num_heads),
            ("sr_ratios", &self.sr_ratios),
        ];
        let why = format!("depths has {stages} stages, and every number must be at least 1");
        let fix = "give one number per stage";
        for (field, list) in counts {
            if list.len() != stages || list.contains(&0) {
                return bad(field, format!("{list:?}"), why, fix);
            }
        }
        match self.mlp_ratios.len() == stages {
            true => Ok(()),
            false => bad("mlp_ratios", format!("{:?}", self.mlp_ratios), why, fix),
        }
    }
}

impl Part for PvtV2Config {
    const ABOUT: &'static str = "a pyramid vision transformer, second version";
    const PAPER: &'static str = "Wang et al., CVMJ 2022, arXiv 2106.13797";
    const SMALL: &'static str = r#"
image_size = 32
patch_size = 4
embed_dims = [64, 128]
depths = [2, 2]
num_heads = [2, 4]
mlp_ratios = [4.0, 4.0]
sr_ratios = [2, 1]
"#;
}

impl EncoderSettings for PvtV2Config {
    fn build(&self, params: &Params) -> Result<Box<dyn Encoder>> {
        Ok(Box::new(PvtV2::new(params, self)?))
    }

    fn image_size(&self) -> ImageSize {
        self.image_size
    }

    fn in_channels(&self) -> usize {
        self.in_channels
    }

    fn patch_size(&self) -> usize {
        self.patch_size
    }

    fn output_stride(&self) -> usize {
        self.output_stride()
    }

    fn dim(&self) -> usize {
        self.dim()
    }

    fn hiding(&self) -> MaskMode {
        MaskMode::Paint
    }

    fn init(&self, _method: Init) -> Box<dyn InitScheme> {
        Init::PvtV2.build(EncoderSettings::patch_values(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_match_the_paper() {
        assert_eq!(
            PvtV2Config::arch("pvt_v2_b2").unwrap(),
            PvtV2Config::default()
        );
        let b5 = PvtV2Config::arch("pvt_v2_b5").unwrap();
        assert_eq!((b5.depths[2], b5.mlp_ratios[0], b5.dim()), (40, 4., 512));
        assert_eq!(b5.output_stride(), 32);
        for arch in PvtV2Config::archs() {
            PvtV2Config::arch(arch).unwrap().validate().unwrap();
        }
        let error = PvtV2Config::arch("pvt_v2_b6").unwrap_err().to_string();
        assert!(error.contains("pvt_v2_b0"), "{error}");
    }

    #[test]
    fn invalid_settings_are_refused_with_a_remedy() {
        let cases: &[(&str, &[&str])] = &[
            ("image_size = 48", &["48x48", "32"]),
            (
                "sr_ratios = [8, 4, 3, 1]",
                &["`sr_ratios`", "8x8 of stage 2"],
            ),
            ("sr_ratios = [8, 4, 2]", &["`sr_ratios`", "4 stages"]),
            ("sr_ratios = [8, 4, 2, 0]", &["`sr_ratios`"]),
            ("patch_size = 0", &["patch size 0"]),
            ("in_channels = 0", &["`in_channels`"]),
            ("depths = []", &["`depths`", "1 to 16"]),
            ("depths = [2, 0, 2, 2]", &["`depths`", "at least 1"]),
            ("embed_dims = [8, 8, 8, 0]", &["`embed_dims`"]),
            ("num_heads = [1, 2, 3, 8]", &["`num_heads`", "multiple"]),
            ("num_heads = [1, 2, 0, 8]", &["`num_heads`"]),
            ("mlp_ratios = [8.0]", &["`mlp_ratios`", "4 stages"]),
            ("mlp_ratios = [8.0, 8.0, 4.0, 0.0]", &["`mlp_ratios`"]),
            ("norm_eps = 0", &["norm_eps"]),
            ("drop_path_rate = 1", &["`drop_path_rate`"]),
        ];
        for (text, parts) in cases {
            let config: PvtV2Config = toml::from_str(text).unwrap();
            let error = config.validate().unwrap_err().to_string();
            for part in *parts {
                assert!(error.contains(part), "`{part}` is not in: {error}");
            }
        }
    }
}
