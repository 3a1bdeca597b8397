//! `mim zoo`.

use std::process::ExitCode;

use mim::zoo::ZOO;
use mim_core::Result;

pub(crate) fn run() -> Result<ExitCode> {
    for entry in ZOO {
        println!("{}", entry.name);
        println!("  weights    {}", entry.home);
        println!("  model      {}, {}", entry.method, entry.arch);
        println!("  licence    {}", entry.licence);
        let norm = entry.normalisation();
        println!("  images     mean {:?}, std {:?}", norm.mean, norm.std);
        if !entry.numbers.is_empty() {
            println!("  ImageNet   {}", entry.numbers);
        }
        println!(
            "  load       mim pretrain --init PATH --init-source {}",
            entry.source
        );
    }
    Ok(ExitCode::SUCCESS)
}
