//! `mim parts`.

use std::process::ExitCode;

use clap::Args as Arguments;
use mim_core::parts::PartInfo;
use mim_core::{Error, Result, settings};
use mim_methods::registry::Registry;

/// Options of `mim parts`.
#[derive(Debug, Arguments)]
pub(crate) struct Args {
    /// Show only this: a part such as `random`, or a kind such as `masker` [default: all].
    name: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let protocols = mim_eval::protocols();
    let mut kinds = Registry::current().kinds().to_vec();
    kinds.push((protocols.kind(), protocols.infos().collect()));
    let wanted = |kind: &str, info: &PartInfo| match &args.name {
        Some(name) => name == kind || *name == info.name,
        None => true,
    };
    let mut found = 0;
    for (kind, infos) in &kinds {
        for info in infos.iter().filter(|info| wanted(kind, info)) {
            show(kind, info)?;
            found += 1;
        }
    }
    match &args.name {
        Some(name) if found == 0 => {
            let names = kinds.iter().flat_map(|(kind, infos)| {
                let names = infos.iter().map(|info| info.name.as_str());
                names.chain([*kind])
            });
            let fix = match settings::nearest(name, names) {
                Some(near) => format!("did you mean {near}? `mim parts` lists all"),
                None => "use one of the names that `mim parts` lists".to_owned(),
            };
            Err(Error::config(
                "mim parts",
                "NAME",
                name,
                "there is no such part",
                fix,
            ))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Prints a part and its settings as TOML.
fn show(kind: &str, info: &PartInfo) -> Result<()> {
    println!("{kind}.type = \"{}\"", info.name);
    println!("  {}", info.about);
    println!("  {}", info.paper);
    for (key, value) in info.defaults()? {
        match info.follows.contains(&key.as_str()) {
            true => println!("  {key}: set by the other parts of a composed method"),
            false => println!("  {key} = {value}"),
        }
    }
    Ok(())
}
