//! A custom decoder: it predicts each hidden patch from the mean of the visible tokens.
//!
//! `cargo run --release --example 06_own_decoder`

#![allow(clippy::print_stdout, reason = "an example prints its results")]

use mim::core::nn::Linear;
use mim::prelude::*;

/// One affine map of the mean visible token, the same for all patches of an image.
struct MeanDecoder(Linear);

impl Decoder for MeanDecoder {
    fn decode(&self, cx: &DecodeContext<'_>) -> Result<Prediction> {
        let mean = self.0.forward(&cx.encoded.patches()?.mean_keepdim(1)?)?;
        let (grid, rows) = (cx.mask.grid(), Rows::Patches);
        let values = mean.repeat((1, grid.len(), 1))?;
        Ok(Prediction { values, rows, grid })
    }
}

fn main() -> Result<()> {
    let student = ParamStore::new(&Device::Cpu, 0, Init::Mae.build(4 * 4 * 3));
    let (params, vit) = (student.root(), VitConfig::small());
    let head = Linear::new(&params.pp("head"), vit.embed_dim, vit.patch_values())?;
    let masker = RandomMaskerConfig::default().build()?;
    let (mse, weight) = (RegressionConfig::default(), Schedule::constant(1.));
    let encoder = Vit::new(&params, &vit)?;
    let method = Composite::builder("mean", &student, encoder, masker, MaskMode::Drop)
        .input(32, Norm::imagenet(), ViewPlan::mae(32))
        .target("pixels", PixelTargetConfig::default().build()?)
        .branch(("pixel", "pixels"), MeanDecoder(head), mse.build()?, weight)
        .build()?;
    println!("losses {:.3?}", first_losses(&method, 4)?);
    Ok(())
}
