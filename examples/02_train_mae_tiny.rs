//! Trains a tiny MAE on the embedded images for a few epochs, with the loop that `mim pretrain` uses.
//!
//! `cargo run --release --example 02_train_mae_tiny`

#![allow(clippy::print_stdout, reason = "an example prints its results")]

use mim::prelude::*;

/// Prints the loss of each epoch.
struct Print;

impl Observer for Print {
    fn epoch(&mut self, record: &EpochRecord) {
        println!("epoch {}: loss {:.3}", record.epoch + 1, record.train_loss);
    }
}

fn main() -> Result<()> {
    let config = MaeConfig {
        norm: Norm::uniform(0.286, 0.353, 1),
        views: Some(ViewPlan::single(vec![Augment::HorizontalFlip(
            HorizontalFlip::default(),
        )])),
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
    println!("{} parameters", student.trainable_values());

    let train = TrainConfig {
        epochs: 4,
        batch_size: 100,
        lr: Some(2e-3),
        lr_schedule: Schedule::constant(1.),
        ..TrainConfig::default()
    };
    // The run folder gets a log, TensorBoard events and checkpoints.
    let folder = std::env::temp_dir().join(format!("mim-train-{}", std::process::id()));
    let data = (
        DataSource::Embedded.open(Split::Train)?,
        LoaderConfig::default(),
    );
    let mut trainer = Trainer::new(Box::new(method), data, train, &folder)?;
    trainer.train(&mut Print)?;

    let encoder = trainer
        .method()
        .encoder()
        .ok_or_else(|| Error::unsupported("features", "MAE has an encoder", "report this"))?;
    let images = Tensor::zeros((1, 1, 28, 28), DType::F32, &Device::Cpu)?;
    let step = StepContext::inference();
    let features = encoder.encode(&images, Masking::None, &EncodeOptions::default(), &step)?;
    println!("features of one image: {:?}", features.tokens.dims());
    std::fs::remove_dir_all(&folder).map_err(Error::io("remove", &folder))?;
    Ok(())
}
