//! `mim methods`.

use std::process::ExitCode;

use mim_core::Result;
use mim_methods::registry::METHODS;

pub(crate) fn run() -> Result<ExitCode> {
    for entry in METHODS {
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
