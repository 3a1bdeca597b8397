//! SIM's predictor: predicts one view of an image from another.

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::nn::{
    Block, BlockConfig, LayerNorm, Linear, NormKind, PosEmbed, PosEmbedKind, QkvBias, RelativeGrid,
};
use crate::params::Params;
use crate::{
    Batch, DecodeContext, Decoder, Error, Mask, PatchGrid, Prediction, Result, Rows, View, ops,
};

/// Epsilon of the norm on the prediction.
const OUTPUT_NORM_EPS: f64 = 1e-5;

/// Settings of [`RelativePredictor`]; `Default` is SIM's at every encoder size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RelativePredictorConfig {
    /// Index of the predicted view. Default 1.
    pub view: usize,
    /// Number of blocks. Default 4.
    pub depth: usize,
    /// Attention heads. Default 16.
    pub num_heads: usize,
    /// Hidden width of a block's MLP as a multiple of the token width. Default 4.
    pub mlp_ratio: f64,
    /// Norms of the blocks. Default `batch_norm`.
    pub norm: NormKind,
    /// Epsilon of the norms. Default 1e-5, for batch norm.
    pub norm_eps: f64,
    /// Positions added to the visible tokens. Default `sincos_row_first`.
    pub pos_embed: PosEmbedKind,
    /// Whether the prediction passes a layer norm without training. Default false.
    pub output_norm: bool,
}

impl Default for RelativePredictorConfig {
    fn default() -> Self {
        Self {
            view: 1,
            depth: 4,
            num_heads: 16,
            mlp_ratio: 4.,
            norm: NormKind::BatchNorm,
            norm_eps: 1e-5,
            pos_embed: PosEmbedKind::SincosRowFirst,
            output_norm: false,
        }
    }
}

/// Predicts all patches of another view from the visible patches of view 0 (Tao et al., CVPR 2023, Sec. 3.2).
///
/// Each of its patches is a mask token plus an embedding of its position and size relative to view 0
/// ([`RelativeGrid`]). The predicted rows belong to the other view. It has the grid of view 0,
/// but the mask does not apply to it, so an objective must use all rows.
#[derive(Debug, Clone)]
pub struct RelativePredictor {
    view: usize,
    dim: usize,
    pos_embed: Option<PosEmbed>,
    pos_mlp: Linear,
    mask_token: Tensor,
    blocks: Vec<Block>,
    pred: Linear,
    norm: Option<LayerNorm>,
}

impl RelativePredictor {
    /// Parameters `decoder_pos_embed`, `decoder_pos_mlp`, `mask_token`, `predictor_decoder_blocks.N`,
    /// `decoder_pred` and, with `output_norm`, `student_norm`; `dim` is the encoder's width.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a setting is invalid.
    pub fn new(
        params: &Params,
        config: &RelativePredictorConfig,
        grid: PatchGrid,
        dim: usize,
    ) -> Result<Self> {
        let block = BlockConfig {
            dim,
            num_heads: config.num_heads,
            mlp_ratio: config.mlp_ratio,
            qkv_bias: QkvBias::Full,
            norm: config.norm,
            norm_eps: config.norm_eps,
            layer_scale_init: None,
            drop_path: 0.,
        };
        block.validate("predictor")?;
        if !dim.is_multiple_of(4) {
            let why = "sines and cosines of four numbers need a multiple of 4";
            let fix = "use such a width for the encoder's tokens";
            return Err(Error::config("predictor", "embed_dim", dim, why, fix));
        }
        let blocks = params.pp("predictor_decoder_blocks");
        let places = (grid, 1);
        Ok(Self {
            view: config.view,
            dim,
            pos_embed: PosEmbed::new(params, "decoder_pos_embed", config.pos_embed, dim, places)?,
            pos_mlp: Linear::new(&params.pp("decoder_pos_mlp"), 2 * dim, dim)?,
            mask_token: params.weight(&[1, 1, dim], "mask_token")?,
            blocks: (0..config.depth)
                .map(|index| Block::new(&blocks.pp(index), &block, 0))
                .collect::<Result<_>>()?,
            pred: Linear::new(&params.pp("decoder_pred"), dim, dim)?,
            norm: config
                .output_norm
                .then(|| LayerNorm::frozen(&params.pp("student_norm"), dim, OUTPUT_NORM_EPS))
                .transpose()?,
        })
    }

    /// The encoder's tokens plus their positions in view 0.
    fn known(&self, cx: &DecodeContext<'_>) -> Result<Tensor> {
        let (tokens, prefix) = (&cx.encoded.tokens, cx.encoded.prefix);
        let ids = cx.mask.ids_keep(tokens.device())?;
        let (rows, visible) = ids.dims2()?;
        if tokens.dims() != [rows, prefix + visible, self.dim] {
            return Err(Error::shape(
                "predictor input",
                [rows, prefix + visible, self.dim],
                tokens.dims(),
                "let the encoder drop hidden patches (MaskMode::Drop)",
            ));
        }
        let Some(table) = &self.pos_embed else {
            return Ok(tokens.clone());
        };
        let patches = table.select(cx.mask, &ids)?;
        if prefix == 0 {
            return Ok((tokens + patches)?);
        }
        let class = table.prefix()?.broadcast_as((rows, prefix, self.dim))?;
        Ok((tokens + Tensor::cat(&[&class, &patches], 1)?)?)
    }

    /// For each image, the grid of the predicted view relative to view 0.
    fn grids(&self, batch: &Batch, mask: &Mask) -> Result<Vec<RelativeGrid>> {
        let (first, second) = (batch.view(0)?, batch.view(self.view)?);
        if first.size() != second.size() {
            return Err(Error::shape(
                format!("pixels of view {}", self.view),
                format!("{:?}, as view 0", first.size()),
                format!("{:?}", second.size()),
                "give both views the same size",
            ));
        }
        let (from, to) = (crops(first, 0)?, crops(second, self.view)?);
        let pairs = from.iter().zip(to);
        pairs
            .map(|(from, to)| RelativeGrid::new(from, to, mask.grid()))
            .collect()
    }

    /// Embeddings of relative position and size for the mask tokens, `[mask rows, tokens, dim]`.
    fn relative(&self, cx: &DecodeContext<'_>, device: &Device) -> Result<Tensor> {
        let grids = self.grids(cx.batch, cx.mask)?;
        let (images, tokens) = (grids.len(), cx.mask.grid().len());
        trace_places(&grids, cx)?;
        let mut values = Vec::with_capacity(images * tokens * 2 * self.dim);
        for grid in &grids {
            grid.append_sincos(self.dim, &mut values);
        }
        let waves = ops::upload(values, (images, tokens, 2 * self.dim), device)?;
        cx.step.trace("rel_sincos", || Ok(waves.clone()))?;
        let embedded = self.pos_mlp.forward(&waves)?;
        cx.step.trace("rel_embed", || Ok(embedded.clone()))?;
        match cx.mask.copies(images)? {
            1 => Ok(embedded),
            copies => Ok(Tensor::cat(&vec![&embedded; copies], 0)?),
        }
    }
}

/// One crop per image.
fn crops(view: &View, index: usize) -> Result<&[crate::Crop]> {
    if view.crops.len() == view.len() {
        return Ok(&view.crops);
    }
    Err(Error::shape(
        format!("crops of view {index}"),
        format!("one crop for each of the {} images", view.len()),
        view.crops.len(),
        "use the view plan of the method, or pass the crops to View::new",
    ))
}

/// Row and column of each patch as `rel_grid_h`, `rel_grid_w`, `[images, tokens]`.
fn trace_places(grids: &[RelativeGrid], cx: &DecodeContext<'_>) -> Result<()> {
    let PatchGrid { rows, cols } = cx.mask.grid();
    let table = |values: Vec<f32>| -> Result<Tensor> {
        let device = cx.encoded.tokens.device();
        Ok(Tensor::from_vec(
            values,
            (grids.len(), rows * cols),
            device,
        )?)
    };
    cx.step.trace("rel_grid_h", || {
        let each = grids.iter().flat_map(|grid| &grid.rows);
        table(each.flat_map(|row| vec![*row; cols]).collect())
    })?;
    cx.step.trace("rel_grid_w", || {
        let each = grids.iter().flat_map(|grid| grid.cols.repeat(rows));
        table(each.collect())
    })
}

impl Decoder for RelativePredictor {
    fn decode(&self, cx: &DecodeContext<'_>) -> Result<Prediction> {
        let known = self.known(cx)?;
        let relative = self.relative(cx, known.device())?;
        let wanted = relative.broadcast_add(&self.mask_token)?;
        let xs = Tensor::cat(&[&known, &wanted], 1)?;
        cx.step.trace("decoder_in", || Ok(xs.clone()))?;
        let patches = Block::run(&self.blocks, xs, known.dim(1)?, cx.step)?;
        let mut values = self.pred.forward(&patches.contiguous()?)?;
        cx.step.trace("pred", || Ok(values.clone()))?;
        if let Some(norm) = &self.norm {
            values = norm.forward(&values)?;
        }
        Ok(Prediction {
            values,
            rows: Rows::Patches,
            grid: cx.mask.grid(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Crop, Encoded, ParamStore, StepContext};

    const GRID: PatchGrid = PatchGrid { rows: 2, cols: 3 };

    fn predictor(config: &RelativePredictorConfig) -> (ParamStore, RelativePredictor) {
        let store = ParamStore::cpu(0);
        let built = RelativePredictor::new(&store.root(), config, GRID, 8).unwrap();
        (store, built)
    }

    fn tiny() -> RelativePredictorConfig {
        RelativePredictorConfig {
            depth: 1,
            num_heads: 2,
            norm: NormKind::LayerNorm,
            ..RelativePredictorConfig::default()
        }
    }

    fn view(size: (usize, usize), crops: &[f32]) -> View {
        let pixels = Tensor::zeros((2, 3, size.0, size.1), candle_core::DType::U8, &Device::Cpu);
        let crop = |left: &f32| Crop {
            left: *left,
            width: 20.,
            ..Crop::whole((20, 30))
        };
        View::new(pixels.unwrap(), crops.iter().map(crop).collect()).unwrap()
    }

    fn batch(views: Vec<View>) -> Batch {
        Batch {
            views: views.clone(),
            ..Batch::single(views[0].clone())
        }
    }

    fn two_views() -> Batch {
        batch(vec![view((4, 6), &[0., 5.]), view((4, 6), &[3., 10.])])
    }

    fn predict(
        predictor: &RelativePredictor,
        batch: &Batch,
        mask: &Mask,
        tokens: &Tensor,
    ) -> Result<Tensor> {
        let encoded = Encoded {
            tokens: tokens.clone(),
            prefix: 1,
            layers: vec![],
            cls_attention: None,
            grid: GRID,
        };
        let cx = DecodeContext {
            encoded: &encoded,
            mask,
            batch,
            step: &StepContext::new(0),
        };
        let prediction = predictor.decode(&cx)?;
        assert_eq!(prediction.rows, Rows::Patches);
        Ok(prediction.values)
    }

    fn mask() -> Mask {
        Mask::from_bits(GRID, &[1, 0, 1, 1, 0, 1, 0, 1, 1, 0, 1, 1]).unwrap()
    }

    fn tokens(rows: usize) -> Tensor {
        let values = Tensor::arange(0f32, (rows * 24) as f32, &Device::Cpu);
        values
            .unwrap()
            .sin()
            .unwrap()
            .reshape((rows, 3, 8))
            .unwrap()
    }

    fn flat(xs: &Tensor) -> Vec<f32> {
        xs.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn gradients_arrive_except_at_the_frozen_norm() {
        let (store, predictor) = predictor(&RelativePredictorConfig {
            output_norm: true,
            ..tiny()
        });
        let values = predict(&predictor, &two_views(), &mask(), &tokens(2)).unwrap();
        assert_eq!(values.dims(), [2, 6, 8]);
        let weighted = (&values * values.detach().sin().unwrap()).unwrap();
        let grads = weighted.sum_all().unwrap().backward().unwrap();
        let trainable = store.trainable();
        assert!(
            trainable
                .iter()
                .all(|(name, _)| !name.starts_with("student_norm"))
        );
        for (name, var) in trainable {
            assert!(grads.get(&var).is_some(), "{name}");
        }
        // The frozen norm has weight one and bias zero.
        let mean = values.mean(2).unwrap();
        assert!(flat(&mean).iter().all(|mean| mean.abs() < 1e-5));
    }

    #[test]
    fn token_order_does_not_matter_but_crops_do() {
        let (_, predictor) = predictor(&tiny());
        let one = Mask::new(GRID, vec![1, 4, 0, 2, 3, 5, 0, 3, 1, 2, 4, 5], vec![2, 2]).unwrap();
        let other = Mask::new(GRID, vec![4, 1, 0, 2, 3, 5, 3, 0, 1, 2, 4, 5], vec![2, 2]).unwrap();
        let tokens = tokens(2);
        let swapped = Tensor::new(&[0u32, 2, 1], &Device::Cpu).unwrap();
        let swapped = tokens.index_select(&swapped, 1).unwrap();
        let first = flat(&predict(&predictor, &two_views(), &one, &tokens).unwrap());
        let same = flat(&predict(&predictor, &two_views(), &other, &swapped).unwrap());
        for (a, b) in first.iter().zip(&same) {
            assert!((a - b).abs() < 1e-5, "{a} against {b}");
        }
        let moved = batch(vec![view((4, 6), &[0., 5.]), view((4, 6), &[4., 10.])]);
        let moved = flat(&predict(&predictor, &moved, &one, &tokens).unwrap());
        assert!((0..48).any(|at| (first[at] - moved[at]).abs() > 1e-3));
        assert_eq!(first[48..], moved[48..]);
    }

    #[test]
    fn several_masks_of_an_image_share_its_crops() {
        let (_, predictor) = predictor(&tiny());
        let bits = mask().to_bits();
        let twice = Mask::from_bits(GRID, &[bits.clone(), bits].concat()).unwrap();
        let tokens = tokens(2);
        let both = Tensor::cat(&[&tokens, &tokens], 0).unwrap();
        let values = predict(&predictor, &two_views(), &twice, &both).unwrap();
        let once = flat(&predict(&predictor, &two_views(), &mask(), &tokens).unwrap());
        for (both, once) in flat(&values).iter().zip([once.clone(), once].concat()) {
            assert!((both - once).abs() < 1e-5, "{both} against {once}");
        }
    }

    #[test]
    fn bad_batches_are_named() {
        let (_, predictor) = predictor(&tiny());
        let (good, bare) = (view((4, 6), &[0., 5.]), view((4, 6), &[]));
        for (views, part) in [
            (vec![bare.clone(), good.clone()], "crops of view 0"),
            (vec![good.clone(), bare], "crops of view 1"),
            (
                vec![good.clone(), view((4, 8), &[0., 5.])],
                "pixels of view 1",
            ),
            (vec![good.clone()], "at least 2 views"),
        ] {
            let error = predict(&predictor, &batch(views), &mask(), &tokens(2)).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
        }
        let all = Tensor::zeros((2, 7, 8), candle_core::DType::F32, &Device::Cpu).unwrap();
        let error = predict(&predictor, &two_views(), &mask(), &all).unwrap_err();
        assert!(error.to_string().contains("drop hidden patches"), "{error}");
    }

    #[test]
    fn refuses_widths_that_do_not_divide() {
        let store = ParamStore::cpu(0);
        for (dim, field) in [(9, "num_heads"), (6, "embed_dim")] {
            let error = RelativePredictor::new(&store.root(), &tiny(), GRID, dim).unwrap_err();
            assert!(error.to_string().contains(field), "{error}");
        }
    }
}
