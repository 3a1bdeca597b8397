//! Which patches the maskers hide: the same 8 x 8 grid under the rules of MAE, SimMIM and BEiT.
//!
//! `cargo run --release --example 01_mask_an_image`

#![allow(clippy::print_stdout, reason = "an example prints its results")]

use mim::prelude::*;

fn main() -> Result<()> {
    let grid = PatchGrid::new(8, 8);
    let maskers: [(&str, Box<dyn Masker>); 3] = [
        (
            "random patches (MAE)",
            Box::new(RandomMaskerConfig { mask_ratio: 0.75 }.build()?),
        ),
        (
            "cells of 2 x 2 patches (SimMIM)",
            Box::new(CellMaskerConfig::default().build()?),
        ),
        (
            "blocks (BEiT)",
            Box::new(
                BlockwiseMaskerConfig {
                    hidden: HiddenCount::Ratio { ratio: 0.4 },
                    min_block: 6,
                    ..BlockwiseMaskerConfig::default()
                }
                .build()?,
            ),
        ),
    ];
    // Everything random follows from the step: the same seed gives the same mask.
    let step = StepContext::new(7);
    for (name, masker) in maskers {
        let request = MaskRequest {
            images: 4,
            grid,
            guide: Guide::None,
            step: &step,
        };
        let mask = masker.sample(&request, &mut step.rng(Purpose::Mask, 0))?;
        println!("{name}: {} masks, the first:", mask.rows());
        for row in mask.to_bits()[..grid.len()].chunks(grid.cols) {
            let line: String = row
                .iter()
                .map(|&bit| if bit == 1 { " #" } else { " ." })
                .collect();
            println!(" {line}");
        }
        let hidden = mask.bits(&Device::Cpu)?;
        println!(
            "  bits {:?}, {:.1} % hidden\n",
            hidden.dims(),
            100. * hidden.mean_all()?.to_scalar::<f32>()?
        );
    }
    Ok(())
}
