//! Where the masks of a case come from, as data.

use candle_core::{DType, Device, Tensor};
use mim_core::{Mask, PatchGrid};
use mim_masking::RandomMaskerConfig;

use super::super::{Case, Problem, Result};

/// Where the masks of a case come from.
#[derive(Debug)]
pub enum Masks<C: 'static> {
    /// The method needs none, or draws them itself.
    None,
    /// Recorded masks, `input.mask`: 1 is hidden.
    Bits,
    /// Drawn by the masker from `input.noise`; recorded masks and ids must agree. Without noise as [`Masks::Bits`].
    Noise(fn(&C, PatchGrid, &[f32]) -> mim_core::Result<Mask>),
    /// What the other variants cannot express.
    By(fn(&Case, &C, PatchGrid) -> Result<Mask>),
}

impl<C> Masks<C> {
    pub(super) fn of(&self, case: &Case, config: &C, grid: PatchGrid) -> Result<Option<Mask>> {
        Ok(match self {
            Self::None => None,
            Self::Noise(sample) if case.tensor("input.noise").is_some() => {
                let mask = sample(config, grid, &case.flat::<f32>("input.noise")?)?;
                agrees(case, &mask)?;
                Some(mask)
            }
            Self::Bits | Self::Noise(_) => {
                Some(Mask::from_bits(grid, &case.bits("input.mask", grid)?)?)
            }
            Self::By(make) => Some(make(case, config, grid)?),
        })
    }
}

/// The mask that MAE's masker draws from noise.
pub(crate) fn random_mask(
    mask_ratio: f64,
    grid: PatchGrid,
    noise: &[f32],
) -> mim_core::Result<Mask> {
    let masker = RandomMaskerConfig { mask_ratio }.build()?;
    masker.from_noise(grid, noise)
}

/// Ids of a mask.
type Ids = fn(&Mask, &Device) -> mim_core::Result<Tensor>;

/// Checks that a recorded tensor has these values, which follow from recorded draws.
///
/// # Errors
///
/// If it is missing, or has other values.
pub fn same(case: &Case, name: &str, ours: &Tensor) -> Result<()> {
    let ours = ours.to_dtype(DType::I64)?.flatten_all()?;
    match case.flat::<i64>(name)? == ours.to_vec1::<i64>()? {
        true => Ok(()),
        false => Err(case.other_mask(name)),
    }
}

/// Checks recorded masks and ids against the mask of the recorded draws.
///
/// # Errors
///
/// If one differs.
pub fn agrees(case: &Case, mask: &Mask) -> Result<()> {
    let device = &Device::Cpu;
    let whole = mask.width() == mask.grid().len();
    let bits = [
        ("input.mask", unseen(mask)),
        ("input.predict_mask", mask.to_bits()),
        ("input.loss_mask", mask.to_bits()),
    ];
    for (name, ours) in bits {
        if case.tensor(name).is_some() && case.bits(name, mask.grid())? != ours {
            return Err(case.other_mask(name));
        }
    }
    for (name, ours) in [
        ("input.ids_keep", Mask::ids_keep as Ids),
        ("input.ids_masked", Mask::ids_masked),
        ("input.ids_shuffle", Mask::ids_order),
    ] {
        if case.tensor(name).is_some() {
            same(case, name, &ours(mask, device)?)?;
        }
    }
    match whole {
        true if case.tensor("input.ids_restore").is_some() => {
            same(case, "input.ids_restore", &mask.ids_restore(device)?)
        }
        true => Ok(()),
        false => restores(case, mask),
    }
}

/// Checks the recorded positions of visible patches, for masks with unused patches.
fn restores(case: &Case, mask: &Mask) -> Result<()> {
    let name = "input.ids_restore";
    let Some(theirs) = case.tensor(name) else {
        return Ok(());
    };
    let theirs: Vec<Vec<i64>> = theirs.to_dtype(DType::I64)?.to_vec2()?;
    for (row, places) in theirs.iter().enumerate().take(mask.rows()) {
        let mut visible = (0i64..).zip(mask.visible(row));
        if !visible.all(|(place, &id)| places.get(id as usize) == Some(&place)) {
            return Err(case.other_mask(name));
        }
    }
    Ok(())
}

/// 1 for patches that are not visible, for all images.
pub fn unseen(mask: &Mask) -> Vec<u8> {
    let seen = mask.complement().to_bits();
    seen.into_iter().map(|bit| 1 - bit).collect()
}

impl Case {
    /// The error if our masker draws another mask from the recorded draws.
    pub(crate) fn other_mask(&self, name: &str) -> Problem {
        let what = format!("the masker gives another `{name}` for the recorded draws");
        self.bad(what).into()
    }
}
