//! `mim methods`.

use std::process::ExitCode;

use mim_core::Result;
use mim_methods::registry::{method, methods};

/// Settings of `mim methods`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A method [default: all].
    name: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let entries = match &args.name {
        Some(name) => std::slice::from_ref(method(name)?),
        None => methods(),
    };
    for entry in entries {
        println!("{}", entry.name);
        println!("  {}", entry.title);
        println!("  {}", entry.paper);
        println!("  reference  {}", entry.reference);
        let sizes = match entry.archs {
            [] => "those of its encoder".to_owned(),
            archs => archs.join(", "),
        };
        println!("  sizes      {sizes}");
        let recipes: Vec<_> = entry.recipes.iter().map(|(name, _)| *name).collect();
        println!("  recipes    {}", recipes.join(", "));
        println!("  status     {}", entry.status);
    }
    Ok(ExitCode::SUCCESS)
}
