//! A custom target: the mean colour of each hidden patch.
//!
//! `cargo run --release --example 05_own_target`

#![allow(clippy::print_stdout, reason = "an example prints its results")]

use mim::prelude::*;

/// The mean of each channel over each patch, `[batch, patches, channels]`.
struct MeanColour;

impl TargetGenerator for MeanColour {
    fn generate(&self, rq: &TargetRequest<'_>) -> Result<Target> {
        let (height, width) = rq.batch.view(0)?.size();
        let patch = (height / rq.grid.rows, width / rq.grid.cols);
        let means = rq.batch.view(0)?.unit()?.avg_pool2d(patch)?;
        Ok(Target::patches(means.flatten_from(2)?.transpose(1, 2)?))
    }
}

fn main() -> Result<()> {
    let student = ParamStore::new(&Device::Cpu, 0, Init::Mae.build(4 * 4 * 3));
    let (params, vit) = (student.root(), VitConfig::small());
    let shape = DecoderShape::new(vit.grid()?, vit.embed_dim, 3);
    let light = MaeDecoderConfig::small();
    let decoder = MaeDecoder::new(&params, &light, shape)?;
    let masker = RandomMaskerConfig::default().build()?;
    let mse = RegressionConfig::default().build()?;
    let encoder = Vit::new(&params, &vit)?;
    let method = Composite::builder("mean_colour", &student, encoder, masker, MaskMode::Drop)
        .input(32, Norm::imagenet(), ViewPlan::mae(32))
        .target("colour", MeanColour)
        .branch(("colour", "colour"), decoder, mse, Schedule::constant(1.))
        .build()?;
    println!("losses {:.3?}", first_losses(&method, 4)?);
    Ok(())
}
