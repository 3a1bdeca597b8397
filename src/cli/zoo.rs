//! `mim zoo`.

use std::process::ExitCode;

use crate::zoo::{self, Home, ZOO};
use mim_core::Result;

/// Settings of `mim zoo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// An entry [default: all].
    name: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let entries = match &args.name {
        Some(name) => std::slice::from_ref(zoo::named(name)?),
        None => ZOO,
    };
    for entry in entries {
        println!("{}", entry.path());
        match entry.home {
            Home::Hub(repository) => println!("  weights    hf:{repository}"),
            Home::Page(address) => {
                println!(
                    "  weights    {address} (not on the Hub: download them and give their PATH)"
                )
            }
        }
        println!("  model      {}, {}", entry.method, entry.arch);
        println!("  names      {}", entry.source);
        println!("  licence    {}", entry.licence);
        let norm = entry.images.norm();
        let order = if norm.reverse_channels {
            ", blue first"
        } else {
            ""
        };
        println!(
            "  images     mean {:?}, std {:?}{order}",
            norm.mean, norm.std
        );
        match entry.norm_pix_loss {
            Some(true) => println!("  target     pixels, normalised in each patch"),
            Some(false) => println!("  target     pixels"),
            None => {}
        }
        if !entry.numbers.is_empty() {
            println!("  ImageNet   {}", entry.numbers);
        }
    }
    Ok(ExitCode::SUCCESS)
}
