//! Golden cases: values recorded from the authors' code, compared with the forward pass of pre-training.
//!
//! A case is a JSON file and a safetensors file of the same name. The method is built from the case's `config`, and the
//! weights are renamed by the method's [`Source`]. Every recorded output, gradient and parameter after the step is
//! compared.

mod case;
mod compare;
mod components;
mod derived;
mod find;
pub mod golden;
mod optimizer;
mod problem;
mod report;
mod rounding;
mod run;
mod stores;
mod tolerance;
pub(crate) mod trajectory;
mod variants;

pub use case::Case;
pub use compare::Worst;
pub(crate) use components::none;
pub use components::{Given, Outputs};
pub use find::find;
pub use problem::{Problem, Result};
pub use report::{Report, Verdict};
pub use rounding::Rounding;
pub use run::{Extract, Overrides, Recorded, Setup, run, run_with};

pub(crate) use tolerance::DriftTolerance;
pub use tolerance::{Ignore, Rows, Tolerance};

#[cfg(doc)]
use mim_core::weights::Source;
