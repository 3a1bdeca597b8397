//! A custom masker in MAE: it hides neighbouring columns of patches.
//!
//! `cargo run --release --example 04_own_masker`

#![allow(clippy::print_stdout, reason = "an example prints its results")]

use mim::prelude::*;

/// Hides `hidden` neighbouring columns of patches, drawn for each image.
struct ColumnMasker {
    hidden: usize,
}

impl Masker for ColumnMasker {
    fn sample(&self, rq: &MaskRequest<'_>, rng: &mut dyn Rng) -> Result<Mask> {
        let mut bits = Vec::with_capacity(rq.images * rq.grid.len());
        for _ in 0..rq.images {
            let first = rng.random_range(0..rq.grid.cols);
            let column = |id: usize| (id + first) % rq.grid.cols;
            bits.extend((0..rq.grid.len()).map(|id| u8::from(column(id) < self.hidden)));
        }
        Mask::from_bits(rq.grid, &bits)
    }
}

fn main() -> Result<()> {
    let config = MaeConfig {
        encoder: VitConfig::small(),
        decoder: MaeDecoderConfig::small(),
        ..MaeConfig::default()
    };
    let student = ParamStore::new(&Device::Cpu, 0, config.init());
    let method = config
        .build(&student)?
        .with_masker(ColumnMasker { hidden: 5 })?;
    println!("losses {:.3?}", first_losses(&method, 4)?);
    Ok(())
}
