//! `mim completions` and `mim man`: the command line for shells and for `man`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap_complete::Shell;
use mim_core::{Error, Result};

/// Settings of `mim completions`.
#[derive(Debug, clap::Args)]
pub(crate) struct Completions {
    /// The shell.
    shell: Shell,
}

/// Prints the completion script of a shell.
pub(crate) fn complete(args: &Completions) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::command(), "mim", &mut script);
    print!("{}", String::from_utf8_lossy(&script));
    Ok(ExitCode::SUCCESS)
}

/// Settings of `mim man`.
#[derive(Debug, clap::Args)]
pub(crate) struct Man {
    /// Folder that gets one page per command [default: print the main page].
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,
}

/// Prints the manual, or writes its pages.
pub(crate) fn man(args: &Man) -> Result<ExitCode> {
    match &args.output_dir {
        Some(folder) => write_pages(folder)?,
        None => {
            let mut page = Vec::new();
            let rendered = clap_mangen::Man::new(super::command()).render(&mut page);
            rendered.map_err(Error::io("write", Path::new("the manual")))?;
            print!("{}", String::from_utf8_lossy(&page));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn write_pages(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    clap_mangen::generate_to(super::command(), folder).map_err(Error::io("write", folder))
}
