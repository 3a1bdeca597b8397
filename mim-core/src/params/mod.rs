//! Named parameters: stores of all numbers that training changes.

mod checksum;
mod ema;
mod init;
mod load;
mod path;
mod redraw;
mod store;

pub use ema::{Ema, EmaStart, EmaTiming};
pub use init::{
    BeitInit, BootMaeInit, CaeInit, CapiInit, CmaeInit, ConvInit, Draw, FastMimInit, IJepaInit,
    IbotInit, Init, InitScheme, MaeInit, PixioInit, PointInit, PvtV2Init, SaimInit, SwinInit,
    TransformersInit,
};
pub use path::Params;
pub use store::{Kind, ParamStore};
