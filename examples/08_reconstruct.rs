//! Draws original, masked and reconstructed images of a tiny MAE, before and after a few steps.
//!
//! `cargo run --release --example 08_reconstruct`

#![allow(clippy::print_stdout, reason = "an example prints its results")]

use mim::prelude::*;

fn main() -> Result<()> {
    let config = MaeConfig {
        norm: Norm::uniform(0.286, 0.353, 1),
        views: Some(ViewPlan::default()),
        encoder: VitConfig {
            image_size: 28.into(),
            patch_size: 4,
            in_channels: 1,
            embed_dim: 64,
            depth: 2,
            num_heads: 4,
            ..VitConfig::default()
        },
        decoder: MaeDecoderConfig {
            embed_dim: 32,
            depth: 1,
            num_heads: 4,
            ..MaeDecoderConfig::default()
        },
        ..MaeConfig::default()
    };
    let student = ParamStore::new(&Device::Cpu, 0, config.init());
    let method = config.build(&student)?;
    let folder = std::env::temp_dir().join(format!("mim-reconstruct-{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;

    let images = DataSource::Embedded.open(Split::Train)?;
    let loading = LoaderConfig {
        batch_size: 50,
        ..LoaderConfig::default()
    };
    let loader = Loader::new(images, method.views(0), loading, 0)?;
    let mut stepper = Stepper::new(&method, AdamWConfig::default(), Clip::None)?;
    draw(&method, &loader, &folder.join("before.png"))?;
    let iters_per_epoch = loader.iterations();
    for epoch in 0..3 {
        for (iter, batch) in loader.epoch(epoch, 0)?.enumerate() {
            let step = StepContext {
                epoch,
                iter,
                iters_per_epoch,
                ..StepContext::new(0)
            };
            stepper.step(&method, &[batch?], &step, 2e-3)?;
        }
    }
    draw(&method, &loader, &folder.join("after.png"))
}

/// Saves a picture of the first images and prints how far the reconstruction is off.
fn draw(method: &dyn Method, loader: &Loader, path: &std::path::Path) -> Result<()> {
    for batch in loader.sequential()?.take(1) {
        let drawn = method.reconstruct(&batch?, &StepContext::inference())?;
        let error = (&drawn.reconstruction - &drawn.original)?
            .abs()?
            .mean_all()?;
        save_png(&reconstruction_grid(&drawn, 4, 2)?, path)?;
        println!(
            "{}: {:?}, mean absolute error {:.4}",
            path.display(),
            drawn.reconstruction.dims(),
            error.to_scalar::<f32>()?
        );
    }
    Ok(())
}
