//! A masker of one's own, in place of MAE's random one: a window of the image is hidden.
//!
//! `cargo run --release --example 07_own_masker`

#![allow(clippy::print_stdout, reason = "an example prints its results")]

use mim::prelude::*;

/// Hides a square window of `side` x `side` patches at a random place of each image.
struct WindowMasker {
    side: usize,
}

impl Masker for WindowMasker {
    fn sample(&self, rq: &MaskRequest<'_>, rng: &mut dyn Rng) -> Result<Mask> {
        let PatchGrid { rows, cols } = rq.grid;
        if self.side >= rows.min(cols) {
            return Err(Error::config(
                "window masker",
                "side",
                self.side,
                format!("the grid is only {}", rq.grid),
                "choose a smaller window",
            ));
        }
        let mut bits = Vec::with_capacity(rq.images * rq.grid.len());
        for _ in 0..rq.images {
            let top = rng.random_range(0..=rows - self.side);
            let left = rng.random_range(0..=cols - self.side);
            let inside = |from: usize, at: usize| (from..from + self.side).contains(&at);
            bits.extend((0..rows * cols).map(|id| {
                let (row, col) = (id / cols, id % cols);
                u8::from(inside(top, row) && inside(left, col))
            }));
        }
        Mask::from_bits(rq.grid, &bits)
    }
}

fn main() -> Result<()> {
    let config = MaeConfig {
        encoder: VitConfig {
            image_size: 32.into(),
            patch_size: 4,
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
    let mut method = config.build(&student)?;
    method.masker = Box::new(WindowMasker { side: 5 });

    let loading = LoaderConfig {
        batch_size: 16,
        ..LoaderConfig::default()
    };
    let images = DataSource::Embedded.open(Split::Train)?;
    let mut batches = Loader::new(images, method.views(0), loading, 0)?.epoch(0, 0)?;
    if let Some(batch) = batches.next() {
        let batch = batch?;
        println!("images {:?}", batch.view(0)?.pixels().dims());
        let loss = method.forward(&batch, &StepContext::new(0))?.total()?;
        println!(
            "loss of the hidden windows: {:.4}",
            loss.to_scalar::<f32>()?
        );
    }
    Ok(())
}
