//! A custom method: blocks of patches are hidden. One branch predicts their pixels, another one the features that a
//! momentum copy of the encoder has there.
//!
//! `cargo run --release --example 03_compose_a_method`

#![allow(clippy::print_stdout, reason = "an example prints its results")]

use mim::prelude::*;

/// Target: the tokens that another encoder sees in the whole image.
struct TeacherTokens(Vit);

impl TargetGenerator for TeacherTokens {
    fn generate(&self, rq: &TargetRequest<'_>) -> Result<Target> {
        let images = rq.batch.view(0)?.normalized(&Norm::imagenet())?;
        let want = EncodeOptions::default();
        let seen = self.0.encode(&images, Masking::None, &want, rq.step)?;
        Ok(Target::patches(seen.patches()?))
    }
}

fn compose(student: &ParamStore) -> Result<Composite> {
    let (mut vit, mut light) = (VitConfig::arch("vit_tiny")?, MaeDecoderConfig::default());
    (vit.image_size, vit.patch_size, vit.depth) = (32.into(), 4, 2);
    (light.embed_dim, light.depth, light.num_heads) = (64, 1, 4);
    let encoder = Vit::new(&student.root(), &vit)?;
    let masker = BlockwiseMaskerConfig {
        hidden: HiddenCount::Ratio { ratio: 0.6 },
        when_stuck: OnStuck::Retry,
        ..BlockwiseMaskerConfig::default()
    };

    // A teacher is the same constructor on another store. It starts as a copy of the student and follows it.
    let teacher = ParamStore::teacher(student.device());
    let momentum_encoder = Vit::new(&teacher.root(), &vit)?;
    let momentum = Schedule::constant(0.99);
    let ema = Ema::new(
        student,
        &teacher,
        momentum,
        EmaTiming::AfterStep,
        EmaStart::Copy,
    )?;

    let decoder = |branch: &str, outputs: usize| {
        let params = student.root().pp(branch);
        let shape = DecoderShape::new(vit.grid()?, vit.embed_dim, outputs);
        MaeDecoder::new(&params, &light, shape)
    };
    let pixels = decoder("pixel", vit.patch_values())?;
    let tokens = decoder("token", vit.embed_dim)?;
    let mse = RegressionConfig::default().build()?;
    let smooth_l1 = RegressionConfig::smooth_l1(2.).build()?;
    let weight = Schedule::constant;

    let parts = Composite::builder("blocks", student, encoder, masker.build()?, MaskMode::Drop);
    parts
        .input(32, Norm::imagenet(), ViewPlan::mae(32))
        .target("pixels", PixelTargetConfig::default().build()?)
        .target("tokens", TeacherTokens(momentum_encoder))
        .branch(("pixel", "pixels"), pixels, mse, weight(1.))
        .branch(("token", "tokens"), tokens, smooth_l1, weight(0.5))
        .teacher("teacher", &teacher, ema)
        .build()
}

fn main() -> Result<()> {
    let student = ParamStore::new(&Device::Cpu, 0, Init::Mae.build(4 * 4 * 3));
    let method = compose(&student)?;
    let mut stepper = Stepper::new(&method, AdamWConfig::default(), Clip::None)?;
    let images = DataSource::Embedded.open(Split::Train)?;
    let loader = Loader::new(images, method.views(0), LoaderConfig::default(), 0)?;
    for (iter, batch) in loader.epoch(0, 0)?.take(8).enumerate() {
        let iters_per_epoch = loader.iterations();
        let step = StepContext {
            iter,
            iters_per_epoch,
            ..StepContext::new(0)
        };
        let batch = [batch?];
        let report = stepper.step(&method, &batch, &step, 1e-3)?;
        let images = batch[0].view(0)?.pixels().dims();
        println!("{images:?}, loss {:.3}", report.loss);
    }
    Ok(())
}
