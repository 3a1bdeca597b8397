//! Groups of neighbouring points, level by level.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::{Error, PatchGrid, Result, ops};

/// Size of one level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PointLevelConfig {
    /// Number of groups on the level; each is a token.
    pub groups: usize,
    /// Points per group: from the level below, or from the cloud on the first level.
    pub size: usize,
}

/// The groups of one level.
#[derive(Debug, Clone)]
pub struct PointLevel {
    /// Centres of the groups, `[batch, groups, 3]`: points of the level below.
    pub centers: Tensor,
    /// Members of all groups, `[batch * groups * size]` u32: row numbers of the level below in `[batch * below]`,
    /// nearest first.
    pub members: Tensor,
    /// The same row numbers on the host.
    pub ids: Vec<u32>,
    /// Members per group.
    pub size: usize,
    /// Number of points on the level below.
    pub below: usize,
}

impl PointLevel {
    /// Number of groups per cloud.
    ///
    /// # Errors
    ///
    /// Never for levels made by [`PointLevels::new`].
    pub fn groups(&self) -> Result<usize> {
        Ok(self.centers.dim(1)?)
    }

    /// The grid of a mask on this level: one column of groups.
    ///
    /// # Errors
    ///
    /// As [`PointLevel::groups`].
    pub fn grid(&self) -> Result<PatchGrid> {
        Ok(PatchGrid::new(self.groups()?, 1))
    }

    /// Gathers the members of the groups from `rows` `[batch * below, dim]`: `[batch * groups, size, dim]`.
    ///
    /// # Errors
    ///
    /// If the number of rows differs.
    pub fn gather(&self, rows: &Tensor) -> Result<Tensor> {
        let dim = rows.dim(1)?;
        let members = ops::gather_rows(rows, &self.members)?;
        Ok(members.reshape((self.ids.len() / self.size, self.size, dim))?)
    }
}

/// A cloud and its groups on several levels. Groups are farthest points with their nearest neighbours: points of the
/// cloud on the first level, and centres of the level below on the others.
///
/// Zhang et al., Point-M2AE, NeurIPS 2022, Sec. 3.1; I2P-MAE's `Group_v2`.
#[derive(Debug, Clone)]
pub struct PointLevels {
    points: Tensor,
    levels: Vec<PointLevel>,
}

impl PointLevels {
    /// Groups clouds `[batch, points, 3]`. Points whose squared length is at most `hollow` can only be the centre of
    /// the first group ([`ops::farthest_points`]).
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] for another shape, [`Error::InvalidConfig`] if a level needs more points than there are.
    pub fn new(points: &Tensor, levels: &[PointLevelConfig], hollow: f32) -> Result<Self> {
        if points.rank() != 3 || points.dim(2)? != 3 {
            return Err(Error::shape(
                "a batch of clouds",
                "[batch, points, 3]",
                points.dims(),
                "use point clouds, such as data.source = \"shapes\"",
            ));
        }
        let points = points.detach().contiguous()?;
        let (mut below, mut made) = (points.clone(), Vec::with_capacity(levels.len()));
        for level in levels {
            let level = group(&below, *level, hollow)?;
            below = level.centers.clone();
            made.push(level);
        }
        Ok(Self {
            points,
            levels: made,
        })
    }

    /// The clouds, `[batch, points, 3]`.
    pub fn points(&self) -> &Tensor {
        &self.points
    }

    /// The levels, finest first.
    pub fn levels(&self) -> &[PointLevel] {
        &self.levels
    }

    /// Level `index`.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if there are fewer levels.
    pub fn level(&self, index: usize) -> Result<&PointLevel> {
        let count = self.levels.len();
        self.levels.get(index).ok_or_else(|| {
            Error::shape(
                "a level of a cloud",
                format!("below {count}"),
                index,
                "use an existing level",
            )
        })
    }

    /// Positions of the members on level `index`, `[batch, groups, size, 3]`.
    ///
    /// # Errors
    ///
    /// As [`PointLevels::level`].
    pub fn members(&self, index: usize) -> Result<Tensor> {
        let level = self.level(index)?;
        let below = match index {
            0 => &self.points,
            _ => &self.level(index - 1)?.centers,
        };
        let members = level.gather(&below.flatten_to(1)?)?;
        let (batch, groups) = (level.centers.dim(0)?, level.groups()?);
        Ok(members.reshape((batch, groups, level.size, 3))?)
    }

    /// [`PointLevels::members`] relative to the centres of their groups, `[batch, groups, size, 3]`.
    ///
    /// # Errors
    ///
    /// As [`PointLevels::level`].
    pub fn centred(&self, index: usize) -> Result<Tensor> {
        let centers = self.level(index)?.centers.unsqueeze(2)?;
        Ok(self.members(index)?.broadcast_sub(&centers)?)
    }
}

/// Converts ids `[batch, ...]` of rows per cloud to row numbers over all clouds of `size` rows.
fn flat(ids: &Tensor, size: usize) -> Result<Vec<u32>> {
    let batch = ids.dim(0)?;
    let values = ids.flatten_all()?.to_vec1::<u32>()?;
    let each = (values.len() / batch.max(1)).max(1);
    let step = u32::try_from(size).unwrap_or(u32::MAX);
    let clouds = (0u32..).zip(values.chunks(each));
    Ok(clouds
        .flat_map(|(cloud, ids)| ids.iter().map(move |id| cloud * step + id))
        .collect())
}

fn group(points: &Tensor, config: PointLevelConfig, hollow: f32) -> Result<PointLevel> {
    let (batch, below, _) = points.dims3()?;
    if u32::try_from(batch * below).is_err() {
        return Err(Error::shape(
            "a batch of clouds",
            "fewer than 2^32 points",
            points.dims(),
            "use a smaller batch_size",
        ));
    }
    let rows = points.flatten_to(1)?;
    let middles = flat(&ops::farthest_points(points, config.groups, hollow)?, below)?;
    let middles = ops::upload(middles, batch * config.groups, points.device())?;
    let centers = ops::gather_rows(&rows, &middles)?.reshape((batch, config.groups, 3))?;
    let ids = flat(&ops::nearest_points(&centers, points, config.size)?, below)?;
    let members = ops::upload(ids.clone(), ids.len(), points.device())?;
    Ok(PointLevel {
        centers,
        members,
        ids,
        size: config.size,
        below,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objectives::testing::noise;

    #[test]
    fn members_are_the_neighbours_of_their_centres() {
        let sizes = [(8, 4), (3, 2)].map(|(groups, size)| PointLevelConfig { groups, size });
        let cloud = noise(&[2, 20, 3], 1);
        let levels = PointLevels::new(&cloud, &sizes, -1.).unwrap();
        let members = levels.members(1).unwrap();
        assert_eq!(members.dims(), [2, 3, 2, 3]);
        // A centre is its own nearest neighbour.
        let first = levels.centred(1).unwrap().narrow(2, 0, 1).unwrap();
        let largest = first.abs().unwrap().flatten_all().unwrap().max(0).unwrap();
        assert_eq!(largest.to_scalar::<f32>().unwrap(), 0.);
        assert_eq!(levels.level(0).unwrap().below, 20);
        assert!(levels.level(1).unwrap().ids.iter().all(|id| *id < 16));
        assert!(levels.level(2).is_err());
    }

    #[test]
    fn images_and_levels_with_too_many_groups_are_refused() {
        let sizes = [PointLevelConfig { groups: 9, size: 1 }];
        let error = PointLevels::new(&noise(&[1, 8, 3], 1), &sizes, -1.).unwrap_err();
        assert!(
            error.to_string().contains("a cloud has 8 points"),
            "{error}"
        );
        let error = PointLevels::new(&noise(&[1, 3, 8, 8], 1), &sizes, -1.).unwrap_err();
        assert!(error.to_string().contains("point clouds"), "{error}");
    }
}
