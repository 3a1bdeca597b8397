//! The golden cases of FastMIM.

use mim_core::PatchGrid;
use mim_core::encoders::EncoderConfig;

use super::FastMimConfig;
use crate::parity::golden::{Golden, Masks, Output, Plain, QKV_BIAS, SWIN, Setting, VIT};
use Output::{Any, Image, Trace};
use Setting::{Choice, Fixed, Renamed, Same, Set, Word};

const PVT_V2: &[Setting] = &[
    Set("encoder.type", Plain::Text("pvt_v2")),
    Set("encoder.drop_path_rate", Plain::Float(0.)),
    Same(
        "",
        "encoder",
        &[
            "image_size",
            "patch_size",
            "in_channels",
            "embed_dims",
            "depths",
            "num_heads",
            "mlp_ratios",
            "sr_ratios",
            "qkv_bias",
            "norm_eps",
            "drop_path_rate",
        ],
    ),
    Renamed("patch_norm_eps", "encoder.conv_norm_eps"),
];

pub(super) const GOLDEN: Golden<FastMimConfig> = Golden {
    settings: &[
        Choice(
            "arch",
            &[
                ("vit", &[VIT, QKV_BIAS]),
                ("swin", &[Set("encoder.type", Plain::Text("swin")), SWIN]),
                ("pvtv2", PVT_V2),
            ],
        ),
        Word("mim_loss", "target", &[("HOG", "hog"), ("l2", "pixel")]),
        Same("", "", &["mask_ratio", "block_size", "norm_pix_loss"]),
        Same(
            "decoder",
            "decoder",
            &["embed_dim", "depth", "num_heads", "norm_eps", "mlp_ratio"],
        ),
        Fixed("hog.nbins", Plain::Int(9)),
        Fixed("hog.gaussian_window", Plain::Int(0)),
        Renamed("hog.pool", "hog_cell"),
    ],
    also: |case, config| {
        if let EncoderConfig::PvtV2(pvt) = &config.encoder {
            let stem = serde_json::json!({ "kernel": 7, "stride": 4, "padding": 3 });
            case.fixed("stem", stem)?;
            case.fixed("sr_norm_eps", pvt.conv_norm_eps)?;
        }
        case.fixed("output_stride", config.encoder.output_stride())
    },
    masks: Masks::Noise(|config, grid, noise| config.masker()?.from_noise(grid, noise)),
    outputs: &[
        ("masked_image", Trace("masked_image")),
        ("latent", Trace("latent")),
        ("pred", Any(&["hog.tokens", "pixel.tokens"])),
        // A map of cells with the bins of all colours as channels.
        (
            "hog",
            Image("target.hog", |config| {
                config.mask_stride() / config.hog_cell.max(1)
            }),
        ),
    ],
    ..Golden::new("fastmim", |config| {
        PatchGrid::of_image(config.encoder.image_size().into(), config.mask_stride())
    })
};
