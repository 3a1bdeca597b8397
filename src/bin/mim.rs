//! `mim`: pre-train, evaluate and look at masked image models.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use mim::methods::registry::Registry;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    mim::cli::main(Registry::default())
}
