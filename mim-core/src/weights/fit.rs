//! Fits weights to a model with another image size, patch size or number of channels.

use candle_core::Tensor;

use super::{ChannelFit, WeightMap, resize_patch_embed, resize_pos_embed, resize_rel_pos_bias};
use crate::params::{Kind, ParamStore};
use crate::{PatchGrid, Result};

/// Weights fitted to a store, and the list of changes.
#[derive(Debug, Clone)]
pub struct Fitted {
    /// The weights.
    pub weights: WeightMap,
    /// One line per changed tensor.
    pub changes: Vec<String>,
}

/// The token grids of an encoder before and after. An unknown grid counts as square.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Grids {
    /// The grid that the weights were made for.
    pub from: Option<PatchGrid>,
    /// The grid of the store's encoder.
    pub to: Option<PatchGrid>,
}

/// Adapts tensors that depend on a grid, window, patch size or number of channels, if (and only if) that of `store`
/// differs.
///
/// Trained position tables are resized bicubically ([`resize_pos_embed`]), fixed ones recomputed, relative position
/// tables by [`resize_rel_pos_bias`], patch embeddings by [`resize_patch_embed`] and [`ChannelFit::Repeat`]. `weights`
/// are in our names. Positions of another grid are never copied, even if the number of tokens is equal (4x8 and 8x4).
/// If the grid of the weights is unknown, the number of tokens equals the store's and is not a square, the positions
/// are used as they are, and a line says so. A relative position table that all blocks share is copied to each block
/// that has its own table in `store`. What still does not fit is left unchanged, and reported when loaded.
///
/// # Errors
///
/// Fails only if the device does.
pub fn fit(weights: &WeightMap, store: &ParamStore, grids: Grids) -> Result<Fitted> {
    fit_with(weights, store, grids, ChannelFit::Repeat)
}

/// The same, with a choice of initial kernels for additional channels of a patch embedding.
///
/// # Errors
///
/// As [`fit`]; [`crate::Error::Shape`] if the choice does not support fewer channels.
pub fn fit_with(
    weights: &WeightMap,
    store: &ParamStore,
    grids: Grids,
    channels: ChannelFit,
) -> Result<Fitted> {
    let mut fitted = Fitted {
        weights: WeightMap::default(),
        changes: Vec::new(),
    };
    let weights = &spread(weights, store, &mut fitted.changes);
    let kinds = store.names();
    for (name, tensor) in weights.iter() {
        let wanted = store.var(name).map(|var| var.as_detached_tensor());
        let other = |wanted: &Tensor| wanted.dims() != tensor.dims();
        let changed = match wanted {
            None => None,
            Some(wanted) if name.ends_with("pos_embed") => {
                let frozen = kinds
                    .iter()
                    .any(|(known, kind)| known == name && *kind == Kind::Frozen);
                let tokens = weights
                    .get("cls_token")
                    .and_then(|tokens| tokens.dims().get(1).copied());
                let target = Positions {
                    classes: tokens.unwrap_or(1),
                    grids,
                    fixed: frozen,
                };
                positions(tensor, &wanted, &target)?
            }
            Some(wanted) if name.ends_with("relative_position_bias_table") => {
                relative(tensor, &wanted, grids)?
            }
            Some(wanted) if name.ends_with("patch_embed.proj.weight") && other(&wanted) => {
                patches(tensor, &wanted, channels)?
            }
            // The first of several stages, as in ConvMAE and PVTv2.
            Some(wanted) if name.ends_with("patch_embed1.proj.weight") && other(&wanted) => {
                first_stage(tensor, &wanted, channels)?
            }
            Some(_) => None,
        };
        match changed {
            None => fitted.weights.insert(name, tensor.clone()),
            Some((how, changed)) => {
                let (from, to) = (tensor.dims(), changed.dims());
                fitted
                    .changes
                    .push(format!("{name}: {how}, {from:?} to {to:?}"));
                fitted.weights.insert(name, changed);
            }
        }
    }
    Ok(fitted)
}

/// Name of the relative position table shared by all blocks.
const SHARED_TABLE: &str = "rel_pos_bias.relative_position_bias_table";
/// Suffix of a block's own table.
const OWN_TABLE: &str = ".attn.relative_position_bias_table";

/// Copies the shared table to each block that has its own table in `store` but not in `weights`.
fn spread(weights: &WeightMap, store: &ParamStore, changes: &mut Vec<String>) -> WeightMap {
    let Some(table) = weights.get(SHARED_TABLE) else {
        return weights.clone();
    };
    let vars = store.vars().into_iter().map(|(name, _)| name);
    let blocks: Vec<String> = vars
        .filter(|name| name.ends_with(OWN_TABLE) && weights.get(name).is_none())
        .collect();
    if blocks.is_empty() || store.var(SHARED_TABLE).is_some() {
        return weights.clone();
    }
    changes.push(format!(
        "{SHARED_TABLE}: copied to each of {} blocks",
        blocks.len()
    ));
    let kept = weights.iter().filter(|(name, _)| *name != SHARED_TABLE);
    let kept = kept.map(|(name, tensor)| (name.to_owned(), tensor.clone()));
    kept.chain(blocks.into_iter().map(|name| (name, table.clone())))
        .collect()
}

type Changed = Option<(&'static str, Tensor)>;

fn square(tokens: usize) -> Option<PatchGrid> {
    let side = tokens.isqrt();
    (side > 0 && side * side == tokens).then(|| PatchGrid::new(side, side))
}

/// `grid` if it has `tokens` tokens, otherwise a square grid.
fn grid_of(tokens: usize, grid: Option<PatchGrid>) -> Option<PatchGrid> {
    grid.filter(|grid| grid.len() == tokens)
        .or_else(|| square(tokens))
}

/// Known facts about a position table.
struct Positions {
    /// Number of class tokens, which may have rows.
    classes: usize,
    grids: Grids,
    fixed: bool,
}

fn positions(table: &Tensor, wanted: &Tensor, known: &Positions) -> Result<Changed> {
    let (&[1, rows, dim], &[1, to_rows, to_dim]) = (table.dims(), wanted.dims()) else {
        return Ok(None);
    };
    if dim != to_dim {
        return Ok(None);
    }
    let from_to = [known.classes, 0].into_iter().find_map(|prefix| {
        let (tokens, to_tokens) = (rows.checked_sub(prefix)?, to_rows.checked_sub(prefix)?);
        let to = grid_of(to_tokens, known.grids.to)?;
        Some((prefix, grid_of(tokens, known.grids.from), tokens, to))
    });
    let Some((prefix, from, tokens, to)) = from_to else {
        return Ok(None);
    };
    Ok(match from {
        Some(from) if from == to => None,
        // A copy, since a parameter cannot be set to itself.
        _ if known.fixed => Some(("fixed positions recomputed", wanted.copy()?)),
        Some(from) => Some((
            "positions resized",
            resize_pos_embed(table, from, to, prefix)?,
        )),
        None if tokens == to.len() => Some((
            "positions used as they are, because nothing says which grid they were made for",
            table.clone(),
        )),
        None => None,
    })
}

fn relative(table: &Tensor, wanted: &Tensor, grids: Grids) -> Result<Changed> {
    let (&[rows, heads], &[to_rows, to_heads]) = (table.dims(), wanted.dims()) else {
        return Ok(None);
    };
    // The distances in a square window form an odd square; a class token adds three rows.
    let window = |rows: usize| {
        let extra = if rows.is_multiple_of(2) { 3 } else { 0 };
        let sides = square(rows.checked_sub(extra)?)?.rows;
        (!sides.is_multiple_of(2)).then(|| (sides.div_ceil(2), extra))
    };
    let distances = |grid: PatchGrid| (2 * grid.rows - 1) * (2 * grid.cols - 1) + 3;
    // Tables with three more rows belong to a whole grid, others to windows.
    let whole = grids.from.filter(|from| distances(*from) == rows);
    let known = whole.map(|from| (from, 3));
    let of_window = || window(rows).map(|(side, extra)| (PatchGrid::new(side, side), extra));
    let Some((from, extra)) = known.or_else(of_window) else {
        return Ok(None);
    };
    let to = match (grids.to, window(to_rows)) {
        (Some(grid), _) if extra == 3 && distances(grid) == to_rows => grid,
        (_, Some((side, same))) if same == extra => PatchGrid::new(side, side),
        _ => return Ok(None),
    };
    if heads != to_heads || from == to {
        return Ok(None);
    }
    let resized = resize_rel_pos_bias(table, from, to, extra)?;
    Ok(Some(("relative positions resized", resized)))
}

fn patches(weight: &Tensor, wanted: &Tensor, how: ChannelFit) -> Result<Changed> {
    let (&[dim, _, height, width], &[to_dim, channels, to, to_width]) =
        (weight.dims(), wanted.dims())
    else {
        return Ok(None);
    };
    if dim != to_dim || height != width || to != to_width || height == 0 || to == 0 {
        return Ok(None);
    }
    let changed = resize_patch_embed(&how.apply(weight, channels)?, to)?;
    Ok(Some(("kernels fitted", changed)))
}

fn first_stage(weight: &Tensor, wanted: &Tensor, how: ChannelFit) -> Result<Changed> {
    let (&[dim, _, height, width], &[to_dim, channels, to_height, to_width]) =
        (weight.dims(), wanted.dims())
    else {
        return Ok(None);
    };
    if (dim, height, width) != (to_dim, to_height, to_width) {
        return Ok(None);
    }
    let changed = how.apply(weight, channels)?;
    Ok(Some(("kernels fitted", changed)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoders::{RelPosBiasKind, Swin, SwinConfig, Vit, VitConfig};
    use crate::nn::PosEmbedKind;

    fn vit(
        image: impl Into<crate::ImageSize>,
        patch: usize,
        channels: usize,
        pos_embed: PosEmbedKind,
    ) -> ParamStore {
        let image = image.into();
        let store = ParamStore::cpu(image.height as u64);
        let config = VitConfig {
            image_size: image,
            patch_size: patch,
            in_channels: channels,
            embed_dim: 8,
            depth: 1,
            num_heads: 2,
            pos_embed,
            rel_pos_bias: RelPosBiasKind::PerBlock,
            ..VitConfig::default()
        };
        Vit::new(&store.root(), &config).unwrap();
        store
    }

    fn of(store: &ParamStore) -> WeightMap {
        let vars = store.vars().into_iter();
        vars.map(|(name, var)| (name, var.as_detached_tensor()))
            .collect()
    }

    #[test]
    fn other_sizes_are_fitted_and_equal_sizes_are_untouched() {
        let (from, to) = (
            vit(16, 4, 3, PosEmbedKind::Learned),
            vit(32, 8, 1, PosEmbedKind::Learned),
        );
        let weights = of(&from);
        assert!(
            fit(&weights, &from, Grids::default())
                .unwrap()
                .changes
                .is_empty()
        );
        let fitted = fit(&weights, &to, Grids::default()).unwrap();
        // The grids are the same: only the patches differ.
        assert_eq!(fitted.changes.len(), 1, "{:?}", fitted.changes);
        assert!(to.load(&weights).is_err());
        assert!(to.load(&fitted.weights).unwrap().is_complete());

        let wide = vit(24, 4, 3, PosEmbedKind::Learned);
        let square_to = Grids {
            to: Some(PatchGrid::new(6, 6)),
            ..Grids::default()
        };
        let fitted = fit(&weights, &wide, square_to).unwrap();
        assert_eq!(fitted.changes.len(), 2, "{:?}", fitted.changes);
        wide.load(&fitted.weights).unwrap();
    }

    #[test]
    fn fixed_positions_are_those_of_the_model() {
        let (from, to) = (
            vit(16, 4, 3, PosEmbedKind::Sincos),
            vit(24, 4, 3, PosEmbedKind::Sincos),
        );
        let own: Vec<f32> = to
            .var("pos_embed")
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap();
        to.load(&fit(&of(&from), &to, Grids::default()).unwrap().weights)
            .unwrap();
        let after: Vec<f32> = to
            .var("pos_embed")
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap();
        assert_eq!(own, after);
    }

    #[test]
    fn grids_of_as_many_tokens_are_told_apart() {
        for kind in [PosEmbedKind::Learned, PosEmbedKind::Sincos] {
            let learned = kind == PosEmbedKind::Learned;
            let sized = |height, width| crate::ImageSize { height, width };
            let (from, to) = (vit(sized(8, 16), 4, 3, kind), vit(sized(16, 8), 4, 3, kind));
            let table = |store: &ParamStore| -> Vec<f32> {
                let table = store.var("pos_embed").unwrap();
                table.flatten_all().unwrap().to_vec1().unwrap()
            };
            let names_positions =
                |changes: &[String]| changes.iter().any(|line| line.starts_with("pos_embed: "));
            let (theirs, own) = (table(&from), table(&to));
            let grids = |from: Option<(usize, usize)>| Grids {
                from: from.map(|(rows, cols)| PatchGrid::new(rows, cols)),
                to: Some(PatchGrid::new(4, 2)),
            };
            let fitted = fit(&of(&from), &to, grids(Some((2, 4)))).unwrap();
            assert!(names_positions(&fitted.changes), "{:?}", fitted.changes);
            to.load(&fitted.weights).unwrap();
            assert_ne!(table(&to), theirs);
            assert!(learned || table(&to) == own);
            // Nobody says which grid: fixed ones are computed, learned ones taken, and both are said.
            let fitted = fit(&of(&from), &to, grids(None)).unwrap();
            assert!(names_positions(&fitted.changes), "{:?}", fitted.changes);
            to.load(&fitted.weights).unwrap();
            assert_eq!(table(&to), if learned { theirs } else { own });
            let same = Grids {
                from: grids(None).to,
                ..grids(None)
            };
            assert!(fit(&of(&to), &to, same).unwrap().changes.is_empty());
        }
    }

    #[test]
    fn windows_of_swin_are_resized_and_other_widths_are_left_for_the_report() {
        let swin = |window: usize, dim: usize| {
            let store = ParamStore::cpu(window as u64);
            let config = SwinConfig {
                image_size: (window * 8).into(),
                embed_dim: dim,
                depths: vec![1, 1],
                num_heads: vec![1, 2],
                window_size: window,
                ..SwinConfig::default()
            };
            Swin::new(&store.root(), &config).unwrap();
            store
        };
        let (from, to) = (swin(2, 4), swin(3, 4));
        let fitted = fit(&of(&from), &to, Grids::default()).unwrap();
        assert_eq!(fitted.changes.len(), 2, "{:?}", fitted.changes);
        to.load(&fitted.weights).unwrap();
        let other = swin(3, 8);
        let fitted = fit(&of(&from), &other, Grids::default()).unwrap();
        let error = other.load(&fitted.weights).unwrap_err().to_string();
        assert!(error.contains("another shape"), "{error}");
    }
}
