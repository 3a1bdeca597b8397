//! The golden cases of SimMIM.

use candle_core::{DType, Tensor};
use mim_core::encoders::EncoderConfig;
use mim_core::{Mask, PatchGrid};

use super::SimMimConfig;
use crate::parity::golden::{
    Course, Golden, Made, Masks, Output, Plain, SWIN, Setting, VIT, positions, positive,
};
use crate::parity::trajectory::{Features, Shape};
use crate::parity::{Case, Recorded, Result};
use Output::{By, Image};
use Setting::{Choice, Converted, Fixed, Informs, Same, Set, Word};

const SIMMIM_VIT: &[Setting] = &[
    VIT,
    Word(
        "qkv_bias",
        "encoder.qkv_bias",
        &[("true", "q_v"), ("false", "none")],
    ),
    // Zero means no layer scale at all.
    Converted("init_values", "encoder.layer_scale_init", positive),
];

pub(super) const GOLDEN: Golden<SimMimConfig> = Golden {
    settings: &[
        Choice(
            "arch",
            &[
                ("vit", SIMMIM_VIT),
                ("swin", &[Set("encoder.type", Plain::Text("swin")), SWIN]),
            ],
        ),
        Same("", "", &["mask_ratio", "mask_patch_size"]),
        Fixed("drop_rate", Plain::Float(0.)),
        // For classification only.
        Informs(&["use_mean_pooling"]),
    ],
    also: |case, config| {
        if let EncoderConfig::Vit(vit) = &mut config.encoder {
            positions(case, vit)?;
        }
        let stride = config.encoder.output_stride();
        case.fixed("output_stride", stride)?;
        case.fixed("encoder_stride", stride)
    },
    masks: Masks::By(mask),
    outputs: &[
        ("latent", By(latent)),
        (
            "reconstruction",
            Image("pred.pixel", SimMimConfig::mask_stride),
        ),
    ],
    course: Some(Course::new(|config, device| {
        let features = Features::new(config.encoder.clone(), "student", device)?;
        Ok(vec![("features", features.shape(Shape::Map))])
    })),
    ..Golden::new("simmim", SimMimConfig::mask_grid)
};

/// The mask of the recorded permutation, which must agree with the recorded mask of the first patches.
fn mask(case: &Case, config: &SimMimConfig, grid: PatchGrid) -> Result<Mask> {
    let encoder = &config.encoder;
    let first = PatchGrid::of_image(encoder.image_size().into(), encoder.patch_size())?;
    let recorded = case.bits("input.mask", first)?;
    let mask = match case.tensor("input.permutation") {
        Some(permutation) => {
            let permutation = permutation.to_dtype(DType::U32)?.flatten_all()?;
            let masker = config.masker()?;
            masker.from_permutation(grid, &permutation.to_vec1::<u32>()?)?
        }
        None => {
            let scale = grid.scale_to(first)?;
            let corner = |id: usize| (id / grid.cols * first.cols + id % grid.cols) * scale;
            let corners = recorded
                .chunks(first.len())
                .flat_map(|bits| (0..grid.len()).map(move |id| bits[corner(id)]));
            Mask::from_bits(grid, &corners.collect::<Vec<_>>())?
        }
    };
    if mask.upsample(first)?.to_bits() != recorded {
        let what =
            "`input.mask` is not whole cells, or not those of the recorded permutation".to_owned();
        return Err(case.bad(what).into());
    }
    Ok(mask)
}

/// Their output is a feature map without class token.
fn latent(made: &Made<SimMimConfig>, recorded: &Recorded) -> Result<Tensor> {
    let (tokens, grid) = (recorded.get("latent")?, made.config.encoder.grid()?);
    let prefix = tokens.dim(1)?.saturating_sub(grid.len());
    let patches = tokens.narrow(1, prefix, grid.len())?.transpose(1, 2)?;
    let shape = (tokens.dim(0)?, (), grid.rows, grid.cols);
    Ok(patches.contiguous()?.reshape(shape)?)
}
