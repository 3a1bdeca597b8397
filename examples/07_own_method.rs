//! A custom method: it predicts the features that a momentum copy of the encoder has in hidden blocks.
//!
//! `cargo run --release --example 07_own_method`

#![allow(clippy::print_stdout, reason = "an example prints its results")]

use mim::prelude::*;

fn main() -> Result<()> {
    let student = ParamStore::new(&Device::Cpu, 0, Init::Mae.build(4 * 4 * 3));
    let teacher = ParamStore::teacher(&Device::Cpu);
    let (vit, light) = (VitConfig::small(), MaeDecoderConfig::small());
    let encoder = Vit::new(&student.root(), &vit)?;
    let copy = Vit::new(&teacher.root(), &vit)?;
    let (keep, when) = (Schedule::constant(0.99), EmaTiming::AfterStep);
    let ema = Ema::new(&student, &teacher, keep, when, EmaStart::Copy)?;
    let masker = BlockwiseMaskerConfig {
        hidden: HiddenCount::Ratio { ratio: 0.6 },
        min_block: 4,
        when_stuck: OnStuck::Retry,
        ..BlockwiseMaskerConfig::default()
    };
    let features = FeatureTarget::new(copy, FeatureTargetConfig::default())?;
    let shape = DecoderShape::new(vit.grid()?, vit.embed_dim, vit.embed_dim);
    let decoder = MaeDecoder::new(&student.root(), &light, shape)?;
    let (loss, weight) = (RegressionConfig::smooth_l1(2.), Schedule::constant(1.));
    let (masker, mode) = (masker.build()?, MaskMode::Drop);
    let method = Composite::builder("blocks", &student, encoder, masker, mode)
        .input(32, Norm::imagenet(), ViewPlan::mae(32))
        .target("features", features)
        .branch(("feature", "features"), decoder, loss.build()?, weight)
        .teacher("teacher", &teacher, ema)
        .build()?;
    println!("losses {:.3?}", first_losses(&method, 4)?);
    Ok(())
}
