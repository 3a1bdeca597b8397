//! Named parameters: where every number that changes in training lives.

mod ema;
mod init;
mod path;
mod redraw;
mod store;

pub use ema::{Ema, EmaStart, EmaTiming};
pub use init::{
    BeitInit, BootMaeInit, CaeInit, CmaeInit, ConvInit, Draw, FastMimInit, IbotInit, Init,
    InitScheme, MaeInit, PvtV2Init, SaimInit, SwinInit, TransformersInit,
};
pub use path::Params;
pub use store::{Kind, ParamStore};
