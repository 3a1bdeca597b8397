//! Masks on the levels of a cloud.

use crate::{Error, Mask, Result};

use super::PointLevels;

/// The masks of all levels, finest first, derived from `top`, a mask on the coarsest level. A group on a lower level is
/// visible if it is a member of a visible group on the level above.
///
/// With `first_visible`, group 0 of the first cloud is also visible on every lower level.
/// Zhang et al., Point-M2AE, NeurIPS 2022, Sec. 3.2.
// Parity: the authors multiply the members of hidden groups by 0, so they also clear the mask at row 0.
///
/// # Errors
///
/// [`Error::Shape`] if the mask has another grid, or not one row per cloud.
pub fn pass_down(levels: &PointLevels, top: &Mask, first_visible: bool) -> Result<Vec<Mask>> {
    let batch = levels.points().dim(0)?;
    let Some((coarsest, lower)) = levels.levels().split_last() else {
        return Ok(Vec::new());
    };
    if top.grid() != coarsest.grid()? || top.rows() != batch {
        return Err(Error::shape(
            "mask of a cloud",
            format!("{batch} rows of {} groups", coarsest.groups()?),
            format!("{} rows of {}", top.rows(), top.grid()),
            "use one mask per cloud, on the coarsest level",
        ));
    }
    let mut bits = top.to_bits();
    let mut masks = vec![Mask::from_bits(top.grid(), &bits)?];
    for (below, above) in lower.iter().zip(&levels.levels()[1..]).rev() {
        let mut passed = vec![1u8; batch * below.groups()?];
        for (members, hidden) in above.ids.chunks_exact(above.size).zip(&bits) {
            if *hidden == 0 {
                for id in members {
                    passed[*id as usize] = 0;
                }
            } else if first_visible {
                passed[0] = 0;
            }
        }
        bits = passed;
        masks.push(Mask::from_bits(below.grid()?, &bits)?);
    }
    masks.reverse();
    Ok(masks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PatchGrid;
    use crate::objectives::testing::noise;
    use crate::points::PointLevelConfig;

    #[test]
    fn members_of_visible_groups_are_visible() {
        let sizes = [(8, 2), (4, 3)].map(|(groups, size)| PointLevelConfig { groups, size });
        let levels = PointLevels::new(&noise(&[2, 12, 3], 1), &sizes, -1.).unwrap();
        let top = Mask::from_bits(PatchGrid::new(4, 1), &[0, 1, 1, 1, 1, 1, 0, 1]).unwrap();
        let above = levels.level(1).unwrap();
        let mut wanted = [1u8; 16];
        for group in [0, 6] {
            for id in &above.ids[group * 3..][..3] {
                wanted[*id as usize] = 0;
            }
        }
        let masks = pass_down(&levels, &top, false).unwrap();
        assert_eq!(masks[0].to_bits(), wanted);
        assert_eq!(masks[1].to_bits(), top.to_bits());
        wanted[0] = 0;
        let masks = pass_down(&levels, &top, true).unwrap();
        assert_eq!(masks[0].to_bits(), wanted);
        let other = Mask::from_bits(PatchGrid::new(2, 2), &[0, 1, 1, 1]).unwrap();
        assert!(pass_down(&levels, &other, true).is_err());
    }
}
