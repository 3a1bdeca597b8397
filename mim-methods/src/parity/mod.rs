//! Golden cases: numbers recorded from the authors' code, compared with the same forward as in pre-training.
//!
//! A case is a JSON file beside a safetensors file. The method is built from the case's `config`,
//! its weights renamed through the method's [`Source`]; every recorded output, gradient and stepped
//! parameter is compared.

pub(crate) mod attmask;
pub(crate) mod beit;
pub(crate) mod beitv2;
pub(crate) mod bootmae;
pub(crate) mod cae;
pub(crate) mod capi;
mod case;
pub(crate) mod cmae;
mod compare;
mod components;
pub(crate) mod convmae;
pub(crate) mod crossmae;
pub(crate) mod data2vec;
pub(crate) mod dbot;
mod derived;
pub(crate) mod dmjd;
pub(crate) mod eva;
pub(crate) mod fastmim;
mod find;
pub(crate) mod finetune;
mod hf_beit_mim;
pub(crate) mod i2pmae;
pub(crate) mod ibot;
pub(crate) mod ijepa;
pub(crate) mod mae;
pub(crate) mod maskfeat;
pub(crate) mod mcbeit;
pub(crate) mod milan;
pub(crate) mod mimco;
pub(crate) mod mimrefiner;
mod optimizer;
pub(crate) mod peco;
pub(crate) mod pixio;
mod problem;
mod report;
mod rounding;
mod run;
pub(crate) mod saim;
pub(crate) mod sdae;
pub(crate) mod semmae;
pub(crate) mod sim;
pub(crate) mod simmim;
mod stores;
mod tolerance;
mod trajectory;
mod variants;
pub(crate) mod vqkd;

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
